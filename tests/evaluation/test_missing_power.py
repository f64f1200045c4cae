"""The error between the views, by the power that a reconstruction lacks there."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from ei.common.seeds import generator as seed
from ei.errors import InputError
from ei.evaluation.calibration import Calibration, coverage, true_scores
from ei.evaluation.missing_power import missing_power, missing_power_scores
from ei.evaluation.uncertainty import bootstrap
from ei.models.base import ReconstructionFunction
from ei.physics import CT, GaussianNoise, Inpainting, Tomography
from ei.transforms import Turn

SIDE = 24


@functools.cache
def covariance() -> Tensor:
    """Of Gaussian images whose spectrum falls with the frequency, in all directions alike, inside a disc."""
    at = torch.cartesian_prod(*[torch.arange(SIDE, dtype=torch.float64)] * 2)
    distance = torch.cdist(at, at)
    inside = ((at - (SIDE - 1) / 2).norm(dim=1) < SIDE / 2 - 1).double()
    return inside[:, None] * torch.exp(-((distance / 2.5) ** 1.5)) * inside


class Mean(ReconstructionFunction):
    """``E[x | y]`` of Gaussian images, times a factor."""

    def __init__(self, physics: Any, sigma: float = 0.0, factor: float = 1.0) -> None:
        super().__init__(torch.nn.Identity(), physics)
        self.sigma, self.factor = sigma, factor

    def of(self, physics: Any) -> Mean:
        return Mean(physics, self.sigma, self.factor)

    @functools.cached_property
    def gain(self) -> Tensor:
        pixels = torch.eye(SIDE**2, dtype=torch.float64).view(-1, 1, SIDE, SIDE)
        A = self.physics.A(pixels).flatten(1).T
        noise = (self.sigma**2 + 1e-6) * torch.eye(len(A), dtype=torch.float64)
        return self.factor * torch.linalg.solve(A @ covariance() @ A.T + noise, A @ covariance())

    def forward(self, y: Tensor) -> Tensor:
        return (y.flatten(1) @ self.gain).view(-1, 1, SIDE, SIDE)


def images(count: int, number: int = 0) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance())
    # Symmetric: vectors of equal values differ with the machine and its threads, the square root does not.
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    drawn = torch.randn(count, SIDE**2, dtype=torch.float64, generator=seed(number)) @ root
    return drawn.view(count, 1, SIDE, SIDE)


SCANNERS = {
    "parallel": lambda noise: Tomography((SIDE, SIDE), [20.0 * k for k in range(9)], 36, noise=noise),
    "the paper's": lambda noise: CT(SIDE, 9, noise=noise),
    "uneven": lambda noise: Tomography((SIDE, SIDE), [111.246 * k for k in range(11)], 36, noise=noise),
    "fan": lambda noise: Tomography(
        (SIDE, SIDE), [40.0 * k for k in range(9)], 41, detector_spacing=1.5, source_origin=60, origin_detector=40,
        noise=noise,
    ),
}  # fmt: skip


def measured(physics: Any, truth: Tensor) -> Tensor:
    y = physics.A(truth)
    return y if physics.noise is None else physics.noise(y, generator=seed(1))


@pytest.mark.parametrize("sigma", [0.0, 2.0])
@pytest.mark.parametrize("scanner", SCANNERS)
def test_it_is_the_error_of_the_mean(scanner: str, sigma: float) -> None:
    physics = SCANNERS[scanner](GaussianNoise(sigma) if sigma else None)
    truth = images(200)
    y = measured(physics, truth)
    x = Mean(physics, sigma)(y)
    error = (x - truth).square().flatten(1).sum(1)
    assert float(error.mean()) > 0.03 * float(truth.square().flatten(1).sum(1).mean())
    found = missing_power(physics, x, y, physics.noise)
    off = 0.3 if (scanner, sigma) == ("uneven", 0.0) else 0.25
    assert float(found.mean()) == pytest.approx(float(error.mean()), rel=off)
    torch.testing.assert_close(missing_power(physics, x[3:4], y[3:4]), missing_power(physics, x, y)[3:4])


@pytest.mark.parametrize("scanner", ["parallel", "the paper's"])
def test_the_ground_truth_lacks_nothing(scanner: str) -> None:
    """Views along the border of an image have more power than all others."""
    physics, truth = SCANNERS[scanner](None), images(200)
    squares = truth + torch.rand(200, 1, 1, 1, generator=seed(2))
    for x in (truth, squares):
        lacking = missing_power(physics, x, physics.A(x)).mean() / x.square().flatten(1).sum(1).mean()
        assert abs(float(lacking)) < 0.015


@pytest.mark.parametrize("sigma", [0.0, pytest.param(2.0, marks=pytest.mark.slow)])
def test_it_calibrates_error_bars_that_are_too_small(sigma: float) -> None:
    """x has lost what lies between the views, so that its draws cannot lose it again."""
    physics = SCANNERS["parallel"](GaussianNoise(sigma) if sigma else None)
    f, group = Mean(physics, sigma), Turn(1, step=20)
    seen, truth = images(30, 1), images(30, 2)
    calibration = Calibration.of(missing_power_scores([(f, physics, measured(physics, seen))], group, 20), "power")
    result = bootstrap(f, physics, group, measured(physics, truth), 20, generator=seed(0))
    scores = true_scores(result, truth)
    assert float(scores.factors.mean()) > 1.3
    for row in coverage(scores, calibration)[1:4]:
        assert abs(row["pixels_calibrated"] - row["level"]) < min(0.1, 0.6 * abs(row["pixels"] - row["level"]))
        assert row["norm_calibrated"] >= row["level"] - 0.1


def test_scanners_that_leave_lines_out_have_no_step() -> None:
    assert SCANNERS["parallel"](None).step_between_views == pytest.approx(20)
    assert SCANNERS["the paper's"](None).step_between_views == pytest.approx(20)
    assert SCANNERS["uneven"](None).step_between_views == pytest.approx(180 / 11)
    assert SCANNERS["fan"](None).step_between_views == pytest.approx(40)
    assert Tomography((8, 8), [18.0 * k for k in range(20)], 12).step_between_views == pytest.approx(18)
    for physics in (
        CT(8, 30, uniform=False),
        Tomography((8, 8), range(0, 120, 4), 12),
        Tomography((8, 8), range(0, 360, 9), 9, centre=-3),
        Tomography((32, 32), range(0, 180, 9), 12),
        Inpainting(8, 8),
    ):
        x = torch.rand(1, 1, *getattr(physics, "image_shape", (8, 8)))
        with pytest.raises(InputError, match="no views all around the object"):
            missing_power(physics, x, physics.A(x))


def test_views_along_the_pixels_alone_show_nothing() -> None:
    physics = Tomography((8, 8), [0, 90], 12)
    with pytest.raises(InputError, match="along the pixels"):
        missing_power(physics, torch.rand(1, 1, 8, 8), torch.rand(1, 1, 12, 2))


def test_too_much_power_is_none_missing() -> None:
    physics = SCANNERS["parallel"](None)
    with pytest.raises(InputError, match="which 8 measurements do not distinguish from zero"):
        missing_power_scores([(Mean(physics, factor=1.3), physics, physics.A(images(8)))], Turn(1), 4)
