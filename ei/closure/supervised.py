"""Supervised learning, the paper's baseline with ground truth; alone and with the equivariance loss."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ei.closure.base import Closure, Equivariant, require_truth


class SupervisedClosure(Closure):
    """``||x1 - x||^2``. Keys: sup, total.

    Args:
        criterion: see `ei.closure.base.Closure`.

    >>> from ei.closure import SupervisedClosure
    >>> SupervisedClosure(criterion="l1").needs_truth
    True
    """

    columns = {"loss": "total"}
    needs_truth = True

    def __call__(self, f: Any, physics: Any, transform: Any, y: Tensor, x: Tensor | None = None) -> dict[str, Tensor]:
        x1 = f(y)
        sup = self.criterion(x1, require_truth(x, "supervised"))
        return {"sup": sup, "total": sup, "x1": x1.detach()}


class SupervisedEIClosure(Equivariant):
    """``||x1 - x||^2 + alpha ||x3 - x2||^2`` with ``x2 = T_g x1``, ``x3 = f(A x2)``. Keys: sup, ei, total.

    Args:
        alpha, stop_gradient, move, operators: see `ei.closure.base.Equivariant`.
        criterion: see `ei.closure.base.Closure`.

    >>> from ei.closure import SupervisedEIClosure
    >>> SupervisedEIClosure(alpha=1).needs_transform
    True
    """

    columns = {"loss_sup": "sup", "loss_ei": "ei", "loss_total": "total"}
    needs_truth = True

    def __call__(self, f: Any, physics: Any, transform: Any, y: Tensor, x: Tensor | None = None) -> dict[str, Tensor]:
        x1 = f(y)
        x2 = self.target(self.transformed(transform, x1))  # T_g x1
        x3 = self.reconstructed(f, physics, transform, x2, len(x1))  # f(A x2)
        ei = self.criterion(x3, x2)
        sup = self.criterion(x1, require_truth(x, "supervised"))
        return {"sup": sup, "ei": ei, "total": sup + self.alpha * ei, "x1": x1.detach()}
