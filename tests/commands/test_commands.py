"""The commands: user-defined operators and groups, runs that are repeated from their configuration."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
import yaml
from conftest import Result, subprocess_run
from PIL import Image

import ei
from ei import commands
from ei.commands import COMMANDS, train
from ei.commands.flags import FLAGS
from ei.commands.problem import build_physics
from ei.commands.typed import read_typed
from ei.common.devices import choose_device, device_of_tensors
from ei.common.files import load_file, save_file
from ei.common.parts import normalized
from ei.datasets import EllipsePhantoms
from ei.errors import InputError
from ei.models import UNet
from ei.physics import CT, Inpainting
from ei.physics.krylov import WithPseudoInverse

Script = Callable[..., Result]
SMALL = ("--base-channels", 2, "--epochs", 2, "-b", 3, "--ei-trans", 1)

OWN = '''
import torch
from beside import KEPT

ran = open("ran.txt", "a").write("x")

class Rows:
    """Every second row; its pseudo-inverse is left to conjugate gradients."""
    image_shape = (1, 16, 16)

    def A(self, x):
        return x[..., ::KEPT, :]

class Vector:
    """Measurements that are no pictures."""
    image_shape = (16, 16)

    def __init__(self):
        self.matrix = torch.randn(100, 256, generator=torch.Generator().manual_seed(0)) / 16

    def A(self, x):
        return x.flatten(1) @ self.matrix.T

    def A_adjoint(self, y):
        return (y @ self.matrix).view(-1, 1, 16, 16)

    def A_dagger(self, y):
        return self.A_adjoint(y)

def made():
    return Vector()

class Transpose:
    def apply(self, x, elements=None):
        return x.transpose(-1, -2)

def rolls(n_trans):
    from ei.transforms import Shift
    return Shift(n_trans, max_offset=3)

class Broken:
    def A(self, x):
        return x @ torch.ones(3, 3)

    A_dagger = A

class Costly:
    def __init__(self, size):
        pass

class Described:
    """Bears an attribute that tells the arguments of ours."""
    image_shape = (1, 16, 16)
    config = {"kernel": 3}

    def A(self, x):
        return x[..., ::KEPT, :]

def noisy():
    from ei.physics import CT, GaussianNoise
    p = CT(16, 5)
    p.noise = GaussianNoise(5.0)
    return p

def hacked():
    from ei.physics import CT
    p = CT(16, 5)
    A = p.A
    p.A = lambda x: 3 * A(x)
    return p

class Odd:
    image_shape = "16"
    A = A_dagger = lambda self, x: x

class Numpy(Odd):
    image_shape = (1, 16, 16)
    A = lambda self, x: x.numpy()

class Complex(Odd):
    image_shape = (1, 16, 16)
    A = lambda self, x: torch.fft.fft2(x)
    A_dagger = lambda self, y: torch.fft.ifft2(y)

class WithNoise(Numpy):
    A = lambda self, x: x
    noise = lambda self: 0

class Halves:
    def apply(self, x, elements=None):
        return x[..., :8]

number = 3
'''


def pictures(n: int = 9) -> torch.Tensor:
    return torch.stack([EllipsePhantoms("train", 16, n_images=20)[i] for i in range(n)])[:, None]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A file with operators and groups, and measurements by them."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "mine.py").write_text(OWN)
    (tmp_path / "code" / "beside.py").write_text("KEPT = 2\n")
    x = pictures()
    matrix = torch.randn(100, 256, generator=torch.Generator().manual_seed(0)) / 16
    np.save(tmp_path / "rows.npy", x[:, 0, ::2].numpy())
    np.save(tmp_path / "vectors.npy", (x.flatten(1) @ matrix.T).numpy())
    scipy.io.savemat(tmp_path / "x.mat", {"DATA": x[:, 0].numpy()})
    return tmp_path


# ---- parts from outside -------------------------------------------------------------------------------------------


def test_a_user_defined_operator_by_commands_alone(script: Script, own: Path) -> None:
    mine = ("--physics", "code/mine.py:Rows")
    done = script("ei train", *mine, "--group", "rotate90", "--measurements", "rows.npy", *SMALL, "--out", "run")
    assert done.code == 0 and "has no A_dagger: 20 steps of conjugate gradients" in done.out, done.err
    done = script("ei reconstruct", "--ckp", "run/ckp_best.pth.tar", *mine, "--input", "rows.npy", "--output", "x.npy")
    assert done.code == 0 and np.load(own / "x.npy").shape == (9, 16, 16), done.err
    f = ei.load(own / "run" / "ckp_best.pth.tar", physics=_rows())
    with torch.no_grad():
        expected = f(torch.from_numpy(np.load(own / "rows.npy"))[:, None])[:, 0]
    np.testing.assert_allclose(np.load(own / "x.npy"), expected.numpy(), atol=1e-5)
    done = script("ei test", "--ckp", "run/ckp_last.pth.tar", *mine, "--data", "x.mat", "--out", "test")
    assert done.code == 0 and "1 test images of " in done.out and "x.mat" in done.out, done.err
    assert (own / "test" / "sample_0.png").exists()
    done = script("ei diagnose", *mine, "--group", "shift", "--max-elements", 4)
    assert done.code == 0 and "rank 128 = 0.5000 n" in done.out and (own / "diagnosis.png").exists(), done.err


def _rows() -> Any:
    class Rows:
        def A(self, x: torch.Tensor) -> torch.Tensor:
            return x[..., ::2, :]

        def A_dagger(self, y: torch.Tensor) -> torch.Tensor:
            x = torch.zeros(*y.shape[:-2], 16, 16)
            x[..., ::2, :] = y
            return x

    return Rows()


def test_user_defined_noise_without_a_variance_is_diagnosed(script: Script, tmp_path: Path) -> None:
    (tmp_path / "noisy.py").write_text(
        "import torch\n\nclass Rows:\n    image_shape = (1, 8, 8)\n"
        "    noise = staticmethod(lambda y, generator=None: y)\n\n"
        "    def A(self, x):\n        return x[..., ::2, :]\n\n"
        "    def A_dagger(self, y):\n        return torch.stack([y, 0 * y], -2).flatten(-3, -2)\n"
    )
    done = script("ei diagnose", "--physics", "noisy.py:Rows", "--group", "shift", "--max-elements", 2)
    assert done.code == 0 and (tmp_path / "diagnosis.png").exists(), done.err


def test_measurements_that_are_no_pictures_and_a_user_defined_group(script: Script, own: Path) -> None:
    parts = ("--physics", "code/mine.py:made", "--group", "code/mine.py:Transpose")
    done = script("ei train", *parts, "--measurements", "vectors.npy", *SMALL, "--max-steps", 4, "--out", "run")
    assert done.code == 0, done.err
    (own / "code" / "mine.py").rename(own / "moved.py")
    (own / "code" / "beside.py").rename(own / "beside.py")
    done = script(
        "ei train", "--resume", "run/ckp_last.pth.tar", "--physics", "moved.py:made", "--group", "moved.py:rolls"
    )
    assert done.code == 0 and "continuing" in done.out, done.err
    assert "moved.py:made stands in for it" in done.out and "continues with transform.name" in done.out
    done = script("ei reconstruct", "--ckp", "run/ckp_last.pth.tar", "--physics", "moved.py:Vector", "--input",
                  "vectors.npy", "--output", "x.npy")  # fmt: skip
    assert done.code == 0 and np.load(own / "x.npy").shape == (9, 1, 16, 16), done.err


def test_code_that_a_checkpoint_names_is_never_run(script: Script, own: Path) -> None:
    parts = ("--physics", "code/mine.py:made", "--group", "code/mine.py:rolls")
    assert script("ei train", *parts, "--data", "x.mat", *SMALL, "--max-steps", 2, "--out", "run").code == 0
    before = (own / "ran.txt").read_text()
    ckp = ("--ckp", "run/ckp_last.pth.tar")
    for command in (
        ("ei train", "--resume", "run/ckp_last.pth.tar"),
        ("ei train", "--resume", "run/ckp_last.pth.tar", "--epochs", 9),  # which warns of a cosine schedule
        ("ei train", "--resume", "auto", "--out", "run"),
        ("ei train", "--resume", "run/ckp_last.pth.tar", "--physics", "code/other.py:made"),
        ("ei test", *ckp),
        ("ei reconstruct", *ckp, "--input", "vectors.npy", "--output", "x.npy"),
        ("ei reconstruct", *ckp, "--input", "vectors.npy", "--output", "x.npy", "physics.image_shape=[16, 16]"),
    ):
        done = script(*command)
        assert done.code == 2 and done.err.count("\n") == 1, done
        assert "imported only if it is typed" in done.err and "code/mine.py:" in done.err
    assert (own / "ran.txt").read_text() == before
    with pytest.raises(InputError, match="does not carry its operator"):
        ei.load("run/ckp_last.pth.tar")
    assert (own / "ran.txt").read_text() == before


def test_a_physics_file(script: Script, own: Path) -> None:
    """Paths in it are relative to it; a checkpoint carries it completely."""
    (own / "files").mkdir()
    mask = (torch.rand(16, 16, generator=torch.Generator().manual_seed(0)) > 0.3).float()
    torch.save(mask, own / "files" / "mask.pt")
    (own / "files" / "mask.yaml").write_text(
        "name: Inpainting\nimg_height: 16\nimg_width: 16\nmask: mask.pt\nnoise: gaussian:0.1\n"
    )
    given = ("--physics", "files/mask.yaml", "--group", "shift,reflect")
    done = script("ei train", *given, "--data", "x.mat", *SMALL, "--max-steps", 4, "--out", "run")
    assert done.code == 0, done.err
    config = yaml.safe_load((own / "run" / "config.yaml").read_text())
    assert config["physics"]["mask"] == str((own / "files" / "mask.pt").resolve())
    shutil.rmtree(own / "files")
    f = ei.load("run/ckp_last.pth.tar")
    assert torch.equal(f.physics.mask, mask) and f.physics.noise.sigma == 0.1
    assert script("ei test", "--ckp", "run/ckp_last.pth.tar").code == 0
    assert script("ei train", "--resume", "run/ckp_last.pth.tar").code == 0
    (own / "other.yaml").write_text("name: Inpainting\nimg_height: 16\nimg_width: 16\n")
    done = script("ei test", "--ckp", "run/ckp_last.pth.tar", "--physics", "other.yaml")
    assert done.code == 2 and "physics.mask" in done.err and "trained for" in done.err


MINE = "code/mine.py"
WRONG: dict[str, tuple[tuple, list[str]]] = {
    "odd shape": (("--physics", f"{MINE}:Odd", "--data", "x.mat"), ["image_shape of Odd", "'16'"]),
    "numpy": (("--physics", f"{MINE}:Numpy", "--data", "x.mat"), ["must give a tensor", "ndarray"]),
    "complex": (("--physics", f"{MINE}:Complex", "--data", "x.mat"), ["complex", "two channels"]),
    "noise method": (("--physics", f"{MINE}:WithNoise", "--data", "x.mat"), ["noise(y, generator=None)"]),
    "half a group": (("--task", "ct", "--data", "x.mat", "--group", f"{MINE}:Halves"), ["apply", "[1, 1, 16, 8]"]),
    "leaves": (("--physics", "exits.py:X", "--data", "x.mat"), ["exits.py", "SystemExit"]),
    "builtin": (("--physics", "builtin.py:X", "--data", "x.mat"), ["physics.name", "method A", "dict"]),
    "range": (("--physics", "range.yaml", "--data", "x.mat"), ["physics.radon_view must be a range", "'a'"]),
    "empty group": (("--task", "ct", "--data", "x.mat", "--group", "shift,"), ["--group must be some of", "''"]),
    "no images": (("--physics", f"{MINE}:Rows", "--data", "nowhere"), ["nowhere"]),
    "no operator": (("--physics", f"{MINE}:number", "--data", "x.mat"), ["physics.name", "number", "method A"]),
    "no such name": (("--physics", f"{MINE}:Row", "--data", "x.mat"), ["has no Row", "Rows"]),
    "no such file": (("--physics", "code/none.py:Rows", "--data", "x.mat"), ["code/none.py"]),
    "neither": (("--physics", "code/mine.txt"), ["--physics must be FILE.yaml or FILE.py:NAME"]),
    "arguments": (("--physics", f"{MINE}:Costly", "--data", "x.mat"), ["physics.size is missing", "Costly"]),
    "own bug": (("--physics", f"{MINE}:Broken", "--data", "x.mat"), ["A of the operator", "[1, 1, 16, 16]"]),
    "own error": (("--physics", "bad.py:X", "--data", "x.mat"), ["bad.py", "ZeroDivisionError", "line 2"]),
    "shape": (("--physics", f"{MINE}:Rows", "--measurements", "vectors.npy"), ["[9, 100]", "[1, 8, 16]"]),
    "size": (("--physics", f"{MINE}:Rows", "--data", "x24.mat"), ["1 x 16 x 16", "1 x 24 x 24"]),
    "no data": (("--physics", f"{MINE}:Rows"), ["data.train is missing", "--data", "--measurements"]),
    "no class": (("--physics", "no.yaml"), ["no.yaml", "name is missing"]),
    "unknown class": (("--physics", "unknown.yaml", "--data", "x.mat"), ["physics.name", "did you mean Inpainting"]),
    "unknown key": (("--physics", "key.yaml", "--data", "x.mat"), ["physics.colour is unknown", "radon_view"]),
    "no physics": (("--physics", "noise.yaml", "--data", "x.mat"), ["physics.name", "GaussianNoise", "Inpainting"]),
    "noise": (("--physics", "badnoise.yaml", "--data", "x.mat"), ["salt", "gaussian:SIGMA"]),
    "twice noisy": (("--task", "ct", "--data", "x.mat", "physics.noise=gaussian:1", "noise=gaussian:2"),
                    ["noise and physics.noise contradict each other"]),
    "group": (("--physics", f"{MINE}:Rows", "--data", "x.mat", "--group", "spin"), ["spin", "rotate90"]),
    "own group": (("--physics", f"{MINE}:Rows", "--data", "x.mat", "--group", f"{MINE}:number"),
                  ["transform.name", "method apply"]),
    "group's limit": (("--task", "ct", "--data", "x.mat", "--group", "rotate90"),
                      ["transform.n_trans must be a whole number >= 1 and <= 3, got 5"]),
    "alpha": (("--task", "ct", "--data", "x.mat", "closure.alpha=-1"),
              ["closure.alpha must be finite and >= 0, got -1"]),
    "closure": (("--task", "ct", "--data", "x.mat", "closure={name: EIClosur}"), ["closure.name", "EIClosure"]),
    "no closure": (("--task", "ct", "--data", "x.mat", f"closure={{name: {MINE}:number}}"), ["closure.name"]),
    "no network": (("--task", "ct", "--data", "x.mat", f"network={{name: {MINE}:made}}"),
                   ["network.name", "torch.nn.Module", "Vector"]),
    "no data set": (("--task", "ct", f"data.train={{name: {MINE}:number}}"), ["data.train", "number"]),
    "optimizer": (("--task", "ct", "--data", "x.mat", "optimizer.speed=3"), ["optimizer.speed is unknown", "lr"]),
    "trainer": (("--task", "ct", "--data", "x.mat", "trainer.epoch=3"), ["trainer.epoch is unknown", "epochs"]),
    "schedule": (("--task", "ct", "--data", "x.mat", "schedule.milestones=soon"),
                 ["schedule.milestones must be", "soon"]),
    "data": (("--task", "ct", "data.tran=synthetic"), ["data.tran is unknown", "did you mean train"]),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_parts_are_one_line(script: Script, own: Path, case: str) -> None:
    scipy.io.savemat(own / "x24.mat", {"DATA": np.random.rand(9, 24, 24)})
    (own / "bad.py").write_text("a = 1\nb = a / 0\n")
    (own / "exits.py").write_text("import sys\nsys.exit(3)\n")
    (own / "builtin.py").write_text("X = dict\n")
    for name, text in {
        "no": "img_height: 16", "unknown": "name: Inpaintin", "noise": "name: GaussianNoise\nsigma: 1",
        "key": "name: CT\nimg_width: 16\nradon_view: 5\ncolour: red",
        "range": "name: CT\nimg_width: 16\nradon_view: {start: 0, step: a, count: 3}",
        "badnoise": "name: CT\nimg_width: 16\nradon_view: 5\nnoise: salt:1",
    }.items():  # fmt: skip
        (own / f"{name}.yaml").write_text(text + "\n")
    arguments, names = WRONG[case]
    done = script("ei train", *arguments)
    assert done.code == 2 and done.err.count("\n") == 1 and done.err.startswith("ei train: error: "), done
    assert all(name in done.err for name in names), done.err
    assert not (own / "ckp").exists()


def test_the_commands_are_listed(script: Script, tmp_path: Path) -> None:
    done = subprocess_run("python", "-m", "ei", "--help", cwd=tmp_path)
    assert done.code == 0 and all(f"  {name} " in done.out for name in COMMANDS)
    done = script("ei", "trian")
    assert done.code == 2 and "did you mean train" in done.err
    for command in COMMANDS:
        done = script(f"ei {command}", "--help")
        assert done.code == 0 and f"usage: ei {command}" in done.out, command


# Issue 27, item 2: the everyday flags stay, and there are no others.
EVERYDAY = """
--task --method --physics --group --data --measurements --truth --held-out --patience --noise --mask
--mask-rate --ct-views --epochs --max-steps --batch-size --lr --wd --schedule --cos --ei-trans --ei-alpha
--base-channels --precision --reconstructor --seed --config --out --resume --device --gpu --ckp-interval
--save-every --workers --weights
"""


def test_the_everyday_flags_and_no_others(script: Script) -> None:
    """In named groups that fit two screens."""
    text = script("ei train", "--help").out
    assert len(text.splitlines()) <= 100 and max(map(len, text.splitlines())) <= 120
    listed = set(re.findall(r"^ +(?:-\w[^,]*, )?(--[a-z][a-z-]+)", text, re.MULTILINE))
    assert listed - {"--help", "--h"} == set(EVERYDAY.split())
    for group in {flag.group for flag in FLAGS}:
        assert f"\n{group}:\n" in text, group


@pytest.mark.slow
def test_a_class_of_ours_that_user_code_changed_stays_user_defined(script: Script, workspace: Path) -> None:
    """Its class alone is not all of it: noise that was set, a method that was replaced. Resumed to the same bytes."""
    for name in ("noisy", "hacked"):
        run = ("ei train", "--physics", f"code/mine.py:{name}", "--group", "rotate90", "--data", "x.mat", *SMALL)
        assert script(*run, "--out", f"{name}_whole").code == 0
        for steps in (2, 100):
            assert script(*run, "--out", f"{name}_parts", "--resume", "auto", "--max-steps", steps).code == 0
        for file in ("ckp_last.pth.tar", "training_loss.csv"):
            whole, parts = (workspace / f"{name}_{kind}" / file for kind in ("whole", "parts"))
            assert whole.read_bytes() == parts.read_bytes(), (name, file)
        with pytest.raises(InputError, match="give it as physics"):
            ei.load(f"{name}_whole/ckp_last.pth.tar")
    arguments = ("--ckp", "noisy_whole/ckp_last.pth.tar", "--input", "y.npy", "--output", "x.npy")
    done = script("ei reconstruct", *arguments, "--physics", "units.yaml")
    assert done.code == 0 and "mine.py:noisy; CT stands in for it" in done.out, done.err
    done = script("ei reconstruct", *arguments, "--physics", "code/mine.py:hacked")
    assert done.code == 0 and "stands in for it" in done.out, done.err
    run = ("ei train", "--physics", "code/mine.py:Described", "--group", "shift", "--data", "x.mat", *SMALL)
    assert script(*run, "--max-steps", 2, "--out", "described").code == 0
    done = script("ei train", "--resume", "described/ckp_last.pth.tar", "--physics", "code/mine.py:Described")
    assert done.code == 0, done.err


def test_a_damaged_checkpoint_is_one_line_and_runs_no_code(script: Script, workspace: Path) -> None:
    run = ("ei train", "--task", "ct", "--data", "x.mat", "--ct-views", 5, *SMALL, "--max-steps", 2, "--out", "run")
    assert script(*run).code == 0
    state = load_file("run/ckp_last.pth.tar")
    evil = {"name": "Compose", "transforms": [{"name": "/nowhere/evil.py:G"}]}
    save_file({**state, "config": {**state["config"], "transform": evil}}, "bad.pth.tar")
    done = script("ei train", "--resume", "bad.pth.tar", "--out", "other")
    assert done.code == 2 and "imported only if it is typed" in done.err
    for key, wrong in {"physics": [1], "config": "text", "reconstructor": [2], "network": 3}.items():
        save_file({**state, key: wrong}, "bad.pth.tar")
        for command in (("ei test",), ("ei reconstruct", "--input", "y.npy", "--output", "x.npy")):
            done = script(*command, "--ckp", "bad.pth.tar")
            assert done.code == 2 and "damaged" in done.err and done.err.count("\n") == 1, (key, done)
    for key in ("physics", "closure", "network"):
        save_file({**state, "network": None, "physics": None, "config": {**state["config"], key: {"name": "nope"}}},
                  "bad.pth.tar")  # fmt: skip
        for command in (("ei test", "--ckp", "bad.pth.tar"), ("ei train", "--resume", "bad.pth.tar", "--out", "other")):
            if key == "closure" and command[0] == "ei test":
                continue  # it uses none
            done = script(*command)
            said = "network" if key == "network" else "nope"
            assert done.code == 2 and said in done.err and done.err.count("\n") == 1, done
    save_file({**state, "config": {**state["config"], "colour": 3}}, "bad.pth.tar")
    done = script("ei test", "--ckp", "bad.pth.tar")
    assert done.code == 2 and "colour is unknown" in done.err and done.err.count("\n") == 1, done


def test_noise_is_what_the_run_says(script: Script, workspace: Path) -> None:
    """A resumed run takes the noise that is given, whichever way, and a third resume keeps it."""
    common = ("ei train", "--task", "ct", "--data", "x.mat", "--ct-views", 5, "--method", "mc", *SMALL)
    assert script(*common, "--noise", "gaussian:5", "--out", "sigma").code == 0
    done = script("ei train", "--resume", "sigma/ckp_last.pth.tar", "--epochs", 3, "noise=null")
    assert done.code == 0 and "noise" in done.out and "it had" in done.out, done.err
    losses = np.genfromtxt(workspace / "sigma" / "training_loss.csv", delimiter=",", names=True)["loss_fc"]
    assert losses[1] > 15 and losses[2] < 8
    assert ei.load("sigma/ckp_last.pth.tar").physics.noise is None
    for name, sigma in (("loud", 5), ("quiet", 0.001)):
        text = f"name: CT\nimg_width: 16\nradon_view: 5\nnoise: gaussian:{sigma}\n"
        (workspace / f"{name}.yaml").write_text(text)
    run = ("ei train", "--physics", "loud.yaml", "--data", "x.mat", "--method", "mc", *SMALL, "--out", "file")
    assert script(*run).code == 0
    for epochs, more in ((3, ("--physics", "quiet.yaml")), (4, ())):
        done = script("ei train", "--resume", "file/ckp_last.pth.tar", "--epochs", epochs, *more)
        assert done.code == 0 and ("continues with noise" in done.out) == bool(more), done
    losses = np.genfromtxt(workspace / "file" / "training_loss.csv", delimiter=",", names=True)["loss_fc"]
    assert losses[1] > 15 and max(losses[2:]) < 8


def test_flags_without_effect_are_noted(script: Script, workspace: Path) -> None:
    """A flag of another part is left out with a note; a key is an error that lists the valid ones."""
    ct = ("ei train", "--task", "ct", "--data", "x.mat", "--ct-views", 5, *SMALL, "--max-steps", 1)
    done = script(*ct, "--mask-rate", 0.5, "--mask", "mask.pt", "--out", "a")
    assert done.code == 0, done.err
    notes = [line for line in done.out.splitlines() if line.startswith("note")]
    assert notes == ["note: --mask has no effect on CT", "note: --mask-rate has no effect on CT"]
    done = script(*ct, "--method", "mc", "--ei-alpha", 2, "--out", "b")
    assert done.code == 0, done.err
    notes = [line for line in done.out.splitlines() if line.startswith("note")]
    assert notes == ["note: --ei-trans has no effect on MCClosure", "note: --ei-alpha has no effect on MCClosure"]
    torch.save(torch.ones(16, 16), "ones.pt")
    done = script("ei train", "--task", "inpainting", "data.train={name: ImageTree, folder: photos, crop: 16}",
                  "--mask", "ones.pt", *SMALL, "--max-steps", 1, "--mask-rate", 0.5, "--out", "c")  # fmt: skip
    assert done.code == 0 and bool((ei.load("c/ckp_last.pth.tar").physics.mask == 1).all()), done
    own = ("--physics", "code/mine.py:Rows", "--group", "code/mine.py:Transpose", "--data", "x.mat")
    done = script("ei train", *own, *SMALL, "--max-steps", 1, "--out", "d")
    assert done.code == 0 and "--ei-trans has no effect on" in done.out, done.err
    for key, valid in (
        ("reconstructor.iterations=2", "precision"),
        ("closure.keep=0.5", "alpha"),
        ("physics.mask_rate=0.5", "radon_view"),
        ("network.width=2", "base_channels"),
    ):
        done = script(*ct, key, "--out", "no")
        assert done.code == 2 and f"{key.split('=')[0]} is unknown" in done.err and valid in done.err, done
        assert done.err.count("\n") == 1 and not Path("no").exists()


def test_a_tree_holds_what_means_something_to_the_run(script: Script, workspace: Path) -> None:
    """No arguments of other classes, and no parts that the method does not use."""
    ct = ("ei train", "--task", "ct", "--data", "x.mat", "--ct-views", 5, *SMALL, "--max-steps", 1)
    assert script(*ct, "--out", "ei").code == 0
    tree = yaml.safe_load((workspace / "ei" / "config.yaml").read_text())
    assert "cg_steps" not in tree["reconstructor"] and tree["physics"]["img_width"] == 16
    assert list(tree) == ["physics", "transform", "closure", "network", "reconstructor", "data", "optimizer",
                          "schedule", "trainer", "versions"]  # fmt: skip
    assert script(*ct[:-4], "--method", "mc", "--max-steps", 1, "--out", "mc").code == 0
    assert "transform" not in yaml.safe_load((workspace / "mc" / "config.yaml").read_text())


def test_a_file_of_several_parts_is_run_once(script: Script, own: Path) -> None:
    (own / "both.py").write_text(OWN.replace("from beside import KEPT", "KEPT = 2"))
    parts = ("--physics", "both.py:Rows", "--group", "both.py:rolls", "--data", "x.mat")
    assert script("ei train", *parts, *SMALL, "--max-steps", 1, "--out", "run").code == 0
    assert (own / "ran.txt").read_text() == "x"


# ---- a run again from its configuration ---------------------------------------------------------------------------


def runs() -> dict[str, tuple]:
    """Options of small trainings of every kind."""
    images = ("--task", "ct", "--data", "x.mat", "--ct-views", 5)
    photos = ("--task", "inpainting", "--data", "photos")
    unrolled = ("--reconstructor", "unrolled")
    return {
        **{method: (*images, "--method", method) for method in ("ei", "mc", "sup", "ei_sup", "split", "split_ei")},
        "measurements": ("--task", "ct", "--measurements", "y.npy", "--ct-views", 5, "--lr", 1e-2,
                         "trainer.average=0.5"),
        "masked measurements": ("--task", "inpainting", "--measurements", "masked.npy", "--mask", "mask.pt"),
        "own images": (*photos, "data.train.crop=16", "data.train.test_fraction=0.4", "data.train.gray=true",
                       "schedule=one_cycle_schedule", "trainer.clip_norm=0.1"),
        "list of test images": (*photos, "data.train.crop=16", "data.train.split=list.txt", "--cos"),
        "tiles": (*photos, "data.train.crop=16", "data.tile=8", "-b", 6),
        "noise": (*images, "--noise", "gaussian:0.5", "closure.stop_gradient=true", "closure.mc_domain=image"),
        "sure": (*images, "--noise", "gaussian:0.5", "--method", "sure"),
        "unknown noise": (*images, "--noise", "unknown", "--method", "rei", "noise=gaussian:0.5"),
        "generated": ("--task", "inpainting", "--data", "synthetic", "-b", 30, "--mask-rate", 0.5),
        "own operator": ("--physics", "code/mine.py:Rows", "--group", "reflect", "--data", "x.mat"),
        "own operator, measured": ("--physics", "code/mine.py:made", "--measurements", "vectors.npy"),
        "own group": (*images, "--group", "code/mine.py:rolls"),
        "physics file": ("--physics", "mask.yaml", "--group", "shift,rotate90", "--data", "x.mat", "--schedule"),
        "task and physics": ("--task", "ct", "--physics", "mask.yaml", "--data", "x.mat", "--precision", "bf16"),
        "unrolled": (*images, *unrolled, "reconstructor.iterations=2", "reconstructor.cg_steps=2", "network.norm=none",
                     "reconstructor.last=net", "reconstructor.recompute=true"),
        "unrolled, own operator": ("--physics", "code/mine.py:Rows", "--data", "x.mat", *unrolled),
        "other units": ("--physics", "units.yaml", "--measurements", "units.npy", "--group", "rotate90"),
        "weights": (*images, "--resume", "theirs.pth.tar", "--seed", 3),
        "validation": (*images, "--held-out", 0.3, "--patience", 1),
    }  # fmt: skip


KINDS = list(runs())


@pytest.fixture
def workspace(own: Path) -> Path:
    x = pictures()
    np.save(own / "y.npy", CT(16, 5).A(x)[:, 0].numpy())
    mask = Inpainting(16, 16).mask
    torch.save(mask, own / "mask.pt")
    np.save(own / "masked.npy", (x * mask)[:, 0].numpy())
    (own / "photos").mkdir()
    for k in range(6):
        Image.fromarray(np.random.default_rng(k).integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(
            own / f"photos/{k}.png"
        )
    (own / "list.txt").write_text("1.png\n4.png\n")
    (own / "units.yaml").write_text("name: CT\nimg_width: 16\nradon_view: 5\n")
    np.save(own / "units.npy", 1e-4 * np.load(own / "y.npy"))
    (own / "mask.yaml").write_text("name: Inpainting\nimg_height: 16\nimg_width: 16\nmask: mask.pt\n")
    torch.save({"epoch": 1, "state_dict": UNet(1, 1, base_channels=2).state_dict()}, own / "theirs.pth.tar")
    return own


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_configuration_repeats_its_run(script: Script, workspace: Path, kind: str) -> None:
    """The same weights, whatever the run was of; and a repeated run's configuration is the same again."""
    small = [*SMALL, *runs()[kind]]
    done = script("ei train", *small, "--out", "run")
    assert done.code == 0, done.err
    done = script("ei train", "--config", "run/config.yaml", "--out", "again")
    assert done.code == 0, done.err
    assert "no effect" not in done.out
    for name in ("ckp_last.pth.tar", "training_loss.csv", "config.yaml"):
        assert (workspace / "run" / name).read_bytes() == (workspace / "again" / name).read_bytes(), name


