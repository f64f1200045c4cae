"""Measurement consistency alone: what learns nothing in the null space."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ei.closure.base import Closure, Consistency, Criterion


class MCClosure(Closure):
    """``||A x1 - y||^2`` (paper, equation 2). Keys: mc, total.

    Args:
        mc_domain: where it is measured, see `ei.closure.base.Consistency`.
    """

    columns = {"loss_fc": "total"}

    def __init__(self, *, criterion: Criterion | str = "l2", mc_domain: str = "measurement") -> None:
        super().__init__(criterion=criterion)
        self.compared = Consistency(mc_domain)

    def __call__(self, f: Any, physics: Any, transform: Any, y: Tensor, x: Tensor | None = None) -> dict[str, Tensor]:
        x1 = f(y)
        mc = self.criterion(*self.compared(physics, x1, y))
        return {"mc": mc, "total": mc, "x1": x1.detach()}
