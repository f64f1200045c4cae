"""Noise models against their variances, SURE against the risk it estimates, both by many draws."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Result, SmallNet, fill
from PIL import Image
from torch import Tensor, nn

import ei
from ei.closure import EIClosure, MCClosure, RobustEIClosure, SUREClosure, UNSUREClosure
from ei.closure.base import Consistency, InUnits, measure
from ei.closure.sure import default_tau, unbiased_risk
from ei.commands.options import Options
from ei.commands.presets import UNKNOWN_NOISE, closure_of
from ei.common.files import load_file, save_file
from ei.common.processes import Part, Processes
from ei.common.seeds import generator
from ei.datasets import EllipsePhantoms, make_loader, simulate
from ei.errors import InputError
from ei.evaluation.loading import noise_in
from ei.metrics import psnr
from ei.models import Reconstructor, UNet, Unrolled
from ei.physics import (
    CT,
    MRI,
    GaussianNoise,
    Inpainting,
    Noise,
    PoissonGaussianNoise,
    PoissonNoise,
    TransmissionNoise,
    parse_noise,
    pinv_cg,
)
from ei.physics.base import sampling_mask_for
from ei.training import Trainer
from ei.training.parallel import draws_of_part
from ei.training.validation import known_columns
from ei.transforms import Shift

Script = Callable[..., Result]

MODELS = [
    GaussianNoise(0.1),
    PoissonNoise(0.05),
    PoissonGaussianNoise(0.05, 0.1),
    TransmissionNoise(1e5, 30, 0.0064),
]


# ---- noise models -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [*MODELS, TransmissionNoise(1e3), GaussianNoise(0), PoissonGaussianNoise(2, 0)])
def test_the_variance_is_that_of_the_noise(noise: Noise) -> None:
    """Of 40,000 draws around clean values; the standard error of a variance is 0.7 %."""
    largest = 95.0 if isinstance(noise, TransmissionNoise) and noise.scale < 1 else 2.0
    clean = torch.linspace(0, largest, 6, dtype=torch.float64)
    draws = noise(clean.expand(40_000, 6), generator=generator(0, "noise"))
    expected = noise.variance(clean)
    torch.testing.assert_close(draws.var(0), expected, rtol=0.04, atol=1e-12)
    # The logarithm of counts is biased in second order: by half its variance, times the scale.
    bias = 0.5 * expected * noise.scale if isinstance(noise, TransmissionNoise) else 0 * expected
    assert bool(((draws.mean(0) - clean - bias).abs() <= 4 * (expected / len(draws)).sqrt() + 0.2 * bias + 1e-12).all())


def test_variances_are_the_formulas_and_are_not_clipped() -> None:
    y = torch.tensor([[-1.0, 0.0, 0.5, 20.0]])
    n = 1e5 * torch.exp(-0.0064 * y)
    for noise, expected in (
        (GaussianNoise(0.1), torch.full_like(y, 0.01)),
        (PoissonNoise(0.05), 0.05 * y),
        (PoissonGaussianNoise(0.05, 0.1), 0.05 * y + 0.01),
        (TransmissionNoise(1e5, 30, 0.0064), (n + 900) / (n**2 * 0.0064**2)),
    ):
        torch.testing.assert_close(noise.variance(y), expected)
        assert noise.variance(y.double()).dtype == torch.float64


def test_counts_are_whole_numbers() -> None:
    y = PoissonNoise(0.25)(torch.rand(3, 1, 8, 8))
    assert torch.equal((4 * y).round(), 4 * y) and float(y.min()) == 0
    y = TransmissionNoise(50)(torch.full((1, 1000), 10.0))  # no photon arrives: as if one had
    torch.testing.assert_close(y, torch.full_like(y, math.log(50)))


@pytest.mark.parametrize("noise", MODELS, ids=str)
def test_draws(noise: Noise) -> None:
    y = torch.rand(3, 1, 4, 5)
    first, again = (noise(y, generator=generator(3)) for _ in range(2))
    assert torch.equal(first, again) and first.shape == y.shape
    assert not torch.equal(first, noise(y, generator=generator(4))) and not torch.equal(noise(y), noise(y))
    torch.manual_seed(1)
    first = noise(y)
    torch.manual_seed(1)
    assert torch.equal(noise(y), first)
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        assert noise(y.to(dtype)).dtype == noise.variance(y.to(dtype)).dtype == dtype
    assert noise(y[:0]).shape == (0, 1, 4, 5) and noise(y[0, 0, 0]).shape == (5,) and noise(y.sum()).shape == ()
    assert noise(y.transpose(2, 3)).shape == (3, 1, 5, 4)
    # Counts have no gradient by themselves; a closure gives them one.
    assert noise(y.clone().requires_grad_()).requires_grad == isinstance(noise, GaussianNoise)
    wild = torch.tensor([[1.0, float("nan"), 3e38]])  # of a training that diverges: nothing hangs or raises
    assert bool(noise(wild)[0, 1].isnan()) and bool(noise(wild)[0, 0].isfinite())
    assert type(noise)(**noise.config).config == noise.config and repr(noise).startswith(type(noise).__name__)


def test_complex_measurements() -> None:
    y = torch.zeros(20_000, dtype=torch.complex64)
    noise = GaussianNoise(0.5)
    assert float(noise(y).abs().square().mean()) == pytest.approx(0.25, rel=0.05)
    assert not noise.variance(y).is_complex() and float(noise.variance(y)[0]) == 0.25
    for other in MODELS[1:]:
        with pytest.raises(InputError, match="complex"):
            other(y)


def test_noise_of_a_text() -> None:
    for text, model, config in (
        ("gaussian:0.1", GaussianNoise, {"sigma": 0.1}),
        ("poisson:0.05", PoissonNoise, {"gain": 0.05}),
        ("poisson-gaussian:0.05,0.1", PoissonGaussianNoise, {"gain": 0.05, "sigma": 0.1}),
        ("transmission:1e5,30,0.0064", TransmissionNoise, {"photons": 1e5, "sigma": 30.0, "scale": 0.0064}),
        ("transmission:1e4", TransmissionNoise, {"photons": 1e4, "sigma": 0.0, "scale": 1.0}),
    ):
        noise = parse_noise(text)
        assert type(noise) is model and noise.config == config
        assert all(getattr(noise, name) == value for name, value in config.items())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: PoissonNoise(-0.05), ["gain", "> 0", "-0.05"]),
        (lambda: PoissonNoise(0), ["gain", "> 0"]),
        (lambda: PoissonNoise(float("nan")), ["gain", "nan"]),
        (lambda: PoissonGaussianNoise(0.05, -1), ["sigma", "-1"]),
        (lambda: PoissonGaussianNoise(float("inf"), 1), ["gain", "inf"]),
        (lambda: TransmissionNoise(0), ["photons", "> 0"]),
        (lambda: TransmissionNoise(1e5, -30), ["sigma", "-30"]),
        (lambda: TransmissionNoise(1e5, 30, 0), ["scale", "> 0"]),
        (lambda: GaussianNoise(float("nan")), ["sigma", "nan"]),
        (lambda: parse_noise("salt:1"), ["salt", "gaussian:SIGMA", "transmission:PHOTONS[,SIGMA[,SCALE]]"]),
        (lambda: parse_noise("poisson"), ["poisson:GAIN"]),
        (lambda: parse_noise("poisson:0.05,0.1"), ["2 arguments", "poisson:GAIN"]),
        (lambda: parse_noise("poisson-gaussian:0.05"), ["1 arguments", "poisson-gaussian:GAIN,SIGMA"]),
        (lambda: parse_noise("transmission:1,2,3,4"), ["4 arguments"]),
        (lambda: parse_noise("poisson:-1"), ["gain", "-1"]),
        (lambda: parse_noise("gaussian:x"), ["gaussian:SIGMA", "'x'"]),
        (lambda: PoissonNoise(0.05)(torch.tensor([[0.5, -0.25]])), ["PoissonNoise(gain=0.05)", "-0.25", "negative"]),
        (lambda: Inpainting(4, 4, noise=PoissonGaussianNoise(1, 1))(-torch.ones(1, 1, 4, 4)), ["negative"]),
        (lambda: simulate(Inpainting(4, 4, noise=PoissonNoise(1)), -torch.ones(1, 1, 4, 4), [0], 0), ["negative"]),
        (lambda: SUREClosure(tau=0), ["tau", "> 0"]),
        (lambda: RobustEIClosure(1, tau=float("nan")), ["tau", "nan"]),
        (lambda: RobustEIClosure(-1), ["alpha", "-1"]),
    ],
)
def test_bad_input_is_told_in_a_line(call: Any, words: list[str]) -> None:
    with pytest.raises(InputError) as error:
        call()
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


# ---- masks --------------------------------------------------------------------------------------------------------


def columns(width: int) -> Tensor:
    return (torch.arange(width) % 3 != 1).float()


@pytest.mark.parametrize(
    ("physics", "x"),
    [(Inpainting(8, 9), torch.rand(2, 3, 8, 9)), (MRI(columns(9)), torch.rand(2, 2, 8, 9))],
    ids=["inpainting", "mri"],
)
def test_nothing_is_added_where_nothing_is_measured(physics: Any, x: Tensor) -> None:
    physics.noise = GaussianNoise(0.1)
    away = physics.mask.expand_as(x) == 0
    for y in (physics(x), simulate(physics, x, [0, 1], seed=0), measure(physics, x)):
        assert bool((y[away] == 0).all()) and bool((y[~away] != physics.A(x)[~away]).all())
    # What is measured has the noise of before, seeded by the image alone.
    alone = physics.noise(physics.A(x)[1:], generator=generator(0, "noise", 7))
    y = simulate(physics, x, [3, 7], seed=0)
    assert torch.equal(y[1][~away[1]], alone[0][~away[1]])
    physics.noise = None


# ---- a closure that measures again --------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", MODELS, ids=str)
def test_fresh_noise_has_no_gradient(noise: Noise) -> None:
    physics = CT(8, 5, noise=noise)
    x = torch.rand(2, 1, 8, 8, requires_grad=True)
    torch.manual_seed(1)
    y = measure(physics, x)
    torch.manual_seed(1)
    assert torch.equal(y, noise(physics.A(x)))
    weights = torch.rand_like(y)
    expected = torch.autograd.grad(physics.A(x), x, weights)[0]
    assert torch.equal(torch.autograd.grad(y, x, weights)[0], expected)


def test_negative_entries_are_clipped_for_the_draw_alone_and_counted() -> None:
    physics = Inpainting(4, 4, mask_rate=0, noise=PoissonNoise(0.05))
    x = torch.full((1, 1, 4, 4), 0.5)
    x[0, 0, 0] = -0.25
    x.requires_grad_()
    y = measure(physics, x)
    assert torch.equal(y[0, 0, 0], x[0, 0, 0]) and not torch.equal(y[0, 0, 1:], x[0, 0, 1:])
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], torch.ones_like(x))
    assert physics.noise.clipped == 4
    measure(physics, x)
    assert physics.noise.clipped == 8
    physics.noise = GaussianNoise(0.1)
    measure(physics, x)
    assert physics.noise.clipped == 0


@pytest.mark.parametrize("noise", [PoissonNoise(0.05), PoissonGaussianNoise(0.05, 0.1)], ids=str)
def test_what_rounding_leaves_below_zero_is_zero(noise: Noise) -> None:
    """And what is negative is refused, however small all measurements are."""
    y = torch.rand(2, 1, 8, 8)
    zero = y.clone()
    y[0, 0, 0, 0], zero[0, 0, 0, 0] = -1e-9, 0
    seeded = (torch.Generator().manual_seed(1) for _ in range(2))
    assert torch.equal(noise(y, generator=next(seeded)), noise(zero, generator=next(seeded)))
    for negative in (y - 1e-3, 1e-9 * (y - 0.5), -1e-9 * torch.ones(1, 4), torch.tensor([[1.0, -1e-9]]).double()):
        with pytest.raises(InputError, match="negative"):
            noise(negative)


def test_noise_of_ones_own_is_called_as_ever() -> None:
    class Operator:
        noise = staticmethod(lambda y, generator=None: y + 1)
        A = staticmethod(lambda x: 2 * x)

    assert torch.equal(measure(Operator(), torch.ones(1, 1, 2, 2)), torch.full((1, 1, 2, 2), 3.0))


# ---- SURE ---------------------------------------------------------------------------------------------------------


class Bent(nn.Module):
    """A network that is clearly nonlinear: a tanh between two convolutions."""

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        torch.manual_seed(11)
        self.a, self.b = nn.Conv2d(channels, 6, 3, padding=1), nn.Conv2d(6, channels, 3, padding=1)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return 0.6 * x + self.scale * self.b(torch.tanh(4 / self.scale * self.a(x)))


CASES = {
    "gaussian": (Inpainting(12, 12, mask_rate=0, noise=GaussianNoise(0.1)), 1),
    "gaussian, mask": (Inpainting(12, 12, noise=GaussianNoise(0.1)), 1),
    "gaussian, mri": (MRI(columns(12), noise=GaussianNoise(0.1)), 2),
    "poisson, mask": (Inpainting(12, 12, noise=PoissonNoise(0.05)), 1),
    "mixed, mask": (Inpainting(12, 12, noise=PoissonGaussianNoise(0.05, 0.1)), 1),
    # 12 pixels across attenuate as 128 of CT100 do with 0.0064.
    "transmission, ct": (CT(12, 8, noise=TransmissionNoise(1e5, 30, 0.07)), 1),
}


def smooth_image(channels: int) -> Tensor:
    coarse = 0.1 + 0.9 * torch.rand(1, channels, 4, 4, generator=generator(5), dtype=torch.float64)
    return nn.functional.interpolate(coarse, size=(12, 12), mode="bilinear")


def risks(physics: Any, channels: int, chunks: int, of: int, domain: str = "measurement") -> Tensor:
    """Of chunks of draws, rows ``[chunks, 4]``: the estimate, the risk, and the estimate without its last term and
    without its variance."""
    net = Bent(channels, 1.0).double()
    # Filtered back-projection of 8 views is so far off that noise would not matter.
    f: Any = Unrolled(net, physics, iterations=1) if isinstance(physics, CT) else Reconstructor(net, physics)
    x = smooth_image(channels)
    clean = physics.A(x)
    measured = sampling_mask_for(physics, clean)
    measured = torch.ones_like(clean) if measured is None else measured.expand_as(clean)
    count = measured.sum() * of

    def mean(difference: Tensor) -> Tensor:
        if domain == "image":
            return physics.A_dagger(difference).square().mean()
        return (difference.square() * measured).sum() / count

    rows = []
    torch.manual_seed(21)
    with torch.no_grad():
        for _ in range(chunks):
            y = physics(x.expand(of, -1, -1, -1))
            x1 = f(y)
            estimate = unbiased_risk(f, physics, y, x1, compared=Consistency(domain))
            risk, residual, variance = mean(physics.A(x1) - clean), mean(physics.A(x1) - y), mean(y - clean)
            rows.append((estimate, risk, residual - variance, estimate + variance))
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("domain", ["measurement", "image"])
@pytest.mark.parametrize("name", CASES)
def test_sure_is_the_risk_in_the_mean(name: str, domain: str) -> None:
    rows = risks(*CASES[name], chunks=100, of=100, domain=domain)
    difference, risk = rows[:, 0] - rows[:, 1], float(rows[:, 1].mean())
    error = float(difference.std() / math.sqrt(len(difference)))
    allowed = 3 * error if "gaussian" in name else max(3 * error, 0.02 * risk)
    assert abs(float(difference.mean())) < allowed
    for without in (rows[:, 2], rows[:, 3]):  # the test has power: it sees if a term is missing
        assert abs(float(without.mean()) - risk) > 3 * allowed


def test_the_estimate_hardly_depends_on_tau() -> None:
    """In float32 tiny steps drown in rounding, in any precision large ones see the curvature; between lies the default.
    Errors relative to the variance of the noise, root mean squares over signs."""
    physics, channels = CASES["gaussian, mask"]
    torch.manual_seed(0)
    y = physics(smooth_image(channels).expand(16, -1, -1, -1))
    f, exact = (Reconstructor(Bent(channels, 1.0), physics) for _ in range(2))
    exact.double()

    def error(tau: float | None, f: Any, y: Tensor) -> float:
        differences = []
        with torch.no_grad():
            for seed in range(8):
                torch.manual_seed(seed)
                value = unbiased_risk(f, physics, y, f(y), tau)
                torch.manual_seed(seed)
                differences.append(float(value - unbiased_risk(exact, physics, y.double(), exact(y.double()), 1e-6)))
        return float(np.sqrt(np.mean(np.square(differences)))) / 0.01

    single = y.float()
    assert error(None, f, single) == pytest.approx(error(0.03, f, single), rel=1e-2)  # 0.3 sigma, but for rounding
    assert all(error(tau, f, single) < 0.005 for tau in (0.003, 0.01, 0.03))
    assert error(1e-7, f, single) > 0.02 and error(0.3, exact, y) > 0.02


def test_the_default_tau() -> None:
    """Of the noise; of y where that would drown in rounding; for each image its own, over what is measured."""
    physics, y = Inpainting(6, 6, noise=PoissonNoise(0.05)), torch.rand(3, 1, 6, 6)
    y = physics.A(y * torch.tensor([1.0, 50.0, 0.0]).view(3, 1, 1, 1))
    tau = default_tau(physics, y, physics.noise.variance(y))
    assert tau.shape == (3, 1, 1, 1)
    kept = physics.mask.sum()
    for k in (0, 1):
        assert float(tau[k]) == pytest.approx(0.3 * float((0.05 * y[k].sum() / kept).sqrt()), rel=1e-5)
    assert float(tau[2]) == pytest.approx(1e-3)  # nothing to go by
    quiet = default_tau(physics, y, torch.full_like(y, 1e-16))
    assert float(quiet[1]) == pytest.approx(1e-3 * float((y[1].square().sum() / kept).sqrt()), rel=1e-5)
    torch.testing.assert_close(default_tau(physics, y[1:2], 0.05 * y[1:2]), tau[1:2])
    whole = SimpleNamespace(A=lambda x: x)  # tells nothing of a mask
    each = [default_tau(whole, one[None], 0.05 * one[None]) for one in y]
    torch.testing.assert_close(default_tau(whole, y, 0.05 * y), torch.cat(each))


def test_f_is_not_differentiated_by_what_is_not_measured() -> None:
    """An f of one's own may look there, and then more signs are nothing but more scatter of the estimate."""
    physics, asked = Inpainting(16, 16, mask_rate=0.5, noise=GaussianNoise(0.1)), []

    def f(y: Tensor) -> Tensor:
        asked.append(y)
        return y

    y = physics(torch.rand(2, 3, 16, 16))
    SUREClosure(tau=0.05)(f, physics, None, y)
    steps = (asked[1] - asked[0]).abs()
    torch.testing.assert_close(steps, 0.05 * physics.mask.expand_as(y), rtol=0, atol=1e-6)