@pytest.mark.slow
def test_an_unrolled_run_resumes_tests_and_reconstructs(script: Script, workspace: Path) -> None:
    run = ("ei train", "--task", "ct", "--data", "x.mat", "--ct-views", 5, *SMALL, "--reconstructor", "unrolled",
           "reconstructor.iterations=2", "reconstructor.cg_steps=3", "reconstructor.filtered=true", "network.norm=none",
           "--precision", "bf16")  # fmt: skip
    assert script(*run, "--out", "whole").code == 0
    for steps in (1, 4, 100):
        assert script(*run, "--out", "parts", "--resume", "auto", "--max-steps", steps).code == 0
    for name in ("ckp_1.pth.tar", "ckp_last.pth.tar", "training_loss.csv"):
        assert (workspace / "whole" / name).read_bytes() == (workspace / "parts" / name).read_bytes()
    f, y = ei.load("whole/ckp_last.pth.tar"), torch.from_numpy(np.load("y.npy"))[:, None]
    assert (f.iterations, f.cg_steps, f.filtered, f.last, f.net.config["norm"]) == (2, 3, True, "data", "none")
    with torch.no_grad():
        assert float((f.physics.A(f(y)) - y).norm() / y.norm()) < 0.05
    arguments = ("--ckp", "whole/ckp_last.pth.tar", "--average-over", "rotate90,reflect")
    done = script("ei test", *arguments, "--out", "test")
    assert done.code == 0 and "EI, averaged" in done.out, done.err
    assert "psnr_average" in (workspace / "test" / "metrics.csv").read_text()
    assert script("ei reconstruct", *arguments, "--input", "y.npy", "--output", "mean.npy").code == 0
    assert np.load("mean.npy").shape == (9, 16, 16)
    done = script("ei train", "--resume", "whole/ckp_last.pth.tar", "--epochs", 3, "network.norm=batch")
    assert done.code == 2 and "network.norm batch contradicts" in done.err
    done = script("ei test", "--ckp", "whole/ckp_last.pth.tar", "--average-over", "rotate")
    assert done.code == 2 and "rotate90, reflect" in done.err


