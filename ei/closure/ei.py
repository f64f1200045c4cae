"""Equivariant imaging: the method of the paper."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ei.closure.base import Equivariant, SelfSupervised, data_consistency_last
from ei.common.checks import check_flag
from ei.errors import InputError


class EIClosure(Equivariant, SelfSupervised):
    """``||A x1 - y||^2 + alpha ||x3 - x2||^2`` with ``x2 = T_g x1``, ``x3 = f(A x2)`` (paper, section 3.2,
    algorithm 1); both are means over all elements and nothing is detached. Keys: mc, ei, total.

    Args:
        alpha, stop_gradient, move, operators: see `ei.closure.base.Equivariant`.
        frozen_targets: compute x1 without gradient: measurement consistency is logged, and only x3 is learned from.
            Not the paper's, and only for an f whose last step is data consistency (`ei.models.Unrolled`): one backward
            pass less.
        mc_domain, criterion: see `ei.closure.base.SelfSupervised`.

    Raises:
        InputError: for an argument out of range; when called with frozen targets, for another f.

    >>> from ei.closure import EIClosure
    >>> closure = EIClosure(alpha=100)
    >>> closure.alpha
    100.0
    """

    columns = {"loss_mc": "mc", "loss_ei": "ei", "loss_total": "total"}

    def __init__(
        self, alpha: float, stop_gradient: bool = False, *, frozen_targets: bool = False, **shared: Any
    ) -> None:
        super().__init__(alpha, stop_gradient, **shared)
        self.frozen_targets = check_flag("frozen_targets", frozen_targets)

    def check(self, f: Any, physics: Any) -> None:
        super().check(f, physics)
        if self.frozen_targets and not data_consistency_last(f):
            raise InputError(
                "frozen_targets needs a reconstruction whose last step is data consistency "
                "(reconstructor: {name: Unrolled, last: data}): nothing else ties images to their measurements"
            )

    def __call__(self, f: Any, physics: Any, transform: Any, y: Tensor, x: Tensor | None = None) -> dict[str, Tensor]:
        self.check(f, physics)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen_targets):
            x1 = f(y)
        x2 = self.target(self.transformed(transform, x1))  # T_g x1
        x3 = self.reconstructed(f, physics, transform, x2, len(x1))  # f(A x2)
        ei = self.criterion(x3, x2)
        mc = self.consistency(physics, x1, y)
        return {"mc": mc, "ei": ei, "total": mc + self.alpha * ei, "x1": x1.detach()}
