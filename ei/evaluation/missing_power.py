"""The error of a reconstruction between the views of a scan, found without ground truth: by its missing power.

Let z be the ground truth. Its mean ``x = E[z | y]`` is orthogonal to the error, so ``E|z|^2 = E|x|^2 + E|x - z|^2``: at
every frequency the power that x lacks is its mean squared error. No view measures the power of z between the views. But
where views surround the object, this power is on average that along the views, which y has. So the spectra of the views
y are compared with those of projections of x at angles between the views.

Views have weights: sin(2 angle)^2, zero along the rows and columns of the pixels. There a view looks along the border
of the image and the other straight edges of its pixels, and has several times the power of its neighbours.

This holds for an f close to the mean: one that was trained to a small squared error, by EI or with ground truth.
Least squares and filtered back-projection have streaks, which are power, too.
Of a few uneven views it is off by up to a factor of two (24 x 24 pixels, 8 to 17 views).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ei.common.seeds import derive_seed, generator
from ei.errors import InputError
from ei.evaluation.calibration import NOISE_DRAWS, PIXELS, Scores, gaussian_bound, quantiles_of_norms
from ei.evaluation.uncertainty import bootstrap, measure_with, noise_for

# Positions between two views, and images of white noise that show how much power of each frequency A passes on.
POSITIONS, WHITE_IMAGES = 6, 8
# Frequencies of which A passes on less than this part of the most are left out: finer than the pixels.
LEAST_PASSED = 0.1


@torch.no_grad()
def missing_power(physics: Any, x: Tensor, y: Tensor, noise: Any = None, seed: int = 0) -> Tensor:
    """An estimate of the squared error ``||x - z||^2`` of each image, ``[B]``, z the ground truth, from measurements
    alone. It is unbiased over images. For one image it scatters with the directions of the object, and can be negative.

    Args:
        physics: a scanner with ``step_between_views`` (`ei.physics.CT`, `ei.physics.Tomography`).
        x: reconstructions ``[B, C, H, W]``, near the mean of all images that y allows.
        y: their measurements ``[B, C, D, V]``.
        noise: the noise model of y, whose power is taken off; None for none.
        seed: of the noise that is drawn for that.

    Raises:
        InputError: for an operator without ``step_between_views``, or one that leaves lines out or looks along the
            pixels alone.

    >>> physics = ei.physics.CT(16, 10)
    >>> x = torch.rand(2, 1, 16, 16)
    >>> missing_power(physics, x, physics.A(x)).shape
    torch.Size([2])
    """
    step = getattr(physics, "step_between_views", None)
    if step is None:
        raise InputError(f"{physics} has no views all around the object: power between them does not show the error")
    views = _weights_of_views(physics)
    lacking = spectrum(y, views)
    for k in range(POSITIONS):
        # Uneven views differ in their gaps: turned by whole steps, too, they come to lie in all of them.
        whole = round(k * views.shape[1] / POSITIONS)
        moved = physics.moved((whole + (k + 0.5) / POSITIONS) * step)
        lacking = lacking - spectrum(moved.A(x), _weights_of_views(moved)) / POSITIONS
    if noise is not None:
        clean = physics.A(x)
        for number in range(NOISE_DRAWS):
            noisy = measure_with(noise, physics, x, derive_seed(seed, "missing power", number))
            lacking -= spectrum(noisy - clean, views) / NOISE_DRAWS
    return (lacking * _weights_of_frequencies(physics, x, views)).sum(1)


def _weights_of_views(physics: Any) -> Tensor:
    """``[1 or B, V]``, of sum 1, zero along the rows and columns of the pixels."""
    count = getattr(physics, "count", 1)
    scans = [physics.of([index]) for index in range(count)] if count > 1 else [physics]
    weights = torch.stack([torch.sin(2 * torch.deg2rad(scan.angles)).square() for scan in scans])
    total = weights.sum(1, keepdim=True)
    if not (total > 1e-6).all():
        raise InputError(f"all views of {physics} run along the pixels: power between them does not show the error")
    return weights / total


def spectrum(y: Tensor, views: Tensor) -> Tensor:
    """The power of views ``[B, C, D, V]`` at the frequencies along the detector, ``[B, D + 1]``: the mean over views
    with their weights ``[1 or B, V]``, the sum over channels."""
    transformed = torch.fft.rfft(y.double(), n=2 * y.shape[-2], dim=-2)
    return torch.einsum("bcfv,bv->bf", transformed.abs().square(), views.to(y.device).expand(len(y), -1))


def _weights_of_frequencies(physics: Any, x: Tensor, views: Tensor) -> Tensor:
    """Weights of the frequencies ``[1 or B, D + 1]``: the sum of a `spectrum` with them is the squared norm of the
    image. White noise has power in proportion to the frequency, as the rings of the plane grow with their radius."""
    passed = norm = torch.zeros((), dtype=torch.float64, device=x.device)
    random = generator(0, "white noise")
    scans = len(x) if getattr(physics, "count", 1) > 1 else 1  # one geometry serves all images, or each has its own
    for _ in range(WHITE_IMAGES):
        white = torch.randn(x[:1].shape, generator=random, dtype=torch.float64).to(x)
        passed = passed + spectrum(physics.A(white.expand(scans, -1, -1, -1)), views) / WHITE_IMAGES
        norm = norm + white.double().square().sum() / WHITE_IMAGES
    frequency = torch.arange(passed.shape[1], dtype=torch.float64, device=x.device)
    rings = frequency * (passed >= LEAST_PASSED * passed.amax(1, keepdim=True))
    return norm * rings / rings.sum(1, keepdim=True) / passed.clamp(min=1e-300)


def missing_power_scores(measurements: Iterable[tuple[Any, Any, Tensor]], transform: Any, draws: int = 100) -> Scores:
    """The scores of reconstructions without ground truth, by `missing_power`. It is right in the mean over images,
    which gives the factor of pixels; their errors are taken for Gaussian. Single images scatter about it, so that
    calibrated norms are covered rather too often.

    Args:
        measurements: f, its operator and measurements ``[B, ...]``; for example a progress bar around a list of them.
        transform, draws: see `ei.evaluation.bootstrap`.

    Raises:
        InputError: where the power is not above zero by two standard errors, as of streaks, a network that was trained
            too little, or too few measurements; otherwise see `missing_power` and `bootstrap`.
    """
    parts = []
    for number, (f, physics, y) in enumerate(measurements):
        noise = noise_for(physics)
        result = bootstrap(f, physics, transform, y, draws, noise, generator(number))
        parts.append((missing_power(physics, result.x, y, noise, number), *quantiles_of_norms(result.norms)))
    power, predicted, quantiles = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    scatter = float(power.std()) * len(power) ** 0.5 if len(power) > 1 else 0.0
    if not float(power.sum()) > 2 * scatter:
        raise InputError(
            f"the reconstructions lack a power of {float(power.mean()):.3g} an image between the views, which "
            f"{len(power)} measurements do not distinguish from zero: take more, a network that is trained longer, or "
            "ground truth"
        )
    factor = (power.sum() / predicted.square().sum()).sqrt()
    gaussian = torch.tensor([gaussian_bound((k + 0.5) / PIXELS) for k in range(PIXELS)], dtype=torch.float64)
    return Scores(power.clamp(min=0).sqrt(), predicted, quantiles, gaussian.to(factor) * factor)
