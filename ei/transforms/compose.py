"""Several groups, one after the other."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ei.errors import InputError
from ei.transforms.base import Transform

MOST_LISTED = 20_000  # elements; those of a larger product are not listed


class Compose(Transform):
    """The transforms of several groups, applied from left to right: ``Compose(Shift(3), Rotate(3))`` shifts, then
    rotates. A group element is a vector, the concatenated elements of its parts.

    Args:
        transforms: two or more with the same ``n_trans``.
        per_image: see `Transform`; that of the parts is ignored.

    >>> group = Compose(Shift(2), Rotate90(2))
    >>> group.apply(torch.rand(3, 1, 8, 8)).shape
    torch.Size([6, 1, 8, 8])
    """

    def __init__(self, *transforms: Transform, per_image: bool = False) -> None:
        for transform in transforms:
            if not isinstance(transform, Transform):
                raise InputError(f"Compose needs objects as Shift(3), got {transform!r}")
        numbers = sorted({transform.n_trans for transform in transforms})
        if len(transforms) < 2 or len(numbers) != 1:
            raise InputError(
                f"Compose needs two or more transforms of the same n_trans, got {len(transforms)} of n_trans {numbers}"
            )
        super().__init__(numbers[0], per_image)
        self.transforms = transforms
        self._sizes = [int(torch.Size(transform.element_shape).numel()) for transform in transforms]
        self.element_shape = (sum(self._sizes),)

    def draw(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        drawn = [transform.draw(x, generator) for transform in self.transforms]
        return torch.cat([elements.reshape(self.n_trans, -1).double() for elements in drawn], dim=1)

    def every(self, x: Tensor) -> Tensor | None:
        rows = self._rows([transform.every(x) for transform in self.transforms])
        if rows is None or math.prod(map(len, rows)) > MOST_LISTED:
            return None
        picks = torch.cartesian_prod(*(torch.arange(len(part)) for part in rows))
        return torch.cat([part[picks[:, k]] for k, part in enumerate(rows)], dim=1)

    def generators(self, x: Tensor) -> Tensor | None:
        rows = self._rows([transform.generators(x) for transform in self.transforms])
        return None if rows is None else torch.block_diag(*rows)

    def _rows(self, parts: list[Tensor | None]) -> list[Tensor] | None:
        """The elements of every part as rows; None where those of one are unknown."""
        rows = [part.reshape(len(part), -1).double() for part in parts if part is not None]
        return rows if len(rows) == len(parts) else None

    def act(self, x: Tensor, element: Tensor) -> Tensor:
        for transform, part in self._parts(element):
            x = transform.act(x, part)
        return x

    def undo(self, x: Tensor, element: Tensor) -> Tensor:
        for transform, part in reversed(self._parts(element)):
            x = transform.undo(x, part)
        return x

    def _parts(self, element: Tensor) -> list[tuple[Transform, Tensor]]:
        """Each transform with its element, in the order in which they act."""
        parts = zip(self.transforms, element.split(self._sizes), strict=True)
        return [(transform, part.reshape(transform.element_shape)) for transform, part in parts]
