"""Groups that move pixels without interpolating: quarter turns and reflections."""

from __future__ import annotations

import torch
from torch import Tensor

from ei.errors import InputError
from ei.transforms.base import CyclicGroup, Transform


class Rotate90(CyclicGroup):
    """Rotations of square images by quarter turns, counter-clockwise. A group element is the number of turns; `draw`
    draws ``[n_trans]`` distinct ones from 1, 2, 3.

    >>> Rotate90(3).apply(torch.rand(2, 1, 8, 8)).shape
    torch.Size([6, 1, 8, 8])
    """

    most = 3

    def order(self, x: Tensor) -> int:
        return 4

    def degrees(self, element: Tensor) -> float:
        return 90.0 * int(element)

    def act(self, x: Tensor, element: Tensor) -> Tensor:
        if x.shape[-1] != x.shape[-2] and int(element) % 2:
            raise InputError(f"quarter turns need square images, got {x.shape[-2]} x {x.shape[-1]}")
        return torch.rot90(x, int(element), dims=(-2, -1))


class Reflect(Transform):
    """Reflections up-down and left-right. A group element is ``(up-down, left-right)``, each 0 or 1; `draw` draws
    ``[n_trans, 2]`` distinct ones, never (0, 0).

    >>> Reflect(1).apply(torch.tensor([[[[1, 2]]]]), elements=[[0, 1]])
    tensor([[[[2, 1]]]])
    """

    element_shape = (2,)
    most = 3

    def every(self, x: Tensor) -> Tensor:
        return torch.tensor([[0, 1], [1, 0], [1, 1]])

    def generators(self, x: Tensor) -> Tensor | None:
        return torch.eye(2, dtype=torch.long)

    def inverse(self, element: Tensor) -> Tensor:
        return element

    def act(self, x: Tensor, element: Tensor) -> Tensor:
        axes = [axis for axis, reflected in zip((-2, -1), element, strict=True) if int(reflected) % 2]
        return torch.flip(x, axes) if axes else x.clone()
