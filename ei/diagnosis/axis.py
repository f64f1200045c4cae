"""Where the rotation axis of a measured scan falls on its detector."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ei.diagnosis.coarse import unexplained
from ei.physics.scan import Scan

# Residuals that differ by less than this factor do not decide between two geometries. On the real scans of Helsinki
# 2022, tomopy's tooth and ToMoBAR's dendrite the right reading of the angles is better than any other by 1.12 to 8.
BETTER = 1.1


def outer_detectors(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last detectors of a sinogram ``[D, V]``, one in a hundred at either end."""
    outer = max(1, round(0.01 * len(y)))
    return y[:outer], y[-outer:]


def moments(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centroid (bins from the middle) and squared width of every view of a sinogram ``[D, V]``.

    Where the beam is weaker than in the flats, all line integrals are larger by the same number, and where it drifts,
    all of a view are. That number has no first moment, so centroids are quotients of the first moments and of one sum
    for all views, above what is measured beside the object.
    """
    y = y - np.median(np.concatenate(outer_detectors(y)))
    place = np.arange(len(y)) - (len(y) - 1) / 2
    total = y.sum(0)
    centroid = (place[:, None] * y).sum(0) / (total.mean() or 1.0)
    return centroid, ((place[:, None] - centroid) ** 2 * y).sum(0) / np.where(total == 0, 1, total)


def sinusoid_fit(values: np.ndarray, angles: np.ndarray, order: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The least-squares fit of ``a + b cos(order t) + c sin(order t)`` to a value for each view: the coefficients, what
    is left, and the matrix of the fit."""
    t = order * np.deg2rad(angles)
    terms = np.stack([np.ones_like(t), np.cos(t), np.sin(t)], axis=1)
    coefficients = np.linalg.lstsq(terms, values, rcond=None)[0]
    return coefficients, values - terms @ coefficients, terms


def axis_by_centroids(y: np.ndarray, angles: np.ndarray) -> tuple[float, float, float]:
    """The axis of a parallel scan that no view truncates, in bins from the middle of the detector, its standard error,
    and the root mean square of what is left (bins). The centroid of a view is ``axis + a cos t + b sin t``."""
    coefficients, off, terms = sinusoid_fit(moments(y)[0], angles)
    freedom = max(1, len(angles) - 3)
    # Deviations last over many views, so they do not average out as independent ones would.
    variance = np.linalg.pinv(terms.T @ terms)[0, 0] * min(len(angles), 12) / 12 * (off @ off) / freedom
    is_determined = len(angles) >= 4 and np.linalg.matrix_rank(terms) == 3
    return float(coefficients[0]), math.sqrt(variance) if is_determined else math.inf, float(np.sqrt(np.mean(off**2)))


def axis_by_residual(scan: Scan, y: np.ndarray, everywhere: bool = False) -> tuple[float, float]:
    """The centre with which a coarse reconstruction explains most, and how far from it 7 % more are left; infinite
    where the centre is not among those tried. With ``everywhere`` the search covers nine tenths of the detector, else
    it begins at the scan's centre."""

    tried: dict[float, float] = {}

    def residuals(places: np.ndarray) -> np.ndarray:
        values = [unexplained(replace(scan, centre=float(place)), y) for place in places]
        tried.update(zip(places.tolist(), values, strict=True))
        return np.array(values)

    reach = 0.04 * len(y)
    middle = scan.centre
    if everywhere:
        places = np.append(np.linspace(-0.45, 0.45, 46) * len(y), middle)
        middle = places[residuals(places).argmin()]
    # Search on to the axis itself: with an axis that is only roughly right, a wrong reading of the angles may fit best.
    for _ in range(4):
        places = middle + np.linspace(-reach, reach, 9)
        values = residuals(places)
        best = int(values.argmin())
        is_clear = values.max() > BETTER * values.min()
        if 0 < best < len(places) - 1 or not is_clear:
            break
        middle = places[best]
    if not 0 < best < len(places) - 1:
        return float(places[best]), reach / 4 if is_clear else math.inf
    fine = np.linspace(places[best - 1], places[best + 1], 7)
    values = residuals(fine)
    # The square is nearly a parabola about its minimum.
    a, b, _ = np.polyfit(fine, values**2, 2)
    if a <= 0:
        return float(fine[values.argmin()]), math.inf
    centre = float(np.clip(-b / (2 * a), fine[0], fine[-1]))
    error = float(np.sqrt(0.15 * values.min() ** 2 / a))
    # Views of a uniform disc leave a flat valley, and few or narrow ones a second minimum.
    alike = [abs(place - centre) for place, value in tried.items() if value <= 1.07 * min(tried.values())]
    return centre, max([error, *alike])
