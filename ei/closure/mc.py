"""Measurement consistency alone: what learns nothing in the null space."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ei.closure.base import Closure


class MCClosure(Closure):
    """``||A x1 - y||^2`` (paper, equation 2). Keys: mc, total."""

    columns = {"loss_fc": "total"}

    def __call__(self, f: Any, physics: Any, transform: Any, y: Tensor, x: Tensor | None = None) -> dict[str, Tensor]:
        x1 = f(y)
        mc = self.criterion(physics.A(x1), y)
        return {"mc": mc, "total": mc, "x1": x1.detach()}
