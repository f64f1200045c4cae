"""Equivariant imaging: the method of the paper."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ei.closure.base import Closure, Consistency, Criterion, data_consistency_last, equivariance, loss_weight
from ei.errors import InputError


class EIClosure(Closure):
    """``||A x1 - y||^2 + alpha ||x3 - x2||^2`` with ``x2 = T_g x1``, ``x3 = f(A x2)`` (paper, section 3.2,
    algorithm 1); both are means over all elements and nothing is detached. Keys: mc, ei, total.

    Args:
        alpha: weight of the equivariance loss; tied to the units of A.
        stop_gradient: treat x2 as data: no gradient flows through it. Not the paper's. Otherwise the loss also falls
            by an x1 with less of what A does not see once it is transformed. Super-resolution with `Scale` needs it
            (Scanvic et al., 2023), and short trainings on CT profit (results/earlier.md).
        mc_domain: where measurement consistency is measured, see `ei.closure.base.Consistency`.
        frozen_targets: make x1 without gradient altogether: measurement consistency is computed and shown, and only
            x3 teaches. Not the paper's, and only for an f that ends with the data by itself (`ei.models.Unrolled`),
            whose measurement consistency has next to nothing to teach: a backward pass less (RESULTS.md).

    Raises:
        InputError: for a weight out of range, another domain; with frozen targets (when called) for another f.
    """

    columns = {"loss_mc": "mc", "loss_ei": "ei", "loss_total": "total"}

    def __init__(
        self,
        alpha: float,
        stop_gradient: bool = False,
        *,
        criterion: Criterion | str = "l2",
        mc_domain: str = "measurement",
        frozen_targets: bool = False,
    ) -> None:
        super().__init__(criterion=criterion)
        self.alpha, self.stop_gradient = loss_weight("alpha", alpha), stop_gradient
        self.compared, self.frozen_targets = Consistency(mc_domain), frozen_targets

    def check(self, f: Any, physics: Any) -> None:
        if self.frozen_targets and not data_consistency_last(f):
            raise InputError(
                "frozen targets need a reconstruction that ends with the data (--reconstructor unrolled --last data): "
                "nothing else would tie images to their measurements"
            )

    def __call__(self, f: Any, physics: Any, transform: Any, y: Tensor, x: Tensor | None = None) -> dict[str, Tensor]:
        self.check(f, physics)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen_targets):
            x1 = f(y)
        _, ei = equivariance(f, physics, transform, x1, self.criterion, self.stop_gradient)
        mc = self.criterion(*self.compared(physics, x1, y))
        return {"mc": mc, "ei": ei, "total": mc + self.alpha * ei, "x1": x1.detach()}
