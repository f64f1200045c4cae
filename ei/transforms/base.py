"""What every group of transforms shares: how many elements to draw, and the order of the result.

A new group is a subclass with two methods: `draw` draws elements, `act` applies one of them:

    class Transpose(Transform):
        def draw(self, x, generator=None):
            return torch.ones(1)                 # one element besides the identity

        def act(self, x, element):
            return x.transpose(-1, -2)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from ei.common.checks import check_flag, check_number, check_tensor
from ei.common.complex import to_channels, to_complex
from ei.errors import InputError


def part_by_part(act: Callable[[Any, Tensor, Tensor], Tensor]) -> Callable[[Any, Tensor, Tensor], Tensor]:
    """Apply an ``act`` of real images to complex ones: to their real and imaginary part."""

    @functools.wraps(act)
    def both(self: Any, x: Tensor, element: Tensor) -> Tensor:
        return to_complex(act(self, to_channels(x), element)) if x.is_complex() else act(self, x, element)

    return both


class Transform:
    """A group acting on images.

    Args:
        n_trans: the number of group elements drawn at a time.
        per_image: draw elements for every image of a batch independently, instead of the same ones for all.

    Class attributes:
        element_shape: the shape of the tensor that names ONE group element; () for a number.
        dimensions: how many axes the images may have, batch and channels included.
        most: the largest ``n_trans``; None where it depends on the images.

    >>> class Transpose(Transform):
    ...     def every(self, x):
    ...         return torch.ones(1)
    ...     def act(self, x, element):
    ...         return x.mT
    >>> Transpose(n_trans=1).apply(torch.rand(2, 1, 8, 4)).shape
    torch.Size([2, 1, 4, 8])
    """

    element_shape: tuple[int, ...] = ()
    dimensions: ClassVar[tuple[int, ...]] = (4,)
    most: ClassVar[int | None] = None

    def __init__(self, n_trans: int, per_image: bool = False) -> None:
        self.n_trans = check_number("n_trans", n_trans, integer=True, least=1, most=self.most)
        self.per_image = check_flag("per_image", per_image)

    def draw(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw ``[n_trans, *element_shape]``: distinct group elements for images of the shape of ``x``."""
        elements = self.every(x)
        if elements is None:
            raise NotImplementedError(f"{type(self).__name__} needs the method draw or every")
        self.check_count(len(elements), f"elements of {type(self).__name__} besides the identity")
        return draw_distinct(elements, self.n_trans, generator)

    def act(self, x: Tensor, element: Tensor) -> Tensor:
        """The images ``x`` ``[B, C, H, W]``, real or complex, under ONE group element; same shape and dtype."""
        raise NotImplementedError

    def every(self, x: Tensor) -> Tensor | None:
        """All elements that `draw` gives for images of the shape of ``x``, ``[count, *element_shape]``, once each; None
        where they are not listed."""
        return None

    def generators(self, x: Tensor) -> Tensor | None:
        """A few elements whose products are all that `draw` gives (zeros name the identity); None where unknown."""
        return None

    def undo(self, x: Tensor, element: Tensor) -> Tensor:
        """The images ``x`` under the inverse of ONE group element; same shape and dtype.

        Raises:
            InputError: of a transform without a method ``inverse(element)``.
        """
        inverse = getattr(self, "inverse", None)
        if not callable(inverse):
            raise InputError(
                f"{type(self).__name__} has no inverse: give it a method inverse(element), which returns the element "
                "that undoes it, or choose rotations, shifts or reflections"
            )
        return self.act(x, inverse(element))

    def degrees(self, element: Tensor) -> float | None:
        """The counter-clockwise rotation about the centre that an element is, in degrees; None if it is none."""
        return None

    def check_count(self, most: int, what: str) -> None:
        """Raise if ``n_trans`` distinct elements cannot be drawn from ``most``."""
        if self.n_trans > most:
            raise InputError(f"n_trans must be at most {most}, the number of {what}, got {self.n_trans}")

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw elements ``[n_trans, *element_shape]`` for images of the shape of ``x``, with ``per_image``
        ``[n_trans, B, *element_shape]``, from ``generator`` or torch's global CPU generator."""
        if not self.per_image:
            return self.draw(x, generator)
        return torch.stack([self.draw(x[:1], generator) for _ in range(len(x))], dim=1)

    def apply(self, x: Tensor, elements: Tensor | Iterable | None = None) -> Tensor:
        """Images under several group elements.

        Args:
            x: ``[B, C, H, W]``.
            elements: as from `sample`, which is called when it is None: ``[n, *element_shape]``, or
                ``[n, B, *element_shape]`` with elements for every image; n need not be ``n_trans``.

        Returns:
            ``[n*B, C, H, W]``, transform-major: all of ``x`` under the first element, then under the second, and so on.
        """
        check_tensor(x, "images for a transform")
        if x.dim() not in self.dimensions:
            raise InputError(f"images for a transform must have shape [B, C, H, W], got {list(x.shape)}")
        elements = self.sample(x) if elements is None else torch.as_tensor(elements)
        if elements.dim() == 0 or len(elements) == 0:
            raise InputError("elements must hold at least one group element along its first axis")
        if elements.shape[1:] == self.element_shape:
            return torch.cat([self.act(x, element) for element in elements])
        if elements.shape[1:] != (len(x), *self.element_shape):
            element = "".join(f", {side}" for side in self.element_shape)
            raise InputError(
                f"elements of {type(self).__name__} must have shape [n{element}], or [n, {len(x)}{element}] with "
                f"elements for every image, got {list(elements.shape)}"
            )
        return torch.cat([self.act(x[b : b + 1], one) for element in elements for b, one in enumerate(element)])

    def __call__(self, x: Tensor, elements: Tensor | Iterable | None = None) -> Tensor:
        return self.apply(x, elements)


class CyclicGroup(Transform):
    """A group whose elements are 0, ..., n-1, added modulo n; a subclass has `order`, which is n, and ``act``."""

    def order(self, x: Tensor) -> int:
        """n for images of the shape of ``x``."""
        raise NotImplementedError

    def every(self, x: Tensor) -> Tensor:
        return torch.arange(1, self.order(x))

    def generators(self, x: Tensor) -> Tensor | None:
        return torch.ones(1, dtype=torch.long)

    def inverse(self, element: Tensor) -> Tensor:
        return -element


def draw_distinct(candidates: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
    """``n`` of the ``candidates``, without replacement, in random order."""
    device = None if generator is None else generator.device
    return candidates[torch.randperm(len(candidates), generator=generator, device=device)[:n].cpu()]
