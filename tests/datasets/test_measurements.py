"""Measurements in files."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from torch.utils.data import DataLoader

from ei.datasets import (
    Measurements,
)
from ei.errors import InputError, MissingFileError


def write(path: Path, array: np.ndarray) -> Path:
    """``array`` under the format of the path's ending."""
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez(path, y=array, angles=np.arange(3))
    elif path.suffix == ".pt":
        torch.save({"y": torch.from_numpy(array)}, path)
    elif path.suffix == ".mat":
        scipy.io.savemat(path, {"sinograms": array})
    else:
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            file["y"] = array
    return path


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt", ".mat", ".h5"])
@pytest.mark.parametrize("shape", [(5, 7, 4), (5, 2, 7, 4)])
def test_formats(tmp_path: Path, suffix: str, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).random(shape).astype(np.float32)
    found = Measurements(write(tmp_path / f"y{suffix}", array))
    assert len(found) == 5 and found.channels == (len(shape) == 4)
    whole = np.stack([found[i].numpy() for i in range(5)])
    np.testing.assert_array_equal(whole, array if found.channels else array[:, None])
    again = pickle.loads(pickle.dumps(found))  # as a worker gets it
    assert torch.equal(again[3], found[3])


def test_a_folder_of_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    one, several = rng.random((7, 4)).astype(np.float32), rng.random((3, 7, 4)).astype(np.float32)
    write(tmp_path / "b.npy", one)
    write(tmp_path / "a.pt", several)
    (tmp_path / "notes.txt").write_text("not measured")
    found = Measurements(tmp_path)
    assert len(found) == 4
    np.testing.assert_array_equal(torch.stack(list(found))[:, 0].numpy(), np.concatenate([several, one[None]]))
    assert next(iter(DataLoader(found, batch_size=4, num_workers=2)))[3].shape == (1, 7, 4)


