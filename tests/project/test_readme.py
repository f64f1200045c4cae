"""Every command and every Python block of README and docs/ runs, on small data where they expect data."""

from __future__ import annotations

import os
import re
import shlex
import shutil
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
from page_blocks import blocks_of, commands_of
from PIL import Image

from ei.models import Reconstructor, UNet
from ei.physics import CT, Inpainting

# Pages whose commands are run as wholes by tests of their own.
WALKS = ("ct_scan", "large_scans", "noise", "mri")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if not {"_build", "auto_examples"} & set(page.parts)]
COMMANDS = list(dict.fromkeys(command for page in PAGES if page.stem not in WALKS for command in commands_of(page)))
# Run by tests of their own: the paper's two trainings and its table; other scans and masks (test_scans_that_differ).
ELSEWHERE = re.compile(r"bash train_paper_bash.sh|python benchmarks/|ei reconstruct .*--input other")
SMALL_TRAINING = "--epochs 1 --batch-size 2 --base-channels 2 --ei-trans 1 --schedule"
# What makes a command small, by a pattern of the command; the last flag wins, and keys come after flags.
SMALLER = {
    r"(demo_train.py|ei train) (?!--resume)": SMALL_TRAINING,
    r"recipe/unrolled_wide": "network.base_channels=2",
    r"cuda_graphs": "trainer.cuda_graphs=false",
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
    """Of README and of the guides."""
    assert len(COMMANDS) > 20
    assert {"python demo_test_ct.py", "ei prepare ct100 --dicom CT100_dicom.zip"} <= set(COMMANDS)


def test_readme_is_short() -> None:
    """At most 150 lines, and 100 characters a line outside tables and pictures."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 100 and not line.startswith(("|", "!["))] == []


def test_results_are_one_screen() -> None:
    assert len((ROOT / "RESULTS.md").read_text(encoding="utf-8").splitlines()) <= 50


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
    (folder / "scan.yaml").write_text("name: CT\nimg_width: 16\nradon_view: 50\n")
    np.save(folder / "masked.npy", rng.random((10, 3, 256, 256), dtype=np.float32))
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
        name, *arguments = arguments
        done = script(f"ei {name}" if program == "ei" else name, *arguments)
    assert done.code == 0, done.err
    made = [path for path in workspace.rglob("*") if path.is_file() and path.stat().st_mtime_ns >= began]
    what = next((endings for pattern, endings in MADE.items() if re.search(pattern, command)), None)
    assert what is not None, "what does it make? Add it to MADE"
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


WITH_PYTHON = [page for page in PAGES if blocks_of(page, "python")]
# What makes the Python of a page small: epochs, numbers and sizes of images, an operator to diagnose.
SMALLER_PYTHON = {
    r"epochs=\d+": "epochs=1",
    r'DeadLeaves\("(\w+)", 64, 200\)': r'DeadLeaves("\1", 16, 10)',
    r"\b64, 64\b": "16, 16",
    r"base_channels=\d+": "base_channels=2",
    r"CT\(32, 8\), Rotate\(2\), image_shape=\(1, 32, 32\)": "CT(16, 4), Rotate(2), image_shape=(1, 16, 16)",
}


@pytest.mark.parametrize("page", WITH_PYTHON, ids=[page.stem for page in WITH_PYTHON])
def test_the_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From top to bottom, as one program."""
    monkeypatch.chdir(tmp_path)
    code = "\n".join(blocks_of(page, "python"))
    for pattern, smaller in SMALLER_PYTHON.items():
        code = re.sub(pattern, smaller, code)
    exec(compile(code, page.name, "exec"), {"__name__": page.stem})


def test_there_are_python_blocks() -> None:
    assert {page.stem for page in WITH_PYTHON} >= {"README", "architecture", "in_15_lines", "user_defined", "noise"}


def test_the_two_psnrs_differ_as_the_page_says() -> None:
    names: dict = {}
    (block,) = blocks_of(ROOT / "docs" / "reference" / "conventions.md", "python")
    exec(block, names)
    assert float(names["difference"]) == pytest.approx(10 * np.log10(3), abs=1e-3)


def test_the_closure_of_the_page_learns() -> None:
    """The example of a method that is added in one file."""
    block = next(block for block in blocks_of(ROOT / "docs/guides/user_defined.md", "python") if "Noise2In" in block)
    names: dict = {"torch": torch}
    exec(block, names)
    physics = CT(16, 10)
    f = Reconstructor(UNet(1, 1, base_channels=2), physics)
    losses = names["Noise2Inverse"]()(f, physics, None, physics.A(torch.rand(2, 1, 16, 16)))
    losses["total"].backward()
    assert set(losses) == {"total", "x1"} and all(p.grad is not None for p in f.net.parameters())


# Made when the site is built.
BUILT = {"auto_examples/index", "reference/api"}


def test_links_lead_somewhere() -> None:
    """Files, headings in them, and the pages of the site's contents, each once."""
    for page in [*PAGES, ROOT / "RESULTS.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            path, _, heading = target.partition("#")
            found = page.parent / path if path else page
            assert "://" in target or found.exists(), f"{page.name}: {target}"
            assert "://" in target or not heading or heading in headings(found), f"{page.name}: {target}"


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_contents_name_every_page_once() -> None:
    docs = ROOT / "docs"
    named = [
        (page.parent / re.sub(r".*<(.+)>", r"\1", entry)).resolve().relative_to(docs.resolve()).as_posix()
        for page in PAGES
        for block in blocks_of(page, r"{toctree}")
        for entry in block.split("\n\n")[1].split("\n")
        if entry
    ]
    pages = {page.relative_to(docs).with_suffix("").as_posix() for page in PAGES if docs in page.parents} | BUILT
    assert sorted(named) == sorted(pages - {"index"})
