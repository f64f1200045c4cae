"""Tomography without matrices: projections by ASTRA, back-projection view by view.

Matrices of a scan of 1024 x 1024 pixels and 360 views would take 30 GB. ASTRA (van Aarle et al., "Fast and flexible
X-ray tomography using the ASTRA toolbox", 2016; extra ``astra``) projects without them: Joseph's method for parallel
beams, which `ei.physics.scan.projection_map` is, too, and the length of a line in each pixel for fans. Its adjoint on
the CPU is exact to float32's rounding. Inputs on another device are moved to the CPU and back. As many threads as torch
has share the views of one image.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ei.errors import InputError, MissingExtraError
from ei.physics.linear_map import LinearMap, shared
from ei.physics.scan import Scan, directions

ENGINES = ("auto", "matrix", "astra")
# The matrices may take this part of the memory that is free.
PART_OF_MEMORY = 0.25
# Threads share views and rows in so many parts: results do not depend on the number of threads.
PARTS = 16
# Pixels whose place in a view is computed at a time: few enough for the cache of a core.
BLOCK = 2**15

Views = Callable[[Sequence[int], slice], Iterator[tuple[np.ndarray, np.ndarray, float]]]
Part = tuple[slice, Any, int]  # some of the views, their geometry in ASTRA and their projector


def free_memory() -> float:
    """Bytes that processes can still take, by Linux's own estimate; infinite on other systems."""
    try:
        with open("/proc/meminfo") as file:
            fields = dict(line.split(":") for line in file)
        return 1024.0 * float(fields["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return math.inf


def has_astra() -> bool:
    try:
        import astra  # noqa: F401
    except ImportError:
        return False
    return True


def choose_engine(engine: str, scan: Scan, needed: float) -> str:
    """ "matrix" or "astra": what the user chose, or for "auto" matrices while they need less than a quarter of the free
    memory. They need ``needed`` bytes while they are made.

    Raises:
        MissingExtraError: if ASTRA is needed and not installed.
        InputError: for ASTRA with a curved detector, which it does not have.
    """
    available = free_memory()
    if engine == "auto":
        if needed <= PART_OF_MEMORY * available or scan.detector == "curved":
            return "matrix"
        if not has_astra():
            raise MissingExtraError(
                f"the matrices of this scan would need {needed / 1e9:.1f} GB, and {available / 1e9:.1f} GB are free; "
                "projections without them need ASTRA: pip install 'equivariant-imaging[astra]'; or set engine=matrix"
            )
        return "astra"
    if engine == "astra" and scan.detector == "curved":
        raise InputError("ASTRA has no curved detector: use engine=matrix, with larger bins where memory is short")
    if engine == "astra" and not has_astra():
        raise MissingExtraError("engine=astra needs ASTRA: pip install 'equivariant-imaging[astra]'")
    return engine


class _Projector:
    """Projectors of ASTRA on the CPU, one of each part of the views, deleted with this object."""

    def __init__(self, scan: Scan) -> None:
        import astra

        self.scan = scan
        height, width = scan.image_shape
        half_width, half_height = width / 2 * scan.pixel_size, height / 2 * scan.pixel_size
        self.volume = astra.create_vol_geom(height, width, -half_width, half_width, -half_height, half_height)
        self.rays = scan.rays_per_detector  # that are averaged
        self.parts: list[Part] = []
        kind = "line_fanflat" if scan.fan else "linear"
        for views in _parts(len(scan.angles)):
            geometry = _geometry(scan, views, self.rays)
            projector = astra.create_projector(kind, geometry, self.volume)
            weakref.finalize(self, astra.projector.delete, projector)
            self.parts.append((views, geometry, projector))

    def forward(self, image: np.ndarray) -> np.ndarray:
        """``[H, W]`` to ``[D, V]``."""
        rays = np.empty((len(self.scan.angles), self.scan.n_detectors * self.rays), np.float32)

        def project(part: Part) -> None:
            self._run("FP", part, image, rays[part[0]])

        _in_threads(project, self.parts)
        return rays.reshape(len(rays), self.scan.n_detectors, self.rays).mean(2).T

    def adjoint(self, sinogram: np.ndarray) -> np.ndarray:
        """``[D, V]`` to ``[H, W]``."""
        rays = np.repeat(sinogram.T / self.rays, self.rays, axis=1)

        def back_project(part: Part) -> np.ndarray:
            image = np.zeros(self.scan.image_shape, np.float32)
            self._run("BP", part, image, rays[part[0]])
            return image

        return sum(_in_threads(back_project, self.parts))

    def _run(self, algorithm: str, part: Part, image: np.ndarray, rays: np.ndarray) -> None:
        import astra

        _, geometry, projector = part
        volume_id = astra.data2d.link("-vol", self.volume, image)
        rays_id = astra.data2d.link("-sino", geometry, rays)
        config = astra.astra_dict(algorithm)
        config["ProjectorId"] = projector
        config["ProjectionDataId"] = rays_id
        config["VolumeDataId" if algorithm == "FP" else "ReconstructionDataId"] = volume_id
        algorithm_id = astra.algorithm.create(config)
        try:
            astra.algorithm.run(algorithm_id)
        finally:
            astra.algorithm.delete(algorithm_id)
            astra.data2d.delete([volume_id, rays_id])


def _parts(n: int) -> list[slice]:
    """``range(n)`` in at most `PARTS` parts of nearly one length."""
    ends = np.linspace(0, n, min(PARTS, n) + 1).astype(int)
    return [slice(start, end) for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)]


def _in_threads(function: Callable, parts: Iterable) -> list:
    """The results of ``function`` for each part, in order, by as many threads as torch has."""
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return list(pool.map(function, parts))


def _geometry(scan: Scan, views: slice, rays: int) -> Any:
    """ASTRA's vectors of these views, with several rays in a detector: its y points up, that of `ei.physics.scan`
    down."""
    import astra

    u, v = (np.array(vectors) * [1, -1] for vectors in zip(*map(directions, scan.angles[views]), strict=True))
    middle = -scan.centre * scan.detector_spacing * u
    between = scan.detector_spacing / rays * u
    if scan.source_origin is None:
        return astra.create_proj_geom("parallel_vec", scan.n_detectors * rays, np.hstack([v, middle, between]))
    vectors = np.hstack([scan.source_origin * v, middle - (scan.origin_detector or 0.0) * v, between])
    return astra.create_proj_geom("fanflat_vec", scan.n_detectors * rays, vectors)


class _ByColumns:
    """A product as of a matrix, computed on the CPU in float32, column by column."""

    def __init__(self, function: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...]) -> None:
        self.function = function
        self.shape = shape  # of one input

    def multiply(self, vectors: Tensor) -> Tensor:
        """The product with ``vectors`` ``[columns, K]``."""
        columns = vectors.detach().to("cpu", torch.float32).t().contiguous().numpy()
        results = [self.function(column.reshape(self.shape)).reshape(-1) for column in columns]
        product = np.stack(results, 1) if results else np.zeros((0, 0), np.float32)
        return torch.from_numpy(product).to(vectors.device, vectors.dtype)