def test_a_network_with_kinks_needs_no_tiny_steps() -> None:
    """The gradient's deviations over signs and noise: at a hundredth of the default they are several times larger."""
    physics = Inpainting(16, 16, mask_rate=0, noise=GaussianNoise(0.1))
    f = Reconstructor(fill(SmallNet(1)), physics)
    torch.manual_seed(0)
    x = torch.rand(2, 1, 16, 16)

    def deviation(tau: float | None) -> float:
        gradients = []
        for seed in range(200):
            torch.manual_seed(seed)
            loss = SUREClosure(tau=tau)(f, physics, None, physics(x))["total"]
            gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(f.parameters()))]))
        return float(torch.stack(gradients).var(0).sum().sqrt())

    assert deviation(3e-4) > 2 * deviation(None)


def test_sure_is_the_formula() -> None:
    """With the same signs, over measured entries; a linear f = a y has it in closed form."""
    physics = Inpainting(6, 7, noise=PoissonGaussianNoise(0.05, 0.1))
    y = physics(torch.rand(3, 2, 6, 7))
    f = Reconstructor(fill(SmallNet(2)), physics)
    torch.manual_seed(4)
    losses = SUREClosure(tau=0.02)(f, physics, None, y)
    torch.manual_seed(4)
    mask = physics.mask.expand_as(y)
    m, b = mask.sum(), (2.0 * torch.randint(0, 2, y.shape) - 1) * mask
    v = (0.05 * y + 0.01) * mask
    measured = physics.A(f(y))
    expected = (measured - y).square().sum() / m - v.sum() / m
    expected = expected + 2 / (m * 0.02) * (b * v * (physics.A(f(y + 0.02 * b)) - measured)).sum()
    torch.testing.assert_close(losses["sure"], expected)
    assert losses.keys() == {"sure", "total", "x1"} and losses["total"] is losses["sure"]

    physics = Inpainting(6, 7, noise=GaussianNoise(0.3))
    a, y = 0.7, physics(torch.rand(3, 2, 6, 7))
    losses = SUREClosure()(lambda y: a * y, physics, None, y)
    expected = (a - 1) ** 2 * y.square().sum() / m - 0.09 + 2 * 0.09 * a
    torch.testing.assert_close(losses["sure"], expected)
    stein = 1 - 0.09 * m / y.square().sum()  # what it is smallest for: James and Stein's
    values = [
        SUREClosure()(lambda y, c=c: c * y, physics, None, y)["sure"] for c in (stein - 0.02, stein, stein + 0.02)
    ]
    assert values[1] < values[0] and values[1] < values[2]


