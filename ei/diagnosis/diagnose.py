"""Can equivariant imaging work for this operator and group? The necessary conditions, estimated before any training.

EI learns what an operator A does not see from other views of it, ``A T_g`` (Tachella, Chen & Davies, "Sensing theorems
for unsupervised learning in linear inverse problems", JMLR 2023). Two conditions can be checked without data: the views
together see every image, and there are enough of them, ``rank(A) * |G_eff| >= n``. They are necessary, not sufficient.
Only ``A``, ``T.sample`` and ``T.apply`` are called; adjoints come from autograd.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ei.diagnosis.problem import Problem
from ei.diagnosis.report import Diagnosis
from ei.diagnosis.stack import Stack
from ei.diagnosis.verdicts import Examination
from ei.errors import InputError

# Where the answers are estimates, this many elements are drawn first.
SAMPLED = 16


def diagnose(
    physics: Any,
    transform: Any,
    image_shape: Sequence[int],
    *,
    tol: float = 1e-2,
    max_elements: int = 64,
    elements: int | Sequence | Tensor = 6,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Diagnosis:
    """Whether EI can learn the null space of ``physics.A`` from a group: necessary conditions, without data.

    >>> from ei.physics import Inpainting
    >>> from ei.transforms import Shift
    >>> diagnosis = diagnose(Inpainting(16, 16, mask_rate=0.3), Shift(3), image_shape=(1, 16, 16))
    >>> diagnosis.verdict[:44], diagnosis.n
    ('the necessary condition holds, margin >= 5.3', 256)

    Args:
        physics: has a linear, differentiable ``A``; measurements may be complex.
        transform: has ``sample(x, generator)`` and ``apply(x, elements)``.
        image_shape: (C, H, W).
        tol: singular values below ``tol`` times the largest of A count as null space.
        max_elements: at most this many group elements are drawn and stacked; 16 where the answers are estimates and
            the group interpolates.
        elements: the group elements to examine one by one, or how many of those drawn; of these 3 at most where the
            answers are estimates.
        seed: random seed of probes and elements.
        device: where to compute.

    Raises:
        InputError: for a shape or tolerance outside its range, an A that is not linear, or one that autograd cannot
            differentiate.
    """
    shape = tuple(int(side) for side in image_shape)
    count = elements if isinstance(elements, int) else len(elements)
    if len(shape) != 3 or min(shape) < 1 or not 0 < tol < 1 or max_elements < 1 or count < 1:
        raise InputError(
            "diagnose needs image_shape = (C, H, W), 0 < tol < 1, max_elements >= 1 and elements >= 1, got "
            f"{image_shape}, {tol}, {max_elements} and {count}"
        )
    problem = Problem(physics, transform, shape, tol, seed, device)
    drawn = problem.draw_elements(max_elements)
    problem.restrict_to_support(drawn)
    if not problem.exact:
        drawn = drawn[:SAMPLED] if problem.interpolates else drawn
        count = min(count, 3)
    alone = Stack(problem)
    pixels, frequencies = alone.unseen_power()
    group = None if problem.all_elements is None else len(problem.all_elements)
    result = Diagnosis(problem.n, tol, problem.exact, group, (0.0, 0.0), [(0, alone.seen())])
    examination = Examination(alone, result, drawn)
    examined = drawn[:count] if isinstance(elements, int) else list(torch.as_tensor(elements))
    examination.complete(examined, frequencies)
    full = examination.full
    pixels_left, frequencies_left = (pixels, frequencies) if full is alone else full.unseen_power()
    result.alpha = problem.alpha()
    result.unseen = {
        "unseen by A alone: pixels": pixels,
        "unseen by A alone: frequencies": frequencies,
        "unseen by the stack: pixels": pixels_left,
        "unseen by the stack: frequencies": frequencies_left,
    }
    return result
