"""The paper's table: frozen configurations, reconstructions without learning, the command that makes it."""

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

import numpy as np
import pytest
import torch
from conftest import ROOT, subprocess_run
from ei.commands.options import OPTIONS
from ei.commands.parts import sample_of_the_paper
from ei.commands.reproduce import minutes_noted, train_cell
from ei.commands.settings import defaults_for, parser_of

from ei.common.files import read_yaml
from ei.datasets import EllipsePhantoms, Tiles
from ei.errors import InputError
from ei.evaluation.classical import _divergence, _gradient, classical_for, least_squares, total_variation
from ei.evaluation.loading import operator_in
from ei.metrics import psnr
from ei.physics import CT, MRI, GaussianNoise, Inpainting

CELLS = [f"{task}_{method}" for task in ("ct", "inpainting") for method in ("ei", "mc", "sup", "ei_adv", "ei_sup")]
BESIDE = [f"limited_angle_{method}" for method in ("ei", "mc", "sup")]
SPLIT = ["inpainting_split"]
OF_MRI = [f"mri_{method}" for method in ("ei", "mc", "sup", "sure", "rei")]
NOISE = {"ct": "transmission:1e5,30,0.0064", "inpainting": "poisson:0.05"}
NOISY = [f"{task}_noise_{method}" for task in NOISE for method in ("ei", "mc", "sup", "sure", "rei")]
PARSER = parser_of("train", "ei train", None)


def test_there_is_a_configuration_for_each_cell() -> None:
    assert sorted(path.stem for path in (ROOT / "configs").glob("*.yaml")) == sorted(
        [*CELLS, *BESIDE, *SPLIT, *OF_MRI, *NOISY]
    )


@pytest.mark.parametrize("cell", CELLS)
def test_configurations_are_the_papers(cell: str) -> None:
    task, method = cell.split("_", 1)
    options = vars(PARSER.parse_yaml(str(ROOT / "configs" / f"{cell}.yaml")))
    assert (options.pop("task"), options.pop("method")) == (task, method)
    defaults = defaults_for(task)
    assert options == {option: defaults[option] for option in options}
    wanted = {"epochs", "lr", "wd", "batch_size", "schedule", "data"}
    assert wanted | {name for name in ("ei_trans", "ei_alpha") if method in OPTIONS[name].needs["method"]} <= set(
        options
    )


@pytest.mark.parametrize("cell", OF_MRI)
def test_configurations_of_mri_are_robust_eis(cell: str) -> None:
    """Noise of 0.1 for all of them, as they are one problem; all else is what the task says."""
    options = vars(PARSER.parse_yaml(str(ROOT / "configs" / f"{cell}.yaml")))
    assert (options.pop("task"), options.pop("method")) == ("mri", cell.removeprefix("mri_"))
    assert options.pop("noise") == "gaussian:0.1"
    defaults = defaults_for("mri")
    assert options == {option: defaults[option] for option in options}
    assert (options["epochs"], options["lr"], options["schedule"], options["batch_size"]) == (500, 5e-4, [300], 2)


@pytest.mark.parametrize("cell", NOISY)
def test_noisy_cells_are_the_papers_with_robust_eis_noise(cell: str) -> None:
    task, method = cell.split("_noise_")
    options = read_yaml(str(ROOT / "configs" / f"{cell}.yaml"))
    assert (options.pop("method"), options.pop("noise")) == (method, NOISE[task])
    papers = read_yaml(str(ROOT / "configs" / f"{task}_{'ei' if method in ('ei', 'rei') else 'mc'}.yaml"))
    assert options == {name: value for name, value in papers.items() if name != "method"}


@pytest.mark.parametrize("cell", BESIDE)
def test_a_limited_angle_is_the_papers_ct_with_another_operator(cell: str) -> None:
    method = cell.removeprefix("limited_angle_")
    options, papers = (read_yaml(str(ROOT / "configs" / f"{name}.yaml")) for name in (cell, f"ct_{method}"))
    described = options.pop("physics")
    physics = operator_in(described, "the cell", torch.device("cpu"))
    assert physics.angles.tolist() == list(range(120)) and physics.image_shape == (128, 128)
    assert options == {name: value for name, value in papers.items() if name != "ct_views"}


@pytest.mark.parametrize("cell", SPLIT)
def test_splitting_is_measurement_consistency_with_another_method(cell: str) -> None:
    options, papers = (read_yaml(str(ROOT / "configs" / f"{name}.yaml")) for name in (cell, "inpainting_mc"))
    assert options == {**papers, "method": "split"}


