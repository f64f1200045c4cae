"""What the tests share: reference figures, the scripts, real data where it lies beside the checkout."""

from __future__ import annotations

import json
import os
import random
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.io
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn

from ei.datasets import EllipsePhantoms
from ei.models import UNet
from ei.physics import CT

# The tests' problems are tiny: more threads would mostly wait for each other.
torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = Path(__file__).resolve().parent / "reference"
SHARED_DATA = ROOT.parent / "shared" / "data"


def reference(name: str) -> dict[str, np.ndarray]:
    with np.load(REFERENCE / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def state_dict_shapes(name: str) -> dict[str, list[int]]:
    return json.loads((REFERENCE / f"{name}.json").read_text())


def filled(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """A state dict by the fill rule of reference/README.md."""
    state = {}
    for k, (name, shape) in enumerate(shapes.items(), start=1):
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(0)
            continue
        g = np.random.default_rng(k).standard_normal(int(np.prod(shape))).reshape(shape)
        if len(shape) >= 2:
            value = g * np.sqrt(2 / np.prod(shape[1:]))
        elif name.endswith("running_var"):
            value = 1 + 0.5 * np.tanh(g)
        elif name.endswith("weight"):
            value = 1 + 0.1 * g
        else:
            value = 0.1 * g
        state[name] = torch.from_numpy(value.astype(np.float32))
    return state


def fill(net: nn.Module) -> nn.Module:
    net.load_state_dict(filled({name: list(value.shape) for name, value in net.state_dict().items()}))
    return net


class SmallNet(nn.Module):
    """The network of the reference trainings: ``x + conv_b(relu(conv_a(x)))``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(channels, 8, 3, padding=1)
        self.b = nn.Conv2d(8, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(torch.relu(self.a(x)))


def small_unet(norm: str = "none") -> UNet:
    """The same weights every time."""
    torch.manual_seed(0)
    return UNet(1, 1, base_channels=8, norm=norm)


def relative(a: Tensor, b: Tensor | np.ndarray) -> float:
    """``||a - b|| / ||b||``, wherever they are."""
    a, b = a.detach().cpu(), torch.as_tensor(b).detach().cpu()
    return float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b))


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test draws the same, whichever tests ran before it in its process."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def quick_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of figures are blank, but for tests marked "figures": to draw one takes a third of a second, and every
    training draws its losses."""
    if request.node.get_closest_marker("figures") is not None:
        return
    draw = Figure.savefig

    def save(figure: Figure, path: os.PathLike, **options: Any) -> None:
        if Path(path).suffix == ".png":
            Image.new("L", (1, 1)).save(path)
        else:
            draw(figure, path, **options)

    monkeypatch.setattr(Figure, "savefig", save)


@pytest.fixture
def shared_data() -> Path:
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the real data is not at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., Result]:
    """Runs a script of the project as ``python <name> <arguments>`` would in an empty folder, or a command ("ei test"),
    in this process: what a subprocess costs is mostly the import of torch."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, *arguments: object) -> Result:
        words = name.split()  # "ei train" is ``python -m ei train``
        monkeypatch.setattr(sys, "argv", [*words, *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            runpy.run_path(str(ROOT / ("ei/__main__.py" if words[0] == "ei" else name)), run_name="__main__")
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else 0 if exit_.code is None else 1
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


def subprocess_run(*command: object, cwd: Path, timeout: float = 600) -> Result:
    """Run a command as a user would, with this Python."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path, "OMP_NUM_THREADS": "1"}
    environment.pop("DISPLAY", None)
    if torch.cuda.device_count() < 2 and any("torch" in str(part) and "run" in str(part) for part in command[:3]):
        environment["CUDA_VISIBLE_DEVICES"] = ""  # two processes cannot share one
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout
    )
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, mode, size in (("a/1.png", "RGB", (40, 50)), ("a/2.jpg", "RGB", (60, 44)), ("b/c/3.png", "L", (48, 48)),
                             ("4.tif", "L", (41, 41)), ("5.png", "RGB", (40, 40))):  # fmt: skip
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (*size[::-1], *([3] if mode == "RGB" else [])), dtype=np.uint8)).save(path)
    (tmp_path / "images" / "readme.txt").write_text("not an image")
    return tmp_path / "images"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    x = torch.stack([EllipsePhantoms("train", 16, n_images=20)[i] for i in range(12)])
    np.save(tmp_path / "x.npy", x.numpy())
    np.save(tmp_path / "y.npy", CT(16, 5).A(x[:, None])[:, 0].numpy())
    np.save(tmp_path / "other.npy", x.flip(0).numpy())
    scipy.io.savemat(tmp_path / "x.mat", {"DATA": np.concatenate([np.zeros((108, 16, 16), np.float32), x.numpy()])})
    return tmp_path
