"""Rotations by Fourier shears."""

from __future__ import annotations

import pytest
import torch

from ei.transforms import FourierRotate, Rotate


def blobs(height: int, width: int) -> torch.Tensor:
    """Smooth, without any symmetry, and far from the edges."""
    row, column = torch.arange(height)[:, None] - (height - 1) / 2, torch.arange(width) - (width - 1) / 2
    side = min(height, width)
    places = ((0.15, 0.1, 1.0), (-0.2, 0.05, 0.6), (0.05, -0.22, 0.3))
    width_squared = (0.08 * side) ** 2
    image = torch.zeros(height, width)
    for p, q, value in places:
        image += value * torch.exp(-((row - p * side) ** 2 + (column - q * side) ** 2) / width_squared)
    return image[None, None]


@pytest.mark.parametrize("sides", [(32, 32), (33, 33), (32, 45), (41, 32)])
@pytest.mark.parametrize("degrees", [1, 44, 46, 90, 135, 180, 200, 271.5, 358])
def test_fourier_rotations_turn_as_rotations_do(sides: tuple[int, int], degrees: float) -> None:
    """Against the turned image in closed form, which bilinear interpolation misses by far more."""
    x, element = blobs(*sides), torch.tensor(degrees)
    fine, plain = FourierRotate(1).act(x, element), Rotate(1).act(x, element)
    assert fine.shape == x.shape and float((fine - plain).abs().max()) < 0.15
    back = FourierRotate(1).act(fine, -element)
    assert float((back - x).abs().max()) < 2e-3
    if degrees % 90:
        assert float((Rotate(1).act(plain, -element) - x).abs().max()) > 10 * float((back - x).abs().max())


def test_fourier_rotations_are_exact_at_quarter_turns_and_differentiable() -> None:
    x = torch.rand(2, 1, 9, 9, dtype=torch.float64, requires_grad=True)
    for quarters in range(4):
        turned = FourierRotate(1).act(x, torch.tensor(90 * quarters))
        assert torch.equal(turned, torch.rot90(x, quarters, dims=(-2, -1)))
    # A rotation is linear, and its transpose is the rotation back.
    y, element = torch.rand(2, 1, 9, 9, dtype=torch.float64), torch.tensor(30.0)
    (gradient,) = torch.autograd.grad((FourierRotate(1).act(x, element) * y).sum(), x)
    assert torch.allclose(gradient, FourierRotate(1).act(y, -element), atol=1e-10)
    assert FourierRotate(1).act(x.half(), element).dtype == torch.float16
