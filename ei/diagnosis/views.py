"""What views ``A T_g`` of an operator see, as linear algebra: exact matrices for small images, random probes and
Lanczos' method for larger ones. The ground that `ei.diagnosis.diagnose` stands on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ei.diagnosis.stack import Stack, energy_of
from ei.errors import InputError
from ei.physics.krylov import transposed

# Up to so many pixels the matrices are formed, and the answers are exact; above, random probes and Lanczos' method.
EXACT = 1600
# How many times the share that an isotropic filter shows, to which rotations bring nothing, the views must show for
# that to be information, and up to how many times there is none (see `ei.diagnosis.interpolation`).
GAIN, NO_GAIN = 1.25, 1.1
# A group that moves pixels without interpolating is exact to rounding.
ROUNDING = 1e-5
# What may stay unseen under interpolated transforms, which blur the finest details wherever they turn them.
INTERPOLATION_LOSS = 0.01
# Larger groups are not looked at element by element where the answers are estimates.
ENUMERATED = 1024

Map = Callable[[Tensor], Tensor]


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
        informative: whether that is more than an isotropic filter shows, to which rotations bring nothing.
        gain: how many times as much it is; None where nothing is interpolated. Rotations are judged by the most
            accurate ones there are, not by those that the other figures are of.
        redundant: not informative, or, where pixels are interpolated, with at most half the largest share of those
            looked at: nearly a permutation of the measurements.
    """

    element: Tensor
    share: float
    share_natural: float
    share_interpolation: float
    visible: float
    visible_interpolation: float
    informative: bool
    gain: float | None = None
    redundant: bool = field(init=False)

    def __post_init__(self) -> None:
        self.redundant = not self.informative


