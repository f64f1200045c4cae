"""CT100 and other Matlab files."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import torch
from makers import write_mat

from ei.datasets import (
    CTData,
)


def test_ct_splits_nine_to_one(tmp_path: Path) -> None:
    path = write_mat(tmp_path / "ct.mat", n=100, side=4)
    data = scipy.io.loadmat(path)["DATA"]
    train, test = CTData("train", path), CTData("test", str(path))
    assert (len(train), len(test)) == (90, 10)
    assert train[0].shape == (4, 4) and train[0].dtype == torch.float32
    assert np.array_equal(train[89], data[89]) and np.array_equal(test[0], data[90])


def test_matlab_73_files(tmp_path: Path) -> None:
    data = np.random.default_rng(0).random((10, 4, 6))
    with h5py.File(tmp_path / "ct.mat", "w", userblock_size=512) as file:
        file["DATA"] = data.T  # as Matlab stores it
    with open(tmp_path / "ct.mat", "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    assert np.allclose(CTData("train", tmp_path / "ct.mat")[3], data[3])


@pytest.mark.parametrize(
    ("arrays", "names"),
    [
        ({"OTHER": np.zeros((4, 4)), "MORE": np.zeros(4)}, ["DATA", "OTHER [4, 4], MORE [1, 4]"]),
        ({"DATA": np.zeros((4, 4))}, ["[n, H, W]", "[4, 4]"]),
        ({"DATA": np.full((4, 4, 4), np.nan)}, ["image 0", "not finite"]),
        ({"DATA": np.zeros((4, 4, 4)) + 1j}, ["real", "complex"]),
        ({"DATA": np.zeros((1, 4, 4))}, ["at least 2"]),
    ],
)
def test_bad_mat_files(tmp_path: Path, arrays: dict, names: list[str]) -> None:
    path = write_mat(tmp_path / "ct.mat", **arrays)
    with pytest.raises(ValueError) as error:
        CTData("train", path)
    assert all(name in str(error.value) for name in [*names, str(path)])


def test_missing_and_damaged_mat_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"CT100_128x128\.mat"):
        CTData("train", tmp_path / "CT100_128x128.mat")
    with pytest.raises(ValueError, match="folder"):
        CTData("train", tmp_path)
    whole = write_mat(tmp_path / "ct.mat").read_bytes()
    for content in (b"", b"not a mat file", whole[:200], whole[: len(whole) // 2]):
        (tmp_path / "bad.mat").write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.mat"):
            CTData("train", tmp_path / "bad.mat")
    with pytest.raises(ValueError, match="mode"):
        CTData("validation", write_mat(tmp_path / "ct.mat"))


def test_real_ct(shared_data: Path) -> None:
    assert len(CTData("test", shared_data / "CT100_128x128.mat")) == 10
