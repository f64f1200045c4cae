"""What rotated views show beyond interpolation: the gain over isotropic filters, and bands of frequencies never seen.

An isotropic filter commutes with rotations, so they show nothing new of it: whatever it seems to gain is interpolation.
The gain of A is a ratio of two shares: the share of its null space that the views show, over the share that they show
of the null space of an isotropic filter of A's rank. docs/start/will_it_work.md explains how to read it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ei.diagnosis.problem import ROUNDING, Map, Problem, energy_of
from ei.diagnosis.stack import Stack
from ei.transforms import Compose, FourierRotate, Reflect, Rotate, Rotate90, Shift

# From this gain on the views bring information, and up to this one they bring none.
GAIN = 1.25
NO_GAIN = 1.1
# This many neighbouring rings, one frequency step wide each, must be unseen: an image as wide as its frequency step is
# fine blurs its spectrum by one step, so that the ring in the middle of three is certainly unseen.
BLIND_RINGS = 3
# Of the frequencies that A sees equally well in the mean over directions, the coarse ones first.
SLOPE = 0.1
BISECTIONS = 7


@dataclass
class Filter:
    """The filter that multiplies frequencies by a real ``response`` ``[H, W]``."""

    response: Tensor

    def A(self, x: Tensor) -> Tensor:
        return torch.fft.ifft2(torch.fft.fft2(x) * self.response).real


class Isotropic:
    """The isotropic filters that A is compared with, and in ``stacks`` what each of them sees; none where there is no
    filter of A's rank. ``unseen`` is the power of what A leaves unseen by frequency (`Stack.unseen_power`)."""

    def __init__(self, alone: Stack, unseen: Tensor) -> None:
        self.alone = alone
        _ = alone.hidden  # draws the probes before the problem is copied
        sharp = ideal_filter(alone, unseen)
        self.stacks = [] if sharp is None else [sharp, soft_filter(alone, sharp)]

    def gain(self, elements: Sequence[Tensor]) -> float | None:
        """The mean gain over some elements; None where no filter compares."""
        if not self.stacks:
            return None
        theirs = max(sum(stack.visible_by(elements)) for stack in self.stacks)
        return sum(self.alone.visible_by(elements)) / max(theirs, 1e-12)

    def gains_of_group(self, elements: Sequence[Tensor]) -> tuple[float, float]:
        """The mean gain over all elements of a group, and over the three that show most beyond a filter."""
        ours = self.alone.visible_by(elements, probes=8)
        theirs = [stack.visible_by(elements, probes=8) for stack in self.stacks]
        mean = max(*(sum(shares) / len(shares) for shares in theirs), 1e-12)
        best = sorted(range(len(elements)), key=lambda k: max(shares[k] for shares in theirs) - ours[k])[:3]
        few = [elements[k] for k in best]
        best_ours, *best_theirs = (sum(stack.visible_by(few)) / len(few) for stack in (self.alone, *self.stacks))
        # Next to quarter turns, which interpolate nothing, both shares are nearly 0 and their ratio is noise.
        return sum(ours) / len(ours) / mean, best_ours / max(*best_theirs, mean / 10)

    def visible(self, function: Map) -> float:
        """The share of the null space of a filter that a map of images makes visible."""
        return max((stack.visible([function])[0] for stack in self.stacks), default=0.0)

    def visible_by(self, elements: Sequence[Tensor]) -> list[float]:
        """`visible` for each of some elements."""
        shares = [stack.visible_by(elements) for stack in self.stacks]
        return [max(each) for each in zip(*shares, strict=True)] if shares else [0.0] * len(elements)


def is_information(visible: float, isotropic: float) -> bool:
    """Whether a visible share is more than that of an isotropic filter."""
    return visible > GAIN * isotropic + ROUNDING


