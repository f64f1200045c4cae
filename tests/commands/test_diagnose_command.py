"""`ei diagnose`, and what `ei train` prints of a diagnosis."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, Result, subprocess_run
from scan_makers import noisy_sinogram, scan_arguments

from ei.diagnosis.verdicts import UNDECIDED

Script = Callable[..., Result]


@pytest.mark.slow
def test_an_operator_from_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(
        "physics: {name: Inpainting, mask_rate: 0.4}\n"
        "transform: {name: Shift, n_trans: 3}\n"
        "data: {train: {name: DeadLeaves}}\n"
    )
    done = subprocess_run(
        "python", "-m", "ei", "diagnose", "--config", "my.yaml", "--max-elements", "4", "--out", "d.png", cwd=tmp_path
    )
    assert done.code == 0, done.err
    # Four shifts are too few, and say nothing of the others.
    assert done.out.startswith(UNDECIDED) and "the other 16125 were not" in done.out.splitlines()[0]
    assert "holds" not in done.out and (tmp_path / "d.png").stat().st_size > 1000
    wrong = subprocess_run("python", "-m", "ei", "diagnose", "--config", str(ROOT / "Makefile"), cwd=tmp_path)
    assert wrong.code == 2 and len(wrong.err.splitlines()) == 1


def test_the_commands_print_it(script: Callable[..., Result]) -> None:
    geometry = scan_arguments(centre=2.0)
    y = noisy_sinogram(geometry)[:, 0].float().repeat(4, 1, 1).numpy()
    np.save("y.npy", y)
    np.save("angles.npy", geometry["angles"])
    coarse = "name: Tomography\nimage_shape: [16, 16]\npixel_size: 3\nangles: angles.npy\nn_detectors: 72\n"
    Path("g.yaml").write_text(coarse + "centre: 2\n")
    train = ("ei train", "--physics", "g.yaml", "--group", "rotate", "--measurements", "y.npy", "--base-channels", 2,
             "--epochs", 1, "--max-steps", 1, "--device", "cpu", "--out")  # fmt: skip
    done = script(*train, "run")
    assert done.code == 0 and "the sinogram fits its geometry" in done.out and "axis 2.0" in done.out, done
    Path("g.yaml").write_text(coarse)
    done = script(*train, "other")
    assert done.code == 0 and "does NOT fit" in done.out and "set centre to 2.0" in done.out
    done = script("ei diagnose", "--physics", "g.yaml", "--group", "rotate", "--measurements", "y.npy")
    assert done.code == 0 and "set centre to 2.0" in done.out and "variation of the sum" in done.out


@pytest.mark.parametrize("name", ["y.npz", "figure", "folder.png"])
def test_what_cannot_be_a_figure_is_an_error_before_the_work(script: Script, name: str) -> None:
    Path("folder.png").mkdir()
    done = script("ei diagnose", "--task", "ct", "--size", 8, "--out", name)
    assert done.code == 2 and f"--out must be a file of a figure (.png, .pdf, .svg, ..), got {name}" in done.err, done
    assert not done.out


def test_diagnose_rejects_noise_that_it_cannot_examine(script: Script) -> None:
    for arguments, said in (
        (("--task", "ct", "--size", 8, "--noise", "unknown"), "unknown"),
        (("--task", "ct", "--size", 8, "--noise", "poisson:-1"), "gain"),
        (("--task", "ct", "--size", 8, "--noise", "transmission:0"), "photons"),
    ):
        done = script("ei diagnose", *arguments)
        assert done.code == 2 and said in done.err and done.err.count("\n") == 1, done
