"""Learning rates: a schedule is a function that gives the factor of the learning rate.

It is called with the epoch, counted from 0; a function of the step is marked by `by_step`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable

from ei.common.checks import check_number
from ei.errors import InputError

LearningRate = Callable[[int], float]


def by_step(schedule: LearningRate) -> LearningRate:
    """A schedule that is called with the optimiser step, counted from 0, instead of the epoch.

    >>> warm_up = by_step(lambda step: min(1.0, (step + 1) / 100))
    >>> warm_up(49)
    0.5
    """
    factor = functools.partial(schedule)
    factor.of_step = True  # type: ignore[attr-defined]
    return factor


def step_schedule(milestones: Iterable[int] = ()) -> LearningRate:
    """The learning rate's factor: x0.1 at each milestone (epochs counted from 0).

    Raises:
        InputError: for milestones that are no list of epochs >= 0.

    >>> schedule = step_schedule([2000, 3000])
    >>> schedule(1999), schedule(2000)
    (1.0, 0.1)
    """
    if isinstance(milestones, str) or not isinstance(milestones, Iterable):
        raise InputError(f"milestones must be a list of epochs, got {milestones!r}")
    drops = sorted(check_number("milestones", epoch, integer=True, least=0) for epoch in milestones)
    return lambda epoch: 0.1 ** sum(epoch >= drop for drop in drops)


def cosine_schedule(epochs: int) -> LearningRate:
    """The learning rate's factor ``(1 + cos(pi * epoch / epochs)) / 2``.

    Raises:
        InputError: for ``epochs`` that are no whole number of at least 1.

    >>> schedule = cosine_schedule(10)
    >>> schedule(0), round(schedule(5), 3)
    (1.0, 0.5)
    """
    epochs = check_number("epochs", epochs, integer=True, least=1)
    return lambda epoch: (1 + math.cos(math.pi * epoch / epochs)) / 2


def one_cycle_schedule(epochs: int, rise: float = 0.3) -> LearningRate:
    """The learning rate's factor that climbs linearly over the first ``rise`` of the epochs and then falls as a cosine
    (Smith & Topin, "Super-convergence", 2018): it allows a higher peak than a schedule that begins there.

    Raises:
        InputError: for a ``rise`` out of [0, 1], or ``epochs`` that are no whole number of at least 1.

    >>> schedule = one_cycle_schedule(10)
    >>> schedule(0), schedule(3)
    (0.25, 1.0)
    """
    rise = check_number("rise", rise, least=0, most=1)
    epochs = check_number("epochs", epochs, integer=True, least=1)
    top = max(1, round(rise * epochs)) if epochs > 1 else 0
    fall = cosine_schedule(max(1, epochs - top))
    return lambda epoch: (epoch + 1) / (top + 1) if epoch < top else fall(epoch - top)