def test_matlab_7_3(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    array = np.random.default_rng(0).random((5, 7, 4)).astype(np.float32)
    with h5py.File(tmp_path / "y.mat", "w", userblock_size=512) as file:
        file["y"] = array.T  # Matlab stores columns first
    with open(tmp_path / "y.mat", "r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    found = Measurements(tmp_path / "y.mat")
    np.testing.assert_array_equal(torch.stack(list(found))[:, 0].numpy(), array)


def test_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    """A file of a terabyte opens at once (it has holes), and a measurement in it is read."""
    shape = (4_000_000, 512, 128)
    array = np.lib.format.open_memmap(tmp_path / "y.npy", "w+", np.float32, shape)
    array[3_999_999] = 1
    del array
    if os.stat(tmp_path / "y.npy").st_blocks * 512 > 1 << 30:
        pytest.skip("this file system has no holes")
    found = Measurements(tmp_path / "y.npy")
    assert len(found) == shape[0] and float(found[3_999_999].mean()) == 1


def test_wrong_measurements(tmp_path: Path) -> None:
    good = np.zeros((3, 7, 4), np.float32)
    wrong: dict[str, tuple[Any, str]] = {
        "flat.npy": (np.zeros(9), r"must have shape .*, got \[9\]"),
        "text.npy": (np.full((3, 7, 4), "a"), "numbers"),
        "nan.npy": (np.where(np.arange(3)[:, None, None] == 1, np.nan, good), "measurement 1 .* not finite"),
    }
    for name, (array, message) in wrong.items():
        np.save(tmp_path / name, array)
        with pytest.raises(InputError, match=message):
            list(Measurements(tmp_path / name))
    np.savez(tmp_path / "names.npz", a=good, b=good)
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY nothing of the kind")
    (tmp_path / "y.csv").write_text("1,2")
    for name, message in {
        "names.npz": "name the measurements 'y'",
        "broken.npy": "damaged",
        "y.csv": r"got \[2\]",
    }.items():
        with pytest.raises(InputError, match=message):
            Measurements(tmp_path / name)
    with pytest.raises(InputError, match=r"must have shape \[n, ...\] of \[7, 5\] each, got \[3, 7, 4\]"):
        np.save(tmp_path / "good.npy", good)
        Measurements(tmp_path / "good.npy", (7, 5))
    (tmp_path / "empty").mkdir()
    for missing in ("empty", "nowhere.npy"):
        with pytest.raises(MissingFileError):
            Measurements(tmp_path / missing)


class Evil:
    def __reduce__(self) -> tuple:
        return os.system, ("echo evil",)


def test_measurements_never_run_code(tmp_path: Path) -> None:
    torch.save({"y": Evil()}, tmp_path / "y.pt")
    np.save(tmp_path / "y.npy", np.array([Evil()]), allow_pickle=True)
    for name in ("y.pt", "y.npy"):
        with pytest.raises(InputError):
            Measurements(tmp_path / name)


def test_complex_files(tmp_path: Path) -> None:
    k = (np.arange(240).reshape(5, 6, 8) * (1 + 2j)).astype(np.complex64)
    np.save(tmp_path / "k.npy", k)
    plain, parts = Measurements(tmp_path / "k.npy"), Measurements(tmp_path / "k.npy", (2, 6, 8))
    assert plain[1].dtype == torch.complex64 and plain[1].shape == (1, 6, 8) and not plain.parts
    assert parts.parts and torch.equal(parts[1], torch.stack([plain[1][0].real, plain[1][0].imag]))
    assert torch.equal(Measurements(tmp_path / "k.npy", parts=True)[1], parts[1])
    np.save(tmp_path / "pair.npy", k.reshape(5, 2, 3, 8))  # complex with an axis of two of its own
    assert Measurements(tmp_path / "pair.npy", (2, 3, 8))[0].is_complex()
    with pytest.raises(InputError, match=r"\[2, 6, 9\] each.* complex"):
        Measurements(tmp_path / "k.npy", (2, 6, 9))
    np.save(tmp_path / "r.npy", k.real)
    with pytest.raises(InputError, match="some are real"):
        Measurements(tmp_path)


def test_slices_of_a_stack(tmp_path: Path) -> None:
    array = np.arange(10 * 4 * 3, dtype=np.float32).reshape(10, 4, 3)
    array[2, 0, 0] = np.nan
    np.save(tmp_path / "y.npy", array)
    some = Measurements(tmp_path / "y.npy", slices="1:8:3")
    assert len(some) == 3 and some.slices == range(1, 8, 3) and some.files == [tmp_path / "y.npy"]
    for index, number in enumerate((1, 4, 7)):
        np.testing.assert_array_equal(some[index][0], array[number])
    assert [some.name_of(index) for index in range(3)] == ["00001", "00004", "00007"]
    with pytest.raises(IndexError):
        some[3]
    with pytest.raises(InputError, match=r"measurement 2 of .* finite"):  # its number in the stack
        Measurements(tmp_path / "y.npy", slices="1:3")[1]
    assert list(Measurements(tmp_path / "y.npy", slices="7:").slices) == [7, 8, 9]
    assert list(Measurements(tmp_path / "y.npy", slices=":2").slices) == [0, 1]
    assert len(Measurements(tmp_path / "y.npy")) == 10


def test_slices_of_several_files(tmp_path: Path) -> None:
    for name in ("a_2", "a_10"):
        np.save(tmp_path / f"{name}.npy", np.full((3, 4, 3), float(name[2:])))
    some = Measurements(tmp_path, slices="2:6:2")
    assert [float(item.mean()) for item in (some[0], some[1])] == [2, 10]
    assert [some.name_of(index) for index in range(2)] == ["a_2_00002", "a_10_00001"]


@pytest.mark.parametrize("text", ["3:11", "5:5", "10:", "0:5:0", "5", "a:b", "-3:", 3, "0:1:2:3", ""])
def test_slices_outside_the_stack(tmp_path: Path, text: str) -> None:
    np.save(tmp_path / "y.npy", np.zeros((10, 4, 3)))
    with pytest.raises(InputError, match=r"stack of 10 measurements of .*y.npy|slices must be A:B or A:B:S") as found:
        Measurements(tmp_path / "y.npy", slices=text)
    assert "\n" not in str(found.value)


def test_slices_of_an_array_in_hdf5(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    array = np.random.default_rng(0).random((6, 4, 3)).astype(np.float32)
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["exchange/data"] = array
        file["exchange/data_white"] = array[:1]
    some = Measurements(f"{tmp_path / 'scan.h5'}:exchange/data", slices="2:6:3")
    np.testing.assert_array_equal(some[1][0], array[5])


def test_bins_of_detectors(tmp_path: Path) -> None:
    array = np.random.default_rng(0).random((2, 7, 3)).astype(np.float32)
    np.save(tmp_path / "y.npy", array)
    item = Measurements(tmp_path / "y.npy", bin=3)[1]
    assert item.shape == (1, 2, 3) and item.dtype == torch.float32
    np.testing.assert_allclose(item[0], array[1, :6].reshape(2, 3, 3).mean(1), rtol=1e-6)
