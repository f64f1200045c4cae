"""Parallel-beam computed tomography: the Radon transform and filtered back-projection of the paper.

Both are fixed linear maps, so each is computed once as a sparse matrix and applied to all views at a time.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from ei.common.devices import device_of
from ei.errors import InputError
from ei.physics.base import NoiseModel
from ei.physics.linear_map import LinearMap, SparseMap, check_matrix_size, shared
from ei.physics.projections import Projections, views_last


class ParallelBeam(Projections):
    """What the operators of the paper's CT share: its geometry. Arguments and dtypes are those of `CT`."""

    def __init__(
        self, img_width: int, radon_view: int, uniform: bool, circle: bool, noise: NoiseModel | None = None
    ) -> None:
        for name, value in (("img_width", img_width), ("radon_view", radon_view)):
            if isinstance(value, bool) or int(value) != value or value < 1:
                raise InputError(f"{name} must be a whole number >= 1, not {value}")
        self.img_width, self.radon_view = int(img_width), int(radon_view)
        self.uniform, self.circle = bool(uniform), bool(circle)
        self.n_detectors = n_detectors_of(self.img_width, self.circle)
        super().__init__((self.img_width, self.img_width), (self.n_detectors, self.radon_view), noise)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments to build it again."""
        return {
            "img_width": self.img_width,
            "radon_view": self.radon_view,
            "uniform": self.uniform,
            "circle": self.circle,
        }

    @property
    def angles(self) -> Tensor:
        """The view angles in degrees, ``[V]``, float64."""
        return torch.from_numpy(view_degrees(self.radon_view, self.uniform))

    def A_dagger_of(self, y: Tensor, kept: Tensor) -> Tensor:
        """Filtered back-projection of some views: each stands for a larger part of the half turn.

        Args:
            y: sinograms ``[B, C, D, V]``.
            kept: ones for these views, ``[1 or B, 1, 1, V]``.
        """
        return self.A_dagger(kept * y) / kept.mean(-1, keepdim=True)

    def extra_repr(self) -> str:
        return f"{self.img_width}, {self.radon_view}, uniform={self.uniform}, circle={self.circle}"


class CT(ParallelBeam):
    """The CT of the paper (section 4.1): images ``[B, C, N, N]``, sinograms ``[B, C, D, V]``. `A` is the Radon
    transform, `A_adjoint` its exact transpose, `A_dagger` the FBP.

    Its matrices take about ``67 * N**2 * V`` bytes. Where that is over 2 GB, a warning says so before they are made.

    Args:
        img_width: N, the side of the square images in pixels.
        radon_view: V, the number of views.
        uniform: views at ``k * 180 / V`` degrees; otherwise at ``k`` degrees, k = 0, ..., V-1.
        circle: the image is zero outside its inscribed circle: D = N detectors instead of ``ceil(sqrt(2) N)``, and the
            FBP is zero outside the circle.
        device: where the matrices are made ready; inputs on another device are served too.
        noise: None or a noise model (see `Physics`).

    The input's dtype is kept. float64 is computed in float64, every other floating-point dtype in float32.

    Raises:
        InputError: for sizes below 1, a geometry whose matrices do not fit in memory, a device that is not there, or
            (when called) a tensor of another shape, or one that does not hold real floating-point values.
    """

    def __init__(
        self,
        img_width: int,
        radon_view: int,
        uniform: bool = True,
        circle: bool = False,
        device: torch.device | str = "cpu",
        noise: NoiseModel | None = None,
    ) -> None:
        super().__init__(img_width, radon_view, uniform, circle, noise)
        pixel_views = self.img_width**2 * self.radon_view
        # Measured (benchmarks/README.md): bytes kept and at most held while they are made, entries of one matrix.
        check_matrix_size(f"CT({img_width}, {radon_view})", 67 * pixel_views, 155 * pixel_views, 2.2 * pixel_views)
        device = device_of(device)
        self.projection(device, torch.float32)
        self.back_projection(device, torch.float32)

    def projection(self, device: torch.device, dtype: torch.dtype) -> LinearMap:
        return self.held(radon_map, self.img_width, self.radon_view, self.uniform, self.circle, device, dtype)

    def back_projection(self, device: torch.device, dtype: torch.dtype) -> LinearMap:
        return self.held(back_projection_map, self.img_width, self.radon_view, self.uniform, self.circle, device, dtype)


def n_detectors_of(img_width: int, circle: bool) -> int:
    # Integers, because sqrt(2)*N in floating point may round across a whole number.
    return img_width if circle else math.isqrt(2 * img_width * img_width - 1) + 1


def view_degrees(radon_view: int, uniform: bool) -> np.ndarray:
    views = np.arange(radon_view, dtype=np.float64)
    return views * (180 / radon_view) if uniform else views


def padding_before(img_width: int, n_detectors: int) -> int:
    """How many zeros stand before the image when it is padded to D x D (one more behind it when D-N is odd)."""
    return n_detectors // 2 - img_width // 2


@shared
def radon_map(
    img_width: int, radon_view: int, uniform: bool, circle: bool, device: torch.device, dtype: torch.dtype
) -> SparseMap:
    """The matrix of `CT.A`, ``[D*V, N*N]``; one for all operators of a geometry, device and dtype."""
    return SparseMap.from_scipy(_radon_matrix(img_width, radon_view, uniform, circle), device, dtype)


@shared
def back_projection_map(
    img_width: int, radon_view: int, uniform: bool, circle: bool, device: torch.device, dtype: torch.dtype
) -> SparseMap:
    """The matrix of the back-projection inside `CT.A_dagger`, ``[N*N, D*V]``; shared like `radon_map`."""
    return SparseMap.from_scipy(_back_projection_matrix(img_width, radon_view, uniform, circle), device, dtype)


def _radon_matrix(img_width: int, radon_view: int, uniform: bool, circle: bool) -> scipy.sparse.csr_array:
    """Radon of view angle t: the image, zero-padded to D x D, is read bilinearly at the turned grid
    ``(xs, ys) = (cos t * x_j + sin t * y_i, -sin t * x_j + cos t * y_i)`` and summed over the rows i."""
    n_detectors = n_detectors_of(img_width, circle)
    before = padding_before(img_width, n_detectors)
    axis = np.arange(n_detectors) - (n_detectors - 1) / 2  # pixels from the centre
    blocks = []
    for angle in np.deg2rad(view_degrees(radon_view, uniform)):
        cos, sin = math.cos(angle), math.sin(angle)
        x_pixel = cos * axis[None, :] + sin * axis[:, None] + (n_detectors - 1) / 2 - before
        y_pixel = -sin * axis[None, :] + cos * axis[:, None] + (n_detectors - 1) / 2 - before
        x_low, y_low = np.floor(x_pixel), np.floor(y_pixel)
        x_part, y_part = x_pixel - x_low, y_pixel - y_low
        detector = np.broadcast_to(np.arange(n_detectors), x_pixel.shape)
        rows, columns, weights = [], [], []
        for x_step, x_weight in ((0, 1 - x_part), (1, x_part)):
            for y_step, y_weight in ((0, 1 - y_part), (1, y_part)):
                x, y, weight = x_low + x_step, y_low + y_step, x_weight * y_weight
                inside = (x >= 0) & (x < img_width) & (y >= 0) & (y < img_width) & (weight > 0)
                rows.append(detector[inside])
                columns.append((y[inside] * img_width + x[inside]).astype(np.int32))
                weights.append(weight[inside])
        entries = (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns)))
        blocks.append(scipy.sparse.coo_array(entries, shape=(n_detectors, img_width**2)).tocsr())
    return views_last(scipy.sparse.vstack(blocks, format="csr"), radon_view, n_detectors)


def _back_projection_matrix(img_width: int, radon_view: int, uniform: bool, circle: bool) -> scipy.sparse.csr_array:
    """Back-projection of view angle t: pixel (x, y) of the D x D grid reads the view linearly at the detector
    ``((x cos t - y sin t) + 1)/2 * (D-1)``; all views are summed and scaled by ``pi/(2V)``."""
    n_detectors = n_detectors_of(img_width, circle)
    before = padding_before(img_width, n_detectors)
    axis = np.arange(before, before + img_width) - (n_detectors - 1) / 2
    x, y = axis[None, :], axis[:, None]
    scale = fbp_scale(img_width, radon_view, circle)
    pixel = np.arange(img_width**2).reshape(img_width, img_width)
    blocks = []
    for angle in np.deg2rad(view_degrees(radon_view, uniform)):
        detector = math.cos(angle) * x - math.sin(angle) * y + (n_detectors - 1) / 2
        low = np.floor(detector)
        part = detector - low
        rows, columns, weights = [], [], []
        for step, weight in ((0, (1 - part) * scale), (1, part * scale)):
            inside = (low + step >= 0) & (low + step < n_detectors) & (weight > 0)
            rows.append((low + step)[inside].astype(np.int32))
            columns.append(pixel[inside])
            weights.append(weight[inside])
        entries = (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns)))
        blocks.append(scipy.sparse.coo_array(entries, shape=(n_detectors, img_width**2)).tocsr())
    transposed = views_last(scipy.sparse.vstack(blocks, format="csr"), radon_view, n_detectors)
    return scipy.sparse.csr_array(transposed.T)


def fbp_scale(img_width: int, radon_view: int, circle: bool) -> np.ndarray:
    """What the FBP multiplies the sum over the views by, ``[N, N]``: ``pi/(2V)``, zero outside the circle if asked."""
    scale = np.full((img_width, img_width), np.pi / (2 * radon_view))
    if circle:
        axis = np.arange(img_width) - (img_width - 1) / 2
        scale[axis[None, :] ** 2 + axis[:, None] ** 2 > ((img_width - 1) / 2) ** 2] = 0
    return scale
