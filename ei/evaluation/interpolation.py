"""Telling what a rotated view brings from what interpolation only seems to bring. The criterion, and its reason.

A view ``A T_g`` brings something if A sees images of its null space once they are transformed. Where pixels are
interpolated it always seems to: fine details leak into coarse ones, sharp edges of what A sees are jagged on a grid,
corners have no place to turn to. No threshold on that share tells much, for it depends on how many and which
frequencies A leaves out. What is needed is the share that the same transforms show of an operator for which the truth
is known. An ISOTROPIC FILTER is one: it commutes with rotations, so they bring nothing to it, and whatever it seems to
gain is interpolation, jaggedness and corners. Hence

1. the gain of A: the share of its null space that the views show, over the share that they show of the null space of
   the isotropic filter that is most like A: it lets the same frequencies pass as A does in the mean over directions,
   and as many of them as A has rank. For A such a filter itself the gain is 1 by construction; a blur, whose edge is
   softer than the filter's, stays below. Above `GAIN` it is information, below `NO_GAIN` there is none, and between
   them the figures do not tell;
2. blindness: rotations keep how fine a detail is (the modulus of its frequency). Details so fine (or so coarse) that A
   sees none of them in any direction are seen by no rotated view. That is a proof, whatever a gain says.

Rotations are judged as `FourierRotate` turns, whose interpolation is several times more accurate than that of `Rotate`:
the elements are the same, and what A learns from them too.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ei.evaluation.views import Map, Problem, Stack, energy_of
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
    """The ideal filter that lets the frequencies of a mask ``[H, W]`` pass."""

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def A(self, x: Tensor) -> Tensor:
        return torch.fft.ifft2(torch.fft.fft2(x) * self.mask).real


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


def most_alike(problem: Problem, alone: Stack, unseen: Tensor) -> tuple[Problem, Stack] | None:
    """The problem of the isotropic filter most like A, and what it sees; None where no such filter has a null space of
    about the same size."""
    score = unseen_by_modulus(problem, unseen)
    score = score / score.max().clamp(min=1e-12) + SLOPE * modulus(problem)
    levels = score.flatten().sort().values
    wanted, pixels = alone.seen(), levels.numel()
    passing, tried, best = round(wanted * pixels), set[int](), None
    for _ in range(6):
        # At least one frequency is left out.
        mask = (score <= levels[min(max(passing, 1), pixels) - 1] + 1e-9) & (score < levels[-1] - 1e-9)
        if int(mask.sum()) in tried:
            break
        tried.add(int(mask.sum()))
        twin = copy.copy(problem)
        twin.physics, twin.top, twin.hidden = Filter(mask.float().to(problem.device)), None, None
        twin.rng = torch.Generator().manual_seed(0)  # its probes are those of A all the same
        stack = twin.stack([])
        if best is None or abs(stack.seen() - wanted) < abs(best[1].seen() - wanted):
            best = twin, stack
        if best[1].seen() == wanted:
            break
        passing = int(mask.sum()) + round((wanted - stack.seen()) * pixels)
    if best is not None and problem.exact:
        best[1].see(wanted)
    if best is None or not 2 / 3 < (1 - best[1].seen()) / max(1 - wanted, 1e-12) < 3 / 2:
        return None
    return best


@dataclass
class Comparison:
    """How much more the views show of the null space of A than of that of an isotropic filter.

    Attributes:
        visible, isotropic: the shares that become visible, of A and of the filter, in the mean over elements.
        gain: the one over the other; None where no isotropic filter compares.
    """

    visible: float
    isotropic: float | None

    @property
    def gain(self) -> float | None:
        return None if self.isotropic is None else self.visible / max(self.isotropic, 1e-12)


class Isotropic:
    """The isotropic filter that A is compared with.

    Args:
        unseen: the power of what A leaves unseen by frequency, as `Stack.unseen` gives it.
    """

    def __init__(self, problem: Problem, alone: Stack, unseen: Tensor) -> None:
        self.problem, self.alone = problem, alone
        problem.hidden_from(alone)
        self.twin = most_alike(problem, alone, unseen)

    def compare(self, elements: Sequence[Tensor]) -> Comparison:
        ours = self.problem.visible_after(self.alone, elements)
        theirs = None if self.twin is None else self.twin[0].visible_after(self.twin[1], elements)
        return Comparison(sum(ours) / len(ours), None if theirs is None else sum(theirs) / len(theirs))

    def compare_all(self, every: Sequence[Tensor], probes: int = 8) -> tuple[float, float]:
        """The gain over all elements of a group, and over the few that seem to show most beyond what they show of the
        filter."""
        if self.twin is None:
            raise ValueError("there is no isotropic filter to compare with")
        ours, theirs = (stack.problem.visible_after(stack, every, probes) for stack in (self.alone, self.twin[1]))
        beyond = sorted(range(len(every)), key=lambda k: theirs[k] - ours[k])
        strongest = self.compare([every[k] for k in beyond[:3]])
        assert strongest.isotropic is not None
        mean = max(sum(theirs) / len(theirs), 1e-12)
        # Next to quarter turns, which interpolate nothing, both shares are nearly 0 and their ratio says nothing.
        return sum(ours) / len(ours) / mean, strongest.visible / max(strongest.isotropic, mean / 10)

    def visible(self, maps: Sequence[Map]) -> float:
        """What the last of some maps (of images) makes visible of its null space."""
        return 0.0 if self.twin is None else self.twin[0].visible(self.twin[1], maps)[-1]


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
