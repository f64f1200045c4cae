"""Training on the tiles of images, each under its part of the mask."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Result
from PIL import Image

import ei
from ei.closure import EIClosure
from ei.common.files import load_file
from ei.datasets import Tiles, make_loader, split_validation
from ei.datasets.batches import index_in_whole
from ei.errors import InputError
from ei.evaluation import evaluate
from ei.models import UNet, Unrolled
from ei.physics import CT, GaussianNoise, Inpainting, TiledInpainting
from ei.physics.tiles import tile_places
from ei.training import Trainer
from ei.transforms import Shift

SMALL = ["--method", "ei", "--base-channels", 4, "--epochs", 2, "--device", "cpu", "--norm", "none", "--tile", 8]


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
        with pytest.raises(InputError, match="masks for"):
            tiled.of([3 * len(tile_places((9, 11), side))])


def test_the_adjoint_of_tiles() -> None:
    physics = TiledInpainting(Inpainting(9, 11, mask_rate=0.4), 5).of([3, 8])
    x, y = torch.randn(2, 3, 5, 5, dtype=torch.float64, requires_grad=True), torch.randn(2, 3, 5, 5).double()
    left = (physics.A(x) * y).sum()
    assert left.item() == pytest.approx((x * physics.A_adjoint(y)).sum().item(), rel=1e-12)
    assert torch.equal(torch.autograd.grad(left, x)[0], physics.A_adjoint(y))


def test_tiles_of_an_image_judge_together() -> None:
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


def images_in(folder: Path, count: int = 4, size: tuple[int, int] = (16, 24)) -> None:
    rng = np.random.default_rng(0)
    for k in range(count):
        (folder / str(k)).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"{k}.png")


def test_a_run_on_tiles_is_of_the_whole_operator(script: Callable[..., Result], tmp_path: Path) -> None:
    """Tiles are trained on, their checkpoint carries the operator of whole images and is tested and continued by it."""
    images_in(tmp_path / "images")
    common = ["--task", "inpainting", "--data", "images", "--test-fraction", 0.25, *SMALL]
    done = script("ei train", *common, "--out", "run")
    assert done.code == 0, done
    state = load_file("run/ckp_last.pth.tar")
    assert state["step"] == 2 * 3 * 6 and state["mask"].shape == (16, 24) and state["physics"]["name"] == "Inpainting"
    assert isinstance(ei.load("run/ckp_last.pth.tar").physics, Inpainting)
    tested = script("ei test", "--ckp", "run/ckp_last.pth.tar", "--out", "test")
    assert tested.code == 0 and len(Path("test/metrics.csv").read_text().splitlines()) == 2, tested

    assert script("ei train", *common, "--epochs", 1, "--out", "again").code == 0
    done = script("ei train", "--resume", "again/ckp_last.pth.tar", "--epochs", 2)
    assert done.code == 0, done
    again = load_file("again/ckp_last.pth.tar")["state_dict"]
    assert all(torch.equal(value, again[name]) for name, value in state["state_dict"].items())
    assert "--tile" in script("ei train", "--resume", "again/ckp_last.pth.tar", "--epochs", 3, "--tile", 16).err


def test_tiles_of_measurements_alone_and_of_pairs(script: Callable[..., Result], tmp_path: Path) -> None:
    """What is measured of whole images trains as its tiles, with noise the same as was drawn in it."""
    x = torch.rand(4, 3, 16, 16)
    physics = Inpainting(16, 16, mask=masks_of(4), noise=GaussianNoise(0.1))
    y = torch.cat([physics.of([k]).A(x[k : k + 1]) for k in range(4)])
    for name, array in (("x", x), ("y", y), ("m", physics.mask)):
        np.save(tmp_path / f"{name}.npy", array.numpy())
    common = ["--task", "inpainting", "--mask", "m.npy", "--measurements", "y.npy", "--held-out", 0.25, *SMALL]
    done = script("ei train", *common, "--out", "alone")
    assert done.code == 0 and load_file("alone/ckp_last.pth.tar")["step"] == 2 * 3 * 4, done
    assert load_file("alone/ckp_last.pth.tar")["mask"].shape == (4, 1, 16, 16)
    done = script("ei train", *common, "--truth", "x.npy", "--method", "sup", "--out", "pairs")
    assert done.code == 0 and "A x of --truth fits y to 0.0%" in done.out, done
    judged = ["--measurements", "y.npy", "--truth", "x.npy"]
    done = script("ei test", "--ckp", "pairs/ckp_last.pth.tar", *judged, "--out", "test")
    assert done.code == 0 and "\nSup  " in done.out and "\nEI  " not in done.out, done
    done = script("ei test", "--ckp", "alone/ckp_last.pth.tar", *judged, "--model-name", "Mine", "--out", "test")
    assert done.code == 0 and "\nMine  " in done.out, done


def masks_of(count: int) -> torch.Tensor:
    return (torch.rand(count, 1, 16, 16) < 0.7).float()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "ct", "--data", "synthetic", "--tile", 8], "measures each pixel by itself, Inpainting, not CT"),
        (["--task", "inpainting", "--data", "images", "--tile", 32], "16 x 24 have no tiles of 32 x 32"),
        (["--task", "inpainting", "--data", "images", "--tile", 8, "--patch", 8], "choose one"),
        (["--task", "inpainting", "--data", "images", "--tile", 0], "--tile"),
    ],
)  # fmt: skip
def test_what_has_no_tiles_says_so(
    script: Callable[..., Result], tmp_path: Path, arguments: list, message: str
) -> None:
    images_in(tmp_path / "images")
    done = script("ei train", *arguments, "--epochs", 1, "--base-channels", 4, "--out", "run")
    assert done.code and message in done.err and not Path("run").exists(), done


def test_images_of_two_shapes_have_no_tiles_together() -> None:
    with pytest.raises(InputError, match="one shape, got 8 x 8 and 8 x 9"):
        Tiles([torch.rand(8, 8), torch.rand(8, 9)], 4)[4]
    with pytest.raises(IndexError):
        Tiles([torch.rand(8, 8)], 4)[4]
    with pytest.raises(InputError, match="not CT"):
        TiledInpainting(CT(8, 4), 4)  # type: ignore[arg-type]


def test_a_tile_that_nothing_is_measured_of_is_told() -> None:
    mask = torch.ones(8, 12)
    mask[4:, 4:8] = 0
    with pytest.raises(InputError, match=r"4 x 4 at row 4, column 4 no pixel is measured.*choose larger tiles"):
        TiledInpainting(Inpainting(8, 12, mask=mask), 4)
    assert TiledInpainting(Inpainting(8, 12, mask=mask), 6).count == 4
