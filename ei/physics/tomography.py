"""Tomography with any two-dimensional scanner."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ei.common.arrays import ANGLES, FileArray, in_degrees
from ei.common.checks import check_choice, check_number, check_optional
from ei.common.devices import device_of
from ei.common.white_noise import white_noise
from ei.errors import InputError
from ei.physics.base import NoiseModel, check_indices
from ei.physics.fbp import (
    back_projection_by_views,
    back_projection_map,
    extension_radius,
    filter_map,
    is_displaced,
    misses_views,
    period,
    ray_weights,
    sides,
    step_between_views,
    view_weights,
)
from ei.physics.linear_map import LinearMap, check_matrix_size
from ei.physics.matrix_free import ENGINES, astra_map, choose_engine, free_memory
from ei.physics.projections import Projections
from ei.physics.scan import Scan, projection_map
from ei.physics.symmetry import views_kept

# Views whose outermost values are so large a part of their mean end inside the object.
EDGE = 0.1


class Tomography(Projections):
    """A parallel or fan beam: images ``[B, C, H, W]``, sinograms ``[B, C, D, V]``. `A` gives line integrals in the
    unit of the lengths, `A_adjoint` is its exact transpose, `A_dagger` filtered back-projection.

    `ei.physics.scan` defines the orientation, docs/reference/conventions.md shows it. The matrix of `A` is made at
    once, that of `A_dagger` at its first call; where they take more than 2 GB, a warning comes before.

    Args:
        image_shape: (H, W).
        angles: of the V views in degrees, as in the sinogram; any order, any range. Or the path of a file of them
            (`ei.common.arrays.FileArray`; of several arrays "angles" is read). Of n scans that differ: ``[n, V]``, or a
            list of n lists of any lengths or of n paths; `of` gives the operator of some of them.
        n_detectors: D.
        detector_spacing, pixel_size: in one unit of length, as the distances.
        centre: where the rotation axis falls on the detector, in bins from its middle ``(D-1)/2``.
        source_origin, origin_detector: distances of a fan's source and detector from the axis; without them the beam is
            parallel.
        detector: of a fan, "flat", or "curved": an arc about the source with equal angles between its bins.
        engine: "matrix"; "astra" for projections without matrices (`ei.physics.matrix_free`), which large scans need;
            or "auto": matrices while they need less than a quarter of the free memory. The two agree to rounding for
            parallel beams, and to the difference between interpolation and lengths in pixels for fans.
        object_radius: nothing lies farther from the axis, in the unit of the lengths. Where the detector sees less,
            `A_dagger` continues the views up to there before it filters them. None: where it sees less than the image
            to both sides, they are continued up to the image's half side; else they end at the detector.
        device: where the matrices are prepared; inputs on another device work, too.
        noise: None or a noise model (see `Physics`).

    Raises:
        InputError: for an argument out of its range, a source inside the image, detectors that see nothing of it,
            matrices that do not fit in memory, an unavailable device, or (when called) a tensor of another shape.

    >>> physics = Tomography((64, 64), angles=range(0, 180, 6), n_detectors=91)
    >>> y = physics.A(torch.rand(1, 1, 64, 64))
    >>> y.shape, physics.A_dagger(y).shape
    (torch.Size([1, 1, 91, 30]), torch.Size([1, 1, 64, 64]))
    """

    own_argument = "angles"
    of_a_scan = ("angles", "centre")  # what differs from scan to scan of one scanner

    def __init__(
        self,
        image_shape: Sequence[int],
        angles: Iterable[float] | str | os.PathLike,
        n_detectors: int,
        *,
        detector_spacing: float = 1.0,
        pixel_size: float = 1.0,
        centre: float = 0.0,
        source_origin: float | None = None,
        origin_detector: float | None = None,
        detector: str = "flat",
        object_radius: float | None = None,
        engine: str = "auto",
        device: torch.device | str = "cpu",
        noise: NoiseModel | None = None,
    ) -> None:
        several = _check_angles(angles)
        scan = Scan(
            _check_sides(image_shape),
            several[0],
            check_number("n_detectors", n_detectors, integer=True, least=1),
            check_number("detector_spacing", detector_spacing, above=0),
            check_number("pixel_size", pixel_size, above=0),
            check_number("centre", centre),
            check_optional("source_origin", source_origin, above=0),
            check_optional("origin_detector", origin_detector, least=0),
            check_choice("detector", detector, ("flat", "curved")),
            check_optional("object_radius", object_radius, above=0, below=source_origin),
        )
        _check_scan(scan)
        super().__init__(scan.image_shape, (scan.n_detectors, len(scan.angles)), noise)
        self._warned: set[str] = set()  # shared with the operators of some scans, and of other positions
        self._set_scans(tuple(dataclasses.replace(scan, angles=each) for each in several))
        self._asked_engine = engine
        device = device_of(device)
        kept, needed, entries = _matrix_sizes(self.scans, device)
        self.engine = choose_engine(check_choice("engine", engine, ENGINES), scan, needed)
        sees = bool(np.any(np.abs(scan.distances(scan.positions)) < scan.half_diagonal + scan.pixel_size))
        if self.engine == "matrix":
            check_matrix_size(repr_of(scan, self.count), kept, needed, entries)
            rays = torch.ones(scan.n_detectors * len(scan.angles), 1, device=device)
            sees = bool(self.projection(device, torch.float32).T(rays).any())
        elif engine == "auto":
            warnings.warn(
                f"{repr_of(scan, self.count)} is computed by ASTRA: matrices would need {needed / 1e9:.1f} GB of "
                f"{free_memory() / 1e9:.1f} GB that are free, ASTRA needs those of a few images",
                stacklevel=2,
            )
        if not sees:
            raise InputError(_sees_nothing(scan))

    def _set_scans(self, scans: tuple[Scan, ...]) -> None:
        self.scans = scans
        self.scan = scans[0]
        self.measurement_shape = (self.scan.n_detectors, len(self.scan.angles))

    @property
    def config(self) -> dict[str, Any]:
        """The arguments to build it again."""
        angles: list = [list(scan.angles) for scan in self.scans]
        image_shape = list(self.scan.image_shape)
        return {
            **dataclasses.asdict(self.scan),
            "image_shape": image_shape,
            "angles": angles if self.count > 1 else angles[0],
            "engine": self._asked_engine,
        }

    @property
    def angles(self) -> Tensor:
        """The view angles in degrees, ``[V]``, float64; of the first scan, where there are several."""
        return torch.tensor(self.scan.angles, dtype=torch.float64)

    @property
    def n_detectors(self) -> int:
        return self.scan.n_detectors

    @property
    def count(self) -> int:
        """The number of scans; 1 where one geometry serves all images."""
        return len(self.scans)

    @property
    def measurement_shapes(self) -> list[tuple[int, ...]] | None:
        shapes: list[tuple[int, ...]] = [(scan.n_detectors, len(scan.angles)) for scan in self.scans]
        return shapes if len(set(shapes)) > 1 else None

    def of(self, indices: Sequence[int] | Tensor | None) -> Tomography:
        """The operator of the scans with these indices, in this order. Sinograms in a batch must have equal shapes."""
        if self.count == 1:
            return self
        scans = tuple(self.scans[index] for index in check_indices(indices, self.count, "a scan"))
        _check_equal_shapes(scans)
        return self._copy_of_scans(scans[:1] if len(set(scans)) == 1 else scans)

    def _copy_of_scans(self, scans: tuple[Scan, ...]) -> Tomography:
        """The operator of some of the scans, which shares the matrices of this one."""
        other = self.copied(self)
        other._set_scans(scans)
        other._cache, other._moved_cache = self._cache, self._moved_cache
        return other

    @property
    def step_between_views(self) -> float | None:
        cut = any(misses_views(scan) or is_displaced(scan) or extension_radius(scan) for scan in self.scans)
        return None if cut else step_between_views(self.scan.angles, period(self.scan))

    def _turn(self, degrees: float) -> None:
        self._set_scans(
            tuple(dataclasses.replace(scan, angles=tuple(t + degrees for t in scan.angles)) for scan in self.scans)
        )

    def _scan_by_scan(self, method: str, tensor: Tensor, *others: Tensor) -> Tensor:
        """A method of each scan's operator on the images or sinograms ``[k*n, ...]`` of n scans, under k transforms."""
        count = self.count
        _check_equal_shapes(self.scans)
        if len(tensor) % count:
            raise InputError(
                f"there are {count} scans, and a batch of {len(tensor)}; select the operator of its scans by "
                "physics.of(indices)"
            )
        results = []
        for number, scan in enumerate(self.scans):
            one = self._copy_of_scans((scan,))
            of_scan = (other if len(other) == 1 else other[number::count] for other in others)
            results.append(getattr(one, method)(tensor[number::count], *of_scan))
        return torch.stack(results, 1).flatten(0, 1)

    def A(self, x: Tensor) -> Tensor:
        return super().A(x) if self.count == 1 else self._scan_by_scan("A", x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return super().A_adjoint(y) if self.count == 1 else self._scan_by_scan("A_adjoint", y)

    def projection(self, device: torch.device, dtype: torch.dtype) -> LinearMap:
        return self.cached(projection_map if self.engine == "matrix" else astra_map, self.scan, device, dtype)

    def back_projection(self, device: torch.device, dtype: torch.dtype) -> LinearMap:
        make = back_projection_map if self.engine == "matrix" else back_projection_by_views
        return self.cached(make, self.scan, device, dtype)

    def filter_map(self, device: torch.device, dtype: torch.dtype) -> LinearMap:
        return self.cached(filter_map, self.scan, device, dtype)

    def check_sinogram_shape(self, y: Tensor) -> None:
        """Raise unless ``y`` is ``[B, C, D, V]``."""
        detectors, views = self.measurement_shape
        if isinstance(y, torch.Tensor) and y.dim() == 4 and y.shape[-1] != views:
            swapped = ": its last two axes are swapped" if tuple(y.shape[2:]) == (views, detectors) else ""
            raise InputError(
                f"the sinograms have {y.shape[-1]} views, and there are {views} angles{swapped}; they must have shape "
                f"[B, C, {detectors}, {views}], got {list(y.shape)}"
            )
        super().check_sinogram_shape(y)

    def filter(self, y: Tensor) -> Tensor:
        """`Projections.filter`, and the views weighted by the angle that they stand for (1 where it is the same)."""
        if self.count > 1:
            return self._scan_by_scan("filter", y)
        return super().filter(y) * self._view_weights(y)

    def _view_weights(self, y: Tensor) -> Tensor:
        return self.cached(_relative_view_weights, self.scan, y.device, y.dtype)

    def A_dagger(self, y: Tensor) -> Tensor:
        """Filtered back-projection: ``[B, C, D, V]`` to ``[B, C, H, W]``. Views are weighted by the angle that they
        stand for, rays that are measured twice by one half (`ei.physics.fbp`). At its first call it warns of views that
        are missing and of views that end inside the object."""
        if self.count > 1:
            return self._scan_by_scan("A_dagger", y)
        self.check_sinogram_shape(y)
        if not self._warned:
            self._warned.update(_warn_of_missing_data(self.scan, y))
        if self.scan.fan or is_displaced(self.scan):
            y = y * self.cached(_ray_weights, self.scan, y.device, y.dtype)
        return super().A_dagger(y)

    def A_dagger_of(self, y: Tensor, kept: Tensor) -> Tensor:
        """Filtered back-projection of the views where ``kept`` ``[1 or B, 1, 1, V]`` is one: each stands for a larger
        part of the turn."""
        if self.count > 1:
            return self._scan_by_scan("A_dagger_of", y, kept)
        weights = self._view_weights(y)
        return self.A_dagger(kept * y) * weights.sum() / (kept * weights).sum(-1, keepdim=True)

    def extra_repr(self) -> str:
        return repr_of(self.scan, self.count).removeprefix("Tomography(").removesuffix(")")


def _relative_view_weights(scan: Scan, device: torch.device, dtype: torch.dtype) -> Tensor:
    weights = view_weights(scan.angles, period(scan))[0]
    return torch.from_numpy(weights / weights.mean()).to(device, dtype)


def _ray_weights(scan: Scan, device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(ray_weights(scan)).to(device, dtype)


def _warn_of_missing_data(scan: Scan, y: Tensor) -> list[str]:
    """Warn where sinograms ``y`` lack data, and return what was checked; nothing if their values cannot be read (in
    `torch.func`)."""
    try:
        profile = y.detach().float().mean((0, 1, 3)).tolist()
    except RuntimeError:
        return []
    ends = [profile[0], profile[-1]]
    if is_displaced(scan):  # its nearer end may well end inside
        ends = ends[:1] if scan.centre > 0 else ends[1:]
    # Beyond five standard deviations of its noise, which is all that views of air hold.
    edge = (max(ends) - 5 * white_noise(np.array(profile))) * len(profile) / (sum(profile) or 1.0)
    messages = []
    if misses_views(scan):
        _, arcs = view_weights(scan.angles, period(scan))
        where = ", ".join(f"{start:.0f} to {end:.0f}" for start, end in arcs)
        messages.append(f"views are missing (degrees {where}): filtered back-projection leaves out what they would see")
    if sides(scan)[0] < 0:
        messages.append(
            f"the detector does not reach the axis: nothing is measured nearer than {-sides(scan)[0]:.3g} to it"
        )
    if edge > EDGE:
        radius = extension_radius(scan)
        continued = "set object_radius to continue them" if radius is None else f"they are continued up to {radius:g}"
        messages.append(
            f"views end inside the object, at {edge:.0%} of their mean value: {continued}; images are approximate"
        )
    for message in messages:
        warnings.warn(message, stacklevel=3)
    return ["views", *messages]


def repr_of(scan: Scan, count: int = 1) -> str:
    beam = "fan" if scan.fan else "parallel"
    height, width = scan.image_shape
    scans = "" if count == 1 else f", the first of {count} scans"
    return f"Tomography({height} x {width}, {len(scan.angles)} views, {scan.n_detectors} detectors, {beam}{scans})"


def _matrix_sizes(scans: Sequence[Scan], device: torch.device) -> tuple[float, float, float]:
    """Of the matrices of all scans together the bytes kept, the bytes needed while they are made, and the entries of
    the largest one."""
    first = scans[0]
    height, width = first.image_shape
    at_origin = first.detector_spacing / first.magnification
    lit_detectors = min(first.n_detectors, 2 * first.half_diagonal / at_origin + 1)
    # A ray passes at most so many rows or columns, and reads two pixels in each.
    entries_of_view = lit_detectors * max(height, width) * (1 + first.rays_per_detector)
    entries_back = 2.0 * height * width
    counts = {scan: views_kept(scan.symmetry, len(scan.angles), device) for scan in scans}
    views, most = sum(counts.values()), max(counts.values())
    return (
        16 * views * (entries_of_view + entries_back),
        16 * (views - most) * (entries_of_view + entries_back) + 40 * most * entries_of_view,
        most * max(entries_of_view, entries_back),
    )


def _check_equal_shapes(scans: Sequence[Scan]) -> None:
    views = sorted({len(scan.angles) for scan in scans})
    if len(views) > 1:
        raise InputError(
            f"the scans of a batch must have equal shapes, got scans of {' and '.join(map(str, views))} views; "
            "make the batches with make_loader(..., shapes=), or of one scan each"
        )


def _check_scan(scan: Scan) -> None:
    if (scan.source_origin is None) != (scan.origin_detector is None):
        missing = "source_origin" if scan.source_origin is None else "origin_detector"
        raise InputError(
            f"a fan beam needs both source_origin and origin_detector, {missing} is missing; a parallel one has neither"
        )
    if scan.detector == "curved" and not scan.fan:
        raise InputError("a curved detector needs a fan beam; set source_origin and origin_detector")
    if scan.source_origin is not None and scan.source_origin <= scan.half_diagonal:
        raise InputError(
            f"the source lies inside the image: source_origin is {scan.source_origin:g}, and the image reaches "
            f"{scan.half_diagonal:g} from the axis ({scan.image_shape[0]} x {scan.image_shape[1]} pixels of "
            f"{scan.pixel_size:g}); lengths must be in one unit"
        )


def _sees_nothing(scan: Scan) -> str:
    first, last = scan.positions[[0, -1]]
    return (
        f"the detector sees nothing of the image: it reaches from {first:g} to {last:g} along s, the image "
        f"{scan.half_diagonal * scan.magnification:g} to either side; check centre ({scan.centre:g} bins), "
        "detector_spacing and pixel_size"
    )


def _check_sides(image_shape: Sequence[int]) -> tuple[int, int]:
    if not isinstance(image_shape, Iterable) or isinstance(image_shape, str) or len(sides := tuple(image_shape)) != 2:
        raise InputError(f"image_shape must be (H, W), got {image_shape!r}")
    height, width = (
        check_number(f"the {side} of image_shape", value, integer=True, least=1)
        for side, value in zip(("height", "width"), sides, strict=True)
    )
    return height, width


def _check_angles(angles: Iterable[float] | str | os.PathLike) -> tuple[tuple[float, ...], ...]:
    """The angles of one scan or of several, as tuples."""
    if isinstance(angles, (str, os.PathLike)):
        return _check_angles(_read_angles(Path(angles)))
    if isinstance(angles, Mapping):
        raise _not_angles(angles)
    if isinstance(angles, (torch.Tensor, np.ndarray)):
        rows: list = angles.tolist() if angles.ndim else [angles]
    else:
        rows = list(angles)
    if rows and all(isinstance(row, (str, os.PathLike)) for row in rows):
        rows = [_read_angles(Path(row)) for row in rows]
    if rows and all(_is_sequence(row) for row in rows):
        return tuple(_check_views(row, f" of scan {number}") for number, row in enumerate(rows))
    return (_check_views(rows, ""),)


def _not_angles(given: Mapping) -> InputError:
    return InputError(f"angles must be a list, a file, or {{start: a, step: b, count: n}}, in degrees, got {given}")


def _is_sequence(row: Any) -> bool:
    if isinstance(row, Mapping):
        raise _not_angles(row)
    return isinstance(row, Iterable) and not isinstance(row, str) and getattr(row, "ndim", 1) > 0


def _check_views(angles: Iterable[float], which: str) -> tuple[float, ...]:
    try:
        values = np.asarray([float(angle) for angle in angles], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"the angles{which} must be a list of numbers, in degrees: {error}") from error
    if not len(values):
        raise InputError(f"the angles{which} must be a list of at least one number, in degrees, got none")
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        raise InputError(f"the angles{which} must be finite, got {values[wrong[0]]} for view {wrong[0]}")
    return tuple(values.tolist())


def _read_angles(path: Path) -> np.ndarray:
    """The angles in a file, in degrees, at least ``[V]`` (see `ei.common.arrays.FileArray`)."""
    file = FileArray(path, ANGLES, "angles")
    return np.atleast_1d(in_degrees(file.read(), file.units))
