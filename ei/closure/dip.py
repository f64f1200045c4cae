"""Deep image prior (Ulyanov et al., CVPR 2018): no learning from data, one batch of measurements is fitted."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ei.closure.base import Closure, Criterion
from ei.common.seeds import generator
from ei.errors import InputError


class DIPClosure(Closure):
    """``||A net(z) - y||^2`` with z a uniform random image drawn once; for one fixed batch. Keys: mc, total.

    Needs a `Reconstructor` as f, whose network it calls without the pseudo-inverse.

    Args:
        seed: seed of z.

    Raises:
        InputError: when it is called with a batch of another shape than the first.
    """

    columns = {"loss_mc": "mc", "loss_total": "total"}

    def __init__(self, seed: int = 0, *, criterion: Criterion | str = "l2") -> None:
        super().__init__(criterion=criterion)
        self.seed = int(seed)
        self.z: Tensor | None = None
        self._y_shape: torch.Size | None = None

    def __call__(self, f: Any, physics: Any, transform: Any, y: Tensor, x: Tensor | None = None) -> dict[str, Tensor]:
        if self.z is None:
            # Only the pseudo-inverse tells what images belong to these measurements.
            image = physics.A_dagger(y)
            drawn = torch.rand(image.shape, generator=generator(self.seed, "deep image prior"))
            self.z = drawn.to(image.device, image.dtype)
            self._y_shape = y.shape
        if y.shape != self._y_shape:
            raise InputError(
                f"the deep image prior fits one fixed batch: it began with measurements of the shape "
                f"{list(self._y_shape or ())} and was given {list(y.shape)}"
            )
        x1 = f.net(self.z)
        mc = self.criterion(physics.A(x1), y)
        return {"mc": mc, "total": mc, "x1": x1.detach()}