def is_information(visible: float, isotropic: float) -> bool:
    """Whether a visible share is more than that of an isotropic filter (see `ei.diagnosis.interpolation`)."""
    return visible > GAIN * isotropic + ROUNDING


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
        self.judged = transform  # or the same group, with less interpolation
        self.rng, self.tol = rng, tol
        self.size = math.prod(shape)
        self.support = torch.ones(self.size, dtype=torch.float64, device=device)
        self.n = self.size
        self.exact = self.size <= EXACT
        self.top: float | None = None
        self.probes: Tensor | None = None
        self.hidden: Tensor | None = None
        self.every: list[Tensor] | None = None
        self.listed = True  # by the group; or `every` is what came in its draws
        self.interpolates = False
        # Where pixels are interpolated: what maps make visible of the null space of an isotropic filter.
        self.by_isotropic: Callable[[Sequence[Map]], float] = lambda maps: 0.0

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
        """Distinct group elements in random order; fewer than ``count`` where the group has no more. `every` is then
        all elements, if they are known."""
        probe = torch.empty(1, *self.shape)
        found: list[Tensor] = list(self.transform.sample(probe, self.rng)[:count])
        listed = known(self.transform, "every")(probe)
        if listed is not None:
            self.every = [listed[k] for k in torch.randperm(len(listed), generator=self.rng)]
            return self.every[:count]
        fruitless = 0
        # So many draws without a new element leave one that is as likely as the others to chance 1e-9.
        while len(found) < count and fruitless < 20 * (len(found) + 1):
            before = len(found)
            for element in self.transform.sample(probe, self.rng):
                if len(found) < count and not any(torch.equal(element, other) for other in found):
                    found.append(element)
            fruitless = fruitless + 1 if len(found) == before else 0
        if len(found) < count:
            self.every, self.listed = found, False
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

        white = self.white(2)
        with torch.no_grad():
            moved = [self.columns(self.there_and_back(self.images(white), element)) for element in elements[:8]]
        change = max(energy_of((there - white) * self.support[:, None]) for there in moved)
        self.interpolates = change > ROUNDING * energy_of(white)

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
        if not self.interpolates:
            return Element(element, white, natural, interpolated, visible, by_interpolation, visible > ROUNDING)
        (judged,) = self.visible_after(alone, [element])
        isotropic = self.by_isotropic([lambda x: self.judged.apply(x, element[None])])
        informative, gain = is_information(judged, isotropic), judged / max(isotropic, 1e-12)
        return Element(element, white, natural, interpolated, visible, by_interpolation, informative, gain)

    def hidden_from(self, alone: Stack) -> Tensor:
        """Some random images (columns) that A does not see."""
        if self.hidden is None:
            # The same probes for A and for what it is compared with.
            self.probes = self.white(64 if self.exact else 2) if self.probes is None else self.probes
            self.hidden = self.probes - alone.project(self.probes)
        return self.hidden

    def visible(self, alone: Stack, maps: Sequence[Map], probes: int = 64) -> list[float]:
        """The share of the energy of null-space images, ``probes`` at most, that A sees after each of the maps."""
        hidden = self.hidden_from(alone)[:, :probes]
        energy = max(energy_of(hidden), 1e-300)
        with torch.no_grad():
            after = [self.columns(function(self.images(hidden))) for function in maps]
        seen = alone.project(torch.cat(after, dim=1)).split(hidden.shape[1], dim=1)
        return [energy_of(part) / energy for part in seen]

    def visible_after(self, alone: Stack, elements: Sequence[Tensor], probes: int = 64) -> list[float]:
        """`visible` for each of some elements, as they are judged."""
        maps = [lambda x, element=element: self.judged.apply(x, element[None]) for element in elements]
        return [share for k in range(0, len(maps), 8) for share in self.visible(alone, maps[k : k + 8], probes)]

    def showing(self, alone: Stack, elements: Sequence[Tensor], images: Tensor) -> list[Tensor]:
        """Those of some elements, the most telling first, that make A see some of these images (columns), which it
        does not see untransformed. Only for groups that do not interpolate; one application of A for each."""
        if not self.exact and self.top is None:
            self.stack([])
        energy, found = max(energy_of(images), 1e-300), []
        for k in range(0, len(elements), 16):
            with torch.no_grad():
                after = self.transformed(self.images(images), elements[k : k + 16])
                if self.exact:
                    seen = alone.project(self.columns(after)).square().sum(0)
                else:
                    seen = self.physics.A(after).abs().double().square().flatten(1).sum(1) / self.top
            shares = seen.reshape(-1, images.shape[1]).sum(1) / energy
            found += [(float(share), k + place) for place, share in enumerate(shares)]
        limit = ROUNDING if self.exact else self.tol**2
        return [elements[place] for share, place in sorted(found, reverse=True) if share > limit]

    def keeps_hidden(self, stack: Stack) -> bool:
        """Whether what the stack does not see stays unseen under the whole group, because it does under the elements
        that generate it. Only for groups that do not interpolate."""
        generators = known(self.transform, "generators")(torch.empty(1, *self.shape))
        if generators is None:
            return False
        x = self.white(4)
        x = x - stack.project(x)
        with torch.no_grad():
            moved = torch.cat([self.columns(self.transformed(self.images(x), [one])) for one in generators], dim=1)
        return energy_of(stack.project(moved)) <= (ROUNDING if self.exact else 1e-3) * energy_of(moved)

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
            if other is not None:
                x = transposed(lambda image: self.judged.apply(image, other[None]), x, x.shape)
            return self.judged.apply(x, element[None])

        return is_information(self.visible(alone, [against])[0], self.by_isotropic([against]))

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


def known(transform: Any, method: str) -> Callable[[Tensor], Tensor | None]:
    """A group's own list of its elements or generators, or one that says that there is none; a list that a group has
    inherited counts only if it draws and acts as the group that it has it from, or at least draws alike."""
    family = type(transform).__mro__

    def maker(name: str) -> int:
        return next((place for place, one in enumerate(family) if name in vars(one)), len(family))

    mattering = ("sample", "draw") if method == "every" else ("act", "apply")
    if maker(method) < len(family) and maker(method) <= min(maker(name) for name in mattering):
        return getattr(transform, method)
    return lambda x: None
