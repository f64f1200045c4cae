"""A detector's noise from flats and darks: the bins. What is found in them is tested in tests/project."""

from __future__ import annotations

import numpy as np
import pytest

from ei.datasets.flats import detector_noise
from ei.datasets.scans import sinograms_of_counts
from ei.errors import InputError


def exposures(detectors: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.poisson(1e4 * rng.uniform(0.5, 1.5, detectors), (12, 3, detectors)), rng.normal(5, 1, (12, 3, detectors))


def test_the_bins_are_those_of_the_sinogram() -> None:
    """Both cut the rest at both ends: 60 detectors in bins of 7 are the detectors 2 to 57."""
    flat, dark = exposures()
    assert detector_noise(flat, dark, 7) == detector_noise(flat[..., 2:58], dark[..., 2:58], 7)
    assert detector_noise(flat, dark, 7) != detector_noise(flat[..., :56], dark[..., :56], 7)
    whole = sinograms_of_counts(0.5 * flat, flat, dark, 7)
    np.testing.assert_array_equal(whole, sinograms_of_counts(*(a[..., 2:58] for a in (0.5 * flat, flat, dark)), 7))


def test_bins_of_one_are_pixels() -> None:
    flat, dark = exposures()
    assert detector_noise(flat, dark) == detector_noise(flat, dark, 1)
    with pytest.raises(InputError, match="a bin of 61 detectors is larger than the 60"):
        detector_noise(flat, dark, 61)


@pytest.mark.parametrize(
    ("flat", "message"),
    [
        (np.ones((1, 3, 60)), "two or more exposures"),
        (np.full((4, 3, 60), np.nan), "--flat has values that are not finite"),
        (np.ones((4, 3, 50)), "of one detector, got"),
        (np.zeros((4, 3, 60)), "not brighter"),
        (np.full((4, 3, 60), 1e4), "are they averaged already"),
    ],
)
def test_exposures_that_are_rejected(flat: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        detector_noise(flat, exposures()[1])
