"""Inpainting of the tiles of images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ei.common.checks import check_number
from ei.errors import InputError
from ei.physics.inpainting import Inpainting


class TiledInpainting(Inpainting):
    """`Inpainting` of the tiles that images divide into (`ei.datasets.Tiles`), each under its part of the mask. Each
    pixel is measured as in the whole image, so a network trained on tiles reconstructs whole images by ``f.of(whole)``.

    Args:
        whole: the operator of whole images; the attribute ``whole`` is what a checkpoint carries.
        side: of the tiles, in pixels.

    Raises:
        InputError: for another operator, a side larger than the images, or a tile without a measured pixel.

    >>> whole = Inpainting(32, 64)
    >>> TiledInpainting(whole, 32).of([1]).A(torch.ones(1, 3, 32, 32)).shape
    torch.Size([1, 3, 32, 32])
    """

    def __init__(self, whole: Inpainting, side: int) -> None:
        if not isinstance(whole, Inpainting):
            raise InputError(
                f"tiles need an operator that measures each pixel by itself, Inpainting, not {type(whole).__name__}"
            )
        places = tile_places(whole.image_shape, side)
        masks = torch.stack(
            [whole.sampling_mask[..., row : row + side, column : column + side] for row, column in places], 1
        )
        empty = ~masks.flatten(2).any(-1).all(0)
        if bool(empty.any()):
            row, column = places[int(empty.nonzero()[0])]
            raise InputError(
                f"no pixel of the {side} x {side} tile at row {row}, column {column} is measured; choose larger tiles"
            )
        super().__init__(side, side, mask=masks.flatten(0, 1), device=whole.mask.device, noise=whole.noise)
        self.whole = whole
        self.tiles = len(places)

    def of(self, indices: Sequence[int] | Tensor | None) -> Inpainting:
        """The operator of the tiles with these indices: those of an image follow one another (`ei.datasets.Tiles`)."""
        if indices is not None and self.whole.count == 1:
            indices = torch.as_tensor(indices) % self.tiles
        return super().of(indices)


def tile_places(shape: Sequence[int], side: int) -> list[tuple[int, int]]:
    """Row and column of the first pixel of each tile of ``side`` x ``side`` pixels, row by row: as few as cover images
    of ``shape`` (..., H, W), evenly spread, so that they overlap where ``side`` does not divide H or W."""
    height, width = shape[-2:]
    if check_number("the side of tiles", side, integer=True, least=1) > min(height, width):
        raise InputError(f"images of {height} x {width} have no tiles of {side} x {side}")

    def starts(length: int) -> list[int]:
        count = -(-length // side)
        return [round(k * (length - side) / max(1, count - 1)) for k in range(count)]

    return [(row, column) for row in starts(height) for column in starts(width)]
