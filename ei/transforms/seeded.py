"""A group whose elements do not depend on earlier draws."""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor

from ei.common.seeds import derive_seed, seeded


class SeededGroup:
    """A group, anything with ``apply(x)``, whose elements are a function of a seed: its first draw comes from the
    global generators seeded with ``derive_seed(seed, *purpose)``, that of the n-th call after it with
    ``derive_seed(seed, *purpose, n)``. Everything else is the group's.

    All processes have to apply the same elements, and the network may draw before (dropout), in each something else.
    """

    def __init__(self, group: Any, seed: int, *purpose: str | int) -> None:
        self.group = group
        self.seed = seed
        self.purpose = purpose
        self.calls = 0

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self._call_seeded("__call__", x, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == "group":  # a copy in the making has no attributes yet
            raise AttributeError(name)
        attribute = getattr(self.group, name)
        return functools.partial(self._call_seeded, name) if name in ("apply", "sample", "draw") else attribute

    def _call_seeded(self, method: str, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        number = (self.calls,) if self.calls else ()
        self.calls += 1
        with seeded(derive_seed(self.seed, *self.purpose, *number), x.device):
            return getattr(self.group, method)(x, *args, **kwargs)
