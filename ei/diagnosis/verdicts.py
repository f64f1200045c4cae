"""The verdicts of `ei.diagnosis.diagnose`: which elements are looked at, and what follows from what they show.

A sample shows what can be, never what cannot: a verdict that something cannot be learned needs all elements of the
group, or a reason that covers them (its generators keep what is unseen unseen; rotations keep how fine details are).
Without one the verdict is "undecided", and says what was not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ei.diagnosis.interpolation import Isotropic, blind_to, keeps_fineness
from ei.diagnosis.stack import Stack
from ei.diagnosis.views import ENUMERATED, GAIN, NO_GAIN, Element, Problem

CANNOT = "cannot learn the null space"
HOLDS = "the necessary condition holds"
NOTHING = "no null space at this tolerance: nothing to learn, only conditioning"
UNDECIDED = "undecided"
# So many elements are compared with the isotropic filter.
COMPARED = 16
# The gain of the few elements that seem to bring most, beyond which there is something about them: the few of many that
# chance favours reach 1.3.
STRONGEST = 1.5


@dataclass
class Examination:
    """What was found out about a problem.

    Attributes:
        verdict: the sentence.
        coverage: (number of group elements besides the identity, share of image space seen by the stack).
        full: the largest stack.
        found: what each of some elements brings.
        effective, effective_is_bound: |G_eff|, and whether there may be more.
        gain: of the criterion of `ei.diagnosis.interpolation`, where pixels are interpolated.
    """

    full: Stack
    coverage: list[tuple[int, float]]
    verdict: str = NOTHING
    found: list[Element] = field(default_factory=list)
    effective: int = 1
    effective_is_bound: bool = False
    gain: float | None = None

    @property
    def ratio(self) -> float:
        """rank(A) * |G_eff| / n."""
        return self.coverage[0][1] * self.effective

    @property
    def unseen(self) -> float:
        return 1 - self.coverage[-1][1]


def examine(
    problem: Problem, alone: Stack, drawn: list[Tensor], unseen: Tensor, looked_at: Sequence[Tensor], max_elements: int
) -> Examination:
    """What the group brings to A.

    Args:
        alone: what A sees.
        drawn: some elements.
        unseen: the power of what A leaves unseen, by frequency, as `Stack.unseen` gives it.
        looked_at: elements to be looked at one by one.
        max_elements: at most so many are stacked.
    """
    result = Examination(alone, [(0, alone.seen())])
    if result.unseen <= problem.unseen_threshold(exact_group=True):
        return result
    if problem.interpolates:
        interpolating(problem, result, drawn, looked_at, unseen)
    else:
        exact(problem, result, drawn, looked_at, max_elements)
    if result.verdict.startswith(CANNOT) and not problem.listed:
        result.verdict += (
            f" (the group does not list its elements, as every(x): {len(problem.every or [])} came in its draws, and "
            "any that come far more seldom are not among them)"
        )
    return result


def exact(
    problem: Problem, result: Examination, drawn: list[Tensor], looked_at: Sequence[Tensor], max_elements: int
) -> None:
    """A group that moves pixels: what its elements bring is exact, and telling elements can be searched for."""
    alone, threshold = result.full, problem.unseen_threshold(exact_group=True)
    result.found = [problem.look_at(element, alone) for element in looked_at]
    every = problem.every or []
    searched = bool(every) and (problem.exact or len(every) <= ENUMERATED)
    cover(problem, result, drawn, threshold)
    more = False
    while result.unseen > threshold and searched:
        x = problem.white(64 if problem.exact else 4)
        telling = problem.showing(alone, every, x - result.full.project(x))
        room = max_elements - len(drawn)
        more = bool(telling)
        if not telling or room <= 0:
            break
        drawn = drawn + telling[: min(room, len(drawn))]
        result.full = problem.stack(drawn)
        result.coverage.append((len(drawn), result.full.seen()))
    whole_group = len(drawn) >= len(every) > 0 or (searched and not more)
    if result.unseen > threshold and not whole_group and not more:
        whole_group = problem.keeps_hidden(result.full)
    pools = [drawn, every] if searched else [drawn]
    classes, may_be_more = exact_classes(problem, alone, pools, most_classes(problem, result))
    result.effective, result.effective_is_bound = 1 + len(classes), may_be_more or not searched
    if not classes and whole_group:
        result.verdict = f"{CANNOT}: no element of the group makes A see more than it does alone"
        result.effective_is_bound = False
    elif not classes:
        result.verdict = f"{UNDECIDED}: A sees no more by {looked_at_of(problem, drawn)} than alone"
    elif result.unseen <= threshold:
        result.verdict = positive(problem, result, classes, threshold)
    elif whole_group:
        result.verdict = f"{CANNOT}, not all of it: {result.unseen:.2%} of image space stays unseen by the whole group"
    else:
        hint = "; others bring more: raise max_elements (--max-elements)" if more else ""
        result.verdict = f"{UNDECIDED}: {not_all(problem, result, drawn)}{hint}"


def interpolating(
    problem: Problem, result: Examination, drawn: list[Tensor], looked_at: Sequence[Tensor], unseen: Tensor
) -> None:
    """A group that interpolates pixels: see `ei.diagnosis.interpolation`."""
    alone, threshold = result.full, problem.unseen_threshold(exact_group=False)
    isotropic = Isotropic(problem, alone, unseen)
    problem.by_isotropic = isotropic.visible
    result.found = [problem.look_at(element, alone) for element in looked_at]
    most = max(one.share for one in result.found)
    for one in result.found:
        one.redundant = one.redundant or one.share <= most / 2
    result.gain = gain = isotropic.gain(drawn[:COMPARED])
    result.effective_is_bound = True
    blind = blind_to(problem) if keeps_fineness(problem.transform) else None
    where = looked_at_of(problem, drawn)
    if blind is not None:
        part = ", not all of it" if gain is not None and gain >= GAIN else ""
        result.verdict = (
            f"{CANNOT}{part}: of details of {blind[0]:.2f} to {blind[1]:.2f} cycles a pixel A sees nothing in any "
            "direction, and no element of the group makes details finer or coarser"
        )
    elif gain is None:
        result.verdict = (
            f"{UNDECIDED}: the null space is {result.unseen:.2%} of image space, and no isotropic filter of that rank "
            "is there to tell what of it interpolation shows"
        )
    elif gain <= NO_GAIN and problem.exact and problem.every is not None:
        result.gain, strongest = isotropic.gain_of_all(problem.every)
        if result.gain <= NO_GAIN and strongest <= STRONGEST:
            result.verdict, result.effective_is_bound = f"{CANNOT}: {_like_a_filter(result.gain)}", False
        else:
            result.verdict = f"{UNDECIDED}: {_like_a_filter(result.gain)}, some elements {strongest:.2f} times"
    elif gain < GAIN:
        told = f"up to {NO_GAIN} there is nothing to learn, from {GAIN} on there is" if gain > NO_GAIN else where
        result.verdict = f"{UNDECIDED}: {_like_a_filter(gain)} ({told})"
    else:
        few = drawn if problem.exact else drawn[:8]
        classes, may_be_more = problem.classes(few, alone, most_classes(problem, result))
        result.effective = 1 + len(classes)
        cover(problem, result, drawn, threshold)
        whole_group = problem.exact and problem.every is not None and len(few) >= len(problem.every)
        cannot = CANNOT if whole_group else UNDECIDED
        if not classes or (not may_be_more and result.ratio < 1 - threshold):
            result.verdict = (
                f"{cannot}: rank(A) * |G_eff| / n = {result.ratio:.3g}, and what more the stack sees is made by "
                f"interpolation ({where})"
            )
        elif result.unseen > threshold:
            part = ", not all of it" if whole_group else ""
            result.verdict = f"{cannot}{part}: {not_all(problem, result, drawn)}"
        else:
            result.verdict = positive(problem, result, classes, threshold)


def cover(problem: Problem, result: Examination, drawn: list[Tensor], threshold: float) -> None:
    """Stack ever more of the elements, until everything is seen."""
    count = 1
    while result.unseen > threshold:
        result.full = problem.stack(drawn[:count])
        result.coverage.append((min(count, len(drawn)), result.full.seen()))
        if count >= len(drawn):
            break
        count *= 2


def exact_classes(
    problem: Problem, alone: Stack, pools: Sequence[Sequence[Tensor]], most: int
) -> tuple[list[Tensor], bool]:
    """As `Problem.classes`, of a group that does not interpolate: A sees by T_g what it sees by T_h exactly if
    T_g T_h^-1 shows it nothing of its null space. A pool is looked at if those before it have too few classes."""
    hidden = problem.hidden_from(alone)[:, :8]
    found: list[Tensor] = []
    moved = [hidden]  # the hidden images, moved back by each class
    for pool in pools:
        left = list(pool)
        for images in moved:
            left = problem.showing(alone, left, images)
        while left:
            if len(found) == most:
                return found, True
            found.append(left[0])
            moved.append(problem.columns(problem.transformed_back(problem.images(hidden), left[0])))
            left = problem.showing(alone, left[1:], moved[-1])
    return found, False


def most_classes(problem: Problem, result: Examination) -> int:
    """How many classes are looked for: half as many again as could show all of image space."""
    enough = math.ceil(1.5 / max(result.coverage[0][1], 1 / problem.n))
    return max(8, min(enough, 24)) if problem.exact else max(3, min(enough, 8))


def positive(problem: Problem, result: Examination, classes: Sequence[Tensor], threshold: float) -> str:
    """The verdict where everything is seen."""
    ratio, is_bound = result.ratio, result.effective_is_bound
    figures = f"rank(A) * |G_eff| / n {'>' if is_bound else ''}= {ratio:.3g}"
    if not is_bound and (ratio <= 1 + 1e-6 or problem.needs_every_class(classes, threshold)):
        verdict = f"{HOLDS} without margin: {figures}, and every one of the {result.effective} views is needed"
    else:
        margin = f"{'>= ' if is_bound else ''}{ratio - 1:.2g}" if ratio >= 1 else "not counted to its end"
        verdict = f"{HOLDS}, margin {margin}: {figures}"
    return f"{verdict} (not a guarantee)"


def looked_at_of(problem: Problem, drawn: Sequence[Tensor]) -> str:
    if problem.every is None:
        return f"the {len(drawn)} elements looked at (the group has more, which were not)"
    if len(drawn) >= len(problem.every):
        return f"all {len(drawn)} elements"
    return f"the {len(drawn)} elements looked at (the other {len(problem.every) - len(drawn)} were not)"


def not_all(problem: Problem, result: Examination, drawn: Sequence[Tensor]) -> str:
    return f"not all of image space is seen by {looked_at_of(problem, drawn)}: {result.unseen:.2%} of it stays unseen"


def _like_a_filter(gain: float) -> str:
    return (
        f"of the null space the views show {gain:.2f} times what they do of an isotropic filter's, to which rotations "
        "bring nothing"
    )
