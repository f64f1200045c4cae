"""The geometry of a two-dimensional scan, and the matrices of its projection and filtered back-projection.

With x to the right and y down from the image's centre, view t has the directions

    u = (cos t, -sin t)     along the detector
    v = (sin t,  cos t)     along parallel rays

and detector d lies at ``s = (d - (D-1)/2 - centre) * detector_spacing`` along u. In a parallel scan its ray runs along
v through ``s u``; in a fan it runs from ``source_origin * v`` to ``s u - origin_detector * v``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse

from ei.physics.linear_map import shared_sparse
from ei.physics.projections import back_projection_matrix, linear_weights, views_last

# An arc is missing where the way to the next view is so many times as long as the longest of the other ways, and longer
# than so many degrees. At most so many arcs can be missing.
MISSING_TIMES, MISSING_DEGREES, MISSING_ARCS = 2.5, 5.0, 4
# Over so many degrees at the ends of a fan's arc the weights of rays that are measured twice go from one view to the
# other (Noo et al., 2002).
RAMP_DEGREES = 10.0


@dataclass(frozen=True)
class Scan:
    """The arguments of `ei.physics.Tomography`, checked. Hashable: the key of its matrices."""

    image_shape: tuple[int, int]
    angles: tuple[float, ...]
    n_detectors: int
    detector_spacing: float
    pixel_size: float
    centre: float
    source_origin: float | None
    origin_detector: float | None

    @property
    def fan(self) -> bool:
        return self.source_origin is not None

    @property
    def period(self) -> float:
        """Degrees after which a parallel view, or one of a fan, comes back."""
        return 360.0 if self.fan else 180.0

    @property
    def magnification(self) -> float:
        """Of lengths at the origin on the detector."""
        if self.source_origin is None:
            return 1.0
        return (self.source_origin + (self.origin_detector or 0.0)) / self.source_origin

    @property
    def positions(self) -> np.ndarray:
        """s of every detector, ``[D]``."""
        middle = (self.n_detectors - 1) / 2 + self.centre
        return (np.arange(self.n_detectors) - middle) * self.detector_spacing

    @property
    def half_diagonal(self) -> float:
        """From the image's centre to its corners."""
        return math.hypot(*self.image_shape) / 2 * self.pixel_size

    def axes(self) -> tuple[np.ndarray, np.ndarray]:
        """x of the columns ``[1, W]`` and y of the rows ``[H, 1]``."""
        height, width = self.image_shape
        x, y = (((np.arange(n) - (n - 1) / 2) * self.pixel_size) for n in (width, height))
        return x[None, :], y[:, None]

    def rays(self, angle: float, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points ``[R, 2]`` and unit directions ``[R, 2]`` of the rays to these positions on the detector."""
        u, v = _directions(angle)
        if self.source_origin is None:
            return positions[:, None] * u, np.broadcast_to(v, (len(positions), 2))
        source = self.source_origin * v
        towards = positions[:, None] * u - (self.origin_detector or 0.0) * v - source
        return np.broadcast_to(source, towards.shape), towards / np.linalg.norm(towards, axis=1, keepdims=True)

    @property
    def rays_per_detector(self) -> int:
        """As many as keep them closer than pixels."""
        return max(1, math.ceil(self.detector_spacing / self.magnification / self.pixel_size - 1e-9))


def _directions(angle: float) -> tuple[np.ndarray, np.ndarray]:
    t = math.radians(angle)
    return np.array([math.cos(t), -math.sin(t)]), np.array([math.sin(t), math.cos(t)])


@shared_sparse
def projection_map(scan: Scan) -> scipy.sparse.csr_array:
    """The matrix of `Tomography.A`, ``[D*V, H*W]``: line integrals by Joseph's method (1982). A ray is followed along
    the image axis that it is closer to, read by linear interpolation between the two pixels beside it. A detector that
    is wider than a pixel averages several rays."""
    n = scan.rays_per_detector
    within = (np.arange(n) - (n - 1) / 2) / n * scan.detector_spacing
    positions = (scan.positions[:, None] + within).ravel()
    detectors = np.repeat(np.arange(scan.n_detectors, dtype=np.int32), n)
    blocks = []
    for angle in scan.angles:
        points, directions = scan.rays(angle, positions)
        distance = np.abs(points[:, 0] * directions[:, 1] - points[:, 1] * directions[:, 0])
        hit = distance < scan.half_diagonal + scan.pixel_size
        along_rows = np.abs(directions[:, 1]) >= np.abs(directions[:, 0])
        entries = [
            _follow(scan, points[rays], directions[rays], detectors[rays], axis)
            for axis, rays in ((1, hit & along_rows), (0, hit & ~along_rows))
        ]
        weights, rows, columns = (np.concatenate(parts) for parts in zip(*entries, strict=True))
        shape = (scan.n_detectors, math.prod(scan.image_shape))
        blocks.append(scipy.sparse.coo_array((weights / n, (rows, columns)), shape=shape).tocsr())
    return views_last(blocks)


def _follow(
    scan: Scan, points: np.ndarray, directions: np.ndarray, detectors: np.ndarray, axis: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, detectors and pixels of rays that are followed along x (axis 0) or y (axis 1)."""
    height, width = scan.image_shape
    lines, across = (width, height) if axis == 0 else (height, width)
    at = (np.arange(lines) - (lines - 1) / 2) * scan.pixel_size
    way = (at[None, :] - points[:, axis, None]) / directions[:, axis, None]
    place = (points[:, 1 - axis, None] + way * directions[:, 1 - axis, None]) / scan.pixel_size + (across - 1) / 2
    step = np.broadcast_to(scan.pixel_size / np.abs(directions[:, axis, None]), place.shape)
    weights, rows, columns = [], [], []
    for pixel, weight, inside in linear_weights(place, across):
        ray, line = np.nonzero(inside)
        index = pixel[inside].astype(np.int64)
        weights.append((weight * step)[inside])
        rows.append(detectors[ray])
        columns.append(line * width + index if axis == 1 else index * width + line)
    return np.concatenate(weights), np.concatenate(rows), np.concatenate(columns)


@shared_sparse
def back_projection_map(scan: Scan) -> scipy.sparse.csr_array:
    """The matrix of the back-projection inside `Tomography.A_dagger`, ``[H*W, D*V]``. Every pixel reads each filtered
    view linearly where it is projected to. Views are weighted by the angle they stand for; those of a fan by the
    inverse square of the pixel's distance from the source, too (Kak & Slaney, "Principles of computerized tomographic
    imaging", section 3.4.2)."""
    return back_projection_matrix(_pixels_in_views(scan), scan.n_detectors)


def _pixels_in_views(scan: Scan) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
    """Of each view the detectors at which the pixels lie, their factors, and the view's weight."""
    x, y = scan.axes()
    # Filters are for detectors of unit length, `ramp_filter` has the factor 2.
    scale = np.deg2rad(view_weights(scan.angles, scan.period)[0]) / 2 / (scan.detector_spacing / scan.magnification)
    for angle, weight_of_view in zip(scan.angles, scale, strict=True):
        u, v = _directions(angle)
        s, factor = x * u[0] + y * u[1], np.ones(scan.image_shape)
        if scan.source_origin is not None:
            distance = (scan.source_origin - (x * v[0] + y * v[1])) / scan.source_origin
            s, factor = s / distance, 1 / distance**2
        detector = s * scan.magnification / scan.detector_spacing + (scan.n_detectors - 1) / 2 + scan.centre
        yield detector, factor, weight_of_view


def view_weights(angles: Sequence[float], period: float) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """The angle that every view stands for, and the arcs that are missing.

    Args:
        angles: of the views, in degrees, in any order.
        period: 180 for parallel views, 360 for a fan.

    Returns:
        Degrees ``[V]``: half the way to both neighbours on the circle; equal views share; beside a missing arc the
        usual (median) step counts. And ``(first, last)`` of every missing arc in degrees, half a step behind the views
        at its ends.
    """
    turned = np.round(np.asarray(angles, dtype=np.float64) % period, 6) % period
    views, which, times = np.unique(turned, return_inverse=True, return_counts=True)
    steps = np.diff(np.append(views, views[0] + period))
    missing = steps >= _least_missing(steps)
    usual = float(np.median(steps[~missing]))
    halves = np.where(missing, usual, steps) / 2
    weights = (halves + np.roll(halves, 1)) / times
    arcs = [
        (float(a + usual / 2), float(a + step - usual / 2))
        for a, step in zip(views[missing], steps[missing], strict=True)
    ]
    return weights[which], arcs


def _least_missing(steps: np.ndarray) -> float:
    """The shortest of the ways between views that is a missing arc; infinite where none is."""
    longest = np.sort(steps)[::-1]
    for arc, next_arc in itertools.pairwise(longest[: MISSING_ARCS + 1]):
        if arc > MISSING_TIMES * next_arc and arc > MISSING_DEGREES:
            return float(arc)
    return math.inf


def ray_weights(scan: Scan) -> np.ndarray:
    """What the measurements of a fan are multiplied by before they are filtered, ``[D, V]``: the cosine of a ray's
    angle to the central one, and the ray's share, one half where the opposite ray is measured, too, one where it is
    not, and smoothly between at the ends of an arc (Parker 1982, in the form of Noo et al. 2002, which serves any arc).
    """
    angles, fan = np.asarray(scan.angles), _fan_angles(scan)
    _, arcs = view_weights(scan.angles, scan.period)
    direct = view_share(angles[None, :], arcs)
    # The ray of fan angle g in view t runs as that of -g in view t + 180 - 2 g.
    opposite = view_share(angles[None, :] + 180 - 2 * np.rad2deg(fan)[:, None], arcs)
    return np.cos(fan)[:, None] * direct / (direct + opposite)


def _fan_angles(scan: Scan) -> np.ndarray:
    """The angles of a fan's rays to the central one, in radians, ``[D]``."""
    assert scan.source_origin is not None and scan.origin_detector is not None
    return np.arctan(scan.positions / (scan.source_origin + scan.origin_detector))


def view_share(angles: np.ndarray, arcs: list[tuple[float, float]]) -> np.ndarray:
    """1 for angles far from the missing ``arcs``, 0 inside them, smoothly between."""
    share = np.ones_like(angles)
    for first, last in arcs:
        behind = (angles - first) % 360  # degrees behind the arc's first
        inside = behind < last - first
        away = np.where(inside, 0.0, np.minimum(behind - (last - first), 360 - behind))
        share = np.minimum(share, np.sin(np.pi / 2 * np.clip(away / RAMP_DEGREES, 0, 1)) ** 2)
    return share


def misses_views(scan: Scan) -> bool:
    """Whether there are directions in which no ray runs: an arc of a parallel scan, or of a fan more than a short scan
    can do without."""
    _, arcs = view_weights(scan.angles, scan.period)
    if not arcs or not scan.fan:
        return bool(arcs)
    fan = np.rad2deg(_fan_angles(scan))
    assert scan.source_origin is not None
    fan = fan[np.abs(fan) <= np.rad2deg(math.asin(min(1.0, scan.half_diagonal / math.sqrt(2) / scan.source_origin)))]
    angles = np.arange(0, 360, 0.5)[None, :]
    unseen = view_share(angles, arcs) + view_share(angles + 180 - 2 * fan[:, None], arcs) == 0
    return bool(unseen.any())
