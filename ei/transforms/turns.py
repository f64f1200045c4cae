"""Groups that move pixels without interpolating: quarter turns and reflections."""

from __future__ import annotations

import torch
from torch import Tensor

from ei.errors import InputError
from ei.transforms.base import Transform, draw_distinct


class Rotate90(Transform):
    """Rotations of square images by quarter turns, counter-clockwise. A group element is the number of turns; `draw`
    draws ``[n_trans]`` distinct ones from 1, 2, 3.

    Raises:
        InputError: if ``n_trans`` is not 1, 2 or 3, or (when called) the images are not square.
    """

    def __init__(self, n_trans: int, per_image: bool = False) -> None:
        super().__init__(n_trans, per_image)
        _at_most_three(n_trans, "quarter turns")

    def draw(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return draw_distinct(torch.arange(1, 4), self.n_trans, generator)

    def every(self, x: Tensor) -> Tensor | None:
        return torch.arange(1, 4)

    def generators(self, x: Tensor) -> Tensor | None:
        return torch.ones(1, dtype=torch.long)

    def inverse(self, element: Tensor) -> Tensor:
        return -element

    def act(self, x: Tensor, element: Tensor) -> Tensor:
        if x.shape[-1] != x.shape[-2] and int(element) % 2:
            raise InputError(f"quarter turns need square images, not {x.shape[-2]} x {x.shape[-1]}")
        return torch.rot90(x, int(element), dims=(-2, -1))


class Reflect(Transform):
    """Reflections up-down and left-right. A group element is ``(up-down, left-right)``, each 0 or 1; `draw` draws
    ``[n_trans, 2]`` distinct ones, never (0, 0).

    Raises:
        InputError: if ``n_trans`` is not 1, 2 or 3.
    """

    element_shape = (2,)

    def __init__(self, n_trans: int, per_image: bool = False) -> None:
        super().__init__(n_trans, per_image)
        _at_most_three(n_trans, "reflections")

    def draw(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return draw_distinct(torch.tensor([[0, 1], [1, 0], [1, 1]]), self.n_trans, generator)

    def every(self, x: Tensor) -> Tensor | None:
        return torch.tensor([[0, 1], [1, 0], [1, 1]])

    def generators(self, x: Tensor) -> Tensor | None:
        return torch.eye(2, dtype=torch.long)

    def inverse(self, element: Tensor) -> Tensor:
        return element

    def act(self, x: Tensor, element: Tensor) -> Tensor:
        axes = [axis for axis, reflected in zip((-2, -1), element, strict=True) if int(reflected) % 2]
        return torch.flip(x, axes) if axes else x.clone()


def _at_most_three(n_trans: int, what: str) -> None:
    if n_trans > 3:
        raise InputError(
            f"there are only three {what} besides the identity: n_trans (--ei-trans) may be at most 3, not {n_trans}"
        )