def test_sure_of_complex_measurements() -> None:
    class Complex:
        noise = GaussianNoise(0.3)
        A = staticmethod(lambda x: torch.complex(x[:, :1], x[:, 1:]))

    def f(y: Tensor) -> Tensor:
        return torch.cat([0.7 * y.real - 0.2 * y.imag, 0.1 * y.real + 0.4 * y.imag], 1)

    x = torch.rand(500, 2, 8, 8)
    y = Complex.noise(Complex.A(x))
    sure, risk = unbiased_risk(f, Complex, y, f(y)), (Complex.A(f(y)) - Complex.A(x)).abs().square().mean()
    assert float(sure) == pytest.approx(float(risk), rel=0.02)


@pytest.mark.parametrize(
    ("closure", "noise"),
    [
        (SUREClosure(tau=1e-3), PoissonNoise(0.05)),
        (RobustEIClosure(0.5, tau=1e-3), GaussianNoise(0.1)),
        (RobustEIClosure(0.5, tau=1e-3, mc_domain="image"), GaussianNoise(0.1)),
    ],
)
def test_gradients_flow_through_both_reconstructions(closure: Any, noise: Noise) -> None:
    """Against finite differences of the loss by the weights, with the same signs. (A draw of counts has jumps, so the
    noise of the equivariance loss is Gaussian here.)"""
    physics = Inpainting(6, 6, noise=noise)
    f = Reconstructor(Bent(1, 1.0).double(), physics)
    y = physics(torch.rand(2, 1, 6, 6, dtype=torch.float64))

    def loss() -> Tensor:
        torch.manual_seed(2)
        return closure(f, physics, Shift(1), y)["total"]

    weight = f.net.a.weight
    (gradient,) = torch.autograd.grad(loss(), weight)
    for place in ((0, 0, 1, 1), (3, 0, 2, 0)):
        values = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                weight[place] += step
                values.append(float(loss()))
                weight[place] -= step
        assert float(gradient[place]) == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5)


