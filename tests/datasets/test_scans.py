"""From counts to sinograms."""

from __future__ import annotations

import numpy as np
import pytest

from ei.datasets.scans import bin_detectors, sinograms_of_counts
from ei.errors import InputError


def test_bins_cut_the_rest_at_both_ends() -> None:
    array = np.arange(42.0).reshape(7, 6)
    np.testing.assert_array_equal(bin_detectors(array, 3, 0), [array[:3].mean(0), array[3:6].mean(0)])
    np.testing.assert_array_equal(bin_detectors(array, 5, -2), [array[1:6].mean(0)])
    np.testing.assert_array_equal(bin_detectors(array, 4, -1)[:, 0], array[:, 1:5].mean(1))
    np.testing.assert_array_equal(bin_detectors(array, 1, 1), array)
    for wrong in (8, 0, 1.5, "two"):
        with pytest.raises(InputError, match="bin"):
            bin_detectors(array, wrong, 0)


def test_as_many_flats_as_views_are_averaged() -> None:
    """Each was taken as that of its view, and put its noise into the sinogram."""
    rng = np.random.default_rng(0)
    counts, flat, dark = rng.uniform(500, 900, (6, 5)), rng.uniform(900, 1100, (6, 5)), rng.uniform(0, 10, (6, 5))
    expected = -np.log((counts - dark.mean(0)) / (flat.mean(0) - dark.mean(0)))
    np.testing.assert_allclose(sinograms_of_counts(counts, flat, dark)[0], expected.T, rtol=1e-5)
    np.testing.assert_allclose(sinograms_of_counts(counts, flat.mean(0), dark)[0], expected.T, rtol=1e-5)
    rows = [array[:, None].repeat(2, 1) for array in (counts, flat, dark)]  # [V, rows, D], [n, rows, D]
    np.testing.assert_allclose(sinograms_of_counts(*rows), np.stack([expected.T] * 2), rtol=1e-5)
