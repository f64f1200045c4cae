"""Training on tiles by command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Result
from PIL import Image

import ei
from ei.common.files import load_file
from ei.physics import GaussianNoise, Inpainting

SMALL = ["--method", "ei", "--base-channels", 4, "--epochs", 2, "--device", "cpu", "network.norm=none", "data.tile=8"]


def images_in(folder: Path, count: int = 4, size: tuple[int, int] = (16, 24)) -> None:
    rng = np.random.default_rng(0)
    for k in range(count):
        (folder / str(k)).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"{k}.png")


@pytest.mark.slow
def test_a_run_on_tiles_is_of_the_whole_operator(script: Callable[..., Result], tmp_path: Path) -> None:
    """Tiles are trained on, their checkpoint carries the operator of whole images and is tested and continued by it."""
    images_in(tmp_path / "images")
    common = ["--task", "inpainting", "--data", "images", "data.train.test_fraction=0.25", *SMALL]
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
    done = script("ei train", "--resume", "again/ckp_last.pth.tar", "--epochs", 3, "data.tile=16")
    assert done.code == 2 and "data.tile 16 contradicts" in done.err, done


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
    assert done.code == 0 and "A x of the ground truth fits y to 0.0%" in done.out, done
    pairs = ["--measurements", "y.npy", "--truth", "x.npy"]
    done = script("ei test", "--ckp", "pairs/ckp_last.pth.tar", *pairs, "--out", "test")
    assert done.code == 0 and "\nSup  " in done.out and "\nEI  " not in done.out, done
    done = script("ei test", "--ckp", "alone/ckp_last.pth.tar", *pairs, "--model-name", "Mine", "--out", "test")
    assert done.code == 0 and "\nMine  " in done.out, done


def masks_of(count: int) -> torch.Tensor:
    return (torch.rand(count, 1, 16, 16) < 0.7).float()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "ct", "--data", "synthetic", "data.tile=8"], "measures each pixel by itself, Inpainting, not CT"),
        (["--task", "inpainting", "--data", "images", "data.tile=32"], "16 x 24 have no tiles of 32 x 32"),
        (["--task", "inpainting", "--data", "images", "data.tile=0"], "data.tile must be a whole number >= 1, got 0"),
    ],
)  # fmt: skip
def test_what_has_no_tiles_says_so(
    script: Callable[..., Result], tmp_path: Path, arguments: list, message: str
) -> None:
    images_in(tmp_path / "images")
    done = script("ei train", *arguments, "--epochs", 1, "--base-channels", 4, "--out", "run")
    assert done.code and message in done.err and not Path("run").exists(), done
