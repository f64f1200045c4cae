"""Complex images: in networks, closures, metrics and training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import SmallNet
from torch import Tensor

from ei.closure import AdversarialEIClosure, EIClosure, SupervisedClosure
from ei.closure.base import CRITERIA
from ei.common.complex import magnitude, to_channels, to_complex
from ei.datasets import (
    make_loader,
)
from ei.evaluation import report
from ei.evaluation.quality import data_range_of
from ei.metrics import psnr
from ei.models import Discriminator, Reconstructor, Unrolled
from ei.training import Trainer
from ei.transforms import Rotate


class Fourier:
    """Some rows of the Fourier transform of complex images ``[B, 1, 8, 8]``."""

    noise = None
    mask = (torch.arange(8) % 3 != 1).to(torch.complex64)[:, None]

    def A(self, x: Tensor) -> Tensor:
        return self.mask * torch.fft.fft2(x, norm="ortho")

    def A_adjoint(self, y: Tensor) -> Tensor:
        return torch.fft.ifft2(self.mask * y, norm="ortho")

    A_dagger = A_adjoint


def complex_images(count: int = 4) -> list[Tensor]:
    return list(torch.randn(count, 1, 8, 8, dtype=torch.complex64, generator=torch.Generator().manual_seed(0)))


def test_channels_and_back() -> None:
    z = torch.randn(2, 3, 4, 5, dtype=torch.complex128)
    assert torch.equal(to_channels(z), torch.cat([z.real, z.imag], 1)) and torch.equal(to_complex(to_channels(z)), z)
    assert torch.equal(magnitude(z), z.abs())
    torch.testing.assert_close(magnitude(to_channels(z[:, :1])), z[:, :1].abs())
    for real in (z.real, z.real[0], z.real[:, :1]):
        assert magnitude(real) is real


@pytest.mark.parametrize("function", [Reconstructor, lambda net, physics: Unrolled(net, physics, iterations=1)])
def test_networks_are_given_two_real_channels(function: Callable) -> None:
    """Nothing of a complex image is dropped on its way through f: it is the same f as with two channels."""
    physics, net = Fourier(), SmallNet(2)
    y = physics.A(torch.stack(complex_images()))
    x = function(net, physics)(y)
    assert x.dtype == torch.complex64 and x.shape == (4, 1, 8, 8)
    first = physics.A_dagger(y)
    if function is Reconstructor:
        assert torch.equal(to_channels(x), net(to_channels(first)))
    scaled = Reconstructor(net, physics, image_scale=2.0)(y)
    torch.testing.assert_close(scaled, 2 * to_complex(net(to_channels(first / 2))))


@pytest.mark.figures
@pytest.mark.parametrize(
    "closure",
    [EIClosure(1.0), SupervisedClosure(), AdversarialEIClosure(Discriminator((2, 8, 8)), 1.0, 1e-3)],
    ids=lambda closure: type(closure).__name__,
)
def test_a_training_on_complex_images(tmp_path: Path, closure: EIClosure) -> None:
    physics, net = Fourier(), SmallNet(2)
    optimizers = {"total": torch.optim.Adam(net.parameters(), 1e-2)}
    if isinstance(closure, AdversarialEIClosure):
        optimizers["D"] = torch.optim.Adam(closure.discriminator.parameters())
    f = Reconstructor(net, physics)
    trainer = Trainer(f, physics, Rotate(1), closure, optimizers, epochs=1, out=tmp_path / "run", progress=False)
    images = complex_images(2)
    history = trainer.fit(make_loader(images, batch_size=2))
    x = torch.stack(images)
    with torch.no_grad():
        mse = float((f(physics.A(x)) - x).abs().square().mean())
    assert 0.2 * mse < history[-1]["mse"] < 5 * mse
    rows = report(f, physics, images, tmp_path)
    assert (tmp_path / "reconstructions.png").stat().st_size > 5000
    with torch.no_grad():
        found = f(physics.A(x[:1])).abs()
    assert rows[0]["psnr_net"] == pytest.approx(float(psnr(found, x[:1].abs(), data_range_of(images))), rel=1e-5)


def test_the_psnr_of_complex_images() -> None:
    a, b = torch.stack(complex_images()), torch.zeros(4, 1, 8, 8, dtype=torch.complex64)
    torch.testing.assert_close(psnr(a, b), -10 * a.abs().square().mean((1, 2, 3)).log10())


def test_the_loss_of_complex_numbers_is_of_their_moduli() -> None:
    """Not the mean over both parts, which is half of it: alpha weighs it against losses of other images."""
    a, b = torch.tensor([1 + 2j, 0j]), torch.tensor([1j, 2 + 0j])
    assert float(CRITERIA["l2"](a, b)) == pytest.approx((2 + 4) / 2)
