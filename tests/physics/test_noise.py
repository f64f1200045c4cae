"""Noise models against their variances, by many draws."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from makers import MODELS, columns
from torch import Tensor

from ei.closure import RobustEIClosure, SUREClosure
from ei.closure.base import measure
from ei.common.seeds import generator
from ei.datasets import simulate
from ei.errors import InputError
from ei.physics import (
    MRI,
    GaussianNoise,
    Inpainting,
    Noise,
    PoissonGaussianNoise,
    PoissonNoise,
    TransmissionNoise,
    parse_noise,
)


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
def test_bad_input_is_one_line(call: Any, words: list[str]) -> None:
    with pytest.raises(InputError) as error:
        call()
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("physics", "x"),
    [(Inpainting(8, 9), torch.rand(2, 3, 8, 9)), (MRI(columns(9)), torch.rand(2, 2, 8, 9))],
    ids=["inpainting", "mri"],
)
def test_no_noise_where_nothing_is_measured(physics: Any, x: Tensor) -> None:
    physics.noise = GaussianNoise(0.1)
    away = physics.mask.expand_as(x) == 0
    for y in (physics(x), simulate(physics, x, [0, 1], seed=0), measure(physics, x)):
        assert bool((y[away] == 0).all()) and bool((y[~away] != physics.A(x)[~away]).all())
    # What is measured has the noise of before, seeded by the image alone.
    alone = physics.noise(physics.A(x)[1:], generator=generator(0, "noise", 7))
    y = simulate(physics, x, [3, 7], seed=0)
    assert torch.equal(y[1][~away[1]], alone[0][~away[1]])
    physics.noise = None


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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_many_counts_in_half_precision(dtype: torch.dtype) -> None:
    """More than the 65504 that float16 ends at were infinitely many."""
    y = PoissonNoise(gain=1e-5)(torch.full((2, 1, 32, 32), 0.9, dtype=dtype), generator=generator(0, "counts"))
    assert y.dtype == dtype and float(y.double().mean()) == pytest.approx(0.9, abs=4e-3)
    assert float(y.double().std()) < 3e-3 + torch.finfo(dtype).eps


@pytest.mark.parametrize("noise", MODELS)
def test_integers_and_arrays_are_rejected(noise: Noise) -> None:
    """Noise on integers was rounded away, in silence."""
    with pytest.raises(InputError, match="float"):
        noise(torch.ones(1, 1, 2, 2, dtype=torch.int64))
    with pytest.raises(InputError, match="torch tensor"):
        noise(torch.ones(1, 1, 2, 2).numpy())  # type: ignore[arg-type]