def test_robust_ei_is_sure_and_equivariance() -> None:
    physics = Inpainting(8, 8, noise=PoissonNoise(0.05))
    f = Reconstructor(fill(SmallNet(3)), physics)
    y = physics(torch.rand(2, 3, 8, 8))
    torch.manual_seed(3)
    losses = RobustEIClosure(0.5)(f, physics, Shift(2), y)
    assert losses.keys() == {"sure", "ei", "total", "x1"} and not losses["x1"].requires_grad
    torch.testing.assert_close(losses["total"], losses["sure"] + 0.5 * losses["ei"])
    torch.manual_seed(3)
    torch.testing.assert_close(losses["ei"], EIClosure(0.5)(f, physics, Shift(2), y)["ei"])
    assert SUREClosure.columns == {"loss_sure": "total"}
    assert RobustEIClosure.columns == {"loss_sure": "sure", "loss_ei": "ei", "loss_total": "total"}
    for stop in (False, True):
        ei_loss = RobustEIClosure(1.0, stop)(f, physics, Shift(2), y)["ei"]
        assert ei_loss.requires_grad


def test_what_sure_cannot_do_is_told() -> None:
    physics, y = Inpainting(8, 8), torch.rand(1, 3, 8, 8)
    f = Reconstructor(fill(SmallNet(3)), physics)
    for closure in (SUREClosure(), RobustEIClosure(1.0)):
        physics.noise = None
        with pytest.raises(InputError, match="needs a noise model"):
            closure(f, physics, Shift(1), y)
        physics.noise = lambda y, generator=None: y
        with pytest.raises(InputError, match="variance"):
            closure(f, physics, Shift(1), y)
        physics.noise = GaussianNoise(0.1)
        with pytest.raises(InputError, match="bf16"):
            closure(Reconstructor(f.net, physics, "bf16"), physics, Shift(1), y)


