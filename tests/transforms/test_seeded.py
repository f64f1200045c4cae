"""A group whose elements are a function of a seed."""

from __future__ import annotations

import copy

import torch

from ei.common.seeds import derive_seed, seeded
from ei.transforms import Rotate, Shift
from ei.transforms.seeded import SeededGroup


def test_elements_do_not_depend_on_earlier_draws() -> None:
    x = torch.rand(2, 1, 8, 8)
    first = SeededGroup(Shift(2), 3, "group", 5)
    copied = copy.deepcopy(first)
    outputs = [first.apply(x), first(x), first.apply(x)]
    torch.rand(7)
    assert all(torch.equal(copied.apply(x), output) for output in outputs)
    assert not torch.equal(outputs[0], outputs[1])
    with seeded(derive_seed(3, "group", 5)):
        assert torch.equal(Shift(2).apply(x), outputs[0])
    with seeded(derive_seed(3, "group", 5, 1)):
        assert torch.equal(Shift(2).apply(x), outputs[1])


def test_the_rest_is_the_groups() -> None:
    group, x = SeededGroup(Rotate(2), 0), torch.rand(1, 1, 8, 8)
    assert group.n_trans == 2 and group.inverse(torch.tensor(3)) == -3
    element = torch.tensor([30, 40])
    before = torch.random.get_rng_state()
    assert torch.equal(group.apply(x, element), Rotate(2).apply(x, element)) and len(group.sample(x)) == 2
    assert torch.equal(torch.random.get_rng_state(), before)
