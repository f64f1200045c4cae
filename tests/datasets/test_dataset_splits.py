"""The validation set of a run."""

from __future__ import annotations

import pytest
import torch

from ei.datasets import (
    Tiles,
    make_loader,
    split_validation,
)
from ei.datasets.batches import Indexed
from ei.datasets.validation import split_by_mode
from ei.errors import InputError


def test_a_part_is_drawn_once_and_keeps_its_numbers() -> None:
    """Not the last ones in the order of the files; and noise and operators go by the number in the whole."""
    images = torch.rand(20, 8, 8)
    train, rest = split_validation(images, 0.2, "images")
    assert len(rest) == 4 and sorted([*train.indices, *rest.indices]) == list(range(20))
    assert rest.indices != [16, 17, 18, 19] and split_validation(images, 0.2, "images")[1].indices == rest.indices
    items = [Indexed(rest)[k] for k in range(4)]
    assert [item["index"] for item in items] == rest.indices
    assert all(torch.equal(item["x"], images[item["index"]]) for item in items)
    batch = next(iter(make_loader(train, 16, shuffle=False)))
    assert batch["index"].tolist() == train.indices
    assert (
        len(split_validation(range(12), 0.1, "they")[1]) == 2 and len(split_validation(range(70), 0.1, "they")[1]) == 7
    )


def test_tiles_of_an_image_stay_together() -> None:
    train, rest = split_validation(Tiles(torch.rand(6, 8, 8), 4), 0.3, "tiles")
    assert len(rest) == 8 and not {i // 4 for i in rest.indices} & {i // 4 for i in train.indices}


def test_something_must_be_left() -> None:
    with pytest.raises(
        InputError,
        match=r"the measurements are 1: a validation fraction \(--held-out\) of 0.1 leaves none .*--held-out 0$",
    ):
        split_validation(range(1), 0.1, "the measurements")
    for fraction in (0.0, 1.0, "a tenth"):
        with pytest.raises(InputError, match="validation fraction"):
            split_validation(range(10), fraction, "the images")


@pytest.mark.parametrize("count", [2, 10, 19])
def test_nine_tenths_train(count: int) -> None:
    train, test = (split_by_mode(range(count), mode, "the images") for mode in ("train", "test"))
    assert [*train, *test] == list(range(count)) and len(train) == count * 9 // 10
    for mode, number in (("validation", count), ("train", 1)):
        with pytest.raises(InputError):
            split_by_mode(range(number), mode, "the images")
