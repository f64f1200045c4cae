"""Gaussian noise of unknown level: UNSURE (Tachella, Davies & Jacques, "UNSURE: self-supervised learning with Unknown
Noise level and Stein's Unbiased Risk Estimate", ICLR 2025)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ei.closure.base import Closure, Consistency, equivariance, loss_weight
from ei.closure.sure import check_precision, checked_tau, stein
from ei.common.processes import drawn
from ei.errors import InputError
from ei.physics.base import where_sampled


class NoiseLevel(nn.Module):
    """A standard deviation that is learned, in the units of the measurements: ``sigma()``."""

    def __init__(self, sigma: float) -> None:
        super().__init__()
        if not math.isfinite(sigma) or sigma <= 0:
            raise InputError(f"sigma, where the search for the noise level starts, must be a number > 0, not {sigma}")
        self.log_sigma = nn.Parameter(torch.tensor(math.log(sigma)))

    def forward(self) -> Tensor:
        return self.log_sigma.exp()


class UNSUREClosure(Closure):
    """``min over f, max over sigma`` of

        ||A f(y) - y||^2 / m + 2 sigma^2 div / m  (+ alpha ||x3 - x2||^2)

    where div is the divergence of ``A f`` by y, as in `SUREClosure`: sigma^2 is the multiplier of the constraint that
    it be zero in the mean. Keys: unsure (without alpha's term), ei (with alpha), total, sigma (the level so far), level
    (the loss of ``closure.noise_level``; in any units, log sigma goes up by the learning rate times div / m).

        closure = UNSUREClosure(sigma=0.01)
        optimizers = {"total": Adam(f.net.parameters()), "level": SGD(closure.noise_level.parameters(), lr=0.02)}
        Trainer(..., networks={"total": f.net, "level": closure.noise_level})

    The level that it finds is too high by what the best f misses, ``sigma / sqrt(1 - MSE / sigma^2)`` with MSE the
    error of A f(y) in measurement space: near sigma where images are far simpler than noise. It needs no
    ``physics.noise``. This is a search for a saddle point: begin below the level, and let f learn faster than it; Adam
    for the level, or a step too large, makes it swing.

    Args:
        sigma: where the search starts, > 0; rather too low than too high.
        alpha: weight of the equivariance loss, whose fresh noise is of the level so far; None for none.
        stop_gradient: treat x2 as data.
        tau: the step of the finite differences; None for one as `SUREClosure` would take at the level so far.
        mc_domain: where it is measured, as of `SUREClosure`; the constraint is on what residual and noise share there.

    Raises:
        InputError: for arguments out of range, or (when called) if f computes in bf16.
    """

    unscaled = ("x1", "sigma", "level")

    def __init__(
        self,
        sigma: float,
        alpha: float | None = None,
        stop_gradient: bool = False,
        *,
        tau: float | None = None,
        mc_domain: str = "measurement",
    ) -> None:
        super().__init__()
        # Called, not read, in a step: with several processes a stand-in averages its gradient.
        self.noise_level = NoiseLevel(sigma)
        self.alpha = None if alpha is None else loss_weight("alpha", alpha)
        self.stop_gradient, self.tau, self.compared = stop_gradient, checked_tau(tau), Consistency(mc_domain)
        parts = {} if alpha is None else {"loss_unsure": "unsure", "loss_ei": "ei"}
        self.columns = {**parts, "loss_total": "total", "sigma": "sigma"}  # type: ignore[misc]

    def check(self, f: Any, physics: Any) -> None:
        check_precision(f)

    def __call__(self, f: Any, physics: Any, transform: Any, y: Tensor, x: Tensor | None = None) -> dict[str, Tensor]:
        check_precision(f)
        level = self.noise_level().to(y.device)
        sigma = level.detach()
        x1 = f(y)
        measured = physics.A(x1)
        variance = sigma.square() * torch.ones_like(y.real)
        residual, noise, shared = stein(f, physics, y, measured, variance, self.tau, self.compared)
        unsure = residual + 2 * shared
        losses = {"unsure": unsure, "total": unsure, "sigma": sigma}
        # Minus its gradient by log sigma is the mean derivative, which has no units: the Lagrangian's / (4 noise).
        losses["level"] = -level.log() * (shared / noise).detach()
        if self.alpha is not None:

            def measured_anew(physics: Any, x2: Tensor) -> Tensor:
                u = physics.A(x2)
                normal = drawn(lambda shape: torch.randn_like(u.new_empty(shape)), tuple(u.shape))
                return u + where_sampled(physics, sigma * normal, torch.zeros_like(u))

            _, losses["ei"] = equivariance(f, physics, transform, x1, self.criterion, self.stop_gradient, measured_anew)
            losses["total"] = unsure + self.alpha * losses["ei"]
        return {**losses, "x1": x1.detach()}
