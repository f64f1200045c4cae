"""Noise of runs by command: known, unknown, carried by checkpoints."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Result
from makers import train
from PIL import Image

import ei
from ei.closure import SUREClosure
from ei.commands.presets import METHODS, closure_for, problem
from ei.common.files import load_file, save_file
from ei.errors import InputError
from ei.physics import (
    GaussianNoise,
)

Script = Callable[..., Result]


def test_noise_unknown_by_commands(script: Script) -> None:
    """From measurements alone: the level starts a hundred times below them and rises, in the log and in what is said.
    (To the end, 600 steps of a larger network, it came to 0.308 where the relation above says 0.311.)"""
    y = torch.rand(20, 1, 16, 16, generator=torch.Generator().manual_seed(0)) + 0.5
    np.save("y.npy", y.numpy())
    Path("p.yaml").write_text("{name: Inpainting, img_height: 16, img_width: 16, mask_rate: 0}\n")
    train = ("ei train", "--physics", "p.yaml", "--measurements", "y.npy", "--noise", "unknown", "network.norm=none",
             "--base-channels", 2, "--batch-size", 6, "--device", "cpu")  # fmt: skip
    done = script(*train, "--method", "sure", "--epochs", 2, "--out", "run")
    assert done.code == 0, done.err
    levels = np.genfromtxt("run/training_loss.csv", delimiter=",", names=True)["sigma"]
    start = 0.01 * float(y[:18].square().mean().sqrt())
    assert levels[0] == pytest.approx(start, rel=0.05) and levels[0] < levels[1]
    found = float(re.search(r"sigma = (\S+) was found", done.out)[1])
    assert found == pytest.approx(
        float(load_file("run/ckp_last.pth.tar")["state_dict_level"]["log_sigma"].exp()), rel=1e-3
    )
    # It resumes, and tells what it cannot do.
    done = script("ei train", "--resume", "run/ckp_last.pth.tar", "--epochs", 3)
    again = float(re.search(r"sigma = (\S+) was found", done.out)[1])
    assert done.code == 0 and found < again < 1.2 * found, done.err
    assert script("ei reconstruct", "--ckp", "run/ckp_best.pth.tar", "--input", "y.npy", "--output", "x.npy").code == 0
    images = ("ei train", "--task", "ct", "--data", "synthetic", "--noise", "unknown", "--method", "rei")
    for wrong, said in (
        ((*train, "--method", "ei"), "sure and rei"),
        ((*train, "--method", "sure", "--precision", "bf16"), "bf16"),
        (images, "noise=gaussian:0.1"),
    ):
        refused = script(*wrong, "--out", "no")
        assert refused.code == 2 and said in refused.err and refused.err.count("\n") == 1, refused
    done = script(*images, "noise=gaussian:0.5", "--base-channels", 2, "--ei-trans", 1, "--epochs", 1, "--max-steps", 1,
                  "--device", "cpu", "--out", "level")  # fmt: skip
    assert done.code == 0 and ei.load("level/ckp_last.pth.tar").physics.noise.sigma == 0.5, done.err


def test_the_noise_of_a_checkpoint(tmp_path: Path) -> None:
    train(tmp_path / "run", SUREClosure(), GaussianNoise(0.1))
    state = load_file(tmp_path / "run" / "ckp_last.pth.tar")
    assert ei.load(tmp_path / "run" / "ckp_last.pth.tar").physics.noise.sigma == 0.1
    save_file({**state, "noise": None}, tmp_path / "without.pth.tar")
    assert ei.load(tmp_path / "without.pth.tar").physics.noise is None
    for noise, message in (
        ({"name": "CT", "img_width": 8, "radon_view": 3}, "noise.name must be a class, got 'CT'; it is one of Gauss"),
        ({"name": "PoissonNoise", "gain": -1.0}, "noise.gain must be finite and > 0"),
        ({"name": "/nowhere/evil.py:N"}, "imported only if it is typed"),
    ):
        save_file({**state, "noise": noise}, tmp_path / "odd.pth.tar")
        with pytest.raises(InputError, match=message):
            ei.load(tmp_path / "odd.pth.tar")


def test_the_commands_train_with_noise_and_a_checkpoint_tells_it(script: Callable[..., Result]) -> None:
    for mode in ("train", "test"):
        (Path("images") / mode).mkdir(parents=True)
        for index in range(3):
            pixels = np.random.default_rng(index).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(Path("images") / mode / f"{index}.png")
    train = ("ei train", "--task", "inpainting", "data.train={name: ImageTree, folder: images, resize: 16}",
             "--base-channels", 2, "--epochs", 1, "--device", "cpu", "--ei-trans", 1)  # fmt: skip
    headers = {"sure": "epoch,loss_sure,psnr,mse", "rei": "epoch,loss_sure,loss_ei,loss_total,psnr,mse"}
    for method, header in headers.items():
        done = script(*train, "--method", method, "--noise", "poisson:0.05", "--out", method)
        assert done.code == 0, done.err
        assert (Path(method) / "training_loss.csv").read_text().splitlines()[0] == header
    state = load_file("rei/ckp_last.pth.tar")
    assert state["config"]["noise"] == state["noise"] == {"name": "PoissonNoise", "gain": 0.05}
    assert script("ei test", "--ckp", "rei/ckp_last.pth.tar", "--out", "tested").code == 0
    refused = script(*train, "--method", "rei", "--out", "no")
    assert refused.code == 2 and "--noise" in refused.err and not Path("no").exists()
    for wrong, said in (
        (("--noise", "poisson:-1"), "gain"),
        (("--noise", "white:1"), "gaussian:SIGMA"),
        (("--noise", "gaussian:1", "physics.noise=gaussian:2"), "contradict"),
    ):
        refused = script(*train, "--method", "ei", *wrong, "--out", "no")
        assert refused.code == 2 and said in refused.err and refused.err.count("\n") == 1, refused


@pytest.mark.parametrize("unknown", [False, True])
@pytest.mark.parametrize("method", [method for method in METHODS if method not in ("sup", "ei_sup")])
def test_the_domain_reaches_the_closure(method: str, unknown: bool) -> None:
    """It is kept when the method changes."""
    if unknown and method not in ("sure", "rei"):
        pytest.skip("it needs no noise")
    tree = problem("ct")
    tree["closure"] |= {"mc_domain": "image", "stop_gradient": True}
    closure = closure_for(method, tree, unknown)
    assert closure["mc_domain"] == "image"
    assert ("stop_gradient" in closure) == (unknown or method not in ("mc", "split", "sure"))
