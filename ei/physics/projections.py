"""What all tomography shares: how matrices of projection and back-projection act on images and sinograms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from ei.errors import InputError
from ei.physics.base import NoiseModel, Physics, check_shape
from ei.physics.linear_map import DenseMap, LinearMap, shared

Held = TypeVar("Held")


class Projections(Physics):
    """Images ``[B, C, H, W]`` and sinograms ``[B, C, D, V]`` (detectors, views), by two matrices. float64 is computed
    in float64, every other floating-point dtype in float32; the input's dtype is kept. Whole and complex numbers are
    refused.

    Args:
        image_shape: (H, W).
        measurement_shape: (D, V).
        noise: None or a noise model (see `Physics`).
    """

    def __init__(
        self, image_shape: tuple[int, int], measurement_shape: tuple[int, int], noise: NoiseModel | None
    ) -> None:
        super().__init__(noise)
        self.image_shape, self.measurement_shape = image_shape, measurement_shape
        self._maps: dict[tuple, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}  # a copy finds them again, or makes them

    def held(self, find: Callable[..., Held], *arguments: Any) -> Held:
        """What ``find(*arguments)`` gives, kept as long as this operator is there: it is freed with the last operator
        of its geometry."""
        key = (find, *arguments)
        if key not in self._maps:
            self._maps[key] = find(*arguments)
        return self._maps[key]

    def projection(self, device: torch.device, dtype: torch.dtype) -> LinearMap:
        """The matrix of `A`, ``[D*V, H*W]``."""
        raise NotImplementedError

    def back_projection(self, device: torch.device, dtype: torch.dtype) -> LinearMap:
        """The matrix of the back-projection inside `A_dagger`, ``[H*W, D*V]``; it takes what `ramp_filter` gives."""
        raise NotImplementedError

    def check_sinogram_shape(self, y: Tensor) -> None:
        """Raise unless ``y`` is ``[B, C, D, V]``."""
        check_shape(y, self.measurement_shape, f"sinograms for {type(self).__name__}")

    @property
    def sampling_mask(self) -> Tensor:
        """All; the detectors of a view are measured together: ones ``[1, 1, 1, V]``."""
        return torch.ones(1, 1, 1, self.measurement_shape[1])

    def A(self, x: Tensor) -> Tensor:
        """The projections: ``[B, C, H, W]`` to ``[B, C, D, V]``."""
        check_shape(x, self.image_shape, f"images for {type(self).__name__}")
        return _apply(self.projection(x.device, compute_dtype(x)), x, self.measurement_shape)

    def A_adjoint(self, y: Tensor) -> Tensor:
        """The transpose of `A`: ``[B, C, D, V]`` to ``[B, C, H, W]``."""
        self.check_sinogram_shape(y)
        return _apply(self.projection(y.device, compute_dtype(y)).T, y, self.image_shape)

    def filter(self, y: Tensor) -> Tensor:
        """The ramp filter along the detectors: ``[B, C, D, V]`` to the same. Symmetric and positive definite; as the
        weight of `ei.physics.pinv_cg` lets a few steps do what takes many without."""
        self.check_sinogram_shape(y)
        filtered = self._filtered(to_columns(y.to(compute_dtype(y))))
        return from_columns(filtered, y.shape[0], y.shape[1], self.measurement_shape).to(y.dtype)

    def A_dagger(self, y: Tensor) -> Tensor:
        """Filtered back-projection, an approximate pseudo-inverse: ``[B, C, D, V]`` to ``[B, C, H, W]``."""
        self.check_sinogram_shape(y)
        dtype = compute_dtype(y)
        back_projection = self.back_projection(y.device, dtype)
        filtered = self._filtered(to_columns(y.to(dtype)))
        return from_columns(back_projection(filtered), y.shape[0], y.shape[1], self.image_shape).to(y.dtype)

    def _filtered(self, columns: Tensor) -> Tensor:
        detectors = self.measurement_shape[0]
        ramp = self.held(ramp_filter, detectors, columns.device, columns.dtype)
        columns = columns.contiguous()
        return ramp(columns.view(detectors, -1)).view_as(columns)


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """What a tensor of images or sinograms is computed in.

    Raises:
        InputError: for values that are not real floating-point: sums of whole numbers would wrap around in their own
            type, and of complex ones the imaginary part would be lost.
    """
    if not tensor.is_floating_point():
        raise InputError(
            f"images and sinograms must hold real floating-point values, not {tensor.dtype}: of whole numbers give "
            "x.float(), of complex ones the real and the imaginary part one after the other"
        )
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def to_columns(tensor: Tensor) -> Tensor:
    """``[B, C, h, w]`` to ``[h*w, B*C]``: every image a column."""
    batch, channels, height, width = tensor.shape
    return tensor.reshape(batch * channels, height * width).t()


def from_columns(columns: Tensor, batch: int, channels: int, shape: tuple[int, int]) -> Tensor:
    return columns.t().contiguous().view(batch, channels, *shape)


def _apply(linear_map: LinearMap, tensor: Tensor, shape: tuple[int, int]) -> Tensor:
    batch, channels = tensor.shape[:2]
    columns = to_columns(tensor.to(compute_dtype(tensor)))
    return from_columns(linear_map(columns), batch, channels, shape).to(tensor.dtype)


@shared
def ramp_filter(n_detectors: int, device: torch.device, dtype: torch.dtype) -> DenseMap:
    """The ramp filter along the detectors as a ``[D, D]`` Toeplitz matrix.

    It equals the multiplication of the zero-padded spectrum by twice the FFT of the kernel: the padding to at least 2 D
    makes the circular convolution a plain one, of which only the first D samples are kept.
    """
    distance = np.abs(np.subtract.outer(np.arange(n_detectors), np.arange(n_detectors)))
    kernel = np.zeros(distance.shape)
    kernel[distance == 0] = 1 / 4
    odd = distance % 2 == 1
    kernel[odd] = -1 / (np.pi * distance[odd]) ** 2
    return DenseMap(torch.from_numpy(2 * kernel).to(device, dtype))


def views_last(matrix: scipy.sparse.csr_array, radon_view: int, n_detectors: int) -> scipy.sparse.csr_array:
    """Rows ordered (view, detector) reordered as the sinogram is: (detector, view)."""
    order = np.arange(radon_view * n_detectors).reshape(radon_view, n_detectors).T.ravel()
    return matrix[order]
