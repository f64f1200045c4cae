"""Deep image prior (Ulyanov et al., CVPR 2018): no learning from data, one batch of measurements is fitted."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ei.closure.base import Closure, predict
from ei.common.checks import check_number
from ei.common.seeds import generator
from ei.errors import InputError
from ei.models.base import evaluating


class DIPClosure(Closure):
    """``||A net(z) - y||^2`` with z a uniform random image in [0, image_scale] drawn once; for one fixed batch. Keys:
    mc, total.

    Needs a `Reconstructor` as f, whose network it calls (`call_net`) without the pseudo-inverse: the reconstruction is
    ``closure.reconstruct(f)``, and not ``f(y)``, which the network has never seen.

    Args:
        seed: seed of z.

    Raises:
        InputError: when it is called with other measurements than at first.

    >>> DIPClosure(seed=1).columns
    {'loss_mc': 'mc', 'loss_total': 'total'}
    """

    columns = {"loss_mc": "mc", "loss_total": "total"}

    def __init__(self, seed: int = 0, **shared: Any) -> None:
        super().__init__(**shared)
        self.seed = check_number("seed", seed, integer=True)
        self.z: Tensor | None = None
        self._y: Tensor | None = None

    def __call__(self, f: Any, physics: Any, transform: Any, y: Tensor, x: Tensor | None = None) -> dict[str, Tensor]:
        if self.z is None:
            # The shape of the images is known from the pseudo-inverse alone.
            image = physics.A_dagger(y)
            drawn = torch.rand(image.shape, generator=generator(self.seed, "deep image prior"))
            self.z = drawn.to(image.device, image.dtype) * f.image_scale
            self._y = y.detach().clone()
        if self._y is None or not torch.equal(y, self._y):
            raise InputError(
                "the deep image prior fits one fixed batch of measurements, and was given others than it began with: "
                "put all images into one batch, in the same order every time (shuffle=False), or train once for each"
            )
        x1 = f.call_net(self.z)
        mc = self.criterion(predict(physics, x1), y)
        return {"mc": mc, "total": mc, "x1": x1.detach()}

    def reconstruct(self, f: Any) -> Tensor:
        """The images ``[B, C, H, W]`` that were fitted: ``net(z)`` in evaluation mode, of the moving average of the
        network where its training keeps one.

        Raises:
            InputError: before the first step.
        """
        if self.z is None:
            raise InputError("the deep image prior has fitted nothing yet: train first")
        with evaluating(f), torch.no_grad():
            return f.call_net(self.z)
