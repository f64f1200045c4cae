"""Images in one array."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ei.datasets import (
    ImageStack,
)
from ei.errors import InputError

RNG = np.random.default_rng(0)


DEEP = RNG.integers(0, 65536, (10, 8, 3), dtype=np.uint16)


def test_images_in_one_array(tmp_path: Path) -> None:
    values = RNG.normal(size=(10, 6, 7)).astype(np.float32)
    np.save(tmp_path / "x.npy", values)
    with pytest.raises(InputError, match=r"float32 values, from .* set value_range"):
        ImageStack(tmp_path / "x.npy")
    with pytest.warns(UserWarning, match="of 42 values"):
        test = ImageStack(tmp_path / "x.npy", "test", value_range=(-1, 1))
    assert len(test) == 1 and len(list(ImageStack(tmp_path / "x.npy", value_range=(-9, 9)))) == 9
    np.testing.assert_allclose(test[0][0], ((values[9] + 1) / 2).clip(0, 1), atol=1e-6)
    np.savez(tmp_path / "x.npz", x=DEEP[:, None], y=values)
    assert torch.equal(ImageStack(tmp_path / "x.npz", "train")[3], torch.from_numpy(DEEP[3][None] / 65535).float())
    for bad, message in (
        (values[0], r"\[6, 7\]"), (np.full_like(values, np.inf), "image 0 .* not finite"),
        (np.zeros((3, 6, 7, 4)), "move the channels behind n"),
    ):  # fmt: skip
        np.save(tmp_path / "bad.npy", bad)
        with pytest.raises(InputError, match=message):
            ImageStack(tmp_path / "bad.npy", value_range=(0, 1))
