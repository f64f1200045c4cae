"""Inpainting: random masks, masks from tensors and files, legacy arguments."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ei.errors import InputError
from ei.physics import Inpainting


def test_mask_rate_is_what_is_removed() -> None:
    mask = Inpainting(64, 48, mask_rate=0.3).mask
    assert int((mask == 0).sum()) == 922  # of 921.6: to the nearest whole number
    assert torch.equal(mask, Inpainting(64, 48, mask_rate=0.3).mask)
    assert not torch.equal(mask, Inpainting(64, 48, mask_rate=0.3, seed=1).mask)
    assert Inpainting(64, 48, mask_rate=0).mask.all()
    assert Inpainting(2, 2, mask_rate=0.99).mask.sum() == 1


def test_mask_from_tensor_and_file(tmp_path) -> None:
    mask = (torch.rand(6, 7) > 0.5).float()
    mask[0, 0] = 1
    torch.save(mask[None, None], tmp_path / "mask.pt")
    for given in (mask, mask.bool(), mask.numpy() > 0, tmp_path / "mask.pt", str(tmp_path / "mask.pt")):
        if isinstance(given, np.ndarray):
            given = torch.from_numpy(given)
        assert torch.equal(Inpainting(6, 7, mask=given).mask, mask)
    mask_again = Inpainting(6, 7, mask=mask)
    mask.zero_()
    assert mask_again.mask.any()  # a copy was made


def test_the_legacy_spelling_of_img_height() -> None:
    physics = Inpainting(img_heigth=6, img_width=7, mode="random", mask_rate=0.5, resize=True, device="cpu")
    assert physics.image_shape == (6, 7)
    with pytest.raises(TypeError, match="colour"):
        Inpainting(6, 7, colour=True)
    with pytest.raises(InputError, match="img_width must be a whole number >= 1, got None"):
        Inpainting(6)


def test_the_authors_mask(shared_data) -> None:
    assert int(Inpainting(256, 256, mask=shared_data / "mask_random0.3.pt").mask.sum()) == 45827


@pytest.mark.parametrize("masks", [1, 2])
def test_a_mask_for_other_channels_raises(masks: int) -> None:
    physics = Inpainting(8, 8, mask=torch.ones(masks, 3, 8, 8))
    with pytest.raises(InputError, match="images for Inpainting must have the mask's 3 channels, got 1"):
        physics.of(range(masks)).A(torch.rand(masks, 1, 8, 8))
    assert physics.of(range(masks)).A(torch.rand(masks, 3, 8, 8)).shape == (masks, 3, 8, 8)


def test_sizes_from_measurements() -> None:
    assert Inpainting.sizes_from_measurement((3, 6, 7), mask="mask.pt") == {"img_height": 6, "img_width": 7}
    with pytest.raises(InputError, match="need the mask they were made with"):
        Inpainting.sizes_from_measurement((3, 6, 7), mask_rate=0.3)
    with pytest.raises(InputError, match=r"\[C, H, W\], got \[6, 7\]"):
        Inpainting.sizes_from_measurement((6, 7), mask="mask.pt")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"img_height": 2.5}, "img_height must be a whole number >= 1, got 2.5"),
        ({"mask_rate": True}, "mask_rate .* must be finite and >= 0 and < 1, got True"),
        ({"mask_rate": "0.3"}, "mask_rate .* got '0.3'"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"img_heigth": 4}, "legacy spelling"),
    ],
)
def test_arguments_out_of_range(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Inpainting(**{"img_height": 4, "img_width": 4, **arguments})
