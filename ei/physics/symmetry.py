"""Scans that look alike from several sides keep the matrix of a few views, on the CPU.

With F the mirror image (left to right) and R a quarter turn counter-clockwise, the views of an image x are

    A_(t + 90) x = A_t R^-1 x        A_(-t) x = A_t F x with its detectors in reverse order

and those of a parallel beam come back after half a turn, in reverse order. Where such elements map the angles of a scan
to each other, as they do for uniform views, one view of each orbit suffices: it is multiplied by mirrored and turned
copies of the image. 50 views over half a turn need the matrix of 13, and its product with four copies takes less than
half the time, since the traffic of its entries is what limits it. It equals the whole matrix to rounding.
"""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from ei.physics.linear_map import CSR, LinearMap

# Angles that differ by less than a part of a degree are equal; copies may be so many times the views that are needed;
# of more views the symmetry is not computed, since that takes seconds.
PARTS_OF_DEGREE, MOST_COPIES, MOST_VIEWS = 1e8, 1.5, 10_000
# A row of so many bytes is moved as one value, several times as fast.
_VALUES = {4: torch.float32, 8: torch.float64, 16: torch.complex128}


@dataclass(frozen=True)
class Symmetry:
    """Which views give the others.

    Args:
        elements: (mirrored, k) each, for the copies F R^-k x and R^-k x.
        kept: the views whose matrix is kept.
        sources: of every view the place in ``kept``, the element, and whether its detectors are reversed, ``[V, 3]``.
    """

    elements: tuple[tuple[bool, int], ...]
    kept: tuple[int, ...]
    sources: tuple[tuple[int, int, bool], ...]


def symmetry_of(angles: Sequence[float], square: bool, half_turn: bool, reversible: bool) -> Symmetry | None:
    """The symmetry of a scan that needs the fewest views, or None where it has none.

    Args:
        angles: of all views, in degrees.
        square: whether the image is; others have no quarter turns.
        half_turn: whether a view comes back after half a turn, reversed: in a parallel beam.
        reversible: whether the axis falls on the middle of the detector.
    """
    if len(angles) > MOST_VIEWS:
        return None
    periods = (180, 360) if half_turn else (360,)
    found = [_orbits(np.asarray(angles), period, square, reversible) for period in periods]
    worthwhile = [
        one
        for one in found
        if len(one.elements) > 1 and len(one.kept) * len(one.elements) <= MOST_COPIES * len(one.sources)
    ]
    return min(worthwhile, key=lambda one: len(one.kept), default=None)


def views_kept(symmetry: Symmetry | None, n_views: int, device: torch.device) -> int:
    """Of how many of its views `map_of_views` keeps the matrix."""
    return n_views if symmetry is None or device.type == "cuda" else len(symmetry.kept)


def _orbits(angles: np.ndarray, period: int, square: bool, reversible: bool) -> Symmetry:
    """The elements that map the angles to each other, modulo ``period``, and the first view of each orbit."""
    moved = _moved_angles(angles, period, square, reversible)
    images = [_parts(degrees, period) for degrees in moved.values()]
    left = defaultdict(list)  # views at each place that no other one gives so far, the first one last
    for view, place in reversed(list(enumerate(_parts(angles, period)))):
        left[place].append(view)
    kept: list[int] = []
    sources: dict[int, tuple[int, int, bool]] = {}
    for view in range(len(angles)):
        if view in sources:
            continue
        for number, ((mirrored, _), degrees) in enumerate(moved.items()):
            if left[images[number][view]]:
                other = left[images[number][view]].pop()
                half_turned = period == 180 and round((degrees[view] - angles[other]) / 180) % 2 == 1
                sources[other] = (len(kept), number, mirrored != half_turned)
        kept.append(view)
    return Symmetry(tuple(moved), tuple(kept), tuple(sources[view] for view in range(len(angles))))


