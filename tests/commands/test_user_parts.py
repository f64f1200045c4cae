"""User-defined parts, each in one file outside the project: trained, resumed, tested and reconstructed by command."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
import yaml
from conftest import Result

import ei
from ei.common.files import load_file
from ei.datasets import EllipsePhantoms
from ei.physics import CT

Script = Callable[..., Result]
SMALL = ("--base-channels", 2, "--epochs", 2, "-b", 3, "--ei-trans", 1, "--device", "cpu")

CLOSURE = '''
"""Noise2Inverse: reconstruct from a part of the views, compare with the FBP of the others (Hendriksen et al. 2020)."""
import torch
from ei.closure import Closure
from ei.physics import Split

class Noise2Inverse(Closure):
    columns = {"loss_n2i": "total"}

    def __init__(self, parts=2, **shared):
        super().__init__(**shared)
        self.parts = parts

    def __call__(self, f, physics, transform, y, x=None):
        views = torch.arange(y.shape[-1], device=y.device)
        losses = []
        for part in range(self.parts):
            kept = (views % self.parts != part).to(y).view(1, 1, 1, -1)
            rest = 1 - kept
            x1 = f.of(Split(physics, kept))(kept * y)
            losses.append(self.criterion(x1, Split(physics, rest).A_dagger(rest * y)))
        return {"total": torch.stack(losses).mean(), "x1": x1.detach()}
'''

TRAINED_CLOSURE = '''
"""Measurement consistency in units of a gain that is learned beside the network, by an optimiser of its own."""
import torch
from torch import nn
from ei.closure import Closure

class Gain(nn.Module):
    def __init__(self):
        super().__init__()
        self.log = nn.Parameter(torch.zeros(()))

    def forward(self):
        return self.log.exp()

class Learned(Closure):
    columns = {"loss": "total", "gain": "gain"}
    unscaled = ("gain",)

    def __init__(self, rate=0.1, **shared):
        super().__init__(**shared)
        self.rate = rate
        self.gain_module = Gain()

    def optimizers(self, f, lr):
        return {"gain_loss": torch.optim.Adam(self.gain_module.parameters(), lr=self.rate * lr)}

    def __call__(self, f, physics, transform, y, x=None):
        x1 = f(y)
        gain = self.gain_module()
        total = self.criterion(gain.detach() * physics.A(x1), y)
        gain_loss = self.criterion(gain * physics.A(x1.detach()), y)
        return {"total": total, "gain_loss": gain_loss, "gain": gain.detach(), "x1": x1.detach()}
'''

NETWORK = '''
"""A residual network of two layers."""
import torch
from torch import nn

class Two(nn.Module):
    def __init__(self, in_channels, width=4):
        super().__init__()
        self.a = nn.Conv2d(in_channels, width, 3, padding=1)
        self.b = nn.Conv2d(width, in_channels, 3, padding=1)

    def forward(self, x):
        return x + self.b(torch.relu(self.a(x)))
'''

DATA = '''
"""Squares."""
import torch
from torch.utils.data import Dataset

class Squares(Dataset):
    def __init__(self, mode="train", side=16, count=9):
        self.mode, self.side, self.count = mode, side, count if mode == "train" else 2

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        image = torch.zeros(1, self.side, self.side)
        image[:, 2 : 6 + index % 5, 3 : 9 + index % 3] = 1.0 if self.mode == "train" else 0.5
        return image
'''

GROUP = '''
"""Transposition, alone or with a flip."""

class Transpose:
    def __init__(self, flip=False):
        self.flip = flip

    def apply(self, x, elements=None):
        x = x.transpose(-1, -2)
        return x.flip(-1) if self.flip else x
'''

PHYSICS = '''
"""A sum of neighbouring rows."""
import torch

class Rows:
    image_shape = (1, 16, 16)

    def __init__(self, step=2):
        self.step = step

    def A(self, x):
        return x.unflatten(-2, (-1, self.step)).sum(-2)

    def A_dagger(self, y):
        return y.repeat_interleave(self.step, -2) / self.step
'''

NOISE = '''
"""Uniform noise."""
import torch

class Uniform:
    def __init__(self, width):
        self.width = width

    def __call__(self, y, generator=None):
        return y + self.width * (torch.rand(y.shape, generator=generator, dtype=y.dtype).to(y.device) - 0.5)
'''

SCHEDULE = '''
"""Halve the learning rate every so many epochs."""

def halving(every=1):
    return lambda epoch: 0.5 ** (epoch // every)
'''

# Of each part: its file, the key of the tree, what is typed, and which commands need it again.
PARTS = {
    "closure": (CLOSURE, "closure", "{name: code/part.py:Noise2Inverse, parts: 3}"),
    "closure with an optimiser": (TRAINED_CLOSURE, "closure", "{name: code/part.py:Learned, rate: 10}"),
    "network": (NETWORK, "network", "{name: code/part.py:Two, width: 3}"),
    "data set": (DATA, "data.train", "{name: code/part.py:Squares, count: 10}"),
    "group": (GROUP, "transform", "{name: code/part.py:Transpose, flip: true}"),
    "physics": (PHYSICS, "physics", "{name: code/part.py:Rows, step: 4}"),
    "noise": (NOISE, "noise", "{name: code/part.py:Uniform, width: 0.5}"),
    "schedule": (SCHEDULE, "schedule", "{name: code/part.py:halving, every: 1}"),
}
# What evaluates a reconstruction function: the others are of training alone.
OF_TESTS = ("network", "data set", "physics", "noise")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    x = torch.stack([EllipsePhantoms("train", 16, n_images=20)[i] for i in range(9)])
    scipy.io.savemat(tmp_path / "x.mat", {"DATA": x.numpy()})
    np.save(tmp_path / "y.npy", CT(16, 6).A(x[:, None])[:, 0].numpy())
    np.save(tmp_path / "rows.npy", x.unflatten(-2, (-1, 4)).sum(-2).numpy())
    (tmp_path / "code").mkdir()
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_a_part_in_one_file(script: Script, folder: Path, part: str) -> None:
    code, key, value = PARTS[part]
    (folder / "code" / "part.py").write_text(code)
    typed = f"{key}={value}"
    task = ("--group", "rotate90") if part == "physics" else ("--task", "ct", "--ct-views", 6)
    data = () if part == "data set" else ("--data", "x.mat")
    run = ("ei train", *task, *data, *SMALL, typed)
    done = script(*run, "--out", "whole")
    assert done.code == 0, done.err

    # The tree names it with its absolute path; config.yaml repeats the run.
    name = f"{folder}/code/part.py"
    described = yaml.safe_load((folder / "whole" / "config.yaml").read_text())
    for step in key.split("."):
        described = described[step]
    arguments = yaml.safe_load(value)
    assert described.items() >= {**arguments, "name": f"{name}:{arguments['name'].split(':')[1]}"}.items()
    assert script("ei train", "whole/config.yaml", "--out", "again").code == 0
    for file in ("ckp_last.pth.tar", "training_loss.csv", "config.yaml"):
        assert (folder / "whole" / file).read_bytes() == (folder / "again" / file).read_bytes(), file

    # Resumed exactly, when the code is typed again; rejected before anything is written if not.
    assert script(*run, "--out", "parts", "--max-steps", 2).code == 0
    resume = ("ei train", "--resume", "parts/ckp_last.pth.tar", "--max-steps", 100)
    before = (folder / "parts" / "ckp_last.pth.tar").read_bytes()
    done = script(*resume)
    assert done.code == 2 and done.err.count("\n") == 1, done
    assert f"{name}:" in done.err and "imported only if it is typed" in done.err and key in done.err, done.err
    assert (folder / "parts" / "ckp_last.pth.tar").read_bytes() == before
    done = script(*resume, typed)
    assert done.code == 0 and "continuing" in done.out, done.err
    for file in ("ckp_last.pth.tar", "training_loss.csv"):
        assert (folder / "whole" / file).read_bytes() == (folder / "parts" / file).read_bytes(), file

    # Tested and reconstructed with; what a reconstruction function needs not, is not needed.
    again = (typed,) if part in OF_TESTS else ()
    ckp = ("--ckp", "whole/ckp_last.pth.tar")
    if again:
        done = script("ei test", *ckp)
        assert done.code == 2 and "imported only if it is typed" in done.err and done.err.count("\n") == 1, done
    else:
        shutil.rmtree(folder / "code")
    done = script("ei test", *ckp, *again, "--out", "tested")
    assert done.code == 0 and (folder / "tested" / "metrics.csv").exists(), done.err
    used = again if part in ("network", "physics", "noise") else ()
    source = "rows.npy" if part == "physics" else "y.npy"
    done = script("ei reconstruct", *ckp, *used, "--input", source, "--output", "out.npy")
    assert done.code == 0 and np.load("out.npy").shape == (9, 16, 16), done.err


def test_a_run_continues_with_its_network_in_another_folder(script: Script, folder: Path) -> None:
    code, key, value = PARTS["network"]
    run = ("ei train", "--task", "ct", "--ct-views", 6, "--data", "x.mat", *SMALL, "--method", "mc")
    (folder / "code" / "part.py").write_text(code)
    assert script(*run, f"{key}={value}", "--out", "whole").code == 0
    assert script(*run, f"{key}={value}", "--out", "run", "--max-steps", 2).code == 0
    (folder / "code").rename(folder / "elsewhere")
    moved = value.replace("code/", "elsewhere/")
    resume = ("ei train", "--resume", "run/ckp_last.pth.tar", "--max-steps", 100)
    done = script(*resume, f"{key}={moved}")
    assert done.code == 0 and "note: the run continues with the network" in done.out, done
    whole, parts = (load_file(f"{name}/ckp_last.pth.tar")["state_dict"] for name in ("whole", "run"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    done = script(*resume, f"{key}={moved.replace('width: 3', 'width: 4')}")
    assert done.code == 2 and "network.width 4 contradicts" in done.err, done


def test_what_a_closure_trains_beside_the_network_is_saved_and_resumed(script: Script, folder: Path) -> None:
    (folder / "code" / "part.py").write_text(TRAINED_CLOSURE)
    typed = "closure={name: code/part.py:Learned, rate: 10}"
    run = ("ei train", "--task", "ct", "--ct-views", 6, "--data", "x.mat", *SMALL, typed)
    assert script(*run, "--out", "whole").code == 0
    for steps in (1, 3, 100):
        assert script(*run, "--out", "parts", "--resume", "auto", "--max-steps", steps).code == 0
    assert (folder / "whole/ckp_last.pth.tar").read_bytes() == (folder / "parts/ckp_last.pth.tar").read_bytes()
    state = load_file("whole/ckp_last.pth.tar")
    assert state["state_dict_gain_loss"]["log"].item() != 0 and "optimizer_gain_loss" in state
    assert state["optimizer_gain_loss"]["param_groups"][0]["lr"] == pytest.approx(10 * 5e-4)
    gains = np.genfromtxt("whole/training_loss.csv", delimiter=",", names=True)["gain"]
    assert gains[0] != gains[1]
    assert ei.load("whole/ckp_last.pth.tar").net.state_dict().keys() == state["state_dict_G"].keys()


def test_a_closure_that_trains_no_module_of_its_own_is_an_error(script: Script, folder: Path) -> None:
    code = TRAINED_CLOSURE.replace("self.gain_module.parameters()", "[torch.nn.Parameter(torch.zeros(1))]")
    (folder / "code" / "part.py").write_text(code)
    done = script("ei train", "--task", "ct", "--data", "x.mat", *SMALL, "closure=code/part.py:Learned", "--out", "no")
    assert done.code == 2 and "'gain_loss' trains parameters of no module of Learned" in done.err, done
    assert done.err.count("\n") == 1 and not (folder / "no").exists()
