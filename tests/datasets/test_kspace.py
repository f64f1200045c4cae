"""K-space: complex files, coil maps, what cannot be used."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from makers import scan, smooth_maps

from ei.common.complex import magnitude
from ei.datasets.kspace import kspace_of, low_resolution_maps, prepare_kspace, read_kspace
from ei.errors import InputError


def test_maps_from_the_middle() -> None:
    """The true ones where there is something to see, up to the phase that the image has in low resolution."""
    k, x = scan(64, 6)
    y, mask = kspace_of(k)
    maps, used = low_resolution_maps(y, mask)
    assert used == (24, 11)
    torch.testing.assert_close(torch.linalg.vector_norm(maps, dim=0), torch.ones(64, 64))
    object_ = magnitude(x)[0, 0] > 0.4
    true = smooth_maps(6, 64).to(torch.complex64)
    same = (maps.conj() * true).sum(0).abs()[object_]
    assert float(same.mean()) > 0.98


def test_the_first_of_three_axes(tmp_path: Path) -> None:
    """Slices of one coil were taken for coils of one slice, in silence."""
    k = scan(32, 3)[0][0]  # of three coils
    with pytest.warns(UserWarning, match=r"3 coils of one slice; slices of one coil must have shape \[3, 1, 32, 32\]"):
        assert kspace_of(k)[0].shape == (1, 3, 32, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kspace_of(k, "coils")[0].shape == kspace_of(k[None])[0].shape == (1, 3, 32, 32)
        assert kspace_of(k, "slices")[0].shape == (3, 1, 32, 32) and kspace_of(k[:1])[0].shape == (1, 1, 32, 32)
    with pytest.raises(InputError, match="must be one of 'coils', 'slices'"):
        kspace_of(k, "echoes")


def test_files_of_fastmri(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    k = scan(32, 3, 2)[0]
    for name, array in (("multi", k), ("single", k[:, 0])):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["kspace"] = array
            file["reconstruction"] = np.abs(array)
    np.save(tmp_path / "k.npy", k[0])
    np.testing.assert_array_equal(read_kspace(tmp_path / "multi.h5"), k)
    np.testing.assert_array_equal(read_kspace(f"{tmp_path / 'single.h5'}:kspace"), k[:, :1])
    np.testing.assert_array_equal(read_kspace(tmp_path / "k.npy"), k[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y, _, used = prepare_kspace(read_kspace(tmp_path / "single.h5"), tmp_path / "y.npz")
    assert y.shape == (2, 32, 32) and used is None


def test_kspace_of_zeros_measures_nothing() -> None:
    with pytest.raises(InputError, match="zero everywhere"):
        kspace_of(np.zeros((2, 1, 8, 8), np.complex64))
