"""benchmarks/reproduce.py makes the tables, benchmarks/pages.py puts them into pages; the other benchmarks begin."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import runpy
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, SmallNet, subprocess_run

from ei.commands.test import sample_of_the_paper
from ei.errors import InputError
from ei.models import Reconstructor
from ei.physics import Inpainting

sys.path.append(str(ROOT / "benchmarks"))
import pages
import reproduce
from reproduce import add_minutes, papers_figures, precision_of, table, train_cell

SCRIPT = ROOT / "benchmarks" / "reproduce.py"


def test_the_pictures_show_the_papers_images() -> None:
    images = torch.zeros(10, 3, 8, 8)
    assert sample_of_the_paper("ct", images) == 4 and sample_of_the_paper("inpainting", images) == 6
    assert sample_of_the_paper("inpainting", images[:3]) == 2


@pytest.mark.slow
def test_the_table_is_made_and_continued(tmp_path: Path) -> None:
    command = ("python", SCRIPT, "--cells", "ct_mc", "inpainting_ei", "--budget", "smoke",
               "--ct-data", "synthetic", "--urban-data", "synthetic", "--out", "table", "--device", "cpu",
               "--average-over", "rotate90", "--epochs", "2")  # fmt: skip
    first = subprocess_run(*command, cwd=tmp_path)
    assert first.code == 0, first.err
    out = tmp_path / "table"
    text = (out / "ct.md").read_text()
    assert all(
        f"| {name}" in text for name in ("A_dagger y", "least squares (CGLS, 50 iterations)", "TV, x >= 0", "MC")
    )
    assert "harmonic fill" in (out / "inpainting.md").read_text() and "budget `smoke`" in text
    assert "| MC, test-time augmentation |" in text and "--epochs 2" in text and "30.83" not in text
    assert json.loads((out / "ct.json").read_text())["noise"] is None
    with open(out / "ct_mc.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 10
    for name in ("ct.png", "ct_curves.png", "inpainting.png", "inpainting_curves.png"):
        assert (out / name).stat().st_size > 5000
    weights = (out / "inpainting_ei" / "ckp_last.pth.tar").stat().st_mtime_ns
    again = subprocess_run(*(part for part in command if part != "ct_mc"), cwd=tmp_path)
    assert again.code == 0, again.err
    assert (out / "inpainting_ei" / "ckp_last.pth.tar").stat().st_mtime_ns == weights


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--cells", "mri_ei", "inpainting_ei", "--budget", "smoke", "--mask", "m.pt"), "inpainting and mri"),
        (("--cells", "ct_magic", "--budget", "smoke"), "ct_magic"),
        (("--cells", "ct_ei"), "--budget is needed"),
        (("--budget", "smoke"), "--cells is needed"),
        (("--cells", "ct_ei", "--budget", "smoke", "--average-over", "shift"), "rotate90, reflect"),
    ],
)
def test_wrong_arguments_of_reproduce(
    arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *arguments])
    with pytest.raises(InputError, match=message):
        reproduce.main()


def test_the_precision_of_a_budget_survives_a_recipe_with_another_reconstructor() -> None:
    recipe = "configs/recipe/unrolled.yaml"
    assert precision_of(["configs/budget/hour.yaml", recipe]) == ["reconstructor.precision=bf16"]
    assert precision_of(["configs/budget/small.yaml", recipe]) == []


def test_the_papers_figures_stand_beside_its_own_problem_alone() -> None:
    rows = [{"psnr_paper_pinv": 30.20}, {"psnr_paper_pinv": 30.30}]
    assert papers_figures("ct", None, rows)["ei"] == "36.94"
    assert papers_figures("limited_angle", None, rows) == {}
    assert papers_figures("ct", {"name": "GaussianNoise", "sigma": 1e-3}, rows) == {}
    assert papers_figures("ct", None, [{"psnr_paper_pinv": 30.4}]) == {}
    assert papers_figures("inpainting", None, rows) == {}


def test_the_table_of_a_committed_folder() -> None:
    """With the paper's figures, as its data are the paper's; files that say no noise have none."""
    lines = table(ROOT / "results" / "ct", "ct").splitlines()
    assert lines[2].startswith("| A_dagger y | 30.24") and lines[2].endswith("| 30.24 |")
    assert next(line for line in lines if line.startswith("| EI |")).endswith("| 36.94 |")


def test_classical_reconstructions_are_chosen_on_training_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps and weight chosen on the test images would flatter them."""
    images = {mode: [torch.full((1, 8, 8), value)] * 5 for mode, value in (("train", 0.0), ("test", 1.0))}
    f = Reconstructor(SmallNet(1), Inpainting(8, 8))
    chosen_on: list[torch.Tensor] = []

    def classical(physics: Any, train: torch.Tensor) -> dict[str, Any]:
        chosen_on.append(train)
        return {}

    for name, value in {
        "load_file": lambda *_: {"step": 1},
        "checked": lambda state, _: state,
        "tree_to_test": lambda *_: {"data": {}},
        "load_test": lambda *_: (f, images["test"], (1, 8, 8)),
        "load_images": lambda _, mode, __: SimpleNamespace(object=images[mode]),
        "minutes_of": lambda _: [1.0],
        "classical_for": classical,
    }.items():
        monkeypatch.setattr(reproduce, name, value)
    reproduce.evaluate_cell(Path("run"), "inpainting", None, torch.device("cpu"), True, [])
    assert len(chosen_on[0]) and not chosen_on[0].any()


