"""Image quality: reference figures and known values."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import reference

from ei.metrics import cal_psnr, psnr, ssim


def test_paper_psnr_reproduces_the_reference() -> None:
    figures = reference("psnr")
    value = cal_psnr(torch.from_numpy(figures["prediction"]), torch.from_numpy(figures["target"]))
    assert value.dim() == 0
    assert float(value) == pytest.approx(float(figures["psnr"]), rel=1e-4)


@pytest.mark.parametrize(("batch", "channels", "peak"), [(1, 1, 1.0), (1, 3, 1.0), (4, 3, 0.5)])
def test_the_two_psnr_differ_as_the_design_says(batch: int, channels: int, peak: float) -> None:
    truth = torch.rand(batch, channels, 9, 11)
    truth *= peak / truth.max()
    error = torch.full_like(truth, 0.01)  # the same in every image
    usual = psnr(truth + error, truth)
    assert usual.shape == (batch,)
    torch.testing.assert_close(usual, torch.full((batch,), 40.0), rtol=1e-4, atol=1e-3)
    expected = 40 - 10 * math.log10(batch * channels) + 20 * math.log10(peak)
    assert float(cal_psnr(truth + error, truth)) == pytest.approx(expected, abs=1e-3)


def test_the_peak_is_the_truths() -> None:
    prediction, truth = torch.full((1, 1, 4, 4), 2.0), torch.ones(1, 1, 4, 4)
    assert float(cal_psnr(prediction, truth)) == pytest.approx(0)
    assert float(cal_psnr(truth, prediction)) == pytest.approx(20 * math.log10(2))


def test_data_range() -> None:
    truth = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(psnr(truth * 255 + 2.55, truth * 255, data_range=255), torch.full((2,), 40.0))


def test_ssim() -> None:
    truth = torch.rand(3, 3, 16, 16)
    assert ssim(truth, truth).tolist() == pytest.approx([1, 1, 1])
    assert float(ssim(torch.rand(1, 3, 16, 16), truth[:1])) < 0.5


@pytest.mark.parametrize("metric", [cal_psnr, psnr, ssim])
def test_shapes_must_agree(metric) -> None:
    with pytest.raises(ValueError, match=r"\[1, 1, 8, 8\] and \[1, 3, 8, 8\]"):
        metric(torch.zeros(1, 1, 8, 8), torch.zeros(1, 3, 8, 8))


def test_ssim_needs_its_window() -> None:
    with pytest.raises(ValueError, match="7"):
        ssim(torch.zeros(1, 1, 6, 8), torch.zeros(1, 1, 6, 8))
