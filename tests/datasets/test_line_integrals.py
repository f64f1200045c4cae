"""Line integrals from counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ei.datasets import line_integrals
from ei.errors import InputError


def test_line_integrals_follow_beer_and_lambert() -> None:
    rng = np.random.default_rng(0)
    flat, dark = rng.uniform(900, 1100, (20, 1, 7)), rng.uniform(90, 110, (10, 1, 7))
    truth = rng.uniform(0, 3, (5, 1, 7)).astype(np.float32)
    counts = (flat.mean(0) - dark.mean(0)) * np.exp(-truth) + dark.mean(0)
    np.testing.assert_allclose(line_integrals(counts, flat, dark), truth, atol=1e-5)
    tensor = line_integrals(torch.from_numpy(counts), torch.from_numpy(flat), torch.from_numpy(dark))
    assert isinstance(tensor, torch.Tensor) and np.allclose(tensor.numpy(), truth, atol=1e-5)
    counts[0, 0, :2] = 0
    with pytest.warns(UserWarning, match="no photons at 2 of 35"):
        integrals = line_integrals(counts, flat, dark)
    assert np.isfinite(integrals).all() and (integrals[0, 0, :2] == integrals.max()).all()
    for wrong in ((counts, dark, flat), (counts, flat[:, :, :3], dark), (counts * np.nan, flat, dark)):
        with pytest.raises(InputError):
            line_integrals(*wrong)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_complex_counts_are_rejected(place: int) -> None:
    scan = [np.full(3, 50.0), np.full(3, 100.0), np.zeros(3)]
    scan[place] = scan[place].astype(complex)
    with pytest.raises(InputError, match="must be an array of real numbers, got complex ones"):
        line_integrals(*scan)