def _moved_angles(
    angles: np.ndarray, period: int, square: bool, reversible: bool
) -> dict[tuple[bool, int], np.ndarray]:
    """The angles of all views under each element that maps them to each other."""
    moved = {
        (mirrored, quarters): (-angles if mirrored else angles) + 90 * quarters
        for mirrored in ((False, True) if reversible else (False,))
        for quarters in range(0, period // 90, 1 if square else 2)
        if reversible or quarters == 0 or period == 360
    }
    present = Counter(_parts(angles, period))
    return {element: degrees for element, degrees in moved.items() if Counter(_parts(degrees, period)) == present}


def _parts(degrees: np.ndarray, period: int) -> list[int]:
    # The remainder first: parts of many turns would overflow.
    return (np.rint(degrees % period * PARTS_OF_DEGREE).astype(np.int64) % round(period * PARTS_OF_DEGREE)).tolist()


@dataclass(frozen=True)
class OfCopies:
    """A matrix as sums of rows of the product of a smaller one with rearranged copies of the vectors."""

    matrix: CSR
    before: Tensor  # int32 [columns of the smaller one * copies]: rows of the vectors; the one behind the last is zero
    after: Tensor  # [terms, rows]: rows of the product, whose copies are taken apart

    def multiply(self, vectors: Tensor) -> Tensor:
        """The product with ``vectors`` ``[columns, K]``."""
        return self._product(vectors, self.matrix.multiply, _take)

    def gather(self, vectors: Tensor) -> Tensor:
        """`multiply` in plain operations, for graphs that are exported."""
        return self._product(vectors, self.matrix.gather, lambda rows, index: rows.index_select(0, index))

    def _product(
        self,
        vectors: Tensor,
        multiply: Callable[[Tensor], Tensor],
        take: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        count = vectors.shape[1]
        height, width = self.matrix.shape
        copies = len(self.before) // width
        padded = torch.cat([vectors, vectors.new_zeros(1, count)])
        product = multiply(take(padded, self.before).view(width, copies * count))
        rows = take(product.reshape(height * copies, count), self.after.flatten())
        terms, length = self.after.shape
        return rows.view(terms, length, count).sum(0) if terms > 1 else rows


def _take(vectors: Tensor, rows: Tensor) -> Tensor:
    """These rows of contiguous ``vectors`` ``[n, K]``."""
    count = vectors.shape[1]
    value = _VALUES.get(count * vectors.element_size())
    if value is not None:
        with contextlib.suppress(RuntimeError):  # batched gradients (jacobian(vectorize=True)) have no other dtype
            return vectors.view(value).view(-1).index_select(0, rows).view(vectors.dtype).view(-1, count)
    return vectors.index_select(0, rows)


def map_of_views(
    make: Callable[[Sequence[int], tuple[int, int]], scipy.sparse.csr_array],
    symmetry: Symmetry | None,
    n_views: int,
    image_shape: tuple[int, int],
    frame: tuple[int, int] | None = None,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> LinearMap:
    """The map of all views, ``[D*V, H*W]``; on a GPU the whole matrix.

    Args:
        make: the matrix of some of the views, ``[D*n, h*w]``, of images of shape (h, w).
        symmetry: of the scan; None for the whole matrix.
        n_views: V.
        image_shape: (H, W).
        frame: (side, before) where the axis is not the middle of the image, but that of a square around it, in which
            the image begins behind so many rows and columns.
        device, dtype: of the matrices.
    """
    if symmetry is None or views_kept(symmetry, n_views, device) == n_views:
        return LinearMap.from_scipy(make(range(n_views), image_shape), device, dtype)
    side, first = frame or (0, 0)
    shape = (side, side) if frame else image_shape
    matrix = make(symmetry.kept, shape)
    height, width = image_shape
    n_pixels, copies, kept = height * width, len(symmetry.elements), len(symmetry.kept)
    pixels = np.full(shape, n_pixels)
    pixels[first : first + height, first : first + width] = np.arange(n_pixels).reshape(image_shape)
    moved = [np.rot90(pixels, -quarters) for _, quarters in symmetry.elements]
    moved = [np.fliplr(one) if mirrored else one for one, (mirrored, _) in zip(moved, symmetry.elements, strict=True)]
    of_pixels = np.stack([one.ravel() for one in moved], -1).ravel()

    detectors = np.arange(matrix.shape[0] // kept)
    of_rays = np.stack(
        [
            ((detectors[::-1] if is_reversed else detectors) * kept + view) * copies + element
            for view, element, is_reversed in symmetry.sources
        ],
        -1,
    ).ravel()
    # Back: every row of the product is one ray, or none; a pixel is the sum over its places in the copies.
    rays = np.full(len(detectors) * kept * copies, len(of_rays))
    rays[of_rays] = np.arange(len(of_rays))
    places = of_pixels.argsort(kind="stable")[: n_pixels * copies].reshape(n_pixels, copies).T

    def index(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int32)).to(device)

    return LinearMap(
        OfCopies(CSR.from_scipy(matrix, device, dtype), index(of_pixels), index(of_rays[None])),
        OfCopies(CSR.from_scipy(scipy.sparse.csr_array(matrix.T), device, dtype), index(rays), index(places)),
    )
