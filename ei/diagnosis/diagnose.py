"""Will equivariant imaging work for my operator and group? The necessary conditions, estimated before any training.

    from ei.evaluation import diagnose
    print(diagnose(physics, transform, image_shape=(1, 128, 128)))

EI learns what an operator A does not see from other views of it, ``A T_g`` (Tachella, Chen & Davies, "Sensing theorems
for unsupervised learning in linear inverse problems", JMLR 2023). Two things can be checked without data: that the
views together see every image, and that there are enough of them, ``rank(A) * |G_eff| >= n``. They are necessary, not
sufficient. Only ``A``, ``T.sample`` and ``T.apply`` are called; adjoints come from autograd.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ei.common.drawing import new_figure
from ei.diagnosis.interpolation import accurate
from ei.diagnosis.verdicts import CANNOT, HOLDS, NOTHING, UNDECIDED, examine
from ei.diagnosis.views import GAIN, NO_GAIN, Element, Problem
from ei.errors import InputError

__all__ = ["CANNOT", "HOLDS", "NOTHING", "UNDECIDED", "Diagnosis", "diagnose"]

# Where the answers are estimates, so many elements are drawn first.
SAMPLED = 16


@dataclass
class Diagnosis:
    """The answer of `diagnose`; ``str`` of it is a report.

    Attributes:
        verdict: one of the four sentences `CANNOT`, `HOLDS`, `NOTHING`, `UNDECIDED`, with its figures.
        n: pixels (times channels) of image space that the transforms keep: all, or those inside the inscribed circle.
        rank: singular values of A above the tolerance (an estimate where ``exact`` is False).
        tol: the tolerance, relative to the largest singular value of A.
        coverage: a list of (number of group elements besides the identity, share of image space seen by the stack).
        elements: what each of some elements brings.
        effective: |G_eff|, elements that only permute the measurements counted once.
        effective_is_bound: whether there may be more than ``effective``.
        alpha: mean (A e)^2 / mean e^2 for white e and for e with a natural-image spectrum.
        unseen: power of the unseen part of white images, by pixel and by frequency, for A alone and for the stack.
        exact: whether matrices were formed, or random probes used.
        gain: where pixels are interpolated, how many times what the views show of an isotropic filter's null space,
            to which rotations bring nothing, they show of that of A (`ei.diagnosis.interpolation`).
        group: how many elements the group has, None where that is not known.
    """

    verdict: str
    n: int
    rank: float
    tol: float
    coverage: list[tuple[int, float]]
    elements: list[Element]
    effective: int
    effective_is_bound: bool
    alpha: tuple[float, float]
    unseen: dict[str, Tensor]
    exact: bool
    gain: float | None = None
    group: int | None = None

    def __str__(self) -> str:
        bound = ">= " if self.effective_is_bound else ""
        figures = "exact figures" if self.exact else "estimates (random probes)"
        lines = [
            self.verdict,
            "",
            f"image space           n = {self.n} ({figures})",
            f"A sees                rank {self.rank:.0f} = {self.rank / self.n:.4f} n (singular values above "
            f"{self.tol:g} of the largest)",
            f"effective group       |G_eff| {bound or '= '}{self.effective}, rank(A) * |G_eff| / n {bound or '= '}"
            f"{self.rank * self.effective / self.n:.3f}",
            f"alpha                 mean (Ae)^2 / mean e^2 = {self.alpha[0]:.4g} (white), {self.alpha[1]:.4g} (natural "
            "spectrum): the weight of the equivariance loss that matches the units of A",
        ]
        if self.gain is not None:
            lines.append(
                f"gain                  {self.gain:.2f} times what the views show of an isotropic filter's null space "
                f"(up to {NO_GAIN}: nothing, from {GAIN} on: information)"
            )
        size = "an unknown number" if self.group is None else f"{self.group}"
        lines += [
            f"elements stacked      {self.coverage[-1][0]} of {size}",
            "",
            "group elements   0 is A alone     share of image space seen by the stack",
            *(f"{count:14d}   {share:.4f}" for count, share in self.coverage),
        ]
        if self.elements:
            lines += [
                "",
                "                          share of A T_g outside range(A^T)      null space made visible",
                "element                  white   natural   interpolation alone   by A T_g   interpolation    gain",
            ]
        for found in self.elements:
            name = ", ".join(f"{float(value):g}" for value in found.element.flatten()[:4])
            gain = "" if found.gain is None else f"{found.gain:8.2f}"
            note = "   (nearly) redundant" if found.redundant else ""
            lines.append(
                f"{name:22} {found.share:7.3f} {found.share_natural:9.3f} {found.share_interpolation:15.3f}"
                f"{found.visible:17.3f} {found.visible_interpolation:16.3f}{gain}{note}"
            )
        return "\n".join(lines)

    def save_figure(self, path: Path | str) -> None:
        """Write a figure: the coverage, and what stays unseen by pixel and by frequency (zero frequency centred)."""
        figure = new_figure(figsize=(15, 3.4))
        axes = figure.subplots(1, 5)
        counts, shares = zip(*self.coverage, strict=True)
        axes[0].plot(counts, shares, marker="o")
        axes[0].set(xlabel="group elements beside A", title="share of image space seen", ylim=(0, 1.05))
        axes[0].set_xscale("symlog", linthresh=1)
        axes[0].grid(alpha=0.3)
        for ax, (title, image) in zip(axes[1:], self.unseen.items(), strict=True):
            shown = ax.imshow(image.numpy(), vmin=0, vmax=1, cmap="magma")
            ax.set_title(title, fontsize=9)
            ax.set_axis_off()
        figure.colorbar(shown, ax=axes[1:], label="unseen power")
        figure.savefig(path, dpi=120)


def diagnose(
    physics: Any,
    transform: Any,
    image_shape: Sequence[int],
    *,
    tol: float = 1e-2,
    max_elements: int = 64,
    n_shown: int = 6,
    elements: Tensor | Sequence | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Diagnosis:
    """Whether EI can learn the null space of ``physics.A`` from a group: necessary conditions, without data.

    Args:
        physics: has a linear, differentiable ``A``; measurements may be complex.
        transform: has ``sample(x, generator)`` and ``apply(x, elements)``.
        image_shape: (C, H, W).
        tol: singular values below ``tol`` times the largest of A count as null space.
        max_elements: at most so many group elements are stacked; 16 where the answers are estimates.
        n_shown: how many elements are looked at one by one; 3 where the answers are estimates.
        elements: look at these one by one instead of drawn ones.
        seed: of probes and elements.
        device: where to compute.

    Raises:
        InputError: for a shape or tolerance that cannot be used, an A that is not linear, or one that autograd cannot
            differentiate.
    """
    shape = tuple(int(side) for side in image_shape)
    if len(shape) != 3 or min(shape) < 1 or not 0 < tol < 1 or max_elements < 1 or n_shown < 1:
        raise InputError(
            f"diagnose needs image_shape = (C, H, W), 0 < tol < 1, max_elements and n_shown >= 1; not {image_shape}, "
            f"{tol}, {max_elements} and {n_shown}"
        )
    rng = torch.Generator().manual_seed(seed)
    problem = Problem(physics, transform, shape, torch.device(device), rng, tol)
    problem.judged = accurate(transform)
    problem.check_linear()
    drawn = problem.draw_elements(max_elements)
    problem.restrict_to_support(drawn)
    if not problem.exact:
        drawn, n_shown = drawn[:SAMPLED], min(n_shown, 3)
    looked_at = drawn[:n_shown] if elements is None else list(torch.as_tensor(elements))
    alone = problem.stack([])
    pixels, frequencies = alone.unseen()
    found = examine(problem, alone, drawn, frequencies, looked_at, max_elements)
    pixels_left, frequencies_left = (pixels, frequencies) if found.full is alone else found.full.unseen()
    return Diagnosis(
        found.verdict, problem.n, found.coverage[0][1] * problem.n, tol, found.coverage, found.found, found.effective,
        found.effective_is_bound, problem.alpha(),
        {"unseen by A alone: pixels": pixels, "unseen by A alone: frequencies": frequencies,
         "unseen by the stack: pixels": pixels_left, "unseen by the stack: frequencies": frequencies_left},
        problem.exact, found.gain, None if problem.every is None else len(problem.every),
    )  # fmt: skip
