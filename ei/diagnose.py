"""Will equivariant imaging work for my operator and group? The necessary conditions, estimated before any training.

    from ei.diagnose import diagnose
    print(diagnose(physics, transform, image_shape=(1, 128, 128)))

    python -m ei.diagnose --config configs/ct_ei.yaml --size 32

EI learns what an operator A does not see from other views of it, ``A T_g`` (Tachella, Chen & Davies, "Sensing theorems
for unsupervised learning in linear inverse problems", JMLR 2023). Two things can be checked without data: that the
views together see every image, and that there are enough of them, ``rank(A) * |G_eff| >= n``. They are necessary, not
sufficient. Only ``A``, ``T.sample`` and ``T.apply`` are called; adjoints come from autograd.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ei.errors import InputError
from ei.experiment import COMMON_DEFAULTS, TASKS, image_shape, images_for
from ei.options import Parser, add_device_options, choose_device, named, number, read_yaml, run_script
from ei.physics.krylov import transposed
from ei.plot import new_figure

# Up to so many pixels the matrices are formed, and the answers are exact; above, random probes and Lanczos' method.
EXACT = 1600
# How much of an image that A does not see must become visible under a transform that interpolates, over twice what its
# interpolation alone makes visible, before that counts as information. Rotations of a low-pass operator, which bring
# none, stay under 0.019 at sides of 16 to 48; the best ones of a CT or a strip of frequencies reach 0.04 to 0.12.
INTERPOLATION_MARGIN = 0.03
# A group that moves pixels without interpolating is exact to rounding.
ROUNDING = 1e-5
# What may stay unseen under interpolated transforms, which blur the finest details wherever they turn them.
INTERPOLATION_LOSS = 0.01
LANCZOS_STEPS = 80

CANNOT = "cannot learn the null space"
HOLDS = "the necessary condition holds"
NOTHING = "no null space at this tolerance: nothing to learn, only conditioning"


@dataclass
class Element:
    """What one group element brings.

    Attributes:
        element: the group element.
        share: the share of the rows of ``A T_g`` outside the range of ``A^T``, over white probes.
        share_natural: the same over probes with a natural-image spectrum.
        share_interpolation: the share for ``A T_g^-1 T_g``, which would be 0 if nothing were interpolated.
        visible: the share of the energy of images in the null space of A that A sees once they are transformed.
        visible_interpolation: the same for ``T_g^-1 T_g``.
        informative: whether ``visible`` is more than interpolation explains.
        redundant: not informative, or, where pixels are interpolated, with at most half the largest share of those
            looked at: nearly a permutation of the measurements.
    """

    element: Tensor
    share: float
    share_natural: float
    share_interpolation: float
    visible: float
    visible_interpolation: float
    informative: bool = field(init=False)
    redundant: bool = field(init=False)

    def __post_init__(self) -> None:
        self.informative = _is_information(self.visible, self.visible_interpolation)
        self.redundant = not self.informative


@dataclass
class Diagnosis:
    """The answer of `diagnose`; ``str`` of it is a report.

    Attributes:
        verdict: one of the three sentences, with its figures.
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
            "",
            "group elements   0 is A alone     share of image space seen by the stack",
            *(f"{count:14d}   {share:.4f}" for count, share in self.coverage),
        ]
        if self.elements:
            lines += [
                "",
                "                          share of A T_g outside range(A^T)      null space made visible",
                "element                  white   natural   interpolation alone   by A T_g   by interpolation",
            ]
        for found in self.elements:
            name = ", ".join(f"{float(value):g}" for value in found.element.flatten()[:4])
            note = "   (nearly) redundant" if found.redundant else ""
            lines.append(
                f"{name:22} {found.share:7.3f} {found.share_natural:9.3f} {found.share_interpolation:15.3f}"
                f"{found.visible:17.3f} {found.visible_interpolation:14.3f}{note}"
            )
        return "\n".join(lines)

    def draw(self, path: Path | str) -> None:
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
    problem = _Problem(physics, transform, shape, torch.device(device), rng, tol)
    problem.check_linear()
    drawn = problem.draw_elements(max_elements)
    problem.restrict_to_support(drawn)
    drawn = drawn if problem.exact else drawn[:16]
    alone = problem.stack([])
    coverage = [(0, alone.seen())]
    rank = coverage[0][1] * problem.n

    found: list[Element] = []
    classes: list[Tensor] = []
    effective, is_bound, closed = 1, False, True
    full = alone
    threshold = problem.unseen_threshold(exact_group=True)
    if 1 - coverage[0][1] > threshold:
        n_shown = n_shown if problem.exact else min(n_shown, 3)
        looked_at = drawn[:n_shown] if elements is None else list(torch.as_tensor(elements))
        found = [problem.look_at(element, alone) for element in looked_at]
        interpolated = max(one.visible_interpolation for one in found) > ROUNDING
        if interpolated:
            most = max(one.share for one in found)
            for one in found:
                one.redundant = one.redundant or one.share <= most / 2
        threshold = problem.unseen_threshold(exact_group=not interpolated)
        enough = math.ceil(1.5 * problem.n / max(rank, 1))
        most = max(8, min(enough, 24)) if problem.exact else max(3, min(enough, 8))
        classes, is_bound = problem.classes(drawn, alone, most)
        closed = not is_bound
        # Where pixels are interpolated, whether two views are the same view is a matter of degree.
        is_bound = is_bound or (interpolated and bool(classes))
        effective = 1 + len(classes)
        if classes:
            count = 1
            while True:
                full = problem.stack(drawn[:count])
                coverage.append((min(count, len(drawn)), full.seen()))
                if 1 - coverage[-1][1] <= threshold or count >= len(drawn):
                    break
                count *= 2
    unseen_share = 1 - coverage[-1][1]
    if len(coverage) == 1 and not found:
        verdict = NOTHING
    elif not classes:
        verdict = f"{CANNOT}: no element of the group makes A see more than it does alone"
    elif closed and rank * effective < problem.n * (1 - threshold):
        verdict = f"{CANNOT}: what the stack sees beyond rank(A) * |G_eff| is made by interpolation"
    elif unseen_share > threshold:
        verdict = f"{CANNOT}, not all of it: {unseen_share:.2%} of image space stays unseen by {len(drawn)} elements"
    else:
        ratio = rank * effective / problem.n
        needs_all = not is_bound and problem.needs_every_class(classes, threshold)
        figures = f"rank(A) * |G_eff| / n {'>' if is_bound else ''}= {ratio:.3g}"
        if not is_bound and (needs_all or ratio <= 1 + 1e-6):
            verdict = f"{HOLDS} without margin: {figures}, and every one of the {effective} views is needed"
        else:
            margin = f"{'>= ' if is_bound else ''}{ratio - 1:.2g}" if ratio >= 1 else "not counted to its end"
            verdict = f"{HOLDS}, margin {margin}: {figures}"
        verdict += " (not a guarantee)"
    pixels, frequencies = alone.unseen()
    pixels_left, frequencies_left = (pixels, frequencies) if full is alone else full.unseen()
    return Diagnosis(
        verdict, problem.n, rank, tol, coverage, found, effective, is_bound, problem.alpha(),
        {"unseen by A alone: pixels": pixels, "unseen by A alone: frequencies": frequencies,
         "unseen by the stack: pixels": pixels_left, "unseen by the stack: frequencies": frequencies_left},
        problem.exact,
    )  # fmt: skip


