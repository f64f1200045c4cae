"""Adversarial equivariant imaging: a discriminator asks whether transformed reconstructions look like the others."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ei.closure.base import Closure, Consistency, Criterion, equivariance, loss_weight


class AdversarialEIClosure(Closure):
    """EI with a least-squares GAN (paper, supplement). Keys: mc, ei, g, total (the generator's), D (the
    discriminator's).

        total = mc + alpha_ei * ei + alpha_adv * ||D(x2) - 1||^2
        D     = alpha_adv/2 * (||D(x1) - 1||^2 + ||D(x2) - 0||^2), on detached images

    Args:
        discriminator: maps images to scores; train it by an optimiser under the key "D".
        alpha_ei, alpha_adv: weights of the equivariance and of the adversarial loss.
        stop_gradient: treat x2 as data in the equivariance loss, as in `EIClosure`; not in the adversarial one.
        mc_domain: where measurement consistency is measured, see `ei.closure.base.Consistency`.
    """

    columns = {"loss_mc": "mc", "loss_ei": "ei", "loss_g": "g", "loss_G": "total", "loss_D": "D"}

    def __init__(
        self,
        discriminator: nn.Module,
        alpha_ei: float,
        alpha_adv: float,
        stop_gradient: bool = False,
        *,
        criterion: Criterion | str = "l2",
        mc_domain: str = "measurement",
    ) -> None:
        super().__init__(criterion=criterion)
        self.discriminator = discriminator
        self.alpha_ei = loss_weight("alpha_ei", alpha_ei)
        self.alpha_adv = loss_weight("alpha_adv", alpha_adv)
        self.stop_gradient, self.compared = stop_gradient, Consistency(mc_domain)

    def __call__(self, f: Any, physics: Any, transform: Any, y: Tensor, x: Tensor | None = None) -> dict[str, Tensor]:
        x1 = f(y)
        x2, ei = equivariance(f, physics, transform, x1, self.criterion, self.stop_gradient)
        mc = self.criterion(*self.compared(physics, x1, y))
        g = _squared_distance(self.discriminator(x2), 1.0)
        real = _squared_distance(self.discriminator(x1.detach()), 1.0)
        fake = _squared_distance(self.discriminator(x2.detach()), 0.0)
        return {
            "mc": mc,
            "ei": ei,
            "g": g,
            "total": mc + self.alpha_ei * ei + self.alpha_adv * g,
            "D": 0.5 * self.alpha_adv * (real + fake),
            "x1": x1.detach(),
        }


def _squared_distance(scores: Tensor, label: float) -> Tensor:
    return functional.mse_loss(scores, torch.full_like(scores, label))