# ---- noise of unknown level ---------------------------------------------------------------------------------------


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
        assert abs(expected - other) > 0.02 * sigma  # the domains are told apart
    assert expected > 1.02 * sigma  # the relation is told from equality

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
        networks={"total": net, "level": closure.noise_level}, epochs=1, out=tmp_path / "run", progress=False,
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
    physics, inner = Inpainting(16, 16, mask_rate=0), UNSUREClosure(0.01, alpha=1.0)
    net = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.ones_(net.weight)
    closure = inner if scale == 1 else InUnits(inner, scale)
    trainer = Trainer(
        Reconstructor(net, physics), physics, Shift(1), closure,
        {"total": torch.optim.SGD(net.parameters(), lr=1e-9),
         "level": torch.optim.SGD(inner.noise_level.parameters(), lr=0.02)},
        networks={"total": net, "level": inner.noise_level}, clip_norm=1e-6, epochs=2, out=False, progress=False,
    )  # fmt: skip
    history = trainer.fit(make_loader(list(torch.rand(6, 1, 16, 16)), batch_size=2))
    assert float(inner.noise_level()) == pytest.approx(0.01 * math.exp(6 * 0.02), rel=1e-3)
    assert history[0]["sigma"] == pytest.approx(0.01 * (1 + math.exp(0.02) + math.exp(0.04)) / 3, rel=1e-3)


