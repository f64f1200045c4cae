"""Is the detector of a fan flat or curved? What opposite rays show of it.

The ray of fan angle g in view t runs along the line of that of -g in view ``t + 180 - 2 g``, so the two measure the
same. With the wrong shape, g is off by about ``g^3 / 3`` at the same place of the detector. A least-squares fit of the
angles at which opposite rays agree gives the shape. A reconstruction does not: an image that is moved a little explains
the views as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter1d, map_coordinates

from ei.diagnosis.coarse import with_fewer_detectors
from ei.physics.fbp import view_weights
from ei.physics.scan import Scan

DETECTORS = 192
# Views are smoothed along their angle, by steps and at least degrees, which keeps opposite rays equal; what is left of
# their difference, by bins across the detector.
SMOOTH_STEPS, SMOOTH_DEGREES, SMOOTH_BINS = 2.0, 1.0, 1.5
# Degrees between views. Nearer ones than the first are one view, as those of two turns whose angles are rounded are;
# finer steps than the second show nothing more once views are smoothed, and would take all memory.
SAME_VIEW, FINEST_STEP, WIDEST_STEP = 0.005, 0.1, 12.0
LEAST_PAIRS = 200  # of opposite rays
ITERATIONS = 5
GROUPS = 24  # of views, for the standard error
# A shape is certain where the fit is within half of its value, and so many standard errors from that of the other one.
# Errors of both fits are too small where noise is all that is left: true shapes were up to 12 of them away.
SIGNIFICANT, SIGNIFICANT_OF_ANY_DISTANCE = 6.0, 12.0


@dataclass(frozen=True)
class Shape:
    """What opposite rays show of the shape of a detector: 0 is that of the geometry, 1 the other one.

    Attributes:
        value: by the distances of the geometry.
        error: its standard error; infinite where too few opposite rays are measured.
        value_of_any_distance, error_of_any_distance: the same where the distance of the detector is fitted, too: an
            error in it looks like a part of another shape.
    """

    value: float
    error: float
    value_of_any_distance: float
    error_of_any_distance: float

    @property
    def is_other(self) -> bool:
        return self._is_certain(1.0)

    @property
    def is_given(self) -> bool:
        return self._is_certain(0.0)

    def _is_certain(self, shape: float) -> bool:
        """By both fits, or, whatever the distance is, by the second one."""
        far, far_of_any = (abs(1 - shape - value) for value in (self.value, self.value_of_any_distance))
        if abs(self.value_of_any_distance - shape) >= 0.5:
            return False
        if far_of_any > SIGNIFICANT_OF_ANY_DISTANCE * self.error_of_any_distance:
            return True
        return abs(self.value - shape) < 0.5 and far > SIGNIFICANT * self.error

    @property
    def distance_fits(self) -> bool:
        """Whether the distances of the geometry explain the data together with the shape that is certain."""
        return abs(self.value - self.value_of_any_distance) < 0.5


UNDETERMINED = Shape(0.0, math.inf, 0.0, math.inf)


def other_shape(scan: Scan) -> str:
    return "curved" if scan.detector == "flat" else "flat"


def curved_bins(scan: Scan, y: np.ndarray) -> float:
    """How far apart, in detectors, flat and curved detectors have the outermost rays that see the object; 0 for a
    parallel beam."""
    if not scan.fan:
        return 0.0
    mean = np.abs(y).mean(1)
    fan = np.abs(scan.positions[mean > 0.05 * mean.max()]).max(initial=0) / scan.source_detector
    return float((fan - math.atan(fan)) * scan.source_detector / scan.detector_spacing)


def shape_by_opposite_rays(scan: Scan, y: np.ndarray) -> Shape:
    """The shape of the detector that makes opposite rays of a sinogram ``[D, V]`` of a fan agree. A shift of the axis
    and an even one of the angles are fitted, too."""
    rays = _OppositeRays(*with_fewer_detectors(scan, y, DETECTORS))
    if not rays.are_measured:
        return UNDETERMINED
    even = np.ones_like(rays.fan)
    return Shape(*rays.fit(rays.change_of_shape, even), *rays.fit(rays.change_of_shape, even, rays.fan))


class _OppositeRays:
    """The rays of one half of a detector, and the opposite ones on the other, in evenly spaced views."""

    def __init__(self, scan: Scan, y: np.ndarray) -> None:
        _, self.arcs = view_weights(scan.angles, 360)
        angles = np.unique(np.round(np.asarray(scan.angles) % 360, 6))
        angles = angles[np.diff(angles, prepend=-math.inf) > SAME_VIEW]
        step = max(float(np.median(np.diff(angles))), FINEST_STEP) if len(angles) > 1 else math.inf
        middle = (len(y) - 1) / 2 + scan.centre
        far = np.arange(0.5, min(middle, len(y) - 1 - middle))
        self.are_measured = step <= WIDEST_STEP and len(far) > 2
        if not self.are_measured:
            return
        n = self.n = round(360 / step)
        self.degrees = angles[0] + np.arange(n) * 360 / n
        self.order = np.arange(n // 2 + 1)
        self.width = max(SMOOTH_STEPS * 360 / n, SMOOTH_DEGREES)
        low_pass = np.exp(-((self.order * math.radians(self.width)) ** 2) / 2)
        views = np.stack([np.interp(self.degrees, scan.angles, row, period=360) for row in y])

        def rays_at(places: np.ndarray) -> np.ndarray:
            """The spectra of the rays to these places; one mirror image of the other, they are blurred alike."""
            grid = np.meshgrid(places, np.arange(n), indexing="ij")
            return np.fft.rfft(map_coordinates(views, grid, order=3)) * low_pass

        self.rays, self.opposite = rays_at(middle + far), rays_at(middle - far)
        positions = far * scan.detector_spacing
        self.fan = scan.fan_angles(positions)
        self.change_of_shape = replace(scan, detector=other_shape(scan)).fan_angles(positions) - self.fan
        self.are_measured = int(self._pairs(self.fan).sum()) >= LEAST_PAIRS

    def fit(self, *changes: np.ndarray) -> tuple[float, float]:
        """The part of the first of some ``changes`` of the fan angles that makes opposite rays agree, in the
        least-squares fit of all and of a shift of the axis; its standard error. The better one of those from either
        shape: objects of repeated parts have minima between them."""
        fits = [self._fit_from(start, changes) for start in (0.0, 1.0)]
        return min(fits, key=lambda fit: fit[2])[:2]

    def _fit_from(self, start: float, changes: tuple[np.ndarray, ...]) -> tuple[float, float, float]:
        """The fit by the method of Gauss and Newton; what is left of the squares of the differences comes last."""
        parts = np.zeros(len(changes))
        parts[0] = start
        for _ in range(ITERATIONS):
            columns, residual = self._linearised(self.fan + parts @ np.stack(changes), changes)
            scale = np.sqrt(np.einsum("dvp,dvp->p", columns, columns))
            if not scale.all():
                return 0.0, math.inf, math.inf
            columns /= scale
            inverse = np.linalg.pinv(np.einsum("dvp,dvq->pq", columns, columns), rcond=1e-9)
            change = inverse @ np.einsum("dvp,dv->p", columns, residual)
            residual -= columns @ change
            parts += (change / scale)[: len(parts)]
        # What is left is alike in neighbouring views, so the error is that of groups of them.
        groups = np.array_split(np.arange(self.n), GROUPS)
        scores = np.stack([np.einsum("dvp,dv->p", columns[:, group], residual[:, group]) for group in groups])
        variance = (inverse @ (scores.T @ scores) @ inverse)[0, 0]
        return float(parts[0]), math.sqrt(variance) / float(scale[0]), float(np.square(residual).mean())

    def _linearised(self, fan: np.ndarray, changes: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray]:
        """The difference of opposite rays for some fan angles ``[far, n]``, and its derivatives by the parts of the
        ``changes`` and by a shift of the axis ``[far, n, parts + 1]``."""
        turn = np.exp(1j * self.order * (math.pi - 2 * fan)[:, None])
        turned = self.opposite * turn
        # Derivatives of the mean of both have less noise.
        along = np.fft.irfft(1j * self.order * (turned + self.rays) / 2, self.n)
        across = np.fft.irfft(np.gradient(self.opposite, axis=0) * turn, self.n)
        pairs = self._pairs(fan)
        columns = np.stack([*(-2 * change[:, None] * along for change in changes), across], -1) * pairs[..., None]
        residual = np.fft.irfft(self.rays - turned, self.n) * pairs
        return gaussian_filter1d(columns, SMOOTH_BINS, axis=0), gaussian_filter1d(residual, SMOOTH_BINS, axis=0)

    def _pairs(self, fan: np.ndarray) -> np.ndarray:
        """Where both rays are measured, for some fan angles, ``[far, n]``."""
        here = self.degrees[None]
        return self._is_measured(here) & self._is_measured(here + 180 - 2 * np.rad2deg(fan)[:, None])

    def _is_measured(self, degrees: np.ndarray) -> np.ndarray:
        """Whether views at these angles are far enough from every missing arc."""
        margin = 2 * self.width
        inside = [(degrees - first + margin) % 360 < last - first + 2 * margin for first, last in self.arcs]
        return ~np.any(inside, axis=0) if inside else np.ones(degrees.shape, bool)
