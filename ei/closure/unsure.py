"""Gaussian noise of unknown level: UNSURE (Tachella, Davies & Jacques, "UNSURE: self-supervised learning with Unknown
Noise level and Stein's Unbiased Risk Estimate", ICLR 2025)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ei.closure.base import Equivariant, predict
from ei.closure.sure import SUREClosure, check_precision
from ei.common.checks import check_number
from ei.common.processes import drawn, mean_over_batch
from ei.physics.base import where_sampled

# Of the logarithm of the level; slow beside the network, which has to follow.
LEVEL_RATE = 0.02


class NoiseLevel(nn.Module):
    """A standard deviation that is learned, in the units of the measurements: ``sigma()``."""

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.log_sigma = nn.Parameter(torch.tensor(math.log(check_number("sigma", sigma, above=0))))

    def forward(self) -> Tensor:
        return self.log_sigma.exp()


class UNSUREClosure(Equivariant, SUREClosure):
    """`SUREClosure` and `RobustEIClosure` where sigma is unknown.

    f minimises, and sigma maximises,

        ||A f(y) - y||^2 / m + 2 sigma^2 div / m  (+ alpha ||x3 - x2||^2)

    where div is the divergence of ``A f`` by y, as in `SUREClosure`: sigma^2 is the multiplier of the constraint that
    it be zero in the mean. Keys: unsure (without alpha's term), ei (with alpha), total, sigma (the current level),
    level (the loss of ``closure.noise_level``; in any units, log sigma goes up by the learning rate times div / m).

    The level that it finds is too high by what the best f misses, ``sigma / sqrt(1 - MSE / sigma^2)`` with MSE the
    error of A f(y) in measurement space: near sigma where images are far simpler than noise. It needs no
    ``physics.noise``. This is a search for a saddle point: begin below the level, and let f learn faster than it; Adam
    for the level, or a step too large, makes it swing. `optimizers` gives it plain gradient descent.

    Args:
        sigma: where the search starts, > 0; rather too low than too high.
        alpha: weight of the equivariance loss, whose fresh noise has the current level; None for none.
        stop_gradient, move, operators: see `ei.closure.base.Moving`.
        tau: the step of the finite differences; None for that of `SUREClosure` at the current level.
        mc_domain: as of `SUREClosure`; the constraint is on the covariance of residual and noise there.

    Raises:
        InputError: for arguments out of range, or (when called) if f computes in bf16.

    >>> from ei.closure import UNSUREClosure
    >>> UNSUREClosure(sigma=0.01).columns
    {'loss_total': 'total', 'sigma': 'sigma'}
    """

    unscaled = ("sigma", "level")

    def __init__(self, sigma: float, alpha: float | None = None, stop_gradient: bool = False, **shared: Any) -> None:
        super().__init__(0 if alpha is None else alpha, stop_gradient, **shared)
        # Called, not read, in a step: with several processes a stand-in averages its gradient.
        self.noise_level = NoiseLevel(sigma)
        self.needs_transform = alpha is not None  # type: ignore[misc]
        parts = {"loss_unsure": "unsure", "loss_ei": "ei"} if self.needs_transform else {}
        self.columns = {**parts, "loss_total": "total", "sigma": "sigma"}  # type: ignore[misc]
        self._sigma = torch.tensor(sigma)

    def check(self, f: Any, physics: Any) -> None:
        self.check_moves(f, physics)
        check_precision(f)

    def optimizers(self, f: Any, lr: float) -> dict[str, torch.optim.Optimizer]:
        """Plain gradient descent for the level, under "level"."""
        return {"level": torch.optim.SGD(self.noise_level.parameters(), lr=LEVEL_RATE)}

    def __call__(self, f: Any, physics: Any, transform: Any, y: Tensor, x: Tensor | None = None) -> dict[str, Tensor]:
        check_precision(f)
        level = self.noise_level().to(y.device)
        sigma = level.detach()
        x1 = f(y)
        predicted = predict(physics, x1)
        variance = sigma.square() * torch.ones_like(y.real)
        residual, noise, shared = self.stein(f, physics, y, predicted, variance)
        unsure = residual + 2 * shared
        losses = {"unsure": unsure, "total": unsure, "sigma": sigma}
        # Minus its gradient by log sigma is the mean derivative, which has no units: the Lagrangian's / (4 noise).
        losses["level"] = -level.log() * (shared / mean_over_batch(noise)).detach()
        if self.needs_transform:
            self._sigma = sigma
            x2 = self.target(self.transformed(transform, x1))  # T_g x1
            x3 = self.reconstructed(f, physics, transform, x2, len(x1))  # f(A x2)
            losses["ei"] = self.criterion(x3, x2)
            losses["total"] = unsure + self.alpha * losses["ei"]
        return {**losses, "x1": x1.detach()}

    def measure(self, physics: Any, x: Tensor) -> Tensor:
        """``A x`` with fresh Gaussian noise of the current level."""
        u = physics.A(x)
        normal = drawn(lambda shape: torch.randn_like(u.new_empty(shape)), tuple(u.shape))
        return u + where_sampled(physics, self._sigma * normal, torch.zeros_like(u))