def test_noise_unknown_by_commands(script: Script) -> None:
    """From measurements alone: the level starts a hundred times below them and rises, in the log and in what is said.
    (To the end, 600 steps of a larger network, it came to 0.308 where the relation above says 0.311.)"""
    y = torch.rand(20, 1, 16, 16, generator=torch.Generator().manual_seed(0)) + 0.5
    np.save("y.npy", y.numpy())
    Path("p.yaml").write_text("{name: Inpainting, img_height: 16, img_width: 16, mask_rate: 0}\n")
    train = ("ei train", "--physics", "p.yaml", "--measurements", "y.npy", "--noise", "unknown", "--norm", "none",
             "--base-channels", 2, "--batch-size", 6, "--device", "cpu")  # fmt: skip
    done = script(*train, "--method", "sure", "--epochs", 2, "--out", "run")
    assert done.code == 0, done.err
    levels = np.genfromtxt("run/training_loss.csv", delimiter=",", names=True)["sigma"]
    start = 0.01 * float(y[:18].square().mean().sqrt())
    assert levels[0] == pytest.approx(start, rel=0.05) and levels[0] < levels[1]
    found = float(re.search(r"sigma = (\S+) was found", done.out)[1])
    assert found == pytest.approx(
        float(load_file("run/ckp_last.pth.tar")["state_dict_level"]["log_sigma"].exp()), rel=1e-3
    )
    # It resumes, and tells what it cannot do.
    done = script("ei train", "--resume", "run/ckp_last.pth.tar", "--epochs", 3)
    again = float(re.search(r"sigma = (\S+) was found", done.out)[1])
    assert done.code == 0 and found < again < 1.2 * found, done.err
    assert script("ei reconstruct", "--ckp", "run/ckp_best.pth.tar", "--input", "y.npy", "--output", "x.npy").code == 0
    images = ("ei train", "--task", "ct", "--data", "synthetic", "--noise", "unknown", "--method", "rei")
    for wrong, said in (
        ((*train, "--method", "ei"), "sure and rei"),
        ((*train, "--method", "sure", "--noise-sigma", 1), "contradict"),
        ((*train, "--method", "sure", "--precision", "bf16"), "bf16"),
        (images, "--noise-sigma"),
    ):
        refused = script(*wrong, "--out", "no")
        assert refused.code == 2 and said in refused.err and refused.err.count("\n") == 1, refused
    told = script(*images, "--noise-sigma", 0.5, "--base-channels", 2, "--ei-trans", 1, "--epochs", 1, "--max-steps", 1,
                  "--device", "cpu", "--out", "told")  # fmt: skip
    assert told.code == 0 and ei.load("told/ckp_last.pth.tar").physics.noise.sigma == 0.5, told.err


# ---- several processes, runs, checkpoints -------------------------------------------------------------------------


