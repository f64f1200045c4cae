"""Every command of the README and of docs/ runs, on small data in the places where the README says data belongs."""

from __future__ import annotations

import os
import re
import shlex
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

from ei.models import UNet
from ei.physics import CT, Inpainting

# The walks of docs/tomography.md and docs/noise.md are run as wholes by tests/test_scans.py and test_noise_page.py.
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
ELSEWHERE = re.compile(r"bash train_paper_bash.sh|python examples/|python -m ei reproduce|python -m ei prepare htc2022")
SMALL_TRAINING = "--epochs 1 --batch-size 2 --base-channels 2 --ei-trans 1 --schedule"
# What makes a command small, by a pattern of the command; the last option given wins.
SMALLER = {
    r"(demo_train.py|ei train) (?!--resume)": SMALL_TRAINING,
    r"--out ckp/mine$": "--out ckp/mine_again",
    r"ei diagnose": "--size 16 --max-elements 2",
    r"prepare ct100": "--out prepared.mat",
    r"prepare urban100": "--out prepared",
}

# The files that a command makes, if nothing else: an exit code of 0 says little.
MADE = {
    r"demo_train|ei train|train_paper|get_started|reproduce": ("config.yaml", "training_loss.csv", "ckp_last.pth.tar"),
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
    for name in ("demo_train.py", "demo_test_ct.py", "demo_test_inpainting.py", "configs", "ei"):
        os.symlink(ROOT / name, folder / name)
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
    (folder / "my_run.yaml").write_text("task: ct\nmethod: mc\n")
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
    """Run one command and look at what it makes."""
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
    if "--help" in command or "benchmarks/" in command:
        assert len(done.out) > 100
        return
    made = [path for path in workspace.rglob("*") if path.is_file() and path.stat().st_mtime_ns >= began]
    what = next((endings for pattern, endings in MADE.items() if re.search(pattern, command)), None)
    assert what is not None, "what does it make? Say it in MADE"
    missing = [ending for ending in what if not any(file.match(ending) and file.stat().st_size > 50 for file in made)]
    assert not missing, (
        f"it made no {', '.join(missing)}, but {', '.join(str(file.relative_to(workspace)) for file in made)}"
    )


def test_commands(workspace: Path, script: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    """One test, because later commands take what earlier ones have made: several processes would share out many."""
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


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"
