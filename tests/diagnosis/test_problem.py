"""Operator and group of a diagnosis: linearity, listed and drawn elements."""

from __future__ import annotations

import torch
from known_operators import Operator
from torch import Tensor

from ei.diagnosis.problem import listed_by, with_accurate_rotations
from ei.diagnosis.verdicts import UNDECIDED
from ei.evaluation import diagnose
from ei.transforms import Compose, FourierRotate, Reflect, Rotate, Rotate90, Shift, Shift1D


def test_groups_list_their_elements() -> None:
    groups = (Shift(2), Shift(1, max_offset=3), Rotate90(1), Reflect(2), Shift1D(3), Compose(Reflect(1), Shift(1)))
    for group in groups:
        x = torch.randn(1, 1, 6, 6) if isinstance(group, Rotate90) else torch.randn(1, 1, 5, 6)
        every, generators = group.every(x), group.generators(x)
        assert every is not None and generators is not None and generators.shape[1:] == every.shape[1:]
        listed = group.apply(x, every)
        assert len(listed.unique(dim=0)) == len(every)  # each action once
        drawn = group.apply(x, torch.cat([group.sample(x) for _ in range(20)]))
        assert all(any(torch.equal(one, other) for other in listed) for one in drawn)


class Twice(Shift):
    """Draws otherwise than the group that it inherits the list from."""

    def draw(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return 2 * super().draw(x, generator)


def test_an_inherited_list_counts_only_for_inherited_draws() -> None:
    x = torch.zeros(1, 1, 8, 8)
    assert listed_by(Shift(1), "every", x) is not None and listed_by(Twice(1), "every", x) is None
    diagnosis = diagnose(Operator(lambda x: x[..., ::2]), Twice(1), (1, 8, 8), max_elements=16)
    assert diagnosis.group is None and diagnosis.verdict.startswith(UNDECIDED)
    assert "the group has more" in diagnosis.verdict


def test_rotations_are_compared_by_the_accurate_ones() -> None:
    assert type(with_accurate_rotations(Rotate(2))) is FourierRotate
    mixed = with_accurate_rotations(Compose(Reflect(2), Rotate(2)))
    assert [type(part) for part in mixed.transforms] == [Reflect, FourierRotate]
    shift = Shift(1)
    assert with_accurate_rotations(shift) is shift
