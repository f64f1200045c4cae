"""Divisions of a data set: training and test set, and the validation set of a run."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.utils.data import Subset

from ei.common.checks import check_choice, check_number
from ei.common.seeds import generator
from ei.errors import InputError


def split_by_mode(images: Any, mode: str, what: str) -> Any:
    """The first nine tenths of ``images`` for mode "train", the rest for "test". Raises `InputError` for another mode,
    or fewer than two images, which ``what`` names."""
    check_choice("mode", mode, ("train", "test"))
    n_train = len(images) * 9 // 10
    if n_train == 0:
        raise InputError(f"{what} are {len(images)}; at least 2 are needed for a training and a test set")
    return images[:n_train] if mode == "train" else images[n_train:]


def split_validation(dataset: Any, fraction: float, what: str) -> tuple[Subset, Subset]:
    """The training and the validation set of a data set, drawn in the same way for every run.

    Args:
        dataset: of images or measurements. The tiles of an image (`ei.datasets.Tiles`) stay together.
        fraction: of the validation set, in (0, 1); its size is rounded up.
        what: what the items are, for messages.

    Raises:
        InputError: for another fraction, or if nothing is left to train with.

    >>> train, validation = split_validation([torch.zeros(1, 8, 8)] * 10, 0.1, "images")
    >>> len(train), len(validation)
    (9, 1)
    """
    check_number("the validation fraction (--held-out)", fraction, above=0, below=1)
    each = getattr(dataset, "per_image", 1)
    count = len(dataset) // each
    size = math.ceil(round(fraction * count, 9))
    if size >= count:
        raise InputError(
            f"{what} are {count}: a validation fraction (--held-out) of {fraction:g} leaves none to train; give more, "
            "or --held-out 0"
        )
    validation = set(torch.randperm(count, generator=generator(0, "held out"))[:size].tolist())
    indices = range(len(dataset))
    return (
        Subset(dataset, [i for i in indices if i // each not in validation]),
        Subset(dataset, [i for i in indices if i // each in validation]),
    )