@shared
def astra_map(scan: Scan, device: torch.device, dtype: torch.dtype) -> LinearMap:
    """`Tomography.A` without a matrix."""
    projector = _Projector(scan)
    return LinearMap(
        _ByColumns(projector.forward, scan.image_shape),
        _ByColumns(projector.adjoint, (scan.n_detectors, len(scan.angles))),
    )


def view_by_view(views: Views, n_detectors: int, n_views: int, shape: tuple[int, int]) -> LinearMap:
    """The back-projection of `ei.physics.projections.back_projection_matrix` without its matrix.

    Args:
        views: gives of each of these views, in these rows of the image, the detectors at which the pixels lie, the
            pixels' factors, and a factor of the view.
        n_detectors, n_views: of the views that are read.
        shape: (H, W).
    """
    reader = _Reader(views, n_detectors, n_views, shape)
    return LinearMap(_ByColumns(reader.back, (n_detectors, n_views)), _ByColumns(reader.forward, shape))


class _Reader:
    """Reads views linearly between two detectors, in blocks of rows."""

    def __init__(self, views: Views, n_detectors: int, n_views: int, shape: tuple[int, int]) -> None:
        self.views, self.n_detectors, self.n_views, self.shape = views, n_detectors, n_views, shape
        height, width = shape
        step = max(1, BLOCK // width)
        self.blocks = [slice(start, min(start + step, height)) for start in range(0, height, step)]

    def back(self, sinogram: np.ndarray) -> np.ndarray:
        """``[D, V]`` to ``[H, W]``."""
        image = np.zeros(self.shape, np.float32)
        padded = np.ascontiguousarray(np.pad(sinogram, ((1, 2), (0, 0))).T)
        steps = np.diff(padded)

        def add(rows: slice) -> None:
            for number, index, part, factor in self._places(range(self.n_views), rows):
                part *= steps[number].take(index)
                part += padded[number].take(index)
                part *= factor
                image[rows] += part

        _in_threads(add, self.blocks)
        return image

    def forward(self, image: np.ndarray) -> np.ndarray:
        """Its transpose, ``[H, W]`` to ``[D, V]``."""
        sinogram = np.zeros((self.n_detectors, self.n_views), np.float32)

        def add(views: slice) -> None:
            for rows in self.blocks:
                for number, index, part, factor in self._places(range(self.n_views)[views], rows):
                    factor = factor * image[rows]
                    part *= factor
                    whole, ahead = (np.bincount(index.ravel(), v.ravel(), self.n_detectors + 3) for v in (factor, part))
                    sinogram[:, number] += (whole - ahead)[1:-2] + ahead[:-3]

        _in_threads(add, _parts(self.n_views))
        return sinogram

    def _places(self, numbers: Sequence[int], rows: slice) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
        """Of each view its number, the pixels' detectors in a view with a zero before it and two behind it, what counts
        there of the next detector, and the factors."""
        for number, (place, factor, scale) in zip(numbers, self.views(numbers, rows), strict=True):
            place = np.clip(place + 1, 0, self.n_detectors + 1)
            index = place.astype(np.intp)
            yield number, index, (place - index).astype(np.float32), np.float32(scale) * factor.astype(np.float32)
