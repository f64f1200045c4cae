"""Reconstruction that knows A: a network between steps of conjugate gradients towards the data.

With one iteration it is a null-space network (Schwab, Antholzer & Haltmeier, "Deep null space learning for inverse
problems", 2019): the network fills in what A does not see, and what A does see is taken from the data. With more it is
MoDL (Aggarwal, Mani & Jacob, "MoDL: Model-based deep learning architecture for inverse problems", 2019), here without
its regularisation weight: the few steps regularise.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ei.common.checks import check_choice, check_flag, check_number
from ei.models.base import ReconstructionFunction, outside_autocast
from ei.physics.krylov import adjoint_of, filter_of, pinv_cg

LASTS = ("data", "net")


class Unrolled(ReconstructionFunction):
    """A network between data-consistency steps.

    ``x = A^+ y``, then ``iterations`` times

        x = net(x)
        x = x + A^+ (y - A x)

    with one network for all iterations, and for ``A^+`` a few steps of conjugate gradients (`pinv_cg`).

    Args:
        net: from images ``[B, C, H, W]`` to images; it is put in channels-last format.
        physics: anything linear with ``A`` and ``A_adjoint``; without the latter, with an ``image_shape`` and an A of
            differentiable torch operations (see `ei.physics.krylov.adjoint_of`).
        iterations: how many times network and data alternate.
        cg_steps: steps towards the data in each iteration; the first image takes twice as many. Exactly so many are
            made, except that an image which the data determine no further stays as it is.
        last: "data", or "net" to leave the very last step towards the data out: it would put the noise of noisy data
            back into the image.
        recompute: trade time for memory: of each iteration only its input is kept, and the backward pass computes the
            iteration again (`torch.utils.checkpoint`). Same values, gradients and running statistics.
        precision, image_scale, network_tile: see `ei.models.base.ReconstructionFunction`.
        filtered: weight the steps towards the data with the physics' ``filter``, for tomography the ramp filter of FBP
            (see `pinv_cg`): on CT(128, 50) three such steps do what ten plain ones do (RESULTS.md); of views that
            miss a wedge six do, and fewer than ten views are better without. Noise at high frequencies weighs more.

    Differentiable with respect to the weights and to ``y``, through the steps.

    Raises:
        InputError: for an argument out of range, a tile that does not fit the network, a physics without an adjoint, or
            filtered and without a filter.

    >>> physics = ei.physics.CT(img_width=32, radon_view=10)
    >>> f = Unrolled(UNet(1, 1, base_channels=2, norm="none"), physics, iterations=2)
    >>> f(torch.rand(1, 1, 46, 10)).shape
    torch.Size([1, 1, 32, 32])
    """

    def __init__(
        self,
        net: nn.Module,
        physics: Any,
        *,
        iterations: int = 3,
        cg_steps: int = 5,
        last: str = "data",
        recompute: bool = False,
        precision: str = "fp32",
        image_scale: float = 1.0,
        filtered: bool = False,
        network_tile: int | None = None,
    ) -> None:
        super().__init__(net, physics, precision, image_scale=image_scale, network_tile=network_tile)
        self.iterations = check_number("iterations", iterations, integer=True, least=1)
        self.cg_steps = check_number("cg_steps", cg_steps, integer=True, least=1)
        self.last = check_choice("last", last, LASTS)
        self.recompute = check_flag("recompute", recompute)
        self.filtered = check_flag("filtered", filtered)
        adjoint_of(physics)  # raises here rather than at the first image
        if self.filtered:
            filter_of(physics)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that change what it computes; precision, recomputation and tiles only change how."""
        return {
            "iterations": self.iterations,
            "cg_steps": self.cg_steps,
            "last": self.last,
            "image_scale": self.image_scale,
            "filtered": self.filtered,
        }

    def forward(self, y: Tensor) -> Tensor:
        """Measurements ``y``, real or complex, to images ``[B, C, H, W]`` in the dtype of the network's weights."""
        dtype = self.image_dtype()
        y = y.to(dtype.to_complex() if y.is_complex() else dtype)
        with outside_autocast(y):
            # Where y needs no gradient, neither does this x: autograd keeps nothing of its steps.
            x = self._pinv(y, 2 * self.cg_steps)
        for k in range(1, self.iterations + 1):
            data_consistency = k < self.iterations or self.last == "data"
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(
                    self._iteration, x, y, data_consistency, use_reentrant=False, context_fn=self._recomputation
                )
            else:
                x = self._iteration(x, y, data_consistency)
        return x

    def _iteration(self, x: Tensor, y: Tensor, data_consistency: bool) -> Tensor:
        x = self.call_net(x)
        return self.data_consistency(x, y) if data_consistency else x

    def data_consistency(self, x: Tensor, y: Tensor) -> Tensor:
        """``x + A^+ (y - A x)`` for images ``[B, C, H, W]`` and their measurements, with its `cg_steps` for ``A^+``."""
        with outside_autocast(y):
            return x + self._pinv(y - self.physics.A(x), self.cg_steps)

    def _pinv(self, y: Tensor, steps: int) -> Tensor:
        weight = filter_of(self.physics) if self.filtered else None
        return pinv_cg(self.physics, y, steps, tol=0, orthogonal=True, weight=weight)

    def _recomputation(self) -> tuple[AbstractContextManager, AbstractContextManager]:
        """The contexts of an iteration's two computations."""
        return nullcontext(), _RunningStatisticsKept(self.net)


class _RunningStatisticsKept:
    """A context in which BatchNorm computes as always, but its running statistics stay: a batch that is computed
    again has been counted. It can be entered again, as a graph that is retained is recomputed more than once."""

    def __init__(self, net: nn.Module) -> None:
        self.norms = [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._NormBase)]

    def __enter__(self) -> None:
        self.kept = [(norm.momentum, norm.num_batches_tracked) for norm in self.norms]
        for norm in self.norms:
            # A step of length zero; without statistics the operations would not be those of the first computation.
            norm.momentum, norm.num_batches_tracked = 0.0, None

    def __exit__(self, *_: object) -> None:
        for norm, (momentum, count) in zip(self.norms, self.kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
