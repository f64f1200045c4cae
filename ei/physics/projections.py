"""What all tomography shares: how matrices of projection and back-projection act on images and sinograms."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from ei.errors import InputError
from ei.physics.base import NoiseModel, Physics, check_shape
from ei.physics.linear_map import Dense, LinearMap, shared
from ei.physics.moved import degrees_of

Made = TypeVar("Made")
KEPT_MOVED = 4 * 2**30  # bytes of the matrices that one operator keeps of itself in other positions


class Recent(OrderedDict):
    """What was used last, of at most ``most`` bytes together; the latest in any case."""

    most = KEPT_MOVED

    def __getitem__(self, key: Any) -> Any:
        value = super().__getitem__(key)
        self.move_to_end(key)
        return value

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        while len(self) > 1 and sum(getattr(kept, "nbytes", 0) for kept in self.values()) > self.most:
            self.popitem(last=False)


class Projections(Physics):
    """Images ``[B, C, H, W]`` and sinograms ``[B, C, D, V]`` (detectors, views), by two matrices. float64 is computed
    in float64, every other floating-point dtype in float32; the input's dtype is kept. Integers and complex numbers are
    rejected. ``image_shape`` is (H, W), ``measurement_shape`` is (D, V)."""

    def __init__(
        self, image_shape: tuple[int, int], measurement_shape: tuple[int, int], noise: NoiseModel | None
    ) -> None:
        super().__init__(noise)
        self.image_shape = image_shape
        self.measurement_shape = measurement_shape
        self._cache: dict[tuple, Any] = {}
        self._moved_cache = Recent()

    def __getstate__(self) -> dict[str, Any]:
        # A copy finds the matrices again, or makes them.
        return {**self.__dict__, "_cache": {}, "_moved_cache": Recent()}

    def moved(self, element: Any, transform: Any = None) -> Projections:
        """The same scanner turned by g: g is added to the angles of its views, so that ``A.moved(g) x`` is the
        projection of ``x`` turned back, ``A T_g^-1 x``, without interpolating it.

        The matrices of a position are made when they are needed. An operator keeps those of the positions used last,
        4 GiB of them together.

        Args:
            element: g in degrees, any real number, counter-clockwise; or an element of ``transform``.
            transform: a group of rotations (`ei.transforms.Turn`, `Rotate`, `Rotate90`), or None.

        Raises:
            InputError: for an element that is no rotation.
        """
        degrees = degrees_of(element, transform, type(self).__name__)
        if degrees == 0:
            return self
        other = self.copied(self.selected_from)
        other._turn(degrees)
        other._cache = other._moved_cache = self._moved_cache
        return other

    def _turn(self, degrees: float) -> None:
        """Add ``degrees`` to the angles of all views."""
        raise NotImplementedError

    @property
    def step_between_views(self) -> float | None:
        """Degrees between neighbouring views, where they and the detector leave out no line through the image; else
        None."""
        return None

    def cached(self, make: Callable[..., Made], *arguments: Any) -> Made:
        """``make(*arguments)``, kept as long as this operator: freed with the last operator of its geometry."""
        key = (make, *arguments)
        if key not in self._cache:
            with torch.inference_mode(False):  # autograd cannot save a tensor made in that mode
                self._cache[key] = make(*arguments)
        return self._cache[key]

    def projection(self, device: torch.device, dtype: torch.dtype) -> LinearMap:
        """The matrix of `A`, ``[D*V, H*W]``."""
        raise NotImplementedError

    def back_projection(self, device: torch.device, dtype: torch.dtype) -> LinearMap:
        """The matrix of the back-projection inside `A_dagger`, ``[H*W, D'*V]``, of views filtered by `filter_map`."""
        raise NotImplementedError

    def filter_map(self, device: torch.device, dtype: torch.dtype) -> LinearMap:
        """The filter of the views inside `A_dagger`, ``[D', D]``."""
        return self.cached(ramp_filter, self.measurement_shape[0], device, dtype)

    def check_sinogram_shape(self, y: Tensor) -> None:
        """Raise unless ``y`` is ``[B, C, D, V]``."""
        check_shape(y, self.measurement_shape, f"sinograms for {type(self).__name__}")

    @property
    def sampling_mask(self) -> Tensor:
        """All is measured, and the detectors of a view together: ones ``[1, 1, 1, V]``."""
        return torch.ones(1, 1, 1, self.measurement_shape[1])

    def A(self, x: Tensor) -> Tensor:
        """The projections: ``[B, C, H, W]`` to ``[B, C, D, V]``."""
        check_shape(x, self.image_shape, f"images for {type(self).__name__}")
        return _by_columns(self.projection(x.device, compute_dtype(x)), x, self.measurement_shape)

    def A_adjoint(self, y: Tensor) -> Tensor:
        """The transpose of `A`: ``[B, C, D, V]`` to ``[B, C, H, W]``."""
        self.check_sinogram_shape(y)
        return _by_columns(self.projection(y.device, compute_dtype(y)).T, y, self.image_shape)

    def filter(self, y: Tensor) -> Tensor:
        """The ramp filter along the detectors: ``[B, C, D, V]`` to the same. Symmetric and positive definite; with it
        as the weight of `ei.physics.pinv_cg` a few steps suffice."""
        self.check_sinogram_shape(y)
        ramp = self.cached(ramp_filter, self.measurement_shape[0], y.device, compute_dtype(y))
        return _by_columns(lambda columns: self._filter(ramp, columns), y, self.measurement_shape)

    def A_dagger(self, y: Tensor) -> Tensor:
        """Filtered back-projection, an approximate pseudo-inverse: ``[B, C, D, V]`` to ``[B, C, H, W]``."""
        self.check_sinogram_shape(y)
        filter_map = self.filter_map(y.device, compute_dtype(y))
        back_projection = self.back_projection(y.device, compute_dtype(y))
        return _by_columns(lambda columns: back_projection(self._filter(filter_map, columns)), y, self.image_shape)

    def _filter(self, filter_map: LinearMap, columns: Tensor) -> Tensor:
        detectors, views = self.measurement_shape
        filtered = filter_map(columns.contiguous().view(detectors, -1))
        return filtered.reshape(len(filtered) * views, columns.shape[1])


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype in which images or sinograms are computed. Raises `InputError` for integers, whose sums would wrap
    around, and complex values."""
    if not tensor.is_floating_point():
        raise InputError(
            f"images and sinograms must hold real floating-point values, got {tensor.dtype}; convert integers by "
            "x.float(), and pass the real and the imaginary part separately"
        )
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _by_columns(function: Callable[[Tensor], Tensor], tensor: Tensor, shape: tuple[int, int]) -> Tensor:
    """``function`` of ``[B, C, h, w]`` as ``[h*w, B*C]``, every image a column, as ``[B, C, *shape]``."""
    batch, channels, height, width = tensor.shape
    columns = tensor.to(compute_dtype(tensor)).reshape(batch * channels, height * width).t()
    return function(columns).t().contiguous().view(batch, channels, *shape).to(tensor.dtype)


@shared
def ramp_filter(n_detectors: int, device: torch.device, dtype: torch.dtype) -> LinearMap:
    """The ramp filter along the detectors as a ``[D, D]`` Toeplitz matrix.

    It equals the multiplication of the zero-padded spectrum by twice the FFT of the kernel: the padding to at least 2 D
    makes the circular convolution a plain one, of which only the first D samples are kept.
    """
    bins = np.arange(n_detectors)
    matrix = torch.from_numpy(ramp_kernel(np.abs(np.subtract.outer(bins, bins)))).to(device, dtype)
    return LinearMap(Dense(matrix), Dense(matrix.t()))


def ramp_kernel(distance: np.ndarray) -> np.ndarray:
    """Twice the ramp filter between detectors that are so many bins apart (Kak & Slaney, section 3.3.3)."""
    kernel = np.zeros(distance.shape)
    kernel[distance == 0] = 1 / 4
    odd = distance % 2 == 1
    kernel[odd] = -1 / (np.pi * distance[odd]) ** 2
    return 2 * kernel


def linear_weights(place: np.ndarray, count: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Linear interpolation at ``place`` between samples 0, ..., ``count`` - 1: twice, for the sample below and the one
    above, its index, its weight, and where it exists and counts."""
    low = np.floor(place)
    part = place - low
    for sample, weight in ((low, 1 - part), (low + 1, part)):
        yield sample, weight, (sample >= 0) & (sample < count) & (weight > 0)


def back_projection_matrix(
    views: Iterable[tuple[np.ndarray, np.ndarray, float]], n_detectors: int
) -> scipy.sparse.csr_array:
    """The transpose ``[D*V, H*W]`` of the matrix by which every pixel reads each view linearly between two detectors.

    Args:
        views: of each view the detectors at which the pixels lie and the pixels' factors, both ``[H, W]``, and a factor
            of the view.
        n_detectors: D.
    """
    blocks = []
    for place, factor, scale in views:
        pixel = np.arange(place.size).reshape(place.shape)
        weights, rows, columns = [], [], []
        for detector, weight, inside in linear_weights(place, n_detectors):
            inside &= factor > 0
            rows.append(detector[inside].astype(np.int32))
            columns.append(pixel[inside])
            weights.append((weight * factor)[inside] * scale)
        entries = (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns)))
        blocks.append(scipy.sparse.coo_array(entries, shape=(n_detectors, place.size)).tocsr())
    return views_last(blocks)


def views_last(blocks: Sequence[scipy.sparse.csr_array]) -> scipy.sparse.csr_array:
    """One matrix of those of all views, ``[D, n]`` each: its rows ordered (detector, view), as a sinogram is."""
    order = np.arange(len(blocks) * blocks[0].shape[0]).reshape(len(blocks), -1).T.ravel()
    return scipy.sparse.vstack(blocks, format="csr")[order]
