"""Splitting the measurements: reconstruct from a part of them, and compare with all (Yaman et al., "Self-supervised
learning of physics-guided reconstruction neural networks without fully sampled reference data", 2020; with
equivariance: Sechaud et al., "Equivariant splitting", 2025).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ei.closure.base import Closure, Consistency, Criterion, data_consistency_last, equivariance, loss_weight
from ei.common.processes import drawn
from ei.common.seeds import generator
from ei.errors import InputError
from ei.physics.split import Split, draw_kept, entries_to_split


class SplittingClosure(Closure):
    """``||A x1 - y||^2`` with ``x1 = f_m(m y)``: m keeps a random part of what was measured, drawn anew each step for
    every image; ``f_m`` is f with the operator ``m A``; the mean is over all that was measured. Keys: split, total.

    f learns to predict measurements that it does not see. That tells of the null space only as far as a missing entry
    looks like one that was left out: random masks do, a regular lattice of views does not.

    Args:
        keep: the probability that an entry is kept (of CT, a view; of inpainting, a pixel), in (0, 1).
        mc_domain: where A x1 and y are compared, see `ei.closure.base.Consistency`: in the domain "image", the mean is
            over the pixels of A_dagger A x1 and A_dagger y.

    Raises:
        InputError: for another ``keep`` or domain; when it is called with an f that has no ``of(physics)``.
    """

    columns = {"loss_split": "total"}

    def __init__(self, keep: float = 0.8, *, criterion: Criterion | str = "l2", mc_domain: str = "measurement") -> None:
        super().__init__(criterion=criterion)
        if isinstance(keep, bool) or not 0 < keep < 1:
            raise InputError(f"keep, the part of the measurements to reconstruct from, must be in (0, 1), not {keep}")
        self.keep, self.compared = float(keep), Consistency(mc_domain)

    def __call__(self, f: Any, physics: Any, transform: Any, y: Tensor, x: Tensor | None = None) -> dict[str, Tensor]:
        x1, split = self.reconstruct(f, physics, y)
        return {"split": split, "total": split, "x1": x1.detach()}

    def reconstruct(self, f: Any, physics: Any, y: Tensor) -> tuple[Tensor, Tensor]:
        """x1, and its loss."""
        measured = entries_to_split(physics, y)
        x1 = reconstruct_from_part(f, physics, y, self.keep, measured)
        predicted, data = self.compared(physics, x1, y)
        if self.compared.domain == "image" or bool((measured > 0).all()):
            return x1, self.criterion(predicted, data)
        entries = (measured > 0).expand_as(y)
        return x1, self.criterion(predicted[entries], y[entries])


class SplittingEIClosure(SplittingClosure):
    """``||A x1 - y||^2 + alpha ||x3 - x2||^2``: x1 from a part of the measurements, as in `SplittingClosure`, and
    ``x2 = T_g x1``, ``x3 = f(A x2)`` as in `EIClosure`. Keys: split, ei, total.

    Args:
        alpha: weight of the equivariance loss.
        keep, mc_domain: see `SplittingClosure`.
        stop_gradient: treat x2 as data.
    """

    columns = {"loss_split": "split", "loss_ei": "ei", "loss_total": "total"}

    def __init__(
        self,
        alpha: float,
        keep: float = 0.8,
        stop_gradient: bool = False,
        *,
        criterion: Criterion | str = "l2",
        mc_domain: str = "measurement",
    ) -> None:
        super().__init__(keep, criterion=criterion, mc_domain=mc_domain)
        self.alpha, self.stop_gradient = loss_weight("alpha", alpha), stop_gradient

    def __call__(self, f: Any, physics: Any, transform: Any, y: Tensor, x: Tensor | None = None) -> dict[str, Tensor]:
        x1, split = self.reconstruct(f, physics, y)
        _, ei = equivariance(f, physics, transform, x1, self.criterion, self.stop_gradient)
        return {"split": split, "ei": ei, "total": split + self.alpha * ei, "x1": x1.detach()}


def reconstruct_from_part(
    f: Any,
    physics: Any,
    y: Tensor,
    keep: float,
    measured: Tensor | None = None,
    random: torch.Generator | None = None,
) -> Tensor:
    """``f_m(m y)`` with a part m of the measurements drawn for every image, each entry with the probability ``keep``.

    Args:
        f: a reconstruction function with ``of(physics)``.
        physics: the operator.
        y: measurements ``[B, ...]``.
        keep: in (0, 1).
        measured: `ei.physics.split.entries_to_split`, if they are known.
        random: to draw with; by default torch's global one on the CPU.

    Raises:
        InputError: if f has no ``of``.
    """
    if not callable(getattr(f, "of", None)):
        raise InputError(
            f"splitting reconstructs with a part of the operator, and {type(f).__name__} has no of(physics), the same "
            "f with another operator: Reconstructor and Unrolled have"
        )
    measured = entries_to_split(physics, y) if measured is None else measured
    uniform = drawn(lambda shape: torch.rand(shape, generator=random), (len(y), *measured.shape[1:]))
    kept = draw_kept(measured, uniform.to(measured), keep)
    return f.of(Split(physics, kept))(kept * y)


def mean_over_parts(f: Any, physics: Any, y: Tensor, keep: float, draws: int, seed: int = 0) -> Tensor:
    """The mean of ``f_m(m y)`` over random parts m, as f was trained; for evaluation. Where f ends with the data
    (`ei.models.Unrolled`), so does the mean, with all of them: each part brought back only what it kept.

    Args:
        f, physics, y, keep: see `reconstruct_from_part`.
        draws: how many parts.
        seed: of the parts.
    """
    random = generator(seed, "parts")
    mean = torch.stack([reconstruct_from_part(f, physics, y, keep, None, random) for _ in range(draws)]).mean(0)
    return f.of(physics).data_consistency(mean, y) if data_consistency_last(f) else mean
