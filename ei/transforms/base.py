"""What every group of transforms shares: how many elements to draw, and the order of the result.

A new group is a subclass with two methods: `sample` draws elements, `act` applies one of them.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ei.errors import InputError


class Transform:
    """A group acting on images.

    Args:
        n_trans: the number of group elements drawn at a time.

    Raises:
        InputError: if ``n_trans`` is not a whole number >= 1.
    """

    def __init__(self, n_trans: int) -> None:
        if isinstance(n_trans, bool) or int(n_trans) != n_trans or n_trans < 1:
            raise InputError(f"n_trans must be a whole number >= 1, not {n_trans}")
        self.n_trans = int(n_trans)

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw ``n_trans`` group elements for images of the shape of ``x``; the first axis counts the elements.

        Without a ``generator`` they come from torch's global CPU generator.
        """
        raise NotImplementedError

    def act(self, x: Tensor, element: Tensor) -> Tensor:
        """The images ``x`` ``[B, C, H, W]`` under ONE group element; same shape and dtype."""
        raise NotImplementedError

    def apply(self, x: Tensor, elements: Tensor | Iterable | None = None) -> Tensor:
        """Images under several group elements.

        Args:
            x: ``[B, C, H, W]``.
            elements: as from `sample`, which is called when it is None. Their number need not be ``n_trans``.

        Returns:
            ``[n_trans*B, C, H, W]``, transform-major: all of ``x`` under the first element, then all of it under the
            second, and so on.
        """
        if x.dim() != 4:
            raise InputError(f"a transform needs images of the shape [B, C, H, W], not {list(x.shape)}")
        elements = self.sample(x) if elements is None else torch.as_tensor(elements)
        if elements.dim() == 0 or len(elements) == 0:
            raise InputError("elements must hold at least one group element along its first axis")
        return torch.cat([self.act(x, element) for element in elements])

    def __call__(self, x: Tensor, elements: Tensor | Iterable | None = None) -> Tensor:
        return self.apply(x, elements)


def draw_distinct(candidates: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
    """``n`` of the ``candidates``, without replacement, in random order."""
    device = None if generator is None else generator.device
    return candidates[torch.randperm(len(candidates), generator=generator, device=device)[:n].cpu()]