def _is_information(visible: float, by_interpolation: float) -> bool:
    if by_interpolation <= ROUNDING:
        return visible > ROUNDING
    return visible > 2 * by_interpolation + INTERPOLATION_MARGIN


class _Problem:
    """An operator and a group on images of one shape; what is common to the questions asked about them."""

    def __init__(
        self,
        physics: Any,
        transform: Any,
        shape: tuple[int, ...],
        device: torch.device,
        rng: torch.Generator,
        tol: float,
    ) -> None:
        self.physics, self.transform, self.shape, self.device = physics, transform, shape, device
        self.rng, self.tol = rng, tol
        self.size = math.prod(shape)
        self.support = torch.ones(self.size, dtype=torch.float64, device=device)
        self.n = self.size
        self.exact = self.size <= EXACT
        self.top: float | None = None
        self.hidden: Tensor | None = None

    def white(self, count: int) -> Tensor:
        """Random images as columns ``[size, count]``, zero outside the support."""
        drawn = torch.randn(self.size, count, generator=self.rng, dtype=torch.float64).to(self.device)
        return drawn * self.support[:, None]

    def natural(self, count: int) -> Tensor:
        """Random images whose spectrum falls as 1/f, as that of natural images does."""
        frequency = torch.hypot(
            *torch.meshgrid(*(torch.fft.fftfreq(side, device=self.device) for side in self.shape[-2:]), indexing="ij")
        )
        frequency.view(-1)[0] = 1 / max(self.shape[-2:])
        images = self.white(count).T.reshape(count, *self.shape)
        coloured = torch.fft.ifft2(torch.fft.fft2(images) / frequency).real
        return coloured.reshape(count, -1).T * self.support[:, None]

    def images(self, columns: Tensor) -> Tensor:
        return columns.T.reshape(-1, *self.shape).float()

    def columns(self, images: Tensor) -> Tensor:
        return images.reshape(-1, self.size).T.double()

    def check_linear(self) -> None:
        a, b = self.images(self.white(1)), self.images(self.white(1))
        with torch.no_grad():
            together, apart = self.physics.A(a - 2 * b), self.physics.A(a) - 2 * self.physics.A(b)
        if not isinstance(together, Tensor) or not bool((together - apart).norm() <= 1e-3 * apart.norm() + 1e-12):
            raise InputError("diagnose needs a linear A: A(a - 2 b) is not A(a) - 2 A(b)")

    def draw_elements(self, count: int) -> list[Tensor]:
        """Distinct group elements in random order; fewer than ``count`` where the group has no more."""
        found: list[Tensor] = []
        probe = torch.empty(1, *self.shape)
        fruitless = 0
        while len(found) < count and fruitless < 20:
            before = len(found)
            for element in self.transform.sample(probe, self.rng):
                if len(found) < count and not any(torch.equal(element, other) for other in found):
                    found.append(element)
            fruitless = fruitless + 1 if len(found) == before else 0
        return found

    def transformed(self, images: Tensor, elements: Sequence[Tensor]) -> Tensor:
        return self.transform.apply(images, torch.stack(list(elements)))

    def transformed_back(self, images: Tensor, element: Tensor) -> Tensor:
        """``T_g^T``, which undoes ``T_g`` up to its interpolation: image transforms are nearly orthogonal."""
        return transposed(lambda x: self.transformed(x, [element]), images, images.shape)

    def there_and_back(self, images: Tensor, element: Tensor) -> Tensor:
        """``T_g^-1 T_g``; the inverse of an element of an orthogonal group is its transpose."""
        there = self.transformed(images, [element])
        inverse = getattr(self.transform, "inverse", None)
        if inverse is not None:
            return self.transformed(there, [inverse(element)])
        return self.transformed_back(there, element)

    def restrict_to_support(self, elements: Sequence[Tensor]) -> None:
        """Leave out the pixels that some transform loses: corners, under rotations that fill with zeros."""
        ones = torch.ones(1, *self.shape, device=self.device)
        kept = torch.ones(self.size, dtype=torch.bool, device=self.device)
        with torch.no_grad():
            for element in elements:
                kept &= (self.there_and_back(ones, element) > 0.5).flatten()
        if not bool(kept.any()):
            raise InputError("the transforms lose every pixel of the image: nothing can be said about them")
        self.support, self.n = kept.double(), int(kept.sum())
        self.exact = self.n <= EXACT

    def unseen_threshold(self, exact_group: bool) -> float:
        """Which unseen share of image space counts as none."""
        return (0.5 / self.n if self.exact else 0.05 / self.n) if exact_group else INTERPOLATION_LOSS

    def stack(self, elements: Sequence[Tensor], identity: bool = True) -> _Stack:
        stack = _Stack(self, elements, identity)
        if self.top is None:  # that of A, which is asked first
            self.top = stack.largest()
        return stack

    def through(self, function: Callable[[Tensor], Tensor]) -> _Stack:
        """The stack whose only view is A after another map of images."""
        return _Stack(self, [], True, function)

    def look_at(self, element: Tensor, alone: _Stack) -> Element:
        count = 64 if self.exact else 2

        def turned(x: Tensor) -> Tensor:
            return self.transformed(x, [element])

        def returned(x: Tensor) -> Tensor:
            return self.there_and_back(x, element)

        white_and_natural = torch.cat([self.white(count), self.natural(count)], dim=1)
        rows = [*self.through(turned).project(white_and_natural).split(count, dim=1)]
        rows.append(self.through(returned).project(self.white(count)))
        inside = alone.project(torch.cat(rows, dim=1)).split(count, dim=1)
        white, natural, interpolated = (
            _energy(row - part) / max(_energy(row), 1e-300) for row, part in zip(rows, inside, strict=True)
        )
        visible, by_interpolation = self.visible(alone, [turned, returned])
        return Element(element, white, natural, interpolated, visible, by_interpolation)

    def visible(self, alone: _Stack, maps: Sequence[Callable[[Tensor], Tensor]]) -> list[float]:
        """The share of the energy of null-space images that A sees after each of the maps."""
        if self.hidden is None:
            x = self.white(64 if self.exact else 2)
            self.hidden = x - alone.project(x)
        hidden, energy = self.hidden, max(_energy(self.hidden), 1e-300)
        with torch.no_grad():
            after = [self.columns(function(self.images(hidden))) for function in maps]
        seen = alone.project(torch.cat(after, dim=1)).split(hidden.shape[1], dim=1)
        return [_energy(part) / energy for part in seen]

    def classes(self, elements: Sequence[Tensor], alone: _Stack, most: int) -> tuple[list[Tensor], bool]:
        """Elements of which each brings something that A and the others do not, ``most`` at most; and whether there
        may be more. ``A T_g`` sees what ``A T_h`` sees exactly if ``A T_g T_h^-1`` sees what A does."""
        found: list[Tensor] = []
        for element in elements:
            if all(self.brings(alone, element, other) for other in [None, *found]):
                found.append(element)
            if len(found) == most:
                return found, len(elements) > most
        return found, False

    def brings(self, alone: _Stack, element: Tensor, other: Tensor | None) -> bool:
        """Whether ``A T_g`` sees something that ``A T_h`` (A, if there is no ``other``) does not."""

        def against(x: Tensor) -> Tensor:
            return self.transformed(x if other is None else self.transformed_back(x, other), [element])

        return _is_information(*self.visible(alone, [against, lambda x: self.there_and_back(x, element)]))

    def needs_every_class(self, classes: Sequence[Tensor], threshold: float) -> bool:
        """Whether leaving out any one of the classes (or the identity) leaves something unseen."""
        others = [list(classes[:k]) + list(classes[k + 1 :]) for k in range(len(classes))]
        subsets = [self.stack(rest) for rest in others] + [self.stack(classes, identity=False)]
        return all(1 - subset.seen() > threshold for subset in subsets)

    def alpha(self) -> tuple[float, float]:
        ratios = []
        for e in (self.white(4), self.natural(4)):
            images = self.images(e)
            with torch.no_grad():
                ratios.append(float(self.physics.A(images).abs().square().mean() / images.square().mean()))
        return ratios[0], ratios[1]


