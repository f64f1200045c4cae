"""Groups: the order of the result, what is drawn, how it acts."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import reference

from ei.transforms import FourierRotate, Rotate, Shift, Transform, rotate


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


def test_shift_is_a_circular_roll_transform_major() -> None:
    x = torch.rand(2, 3, 5, 7)
    elements = torch.tensor([[1, -2], [3, 6]])
    out = Shift(2).apply(x, elements)
    assert out.shape == (4, 3, 5, 7)
    assert torch.equal(out[:2], torch.roll(x, (1, -2), (2, 3)))
    assert torch.equal(out[2:], torch.roll(x, (3, 6), (2, 3)))


@pytest.mark.parametrize("transform", [Shift(4), Rotate(4)])
def test_sampling(transform: Transform) -> None:
    x = torch.rand(2, 1, 6, 9)
    seeded = [transform.sample(x, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*seeded)
    torch.manual_seed(0)
    first, second = transform.sample(x), transform.sample(x)
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(transform.apply(x), transform.apply(x, first))
    torch.manual_seed(0)
    assert torch.equal(transform(x), transform.apply(x, first))


def test_what_shift_draws() -> None:
    x = torch.empty(1, 1, 6, 9)
    drawn = torch.stack([Shift(5).sample(x) for _ in range(300)])
    assert drawn.shape == (300, 5, 2)
    assert set(drawn[..., 0].flatten().tolist()) == {i for i in range(-5, 6) if i}
    assert set(drawn[..., 1].flatten().tolist()) == {i for i in range(-8, 9) if i}
    assert all(len(set(sample[:, axis].tolist())) == 5 for sample in drawn for axis in (0, 1))
    limited = torch.stack([Shift(2, max_offset=3).sample(x) for _ in range(100)])
    assert set(limited.flatten().tolist()) == {-2, -1, 1, 2}
    assert int(Shift(2, max_offset=100).sample(x)[:, 0].abs().max()) <= 5


def test_what_rotate_draws() -> None:
    x = torch.empty(1, 1, 6, 6)
    everything = Rotate(358).sample(x)
    assert sorted(everything.tolist()) == list(range(1, 359))


@pytest.mark.parametrize(
    "call",
    [
        lambda: Shift(0),
        lambda: Shift(1.5),
        lambda: Shift(3, max_offset=-1),
        lambda: Shift(3, max_offset=1),
        lambda: Shift(6).apply(torch.zeros(1, 1, 6, 9)),
        lambda: Shift(3, max_offset=2).apply(torch.zeros(1, 1, 6, 9)),
        lambda: Shift(1).apply(torch.zeros(1, 1, 1, 1)),
        lambda: Rotate(0),
        lambda: Rotate(359),
        lambda: Rotate(1).apply(torch.zeros(6, 6)),
        lambda: Rotate(1).apply(torch.zeros(1, 1, 6, 6), []),
    ],
)
def test_impossible_requests(call) -> None:
    with pytest.raises(ValueError):
        call()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("transform", [Shift(2), Rotate(2)])
def test_dtype_is_kept_and_gradients_flow(transform: Transform, dtype: torch.dtype) -> None:
    x = torch.rand(1, 2, 8, 8).to(dtype).requires_grad_()
    out = transform.apply(x)
    out.sum().backward()
    assert out.dtype == x.grad.dtype == dtype


def test_a_new_group_is_two_methods() -> None:
    class Flip(Transform):
        def draw(self, x, generator=None):
            return torch.ones(self.n_trans)

        def act(self, x, element):
            return x.flip(-1)

    x = torch.rand(2, 1, 4, 4)
    assert torch.equal(Flip(2).apply(x), torch.cat([x.flip(-1)] * 2))


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
