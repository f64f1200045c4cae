"""A detector's noise from flats and darks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Result
from makers import sinograms_of_counts

from ei.datasets.flats import detector_noise
from ei.errors import InputError

Script = Callable[..., Result]


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


@pytest.mark.parametrize(
    ("flat", "dark", "message"),
    [
        (np.ones((4, 3, 60)), np.ones((1, 3, 60)), "--dark must hold two or more"),
        (1j * np.ones((4, 3, 60)), np.ones((4, 3, 60)), "complex128"),
    ],
)
def test_darks_and_kinds_that_are_rejected(flat: np.ndarray, dark: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        detector_noise(flat, dark)


def simulated_exposures(
    gain: float, sigma: float, photons: float, drift: float = 0.0, frames: int = 40
) -> tuple[np.ndarray, ...]:
    """Flats and darks ``[n, 8, 60]`` of pixels that differ by a tenth, with an offset."""
    rng = np.random.default_rng(0)
    expected = photons * rng.uniform(0.9, 1.1, (8, 60)) * (1 + drift * rng.standard_normal((frames, 1, 1)))
    offset = rng.uniform(90, 110, (8, 60))
    flat = gain * rng.poisson(expected) + offset + sigma * rng.standard_normal((frames, 8, 60))
    return flat, offset + sigma * rng.standard_normal((frames, 8, 60))


@pytest.mark.parametrize(("gain", "sigma", "drift"), [(0.65, 3.0, 0.0), (5.0, 20.0, 0.01), (0.02, 0.1, 0.05)])
def test_gain_and_read_out_are_found(gain: float, sigma: float, drift: float) -> None:
    """Whatever the pattern of the pixels is, and though the beam varies."""
    found = detector_noise(*simulated_exposures(gain, sigma, 1e4, drift))
    assert abs(found.gain - gain) < 4 * found.gain_error and found.gain_error < 0.02 * gain
    assert found.sigma == pytest.approx(sigma, rel=0.03) and found.photons == pytest.approx(1e4, rel=0.1)
    assert found.drift == pytest.approx(drift, rel=0.4, abs=2e-3)
    name, numbers = found.of_line_integrals.split(":")
    assert name == "transmission" and [float(n) for n in numbers.split(",")] == pytest.approx(
        [found.photons, found.sigma / found.gain], rel=1e-3
    )


@pytest.mark.parametrize(
    ("pixels", "flats", "darks", "photons", "sigma"),
    [(2, 40, 40, 200, 3.0), (3, 20, 20, 200, 20.0), (4, 20, 20, 4, 0.5), (8, 5, 5, 200, 3.0), (60, 12, 12, 200, 3.0)],
)
def test_the_gain_is_unbiased_and_its_error_covers_it(
    pixels: int, flats: int, darks: int, photons: float, sigma: float
) -> None:
    """Of 1000 simulated detectors of few pixels, under a beam that varies by 5 %, the mean gain is 2, and 2 standard
    errors reach it as often as those of so few exposures can."""
    rng = np.random.default_rng(1)
    expected = photons * np.linspace(0.5, 1.5, pixels)
    beam = 1 + 0.05 * rng.standard_normal((1000, flats, 1))
    bright = 2.0 * rng.poisson(expected * beam) + 100 + sigma * rng.standard_normal((1000, flats, pixels))
    black = 100 + sigma * rng.standard_normal((1000, darks, pixels))
    found = [detector_noise(*arrays) for arrays in zip(bright, black, strict=True)]
    gains, errors = (np.array([getattr(noise, name) for noise in found]) for name in ("gain", "gain_error"))
    assert abs(gains.mean() - 2.0) < 3 * gains.std() / 1000**0.5
    assert (errors**2).mean() ** 0.5 == pytest.approx(gains.std(), rel=0.15)
    assert (abs(gains - 2.0) < 2 * errors).mean() > 0.9


def test_one_pixel_does_not_tell_noise_from_drift() -> None:
    with pytest.raises(InputError, match="two or more"):
        detector_noise(*(array[:, :1, :1] for array in exposures()))


def test_bins_are_measured_as_bins() -> None:
    """Means of independent detectors have half the gain and read-out variance; of detectors that see the same, all."""
    flat, dark = simulated_exposures(0.65, 3.0, 1e4)
    found = detector_noise(flat, dark, 2)
    assert found.gain == pytest.approx(0.325, rel=0.05) and found.sigma == pytest.approx(3 / 2**0.5, rel=0.03)
    doubled = detector_noise(flat.repeat(2, -1), dark.repeat(2, -1), 2)
    assert doubled.gain == pytest.approx(detector_noise(flat, dark).gain)


def test_the_flats_of_the_tooth(shared_data: Path, script: Script) -> None:
    pytest.importorskip("h5py")
    file = shared_data / "tooth.h5"
    done = script(
        "ei prepare", "noise", "--flat", f"{file}:exchange/data_white", "--dark", f"{file}:exchange/data_dark"
    )
    assert done.code == 0 and "gain                   0.651" in done.out, done