@pytest.mark.parametrize("domain", ["measurement", "image"])
@pytest.mark.parametrize("noise", MODELS, ids=str)
def test_a_part_of_a_batch_is_drawn_as_within_the_whole(noise: Noise, domain: str) -> None:
    """Noise of measurements again (2 transforms of 3 images), and SURE of the measurements, averaged by the trainer."""
    closure = SUREClosure(mc_domain=domain)
    physics = CT(8, 5, noise=noise)
    f = Reconstructor(fill(SmallNet(1)), physics)
    x = torch.rand(6, 1, 8, 8)
    u, y = physics.A(x).view(2, 3, 1, 12, 5), physics(x[:3])
    torch.manual_seed(1)
    noisy, whole = noise(u.flatten(0, 1)).view_as(u), closure(f, physics, None, y)["sure"]
    total = 0.0
    for rank in range(2):
        part = Part.of(3, Processes(rank, 2))
        ours = slice(part.start, part.stop)
        torch.manual_seed(1)
        with draws_of_part(physics, part, Processes(rank, 2)):
            assert torch.equal(physics.noise(u[:, ours].flatten(0, 1)), noisy[:, ours].flatten(0, 1))
            total = total + part.weight * closure(f, physics, None, y[ours])["sure"]
    torch.testing.assert_close(total, whole, rtol=1e-3, atol=1e-5)


def train(out: Path, closure: Any, noise: Noise, epochs: int = 2) -> Trainer:
    physics = Inpainting(16, 16, noise=noise)
    torch.manual_seed(0)
    net = UNet(1, 1, base_channels=2)
    optimizers = {"total": torch.optim.Adam(net.parameters(), lr=1e-3)}
    images = list(torch.rand(4, 1, 16, 16, generator=generator(1)))
    f = Reconstructor(net, physics)
    trainer = Trainer(f, physics, Shift(1), closure, optimizers, epochs=epochs, out=out, progress=False)
    trainer.fit(make_loader(images, batch_size=2))
    return trainer


@pytest.mark.parametrize(
    ("closure", "header"),
    [
        (SUREClosure(), "epoch,loss_sure,psnr,mse"),
        (RobustEIClosure(1.0), "epoch,loss_sure,loss_ei,loss_total,psnr,mse"),
    ],
)
def test_a_run_and_its_checkpoint(tmp_path: Path, closure: Any, header: str) -> None:
    """Resumed to the same bytes; the checkpoint carries its noise."""
    noise = PoissonGaussianNoise(0.05, 0.1)
    train(tmp_path / "whole", closure, noise)
    assert (tmp_path / "whole" / "training_loss.csv").read_text().splitlines()[0] == header
    again = train(tmp_path / "again", closure, noise)
    assert again.history[-1] == load_file(tmp_path / "whole" / "ckp_last.pth.tar")["history"][-1]
    carried = ei.load(tmp_path / "whole" / "ckp_last.pth.tar").physics.noise
    assert isinstance(carried, PoissonGaussianNoise) and carried.config == noise.config


def test_the_noise_of_older_checkpoints(tmp_path: Path) -> None:
    assert noise_in({}) is None and noise_in({"noise_sigma": 0.0}) is None
    assert noise_in({"noise_sigma": 0.1}).sigma == 0.1
    assert noise_in({"physics": {"name": "CT", "noise": "transmission:1e5,30,0.0064"}}).scale == 0.0064
    train(tmp_path / "run", SUREClosure(), GaussianNoise(0.1))
    state = load_file(tmp_path / "run" / "ckp_last.pth.tar")
    before = {key: value for key, value in state.items() if key not in ("noise", "coil_maps")}
    save_file({**before, "config": {"noise_sigma": 0.25}}, tmp_path / "old.pth.tar")
    assert ei.load(tmp_path / "old.pth.tar").physics.noise.sigma == 0.25
    save_file({**state, "noise": {"name": "CT", "img_width": 8, "radon_view": 3}}, tmp_path / "odd.pth.tar")
    with pytest.raises(InputError, match="names CT, which is no noise"):
        ei.load(tmp_path / "odd.pth.tar")
    save_file({**state, "noise": {"name": "PoissonNoise", "gain": -1.0}}, tmp_path / "odd.pth.tar")
    with pytest.raises(InputError, match="gain"):
        ei.load(tmp_path / "odd.pth.tar")


# ---- commands -----------------------------------------------------------------------------------------------------


def test_the_commands_train_with_noise_and_a_checkpoint_tells_it(script: Callable[..., Result]) -> None:
    for mode in ("train", "test"):
        (Path("images") / mode).mkdir(parents=True)
        for index in range(3):
            pixels = np.random.default_rng(index).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(Path("images") / mode / f"{index}.png")
    train = ("ei train", "--task", "inpainting", "--data", "images", "--resize", 16, "--base-channels", 2,
             "--epochs", 1, "--device", "cpu", "--ei-trans", 1)  # fmt: skip
    headers = {"sure": "epoch,loss_sure,psnr,mse", "rei": "epoch,loss_sure,loss_ei,loss_total,psnr,mse"}
    for method, header in headers.items():
        done = script(*train, "--method", method, "--noise", "poisson:0.05", "--out", method)
        assert done.code == 0, done.err
        assert (Path(method) / "training_loss.csv").read_text().splitlines()[0] == header
    state = load_file("rei/ckp_last.pth.tar")
    assert state["config"]["noise"] == "poisson:0.05" and isinstance(noise_in(state["config"]), PoissonNoise)
    assert script("ei test", "--ckp", "rei/ckp_last.pth.tar", "--out", "tested").code == 0
    refused = script(*train, "--method", "rei", "--out", "no")
    assert refused.code == 2 and "--noise" in refused.err and not Path("no").exists()
    for wrong, said in (
        (("--noise", "poisson:-1"), "gain"),
        (("--noise", "white:1"), "gaussian:SIGMA"),
        (("--noise", "gaussian:1", "--noise-sigma", 1), "contradict"),
    ):
        refused = script(*train, "--method", "ei", *wrong, "--out", "no")
        assert refused.code == 2 and said in refused.err and refused.err.count("\n") == 1, refused