def test_the_minutes_of_an_interrupted_training_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """70 minutes that end in a signal and 5 to the end are 75; evaluating a finished run adds nothing."""
    clock = iter([0.0, 70 * 60.0, 0.0, 5 * 60.0, 0.0, 2 * 60.0])
    monkeypatch.setattr("reproduce.time.monotonic", lambda: next(clock))
    newest = tmp_path / "ckp_last.pth.tar"
    with pytest.raises(InputError, match="code 143"), add_minutes(tmp_path):
        newest.write_bytes(b"one")
        raise InputError("ended with code 143")
    with add_minutes(tmp_path):
        newest.write_bytes(b"two")
        os.utime(newest, ns=(1, 1))
    with add_minutes(tmp_path):
        next(clock)
    assert json.loads((tmp_path / "minutes.json").read_text()) == [70.0, 5.0]


@pytest.mark.parametrize("code", [0, 143])
def test_a_training_notes_its_minutes_however_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    class Training:
        def __init__(self, command: list[str], cwd: Path) -> None:
            (tmp_path / "ckp_last.pth.tar").write_bytes(b"weights")

        def wait(self) -> int:
            return code

    monkeypatch.setattr("reproduce.subprocess.Popen", Training)
    with pytest.raises(InputError, match="code 143") if code else contextlib.nullcontext():
        train_cell("ct_mc", [], tmp_path, [])
    assert len(json.loads((tmp_path / "minutes.json").read_text())) == 1


def test_sigterm_is_passed_on_and_the_minutes_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = []

    class Training:
        def __init__(self, command: list[str], cwd: Path) -> None:
            (tmp_path / "ckp_last.pth.tar").write_bytes(b"weights")

        def wait(self) -> int:
            if not said:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(5)  # cut short by the signal
            return 143

        def terminate(self) -> None:
            said.append("terminate")

    monkeypatch.setattr("reproduce.subprocess.Popen", Training)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        train_cell("ct_mc", [], tmp_path, [])
    assert ended.value.code == 143 and said == ["terminate"] and signal.getsignal(signal.SIGTERM) == before
    assert len(json.loads((tmp_path / "minutes.json").read_text())) == 1


def test_pages_show_what_the_files_say() -> None:
    """Every table of a page that names a file or folder is the one that it gives."""
    for page in pages.PAGES:
        text = page.read_text(encoding="utf-8")
        assert text == pages.filled(text), f"{page.name}: run benchmarks/pages.py"


@pytest.mark.parametrize(
    "name",
    ["cg_steps", "diagnose", "gpu", "reproduce", "run", "scans", "stopping", "sure_step", "time_to_quality", "trials"],
)
def test_benchmarks_begin(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """Their figures are measured by hand; that they can be called, and that their types fit, is checked always."""
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "benchmarks" / f"{name}.py"), run_name="__main__")
    assert ended.value.code == 0 and "usage:" in capsys.readouterr().out


def test_figures_of_scans() -> None:
    """Of benchmarks/scans.py: a copy is perfect, what lies outside the disc does not count, half the contrast costs."""
    quality = runpy.run_path(str(ROOT / "benchmarks" / "scans.py"))["quality"]
    across = np.arange(32) - 15.5
    reference = (np.hypot(across[:, None], across) < 14) * 1.0
    reference[12:18, 12:18] = 0.1
    rng = np.random.default_rng(0)
    reference += 0.03 * rng.standard_normal((32, 32))
    outside = np.where(np.hypot(across[:, None], across) > 16, 7.0, reference)
    noisy = outside + 1e-3 * rng.standard_normal((32, 32))
    found = quality(noisy, reference)
    assert found["matthews"] > 0.99 and found["ssim"] > 0.99 and found["psnr"] == pytest.approx(60, abs=1)
    shifted = quality(np.roll(reference, 4, axis=1), reference)
    assert shifted["matthews"] < 0.8 and shifted["psnr"] < 15