class _Stack:
    """The operator ``M = sum_g T_g^T A^T A T_g`` restricted to the support: what a stack of views ``A T_g`` sees are
    the eigenvectors of M whose eigenvalues exceed (tol * largest singular value of A)^2."""

    def __init__(
        self,
        problem: _Problem,
        elements: Sequence[Tensor],
        identity: bool,
        function: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.problem, self.elements, self.identity = problem, list(elements), identity
        self.function = function or (lambda x: x)
        self._decomposed: tuple[Tensor, Tensor] | None = None
        self._quadratures: list[tuple[Tensor, Tensor]] = []

    def apply(self, columns: Tensor) -> Tensor:
        """``M`` times columns ``[size, count]``."""
        problem = self.problem
        result = torch.zeros_like(columns)
        views: list[list[Tensor]] = [[]] if self.identity else []
        # A few elements at a time bound the memory.
        views += [self.elements[k : k + 8] for k in range(0, len(self.elements), 8)]
        for elements in views:
            with torch.enable_grad():
                x = problem.images(columns).requires_grad_()
                y = problem.physics.A(problem.transformed(x, elements) if elements else self.function(x))
                if not y.requires_grad:
                    raise InputError("diagnose needs an A of differentiable torch operations")
                (gradient,) = torch.autograd.grad(y, x, y.detach())
            result += problem.columns(gradient)
        return result * problem.support[:, None]

    def largest(self) -> float:
        """The largest eigenvalue."""
        return float(max(theta.max() for theta, _ in self._spectrum()))

    def threshold(self) -> float:
        assert self.problem.top is not None
        return self.problem.tol**2 * self.problem.top

    def seen(self) -> float:
        """The share of image space (inside the support) that is seen."""
        return statistics.fmean(
            float(weight[theta > self.threshold()].sum() / weight.sum()) for theta, weight in self._spectrum()
        )

    def project(self, columns: Tensor) -> Tensor:
        """The part of images (columns) that is seen."""
        columns = columns * self.problem.support[:, None]
        if self.problem.exact:
            values, vectors = self._decompose()
            seen = vectors[:, values > self.threshold()]
            return seen @ (seen.T @ columns)
        return self._lanczos(columns)[1]

    def unseen(self) -> tuple[Tensor, Tensor]:
        """The mean power of the unseen part of white images, by pixel and by frequency."""
        white = self.problem.white(256 if self.problem.exact else 8)
        left = (white - self.project(white)).T.reshape(-1, *self.problem.shape)
        spectrum = torch.fft.fftshift(torch.fft.fft2(left, norm="ortho").abs().square().mean((0, 1)), dim=(-2, -1))
        return left.square().mean((0, 1)).cpu(), spectrum.cpu()

    def _spectrum(self) -> list[tuple[Tensor, Tensor]]:
        """Eigenvalues and their weights: all, or a quadrature for each of two random probes."""
        if self.problem.exact:
            values, _ = self._decompose()
            return [(values, torch.ones_like(values))]
        self._quadratures = self._quadratures or self._lanczos(self.problem.white(2))[0]
        return self._quadratures

    def _decompose(self) -> tuple[Tensor, Tensor]:
        if self._decomposed is None:
            support = self.problem.support.nonzero().flatten()
            matrix = torch.zeros(self.problem.n, self.problem.n, dtype=torch.float64, device=self.problem.device)
            for start in range(0, self.problem.n, 256):
                block = torch.zeros(self.problem.size, min(256, self.problem.n - start), dtype=torch.float64)
                block[support[start : start + 256], torch.arange(block.shape[1])] = 1
                matrix[:, start : start + 256] = self.apply(block.to(self.problem.device))[support]
            values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
            whole = torch.zeros(self.problem.size, self.problem.n, dtype=torch.float64, device=self.problem.device)
            whole[support] = vectors
            self._decomposed = values, whole
        return self._decomposed

    def _lanczos(self, columns: Tensor) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """Lanczos' method from each column, with full reorthogonalisation: its quadrature (nodes, weights), and the
        column projected on what is seen."""
        steps, norms = min(LANCZOS_STEPS, self.problem.n), columns.norm(dim=0)
        basis = columns.new_empty(steps, *columns.shape)
        diagonal, beside = columns.new_zeros(2, steps, columns.shape[1])
        basis[0] = columns / norms.clamp(min=1e-300)
        running, scale = norms > 0, self.problem.top or 0.0
        for step in range(steps):
            rest = self.apply(basis[step])
            diagonal[step] = (basis[step] * rest).sum(0)
            for _ in range(2):  # twice is enough (Kahan and Parlett)
                known = torch.einsum("ksc,sc->kc", basis[: step + 1], rest)
                rest -= torch.einsum("ksc,kc->sc", basis[: step + 1], known)
            length = rest.norm(dim=0)
            scale = max(scale, float(diagonal[step].max()))
            running = running & (length > 1e-6 * scale)  # float32 has been left behind: nothing new is there
            if step + 1 == steps or not bool(running.any()):
                break
            beside[step] = torch.where(running, length, 0)
            basis[step + 1] = torch.where(running, rest / length.clamp(min=1e-300), 0)
        quadratures, projected = [], torch.zeros_like(columns)
        threshold = self.threshold() if self.problem.top is not None else 0.0
        for k in range(columns.shape[1]):
            ends = (beside[:, k] == 0).nonzero()
            size = int(ends[0]) + 1
            off = torch.diag(beside[: size - 1, k], 1)
            theta, vectors = torch.linalg.eigh(torch.diag(diagonal[:size, k]) + off + off.T)
            quadratures.append((theta, vectors[0].square()))
            coefficients = vectors @ ((theta > threshold) * vectors[0]) * norms[k]
            projected[:, k] = torch.einsum("k,ks->s", coefficients, basis[:size, :, k])
        return quadratures, projected


def _energy(columns: Tensor) -> float:
    return float(columns.square().sum())


def main() -> None:
    parser = Parser(prog="python -m ei.diagnose", description=__doc__)
    add = parser.add_argument
    add("--config", type=named, metavar="FILE.yaml", help="a configuration of demo_train.py (needed)")
    add("--data", metavar="PATH", help="instead of the configuration's; only the size of the images matters")
    add("--size", type=number(int, least=4), metavar="N", help="instead of any data: images of N x N")
    add(
        "--tol", type=number(above=0, below=1), help="singular values below TOL of the largest are null (default: 1e-2)"
    )
    add("--max-elements", type=number(int, least=1), metavar="N", help="group elements stacked at most (default: 64)")
    add("--out", metavar="FILE.png", help="the figure (default: diagnosis.png)")
    add_device_options(parser)
    given = vars(parser.parse(sys.argv[1:]))
    if "config" not in given:
        raise InputError("--config is needed: a YAML file of demo_train.py, as configs/ct_ei.yaml")
    options = {**COMMON_DEFAULTS, **read_yaml(given["config"])}
    if options.get("task") not in TASKS:
        raise InputError(f"{given['config']}: task must be one of {', '.join(TASKS)}")
    task = TASKS[options["task"]]
    options = {**task.defaults, **options, **({"data": given["data"]} if "data" in given else {})}
    if "size" in given:
        shape = (3 if options["task"] == "inpainting" else 1, given["size"], given["size"])
    else:
        shape = image_shape(images_for(options["task"], options["data"], "train", options))
    device = choose_device(given.get("device", "cpu" if "gpu" not in given else None), given.get("gpu"))
    found = diagnose(
        task.physics(options, shape, device),
        task.transform(options["ei_trans"]),
        shape,
        tol=given.get("tol", 1e-2),
        max_elements=given.get("max_elements", 64),
        device=device,
    )
    print(found)
    out = given.get("out", "diagnosis.png")
    found.draw(out)
    print(f"\nfigure: {out}")


if __name__ == "__main__":
    run_script("python -m ei.diagnose", main)
