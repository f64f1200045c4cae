"""The other groups: their laws, where they are exact, and elements of one's own for every image."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ei.closure import EIClosure, MCClosure
from ei.errors import InputError
from ei.transforms import Compose, FourierRotate, Reflect, Rotate, Rotate90, Scale, Shift, Shift1D, Transform

EXACT: list[tuple[Transform, Tensor, Tensor, Tensor]] = [  # with two elements and their product
    (Shift(2), torch.tensor([1, -2]), torch.tensor([3, 4]), torch.tensor([4, 2])),
    (Shift1D(2), torch.tensor(2), torch.tensor(5), torch.tensor(7)),
    (Rotate90(2), torch.tensor(1), torch.tensor(2), torch.tensor(3)),
    (Reflect(2), torch.tensor([1, 0]), torch.tensor([1, 1]), torch.tensor([0, 1])),
]
ALL = [*(case[0] for case in EXACT), Rotate(2), Scale(2), Compose(Shift(2), Rotate90(2), Reflect(2))]
name_of = lambda value: type(value).__name__ if isinstance(value, Transform) else ""  # noqa: E731


@pytest.mark.parametrize(("transform", "first", "second", "product"), EXACT, ids=name_of)
def test_group_law_and_orthogonality(transform: Transform, first: Tensor, second: Tensor, product: Tensor) -> None:
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    one_after_the_other = transform.act(transform.act(x, first), second)
    assert torch.equal(one_after_the_other, transform.act(x, product))
    assert torch.equal(transform.act(transform.act(x, first), transform.inverse(first)), x)
    y = torch.rand_like(x)
    inner = float((transform.act(x, first) * y).sum())
    assert inner == pytest.approx(float((x * transform.act(y, transform.inverse(first))).sum()), rel=1e-12)
    assert float(transform.act(x, second).norm()) == pytest.approx(float(x.norm()), rel=1e-12)


@pytest.mark.parametrize("transform", ALL, ids=name_of)
def test_order_seed_dtype_and_gradient(transform: Transform) -> None:
    x = torch.rand(3, 2, 8, 8, dtype=torch.float64, requires_grad=True)
    elements = transform.sample(x, torch.Generator().manual_seed(1))
    assert elements.shape == (2, *transform.element_shape)
    assert torch.equal(elements, transform.sample(x, torch.Generator().manual_seed(1)))
    out = transform.apply(x, elements)
    assert out.shape == (6, 2, 8, 8) and out.dtype == x.dtype
    for k, element in enumerate(elements):  # transform-major
        torch.testing.assert_close(out[3 * k : 3 * k + 3], transform.act(x, element))
    out.square().sum().backward()
    assert x.grad is not None and float(x.grad.abs().sum()) > 0


@pytest.mark.parametrize("transform", ALL, ids=name_of)
def test_elements_for_every_image(transform: Transform) -> None:
    x = torch.rand(5, 1, 8, 8)
    transform.per_image = True
    try:
        elements = transform.sample(x, torch.Generator().manual_seed(0))
        out = transform.apply(x, elements)
    finally:
        transform.per_image = False
    assert elements.shape == (2, 5, *transform.element_shape)
    assert any(not torch.equal(elements[:, 0], elements[:, b]) for b in range(1, 5))
    for k in range(2):
        for b in range(5):
            torch.testing.assert_close(out[5 * k + b], transform.act(x[b : b + 1], elements[k, b])[0])


def test_what_is_drawn() -> None:
    x = torch.empty(1, 1, 6, 6)
    assert sorted(Rotate90(3).sample(x).tolist()) == [1, 2, 3]
    assert sorted(map(tuple, Reflect(3).sample(x).tolist())) == [(0, 1), (1, 0), (1, 1)]
    assert sorted(Shift1D(5).sample(x).tolist()) == [1, 2, 3, 4, 5]
    assert set(Scale(50).sample(x)[:, 0].tolist()) == {0.5, 0.75}


def test_compose_is_one_after_the_other() -> None:
    x = torch.rand(1, 1, 8, 8)
    both = Compose(Shift(1), Rotate(1))
    turned = Rotate(1).apply(Shift(1).apply(x, [[2, 3]]), [30])
    torch.testing.assert_close(both.apply(x, [[2.0, 3.0, 30.0]]), turned)


def test_signals_shift_without_an_image_axis() -> None:
    x = torch.rand(2, 1, 9)
    assert torch.equal(Shift1D(1).apply(x, [4]), x.roll(4, -1))


def test_scale_shrinks_and_keeps_constants() -> None:
    x = torch.ones(1, 1, 16, 16)
    torch.testing.assert_close(Scale(1).apply(x), x)
    wave = torch.cos(torch.arange(64) * 2 * torch.pi * 4 / 64).expand(1, 1, 64, 64)
    spectrum = torch.fft.rfft(Scale(1, factors=[0.5]).apply(wave, [[0.5, 0, 0]]).mean(-2)[0, 0]).abs()
    assert int(spectrum.argmax()) == 8  # twice the frequency


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Rotate90(4), "at most 3"),
        (lambda: Reflect(4), "at most 3"),
        (lambda: Rotate90(1).apply(torch.zeros(1, 1, 4, 6), [1]), "square"),
        (lambda: Scale(1, factors=[]), "factors"),
        (lambda: Scale(1, factors=[1.5]), "factors"),
        (lambda: Shift1D(9).apply(torch.zeros(1, 1, 4, 9)), "at most 8"),
        (lambda: Compose(Shift(2)), "two or more"),
        (lambda: Compose(Shift(2), Rotate(3)), "same n_trans"),
        (lambda: Shift(1).apply(torch.zeros(2, 1, 8, 8), [1, 2]), "shape"),
        (lambda: Shift(1).apply(torch.zeros(2, 1, 8, 8), torch.zeros(1, 3, 2)), "every image"),
    ],
)
def test_wrong_input(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


class Halves:
    """A physics whose units are not those of images."""

    def A(self, x: Tensor) -> Tensor:
        return 10 * x[..., ::2]

    def A_dagger(self, y: Tensor) -> Tensor:
        return y.repeat_interleave(2, dim=-1) / 10


def test_stopped_gradient() -> None:
    """The equivariance loss then has no gradient through x2, neither as the target nor as what is measured anew."""
    weight = torch.tensor(1.3, requires_grad=True)
    physics, x = Halves(), torch.rand(2, 1, 4, 4)

    def f(y: Tensor) -> Tensor:
        return weight * physics.A_dagger(y)

    y, transform = physics.A(x), Shift(1)
    found = []
    for stop in (False, True):
        torch.manual_seed(0)
        losses = EIClosure(1.0, stop_gradient=stop)(f, physics, transform, y)
        found.append((float(losses["ei"]), float(torch.autograd.grad(losses["ei"], weight)[0])))
    x2 = transform.act(f(y).detach(), _drawn(transform, x))
    again = physics.A_dagger(physics.A(x2))
    by_hand = float((2 * (weight * again - x2) * again).mean())
    assert found[0][0] == pytest.approx(found[1][0]) and found[0][1] != pytest.approx(found[1][1])
    assert found[1][1] == pytest.approx(by_hand, rel=1e-5)


def _drawn(transform: Shift, x: Tensor) -> Tensor:
    torch.manual_seed(0)
    return transform.sample(x)[0]


@pytest.mark.parametrize("closure", [EIClosure(1.0, mc_domain="image"), MCClosure(mc_domain="image")])
def test_consistency_in_the_image_domain(closure) -> None:
    physics, x = Halves(), torch.rand(2, 1, 4, 4)
    y = physics.A(x)
    losses = closure(lambda y: physics.A_dagger(y) + 0.1, physics, Shift(1), y)
    x1 = physics.A_dagger(y) + 0.1
    expected = (physics.A_dagger(physics.A(x1)) - physics.A_dagger(y)).square().mean()
    assert float(losses["mc"]) == pytest.approx(float(expected))
    with pytest.raises(InputError, match="domain"):
        MCClosure(mc_domain="sinogram")


def test_complex_measurements() -> None:
    class Fourier:
        def A(self, x: Tensor) -> Tensor:
            return torch.fft.fft2(x, norm="ortho")

        def A_dagger(self, y: Tensor) -> Tensor:
            return torch.fft.ifft2(y, norm="ortho").real

    x = torch.rand(1, 1, 4, 4)
    losses = MCClosure()(lambda y: Fourier().A_dagger(y) + 1, Fourier(), None, Fourier().A(x))
    assert float(losses["mc"]) == pytest.approx(1.0, rel=1e-5)  # Parseval


@pytest.mark.parametrize("transform", [*ALL, FourierRotate(2)], ids=name_of)
def test_complex_images_are_moved_part_by_part(transform: Transform) -> None:
    z = torch.randn(3, 1, 8, 8, dtype=torch.complex128)
    elements = transform.sample(z, torch.Generator().manual_seed(1))
    moved = transform.apply(z, elements)
    assert moved.dtype == z.dtype and moved.shape == (6, 1, 8, 8)
    assert torch.equal(moved, torch.complex(transform.apply(z.real, elements), transform.apply(z.imag, elements)))
