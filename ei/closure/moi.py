"""Multi-operator imaging: scans that differ stand in for a group."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ei.closure.base import Equivariant, SelfSupervised
from ei.common.checks import check_number


class MOIClosure(Equivariant, SelfSupervised):
    """``||A x1 - y||^2 + alpha ||x3 - x1||^2`` with ``x3 = f(A_s x1)``, A_s drawn for each image from the operators of
    a run whose scans differ (Tachella, Chen & Davies, "Unsupervised learning from incomplete measurements for inverse
    problems", NeurIPS 2022). No group is needed. Keys: mc, moi, total.

    Args:
        alpha: weight of the loss between operators, >= 0.
        n_operators: how many A_s are drawn for each image.
        stop_gradient: see `ei.closure.base.Moving`.
        mc_domain, criterion: see `ei.closure.base.SelfSupervised`.

    Raises:
        InputError: for an argument out of range; by `check` and when called, where one operator serves all images.

    >>> from ei.closure import MOIClosure
    >>> MOIClosure(alpha=1).operators
    'any'
    """

    columns = {"loss_mc": "mc", "loss_moi": "moi", "loss_total": "total"}
    needs_transform = False

    def __init__(
        self,
        alpha: float,
        stop_gradient: bool = False,
        *,
        n_operators: int = 1,
        mc_domain: str = "measurement",
        criterion: Any = "l2",
    ) -> None:
        super().__init__(alpha, stop_gradient, operators="any", mc_domain=mc_domain, criterion=criterion)
        self.n_operators = check_number("n_operators", n_operators, integer=True, least=1)

    def __call__(self, f: Any, physics: Any, transform: Any, y: Tensor, x: Tensor | None = None) -> dict[str, Tensor]:
        x1 = f(y)
        x2 = self.target(x1.repeat(self.n_operators, *[1] * (x1.dim() - 1)))
        x3 = self.reconstructed(f, physics, transform, x2, len(x1))
        moi = self.criterion(x3, x2)
        mc = self.consistency(physics, x1, y)
        return {"mc": mc, "moi": moi, "total": mc + self.alpha * moi, "x1": x1.detach()}