def test_losses_in_units_are_divided_by_the_square() -> None:
    physics = CT(8, 5, noise=GaussianNoise(0.3))
    f, y = Reconstructor(fill(SmallNet(1)), physics), physics.A(torch.rand(2, 1, 8, 8))
    closure = RobustEIClosure(2.0)
    torch.manual_seed(3)
    plain = closure(f, physics, Shift(1), y)
    torch.manual_seed(3)
    divided = InUnits(closure, 5.0)(f, physics, Shift(1), y)
    assert torch.equal(divided["x1"], plain["x1"]) and InUnits(closure, 5.0).columns == closure.columns
    for name in ("sure", "ei", "total"):
        assert divided[name].item() == pytest.approx(plain[name].item() / 25)
    with pytest.raises(InputError, match="noise"):
        InUnits(closure, 5.0).check(f, CT(8, 5))


def test_sure_of_what_is_held_out_chooses_the_epoch(tmp_path: Path) -> None:
    """Measurement consistency falls for as long as noise is fitted; the true images, which nobody is told, say when it
    was best."""
    x = torch.stack([EllipsePhantoms("train", 16, n_images=40)[i] for i in range(24)])[:, None]
    physics = CT(16, 12, noise=GaussianNoise(0.4))
    y = simulate(physics, x, range(24), 0)
    torch.manual_seed(0)
    f = Reconstructor(UNet(1, 1, base_channels=8, norm="none"), physics)
    true: list[float] = []

    def look(trainer: Trainer) -> None:
        f.eval()
        with torch.no_grad():
            true.append(float(psnr(f(y[20:]), x[20:]).mean()))

    held_out = make_loader(list(y[20:]), 4, shuffle=False, measured=True)
    optimizers = {"total": torch.optim.Adam(f.net.parameters(), 2e-3)}
    trainer = Trainer(
        f, physics, None, MCClosure(mc_domain="image"), optimizers, epochs=40, out=tmp_path / "run", progress=False,
        report_psnr=False, validation=held_out, on_epoch_end=look,
    )  # fmt: skip
    history = trainer.fit(make_loader(list(y[:20]), 4, measured=True))
    by_sure, by_loss = (
        min(range(40), key=lambda epoch: history[epoch][column]) for column in ("validation_sure", "validation_loss_fc")
    )
    assert true[by_sure] > true[by_loss] + 0.05 and true[by_sure] > max(true) - 0.1
    assert load_file(tmp_path / "run" / "ckp_best.pth.tar")["epoch"] == by_sure
    f = Reconstructor(UNet(1, 1, base_channels=2), CT(16, 12, noise=lambda y, generator=None: y))
    assert "validation_sure" not in known_columns(
        Trainer(f, f.physics, None, MCClosure(), {"total": torch.optim.Adam(f.net.parameters())}, epochs=1, out=False,
                report_psnr=False, validation=held_out)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("method", "start"),
    [
        *((method, None) for method in ("mc", "ei", "ei_adv", "sure", "rei")),
        *((method, 0.1) for method in UNKNOWN_NOISE),
    ],
)
def test_the_domain_reaches_the_closure(method: str, start: float | None) -> None:
    for domain in ("measurement", "image"):
        options = Options(method=method, ei_alpha=1.0, adv_beta=1e-8, mc_domain=domain)
        assert closure_of(options, (1, 16, 16), start).compared.domain == domain


def test_in_images_sure_needs_a_linear_pseudo_inverse() -> None:
    """Three steps of conjugate gradients are no linear function of y; as many as there are pixels are."""
    exact = CT(6, 5, noise=GaussianNoise(0.5))
    y = exact(torch.rand(2, 1, 6, 6)).double()
    for steps in (3, 60):
        physics = copy.copy(exact)
        physics.A_dagger = lambda y, steps=steps: pinv_cg(exact, y, steps, 1e-14, orthogonal=True)
        f = Reconstructor(fill(SmallNet(1)).double(), exact)
        for closure in (SUREClosure(mc_domain="image"), UNSUREClosure(0.1, mc_domain="image")):
            if steps == 60:
                assert closure(f, physics, None, y)["total"].isfinite()
                continue
            with pytest.raises(InputError, match="A_dagger that is linear"):
                closure(f, physics, None, y)
