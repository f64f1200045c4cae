"""The tiles that images divide into."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from ei.common.checks import check_number
from ei.datasets.batches import image_of, index_in_whole
from ei.errors import InputError
from ei.physics.tiles import tile_places


class Tiles(Dataset):
    """The square tiles that the images (or measurements, or pairs of both) of a data set divide into, ``[C, side,
    side]``: those of an image follow one another, row by row. They are as few as cover it, and overlap where ``side``
    does not divide its height or width. `ei.physics.TiledInpainting` is their operator.

    Raises:
        InputError: for a side that the images do not have, or (when an item is taken) an image of another shape.

    >>> tiles = Tiles([torch.rand(3, 100, 64)], 64)
    >>> len(tiles), tiles[0].shape
    (2, torch.Size([3, 64, 64]))
    """

    def __init__(self, dataset: Any, side: int) -> None:
        self.dataset = dataset
        self.side = check_number("side", side, integer=True)
        self.shape = image_of(dataset[0]).shape[-2:]
        self.places = tile_places(self.shape, self.side)

    @property
    def per_image(self) -> int:
        return len(self.places)

    def __len__(self) -> int:
        return len(self.dataset) * self.per_image

    def place_of(self, index: int) -> int:
        image, tile = divmod(index, self.per_image)
        return index_in_whole(self.dataset, image) * self.per_image + tile

    def __getitem__(self, index: int) -> Tensor | tuple[Tensor, ...]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        item = self.dataset[index // self.per_image]
        if not isinstance(item, list | tuple):
            return self._tile(item, index)
        return tuple(self._tile(x, index) if isinstance(x, Tensor) and x.dim() > 1 else x for x in item)

    def _tile(self, image: Tensor, index: int) -> Tensor:
        image = image_of(image)[0]
        if image.shape[-2:] != self.shape:
            sides = [" x ".join(map(str, shape)) for shape in (self.shape, image.shape[-2:])]
            raise InputError(f"tiles need images of one shape, got {sides[0]} and {sides[1]}")
        row, column = self.places[index % self.per_image]
        return image[:, row : row + self.side, column : column + self.side]
