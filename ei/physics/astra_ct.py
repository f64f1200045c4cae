"""Parallel-beam CT by ASTRA: an independent projector, and one that needs no matrix on a GPU.

Needs the extra ``astra``: pip install 'equivariant-imaging[astra]' (wheels for Linux x86-64 and Windows). Experimental
on CUDA: that path (`_OnTheFly`) has never run.
"""

from __future__ import annotations

import functools
import importlib
import math
import weakref
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from ei.errors import InputError, MissingExtraError
from ei.physics.base import NoiseModel
from ei.physics.ct import ParallelBeam, fbp_scale, n_detectors_of, padding_before, view_degrees, views_last
from ei.physics.linear_map import LinearMap, SparseMap, check_matrix_size, shared

# Entries of the matrix for each pixel and view, measured at N = 64 to 256.
PROJECTORS = {"linear": 1.81, "strip": 3.2, "line": 1.28}


class AstraCT(ParallelBeam):
    """CT with ASTRA's projectors, in the geometry and layout of `CT`: images ``[B, C, N, N]``, sinograms
    ``[B, C, D, V]``.

    On the CPU, `A` is ASTRA's projection matrix and `A_adjoint` its exact transpose. On CUDA (experimental: never run),
    ASTRA projects torch's memory in place, without a matrix; its back-projector serves as `A_adjoint` and in the
    backward pass, and is a transpose only approximately. `A_dagger` is the ramp filter of `CT` and then
    `A_adjoint`, at the scale of `CT`.

    Args:
        img_width: N, the side of the square images in pixels.
        radon_view: V, the number of views.
        uniform: views at ``k * 180 / V`` degrees; otherwise at ``k`` degrees, k = 0, ..., V-1.
        circle: D = N detectors instead of ``ceil(sqrt(2) N)``, and the FBP is zero outside the inscribed circle.
        projector: "linear" (Joseph's), "strip" or "line": how a ray weighs pixels. CUDA has ASTRA's linear one only.
        device: where it is made ready; inputs on another device are served too.
        noise: None or a noise model (see `Physics`).

    Raises:
        MissingExtraError: without ASTRA.
        InputError: for sizes below 1, an unknown projector, a matrix that does not fit in memory, or (when called) a
            tensor of another shape.
    """

    def __init__(
        self,
        img_width: int,
        radon_view: int,
        uniform: bool = True,
        circle: bool = False,
        projector: str = "linear",
        device: torch.device | str = "cpu",
        noise: NoiseModel | None = None,
    ) -> None:
        super().__init__(img_width, radon_view, uniform, circle, noise)
        _astra()
        if projector not in PROJECTORS:
            raise InputError(f"projector must be one of {', '.join(PROJECTORS)}, not {projector!r}")
        self.projector = projector
        self.projection(torch.empty(0, device=device).device, torch.float32)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments to build it again."""
        return {**super().config, "projector": self.projector}

    def projection(self, device: torch.device, dtype: torch.dtype) -> LinearMap:
        geometry = (self.img_width, self.radon_view, self.uniform, self.circle)
        if device.type == "cuda":
            if self.projector != "linear":
                raise InputError(f"on CUDA, ASTRA has the projector 'linear' only, not {self.projector!r}")
            return _OnTheFly(*geometry)
        return self.held(_matrix_map, *geometry, self.projector, device, dtype)

    def back_projection(self, device: torch.device, dtype: torch.dtype) -> LinearMap:
        scale = torch.from_numpy(fbp_scale(self.img_width, self.radon_view, self.circle))
        return _Scaled(self.projection(device, dtype).T, scale.to(device, dtype).view(-1, 1))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, projector={self.projector!r}"


class _Scaled(LinearMap):
    """A linear map whose outputs are multiplied by ``scale`` ``[rows, 1]``; only applied, never transposed."""

    def __init__(self, linear_map: LinearMap, scale: Tensor) -> None:
        self.linear_map, self.scale = linear_map, scale

    def __call__(self, vectors: Tensor) -> Tensor:
        return self.scale * self.linear_map(vectors)


def _astra() -> Any:
    try:
        return importlib.import_module("astra")
    except ImportError as error:
        raise MissingExtraError(
            "AstraCT needs ASTRA: pip install 'equivariant-imaging[astra]' (astra-toolbox; Linux x86-64 and Windows)"
        ) from error


def _off_axis(img_width: int, n_detectors: int) -> float:
    """How far the image's centre lies from the axis of rotation, right and down: half a pixel when D-N is odd."""
    return padding_before(img_width, n_detectors) + (img_width - 1) / 2 - (n_detectors - 1) / 2


