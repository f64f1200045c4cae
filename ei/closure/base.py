"""What every closure shares.

A closure computes what one optimisation step minimises:

    losses = closure(f, physics, transform, y, x=None)

a dict of scalar tensors (the unweighted parts, and the weighted "total" of each optimiser) and "x1", the detached
reconstruction. A new method is one file with one class; the training loop does not know it:

    class Consistency(Closure):
        columns = {"loss": "total"}

        def __call__(self, f, physics, transform, y, x=None):
            x1 = f(y)
            total = self.criterion(physics.A(x1), y)
            return {"total": total, "x1": x1.detach()}
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from ei.common.checks import check_choice, check_flag, check_number, shape_or_type
from ei.common.processes import drawn
from ei.errors import InputError
from ei.models.base import require_of
from ei.physics.base import STAY, move_physics, where_sampled
from ei.physics.noise_adapter import get_noise

Criterion = Callable[[Tensor, Tensor], Tensor]


def _mean_squared_error(a: Tensor, b: Tensor) -> Tensor:
    # torch's rejects complex numbers, which user-defined measurements and images may be.
    return (a - b).abs().square().mean() if a.is_complex() or b.is_complex() else functional.mse_loss(a, b)


CRITERIA: dict[str, Criterion] = {"l2": _mean_squared_error, "l1": functional.l1_loss}
DOMAINS = ("measurement", "image")
MOVES = ("image", "operator")
OPERATORS = ("own", "any")


def predict(physics: Any, x1: Tensor) -> Tensor:
    """``A x1``, to be compared with y. Raises `InputError` if no gradient flows through A: it would train nothing, in
    silence."""
    predicted: Tensor = physics.A(x1)
    if x1.requires_grad and not predicted.requires_grad:
        raise InputError(
            "no gradient flows through A of the operator: write it with differentiable torch operations (no NumPy, "
            "detach() or no_grad())"
        )
    return predicted


class Closure:
    """Base class of closures: compares images and measurements by its ``criterion``.

    Args:
        criterion: "l2" (mean squared error), "l1", or a callable of two tensors.

    Class attributes for the training loop and the commands:
        columns: the columns of the log and the losses they show; by default a column ``loss_<key>`` for each loss.
        needs_truth: whether ground truth x is required.
        needs_transform: whether a transform is required.
        unscaled: losses in other units than images; their gradients are not clipped.

    Attributes:
        image_scale: losses are in units of it (`ei.models.Unrolled`), so that weights, learning rate and clipping carry
            over between scanners.

    Raises:
        InputError: for another criterion.

    >>> class L1(Closure):
    ...     def __call__(self, f, physics, transform, y, x=None):
    ...         x1 = f(y)
    ...         return {"total": self.criterion(physics.A(x1), y), "x1": x1.detach()}
    >>> float(L1(criterion="l1").criterion(torch.zeros(2), torch.ones(2)))
    1.0
    """

    columns: ClassVar[dict[str, str]] = {}
    needs_truth: ClassVar[bool] = False
    needs_transform: ClassVar[bool] = False
    unscaled: ClassVar[tuple[str, ...]] = ()
    image_scale: float = 1.0

    def __init__(self, *, criterion: Criterion | str = "l2") -> None:
        if isinstance(criterion, str):
            criterion = CRITERIA[check_choice("criterion", criterion, CRITERIA)]
        self._criterion = criterion

    def criterion(self, a: Tensor, b: Tensor) -> Tensor:
        """The distance of two tensors of equal shape, a scalar, in units of `image_scale`."""
        if self.image_scale == 1:
            return self._criterion(a, b)
        return self._criterion(a / self.image_scale, b / self.image_scale)

    def check(self, f: Any, physics: Any) -> None:
        """Raise `InputError` if the closure cannot be called with these, as far as is known before the first step."""

    def check_transform(self, transform: Any, physics: Any, x: Tensor) -> None:
        """Raise `InputError` if the transform cannot be used with the operator on images of the shape of ``x``."""

    def optimizers(self, f: Any, lr: float) -> dict[str, torch.optim.Optimizer]:
        """The optimisers of what the closure trains beside ``f.net``, by the loss they minimise.

        Args:
            f: the reconstruction function, on its device.
            lr: the learning rate of ``f.net``.
        """
        return {}

    def __call__(
        self, f: Callable[[Tensor], Tensor], physics: Any, transform: Any, y: Tensor, x: Tensor | None = None
    ) -> dict[str, Tensor]:
        raise NotImplementedError


class SelfSupervised(Closure):
    """A closure with measurement consistency.

    Args:
        mc_domain: "measurement" compares ``A x1`` with ``y`` (the paper's), "image" ``A_dagger A x1`` with
            ``A_dagger y``. The latter is not the paper's. It weighs evenly what an ill-conditioned A, as in CT,
            measures, and its alpha is about 1 in any units.
        criterion: see `Closure`.

    Raises:
        InputError: for another domain.
    """

    def __init__(self, *, mc_domain: str = "measurement", **shared: Any) -> None:
        super().__init__(**shared)
        self.mc_domain = check_choice("mc_domain", mc_domain, DOMAINS)

    def consistency(self, physics: Any, x1: Tensor, y: Tensor) -> Tensor:
        """``criterion(A x1, y)``, or the same of images."""
        return self.criterion(*self.to_domain(physics, predict(physics, x1), y))

    def to_domain(self, physics: Any, predicted: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Two measurements in the domain where they are compared."""
        if self.mc_domain == "measurement":
            return predicted, y
        return physics.A_dagger(predicted), physics.A_dagger(y)


class Moving(Closure):
    """A closure that measures and reconstructs a reconstruction once more, from another position: ``x2 = T_g x1``,
    ``x3 = f(A x2)``.

    Args:
        stop_gradient: no gradient flows through x2. Not the paper's. Otherwise the loss also falls by an x1 with less
            of what A loses once it is transformed. Super-resolution with `Scale` needs it (Scanvic et al., 2023), and
            short trainings on CT profit.
        move: "image", the paper's; or "operator": the image stays, ``x2 = x1``, and the instrument moves instead,
            ``x3 = f(A_g x2)``, both with the moved operator ``A_g = A T_g^-1`` (`ei.physics.Physics.moved`).
        operators: of a run whose scans differ (`ei.physics.Physics.of`), x3 is measured by "own", the operator of its
            image, or by "any", one of the run's drawn for each image (multi-operator imaging, Tachella, Chen & Davies,
            "Unsupervised learning from incomplete measurements for inverse problems", 2022).

    Raises:
        InputError: for another choice, or (by `check`) an operator or an f that cannot be moved.
    """

    needs_transform = True

    def __init__(
        self, stop_gradient: bool = False, *, move: str = "image", operators: str = "own", **shared: Any
    ) -> None:
        super().__init__(**shared)
        self.stop_gradient = check_flag("stop_gradient", stop_gradient)
        self.move = check_choice("move", move, MOVES)
        self.operators = check_choice("operators", operators, OPERATORS)

    def check(self, f: Any, physics: Any) -> None:
        super().check(f, physics)
        self.check_moves(f, physics)

    def check_moves(self, f: Any, physics: Any) -> None:
        """Raise `InputError` if the operator cannot be moved or drawn, or f has no ``of``."""
        if self.move == "operator" and not callable(getattr(physics, "moved", None)):
            raise InputError(
                f"move=operator needs an operator that can be moved, and {type(physics).__name__} has no method "
                f"moved(element): {STAY}"
            )
        if self.operators == "any" and getattr(getattr(physics, "selected_from", physics), "count", 1) == 1:
            raise InputError(
                "several operators are needed (angles or masks for each image), and one operator serves all images of "
                "this run: use ei without operators=any"
            )
        if (self.move, self.operators) != ("image", "own"):
            require_of(f, "move=operator and operators=any need")

    def check_transform(self, transform: Any, physics: Any, x: Tensor) -> None:
        if self.move == "operator":
            _number_of_elements(transform)
            move_physics(physics, transform.sample(x)[0], transform)

    def target(self, x2: Tensor) -> Tensor:
        """x2 as the loss takes it."""
        return x2.detach() if self.stop_gradient else x2

    def transformed(self, transform: Any, x1: Tensor) -> Tensor:
        """``x2 = T_g x1``, transform-major ``[n_trans * B, ...]``; where the operator moves, x1 as often. Raises
        `InputError` if a user-defined transform gives anything else."""
        if self.move == "image":
            x2 = transform.apply(x1)
            if not isinstance(x2, Tensor) or x2.shape[1:] != x1.shape[1:] or not len(x2) or len(x2) % len(x1):
                raise InputError(
                    f"apply of the transform must give images [n * {len(x1)}, "
                    f"{', '.join(map(str, x1.shape[1:]))}] for images {list(x1.shape)}, got {shape_or_type(x2)}"
                )
            return x2
        return x1.repeat(_number_of_elements(transform), *[1] * (x1.dim() - 1))

    def reconstructed(self, f: Any, physics: Any, transform: Any, x2: Tensor, batch: int) -> Tensor:
        """``x3 = f(A x2)`` for x2 of `transformed`, made of ``batch`` images x1. Where the operator moves or is drawn,
        each part of x2 has its own."""
        if (self.move, self.operators) == ("image", "own"):
            return f(self.measure(physics, x2))
        self.check_moves(f, physics)
        operators = self._operators(physics, transform, x2, batch)
        parts = zip(operators, x2.chunk(len(operators)), strict=True)
        return torch.cat([f.of(other)(self.measure(other, part)) for other, part in parts])

    def measure(self, physics: Any, x: Tensor) -> Tensor:
        """``A x`` with fresh noise (`measure`)."""
        return measure(physics, x)

    def _operators(self, physics: Any, transform: Any, x2: Tensor, batch: int) -> list[Any]:
        """The operators of x3, of equal parts of x2 in their order."""
        if self.operators == "any":
            every = physics.selected_from
            # Each image draws, so that the number of processes changes nothing.
            numbers = (drawn(torch.rand, (len(x2),)) * every.count).long().tolist()
            operators = [every.of([number]) for number in numbers]
        else:
            operators = [physics] * (len(x2) // batch)
        if self.move == "image":
            return operators
        elements = transform.sample(x2[:batch])
        each = len(operators) // len(elements)
        return [move_physics(one, elements[k // each], transform) for k, one in enumerate(operators)]


class Equivariant(Moving):
    """A closure with the equivariance loss ``||x3 - x2||^2``, ``x2 = T_g x1``, ``x3 = f(A x2)``.

    Args:
        alpha: weight of the equivariance loss, >= 0; tied to the units of A.
        stop_gradient, move, operators: see `Moving`.

    Raises:
        InputError: for a weight out of range; otherwise see `Moving`.
    """

    def __init__(self, alpha: float, stop_gradient: bool = False, **shared: Any) -> None:
        super().__init__(stop_gradient, **shared)
        self.alpha = check_number("alpha", alpha, least=0)


def _number_of_elements(transform: Any) -> int:
    if not callable(getattr(transform, "sample", None)) or getattr(transform, "per_image", False):
        raise InputError(
            "move=operator needs a group whose elements are drawn for the whole batch (sample(x), per_image: false), "
            f"got {type(transform).__name__}"
        )
    return int(transform.n_trans)


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


def data_consistency_last(f: Any) -> bool:
    """Whether the last step of f is a data-consistency step (`ei.models.Unrolled`)."""
    return getattr(f, "last", None) == "data"


def require_truth(x: Tensor | None, method: str) -> Tensor:
    if x is None:
        raise InputError(f"{method} training needs ground-truth images; use ei or mc to train from measurements alone")
    return x
