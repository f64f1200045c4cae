"""The verdicts of `ei.diagnosis.diagnose`, and what they follow from.

A sample of elements can prove that something is learned, never that it is not. The verdict "cannot" needs all elements
of the group, or a reason that covers them: its generators keep what is unseen unseen, or rotations keep the moduli of
frequencies. Without one the verdict is "undecided" and names what was not examined.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from ei.diagnosis.elements import exact_classes, examine_elements, interpolated_classes, needs_every_class
from ei.diagnosis.isotropic import GAIN, NO_GAIN, Isotropic, blind_band, keeps_modulus
from ei.diagnosis.problem import Problem
from ei.diagnosis.report import Diagnosis
from ei.diagnosis.stack import Stack

CANNOT = "cannot learn the null space"
HOLDS = "the necessary condition holds"
NOTHING = "no null space at this tolerance: nothing to learn, only conditioning"
UNDECIDED = "undecided"
# What may stay unseen under interpolated transforms, which blur the finest details wherever they turn them.
INTERPOLATION_LOSS = 0.01
# Where the answers are estimates, larger groups are not searched element by element.
ENUMERATED = 1024
# This many elements are compared with the isotropic filter.
COMPARED = 16
# The gain of the three best elements above which they may bring something: by chance the best of many reach 1.3.
STRONGEST = 1.5


class Examination:
    """What a group, of which ``drawn`` are distinct elements, brings to A, step by step: the stack grows, the figures
    of ``result`` follow."""

    def __init__(self, alone: Stack, result: Diagnosis, drawn: list[Tensor]) -> None:
        self.alone = alone
        self.problem: Problem = alone.problem
        self.full = alone  # the largest stack
        self.result = result
        self.drawn = drawn
        self.threshold = 0.5 / self.problem.n if self.problem.exact else 0.05 / self.problem.n

    def complete(self, examined: Sequence[Tensor], unseen: Tensor) -> None:
        """Fill in verdict and figures; ``examined`` are the elements to examine one by one, ``unseen`` the power by
        frequency of what A leaves unseen."""
        if not self.leaves_unseen:
            self.result.verdict = NOTHING
            return
        decide = self._decide_interpolating if self.problem.interpolates else self._decide_exactly
        self.result.verdict = decide(examined, unseen)
        if self.result.verdict.startswith(CANNOT) and not self.problem.is_listed:
            self.result.verdict += (
                f" (the group does not list its elements, as every(x): {len(self.problem.all_elements or [])} came in "
                "its draws, and any that come far more seldom are not among them)"
            )

    @property
    def leaves_unseen(self) -> bool:
        return self.result.unseen_share > self.threshold

    # ---- groups that move pixels: the share that an element shows is exact ------------------------------------------

    def _decide_exactly(self, examined: Sequence[Tensor], unseen: Tensor) -> str:
        result = self.result
        result.elements = examine_elements(self.alone, examined)
        self._stack_drawn()
        all_elements = self.problem.all_elements or []
        is_searched = bool(all_elements) and (self.problem.exact or len(all_elements) <= ENUMERATED)
        pools = [self.drawn, all_elements] if is_searched else [self.drawn]
        classes, may_be_more = exact_classes(self.alone, pools, self._most_classes())
        result.effective = 1 + len(classes)
        result.effective_is_bound = may_be_more or not is_searched
        is_whole_group = not result.effective_is_bound or len(self.drawn) >= len(all_elements) > 0
        if self.leaves_unseen and is_whole_group and classes:
            self._stack(classes)
        is_whole_group = is_whole_group or (self.leaves_unseen and self.full.hides_from_whole_group())
        if classes:
            return self._decide_by_stack(classes, is_whole_group)
        if is_whole_group:
            result.effective_is_bound = False
            return f"{CANNOT}: no element of the group makes A see more than it does alone"
        return f"{UNDECIDED}: A sees no more by {self._examined_elements()} than alone"

    def _decide_by_stack(self, classes: Sequence[Tensor], is_whole_group: bool) -> str:
        if not self.leaves_unseen:
            return self._holds(classes)
        if is_whole_group:
            share = self.result.unseen_share
            return f"{CANNOT}, not all of it: {share:.2%} of image space stays unseen by the whole group"
        return f"{UNDECIDED}: {self._rest()}; raise max_elements (--max-elements)"

    def _stack_drawn(self) -> None:
        """Stack ever more of the drawn elements, until everything is seen."""
        count = 1
        while self.leaves_unseen:
            self._stack(self.drawn[:count])
            if count >= len(self.drawn):
                break
            count *= 2

    def _stack(self, elements: Sequence[Tensor]) -> None:
        self.full = self.alone.with_elements(elements)
        self.result.coverage.append((len(elements), self.full.seen()))

    # ---- groups that interpolate pixels: see `ei.diagnosis.isotropic` -----------------------------------------------

    def _decide_interpolating(self, examined: Sequence[Tensor], unseen: Tensor) -> str:
        problem = self.problem
        result = self.result
        self.threshold = INTERPOLATION_LOSS
        isotropic = Isotropic(self.alone, unseen)
        result.elements = examine_elements(self.alone, examined, isotropic)
        result.gain = gain = isotropic.gain(self.drawn[:COMPARED])
        result.effective_is_bound = True
        band = blind_band(self.alone) if keeps_modulus(problem.transform) else None
        if band is not None:
            part = ", not all of it" if gain is not None and gain >= GAIN else ""
            return (
                f"{CANNOT}{part}: of details of {band[0]:.2f} to {band[1]:.2f} cycles a pixel A sees nothing in any "
                "direction, and no element of the group makes details finer or coarser"
            )
        if gain is None:
            return (
                f"{UNDECIDED}: the null space is {result.unseen_share:.2%} of image space, and no isotropic filter of "
                "that rank exists, with which interpolation could be compared"
            )
        if gain >= GAIN:
            return self._decide_by_classes(isotropic)
        if gain <= NO_GAIN and problem.exact and problem.all_elements is not None:
            return self._decide_by_whole_group(isotropic, problem.all_elements)
        limits = f"up to {NO_GAIN} there is nothing to learn, from {GAIN} on there is"
        return f"{UNDECIDED}: {_like_a_filter(gain)} ({limits if gain > NO_GAIN else self._examined_elements()})"

    def _decide_by_whole_group(self, isotropic: Isotropic, all_elements: list[Tensor]) -> str:
        gain, strongest = isotropic.gains_of_group(all_elements)
        self.result.gain = gain
        if gain <= NO_GAIN and strongest <= STRONGEST:
            self.result.effective_is_bound = False
            return f"{CANNOT}: {_like_a_filter(gain)}"
        return f"{UNDECIDED}: {_like_a_filter(gain)}, some elements {strongest:.2f} times"

    def _decide_by_classes(self, isotropic: Isotropic) -> str:
        problem = self.problem
        few = self.drawn if problem.exact else self.drawn[:8]
        classes, may_be_more = interpolated_classes(self.alone, few, self._most_classes(), isotropic)
        self.result.effective = 1 + len(classes)
        self._stack_drawn()
        is_whole_group = problem.exact and problem.all_elements is not None and len(few) >= len(problem.all_elements)
        cannot = CANNOT if is_whole_group else UNDECIDED
        if not classes or (not may_be_more and self.result.ratio < 1 - self.threshold):
            return (
                f"{cannot}: rank(A) * |G_eff| / n = {self.result.ratio:.3g}, and what more the stack sees is made by "
                f"interpolation ({self._examined_elements()})"
            )
        if self.leaves_unseen:
            return f"{cannot}{', not all of it' if is_whole_group else ''}: {self._rest()}"
        return self._holds(classes)

    # ---- words ------------------------------------------------------------------------------------------------------

    def _most_classes(self) -> int:
        """How many classes are searched for: half as many again as could show all of image space."""
        enough = math.ceil(1.5 / max(self.result.coverage[0][1], 1 / self.problem.n))
        return max(8, min(enough, 24)) if self.problem.exact else max(3, min(enough, 8))

    def _holds(self, classes: Sequence[Tensor]) -> str:
        ratio = self.result.ratio
        is_bound = self.result.effective_is_bound
        figures = f"rank(A) * |G_eff| / n {'>' if is_bound else ''}= {ratio:.3g}"
        if not is_bound and (ratio <= 1 + 1e-6 or needs_every_class(self.alone, classes, self.threshold)):
            views = f"every one of the {self.result.effective} views is needed"
            return f"{HOLDS} without margin: {figures}, and {views} (not a guarantee)"
        margin = f"{'>= ' if is_bound else ''}{ratio - 1:.2g}" if ratio >= 1 else "not counted to its end"
        return f"{HOLDS}, margin {margin}: {figures} (not a guarantee)"

    def _examined_elements(self) -> str:
        count = len(self.drawn)
        if self.problem.all_elements is None:
            return f"the {count} elements examined (the group has more, which were not)"
        if count >= len(self.problem.all_elements):
            return f"all {count} elements"
        return f"the {count} elements examined (the other {len(self.problem.all_elements) - count} were not)"

    def _rest(self) -> str:
        share = self.result.unseen_share
        return f"not all of image space is seen by {self._examined_elements()}: {share:.2%} of it stays unseen"


def _like_a_filter(gain: float) -> str:
    return (
        f"of the null space the views show {gain:.2f} times what they do of an isotropic filter's, to which rotations "
        "bring nothing"
    )
