"""Filtered back-projection of any two-dimensional scan: the weights of its rays and views, the filter, the matrix.

Every line through the object must count once. In half a turn of a parallel beam it does; elsewhere a ray and the
opposite one, the same line from the other side, share it (`ray_weights`): halves where both are measured, the whole
where the opposite view is missing (Parker 1982, in the form of Noo et al. 2002, which serves any arc) or does not fall
on a displaced detector (Cho 1996, Wang 2002).

A view that ends inside the object is continued before it is filtered, and filtered views reach beyond the detector to
the edge of the image. Whether is decided by the geometry alone (`extension_radius`, `is_displaced`), never by the
data: A_dagger is linear in y, which SURE and training need.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import scipy.sparse
import torch

from ei.physics.linear_map import Dense, LinearMap, shared
from ei.physics.matrix_free import view_by_view
from ei.physics.projections import back_projection_matrix, ramp_filter, ramp_kernel
from ei.physics.scan import Scan, directions
from ei.physics.symmetry import map_of_views

# An arc is missing where the way to the next view is so many times as long as the longest of the other ways, and longer
# than so many degrees. At most so many arcs can be missing.
MISSING_TIMES, MISSING_DEGREES, MISSING_ARCS = 2.5, 5.0, 4
# Views that are no farther apart are one.
ROUNDING_DEGREES = 1e-4
# Over so many degrees at the ends of a fan's arc the weights of rays that are measured twice go from one view to the
# other; at the nearer end of a displaced detector, over so large a part of the way to the axis.
RAMP_DEGREES, RAMP_PART = 10.0, 0.5


@shared
def back_projection_map(scan: Scan, device: torch.device, dtype: torch.dtype) -> LinearMap:
    """The back-projection inside `Tomography.A_dagger`, ``[H*W, D'*V]`` of views filtered by
    `filter_map`. Every pixel reads each of them linearly where it is projected to. Views are weighted by the angle they
    stand for; those of a fan by the inverse square of the pixel's distance from the source, too (Kak & Slaney,
    "Principles of computerized tomographic imaging", sections 3.4.1 and 3.4.2)."""
    before, after = margins(scan)

    def make(views: Sequence[int], _: tuple[int, int]) -> scipy.sparse.csr_array:
        return back_projection_matrix(_pixels_in_views(scan, before, views), before + scan.n_detectors + after)

    return map_of_views(make, scan.symmetry, len(scan.angles), scan.image_shape, device=device, dtype=dtype).T


@shared
def back_projection_by_views(scan: Scan, device: torch.device, dtype: torch.dtype) -> LinearMap:
    """`back_projection_map` without its matrix."""
    before, after = margins(scan)
    detectors = before + scan.n_detectors + after
    views = functools.partial(_pixels_in_views, scan, before)
    return view_by_view(views, detectors, len(scan.angles), scan.image_shape)


def _pixels_in_views(
    scan: Scan, before: int, views: Sequence[int], rows: slice = slice(None)
) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
    """Of each of these views the bins in which the pixels of these rows lie, their factors, and the view's weight."""
    x, y = scan.axes()
    y = y[rows]
    scale = _factors_of_views(scan)
    for view in views:
        u, v = directions(scan.angles[view])
        s, factor = x * u[0] + y * u[1], np.ones(1)
        if scan.source_origin is not None:
            depth = scan.source_origin - (x * v[0] + y * v[1])
            distance = depth / scan.source_origin
            if scan.detector == "curved":
                s, factor = scan.source_origin * np.arctan2(s, depth), 1 / (distance**2 + (s / scan.source_origin) ** 2)
            else:
                s, factor = s / distance, 1 / distance**2
        detector = s * scan.magnification / scan.detector_spacing + (scan.n_detectors - 1) / 2 + scan.centre
        yield detector + before, factor, scale[view]


@functools.lru_cache
def _factors_of_views(scan: Scan) -> np.ndarray:
    """The angles that views stand for, over the size of a detector, ``[V]``."""
    # Filters are for detectors of unit length, `ramp_filter` has the factor 2.
    return np.deg2rad(view_weights(scan.angles, period(scan))[0]) / 2 / (scan.detector_spacing / scan.magnification)


def period(scan: Scan) -> float:
    """Degrees after which a view comes back: 180 where the opposite view has the same rays, else 360."""
    return 360.0 if scan.fan or is_displaced(scan) else 180.0


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
    views, which = distinct_views(angles, period)
    times = np.bincount(which)
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


