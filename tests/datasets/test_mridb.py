"""MR images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ei.datasets import (
    MagnitudePhantoms,
    MRIData,
)
from ei.errors import InputError, MissingFileError


def write_images(folder: Path, height: int = 16, width: int = 24) -> None:
    images = np.random.default_rng(0).random((20, height, width)).astype(np.float32)
    np.savez(folder / "images.npz", images=images)


def test_images(tmp_path: Path) -> None:
    write_images(tmp_path)
    train, test = (MRIData(mode, tmp_path / "images.npz") for mode in ("train", "test"))
    assert (len(train), len(test)) == (18, 2) and train[0].shape == (2, 16, 24) and train[0].dtype == torch.float32
    with np.load(tmp_path / "images.npz") as file:
        np.testing.assert_array_equal(test[1][0], file["images"][19])
        np.save(tmp_path / "complex.npy", file["images"] * (1 + 2j))
        np.savez(tmp_path / "two.npz", a=file["images"], b=file["images"])
        np.save(tmp_path / "flat.npy", file["images"][0])
        np.save(tmp_path / "nan.npy", np.where(np.arange(20)[:, None, None] == 3, np.nan, file["images"]))
    assert not bool(train[0][1].any())
    torch.testing.assert_close(MRIData("train", tmp_path / "complex.npy")[0][1], 2 * train[0][0])
    (tmp_path / "broken.npz").write_bytes(b"nothing of the kind")
    for name, said in (
        ("two.npz", "a, b"),
        ("flat.npy", "[n, H, W]"),
        ("nan.npy", "image 3"),
        ("broken.npz", "damaged"),
    ):
        with pytest.raises(InputError) as error:
            MRIData("train", tmp_path / name)
        assert said in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(MissingFileError, match=r"none\.npz"):
        MRIData("train", tmp_path / "none.npz")
    made = MagnitudePhantoms("test", img_size=16)
    assert made[0].shape == (2, 16, 16) and float(made[0][0].max()) == 1 and not bool(made[0][1].any())
