"""Parts of images: patches at places drawn once, and the tiles they divide into."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ei.common.seeds import generator
from ei.datasets.batches import image_of
from ei.errors import InputError
from ei.physics.tiles import tile_places


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


class Tiles(Dataset):
    """The square tiles that the images (or measurements, or pairs of both) of a data set divide into, ``[C, side,
    side]``: those of an image follow one another, row by row. They are as few as cover it, and overlap where ``side``
    does not divide its height or width. `ei.physics.TiledInpainting` is their operator.

    Raises:
        InputError: for a side that the images do not have, or (when an item is taken) an image of another shape.
    """

    def __init__(self, dataset: Any, side: int) -> None:
        self.dataset, self.side = dataset, int(side)
        self.shape = image_of(dataset[0]).shape[-2:]
        self.places = tile_places(self.shape, side)

    @property
    def per_image(self) -> int:
        return len(self.places)

    def __len__(self) -> int:
        return len(self.dataset) * self.per_image

    def __getitem__(self, index: int) -> Tensor | tuple[Tensor, ...]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        item = self.dataset[index // self.per_image]
        row, column = self.places[index % self.per_image]

        def tile(image: Tensor) -> Tensor:
            image = image_of(image)[0]
            if image.shape[-2:] != self.shape:
                sides = [" x ".join(map(str, shape)) for shape in (self.shape, image.shape[-2:])]
                raise InputError(f"tiles need images of one shape, and there are some of {sides[0]} and of {sides[1]}")
            return image[:, row : row + self.side, column : column + self.side]

        if not isinstance(item, list | tuple):
            return tile(item)
        return tuple(tile(part) if isinstance(part, Tensor) and part.dim() > 1 else part for part in item)