@pytest.mark.parametrize("budget", sorted((ROOT / "configs" / "budget").glob("*.yaml")), ids=lambda path: path.stem)
def test_budgets_are_options_and_no_others(budget: Path) -> None:
    """A budget changes how long and how finely is trained, never the problem or the method."""
    options = vars(PARSER.parse_yaml(str(budget)))
    assert not set(options) & {"task", "method", "data", "ct_views", "mask_rate", "mask", "ei_alpha", "batch_size"}


@pytest.mark.parametrize("recipe", sorted((ROOT / "configs" / "recipe").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_are_options_and_not_the_papers(recipe: Path) -> None:
    """A recipe changes how is trained, whatever the cell and however long."""
    options = vars(PARSER.parse_yaml(str(recipe)))
    assert not set(options) & {"task", "method", "data", "epochs", "max_steps", "precision"}
    for task in ("ct", "inpainting"):
        assert any(value != defaults_for(task)[option] for option, value in options.items())


def test_the_pictures_show_the_papers_images() -> None:
    images = torch.zeros(10, 3, 8, 8)
    assert sample_of_the_paper("ct", images) == 4 and sample_of_the_paper("inpainting", images) == 6
    assert sample_of_the_paper("inpainting", Tiles(images, images[0].shape[-1] // 2)) == 12
    assert sample_of_the_paper("inpainting", images[:3]) == 2


def test_least_squares_solves() -> None:
    """Enough steps give the solution of least norm, as numpy's dense solver does."""
    physics = CT(6, 5)
    x = torch.rand(1, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = least_squares(physics, physics.A(x), iterations=200)
    matrix = physics.A(torch.eye(36, dtype=torch.float64).view(36, 1, 6, 6)).reshape(36, -1).T.numpy()
    expected = np.linalg.lstsq(matrix, physics.A(x).reshape(2, -1).T.numpy())[0].T
    np.testing.assert_allclose(found.numpy().reshape(2, -1), expected, atol=1e-6)


def test_gradient_and_divergence_are_transposes() -> None:
    x, q = torch.randn(2, 1, 5, 7, dtype=torch.float64), torch.randn(2, 2, 1, 5, 7, dtype=torch.float64)
    assert float((_gradient(x) * q).sum()) == pytest.approx(-float((x * _divergence(q)).sum()), rel=1e-10)


@pytest.mark.parametrize("positive", [True, False])
def test_total_variation_minimises_what_it_says(positive: bool) -> None:
    rng = torch.Generator().manual_seed(0)
    mask = (torch.rand(16, 16, generator=rng) < 0.5).float()
    physics, weight = (CT(16, 8) if positive else MRI(mask)), 0.05
    x = torch.rand(1, 1 if positive else 2, 16, 16, dtype=torch.float64, generator=rng) - (0 if positive else 0.5)
    y = physics.A(x)

    def objective(image: torch.Tensor) -> float:
        tv = _gradient(image).square().sum(dim=0).sqrt().sum()
        return float(0.5 * (physics.A(image) - y).square().sum() + weight * tv)

    found = total_variation(physics, y, weight, iterations=3000, positive=positive)
    assert (float(found.min()) >= 0) == positive
    least = 0 if positive else -torch.inf
    rng = torch.Generator().manual_seed(1)
    for size in (1e-1, 1e-2, 1e-3):
        for _ in range(10):
            other = (found + size * torch.randn(found.shape, dtype=torch.float64, generator=rng)).clamp(min=least)
            assert objective(found) <= objective(other)
    assert objective(found) <= objective(x)
    # Random steps are too coarse to tell another weight, which the minimisers for it are not.
    for other in (weight / 2, weight * 2):
        assert objective(found) < objective(total_variation(physics, y, other, iterations=400, positive=positive))


def test_classical_reconstructions_beat_the_fbp_on_phantoms() -> None:
    physics, x = CT(64, 20), torch.nn.functional.avg_pool2d(EllipsePhantoms("test")[0].view(1, 1, 128, 128), 2)
    y = physics.A(x)
    fbp, cgls, tv = (float(psnr(image, x)) for image in
                     (physics.A_dagger(y), least_squares(physics, y), total_variation(physics, y)))  # fmt: skip
    assert fbp + 1 < cgls and cgls + 5 < tv


def test_noise_decides_the_weight_of_the_total_variation() -> None:
    """It is the one that is best for training images, not that of noise-free data; without any it is left out."""
    images = torch.stack([torch.nn.functional.avg_pool2d(EllipsePhantoms("test")[k][None], 4) for k in range(4)])
    images = images.view(4, 1, 32, 32)
    physics = CT(32, 16)
    physics.noise = GaussianNoise(0.5)
    assert classical_for(physics) == {}
    chosen = classical_for(physics, images[:3])
    assert len(chosen) == 2 and all("weight" in name or name.startswith("CGLS ") for name in chosen)
    y = physics.noise(physics.A(images[3:]), generator=torch.Generator().manual_seed(1))
    reached = {name: float(psnr(reconstruct(physics, y), images[3:])) for name, reconstruct in chosen.items()}
    cgls, tv = reached.values()
    assert cgls > float(psnr(least_squares(physics, y), images[3:])) + 3
    assert tv > float(psnr(total_variation(physics, y), images[3:])) + 3
    holes = Inpainting(32, 32)
    holes.noise = GaussianNoise(0.1)
    assert list(classical_for(holes)) == ["harmonic fill"]
    assert [name.split(",")[0] for name in classical_for(holes, images[:1])] == ["harmonic fill", "TV"]
    mri = MRI((torch.rand(32, 32, generator=torch.Generator().manual_seed(0)) < 0.5).float())
    mri.noise = GaussianNoise(0.1)
    assert [name.split(",")[0] for name in classical_for(mri, images[:1].expand(1, 2, 32, 32))] == ["TV"]


def test_the_table_is_made_and_continued(tmp_path: Path) -> None:
    command = ("python", "-m", "ei", "reproduce", "--cells", "ct_mc", "inpainting_ei", "--budget", "smoke",
               "--ct-data", "synthetic", "--urban-data", "synthetic", "--out", "table", "--device", "cpu",
               "--average-over", "rotate90", "--epochs", "2")  # fmt: skip
    first = subprocess_run(*command, cwd=tmp_path)
    assert first.code == 0, first.err
    out = tmp_path / "table"
    text = (out / "ct.md").read_text()
    assert all(f"| {name}" in text for name in ("A_dagger y", "CGLS 50", "TV, x >= 0", "MC"))
    assert "harmonic fill" in (out / "inpainting.md").read_text() and "budget `smoke`" in text
    assert "| MC, averaged over rotate90 |" in text and "--epochs 2" in text
    with open(out / "ct_mc.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 10
    for name in ("ct.png", "ct_curves.png", "inpainting.png", "inpainting_curves.png"):
        assert (out / name).stat().st_size > 5000
    weights = (out / "inpainting_ei" / "ckp_last.pth.tar").stat().st_mtime_ns
    again = subprocess_run(*(part for part in command if part != "ct_mc"), cwd=tmp_path)
    assert again.code == 0, again.err
    assert (out / "inpainting_ei" / "ckp_last.pth.tar").stat().st_mtime_ns == weights

    for cells, said in ((("mri_ei", "inpainting_ei"), "inpainting and mri"),):
        wrong = subprocess_run(*command[:4], "--cells", *cells, "--budget", "smoke", "--mask", "m.pt", cwd=tmp_path)
        assert wrong.code == 2 and said in wrong.err and wrong.err.count("\n") == 1
    wrong = subprocess_run(*command[:4], "--cells", "ct_magic", "--budget", "smoke", cwd=tmp_path)
    assert wrong.code == 2 and "ct_magic" in wrong.err and wrong.err.count("\n") == 1


def test_the_minutes_of_an_interrupted_training_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """70 minutes that end in a signal and 5 to the end are 75; looking at a finished run adds nothing."""
    clock = iter([0.0, 70 * 60.0, 0.0, 5 * 60.0, 0.0, 2 * 60.0])
    monkeypatch.setattr("ei.commands.reproduce.time.monotonic", lambda: next(clock))
    newest = tmp_path / "ckp_last.pth.tar"
    with pytest.raises(InputError, match="code 143"), minutes_noted(tmp_path):
        newest.write_bytes(b"one")
        raise InputError("ended with code 143")
    with minutes_noted(tmp_path):
        newest.write_bytes(b"two")
        os.utime(newest, ns=(1, 1))
    with minutes_noted(tmp_path):
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

    monkeypatch.setattr("ei.commands.reproduce.subprocess.Popen", Training)
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

    monkeypatch.setattr("ei.commands.reproduce.subprocess.Popen", Training)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        train_cell("ct_mc", [], tmp_path, [])
    assert ended.value.code == 143 and said == ["terminate"] and signal.getsignal(signal.SIGTERM) == before
    assert len(json.loads((tmp_path / "minutes.json").read_text())) == 1


def test_pages_show_what_the_files_say() -> None:
    """Every table of a page that names a file or folder is the one that it gives."""
    done = subprocess_run("python", ROOT / "benchmarks" / "pages.py", "--check", cwd=ROOT)
    assert (done.code, done.out) == (0, "all equal\n"), done


@pytest.mark.parametrize("name", ["run", "scans", "time_to_quality", "trials"])
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
