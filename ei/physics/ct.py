"""Parallel-beam computed tomography: the Radon transform and filtered back-projection (FBP) of the paper.

Both are fixed linear maps, so each is computed once as a sparse matrix, of the views that give the others by symmetry
(`ei.physics.symmetry`), and applied to all at a time.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from ei.common.checks import check_flag, check_number
from ei.common.devices import device_of
from ei.errors import InputError
from ei.physics.base import NoiseModel
from ei.physics.fbp import step_between_views, view_weights
from ei.physics.linear_map import LinearMap, check_matrix_size, shared
from ei.physics.projections import Projections, back_projection_matrix, linear_weights, views_last
from ei.physics.symmetry import Symmetry, map_of_views, symmetry_of, views_kept


class CT(Projections):
    """The CT of the paper (section 4.1): images ``[B, C, N, N]``, sinograms ``[B, C, D, V]``. `A` is the Radon
    transform, `A_adjoint` its exact transpose, `A_dagger` the FBP.

    Its matrices take about ``67 * N**2`` bytes for each view, of uniform views on the CPU for a quarter of them (a half
    where V is odd). Where that is over 2 GB, a warning comes before they are made.

    Args:
        img_width: N, the side of the square images in pixels.
        radon_view: V, the number of views.
        uniform: views at ``k * 180 / V`` degrees; otherwise at ``k`` degrees, k = 0, ..., V-1.
        circle: the image is zero outside its inscribed circle: D = N detectors instead of ``ceil(sqrt(2) N)``, and the
            FBP is zero outside the circle.
        device: where the matrices are prepared; inputs on another device work, too.
        noise: None or a noise model (see `Physics`).
        first_angle: degrees that are added to the angles of all views.

    The input's dtype is kept. float64 is computed in float64, every other floating-point dtype in float32.

    Raises:
        InputError: for an argument out of its range, matrices that do not fit in memory, an unavailable device, or
            (when called) a tensor of another shape or that is not real floating-point.

    >>> physics = CT(img_width=64, radon_view=30)
    >>> y = physics.A(torch.rand(2, 1, 64, 64))
    >>> y.shape, physics.A_dagger(y).shape
    (torch.Size([2, 1, 91, 30]), torch.Size([2, 1, 64, 64]))
    """

    def __init__(
        self,
        img_width: int,
        radon_view: int,
        uniform: bool = True,
        circle: bool = False,
        device: torch.device | str = "cpu",
        noise: NoiseModel | None = None,
        *,
        first_angle: float = 0.0,
    ) -> None:
        self.img_width = check_number("img_width", img_width, integer=True, least=1)
        self.radon_view = check_number("radon_view", radon_view, integer=True, least=1)
        self.uniform = check_flag("uniform", uniform)
        self.circle = check_flag("circle", circle)
        self.first_angle = check_number("first_angle", first_angle)
        self.n_detectors = n_detectors_of(self.img_width, self.circle)
        super().__init__((self.img_width, self.img_width), (self.n_detectors, self.radon_view), noise)
        device = device_of(device)
        kept = views_kept(self.geometry.symmetry, self.radon_view, device)
        pixel_views = self.img_width**2 * kept
        # Measured (benchmarks/README.md): bytes kept and at most allocated during preparation, entries of one matrix.
        check_matrix_size(f"CT({img_width}, {radon_view})", 67 * pixel_views, 155 * pixel_views, 2.2 * pixel_views)
        self.projection(device, torch.float32)
        self.back_projection(device, torch.float32)

    @classmethod
    def sizes_from_measurement(cls, shape: Sequence[int], **arguments: Any) -> dict[str, int]:
        """The size arguments for sinograms of ``shape`` (C, D, V): ``img_width`` and ``radon_view``.

        Raises:
            InputError: if there is no such image size, or the number of views is another.
        """
        if len(shape) != 3:
            raise InputError(f"sinograms for CT must have shape [n, C, D, V] or [n, D, V], got one of {list(shape)}")
        _, detectors, views = shape
        if views != arguments.get("radon_view", views):
            raise InputError(
                f"sinograms must have shape [detectors, views] with radon_view = {arguments['radon_view']} views, got "
                f"{detectors} detectors and {views} views; set radon_view: {views}, or, if they are [views, "
                "detectors], swap their axes"
            )
        circle = bool(arguments.get("circle", False))
        side = next((n for n in range(1, detectors + 1) if n_detectors_of(n, circle) == detectors), None)
        if side is None:
            raise InputError(
                f"sinograms for CT must have ceil(sqrt(2) N) detectors, got {detectors}, which belongs to no image "
                "size N; check that they are [detectors, views], or use Tomography"
            )
        return {"img_width": side, "radon_view": views}

    @property
    def config(self) -> dict[str, Any]:
        """The arguments to build it again."""
        return dataclasses.asdict(self.geometry)

    @property
    def geometry(self) -> Geometry:
        return Geometry(self.img_width, self.radon_view, self.uniform, self.circle, self.first_angle)

    @property
    def angles(self) -> Tensor:
        """The view angles in degrees, ``[V]``, float64."""
        return torch.from_numpy(self.geometry.angles)

    @property
    def step_between_views(self) -> float | None:
        angles = self.geometry.angles.tolist()
        return None if view_weights(angles, 180)[1] else step_between_views(angles, 180)

    def _turn(self, degrees: float) -> None:
        self.first_angle = (self.first_angle + degrees) % 360

    def projection(self, device: torch.device, dtype: torch.dtype) -> LinearMap:
        return self.cached(radon_map, self.geometry, device, dtype)

    def back_projection(self, device: torch.device, dtype: torch.dtype) -> LinearMap:
        return self.cached(back_projection_map, self.geometry, device, dtype)

    def A_dagger_of(self, y: Tensor, kept: Tensor) -> Tensor:
        """Filtered back-projection of the views where ``kept`` ``[1 or B, 1, 1, V]`` is one: each stands for a larger
        part of the half turn."""
        return self.A_dagger(kept * y) / kept.mean(-1, keepdim=True)

    def extra_repr(self) -> str:
        return f"{self.img_width}, {self.radon_view}, uniform={self.uniform}, circle={self.circle}"


def n_detectors_of(img_width: int, circle: bool) -> int:
    # Integers, because sqrt(2)*N in floating point may round across a whole number.
    return img_width if circle else math.isqrt(2 * img_width * img_width - 1) + 1


def view_degrees(radon_view: int, uniform: bool, first_angle: float) -> np.ndarray:
    views = np.arange(radon_view, dtype=np.float64)
    return (views * (180 / radon_view) if uniform else views) + first_angle


@dataclass(frozen=True)
class Geometry:
    """The arguments of `CT`, checked. Hashable: the key of its matrices."""

    img_width: int
    radon_view: int
    uniform: bool = True
    circle: bool = False
    first_angle: float = 0.0

    @property
    def n_detectors(self) -> int:
        return n_detectors_of(self.img_width, self.circle)

    @property
    def angles(self) -> np.ndarray:
        return view_degrees(self.radon_view, self.uniform, self.first_angle)

    @property
    def symmetry(self) -> Symmetry | None:
        """Of its views: which of them give the others."""
        return symmetry_of(self.angles.tolist(), square=True, half_turn=True, reversible=True)

    def map_of_views(
        self, make: Callable[[np.ndarray, int], scipy.sparse.csr_array], device: torch.device, dtype: torch.dtype
    ) -> LinearMap:
        """The map of all views, where ``make`` gives the matrix of some angles and of images of a side."""
        # Where D - N is odd, the axis runs half a pixel beside the middle of the image.
        frame = (self.img_width + 1, self.img_width % 2) if (self.n_detectors - self.img_width) % 2 else None
        angles, shape = self.angles, (self.img_width, self.img_width)
        return map_of_views(
            lambda views, shape: make(angles[list(views)], shape[0]),
            self.symmetry, self.radon_view, shape, frame, device=device, dtype=dtype,
        )  # fmt: skip


@shared
def radon_map(geometry: Geometry, device: torch.device, dtype: torch.dtype) -> LinearMap:
    """`CT.A`, ``[D*V, N*N]``."""
    make = functools.partial(radon_matrix, n_detectors=geometry.n_detectors)
    return geometry.map_of_views(make, device, dtype)


@shared
def back_projection_map(geometry: Geometry, device: torch.device, dtype: torch.dtype) -> LinearMap:
    """The back-projection inside `CT.A_dagger`, ``[N*N, D*V]``; scaled by ``pi/(2V)``."""
    make = functools.partial(
        _views_at_pixels,
        n_detectors=geometry.n_detectors,
        scale=np.pi / (2 * geometry.radon_view),
        circle=geometry.circle,
    )
    return geometry.map_of_views(make, device, dtype).T


def radon_matrix(angles: np.ndarray, side: int, n_detectors: int) -> scipy.sparse.csr_array:
    """The image, zero-padded to D x D, is read bilinearly and summed over the rows i. View angle t reads it at the grid
    ``(xs, ys) = (cos t * x_j + sin t * y_i, -sin t * x_j + cos t * y_i)``."""
    axis = np.arange(n_detectors) - (n_detectors - 1) / 2  # pixels from the centre
    before = _padding_before(side, n_detectors)
    blocks = []
    for angle in np.deg2rad(angles):
        cos, sin = math.cos(angle), math.sin(angle)
        x_pixel = cos * axis[None, :] + sin * axis[:, None] + (n_detectors - 1) / 2 - before
        y_pixel = -sin * axis[None, :] + cos * axis[:, None] + (n_detectors - 1) / 2 - before
        detector = np.broadcast_to(np.arange(n_detectors), x_pixel.shape)
        rows, columns, weights = [], [], []
        for x, x_weight, x_inside in linear_weights(x_pixel, side):
            for y, y_weight, y_inside in linear_weights(y_pixel, side):
                inside = x_inside & y_inside
                rows.append(detector[inside])
                columns.append((y[inside] * side + x[inside]).astype(np.int32))
                weights.append((x_weight * y_weight)[inside])
        entries = (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns)))
        blocks.append(scipy.sparse.coo_array(entries, shape=(n_detectors, side**2)).tocsr())
    return views_last(blocks)


def _views_at_pixels(
    angles: np.ndarray, side: int, n_detectors: int, scale: float, circle: bool
) -> scipy.sparse.csr_array:
    """View angle t: pixel (x, y) of the D x D grid reads the view linearly at the detector
    ``((x cos t - y sin t) + 1)/2 * (D-1)``."""
    before = _padding_before(side, n_detectors)
    axis = np.arange(before, before + side) - (n_detectors - 1) / 2
    factor = np.full((side, side), scale)
    if circle:
        from_centre = np.arange(side) - (side - 1) / 2
        factor[from_centre[None, :] ** 2 + from_centre[:, None] ** 2 > ((side - 1) / 2) ** 2] = 0
    places = (
        math.cos(t) * axis[None, :] - math.sin(t) * axis[:, None] + (n_detectors - 1) / 2
        for t in np.deg2rad(angles).tolist()
    )
    return back_projection_matrix(((place, factor, 1.0) for place in places), n_detectors)


def _padding_before(img_width: int, n_detectors: int) -> int:
    """The zeros before the image when it is padded to D x D (one more behind it when D-N is odd)."""
    return n_detectors // 2 - img_width // 2
