"""EI and MC: stopped gradients, consistency in images, complex measurements."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ei.closure import EIClosure, MCClosure
from ei.errors import InputError
from ei.transforms import Shift


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
