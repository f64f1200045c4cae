"""The answer of `ei.diagnosis.diagnose`, its report and its figure."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from ei.common.drawing import new_figure
from ei.diagnosis.elements import Element
from ei.diagnosis.isotropic import GAIN, NO_GAIN


@dataclass
class Diagnosis:
    """The answer of `diagnose`; ``str`` of it is a report.

    Attributes:
        n: pixels (times channels) of image space that the transforms keep: all, or those inside the inscribed circle.
        tol: the tolerance, relative to the largest singular value of A.
        exact: whether matrices were formed, or random probes used.
        group: how many elements the group has, None where it does not list them.
        alpha: mean (A e)^2 / mean e^2 for white e and for e with a natural-image spectrum.
        coverage: a list of (number of group elements besides the identity, share of image space seen by the stack).
        verdict: one of the four sentences of `ei.diagnosis.verdicts`, with its figures.
        elements: what each of some elements brings.
        effective: ``|G_eff|``, elements that only permute the measurements counted once.
        effective_is_bound: whether there may be more than ``effective``.
        gain: where pixels are interpolated, the share of the null space that the views show, over that of an isotropic
            filter's, to which rotations bring nothing (`ei.diagnosis.isotropic`).
        unseen: power of the unseen part of white images, by pixel and by frequency, for A alone and for the stack.

    >>> diagnosis = diagnose(ei.physics.Inpainting(8, 8), ei.transforms.Shift(2), (1, 8, 8))
    >>> diagnosis.exact, "necessary condition holds" in diagnosis.verdict
    (True, True)
    """

    n: int
    tol: float
    exact: bool
    group: int | None
    alpha: tuple[float, float]
    coverage: list[tuple[int, float]]
    verdict: str = ""
    elements: list[Element] = field(default_factory=list)
    effective: int = 1
    effective_is_bound: bool = False
    gain: float | None = None
    unseen: dict[str, Tensor] = field(default_factory=dict)

    @property
    def rank(self) -> float:
        """Singular values of A above the tolerance (an estimate where ``exact`` is False)."""
        return self.coverage[0][1] * self.n

    @property
    def ratio(self) -> float:
        """``rank(A) * |G_eff| / n``."""
        return self.coverage[0][1] * self.effective

    @property
    def unseen_share(self) -> float:
        """The share of image space that the largest stack does not see."""
        return 1 - self.coverage[-1][1]

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
            f"{self.ratio:.3f}",
            f"alpha                 mean (Ae)^2 / mean e^2 = {self.alpha[0]:.4g} (white), {self.alpha[1]:.4g} (natural "
            "spectrum): the weight of the equivariance loss that matches the units of A",
        ]
        if self.gain is not None:
            lines.append(
                f"gain                  {self.gain:.2f} times the share of an isotropic filter's null space that the "
                f"views show (up to {NO_GAIN}: no information, from {GAIN}: information)"
            )
        size = "an unknown number" if self.group is None else f"{self.group}"
        lines += [
            f"elements stacked      {self.coverage[-1][0]} of {size}",
            "",
            "group elements   0 is A alone     share of image space seen by the stack",
            *(f"{count:14d}   {share:.4f}" for count, share in self.coverage),
        ]
        if self.elements:
            lines += ["", "element                null space made visible by A T_g   by an isotropic filter   gain"]
        for one in self.elements:
            name = ", ".join(f"{float(value):g}" for value in one.element.flatten()[:4])
            figures = f"{one.visible:32.3f}"
            if self.gain is not None:
                figures += f" {one.isotropic:24.3f} {one.gain:6.2f}"
            lines.append(f"{name:22}{figures}{'   (nearly) redundant' if one.redundant else ''}")
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
