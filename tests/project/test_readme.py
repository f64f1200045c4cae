"""Every command of the README and of docs/ runs, on small data in the places where the README says data belongs."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import textwrap
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from conftest import ROOT, Result, subprocess_run
from makers import dicom
from PIL import Image

from ei.closure import MCClosure
from ei.models import Reconstructor, UNet
from ei.physics import CT, Inpainting
from ei.training import Trainer
from ei.transforms import Rotate

# The walks of docs/tomography.md and docs/noise.md are run as wholes by tests of their own.
WALKS = ("tomography", "noise")
PAGES = [ROOT / "README.md", *sorted(page for page in (ROOT / "docs").glob("*.md") if page.stem not in WALKS)]
COMMANDS = list(
    dict.fromkeys(
        re.split(r"\s{2,}#", line.strip())[0]
        for page in PAGES
        for line in page.read_text(encoding="utf-8").splitlines()
        if re.match(r" {4}(python|bash|torchrun) ", line)
    )
)
# Run by tests of their own: the paper's two trainings and its table, the examples, and what needs real scans.
ELSEWHERE = re.compile(r"bash train_paper_bash.sh|python examples/|python benchmarks/")
SMALL_TRAINING = "--epochs 1 --batch-size 2 --base-channels 2 --ei-trans 1 --schedule"
# What makes a command small, by a pattern of the command; the last flag wins, and keys come after flags.
SMALLER = {
    r"(demo_train.py|ei train) (?!--resume)": SMALL_TRAINING,
    r"network.base_channels": "network.base_channels=2",
    r"--out ckp/mine$": "--out ckp/mine_again",
    r"ei diagnose": "--size 16 --max-elements 2",
    r"prepare ct100": "--out prepared.mat",
    r"prepare urban100": "--out prepared",
}

# The files that a command makes, if nothing else: an exit code of 0 says little.
MADE = {
    r"demo_train|ei train": ("config.yaml", "training_loss.csv", "ckp_last.pth.tar"),
    r"demo_test|ei test": ("metrics.csv", "sample_*.png"),
    r"diagnose": ("*.png",),
    r"ei reconstruct": ("*.npy",),
    r"prepare ct100": ("*.mat",),
    r"prepare urban100": ("*.png",),
    r"prepare": ("*.yaml",),
}


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 15 and any("demo_test_ct.py" in command for command in COMMANDS)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "readme"
    folder.mkdir()
    for name in ("demo_train.py", "demo_test_ct.py", "demo_test_inpainting.py", "ei"):
        os.symlink(ROOT / name, folder / name)
    shutil.copytree(ROOT / "configs", folder / "configs")  # paths in trees are relative to where they lie
    rng = np.random.default_rng(0)
    slices = rng.random((50, 16, 16)).astype(np.float32)
    (folder / "dataset" / "CT").mkdir(parents=True)
    scipy.io.savemat(folder / "dataset" / "CT" / "CT100_128x128.mat", {"DATA": slices})
    for name in ("y.npy", "new.npy"):
        np.save(folder / name, CT(16, 50).A(torch.from_numpy(slices)[:, None])[:, 0].numpy())
    np.save(folder / "truth.npy", slices)
    picture = Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).resize((512, 512))
    for place in ("dataset/Urban100/train/train/1.png", "dataset/Urban100/train/train/2.png",
                  "dataset/Urban100/test/test/3.png", "photos/a/1.png", "photos/2.jpg", "photos/3.png"):  # fmt: skip
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        picture.save(folder / place)
    torch.save(Inpainting(256, 256).mask, folder / "mask_random0.3.pt")
    for task, channels in (("ct", 1), ("inpainting", 3)):
        (folder / "ckp" / task).mkdir(parents=True)
        torch.save({"epoch": 1, "state_dict": UNet(channels, channels).state_dict()},
                   folder / "ckp" / task / "ckp_ei_final.pth.tar")  # fmt: skip
    (folder / "my_run.yaml").write_text(
        "physics: {name: CT, radon_view: 50}\ndata: {train: {name: CTData, root_dir: dataset/CT/CT100_128x128.mat}}\n"
    )
    (folder / "my_closure.py").write_text(
        "from ei.closure import MCClosure\n\n\nclass MyClosure(MCClosure):\n    pass\n"
    )
    (folder / "my_operator.py").write_text(
        "class MyOperator:\n    image_shape = (1, 16, 16)\n\n    def A(self, x):\n        return x[..., ::2, :]\n"
    )
    np.save(folder / "my_y.npy", slices[:, ::2])
    with zipfile.ZipFile(folder / "CT100_dicom.zip", "w") as archive:
        for number in range(100):
            archive.writestr(f"ID_{number:04d}_CT.dcm", dicom(rng.integers(0, 99, (16, 16))))
    with zipfile.ZipFile(folder / "Urban100.zip", "w") as archive:
        for number in range(1, 101):
            archive.write(folder / "photos" / "3.png", f"img_{number:03d}.png")
    begun = ["--task", "ct", "--base-channels", 2, "--schedule", "--ei-trans", 1]
    for more in (["--epochs", 2, "--max-steps", 1, "--out", "ckp/RUN"],
                 ["--epochs", 1, "--measurements", "y.npy", "--out", "ckp/mine"]):  # fmt: skip
        done = subprocess_run("python", "demo_train.py", *begun, *more, cwd=folder)
        assert done.code == 0, done.err
    return folder


def check(command: str, workspace: Path, script: Callable[..., Result]) -> None:
    """Run one command and check the files that it makes."""
    smaller = [more for pattern, more in SMALLER.items() if re.search(pattern, command)]
    command = " ".join([command, *smaller])
    began = time.time_ns() - 10**8  # file systems round their times
    program, *arguments = shlex.split(command)
    if program == "torchrun":
        done = subprocess_run(program, *arguments, cwd=workspace)
    else:
        assert program == "python"
        name, *arguments = arguments
        if name == "-m":
            assert arguments[0] == "ei"
            name, arguments = f"ei {arguments[1]}", arguments[2:]
        done = script(name, *arguments)
    assert done.code == 0, done.err
    made = [path for path in workspace.rglob("*") if path.is_file() and path.stat().st_mtime_ns >= began]
    what = next((endings for pattern, endings in MADE.items() if re.search(pattern, command)), None)
    assert what is not None, "what does it make? Say it in MADE"
    missing = [ending for ending in what if not any(file.match(ending) and file.stat().st_size > 50 for file in made)]
    assert not missing, (
        f"it made no {', '.join(missing)}, but {', '.join(str(file.relative_to(workspace)) for file in made)}"
    )


@pytest.mark.slow
def test_commands(workspace: Path, script: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    """One test, because later commands take what earlier ones have made."""
    monkeypatch.chdir(workspace)
    failed = []
    for command in COMMANDS:
        if ELSEWHERE.match(command):
            continue
        try:
            check(command, workspace, script)
        except AssertionError as error:
            failed.append(f"{command}\n    {error}")
    assert not failed, "\n\n".join(failed)


BLOCKS = [
    (page.name, block)
    for page in PAGES
    for block in re.findall(r"(?:^ {4}.*\n|^\n)+", page.read_text(encoding="utf-8"), re.MULTILINE)
    if re.match(r"\s*(from|import) \w", block)
]


@pytest.mark.parametrize(("page", "block"), BLOCKS, ids=[f"{page} {n}" for n, (page, _) in enumerate(BLOCKS)])
def test_python_blocks_run(page: str, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with the names that its text speaks of; a class of a block is a part of a run, which is tested elsewhere."""
    physics = CT(16, 10)
    f = Reconstructor(UNet(1, 1, base_channels=2), physics)
    (tmp_path / "ckp" / "RUN").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    trainer = Trainer(f, physics, None, MCClosure(), {"total": torch.optim.Adam(f.net.parameters())}, epochs=1,
                      out="ckp/RUN/run", progress=False)  # fmt: skip
    trainer.fit([torch.rand(2, 1, 16, 16)])
    os.rename("ckp/RUN/run/ckp_last.pth.tar", "ckp/RUN/ckp_last.pth.tar")
    names = {"physics": physics, "transform": Rotate(2), "y": physics.A(torch.rand(1, 1, 16, 16))}
    code = textwrap.dedent(block).replace("(1, 64, 64)", "(1, 16, 16)")
    exec(compile(code, page, "exec"), names)


def test_there_are_python_blocks() -> None:
    assert {page for page, _ in BLOCKS} >= {"README.md", "architecture.md", "own_problems.md"}


def test_the_closure_of_the_architecture_page_learns() -> None:
    """The example of a method that is added in one file."""
    block = next(block for page, block in BLOCKS if page == "architecture.md")
    names: dict = {}
    exec(textwrap.dedent(block), names)
    physics = CT(16, 10)
    f = Reconstructor(UNet(1, 1, base_channels=2), physics)
    losses = names["Noise2Inverse"]()(f, physics, None, physics.A(torch.rand(2, 1, 16, 16)))
    losses["total"].backward()
    assert set(losses) == {"total", "x1"} and all(p.grad is not None for p in f.net.parameters())


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"