def unseen_by_modulus(problem: Problem, unseen: Tensor) -> Tensor:
    """The unseen power at each frequency ``[H, W]``, averaged over directions, from the unseen power by frequency (zero
    frequency centred)."""
    power = torch.fft.ifftshift(unseen.double().cpu())
    place = problem.modulus * max(problem.shape[-2:])  # in frequency steps
    knots = torch.arange(int(place.max()) + 2, dtype=torch.float64)
    near = torch.exp(-((place.flatten() - knots[:, None]) ** 2) / 2)
    by_knot = (near @ power.flatten()) / near.sum(1)
    below = place.long()
    part = place - below
    return by_knot[below] * (1 - part) + by_knot[below + 1] * part


def ideal_filter(alone: Stack, unseen: Tensor) -> Stack | None:
    """What the ideal isotropic filter most like A sees; None where no such filter has a null space of about the same
    size."""
    problem = alone.problem
    score = unseen_by_modulus(problem, unseen)
    score = score / score.max().clamp(min=1e-12) + SLOPE * problem.modulus
    rank = alone.seen()
    highest = 1 - 1 / score.numel()  # at least one frequency is left out
    bounds = (max(rank - 0.2, 0), min(rank + 0.2, highest))
    best = _filter_of_rank(alone, lambda share: (score <= score.flatten().quantile(share)).float(), *bounds)
    return best if 2 / 3 < (1 - best.seen()) / max(1 - rank, 1e-12) < 3 / 2 else None


def soft_filter(alone: Stack, sharp: Stack) -> Stack:
    """What a Gaussian blur of the rank of A sees."""
    problem = alone.problem
    fineness = problem.modulus
    passing = int(sharp.problem.physics.response.sum())
    edge = float(fineness.flatten().sort().values[max(passing, 1) - 1]) + 0.5 / max(problem.shape[-2:])

    def blur(edge: float) -> Tensor:
        """Passes frequencies up to ``edge``, within the tolerance."""
        return torch.exp(math.log(problem.tol) * (fineness / edge) ** 2).float()

    return _filter_of_rank(alone, blur, 0.8 * edge, 1.25 * edge)


def _filter_of_rank(alone: Stack, response: Callable[[float], Tensor], low: float, high: float) -> Stack:
    """What the filter that has the rank of A sees, by bisection: the larger its parameter, the more it passes."""
    rank = alone.seen()
    tried: list[Stack] = []
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        other = copy.copy(alone.problem)  # on its images, and with its probes
        other.physics = Filter(response(middle).to(other.device))
        other.rng = torch.Generator().manual_seed(0)
        tried.append(Stack(other))
        if tried[-1].seen() < rank:
            low = middle
        else:
            high = middle
    best = min(tried, key=lambda stack: abs(stack.seen() - rank))
    if alone.problem.exact:
        best.match_rank(rank)
    return best


def keeps_modulus(transform: Any) -> bool:
    """Whether every element keeps the moduli of frequencies, as rotations, reflections and shifts do."""
    if type(transform) is Compose:
        return all(keeps_modulus(part) for part in transform.transforms)
    return type(transform) in (Rotate, FourierRotate, Rotate90, Reflect, Shift)


def blind_band(alone: Stack) -> tuple[float, float] | None:
    """The finest band of moduli, in cycles a pixel from and to, of which A sees nothing in any direction; None where
    there is none. Only bands up to half a cycle a pixel count: beyond lie the corners of the spectrum."""
    problem = alone.problem
    step = 1 / min(problem.shape[-2:])
    ring = (problem.modulus / step).round().to(problem.device)
    unseen = []
    for k in range(int(0.5 / step) + 1):
        white = torch.randn(8, *problem.shape, generator=problem.rng, dtype=torch.float64).to(problem.device)
        images = Filter((ring == k).float()).A(white)
        with torch.no_grad():
            seen = problem.physics.A(images.float()).abs().square().sum()
        unseen.append(float(seen) <= problem.tol**2 * alone.top * energy_of(images))
    for last in range(len(unseen), BLIND_RINGS - 1, -1):
        if all(unseen[last - BLIND_RINGS : last]):
            first = max((k + 1 for k in range(last) if not unseen[k]), default=0)
            return max(first - 0.5, 0) * step, min((last - 0.5) * step, 0.5)
    return None
