"""Coverage and its correction, where the answer is known."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ei.errors import InputError, MissingFileError
from ei.evaluation.calibration import (
    LEVELS,
    Calibration,
    Scores,
    conformal,
    coverage,
    draw_part,
    held_out_scores,
    joined,
    remarks,
    table,
    true_scores,
)
from ei.evaluation.uncertainty import bootstrap
from ei.models.base import ReconstructionFunction
from ei.physics import GaussianNoise, Inpainting, Tomography, pinv_cg
from ei.transforms import Rotate90, Shift, Turn


def seed(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


class HalfWhereMissing(ReconstructionFunction):
    """Keeps what is measured, and fills in one half."""

    def __init__(self, physics: Any) -> None:
        super().__init__(torch.nn.Identity(), physics)

    def forward(self, y: Tensor) -> Tensor:
        return y + 0.5 * (1 - self.physics.A(torch.ones_like(y)))


@pytest.mark.parametrize(("sigma", "move"), [(0.0, "operator"), (0.0, "image"), (0.3, "operator")])
def test_held_out_pixels_show_the_factor(sigma: float, move: str) -> None:
    """x has one half where A misses a pixel, so a draw that misses it, too, shows no error there: the bootstrap is too
    small by the part that is measured, 0.63 of the pixels where f is given 0.9 of 0.7."""
    noise = GaussianNoise(sigma) if sigma else None
    physics = Inpainting(48, 48, noise=noise)
    truth = torch.rand(6, 1, 48, 48, generator=seed())
    y = physics.A(truth) if noise is None else physics.mask * noise(truth, generator=seed(1))
    scores = held_out_scores(HalfWhereMissing(physics), physics, Shift(1), y, 40, 0, noise=noise, move=move)
    contrast = 1 / 12
    expected = contrast / (0.63 * (contrast + sigma**2))
    assert float(scores.factors.mean()) == pytest.approx(expected, rel=0.12)
    assert len(scores.norms) == 6 and len(scores.pixels) < 3 * 6 * 0.08 * 48**2  # those of which something is held out


class Neighbours(HalfWhereMissing):
    """Fills in the mean of the measured neighbours."""

    def forward(self, y: Tensor) -> Tensor:
        seen = self.physics.A(torch.ones_like(y))
        ways = [(1, -1), (-1, -1), (1, -2), (-1, -2)]
        total, count = (sum(torch.roll(part, step, axis) for step, axis in ways) for part in (y, seen))
        return y + (1 - seen) * total / count.clamp(min=1)


def test_pixels_are_compared_with_draws_that_miss_them() -> None:
    physics = Inpainting(48, 48)
    truth = torch.rand(8, 1, 48, 48, generator=seed())
    f, y = Neighbours(physics), physics.A(truth)
    for move in ("operator", "image"):
        result = bootstrap(f, physics, Shift(1), y, 40, generator=seed(), move=move)
        assert float((result.rmse * physics.mask).max()) < 1e-6
        missing = result.rmse[:, :, physics.mask == 0]
        # The mean of the draws' own squared errors there is that of the whole images, by 0.3 of the pixels.
        assert float(missing.square().mean()) == pytest.approx(0.55 * float(result.mse.mean()) / 0.3, rel=0.4)
        scores = true_scores(result, truth)
        assert len(scores.pixels) == pytest.approx(8 * 0.3 * 48**2, rel=0.01)
        held_out = held_out_scores(f, physics, Shift(1), y, 40, 0, move=move)
        assert float(held_out.pixels.median()) == pytest.approx(float(scores.pixels.median()), rel=0.25)
        half = Scores(
            *(getattr(scores, name)[:4] for name in ("norms", "predicted", "quantiles")), scores.pixels[:2765]
        )
        for row in coverage(scores, Calibration.of(half, "ground truth")):
            assert row["pixels_calibrated"] == pytest.approx(row["level"], abs=0.02)


class Shrunk(ReconstructionFunction):
    """Least squares on the views that it is given, times 0.8."""

    def __init__(self, physics: Any) -> None:
        super().__init__(torch.nn.Identity(), physics)

    def forward(self, y: Tensor) -> Tensor:
        return 0.8 * pinv_cg(self.physics, y, 20)


def test_held_out_views_of_a_scanner_that_turns() -> None:
    """Many views determine the image, so an error is a fifth of the truth, that of a draw a fifth of x, 0.8 of it."""
    at = torch.arange(16.0) - 7.5
    blob = torch.exp(-(at[:, None] ** 2 + (at - 1) ** 2) / 10)
    truth = torch.stack([blob, 2 * blob.T, 0.5 * blob.flip(0)])[:, None]
    physics = Tomography((16, 16), range(0, 180, 6), 24)
    for group in (Turn(1, positions=4), Rotate90(1)):
        scores = held_out_scores(Shrunk(physics), physics, group, physics.A(truth), 8, 0)
        assert float(scores.factors.mean()) == pytest.approx(1 / 0.64, rel=0.1)
        torch.testing.assert_close(scores.norms / scores.norms[0], torch.tensor([1, 2, 0.5]).double(), rtol=0.3, atol=0)


def test_a_part_of_the_measurements_is_drawn_of_each_image() -> None:
    entries = torch.ones(1, 1, 1, 25)
    kept = draw_part(entries, 4, 0.9, 0)
    assert kept.shape == (4, 1, 1, 25)
    assert kept.sum((1, 2, 3)).tolist() == [23] * 4  # two are left out, 2.5 rounded
    assert len({tuple(row.flatten().tolist()) for row in kept}) == 4
    assert draw_part(entries, 1, 0.999, 0).sum() == 24  # at least one
    mask = (torch.arange(25) < 10).float().view(1, 1, 1, 25)
    assert draw_part(mask, 2, 0.5, 0).sum((1, 2, 3)).tolist() == [5, 5]
    assert (draw_part(mask, 2, 0.5, 0) <= mask).all()
    with pytest.raises(InputError, match="fewer than two views"):
        draw_part(mask[..., :1], 1, 0.9, 0)


def scores_of(n: int, number: int = 0) -> Scores:
    """Errors 1.5 times as large as predicted, with some spread."""
    predicted = 1 + torch.rand(n, dtype=torch.float64, generator=seed(number))
    norms = 1.5 * predicted * (1 + 0.1 * torch.randn(n, dtype=torch.float64, generator=seed(number + 1)))
    pixels = 1.5 * torch.randn(200 * n, dtype=torch.float64, generator=seed(number + 2)).abs()
    quantiles = predicted[:, None] * torch.linspace(1, 1.1, 5, dtype=torch.float64)
    return Scores(norms, predicted, quantiles, pixels)


def test_a_calibration_covers_other_images_as_it_says(tmp_path: Path) -> None:
    calibration = Calibration.of(scores_of(1000), "ground truth")
    assert calibration.factor == pytest.approx(1.5, rel=0.02)
    assert all(factor == pytest.approx(1.5, rel=0.03) for p, factor in calibration.pixels.items() if p < 0.99)
    others = scores_of(1000, 10)
    for row in coverage(others, calibration):
        assert row["norm_calibrated"] == pytest.approx(row["level"], abs=0.04)
        assert row["pixels_calibrated"] == pytest.approx(row["level"], abs=0.01)
        assert row["pixels"] < row["level"] - 0.02
    assert others.correlation > 0.8
    assert "true mean squared error / estimated: 2.27" in remarks(others)
    assert "correlate" not in remarks(scores_of(2))
    assert table(coverage(others, calibration)).splitlines()[0].split("  ")[-1] == "pixels, calibrated"
    both = joined([others, scores_of(3)])
    assert len(both.norms) == 1003 and both.quantiles.shape == (1003, 5)
    calibration.save(tmp_path / "c.json")
    assert Calibration.load(tmp_path / "c.json") == calibration


def test_conformal_ranks() -> None:
    ratios = torch.tensor([9.0, 1, 8, 2, 7, 3, 6, 4, 5, 10])
    assert [conformal(ratios, p) for p in (0.5, 0.8, 0.9, 0.95)] == [6, 9, 10, 10]


@pytest.mark.parametrize("change", [{"factor": -1}, {"factor": "x"}, {"norm": {"0.5": 1}}, {"pixels": None}, None, 3])
def test_files_that_are_no_calibration(tmp_path: Path, change: Any) -> None:
    path = tmp_path / "c.json"
    with pytest.raises(MissingFileError, match="make one with ei test --calibrate"):
        Calibration.load(path)
    Calibration.of(scores_of(30), "ground truth").save(path)
    content = json.loads(path.read_text())
    assert set(content["norm"]) == set(map(str, LEVELS))
    path.write_text(json.dumps({**content, **change} if isinstance(change, dict) else change))
    with pytest.raises(InputError, match="is no calibration"):
        Calibration.load(path)


def test_what_cannot_be_calibrated() -> None:
    scores = scores_of(5)
    scores.pixels[:50] = math.inf
    with pytest.raises(InputError, match="take more draws"):
        Calibration.of(scores, "ground truth")
    physics = Inpainting(16, 16, noise=GaussianNoise(0.5))
    with pytest.raises(InputError, match="a reconstruction function with of"):
        held_out_scores(physics.A_dagger, physics, Shift(1), torch.rand(1, 1, 16, 16), 5)

    class Perfect(HalfWhereMissing):
        def forward(self, y: Tensor) -> Tensor:
            return torch.full_like(y, 0.5)

    y = physics.A(torch.full((1, 1, 16, 16), 0.5))
    with pytest.raises(InputError, match="nothing but noise"):
        held_out_scores(Perfect(physics), physics, Shift(1), y, 5, noise=physics.noise)
