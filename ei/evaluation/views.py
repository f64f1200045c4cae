"""What views ``A T_g`` of an operator see, as linear algebra: exact matrices for small images, random probes and
Lanczos' method for larger ones. The ground that `ei.evaluation.diagnosis` stands on.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ei.errors import InputError
from ei.physics.krylov import transposed

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
        self.informative = is_information(self.visible, self.visible_interpolation)
        self.redundant = not self.informative


def is_information(visible: float, by_interpolation: float) -> bool:
    if by_interpolation <= ROUNDING:
        return visible > ROUNDING
    return visible > 2 * by_interpolation + INTERPOLATION_MARGIN


class Problem:
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

    def stack(self, elements: Sequence[Tensor], identity: bool = True) -> Stack:
        stack = Stack(self, elements, identity)
        if self.top is None:  # that of A, which is asked first
            self.top = stack.largest()
        return stack

    def through(self, function: Callable[[Tensor], Tensor]) -> Stack:
        """The stack whose only view is A after another map of images."""
        return Stack(self, [], True, function)

    def look_at(self, element: Tensor, alone: Stack) -> Element:
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
            energy_of(row - part) / max(energy_of(row), 1e-300) for row, part in zip(rows, inside, strict=True)
        )
        visible, by_interpolation = self.visible(alone, [turned, returned])
        return Element(element, white, natural, interpolated, visible, by_interpolation)

    def visible(self, alone: Stack, maps: Sequence[Callable[[Tensor], Tensor]]) -> list[float]:
        """The share of the energy of null-space images that A sees after each of the maps."""
        if self.hidden is None:
            x = self.white(64 if self.exact else 2)
            self.hidden = x - alone.project(x)
        hidden, energy = self.hidden, max(energy_of(self.hidden), 1e-300)
        with torch.no_grad():
            after = [self.columns(function(self.images(hidden))) for function in maps]
        seen = alone.project(torch.cat(after, dim=1)).split(hidden.shape[1], dim=1)
        return [energy_of(part) / energy for part in seen]

    def classes(self, elements: Sequence[Tensor], alone: Stack, most: int) -> tuple[list[Tensor], bool]:
        """Elements of which each brings something that A and the others do not, ``most`` at most; and whether there
        may be more. ``A T_g`` sees what ``A T_h`` sees exactly if ``A T_g T_h^-1`` sees what A does."""
        found: list[Tensor] = []
        for element in elements:
            if all(self.brings(alone, element, other) for other in [None, *found]):
                found.append(element)
            if len(found) == most:
                return found, len(elements) > most
        return found, False

    def brings(self, alone: Stack, element: Tensor, other: Tensor | None) -> bool:
        """Whether ``A T_g`` sees something that ``A T_h`` (A, if there is no ``other``) does not."""

        def against(x: Tensor) -> Tensor:
            return self.transformed(x if other is None else self.transformed_back(x, other), [element])

        return is_information(*self.visible(alone, [against, lambda x: self.there_and_back(x, element)]))

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


class Stack:
    """The operator ``M = sum_g T_g^T A^T A T_g`` restricted to the support: what a stack of views ``A T_g`` sees are
    the eigenvectors of M whose eigenvalues exceed (tol * largest singular value of A)^2."""

    def __init__(
        self,
        problem: Problem,
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


def energy_of(columns: Tensor) -> float:
    return float(columns.square().sum())
