"""Supervised learning, the paper's baseline that sees the ground truth; alone and with the equivariance loss."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ei.closure.base import Closure, Criterion, equivariance, loss_weight, require_truth


class SupervisedClosure(Closure):
    """``||x1 - x||^2``. Keys: sup, total."""

    columns = {"loss": "total"}
    needs_truth = True

    def __call__(self, f: Any, physics: Any, transform: Any, y: Tensor, x: Tensor | None = None) -> dict[str, Tensor]:
        x1 = f(y)
        sup = self.criterion(x1, require_truth(x, "supervised"))
        return {"sup": sup, "total": sup, "x1": x1.detach()}


class SupervisedEIClosure(Closure):
    """``||x1 - x||^2 + alpha ||x3 - x2||^2`` with ``x2 = T_g x1``, ``x3 = f(A x2)``. Keys: sup, ei, total.

    Args:
        alpha: weight of the equivariance loss.
        stop_gradient: treat x2 as data, as in `EIClosure`.
    """

    columns = {"loss_sup": "sup", "loss_ei": "ei", "loss_total": "total"}
    needs_truth = True

    def __init__(self, alpha: float, stop_gradient: bool = False, *, criterion: Criterion | str = "l2") -> None:
        super().__init__(criterion=criterion)
        self.alpha, self.stop_gradient = loss_weight("alpha", alpha), stop_gradient

    def __call__(self, f: Any, physics: Any, transform: Any, y: Tensor, x: Tensor | None = None) -> dict[str, Tensor]:
        x1 = f(y)
        _, ei = equivariance(f, physics, transform, x1, self.criterion, self.stop_gradient)
        sup = self.criterion(x1, require_truth(x, "supervised"))
        return {"sup": sup, "ei": ei, "total": sup + self.alpha * ei, "x1": x1.detach()}
