"""Measurement consistency alone: it learns nothing in the null space."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ei.closure.base import SelfSupervised


class MCClosure(SelfSupervised):
    """``||A x1 - y||^2`` (paper, equation 2). Keys: mc, total.

    Args:
        mc_domain: see `ei.closure.base.SelfSupervised`.
        criterion: see `ei.closure.base.Closure`.

    >>> from ei.closure import MCClosure
    >>> closure = MCClosure()
    >>> closure.columns
    {'loss_fc': 'total'}
    """

    columns = {"loss_fc": "total"}

    def __call__(self, f: Any, physics: Any, transform: Any, y: Tensor, x: Tensor | None = None) -> dict[str, Tensor]:
        x1 = f(y)
        mc = self.consistency(physics, x1, y)
        return {"mc": mc, "total": mc, "x1": x1.detach()}