def distinct_views(angles: Sequence[float], period: float) -> tuple[np.ndarray, np.ndarray]:
    """The angles in one period, ascending and once each, and which of them every view has. Those that differ by the
    rounding of float32, in which files have them, are equal."""
    turned = np.asarray(angles, dtype=np.float64) % period
    order = np.argsort(turned)
    ahead = np.diff(turned[order], prepend=turned[order[-1]] - period)  # from the view before
    is_new = ahead > ROUNDING_DEGREES
    which = np.empty(len(turned), dtype=np.int64)
    which[order] = (np.cumsum(is_new) - 1) % np.count_nonzero(is_new)  # those before the first are the last
    return turned[order][is_new], which


def _least_missing(steps: np.ndarray) -> float:
    """The shortest of the ways between views that is a missing arc; infinite where none is."""
    longest = np.sort(steps)[::-1]
    for arc, next_arc in itertools.pairwise(longest[: MISSING_ARCS + 1]):
        if arc > MISSING_TIMES * next_arc and arc > MISSING_DEGREES:
            return float(arc)
    return math.inf


def ray_weights(scan: Scan) -> np.ndarray:
    """The factors of the measurements of a fan or of a displaced detector before they are filtered, ``[D, V]``: the
    cosine of a ray's angle to the central one, times the ray's share of its line."""
    angles, fan = np.asarray(scan.angles), scan.fan_angles(scan.positions)
    _, arcs = view_weights(scan.angles, 360)
    direct = view_share(angles[None, :], arcs)
    # The ray of fan angle g in view t runs as that of -g in view t + 180 - 2 g.
    opposite = view_share(angles[None, :] + 180 - 2 * np.rad2deg(fan)[:, None], arcs)
    if is_displaced(scan):
        direct = direct * detector_share(scan, scan.positions)[:, None]
        opposite = opposite * detector_share(scan, -scan.positions)[:, None]
    return np.cos(fan)[:, None] * direct / (direct + opposite)


def view_share(angles: np.ndarray, arcs: list[tuple[float, float]]) -> np.ndarray:
    """1 for angles far from the missing ``arcs``, 0 inside them, smoothly between."""
    share = np.ones_like(angles)
    for first, last in arcs:
        behind = (angles - first) % 360  # degrees behind the arc's first
        inside = behind < last - first
        away = np.where(inside, 0.0, np.minimum(behind - (last - first), 360 - behind))
        share = np.minimum(share, np.sin(np.pi / 2 * np.clip(away / RAMP_DEGREES, 0, 1)) ** 2)
    return share


def detector_share(scan: Scan, positions: np.ndarray) -> np.ndarray:
    """1 on the detector, 0 beyond its nearer end, smoothly between before that end."""
    ends = scan.positions[[0, -1]] + np.array([-0.5, 0.5]) * scan.detector_spacing
    near, sign = (ends[1], 1) if ends[1] < -ends[0] else (-ends[0], -1)
    inside = near - sign * positions
    return np.sin(np.pi / 2 * np.clip(inside / max(RAMP_PART * near, 1e-9 * scan.detector_spacing), 0, 1)) ** 2


def sides(scan: Scan) -> list[float]:
    """The distances from the axis to which the detector sees, the smaller one first."""
    ends = scan.positions[[0, -1]] + np.array([-0.5, 0.5]) * scan.detector_spacing
    left, right = scan.distances(ends)
    return sorted((-float(left), float(right)))


def _radius(scan: Scan) -> float:
    """That of the object about the axis, as far as is known: half the longer side of the image."""
    return scan.object_radius or max(scan.image_shape) / 2 * scan.pixel_size


@functools.lru_cache
def is_displaced(scan: Scan) -> bool:
    """Whether the detector sees less than the object to one side and more to the other (by more than a bin), and
    opposite views are measured, more than those at both ends of half a turn. Some of their rays then have no opposite
    ones."""
    near, far = sides(scan)
    if near >= _radius(scan) or far - near <= scan.detector_spacing / scan.magnification * (1 + 1e-9):
        return False
    _, arcs = view_weights(scan.angles, 360)
    return scan.fan or bool((view_share(np.asarray(scan.angles) + 180, arcs) >= 1).any())


