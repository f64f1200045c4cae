"""Tiles of images, each under its part of the mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ei.closure import EIClosure
from ei.datasets import Tiles, make_loader, split_validation
from ei.datasets.batches import index_in_whole
from ei.errors import InputError
from ei.evaluation import evaluate
from ei.models import UNet, Unrolled
from ei.physics import CT, Inpainting, TiledInpainting
from ei.physics.tiles import tile_places
from ei.training import Trainer
from ei.transforms import Shift


@pytest.mark.parametrize(("shape", "side"), [((8, 8), 8), ((16, 8), 4), ((13, 10), 5), ((7, 9), 7), ((5, 3), 1)])
def test_tiles_cover_an_image_and_are_as_few_as_can(shape: tuple[int, int], side: int) -> None:
    covered = torch.zeros(shape)
    places = tile_places(shape, side)
    for row, column in places:
        assert covered[row : row + side, column : column + side].shape == (side, side)
        covered[row : row + side, column : column + side] += 1
    assert bool((covered >= 1).all())
    assert len(set(places)) == len(places) == -(-shape[0] // side) * -(-shape[1] // side)


@pytest.mark.parametrize("masks", ["one", "each", "each channel"])
@pytest.mark.parametrize("side", [4, 5, 9])
def test_a_tile_of_measurements_is_the_measurement_of_a_tile(masks: str, side: int) -> None:
    drawn = {"one": (9, 11), "each": (3, 1, 9, 11), "each channel": (3, 2, 9, 11)}[masks]
    whole = Inpainting(9, 11, mask=(torch.rand(drawn) < 0.5).float())
    tiled = TiledInpainting(whole, side)
    images = torch.rand(3, 2, 9, 11)
    measured = whole.of(range(3)).A(images)
    xs, ys = Tiles(list(images), side), Tiles(list(measured), side)
    numbers = [7 % len(xs), len(xs) - 1, 0]
    x, y = (torch.stack([tiles[index] for index in numbers]) for tiles in (xs, ys))
    assert torch.equal(tiled.of(numbers).A(x), y) and torch.equal(tiled.of(torch.tensor(numbers)).A_dagger(y), y)
    pairs = Tiles(list(zip(measured, images, strict=True)), side)
    assert all(torch.equal(*both) for k in numbers for both in zip(pairs[k], (ys[k], xs[k]), strict=True))
    if masks != "one":
        with pytest.raises(InputError, match="there is a mask for each of"):
            tiled.of([3 * len(tile_places((9, 11), side))])


def test_the_adjoint_of_tiles() -> None:
    physics = TiledInpainting(Inpainting(9, 11, mask_rate=0.4), 5).of([3, 8])
    x, y = torch.randn(2, 3, 5, 5, dtype=torch.float64, requires_grad=True), torch.randn(2, 3, 5, 5).double()
    left = (physics.A(x) * y).sum()
    assert left.item() == pytest.approx((x * physics.A_adjoint(y)).sum().item(), rel=1e-12)
    assert torch.equal(torch.autograd.grad(left, x)[0], physics.A_adjoint(y))


def test_tiles_of_an_image_are_validated_together() -> None:
    tiles = Tiles(torch.rand(6, 8, 8), 4)
    train, rest = split_validation(tiles, 0.3, "tiles")
    held = {index_in_whole(rest, k) // 4 for k in range(len(rest))}
    assert len(held) == 2 and len(rest) == 8 and len(train) == 16
    assert not held & {index_in_whole(train, k) // 4 for k in range(len(train))}
    batch = next(iter(make_loader(tiles, 3, shuffle=False)))
    assert torch.equal(batch["x"], tiles.dataset[0].view(2, 4, 2, 4).transpose(1, 2).reshape(4, 1, 4, 4)[:3])


def test_what_learned_on_tiles_reconstructs_whole_images() -> None:
    whole = Inpainting(16, 24, mask_rate=0.3)
    tiled = TiledInpainting(whole, 8)
    f = Unrolled(UNet(1, 1, base_channels=4, norm="none"), tiled, iterations=1)
    images = torch.rand(2, 1, 16, 24)
    optimizer = torch.optim.Adam(f.net.parameters())
    trainer = Trainer(f, tiled, Shift(1), EIClosure(alpha=1), {"total": optimizer}, epochs=1, out=False, progress=False)
    trainer.fit(make_loader(Tiles(images, 8), 3))
    assert trainer.step == 4
    rows = evaluate(f.of(whole), whole, images)
    assert len(rows) == 2 and all(np.isfinite(row["psnr_net"]) for row in rows)


def test_images_of_two_shapes_have_no_tiles_together() -> None:
    with pytest.raises(InputError, match="one shape, got 8 x 8 and 8 x 9"):
        Tiles([torch.rand(8, 8), torch.rand(8, 9)], 4)[4]
    with pytest.raises(IndexError):
        Tiles([torch.rand(8, 8)], 4)[4]
    with pytest.raises(InputError, match="not CT"):
        TiledInpainting(CT(8, 4), 4)  # type: ignore[arg-type]


def test_a_tile_without_measured_pixels_raises() -> None:
    mask = torch.ones(8, 12)
    mask[4:, 4:8] = 0
    with pytest.raises(InputError, match="no pixel of the 4 x 4 tile at row 4, column 4 is measured"):
        TiledInpainting(Inpainting(8, 12, mask=mask), 4)
    assert TiledInpainting(Inpainting(8, 12, mask=mask), 6).count == 4
