"""Telling what a rotated view brings from what interpolation only seems to bring. The criterion, and its reason.

A view ``A T_g`` brings something if A sees images of its null space once they are transformed. Where pixels are
interpolated it always seems to: fine details leak into coarse ones, sharp edges of what A sees are jagged on a grid,
corners have no place to turn to. No threshold on that share tells much, for it depends on how many and which
frequencies A leaves out. What is needed is the share that the same transforms show of an operator for which the truth
is known. An ISOTROPIC FILTER is one: it commutes with rotations, so they bring nothing to it, and whatever it seems to
gain is interpolation, jaggedness and corners. Hence

1. the gain of A: the share of its null space that the views show, over the share that they show of the null space of
   an isotropic filter of A's rank. There are two such filters, and the one of which more becomes visible counts: the
   ideal filter that lets the frequencies pass that A lets pass in the mean over directions, and a Gaussian blur, with
   its soft edge. For A such a filter itself the gain is 1 by construction. Above `GAIN` it is information, below
   `NO_GAIN` there is none, and between them the figures do not tell;
2. blindness: rotations keep how fine a detail is (the modulus of its frequency). Details so fine (or so coarse) that A
   sees none of them in any direction are seen by no rotated view. That is a proof, whatever a gain says.

Rotations are judged as `FourierRotate` turns, whose interpolation is several times more accurate than that of `Rotate`:
the elements are the same, and what A learns from them too.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ei.diagnosis.views import Map, Problem, Stack, energy_of
from ei.transforms import Compose, FourierRotate, Reflect, Rotate, Rotate90, Shift

# So many neighbouring rings, one frequency step wide each, must be unseen: an image as wide as its frequency step is
# fine blurs its spectrum by one step, so that the ring in the middle of three is certainly unseen.
BLIND_RINGS = 3
# Of the frequencies that A sees equally well in the mean over directions, the coarse ones first.
SLOPE = 0.1


def accurate(transform: Any) -> Any:
    """The same group with the most accurate rotations there are."""
    if type(transform) is Rotate:
        return FourierRotate(transform.n_trans, transform.per_image)
    if type(transform) is Compose and any(accurate(part) is not part for part in transform.transforms):
        return Compose(*(accurate(part) for part in transform.transforms), per_image=transform.per_image)
    return transform


def keeps_fineness(transform: Any) -> bool:
    """Whether every element is known to keep the moduli of frequencies, as rotations, reflections and shifts do."""
    if type(transform) is Compose:
        return all(keeps_fineness(part) for part in transform.transforms)
    return type(transform) in (Rotate, FourierRotate, Rotate90, Reflect, Shift)


class Filter:
    """The filter that multiplies frequencies by a real ``response`` ``[H, W]``."""

    def __init__(self, response: Tensor) -> None:
        self.response = response

    def A(self, x: Tensor) -> Tensor:
        return torch.fft.ifft2(torch.fft.fft2(x) * self.response).real


def modulus(problem: Problem) -> Tensor:
    """Of every frequency ``[H, W]``, in cycles a pixel."""
    sides = (torch.fft.fftfreq(side, dtype=torch.float64) for side in problem.shape[-2:])
    return torch.hypot(*torch.meshgrid(*sides, indexing="ij"))


def unseen_by_modulus(problem: Problem, unseen: Tensor) -> Tensor:
    """What A leaves unseen at each frequency ``[H, W]``, the mean over directions: from the power of the unseen part
    by frequency, zero frequency centred."""
    power = torch.fft.ifftshift(unseen.double().cpu())
    place = modulus(problem) * max(problem.shape[-2:])  # in frequency steps
    knots = torch.arange(int(place.max()) + 2, dtype=torch.float64)
    near = torch.exp(-((place.flatten() - knots[:, None]) ** 2) / 2)
    by_knot = (near @ power.flatten()) / near.sum(1)
    below = place.long()
    part = place - below
    return by_knot[below] * (1 - part) + by_knot[below + 1] * part


def most_alike(problem: Problem, alone: Stack, unseen: Tensor) -> Stack | None:
    """What the ideal isotropic filter most like A sees; None where no such filter has a null space of about the same
    size."""
    score = unseen_by_modulus(problem, unseen)
    score = score / score.max().clamp(min=1e-12) + SLOPE * modulus(problem)
    levels = score.unique()
    levels = levels[:-1][levels.diff() > 1e-9]  # at least one frequency is left out
    if not len(levels):
        return None
    wanted, best = alone.seen(), None
    first, last = 0, len(levels) - 1
    order = score.flatten().sort().values
    place = int((levels < order[min(round(wanted * len(order)), len(order) - 1)]).sum())
    while first <= last:  # the more passes, the more is seen
        place = place if first <= place <= last else (first + last) // 2
        stack = of_isotropic(problem, (score <= levels[place] + 1e-9).float())
        seen = stack.seen()
        if best is None or abs(seen - wanted) < abs(best.seen() - wanted):
            best = stack
        if seen == wanted:
            break
        first, last = (place + 1, last) if seen < wanted else (first, place - 1)
        place = -1
    if best is not None and problem.exact:
        best.see(wanted)
    if best is None or not 2 / 3 < (1 - best.seen()) / max(1 - wanted, 1e-12) < 3 / 2:
        return None
    return best


def as_soft(problem: Problem, alone: Stack, sharp: Stack) -> Stack:
    """What a Gaussian blur of the rank of A sees."""
    fineness, passing = modulus(problem), int(sharp.problem.physics.response.sum())

    def up_to(edge: float) -> Stack:
        """Of the blur that lets frequencies pass up to ``edge``, within the tolerance."""
        return of_isotropic(problem, torch.exp(math.log(problem.tol) * (fineness / edge) ** 2).float())

    edge = float(fineness.flatten().sort().values[max(passing, 1) - 1]) + 0.5 / max(problem.shape[-2:])
    if problem.exact:
        stack = up_to(edge)
        stack.see(alone.seen())
        return stack
    # No threshold can be moved where nothing is decomposed, and a rank is estimated for soft edges as for A's.
    low, high = 0.8 * edge, 1.25 * edge
    wanted, tried = alone.seen(), list[Stack]()
    for _ in range(7):
        edge = (low + high) / 2
        tried.append(up_to(edge))
        low, high = (edge, high) if tried[-1].seen() < wanted else (low, edge)
    return min(tried, key=lambda stack: abs(stack.seen() - wanted))


def of_isotropic(problem: Problem, response: Tensor) -> Stack:
    """What a filter sees in the place of A."""
    other = copy.copy(problem)
    other.physics, other.top, other.hidden = Filter(response.to(problem.device)), None, None
    other.rng = torch.Generator().manual_seed(0)  # its probes are those of A all the same
    return other.stack([])


class Isotropic:
    """The isotropic filters that A is compared with.

    Args:
        unseen: the power of what A leaves unseen by frequency, as `Stack.unseen` gives it.

    Attributes:
        stacks: what each of them sees; none where there is no filter of A's rank.
    """

    def __init__(self, problem: Problem, alone: Stack, unseen: Tensor) -> None:
        self.problem, self.alone = problem, alone
        problem.hidden_from(alone)
        sharp = most_alike(problem, alone, unseen)
        self.stacks = [] if sharp is None else [sharp, as_soft(problem, alone, sharp)]

    def gain(self, elements: Sequence[Tensor]) -> float | None:
        """How many times what some elements show of the null space of a filter, the one of which they show most, they
        show of that of A, in the mean; None where no filter compares."""
        if not self.stacks:
            return None
        ours, *theirs = self._visible(elements)
        return sum(ours) / max(*(sum(shares) for shares in theirs), 1e-12)

    def gain_of_all(self, every: Sequence[Tensor], probes: int = 8) -> tuple[float, float]:
        """`gain` over all elements of a group, and over the few that seem to show most beyond what they show of a
        filter."""
        ours, *theirs = self._visible(every, probes)
        at_best = [max(shares) for shares in zip(*theirs, strict=True)]
        beyond = sorted(range(len(every)), key=lambda k: at_best[k] - ours[k])[:3]
        mean = max(*(sum(shares) / len(shares) for shares in theirs), 1e-12)
        ours_then, *theirs_then = (sum(shares) / len(shares) for shares in self._visible([every[k] for k in beyond]))
        # Next to quarter turns, which interpolate nothing, both shares are nearly 0 and their ratio says nothing.
        return sum(ours) / len(ours) / mean, ours_then / max(*theirs_then, mean / 10)

    def visible(self, maps: Sequence[Map]) -> float:
        """What the last of some maps (of images) makes visible of the null space of a filter."""
        return max((stack.problem.visible(stack, maps)[-1] for stack in self.stacks), default=0.0)

    def _visible(self, elements: Sequence[Tensor], probes: int = 64) -> list[list[float]]:
        """What becomes visible by each element: of A, and of each filter."""
        return [stack.problem.visible_after(stack, elements, probes) for stack in (self.alone, *self.stacks)]


def blind_to(problem: Problem) -> tuple[float, float] | None:
    """The finest band of details, in cycles a pixel from and to, of which A sees nothing in any direction; None where
    it sees some of each. Bands beyond half a cycle a pixel, which lie in the corners of the spectrum, do not count."""
    step = 1 / min(problem.shape[-2:])
    ring = (modulus(problem) / step).round().to(problem.device)
    assert problem.top is not None
    unseen = []
    for k in range(int(0.5 / step) + 1):
        white = torch.randn(8, *problem.shape, generator=problem.rng, dtype=torch.float64).to(problem.device)
        images = Filter((ring == k).float()).A(white)
        with torch.no_grad():
            seen = problem.physics.A(images.float()).abs().square().sum()
        unseen.append(float(seen) <= problem.tol**2 * problem.top * energy_of(images))
    last = len(unseen)
    while last:
        first = last
        while first and unseen[first - 1]:
            first -= 1
        if last - first >= BLIND_RINGS:
            return max(first - 0.5, 0) * step, min((last - 0.5) * step, 0.5)
        last = first if first < last else last - 1
    return None
