"""Patches of images, drawn once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ei.common.seeds import generator
from ei.datasets.batches import image_of
from ei.errors import InputError


class FixedCrops(Dataset):
    """Square patches of the images of a data set, ``[C, size, size]``: ``per_image`` from each, at places drawn once,
    a function of the item's number.

    Raises:
        InputError: for numbers below 1, or (when an item is taken) an image smaller than the patch.
    """

    def __init__(self, dataset: Any, size: int, per_image: int = 1) -> None:
        if size < 1 or per_image < 1:
            raise InputError(f"patches need a size and a number of at least 1, not {size} and {per_image}")
        self.dataset, self.size, self.per_image = dataset, int(size), int(per_image)

    def __len__(self) -> int:
        return len(self.dataset) * self.per_image

    def __getitem__(self, index: int) -> Tensor:
        if not 0 <= index < len(self):
            raise IndexError(index)
        image = image_of(self.dataset[index // self.per_image])[0]
        room = [side - self.size for side in image.shape[-2:]]
        if min(room) < 0:
            raise InputError(f"images of {image.shape[-2]} x {image.shape[-1]} have no patches of {self.size}")
        rng = generator(0, "patch", index)
        row, column = (int(torch.randint(r + 1, (), generator=rng)) for r in room)
        return image[:, row : row + self.size, column : column + self.size]
