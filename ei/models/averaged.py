"""The average of a network over a finite group that moves pixels exactly.

Images are invariant to the group, and a network that is trained on few of them need not be equivariant to it. Its
average ``(1/|G|) sum_g T_g^-1 net(T_g x)`` is, for any weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ei.errors import InputError
from ei.models.padding import call_padded


class Turn(NamedTuple):
    """A symmetry of the square: a left-right reflection (or none), then quarter turns counter-clockwise."""

    turns: int
    reflected: bool

    def act(self, x: Tensor) -> Tensor:
        """The images ``x`` ``[..., H, W]`` under this element."""
        x = x.flip(-1) if self.reflected else x
        return torch.rot90(x, self.turns, dims=(-2, -1)) if self.turns else x

    def undo(self, x: Tensor) -> Tensor:
        """The images ``x`` ``[..., H, W]`` under the inverse."""
        x = torch.rot90(x, -self.turns, dims=(-2, -1)) if self.turns else x
        return x.flip(-1) if self.reflected else x

    def after(self, first: Turn) -> Turn:
        """The element that acts like ``first`` and then this one. A reflection turns a turn around."""
        turns = -first.turns if self.reflected else first.turns
        return Turn((self.turns + turns) % 4, self.reflected != first.reflected)


IDENTITY = Turn(0, False)

# An up-down reflection is a left-right one and half a turn.
GROUPS = {
    "rotate90": tuple(Turn(turns, False) for turns in range(4)),
    "reflect": (IDENTITY, Turn(0, True), Turn(2, True), Turn(2, False)),
}


def average_over(names: Sequence[str]) -> list[Turn]:
    """The elements of the product of the named groups, each once, the identity first: 4 for "rotate90" or "reflect",
    8 for both, whose products coincide in pairs.

    Raises:
        InputError: for no name, or one that is no exact group.

    >>> len(average_over(["rotate90", "reflect"]))
    8
    """
    if isinstance(names, str) or not names or not set(names) <= set(GROUPS):
        raise InputError(f"the groups to average over must be some of {', '.join(GROUPS)}, not {names!r}")
    elements = [IDENTITY]
    for name in names:
        products = [element.after(first) for first in elements for element in GROUPS[name]]
        elements = list(dict.fromkeys(products))  # once each, in this order
    return elements


class GroupAverage(nn.Module):
    """``x -> mean over g of T_g^-1 net(T_g x)``, for evaluation: it takes ``len(elements)`` times as long as ``net``,
    and no more memory.

    Args:
        net: from images ``[B, C, H, W]`` to images of the same sides.
        names: of the groups, see `average_over`.
        network_tile: run ``net`` on overlapping tiles of this side (`ei.models.network_tiles`).

    Raises:
        InputError: for another name, or (when called) for quarter turns of images that are not square.

    >>> net = GroupAverage(UNet(1, 1, base_channels=2), ["rotate90"])
    >>> net(torch.rand(1, 1, 16, 16)).shape
    torch.Size([1, 1, 16, 16])
    """

    def __init__(self, net: nn.Module, names: Sequence[str], network_tile: int | None = None) -> None:
        super().__init__()
        self.net, self.elements = net, average_over(names)
        self.network_tile = network_tile

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if height != width and any(element.turns % 2 for element in self.elements):
            raise InputError(f"an average over quarter turns needs square images, not {height} x {width}")
        total: Tensor | float = 0.0
        for element in self.elements:
            turned = element.act(x)
            if turned.dim() == 4:  # turning lost the format that the network is fastest in
                turned = turned.contiguous(memory_format=torch.channels_last)
            # Padded under each element, not before: sides of odd excess are padded unequally.
            out = call_padded(self.net, turned, self.network_tile) if turned.dim() == 4 else self.net(turned)
            total = total + element.undo(out)
        assert isinstance(total, Tensor)
        return total / len(self.elements)
