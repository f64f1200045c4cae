"""Rotations: reference figures, direction, derivatives."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import reference

from ei.transforms import Rotate, rotate


def test_rotate_reproduces_the_reference() -> None:
    figures = reference("rotate")
    out = Rotate(4).apply(torch.from_numpy(figures["x"]), torch.from_numpy(figures["degrees"]))
    assert float((out - torch.from_numpy(figures["out"])).abs().max()) < 1e-4


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (2, 3, 7, 7)])
def test_right_angles_are_exact_and_counter_clockwise(shape: tuple[int, ...]) -> None:
    x = torch.rand(shape, dtype=torch.float64)
    out = Rotate(3).apply(x, [90, 180, 270])
    expected = torch.cat([torch.rot90(x, k, dims=(-2, -1)) for k in (1, 2, 3)])
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)


def test_rotate_keeps_to_pixels_of_a_rectangle() -> None:
    """In a rectangle a quarter turn moves the pixel at (row, column) from the centre to (-column, row)."""
    x = torch.zeros(1, 1, 7, 11, dtype=torch.float64)
    x[..., 3, 5 + 2] = 1
    turned = Rotate(1).apply(x, [90])
    assert float(turned[0, 0, 3 - 2, 5]) == pytest.approx(1)
    assert float(turned.sum()) == pytest.approx(1)


def test_what_rotate_draws() -> None:
    x = torch.empty(1, 1, 6, 6)
    everything = Rotate(358).sample(x)
    assert sorted(everything.tolist()) == list(range(1, 359))


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (1, 2, 7, 7), (1, 1, 6, 11), (1, 1, 1, 5)])
@pytest.mark.parametrize("degrees", [1, 37, 45, 90, 200.5, 315])
def test_the_derivative_of_gpus_is_that_of_cpus(shape: tuple[int, ...], degrees: float) -> None:
    x = torch.rand(shape, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(shape, dtype=torch.float64)
    expected = torch.autograd.grad(Rotate(1).apply(x, [degrees]), x, weights)[0]
    turned = rotate._Turned.apply(x, math.radians(degrees), False)
    torch.testing.assert_close(turned, Rotate(1).apply(x, [degrees]))
    torch.testing.assert_close(torch.autograd.grad(turned, x, weights)[0], expected)
    assert torch.autograd.gradgradcheck(lambda v: rotate._Turned.apply(v, math.radians(degrees), False).square(), (x,))
    func = torch.func.grad(lambda v: (rotate._Turned.apply(v, math.radians(degrees), False) * weights).sum())
    torch.testing.assert_close(func(x.detach()), expected)
