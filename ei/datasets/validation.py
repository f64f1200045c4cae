"""A part of a data set that does not train: it judges."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.utils.data import Subset

from ei.common.seeds import generator
from ei.errors import InputError


class Portion(Subset):
    """A part of a data set whose items keep their numbers, which seed their noise and tell which operator is their
    own."""


def split_validation(dataset: Any, fraction: float, what: str) -> tuple[Portion, Portion]:
    """Divide a data set by a draw that is the same for every run: what trains, and what judges.

    Args:
        dataset: of images or measurements. The patches of an image (`ei.datasets.FixedCrops`) stay together.
        fraction: which part of it judges, in (0, 1), rounded up.
        what: what it is, in words, for the error.

    Raises:
        InputError: if nothing would be left to train with.
    """
    each = getattr(dataset, "per_image", 1)
    count = len(dataset) // each
    held = math.ceil(round(fraction * count, 9))
    if held >= count:
        raise InputError(f"{what} are {count}: {fraction:g} of them held out (--held-out) leaves none to train with")
    chosen = set(torch.randperm(count, generator=generator(0, "held out"))[:held].tolist())
    parts = [[i for i in range(len(dataset)) if (i // each in chosen) == held_out] for held_out in (False, True)]
    return Portion(dataset, parts[0]), Portion(dataset, parts[1])
