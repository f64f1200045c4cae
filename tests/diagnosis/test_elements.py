"""What single group elements bring, and how many of them differ."""

from __future__ import annotations

import pytest
import torch
from known_operators import Operator, bayer

from ei.diagnosis.elements import exact_classes, examine_elements, interpolated_classes
from ei.diagnosis.problem import Problem
from ei.diagnosis.stack import Stack
from ei.diagnosis.verdicts import HOLDS
from ei.evaluation import diagnose
from ei.physics import CT
from ei.transforms import Rotate, Shift


@pytest.mark.slow
def test_ct_and_rotations() -> None:
    """Multiples of the angle between views bring little, half a turn brings nothing, others bring much."""
    elements = torch.tensor([12, 24, 60, 180, 7, 31, 45, 100])
    diagnosis = diagnose(CT(32, 15), Rotate(3), (1, 32, 32), elements=elements)
    assert diagnosis.verdict.startswith(HOLDS)
    multiples, half_turn, others = diagnosis.elements[:3], diagnosis.elements[3], diagnosis.elements[4:]
    assert half_turn.visible < 0.02 and half_turn.redundant
    assert all(one.redundant for one in multiples) and not any(one.redundant for one in others)
    assert max(one.visible for one in multiples) <= 0.5 * min(one.visible for one in others)
    assert max(one.gain for one in multiples) < 2.5 and min(one.gain for one in others) > 3.5
    assert diagnosis.n == pytest.approx(torch.pi / 4 * 32**2, rel=0.02)  # the inscribed circle


def test_even_shifts_of_a_mosaic_bring_nothing() -> None:
    quarter = Operator(lambda x: x[..., ::2, ::2])
    elements = torch.tensor([[2, 4], [1, 0], [0, 1], [1, 1], [3, 2]])
    diagnosis = diagnose(quarter, Shift(3), (1, 12, 12), elements=elements)
    assert [one.redundant for one in diagnosis.elements] == [True, False, False, False, False]
    assert diagnosis.effective == 4 and diagnosis.rank * diagnosis.effective == diagnosis.n
    assert diagnosis.verdict.startswith(HOLDS + " without margin")


def test_the_visible_share_is_that_of_new_rows() -> None:
    """For a shift of a mosaic a third of the null space (one more class of four) becomes visible."""
    problem = Problem(Operator(lambda x: x[..., ::2, ::2]), Shift(1), (1, 12, 12))
    (element,) = examine_elements(Stack(problem), [torch.tensor([1, 0])])
    assert element.visible == pytest.approx(1 / 3, abs=0.02) and element.isotropic == 0 and element.informative


def test_views_are_compared_by_the_inverse_of_an_element() -> None:
    """Of every third column, shifts by 1 and by 2 show the others. (In a mosaic of period 2 a shift is its own inverse,
    which hides the difference.)"""
    physics = Operator(lambda x: x[..., ::3])
    diagnosis = diagnose(physics, Shift(3), (1, 12, 12), elements=1)
    assert diagnosis.effective == 3 and diagnosis.rank * diagnosis.effective == diagnosis.n
    assert diagnosis.verdict.startswith(HOLDS + " without margin")
    alone = Stack(Problem(physics, Shift(3), (1, 12, 12)))
    elements = list(torch.tensor([[0, 1], [0, 2], [0, 4], [0, 3]]))
    for classes, may_be_more in (interpolated_classes(alone, elements, 8), exact_classes(alone, [elements], 8)):
        assert sorted(int(one[1]) % 3 for one in classes) == [1, 2] and not may_be_more


def test_classes_are_counted_up_to_a_limit() -> None:
    alone = Stack(Problem(bayer(8), Shift(1), (3, 8, 8)))
    elements = list(torch.tensor([[0, 1], [1, 0], [1, 1], [2, 2]]))
    assert [len(exact_classes(alone, [elements], most)[0]) for most in (1, 2, 3, 8)] == [1, 2, 3, 3]
    assert [exact_classes(alone, [elements], most)[1] for most in (1, 2, 3, 8)] == [True, True, False, False]
