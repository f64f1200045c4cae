"""What every closure shares.

A closure computes what one optimisation step minimises:

    losses = closure(f, physics, transform, y, x=None)

a dict of scalar tensors (the unweighted parts, and the weighted "total" of each optimiser) and "x1", the detached
reconstruction. A new method is a new file with a class like those beside it; the training loop need not know it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from ei.errors import InputError
from ei.physics.base import where_sampled
from ei.physics.noise_adapter import get_noise

Criterion = Callable[[Tensor, Tensor], Tensor]


def _mean_squared_error(a: Tensor, b: Tensor) -> Tensor:
    # torch's does not know complex numbers, which a user's measurements and images may be.
    return (a - b).abs().square().mean() if a.is_complex() or b.is_complex() else functional.mse_loss(a, b)


CRITERIA: dict[str, Criterion] = {"l2": _mean_squared_error, "l1": functional.l1_loss}


class Closure:
    """Base class: holds the ``criterion``, the mean squared error unless "l1" or another callable is given.

    Class attributes for the training loop:
        columns: the columns of the log and the losses they show.
        needs_truth: whether x must be given.
        unscaled: what of its results is in no units of images: it is not divided by their scale, and the gradient of
            such a loss is not clipped.
    """

    columns: ClassVar[dict[str, str]] = {}
    needs_truth: ClassVar[bool] = False
    unscaled: ClassVar[tuple[str, ...]] = ("x1",)

    def __init__(self, *, criterion: Criterion | str = "l2") -> None:
        if isinstance(criterion, str):
            if criterion not in CRITERIA:
                raise InputError(f"the criterion must be one of {', '.join(CRITERIA)} or a callable, not {criterion!r}")
            criterion = CRITERIA[criterion]
        self.criterion = criterion

    def check(self, f: Any, physics: Any) -> None:
        """Raise if it cannot be called with these, as far as can be told before the first step.

        Raises:
            InputError: telling what is missing.
        """

    def __call__(
        self, f: Callable[[Tensor], Tensor], physics: Any, transform: Any, y: Tensor, x: Tensor | None = None
    ) -> dict[str, Tensor]:
        raise NotImplementedError


class InUnits(Closure):
    """Another closure with its losses, which are squares, in units of ``scale``: divided by ``scale**2``."""

    def __init__(self, closure: Closure, scale: float) -> None:
        super().__init__()
        self.closure, self.scale = closure, scale
        self.columns, self.needs_truth = closure.columns, closure.needs_truth  # type: ignore[misc]
        self.unscaled = closure.unscaled  # type: ignore[misc]

    def check(self, f: Any, physics: Any) -> None:
        self.closure.check(f, physics)

    def __call__(
        self, f: Callable[[Tensor], Tensor], physics: Any, transform: Any, y: Tensor, x: Tensor | None = None
    ) -> dict[str, Tensor]:
        losses = self.closure(f, physics, transform, y, x)
        return {name: loss if name in self.unscaled else loss / self.scale**2 for name, loss in losses.items()}


DOMAINS = ("measurement", "image")


class Consistency:
    """What measurement consistency compares: ``A x1`` and ``y`` (the paper's), or, in the domain "image",
    ``A_dagger A x1`` and ``A_dagger y``. The second is not the paper's. Where A is ill-conditioned, as in CT, it weighs
    what A sees evenly, which few training steps profit from (results/earlier.md); its alpha is about 1 in any units.

    Raises:
        InputError: for another domain.
    """

    def __init__(self, domain: str = "measurement") -> None:
        if domain not in DOMAINS:
            raise InputError(
                f"the domain of measurement consistency must be one of {', '.join(DOMAINS)}, not {domain!r}"
            )
        self.domain = domain
        self.linear = False  # whether A_dagger is known to be linear, which SURE has to look at once

    def __call__(self, physics: Any, x1: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        measured = physics.A(x1)
        return (measured, y) if self.domain == "measurement" else (physics.A_dagger(measured), physics.A_dagger(y))


def measure(physics: Any, x: Tensor) -> Tensor:
    """Measure a reconstruction anew: ``u = A x``, with fresh noise where the physics has a noise model.

    The noise is data, ``u + (noise(u) - u).detach()``: a draw of counts has no gradient. A reconstruction may have
    negative ``u`` where there are no negative counts: noise is drawn as if they were zero, and the noise model counts
    them (`ei.physics.Noise.clipped`).
    """
    u = physics.A(x)
    noise = get_noise(physics)
    if noise is None:
        return u
    clip = getattr(noise, "clip", None)
    clean = u.detach() if clip is None else clip(u.detach())
    # u - clean is exactly zero where nothing was clipped, so that no rounding is added.
    return where_sampled(physics, noise(clean).detach(), clean) + (u - clean)


def equivariance(
    f: Any,
    physics: Any,
    transform: Any,
    x1: Tensor,
    criterion: Criterion,
    stop_gradient: bool = False,
    measured: Callable[[Any, Tensor], Tensor] = measure,
) -> tuple[Tensor, Tensor]:
    """``x2 = T_g x1`` ``[n_trans*B, C, H, W]``, and the equivariance loss: ``criterion(x3, x2)`` with ``x3 = f(A x2)``.

    Args:
        f, physics, transform: as of a closure.
        x1: ``f(y)``.
        criterion: compares two images.
        stop_gradient: to the loss x2 is data: no gradient flows through it. The x2 that is returned has its gradient.
        measured: measures x2, by default with fresh noise where the physics has a noise model.
    """
    x2 = transform.apply(x1)
    data = x2.detach() if stop_gradient else x2
    x3 = f(measured(physics, data))
    return x2, criterion(x3, data)


def data_consistency_last(f: Any) -> bool:
    """Whether f's last step is towards the data (`ei.models.Unrolled`), so that its images fit what was measured."""
    return getattr(f, "last", None) == "data"


def require_truth(x: Tensor | None, method: str) -> Tensor:
    if x is None:
        raise InputError(f"{method} training needs ground-truth images; use ei or mc to train from measurements alone")
    return x


def loss_weight(name: str, value: float) -> float:
    """A loss weight: finite and not negative.

    Raises:
        InputError: naming the weight.
    """
    if not torch.isfinite(torch.tensor(float(value))) or value < 0:
        raise InputError(f"{name} must be a finite number >= 0, not {value}")
    return float(value)
