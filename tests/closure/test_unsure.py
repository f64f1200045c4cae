"""UNSURE: the noise level it finds, in closed form and in a training."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ei
from ei.closure import UNSUREClosure
from ei.common.files import load_file
from ei.datasets import make_loader
from ei.errors import InputError
from ei.models import Reconstructor, UNet
from ei.physics import (
    Inpainting,
)
from ei.training import Trainer
from ei.transforms import Shift


class Gains(nn.Module):
    """A filter: a learned gain for every frequency."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((side, side), 0.5, dtype=torch.float64))

    def forward(self, y: Tensor) -> Tensor:
        return torch.fft.ifft2(torch.fft.fft2(y) * self.gain).real


class Damped:
    """An invertible filter that damps high frequencies; the identity for ``by=0``."""

    def __init__(self, side: int, by: float) -> None:
        frequency = torch.fft.fftfreq(side, dtype=torch.float64).square()
        self.gain = 1 / (1 + by * (frequency[:, None] + frequency))

    def A(self, x: Tensor) -> Tensor:
        return torch.fft.ifft2(torch.fft.fft2(x) * self.gain).real

    def A_dagger(self, y: Tensor) -> Tensor:
        return torch.fft.ifft2(torch.fft.fft2(y) / self.gain).real


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sigma", "by", "domain"), [(0.5, 0, "measurement"), (0.2, 0, "measurement"), (0.1, 2, "image")]
)
def test_unsure_finds_the_level_and_what_is_missed(sigma: float, by: float, domain: str) -> None:
    """Stationary Gaussian images of a known spectrum S behind a filter of gain h: of the measurements' spectrum
    T = h^2 S + sigma^2 Wiener's filter misses MSE = mean(sigma^2 - sigma^4 / T), and the level found is
    ``sigma / sqrt(1 - MSE / sigma^2)``, which is ``1 / sqrt(mean(1 / T))``. In images every frequency counts as its
    noise does, 1 / h^2: ``sqrt(mean(1 / h^2) / mean(1 / (h^2 T)))``."""
    side = 12
    physics, net = Damped(side, by), Gains(side)
    distance = torch.fft.fftfreq(side, dtype=torch.float64).square()
    spectrum = 4 / (1 + 400 * (distance[:, None] + distance)) ** 2
    measured = physics.gain**2 * spectrum + sigma**2
    missed = (sigma**2 - sigma**4 / measured).mean()
    expected = sigma / math.sqrt(1 - float(missed) / sigma**2)
    assert expected == pytest.approx(float((1 / measured).mean() ** -0.5))
    if domain == "image":
        other, expected = expected, float((physics.gain**-2).mean() / (physics.gain**-2 / measured).mean()) ** 0.5
        assert abs(expected - other) > 0.02 * sigma  # the domains differ
    assert expected > 1.02 * sigma  # not equal

    closure = UNSUREClosure(0.05, tau=0.05, mc_domain=domain)
    optimizers = {"total": torch.optim.Adam(net.parameters(), lr=0.03),
                  "level": torch.optim.SGD(closure.noise_level.parameters(), lr=0.02)}  # fmt: skip
    torch.manual_seed(7)
    levels = []
    for _ in range(700):
        white = torch.randn(32, 1, side, side, dtype=torch.float64)
        x = torch.fft.ifft2(torch.fft.fft2(white) * spectrum.sqrt()).real
        y = physics.A(x) + sigma * torch.randn_like(x)
        losses = closure(Reconstructor(net, physics), physics, None, y)
        for key, optimizer in optimizers.items():
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            optimizer.zero_grad()
            losses[key].backward(inputs=parameters)
            optimizer.step()
        levels.append(float(losses["sigma"]))
    assert float(np.mean(levels[-200:])) == pytest.approx(expected, rel=0.01)


def test_unsure_in_a_training(tmp_path: Path) -> None:
    """With equivariance and a mask; the level is in the log, and in the checkpoints as a network of its own."""
    physics, closure = Inpainting(16, 16), UNSUREClosure(0.2, alpha=1.0)
    net = UNet(1, 1, base_channels=2)
    level = torch.optim.SGD(closure.noise_level.parameters(), lr=0.02)
    trainer = Trainer(
        Reconstructor(net, physics), physics, Shift(1), closure,
        {"total": torch.optim.Adam(net.parameters()), "level": level},
        epochs=1, out=tmp_path / "run", progress=False,
    )  # fmt: skip
    trainer.fit(make_loader(list(torch.rand(4, 1, 16, 16)), batch_size=2))
    header = (tmp_path / "run" / "training_loss.csv").read_text().splitlines()[0]
    assert header == "epoch,loss_unsure,loss_ei,loss_total,sigma,psnr,mse"
    state = load_file(tmp_path / "run" / "ckp_last.pth.tar")
    assert torch.equal(state["state_dict_level"]["log_sigma"], closure.noise_level.log_sigma)
    assert closure.noise_level().item() != pytest.approx(0.2, rel=1e-6)
    assert ei.load(tmp_path / "run" / "ckp_last.pth.tar").physics.noise is None
    with pytest.raises(InputError, match="sigma"):
        UNSUREClosure(0)
    with pytest.raises(InputError, match="bf16"):
        UNSUREClosure(0.1)(Reconstructor(net, physics, "bf16"), physics, Shift(1), torch.rand(1, 1, 16, 16))


def test_unsures_fresh_noise_is_of_the_level_and_where_something_is_measured() -> None:
    """Of measurements that are all zero the noise is what is left."""
    physics, asked = Inpainting(64, 64, mask_rate=0.5), []

    def f(y: Tensor) -> Tensor:
        asked.append(y)
        return y

    torch.manual_seed(0)
    UNSUREClosure(0.2, alpha=1.0)(f, physics, Shift(1), torch.zeros(4, 1, 64, 64))
    drawn = asked[-1] * torch.ones(4, 1, 64, 64)
    here = physics.mask.expand_as(drawn) > 0
    assert float(drawn[here].std()) == pytest.approx(0.2, rel=0.05) and not bool(drawn[~here].any())


@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_nothing_slows_the_level_down(tmp_path: Path, scale: float) -> None:
    """f(y) = y has a mean derivative of one, so that the level goes up by exp(learning rate) a step: whatever the units
    of losses are, and however hard the gradients of the network are clipped."""
    physics, closure = Inpainting(16, 16, mask_rate=0), UNSUREClosure(0.01, alpha=1.0)
    closure.image_scale = scale
    net = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.ones_(net.weight)
    trainer = Trainer(
        Reconstructor(net, physics), physics, Shift(1), closure,
        {"total": torch.optim.SGD(net.parameters(), lr=1e-9),
         "level": torch.optim.SGD(closure.noise_level.parameters(), lr=0.02)},
        clip_norm=1e-6, epochs=2, out=False, progress=False,
    )  # fmt: skip
    history = trainer.fit(make_loader(list(torch.rand(6, 1, 16, 16)), batch_size=2))
    assert float(closure.noise_level()) == pytest.approx(0.01 * math.exp(6 * 0.02), rel=1e-3)
    assert history[0]["sigma"] == pytest.approx(0.01 * (1 + math.exp(0.02) + math.exp(0.04)) / 3, rel=1e-3)
