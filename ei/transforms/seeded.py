"""A group whose elements do not depend on what was drawn before."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ei.common.seeds import derive_seed, seeded


class SeededGroup:
    """A group, anything with ``apply(x)``, whose elements are a function of a seed: those it draws first come from the
    global generators seeded with ``derive_seed(seed, *purpose)``, those of the n-th call after it with
    ``derive_seed(seed, *purpose, n)``. Everything else is the group's.

    A training step applies its group after the network ran, which may draw, too (dropout), and in every process
    something else. All processes have to apply the same elements.

    Args:
        group: the group.
        seed, purpose: what the elements are a function of.
    """

    def __init__(self, group: Any, seed: int, *purpose: str | int) -> None:
        self.group, self.seed, self.purpose, self.calls = group, seed, purpose, 0

    def apply(self, x: Tensor, *more: Any, **named: Any) -> Tensor:
        return self._drawing("apply", x, *more, **named)

    def sample(self, x: Tensor, *more: Any, **named: Any) -> Any:
        return self._drawing("sample", x, *more, **named)

    def draw(self, x: Tensor, *more: Any, **named: Any) -> Any:
        return self._drawing("draw", x, *more, **named)

    def __call__(self, x: Tensor, *more: Any, **named: Any) -> Any:
        return self._drawing("__call__", x, *more, **named)

    def _drawing(self, method: str, x: Tensor, *more: Any, **named: Any) -> Any:
        number = (self.calls,) if self.calls else ()
        self.calls += 1
        with seeded(derive_seed(self.seed, *self.purpose, *number), x.device):
            return getattr(self.group, method)(x, *more, **named)

    def __getattr__(self, name: str) -> Any:
        if name == "group":  # not there yet, as in a copy that is being made
            raise AttributeError(name)
        return getattr(self.group, name)