def test_a_filtered_reconstruction_needs_a_filter(script: Script, workspace: Path) -> None:
    inpainting = ("ei train", "--task", "inpainting", "--data", "synthetic", "--out", "no")
    done = script(*inpainting, "--reconstructor", "unrolled", "reconstructor.filtered=true")
    assert done.code == 2 and "Inpainting has none" in done.err and len(done.err.splitlines()) == 1
    assert not (workspace / "no").exists()


OWN_FILTERS = """
import torch
from ei.physics import CT
class Good(CT):
    def __init__(self):
        super().__init__(16, 5)
class Negative(Good):
    def filter(self, y): return -super().filter(y)
class Skew(Good):
    def filter(self, y): return y - y.roll(1, 2)
class Short(Good):
    def filter(self, y): return y[..., :-1]
class Raises(Good):
    def filter(self, y): return y.no_such_thing()
class NotTried(Good):
    filter = None
class WrongAdjoint(Good):
    def A_adjoint(self, y): return super().A_adjoint(y)[..., :-1]
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [("Negative", "not positive definite"), ("Skew", "not symmetric"), ("Short", "must give measurements as it takes"),
     ("Raises", "no_such_thing"), ("NotTried", "NotTried has none"),
     ("WrongAdjoint", "A_adjoint of A x must have the shape of x")],
)  # fmt: skip
def test_a_user_defined_filter_is_tried_before_a_run(script: Script, workspace: Path, name: str, message: str) -> None:
    (workspace / "filters.py").write_text(OWN_FILTERS)
    run = ("ei train", "--group", "rotate90", "--measurements", "y.npy", "--reconstructor", "unrolled",
           "reconstructor.filtered=true", "reconstructor.iterations=1", "reconstructor.cg_steps=1", "network.norm=none",
           "--max-steps", 1, *SMALL)  # fmt: skip
    done = script(*run, "--physics", f"filters.py:{name}", "--out", "never")
    assert done.code == 2 and message in done.err and len(done.err.splitlines()) == 1, done.err
    assert not (workspace / "never").exists()
    if name == "Negative":
        done = script(*run, "--physics", "filters.py:Good", "--out", "good")
        assert done.code == 0, done.err


def test_the_scale_of_images_is_found(script: Script, workspace: Path) -> None:
    """Measurements in other units learn what the same ones in ours do."""
    common = ("--physics", "units.yaml", "--group", "rotate90", *SMALL, "network.norm=none", "closure.mc_domain=image")
    done = script("ei train", *common, "--measurements", "y.npy", "--out", "ours")
    assert done.code == 0 and "image scale: 1 " in done.out, done.err
    done = script(
        "ei train", *common, "--measurements", "units.npy", "--out", "theirs", "reconstructor.image_scale=1e-4"
    )
    assert done.code == 0, done.err
    for name in ("training_loss.csv",):
        ours, theirs = (np.genfromtxt(workspace / run / name, delimiter=",")[1:] for run in ("ours", "theirs"))
        np.testing.assert_allclose(ours, theirs, rtol=2e-3)
    done = script("ei train", *common, "--measurements", "units.npy", "--out", "found")
    assert done.code == 0, done.err
    scale = load_file("found/ckp_last.pth.tar")["reconstructor"]["image_scale"]
    assert 0.5e-4 < scale < 2e-4 and f"image scale: {scale:g} " in done.out
    assert ei.load("found/ckp_last.pth.tar").image_scale == scale


STEPS = "schedule: {name: step_schedule, milestones: [2, 3]}"
COSINE = "schedule: {name: cosine_schedule}"
ONE_CYCLE = "schedule: one_cycle_schedule"


@pytest.mark.parametrize(
    ("files", "words", "expected"),
    [
        ([STEPS, COSINE], [], {"name": "cosine_schedule"}),
        ([COSINE, STEPS], [], {"name": "step_schedule", "milestones": [2, 3]}),
        ([COSINE], ["--schedule", "2", "3"], {"name": "step_schedule", "milestones": [2, 3]}),
        ([COSINE], ["--schedule"], {"name": "step_schedule", "milestones": []}),
        ([COSINE], ["schedule=one_cycle_schedule"], {"name": "one_cycle_schedule"}),
        ([ONE_CYCLE], ["--cos"], {"name": "cosine_schedule"}),
        ([ONE_CYCLE], ["--cos", "schedule={name: step_schedule, milestones: [4]}"],
         {"name": "step_schedule", "milestones": [4]}),
    ],
)  # fmt: skip
def test_the_last_schedule_is_taken(files: list[str], words: list[str], expected: dict, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.yaml" for number in range(len(files))]
    for path, text in zip(paths, files, strict=True):
        path.write_text(text)
    typed = read_typed(train.parser("ei train"), ["--task", "ct", *map(str, paths), *words])
    assert normalized(typed.tree()["schedule"], "schedule") == expected


def test_files_and_flags(script: Script, workspace: Path) -> None:
    """What the command line says replaces what a file says: data and measurements, too; a schedule another one."""
    measured = ("--task", "ct", "--measurements", "y.npy", "--ct-views", 5, *SMALL, "--max-steps", 1)
    assert script("ei train", *measured, "--out", "run").code == 0
    again = ("ei train", "--config", "run/config.yaml")
    assert script(*again, "--data", "x.mat", "--cos", "--out", "images").code == 0
    config = yaml.safe_load((workspace / "images" / "config.yaml").read_text())
    assert config["data"]["train"] == {"name": "CTData", "root_dir": str(workspace / "x.mat")}
    assert "measurements" not in config["data"] and config["schedule"] == {"name": "cosine_schedule"}
    done = script(*again, "--data", "x.mat", "--measurements", "y.npy")
    assert done.code == 2 and "one of them" in done.err
    without = ("ei train", "--physics", "mask.yaml", "--data", "x.mat", *SMALL, "--max-steps", 1)
    for name, more, schedule in (
        ("default", (), "cosine_schedule"),
        ("steps", ("--schedule", 1), "step_schedule"),
        ("none", ("--schedule",), "step_schedule"),
    ):
        assert script(*without, *more, "--out", name).code == 0
        assert yaml.safe_load((workspace / name / "config.yaml").read_text())["schedule"]["name"] == schedule
    done = script(*without, "--ct-views", 9, "--out", "noted")
    assert done.code == 0 and "--ct-views has no effect on Inpainting" in done.out


# ---- in Python ----------------------------------------------------------------------------------------------------


def test_load(script: Script, workspace: Path) -> None:
    """Any checkpoint, with the moving average where there is one."""
    run = (
        "ei train",
        "--task",
        "ct",
        "--data",
        "x.mat",
        "--ct-views",
        5,
        *SMALL,
        "trainer.average=0.5",
        "--out",
        "run",
    )
    assert script(*run).code == 0
    state = load_file("run/ckp_last.pth.tar")
    f = ei.load("run/ckp_last.pth.tar")
    for name, value in f.net.state_dict().items():
        assert torch.equal(value, state["state_dict_averaged"][name])
    theirs = UNet(3, 3, compact=5)
    torch.save({"epoch": 1, "state_dict": theirs.state_dict()}, "inpainting.pth.tar")
    with pytest.raises(InputError, match="give it as physics"):
        ei.load("inpainting.pth.tar")
    f, y = ei.load("inpainting.pth.tar", Inpainting(16, 16)), torch.rand(1, 3, 16, 16)
    assert f(y).shape == y.shape and f.net.compact == 4
    net = torch.nn.Conv2d(1, 1, 3, padding=1)
    save_file({**state, "network": None, "state_dict_averaged": net.state_dict()}, "mine.pth.tar")
    with pytest.raises(InputError, match="give it as net"):
        ei.load("mine.pth.tar")
    other = torch.nn.Conv2d(1, 1, 3, padding=1)
    assert torch.equal(ei.load("mine.pth.tar", net=other).net.weight, net.weight)


def test_tensors_of_a_user_defined_operator_go_where_it_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a class that is no module, too: on a GPU its matrix would otherwise stay on the CPU."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beside.py").write_text("KEPT = 2\n")
    (tmp_path / "mine.py").write_text(OWN)
    code = tmp_path / "mine.py"

    def built(name: str) -> Any:
        return build_physics({"name": f"{code}:{name}"}, torch.device("meta"), {}).object

    physics = built("Vector")
    assert physics.matrix.device.type == "meta"
    assert device_of_tensors(physics) == device_of_tensors(WithPseudoInverse(physics)) == torch.device("meta")
    assert device_of_tensors(CT(8, 3).to("meta")) in (None, torch.device("meta"))
    assert device_of_tensors(built("Rows")) is None


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"2 processes.*torch sees 1: start fewer, or give --device cpu"):
        choose_device(None)
    assert choose_device("cpu") == torch.device("cpu")


class Interrupting:
    """An import that Ctrl-C ends."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == "ei.common.scripts":
            raise KeyboardInterrupt


@pytest.mark.parametrize("run", [lambda: commands.main(["train"]), lambda: commands.script("demo_train.py", "train")])
def test_ctrl_c_while_torch_is_imported_is_one_line(
    run: Callable[[], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "ei.common.scripts", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 130 and capsys.readouterr().err.endswith("interrupted\n")
