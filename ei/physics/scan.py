"""The geometry of a two-dimensional scan, and the matrix of its projection.

With x to the right and y down from the image's centre, view t has the directions

    u = (cos t, -sin t)     along the detector
    v = (sin t,  cos t)     along parallel rays

and detector d lies at ``s = (d - (D-1)/2 - centre) * detector_spacing`` along u. In a parallel scan its ray runs along
v through ``s u``; in a fan it runs from ``source_origin * v`` to ``s u - origin_detector * v``. On a curved detector,
an arc about the source, s is the length of the arc: the ray's angle to the central one is ``s / (source_origin +
origin_detector)``.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse
import torch

from ei.physics.linear_map import LinearMap, shared
from ei.physics.projections import linear_weights, views_last
from ei.physics.symmetry import Symmetry, map_of_views, symmetry_of


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

    detector: str = "flat"
    object_radius: float | None = None

    @property
    def fan(self) -> bool:
        return self.source_origin is not None

    @property
    def source_detector(self) -> float:
        """The distance from the source of a fan to the middle of the detector."""
        return (self.source_origin or 0.0) + (self.origin_detector or 0.0)

    @property
    def magnification(self) -> float:
        """Of lengths at the origin on the detector."""
        return 1.0 if self.source_origin is None else self.source_detector / self.source_origin

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

    def fan_angles(self, positions: np.ndarray) -> np.ndarray:
        """The angles in radians of the rays to these positions to the central one; zeros in a parallel scan."""
        if not self.fan:
            return np.zeros_like(positions)
        return (
            positions / self.source_detector
            if self.detector == "curved"
            else np.arctan(positions / self.source_detector)
        )

    def distances(self, positions: np.ndarray) -> np.ndarray:
        """The distances from the axis at which the rays to these positions pass, with the sign of s."""
        return positions if self.source_origin is None else self.source_origin * np.sin(self.fan_angles(positions))

    def position_at(self, distance: float) -> float:
        """The position of the ray that passes at this distance from the axis."""
        if self.source_origin is None:
            return distance
        angle = math.asin(min(distance / self.source_origin, 1.0))
        return self.source_detector * (angle if self.detector == "curved" else math.tan(angle))

    def rays(self, angle: float, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points ``[R, 2]`` and unit directions ``[R, 2]`` of the rays to these positions on the detector."""
        u, v = directions(angle)
        if self.source_origin is None:
            return positions[:, None] * u, np.broadcast_to(v, (len(positions), 2))
        source = self.source_origin * v
        if self.detector == "curved":
            fan = self.fan_angles(positions)[:, None]
            towards = np.sin(fan) * u - np.cos(fan) * v
        else:
            towards = positions[:, None] * u - (self.origin_detector or 0.0) * v - source
        return np.broadcast_to(source, towards.shape), towards / np.linalg.norm(towards, axis=1, keepdims=True)

    @property
    def rays_per_detector(self) -> int:
        """As many as keep them closer than pixels."""
        return max(1, math.ceil(self.detector_spacing / self.magnification / self.pixel_size - 1e-9))

    @functools.cached_property
    def symmetry(self) -> Symmetry | None:
        """Of its views: which of them give the others."""
        height, width = self.image_shape
        return symmetry_of(self.angles, height == width, not self.fan, self.centre == 0)


def directions(angle: float) -> tuple[np.ndarray, np.ndarray]:
    t = math.radians(angle)
    return np.array([math.cos(t), -math.sin(t)]), np.array([math.sin(t), math.cos(t)])


@shared
def projection_map(scan: Scan, device: torch.device, dtype: torch.dtype) -> LinearMap:
    """`Tomography.A`."""

    def make(views: Sequence[int], _: tuple[int, int]) -> scipy.sparse.csr_array:
        return projection_matrix(dataclasses.replace(scan, angles=tuple(scan.angles[view] for view in views)))

    return map_of_views(make, scan.symmetry, len(scan.angles), scan.image_shape, device=device, dtype=dtype)


def projection_matrix(scan: Scan) -> scipy.sparse.csr_array:
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
