"""Several groups, one after the other."""

from __future__ import annotations

import torch

from ei.transforms import Compose, Rotate, Shift


def test_compose_is_one_after_the_other() -> None:
    x = torch.rand(1, 1, 8, 8)
    both = Compose(Shift(1), Rotate(1))
    turned = Rotate(1).apply(Shift(1).apply(x, [[2, 3]]), [30])
    torch.testing.assert_close(both.apply(x, [[2.0, 3.0, 30.0]]), turned)
