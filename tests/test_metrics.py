"""Image quality: reference figures and known values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import reference
from torch import Tensor
from torch.nn import functional

from ei.errors import InputError
from ei.metrics import cal_psnr, psnr, range_of, ssim


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


def test_ssim_is_the_formula() -> None:
    """Means, variances and covariance (of samples) over the 7 x 7 windows that lie inside the image."""
    a, b = 2 * torch.rand(2, 2, 3, 14, 12, dtype=torch.float64)
    p, q = (functional.unfold(images.flatten(0, 1)[:, None], 7) for images in (a, b))
    covariance = ((p - p.mean(1, keepdim=True)) * (q - q.mean(1, keepdim=True))).sum(1) / 48
    means, small, smaller = p.mean(1) * q.mean(1), (0.03 * 2) ** 2, (0.01 * 2) ** 2
    values = (2 * means + smaller) / (p.mean(1) ** 2 + q.mean(1) ** 2 + smaller)
    values = values * (2 * covariance + small) / (p.var(1) + q.var(1) + small)
    torch.testing.assert_close(ssim(a, b, 2.0), values.mean(1).view(2, 3).mean(1))


def test_psnr_is_of_each_image() -> None:
    truth = torch.rand(2, 3, 8, 8)
    error = torch.tensor([0.1, 0.01]).view(2, 1, 1, 1)
    torch.testing.assert_close(psnr(truth + error, truth), torch.tensor([20.0, 40.0]), rtol=0, atol=1e-2)


@pytest.mark.parametrize("metric", [cal_psnr, psnr, ssim])
def test_shapes_must_agree(metric) -> None:
    with pytest.raises(ValueError, match=r"\[1, 1, 8, 8\] and \[1, 3, 8, 8\]"):
        metric(torch.zeros(1, 1, 8, 8), torch.zeros(1, 3, 8, 8))


def test_ssim_needs_its_window() -> None:
    with pytest.raises(ValueError, match="7"):
        ssim(torch.zeros(1, 1, 6, 8), torch.zeros(1, 1, 6, 8))


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize("shape", [(16, 16), (3, 16, 16), (1, 1, 1, 16, 16)])
def test_one_number_an_image_or_none(metric, shape: tuple[int, ...]) -> None:
    """Without its batch axis an image would get a number for every channel, or row."""
    with pytest.raises(ValueError, match=r"\[B, C, H, W\].*image\[None\]"):
        metric(torch.rand(shape), torch.rand(shape))


@pytest.mark.parametrize("metric", [cal_psnr, psnr, ssim])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.bool, torch.complex64])
def test_values_must_be_floating_point(metric, dtype: torch.dtype) -> None:
    """Differences of bytes wrap around: 3 - 5 would be 254. PSNR has a meaning for complex images, too, SSIM none."""
    if dtype.is_complex and metric is not ssim:
        pytest.skip("PSNR takes complex images: tests/test_kspace.py")
    images = torch.ones(1, 1, 8, 8).to(dtype)
    for pair in ((images, images), (torch.ones(1, 1, 8, 8), images), (images, torch.ones(1, 1, 8, 8))):
        with pytest.raises(ValueError, match=rf"floating-point values, got {dtype}"):
            metric(*pair)


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize("data_range", [0.0, -1.0, math.inf, math.nan])
def test_a_range_is_above_zero(metric, data_range: float) -> None:
    with pytest.raises(ValueError, match="data_range"):
        metric(torch.rand(1, 1, 8, 8), torch.rand(1, 1, 8, 8), data_range)


@pytest.mark.parametrize(
    ("least", "largest", "expected"),
    [(0, 1, 1), (0, 0.6, 1), (-1e-3, 1.005, 1), (0.2, 0.9, 1), (0, 0.03, 0.03), (0, 4000, 4000), (-1, 1, 2),
     (-1000, 400, 1400), (0, 1.5, 1.5), (0, 1e-4, 1e-4)],
)  # fmt: skip
def test_range_of_true_images(least: float, largest: float, expected: float) -> None:
    assert range_of(least, largest) == pytest.approx(expected)


@pytest.mark.parametrize(("least", "largest"), [(0.2, 0.2), (0, math.inf), (math.nan, 1)])
def test_a_range_that_there_is_not(least: float, largest: float) -> None:
    with pytest.raises(ValueError, match="data_range"):
        range_of(least, largest)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    """The square of an error of 1e-4 is zero in float16, and the PSNR was infinite."""
    truth = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    image = (truth.float() + 1e-4).to(dtype)
    for metric in (psnr, cal_psnr):
        exact = metric(image.double(), truth.double())
        assert bool(exact.isfinite().all())
        torch.testing.assert_close(metric(image, truth).double(), exact, atol=0.01, rtol=0)


def test_images_that_are_zero() -> None:
    zero = torch.zeros(1, 1, 8, 8)
    assert float(cal_psnr(zero, zero)) == float(psnr(zero, zero)) == math.inf
    assert float(cal_psnr(zero + 1, zero)) == -math.inf
    assert math.isnan(float(cal_psnr(zero + math.nan, zero + 1)))


@pytest.mark.parametrize("metric", [cal_psnr, psnr, ssim])
def test_arrays_of_numpy_are_rejected(metric: Callable[[Any, Any], Tensor]) -> None:
    image = torch.zeros(1, 1, 8, 8).numpy()
    with pytest.raises(InputError, match="must be a torch tensor, got ndarray"):
        metric(image, image)
