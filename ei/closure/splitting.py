"""Splitting the measurements: reconstruct from a part of them, and compare with all (Yaman et al., "Self-supervised
learning of physics-guided reconstruction neural networks without fully sampled reference data", 2020; with
equivariance: Sechaud et al., "Equivariant splitting", 2025).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ei.closure.base import Equivariant, SelfSupervised, data_consistency_last, predict
from ei.common.checks import check_number
from ei.common.processes import drawn, mean_over_batch
from ei.common.seeds import generator
from ei.models.base import require_of
from ei.physics.split import Split, draw_kept, entries_to_split


class SplittingClosure(SelfSupervised):
    """``||A x1 - y||^2`` with ``x1 = f_m(m y)``: m keeps a random part of what was measured, drawn anew each step for
    every image; ``f_m`` is f with the operator ``m A``; the mean is over all that was measured. Keys: split, total.

    f learns to predict measurements that it does not see. That determines the null space only as far as a missing entry
    looks like one that was left out: random masks do, a regular lattice of views does not.

    Args:
        keep: the probability that an entry is kept (of CT, a view; of inpainting, a pixel), in (0, 1).
        mc_domain, criterion: see `ei.closure.base.SelfSupervised`; of images the mean is over all pixels.

    Raises:
        InputError: for another ``keep`` or domain; when called with an f that has no ``of(physics)``.

    >>> from ei.closure import SplittingClosure
    >>> SplittingClosure(keep=0.9).keep
    0.9
    """

    columns = {"loss_split": "total"}

    def __init__(self, keep: float = 0.8, **shared: Any) -> None:
        super().__init__(**shared)
        self.keep = check_number("keep", keep, above=0, below=1)

    def __call__(self, f: Any, physics: Any, transform: Any, y: Tensor, x: Tensor | None = None) -> dict[str, Tensor]:
        x1, split = self.reconstruct(f, physics, y)
        return {"split": split, "total": split, "x1": x1.detach()}

    def reconstruct(self, f: Any, physics: Any, y: Tensor) -> tuple[Tensor, Tensor]:
        """x1, and its loss."""
        sampled = entries_to_split(physics, y)
        x1 = reconstruct_from_part(f, physics, y, self.keep, sampled)
        predicted, data = self.to_domain(physics, predict(physics, x1), y)
        if self.mc_domain == "image":
            return x1, self.criterion(predicted, data)
        entries = (sampled > 0).expand_as(y)
        fraction = entries.to(y.real.dtype).mean()
        # With several processes the mean over the entries of this one counts by how many they are.
        weight = fraction / mean_over_batch(fraction)
        if fraction < 1:
            predicted, data = predicted[entries], y[entries]
        return x1, weight * self.criterion(predicted, data)


class SplittingEIClosure(Equivariant, SplittingClosure):
    """``||A x1 - y||^2 + alpha ||x3 - x2||^2``: x1 from a part of the measurements, as in `SplittingClosure`, and
    ``x2 = T_g x1``, ``x3 = f(A x2)`` as in `EIClosure`. Keys: split, ei, total.

    Args:
        alpha, stop_gradient, move, operators: see `ei.closure.base.Equivariant`.
        keep, mc_domain, criterion: see `SplittingClosure`.

    >>> from ei.closure import SplittingEIClosure
    >>> SplittingEIClosure(alpha=1).keep
    0.8
    """

    columns = {"loss_split": "split", "loss_ei": "ei", "loss_total": "total"}

    def __init__(self, alpha: float, keep: float = 0.8, stop_gradient: bool = False, **shared: Any) -> None:
        super().__init__(alpha, stop_gradient, keep=keep, **shared)

    def __call__(self, f: Any, physics: Any, transform: Any, y: Tensor, x: Tensor | None = None) -> dict[str, Tensor]:
        x1, split = self.reconstruct(f, physics, y)
        x2 = self.target(self.transformed(transform, x1))  # T_g x1
        x3 = self.reconstructed(f, physics, transform, x2, len(x1))  # f(A x2)
        ei = self.criterion(x3, x2)
        return {"split": split, "ei": ei, "total": split + self.alpha * ei, "x1": x1.detach()}


def reconstruct_from_part(
    f: Any,
    physics: Any,
    y: Tensor,
    keep: float,
    sampled: Tensor | None = None,
    random: torch.Generator | None = None,
) -> Tensor:
    """``f_m(m y)`` with a part m of the measurements drawn for every image, each entry with the probability ``keep``.

    Args:
        f, physics, y, keep: see `SplittingClosure`.
        sampled: `ei.physics.split.entries_to_split`, if it is there already.
        random: to draw with; by default torch's global generator on the CPU.
    """
    require_of(f, "splitting needs")
    sampled = entries_to_split(physics, y) if sampled is None else sampled
    uniform = drawn(lambda shape: torch.rand(shape, generator=random), (len(y), *sampled.shape[1:]))
    kept = draw_kept(sampled, uniform.to(sampled), keep)
    return f.of(Split(physics, kept))(kept * y)


def mean_over_parts(f: Any, physics: Any, y: Tensor, keep: float, draws: int) -> Tensor:
    """The mean of ``f_m(m y)`` over ``draws`` random parts m (`reconstruct_from_part`), as f was trained; for
    evaluation. Where data consistency is the last step of f (`ei.models.Unrolled`), it is the last step of the mean,
    with all measurements: each part restored only what it kept."""
    random = generator(0, "parts")
    mean = torch.stack([reconstruct_from_part(f, physics, y, keep, None, random) for _ in range(draws)]).mean(0)
    return f.of(physics).data_consistency(mean, y) if data_consistency_last(f) else mean