def extension_radius(scan: Scan) -> float | None:
    """The radius of the disc about the axis whose projection continues the views beyond the detector: `object_radius`,
    else that of the image where the detector sees less than it, by more than a bin, to both sides; None: views end."""
    wider = sides(scan)[1] < _radius(scan) - scan.detector_spacing / scan.magnification
    return _radius(scan) if wider or scan.object_radius else None


def margins(scan: Scan) -> tuple[int, int]:
    """The bins by which filtered views reach beyond the detector, before and after it."""
    return _bins_to(scan, scan.half_diagonal) if is_displaced(scan) or extension_radius(scan) else (0, 0)


def _bins_to(scan: Scan, radius: float) -> tuple[int, int]:
    """The bins beyond the detector up to the rays that pass at ``radius`` from the axis, before and after it."""
    reach, positions = scan.position_at(radius), scan.positions
    before, after = ((reach - end) / scan.detector_spacing for end in (-positions[0], positions[-1]))
    return max(0, math.ceil(before)), max(0, math.ceil(after))


@shared
def filter_map(scan: Scan, device: torch.device, dtype: torch.dtype) -> LinearMap:
    """The filter of `Tomography.A_dagger`, ``[D', D]``, of views weighted by `ray_weights`: the ramp, in the bins of
    the detector and its `margins`. On a curved detector it is multiplied by ``(g / sin g)^2``, g the angle between two
    rays (Kak & Slaney, section 3.4.1). `_extension` continues the views."""
    before, after = margins(scan)
    if not (before or after) and scan.detector == "flat":
        return ramp_filter(scan.n_detectors, device, dtype)
    extension, first = _extension(scan)
    bins = np.arange(-before, scan.n_detectors + after)
    distance = np.abs(np.subtract.outer(bins, first + np.arange(len(extension))))
    kernel = ramp_kernel(distance)
    if scan.detector == "curved":
        kernel /= np.sinc(distance * scan.detector_spacing / scan.source_detector / np.pi) ** 2
    matrix = torch.from_numpy(kernel @ extension).to(device, dtype)
    return LinearMap(Dense(matrix), Dense(matrix.t()))


def _extension(scan: Scan) -> tuple[np.ndarray, int]:
    """The matrix ``[n, D]`` that continues weighted views beyond the detector, and the number of its first bin: each
    end falls off as the projection of a uniform disc of `extension_radius` does (Ohnesorge et al. 2000 let it fall off
    as a cosine; the length of that is a guess, too)."""
    detectors, radius = scan.n_detectors, extension_radius(scan)
    before, after = (0, 0) if radius is None else _bins_to(scan, radius)
    matrix = np.eye(before + detectors + after)[:, before : before + detectors]
    if radius is not None:
        positions = scan.positions[0] + np.arange(-before, detectors + after) * scan.detector_spacing
        chord = np.sqrt(np.clip(radius**2 - scan.distances(positions) ** 2, 0, None)) * np.cos(
            scan.fan_angles(positions)
        )
        for end, beyond in ((before, slice(0, before)), (before + detectors - 1, slice(before + detectors, None))):
            matrix[beyond, end - before] = chord[beyond] / max(chord[end], 1e-12)
    return matrix, -before


def step_between_views(angles: Sequence[float], period: float) -> float:
    """The degrees from a view to the next one, in the mean, beside arcs that are missing; arguments as of
    `view_weights`."""
    _, arcs = view_weights(angles, period)
    views, _ = distinct_views(angles, period)
    return (period - sum(last - first for first, last in arcs)) / len(views)


def misses_views(scan: Scan) -> bool:
    """Whether there are lines that no ray runs along. In a parallel scan these are of directions in an arc; a fan or a
    displaced detector can do without those beyond a short scan."""
    _, arcs = view_weights(scan.angles, period(scan))
    if not arcs or period(scan) == 180:
        return bool(arcs)
    positions = scan.positions
    # Rays through the corners of the image may be missing.
    positions = positions[np.abs(scan.distances(positions)) <= scan.half_diagonal / math.sqrt(2)]
    angles = np.arange(0, 360, 0.5)[None, :]
    direct = view_share(angles, arcs)
    opposite = view_share(angles + 180 - 2 * np.rad2deg(scan.fan_angles(positions))[:, None], arcs)
    if is_displaced(scan):
        opposite = opposite * detector_share(scan, -positions)[:, None]
    return bool((direct + opposite == 0).any())
