"""K-space: complex files, coil maps, what cannot be used."""

from __future__ import annotations

import torch
from makers import scan, smooth_maps

from ei.common.complex import magnitude
from ei.datasets.kspace import kspace_of, low_resolution_maps


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
