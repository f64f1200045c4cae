"""An operator and a group on images of one shape: random images, group elements, the pixels that the group keeps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ei.errors import InputError
from ei.physics.krylov import transposed
from ei.transforms import Compose, FourierRotate, Rotate

# Up to this many pixels matrices are formed and the answers are exact; above, they are estimates by random probes.
EXACT = 1600
# A group that moves pixels without interpolation is exact to rounding.
ROUNDING = 1e-5

Map = Callable[[Tensor], Tensor]


class Problem:
    """An operator and a group on images of one shape (C, H, W); the arguments are those of `diagnose`.

    Images are columns of matrices ``[size, count]``, float64, where linear algebra needs them; `images` and `columns`
    convert.

    Attributes:
        accurate: the same group with its most accurate rotations.
        support: 1 for each pixel that the transforms keep, 0 for the others, ``[size]``.
        n: the number of pixels that they keep.
        exact: whether matrices are formed.
        all_elements: every element of the group in random order; None where the group does not list them.
        is_listed: False where ``all_elements`` are those that came in many draws.
        interpolates: whether the transforms interpolate pixels.
        modulus: of every frequency ``[H, W]``, in cycles a pixel.
    """

    def __init__(
        self,
        physics: Any,
        transform: Any,
        shape: tuple[int, ...],
        tol: float = 1e-2,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.physics = physics
        self.transform = transform
        self.accurate = with_accurate_rotations(transform)
        self.shape = shape
        self.device = torch.device(device)
        self.rng = torch.Generator().manual_seed(seed)
        self.tol = tol
        self.size = self.n = math.prod(shape)
        self.support = torch.ones(self.size, dtype=torch.float64, device=self.device)
        self.exact = self.size <= EXACT
        self.all_elements: list[Tensor] | None = None
        self.is_listed = True
        self.interpolates = False
        sides = (torch.fft.fftfreq(side, dtype=torch.float64) for side in shape[-2:])
        self.modulus = torch.hypot(*torch.meshgrid(*sides, indexing="ij"))
        self._check_linear()

    def white(self, count: int) -> Tensor:
        """Random images as columns, zero outside the support."""
        drawn = torch.randn(self.size, count, generator=self.rng, dtype=torch.float64).to(self.device)
        return drawn * self.support[:, None]

    def natural(self, count: int) -> Tensor:
        """Random images whose spectrum falls as 1/f, as that of natural images does."""
        images = self.white(count).T.reshape(count, *self.shape)
        frequency = self.modulus.clamp(min=1 / max(self.shape[-2:])).to(self.device)
        coloured = torch.fft.ifft2(torch.fft.fft2(images) / frequency).real
        return coloured.reshape(count, -1).T * self.support[:, None]

    @cached_property
    def probes(self) -> Tensor:
        """White images, the same for A and for the filters that it is compared with."""
        return self.white(64 if self.exact else 2)

    def images(self, columns: Tensor) -> Tensor:
        return columns.T.reshape(-1, *self.shape).float()

    def columns(self, images: Tensor) -> Tensor:
        return images.reshape(-1, self.size).T.double()

    def _check_linear(self) -> None:
        a = self.images(self.white(1))
        b = self.images(self.white(1))
        with torch.no_grad():
            together = self.physics.A(a - 2 * b)
            apart = self.physics.A(a) - 2 * self.physics.A(b)
        if not isinstance(together, Tensor) or not bool((together - apart).norm() <= 1e-3 * apart.norm() + 1e-12):
            raise InputError("diagnose needs a linear A, and A(a - 2 b) differs from A(a) - 2 A(b)")

    def draw_elements(self, count: int) -> list[Tensor]:
        """Distinct group elements in random order, at most ``count``. Sets `all_elements` where they can be listed."""
        image = torch.empty(1, *self.shape)
        drawn: list[Tensor] = list(self.transform.sample(image, self.rng)[:count])
        listed = listed_by(self.transform, "every", image)
        if listed is not None:
            self.all_elements = [listed[k] for k in torch.randperm(len(listed), generator=self.rng)]
            return self.all_elements[:count]
        fruitless = 0
        # An element as probable as the others stays undrawn for this many draws with probability 1e-9.
        while len(drawn) < count and fruitless < 20 * (len(drawn) + 1):
            before = len(drawn)
            for element in self.transform.sample(image, self.rng):
                if len(drawn) < count and not any(torch.equal(element, other) for other in drawn):
                    drawn.append(element)
            fruitless = fruitless + 1 if len(drawn) == before else 0
        if len(drawn) < count:
            self.all_elements = drawn
            self.is_listed = False
        return drawn

    def transformed(self, images: Tensor, elements: Sequence[Tensor]) -> Tensor:
        return self.transform.apply(images, torch.stack(list(elements)))

    def transformed_back(self, images: Tensor, element: Tensor) -> Tensor:
        """``T_g^T``, the inverse of ``T_g`` up to interpolation: image transforms are nearly orthogonal."""
        return transposed(lambda x: self.transformed(x, [element]), images, images.shape)

    def there_and_back(self, images: Tensor, element: Tensor) -> Tensor:
        """``T_g^-1 T_g``."""
        there = self.transformed(images, [element])
        inverse = getattr(self.transform, "inverse", None)
        return self.transformed_back(there, element) if inverse is None else self.transformed(there, [inverse(element)])

    def restrict_to_support(self, elements: Sequence[Tensor]) -> None:
        """Leave out the pixels that a transform loses, as rotations that fill with zeros lose the corners. Raises
        `InputError` if none is left."""
        ones = torch.ones(1, *self.shape, device=self.device)
        kept = torch.ones(self.size, dtype=torch.bool, device=self.device)
        with torch.no_grad():
            for element in elements:
                kept &= (self.there_and_back(ones, element) > 0.5).flatten()
        if not bool(kept.any()):
            raise InputError("the transforms lose every pixel of the image; use a group that keeps some")
        self.support = kept.double()
        self.n = int(kept.sum())
        self.exact = self.n <= EXACT

        white = self.white(2)
        with torch.no_grad():
            moved = [self.columns(self.there_and_back(self.images(white), element)) for element in elements[:8]]
        change = max(energy_of((there - white) * self.support[:, None]) for there in moved)
        self.interpolates = change > ROUNDING * energy_of(white)

    def alpha(self) -> tuple[float, float]:
        """Mean ``(A e)^2`` over mean ``e^2``, for white images and for images with a natural spectrum."""
        white, natural = self.images(self.white(4)), self.images(self.natural(4))
        with torch.no_grad():
            seen = [self.physics.A(images).abs().square().mean() for images in (white, natural)]
        return float(seen[0] / white.square().mean()), float(seen[1] / natural.square().mean())


def energy_of(columns: Tensor) -> float:
    return float(columns.square().sum())


def with_accurate_rotations(transform: Any) -> Any:
    """The same group with rotations by `FourierRotate`, which interpolates several times more accurately than `Rotate`.
    The elements are the same."""
    if type(transform) is Rotate:
        return FourierRotate(transform.n_trans, transform.per_image)
    if type(transform) is Compose:
        parts = [with_accurate_rotations(part) for part in transform.transforms]
        if any(new is not old for new, old in zip(parts, transform.transforms, strict=True)):
            return Compose(*parts, per_image=transform.per_image)
    return transform


def listed_by(transform: Any, method: str, image: Tensor) -> Tensor | None:
    """The elements (method "every") or generators that a group lists for images of this shape; None where it lists
    none, or where it inherits the list from a group that samples (for generators: acts) in another way."""
    family = type(transform).__mro__

    def place_of(name: str) -> int:
        return next((place for place, parent in enumerate(family) if name in vars(parent)), len(family))

    behaviour = ("sample", "draw") if method == "every" else ("act", "apply")
    if place_of(method) < len(family) and place_of(method) <= min(place_of(name) for name in behaviour):
        return getattr(transform, method)(image)
    return None
