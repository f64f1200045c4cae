"""Adversarial equivariant imaging: a discriminator separates transformed reconstructions from the others."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ei.closure.base import Moving, SelfSupervised
from ei.common.checks import check_number, check_optional


class AdversarialEIClosure(Moving, SelfSupervised):
    """EI with a least-squares GAN (paper, supplement). Keys: mc, ei, g, total (the generator's), D (the
    discriminator's).

        total = mc + alpha_ei * ei + alpha_adv * ||D(x2) - 1||^2
        D     = alpha_adv/2 * (||D(x1) - 1||^2 + ||D(x2) - 0||^2), on detached images

    Args:
        discriminator: maps images to scores; its optimiser is that of the loss "D" (`optimizers`).
        alpha_ei, alpha_adv: weights of the equivariance and of the adversarial loss, >= 0.
        stop_gradient, move, operators: see `ei.closure.base.Moving`. They are of the equivariance loss: the
            discriminator is given ``T_g x1``, with its gradient.
        lr_discriminator: its learning rate, > 0; None for that of the network.
        mc_domain, criterion: see `ei.closure.base.SelfSupervised`.

    Raises:
        InputError: for an argument out of range.

    >>> from ei.closure import AdversarialEIClosure
    >>> from ei.models import Discriminator
    >>> AdversarialEIClosure(Discriminator((1, 32, 32)), alpha_ei=1, alpha_adv=1e-8).alpha_adv
    1e-08
    """

    columns = {"loss_mc": "mc", "loss_ei": "ei", "loss_g": "g", "loss_G": "total", "loss_D": "D"}

    def __init__(
        self,
        discriminator: nn.Module,
        alpha_ei: float,
        alpha_adv: float,
        stop_gradient: bool = False,
        *,
        lr_discriminator: float | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(stop_gradient, **shared)
        self.discriminator = discriminator
        self.alpha_ei = check_number("alpha_ei", alpha_ei, least=0)
        self.alpha_adv = check_number("alpha_adv", alpha_adv, least=0)
        self.lr_discriminator = check_optional("lr_discriminator", lr_discriminator, above=0)

    def optimizers(self, f: Any, lr: float) -> dict[str, torch.optim.Optimizer]:
        """Adam without weight decay for the discriminator, under "D"."""
        rate = lr if self.lr_discriminator is None else self.lr_discriminator
        return {"D": torch.optim.Adam(self.discriminator.parameters(), lr=rate, weight_decay=0)}

    def __call__(self, f: Any, physics: Any, transform: Any, y: Tensor, x: Tensor | None = None) -> dict[str, Tensor]:
        x1 = f(y)
        x2 = transform.apply(x1)
        target = self.target(x2 if self.move == "image" else self.transformed(transform, x1))
        x3 = self.reconstructed(f, physics, transform, target, len(x1))
        ei = self.criterion(x3, target)
        mc = self.consistency(physics, x1, y)
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
