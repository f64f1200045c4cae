"""A detector's noise from what it counts without an object and without a beam, by the mean-variance method (Janesick,
"Photon transfer", 2007)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ei.datasets.scans import bin_detectors
from ei.errors import InputError


@dataclass(frozen=True)
class DetectorNoise:
    """The noise of counts ``gain * Poisson + offset + sigma N``."""

    gain: float  # counts that a photon (or whatever is counted) adds; above zero
    gain_error: float  # its standard error
    sigma: float  # standard deviation of the read-out, in counts
    photons: float  # how many reach a pixel without an object, in the mean
    drift: float  # standard deviation of the flats' brightness, as a part of it; it is taken out

    @property
    def of_counts(self) -> str:
        """For ``--noise``, of counts above dark."""
        return f"poisson-gaussian:{self.gain:.4g},{self.sigma:.4g}"

    @property
    def of_line_integrals(self) -> str:
        """For ``--noise``, of ``-log((counts - dark) / (flat - dark))``."""
        return f"transmission:{self.photons:.4g},{self.sigma / self.gain:.4g}"


def detector_noise(flat: np.ndarray, dark: np.ndarray, n: int = 1) -> DetectorNoise:
    """Gain and read-out noise. Of counts, variance grows with the mean: ``var(flat) - var(dark) = gain * (mean(flat) -
    mean(dark))``, pixel by pixel over repeated exposures, so that a pattern of the pixels does not matter.

    Args:
        flat, dark: several exposures each, ``[n, ..., D]``, of the same pixels.
        n: neighbouring detectors (along the last axis) that are averaged first (`ei.datasets.scans.bin_detectors`): a
            detector that blurs has less noise in bins than independent pixels would have.

    Raises:
        InputError: for arrays that do not fit, are not finite, or do not show the noise of counts.
    """
    bright = bin_detectors(_exposures("flat", flat), n, axis=-1)
    black = bin_detectors(_exposures("dark", dark), n, axis=-1)
    if bright.shape[1:] != black.shape[1:]:
        raise InputError(
            f"--flat and --dark must be of one detector, got {list(flat.shape[1:])} and {list(dark.shape[1:])}"
        )
    bright = bright - black.mean(0)
    brightness = bright.reshape(len(bright), -1).mean(1)
    if brightness.min() <= 0:
        raise InputError("the flats are not brighter than the darks: check which is which")
    pixels, pattern = bright[0].size, bright.mean(0) / brightness.mean()
    if pixels == 1:
        raise InputError("one pixel does not separate its noise from the beam's drift: give exposures of two or more")
    # What varies beside an exposure's brightness. That has the noise of the pixels, too, a part of which goes with it.
    variance = (bright - brightness.reshape(-1, *[1] * pattern.ndim) * pattern).var(0, ddof=1)
    of_counts = pattern - pattern**2 / pixels
    of_readout = 1 - (2 * pattern - pattern**2) / pixels
    readout = black.var(0, ddof=1).mean()
    excess = variance.mean() - of_readout.mean() * readout
    if excess <= 0:
        raise InputError(
            f"the variance of the flats must be larger than that of the darks, got {variance.mean():.3g} "
            f"and {readout:.3g}: are they averaged already?"
        )
    scale = brightness.mean() * of_counts.mean()
    gain = excess / scale
    expected = gain * brightness.mean() * of_counts + readout * of_readout
    # Of independent Gaussian pixels, or more where their scatter is larger, as of pixels that flicker.
    of_flats = 2 * (expected**2).mean() / ((len(bright) - 1) * (pixels - 1))
    scatter = (variance - expected).var(ddof=1) / pixels
    of_darks = 2 * readout**2 / ((len(black) - 1) * pixels)
    error = (max(of_flats, scatter) + of_darks) ** 0.5 / scale
    return DetectorNoise(
        float(gain),
        float(error),
        float(readout**0.5),
        float(brightness.mean() / gain),
        float(brightness.std() / brightness.mean()),
    )


def _exposures(name: str, array: np.ndarray) -> np.ndarray:
    values = np.asarray(array)
    if values.dtype.kind not in "fiub" or values.ndim < 2 or len(values) < 2:
        raise InputError(
            f"--{name} must hold two or more exposures [n, ..., detectors] of real numbers, whose differences are the "
            f"noise; got {values.dtype} {list(values.shape)}"
        )
    if not np.isfinite(values).all():
        raise InputError(f"--{name} has values that are not finite; correct or remove them")
    return values.astype(np.float64)
