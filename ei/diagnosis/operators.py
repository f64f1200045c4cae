"""Operators that differ by image: what they see together, and whether one of them may be moved."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ei.diagnosis.problem import Problem
from ei.diagnosis.sinograms import scan_of
from ei.diagnosis.stack import Stack
from ei.physics.fbp import misses_views
from ei.physics.projections import Projections


class Together:
    """All operators of a run as one: the measurements of each, one after the other."""

    def __init__(self, physics: Any) -> None:
        self.operators = [physics.of([number]) for number in range(physics.count)]

    def A(self, x: Tensor) -> Tensor:
        return torch.cat([physics.A(x).flatten(1) for physics in self.operators], 1)


def report_operators(physics: Any, transform: Any, shape: tuple[int, ...], tol: float, device: torch.device) -> str:
    """What the operators of a run see together of image space, beside what the first of them sees alone. Where it is
    all, nothing is left that multi-operator imaging (``--method moi``, ``closure.operators=any``) cannot learn."""
    seen = []
    for one in (physics.of([0]), Together(physics)):
        problem = Problem(one, transform, shape, tol, device=device)
        problem.restrict_to_support(problem.draw_elements(8))
        seen.append(Stack(problem).seen())
    alone, together = seen
    enough = together >= 1 - 0.5 / max(1, problem.n) if problem.exact else together > 0.99
    verdict = "together they see everything" if enough else "together they do not see everything"
    return (
        f"{physics.count} operators: one sees {alone:.2%} of image space, all of them {together:.2%}; {verdict}. "
        "Their scans can be learned from together: --method moi, or closure.operators=any beside a group"
    )


def report_moves(physics: Any) -> str | None:
    """Whether to move the operator in place of the image; None for operators that are no tomography."""
    if not isinstance(physics, Projections):
        return None
    if misses_views(scan_of(physics)):
        return (
            "a wedge is missing: move the image (closure.move=image); a network distinguishes a turned wedge from its "
            "own by the direction of the streaks"
        )
    return (
        "the views leave no wedge: the scanner can be turned instead of the image (closure.move=operator, transform: "
        "{name: Turn, step: degrees between views})"
    )
