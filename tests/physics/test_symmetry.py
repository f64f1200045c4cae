"""The matrices of a few views give those of all."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

import ei.physics.ct
import ei.physics.fbp
import ei.physics.scan
from ei.physics import CT, Tomography
from ei.physics.projections import Projections
from ei.physics.symmetry import OfCopies, symmetry_of

CPU = torch.device("cpu")
FAN = {"source_origin": 30.0, "origin_detector": 10.0}


def even(count: int, turn: float, first: float = 0.0) -> list[float]:
    return [first + turn * view / count for view in range(count)]


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Call it, and matrices are made of all views from then on."""
    original = ei.physics.scan.map_of_views

    def without(make, symmetry, *rest, **layout):
        return original(make, None, *rest, **layout)

    def switch() -> None:
        gc.collect()  # equal operators would share the matrices that there are
        for module in (ei.physics.ct, ei.physics.scan, ei.physics.fbp):
            monkeypatch.setattr(module, "map_of_views", without)

    yield switch
    gc.collect()


def dense(physics: Projections) -> list[torch.Tensor]:
    """The matrices of A and of its adjoint, of the back-projection and of its adjoint, and all transposed alike."""
    maps = physics.projection(CPU, torch.float64), physics.back_projection(CPU, torch.float64).T
    n_pixels = math.prod(physics.image_shape)
    matrices = [one(torch.eye(n_pixels, dtype=torch.float64)) for one in maps]
    adjoints = [one.T(torch.eye(len(m), dtype=torch.float64)).T for one, m in zip(maps, matrices, strict=True)]
    return matrices + adjoints


def kept(physics: Projections) -> int | None:
    """Of how many views there is a matrix; None where it is that of all."""
    matrix = physics.projection(CPU, torch.float64).matrix
    return matrix.matrix.shape[0] // physics.measurement_shape[0] if isinstance(matrix, OfCopies) else None


CASES: dict[str, tuple[Callable[[], Projections], int | None]] = {
    "12 views": (lambda: CT(16, 12), 4),  # 17 x 17 in 23 detectors: the axis beside the middle of the image
    "odd side": (lambda: CT(13, 12), 4),  # 19 detectors
    "odd side off centre": (lambda: CT(17, 12), 4),
    "circle": (lambda: CT(11, 12, circle=True), 4),
    "odd number of views": (lambda: CT(12, 5), 3),
    "between the views": (lambda: CT(12, 6, first_angle=15), 2),
    "turned by 90 degrees": (lambda: CT(12, 6, first_angle=90), 2),
    "turned by any angle": (lambda: CT(12, 8, first_angle=10), 4),  # only quarter turns
    "views by degrees": (lambda: CT(12, 8, uniform=False), None),
    "parallel": (lambda: Tomography((12, 12), even(8, 180), 17), 3),
    "no square": (lambda: Tomography((12, 15), even(8, 180), 17), 5),
    "a whole turn": (lambda: Tomography((12, 12), even(8, 360), 17), 2),
    "a whole turn of odd number": (lambda: Tomography((12, 12), even(7, 360), 17), 4),
    "axis beside the middle": (lambda: Tomography((12, 12), even(8, 180), 17, centre=1.3), None),
    "axis beside the middle, a whole turn": (lambda: Tomography((12, 12), even(8, 360), 17, centre=1.3), 2),
    "views twice": (lambda: Tomography((12, 12), even(8, 180) * 2, 17), 4),
    "any order and range": (lambda: Tomography((12, 12), [390, -30, 90, 180, 60, 300], 17), 2),
    "an arc": (lambda: Tomography((12, 12), even(10, 120), 17), None),
    "fan": (lambda: Tomography((12, 12), even(12, 360), 17, **FAN), 2),
    "fan, axis beside the middle": (lambda: Tomography((12, 12), even(12, 360), 17, centre=1.2, **FAN), 3),
    "fan over half a turn": (lambda: Tomography((12, 12), even(12, 180), 17, **FAN), None),
    "curved detector, no square": (lambda: Tomography((12, 14), even(12, 360), 17, detector="curved", **FAN), 4),
    "wide bins": (lambda: Tomography((13, 13), even(12, 360), 7, detector_spacing=3.4, **FAN), 2),
}


@pytest.mark.parametrize(("make", "expected"), CASES.values(), ids=CASES)
def test_few_views_give_the_matrices_of_all(make, expected, whole: Callable[[], None]) -> None:
    physics = make()
    matrices, count = dense(physics), kept(physics)
    del physics
    whole()
    physics = make()
    assert kept(physics) is None
    for matrix, other in zip(matrices, dense(physics), strict=True):
        torch.testing.assert_close(matrix, other, rtol=0, atol=1e-13)
    assert count == expected


@pytest.mark.parametrize("columns", [1, 2, 3, 4, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_number_of_images(columns: int, dtype: torch.dtype) -> None:
    linear_map = CT(12, 8).projection(CPU, dtype)
    x = torch.randn(144, columns, dtype=dtype)
    expected = linear_map(torch.eye(144, dtype=dtype)) @ x
    torch.testing.assert_close(linear_map(x), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(linear_map.matrix.gather(x), expected, rtol=1e-5, atol=1e-5)


def test_matrices_of_uniform_views_take_a_third_of_the_memory(whole: Callable[[], None]) -> None:
    few = CT(64, 50).projection(CPU, torch.float32).nbytes
    whole()
    assert few < CT(64, 50).projection(CPU, torch.float32).nbytes / 3


def test_angles_of_a_file_are_equal_to_its_digits() -> None:
    exact = even(50, 180)
    assert len(symmetry_of(exact, True, True, True).kept) == 13
    assert len(symmetry_of(np.float64(exact) + 1e-10, True, True, True).kept) == 13
    assert symmetry_of([angle + 1e-6 * (angle > 90) for angle in exact], True, True, True) is None


def test_angles_of_many_turns_are_not_taken_for_each_other() -> None:
    """Parts of 1e11 degrees overflowed: all views had one place, and the first one was put for all."""
    assert symmetry_of([1e11, 2e11 + 40, 3e11 + 90, 5e11 + 7], square=True, half_turn=True, reversible=True) is None