def _angles(radon_view: int, uniform: bool) -> np.ndarray:
    return np.deg2rad(view_degrees(radon_view, uniform))


@shared
def _matrix_map(
    img_width: int,
    radon_view: int,
    uniform: bool,
    circle: bool,
    projector: str,
    device: torch.device,
    dtype: torch.dtype,
) -> SparseMap:
    entries = PROJECTORS[projector] * img_width**2 * radon_view
    check_matrix_size(f"AstraCT({img_width}, {radon_view})", 16 * entries, 55 * entries, entries)
    astra = _astra()
    n_detectors = n_detectors_of(img_width, circle)
    half, off = img_width / 2, _off_axis(img_width, n_detectors)
    # In ASTRA's volumes rows go down while y goes up.
    volume = astra.create_vol_geom(img_width, img_width, -half + off, half + off, -half - off, half - off)
    rays = astra.create_proj_geom("parallel", 1.0, n_detectors, _angles(radon_view, uniform))
    identifier = astra.create_projector(projector, rays, volume)
    matrix_identifier = astra.projector.matrix(identifier)
    try:
        matrix = scipy.sparse.csr_array(astra.matrix.get(matrix_identifier))
    finally:
        astra.matrix.delete(matrix_identifier)
        astra.projector.delete(identifier)
    return SparseMap.from_scipy(views_last(matrix, radon_view, n_detectors), device, dtype)


class _OnTheFly(LinearMap):
    """ASTRA's forward projector on CUDA, and its back-projector as the transpose. Images and channels are the slices
    of one volume. ASTRA computes in float32."""

    def __init__(self, img_width: int, radon_view: int, uniform: bool, circle: bool, transposed: bool = False) -> None:
        self.geometry, self.transposed = (img_width, radon_view, uniform, circle), transposed

    @property
    def T(self) -> _OnTheFly:
        return _OnTheFly(*self.geometry, transposed=not self.transposed)

    def multiply(self, vectors: Tensor) -> Tensor:
        importlib.import_module("astra.experimental")
        experimental = _astra().experimental
        img_width, radon_view, _, circle = self.geometry
        n_detectors, slices = n_detectors_of(img_width, circle), vectors.shape[1]
        identifier = _projector_3d(*self.geometry, slices).identifier
        given = vectors.t().float()
        if self.transposed:
            # columns are ordered (detector, view), ASTRA's projections (slice, view, detector)
            projections = given.reshape(slices, n_detectors, radon_view).transpose(1, 2).contiguous()
            volume = given.new_zeros(slices, img_width, img_width)
        else:
            volume = given.reshape(slices, img_width, img_width).contiguous()
            projections = given.new_zeros(slices, radon_view, n_detectors)
        torch.cuda.current_stream(vectors.device).synchronize()  # ASTRA has streams of its own
        if self.transposed:
            experimental.direct_BP3D(identifier, volume, projections)
            return volume.view(slices, -1).t().to(vectors.dtype)
        experimental.direct_FP3D(identifier, volume, projections)
        return projections.transpose(1, 2).reshape(slices, -1).t().to(vectors.dtype)


@functools.lru_cache(maxsize=16)
def _projector_3d(img_width: int, radon_view: int, uniform: bool, circle: bool, slices: int) -> _Projector:
    astra = _astra()
    n_detectors = n_detectors_of(img_width, circle)
    off = _off_axis(img_width, n_detectors)
    # In coordinates (right, down, slice) about the image's centre: the ray's direction, the detector's centre (the
    # axis of rotation), the steps between its columns and rows.
    vectors = np.array(
        [
            (math.sin(t), math.cos(t), 0, -off, -off, 0, math.cos(t), -math.sin(t), 0, 0, 0, 1)
            for t in _angles(radon_view, uniform)
        ]
    )
    rays = astra.create_proj_geom("parallel3d_vec", slices, n_detectors, vectors)
    return _Projector(astra.create_projector("cuda3d", rays, astra.create_vol_geom(img_width, img_width, slices)))


class _Projector:
    """A projector in ASTRA's memory, given back when nobody holds it."""

    def __init__(self, identifier: int) -> None:
        self.identifier = identifier
        weakref.finalize(self, _astra().projector.delete, identifier)
