"""The report on the level of the noise."""

from __future__ import annotations

import math

import pytest
import torch

from ei.diagnosis.noise_level import noise_report
from ei.errors import InputError
from ei.physics import MRI, GaussianNoise, Inpainting, PoissonGaussianNoise, PoissonNoise


def measured_pixels() -> tuple[Inpainting, torch.Tensor]:
    physics = Inpainting(32, 32, noise=GaussianNoise(0.1))
    return physics, physics.A(torch.rand(8, 1, 32, 32, generator=torch.Generator().manual_seed(0)))


def test_gaussian_noise_of_measured_pixels() -> None:
    """Unmeasured pixels count neither for the noise nor for the signal; A_dagger is the identity on the others."""
    physics, y = measured_pixels()
    report = noise_report(physics, y)
    assert report.deviation == pytest.approx(0.1, rel=1e-4) and report.signal == pytest.approx(3**-0.5, rel=0.02)
    share = float(physics.mask.mean())
    assert report.in_image == pytest.approx(0.1 * share**0.5, rel=0.05)
    assert report.brightest == pytest.approx(1, rel=0.01)
    assert f"{20 * math.log10(report.brightest / report.in_image):.1f} dB" in str(report)
    assert "below 0.01 overfits the noise" in str(report)  # a mean square, as the loss is


def test_noise_that_depends_on_the_signal() -> None:
    physics, y = measured_pixels()
    physics.noise = PoissonGaussianNoise(0.04, 0.1)
    noisy = physics(y)  # with negative entries, where no counts are expected
    assert float(noisy.min()) < 0 < noise_report(physics, noisy).in_image
    physics.noise = PoissonNoise(0.04)
    assert noise_report(physics, y).deviation == pytest.approx((0.04 / 2) ** 0.5, rel=0.03)


def test_noise_of_kspace() -> None:
    physics = MRI(torch.ones(16, 16), noise=GaussianNoise(0.2))
    assert noise_report(physics, physics.A(torch.rand(4, 2, 16, 16))).in_image == pytest.approx(0.2, rel=0.1)


def test_without_a_variance_or_a_signal_it_is_an_error() -> None:
    physics, y = measured_pixels()
    with pytest.raises(InputError, match="zero"):
        noise_report(physics, 0 * y)
    physics.noise = lambda y, generator=None: y
    with pytest.raises(InputError, match="variance"):
        noise_report(physics, y)
