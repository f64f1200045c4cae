"""Tomography without matrices: projections by ASTRA, back-projection view by view.

Matrices of a scan of 1024 x 1024 pixels and 360 views would take 30 GB. ASTRA (van Aarle et al., "Fast and flexible
X-ray tomography using the ASTRA toolbox", 2016; extra ``astra``) projects without them: Joseph's method for parallel
beams, which `ei.physics.scan.projection_map` is, too, and the length of a line in each pixel for fans. Its adjoint on
the CPU is exact to float32's rounding. Inputs on another device are moved to the CPU and back.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
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

Views = Callable[[], Iterator[tuple[np.ndarray, np.ndarray, float]]]


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
    """A projector of ASTRA on the CPU, deleted with this object."""

    def __init__(self, scan: Scan) -> None:
        import astra

        self.scan = scan
        height, width = scan.image_shape
        half_width, half_height = width / 2 * scan.pixel_size, height / 2 * scan.pixel_size
        self.volume = astra.create_vol_geom(height, width, -half_width, half_width, -half_height, half_height)
        self.rays = scan.rays_per_detector  # that are averaged
        self.geometry = _geometry(scan, self.rays)
        kind = "line_fanflat" if scan.fan else "linear"
        self.id = astra.create_projector(kind, self.geometry, self.volume)
        weakref.finalize(self, astra.projector.delete, self.id)

    def forward(self, image: np.ndarray) -> np.ndarray:
        """``[H, W]`` to ``[D, V]``."""
        rays = np.empty((len(self.scan.angles), self.scan.n_detectors * self.rays), np.float32)
        self._run("FP", image, rays)
        return rays.reshape(len(rays), self.scan.n_detectors, self.rays).mean(2).T

    def adjoint(self, sinogram: np.ndarray) -> np.ndarray:
        """``[D, V]`` to ``[H, W]``."""
        image = np.zeros(self.scan.image_shape, np.float32)
        self._run("BP", image, np.repeat(sinogram.T / self.rays, self.rays, axis=1))
        return image

    def _run(self, algorithm: str, image: np.ndarray, rays: np.ndarray) -> None:
        import astra

        image, rays = (array if array.flags.c_contiguous else np.ascontiguousarray(array) for array in (image, rays))
        volume_id = astra.data2d.link("-vol", self.volume, image)
        rays_id = astra.data2d.link("-sino", self.geometry, rays)
        config = astra.astra_dict(algorithm)
        config["ProjectorId"] = self.id
        config["ProjectionDataId"] = rays_id
        config["VolumeDataId" if algorithm == "FP" else "ReconstructionDataId"] = volume_id
        algorithm_id = astra.algorithm.create(config)
        try:
            astra.algorithm.run(algorithm_id)
        finally:
            astra.algorithm.delete(algorithm_id)
            astra.data2d.delete([volume_id, rays_id])


def _geometry(scan: Scan, rays: int) -> Any:
    """ASTRA's vectors of every view, with several rays in a detector: its y points up, that of `ei.physics.scan`
    down."""
    import astra

    u, v = (np.array(vectors) * [1, -1] for vectors in zip(*map(directions, scan.angles), strict=True))
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
        views: gives of each view the detectors at which the pixels lie, the pixels' factors, and a factor of the view.
        n_detectors, n_views: of the views that are read.
        shape: (H, W).
    """

    def places() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Of each view the pixels' detectors in a view with a zero before it and two behind it, what counts there of
        the next detector, and the factors."""
        for place, factor, scale in views():
            place = (place + 1).clip(0, n_detectors + 1)
            index = place.astype(np.int32)
            yield index, (place - index).astype(np.float32), (scale * factor).astype(np.float32)

    def back(sinogram: np.ndarray) -> np.ndarray:
        image = np.zeros(shape, np.float32)
        padded = np.pad(sinogram, ((1, 2), (0, 0))).T
        for view, steps, (index, part, factor) in zip(padded, np.diff(padded), places(), strict=True):
            part *= steps.take(index)
            part += view.take(index)
            part *= factor
            image += part
        return image

    def forward(image: np.ndarray) -> np.ndarray:
        sinogram = np.empty((n_detectors, n_views), np.float32)
        for number, (index, part, factor) in enumerate(places()):
            factor *= image
            part *= factor
            whole, ahead = (np.bincount(index.ravel(), one.ravel(), n_detectors + 3) for one in (factor, part))
            sinogram[:, number] = (whole - ahead)[1:-2] + ahead[:-3]
        return sinogram

    return LinearMap(_ByColumns(back, (n_detectors, n_views)), _ByColumns(forward, shape))
