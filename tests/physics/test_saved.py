"""Masks and coil maps in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image

import ei
from ei.errors import InputError

RNG = np.random.default_rng(0)


MASK = RNG.integers(0, 2, (6, 9)).astype(np.uint8)


def write_mask(path: Path, kind: str) -> Any:
    """MASK as other programs keep it; what is to be given as the mask."""
    if kind == "array":
        return MASK.astype(bool)
    if kind in (".npy", "255"):
        np.save(path.with_suffix(".npy"), MASK * (255 if kind == "255" else 1))
        return path.with_suffix(".npy")
    if kind == ".npz":
        np.savez(path.with_suffix(".npz"), mask=MASK, other=np.zeros(3))
        return str(path.with_suffix(".npz"))
    if kind == ".mat":
        scipy.io.savemat(path.with_suffix(".mat"), {"mask": MASK.astype(float)})
        return path.with_suffix(".mat")
    if kind in ("dict", "dict of an array", "saved array"):
        content = {"mask": torch.from_numpy(MASK)[None, None], "seed": 3} if kind == "dict" else MASK
        torch.save({"mask": content} if kind == "dict of an array" else content, path.with_suffix(".pt"))
        return path.with_suffix(".pt")
    picture = Image.fromarray(MASK * 255)
    modes = {"bits": "1", "gray": "L", "colour": "RGB", "palette": "P", "transparent": "RGBA"}
    picture = Image.fromarray(MASK.astype(np.uint16) * 65535) if kind == "deep" else picture.convert(modes[kind])
    picture.save(path.with_suffix(".png"))
    return path.with_suffix(".png")


@pytest.mark.filterwarnings("ignore:the mask .* holds numbers of NumPy")
@pytest.mark.parametrize("kind", ["array", ".npy", "255", ".npz", ".mat", "dict", "dict of an array", "saved array",
                                  "bits", "gray", "colour", "palette", "transparent", "deep"])  # fmt: skip
def test_masks_of_others(tmp_path: Path, kind: str) -> None:
    source = write_mask(tmp_path / "mask", kind)
    for physics in (ei.physics.Inpainting(6, 9, mask=source), ei.physics.MRI(source)):
        assert physics.mask.dtype == torch.float32 and torch.equal(physics.mask, torch.from_numpy(MASK).float())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gray.png", MASK * 100, "or 0 and 255, not values from 0 to 100"),
        ("colour.png", np.stack([MASK * 255, MASK * 0, MASK], -1), "in colour"),
        ("cut.png", b"\x89PNG\r\n", "damaged"),
        ("names.npz", {"a": MASK, "b": MASK}, "a, b: name the mask 'mask'"),
        ("keys.pt", {"a": torch.ones(6, 9), "b": torch.ones(1)}, r"holds a \[6, 9\], b \[1\]: name the mask 'mask'"),
        ("text.pt", ["text"], "must hold a tensor or a dict of tensors, got a list"),
        ("complex.npy", MASK + 1j, "complex"),
        ("nan.npy", np.where(MASK, np.nan, 0), "not values from nan to nan"),
        ("gone.png", None, "there is no mask"),
    ],
)
def test_masks_that_are_refused(tmp_path: Path, name: str, content: Any, message: str) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif path.suffix == ".npz":
        np.savez(path, **content)
    elif path.suffix == ".pt":
        torch.save(content, path)
    elif path.suffix == ".npy":
        np.save(path, content)
    elif content is not None:
        Image.fromarray(content).save(path)
    for make in (lambda: ei.physics.Inpainting(6, 9, mask=path), lambda: ei.physics.MRI(path)):
        with pytest.raises(InputError, match=message) as error:
            make()
        assert "\n" not in str(error.value) and (name in str(error.value))


def test_a_mask_as_a_list() -> None:
    """As a file of --physics may write it; anything else is refused in a line."""
    assert torch.equal(ei.physics.MRI([1, 0, 1, 1]).mask, torch.tensor([1.0, 0, 1, 1]))
    assert torch.equal(ei.physics.Inpainting(2, 2, mask=[[1, 0], [1, 1]]).mask, torch.tensor([[1.0, 0], [1, 1]]))
    for wrong in ([[1, 0], [1]], ["a"], 5, None):
        with pytest.raises(InputError, match="must be a tensor, an array or a list of numbers, or the path of one"):
            ei.physics.MRI(wrong)  # type: ignore[arg-type]
