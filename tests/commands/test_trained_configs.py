"""Every file of ``configs/`` trains as it did before a run was a tree.

reference/configs.json holds the figures of that code (commit 9ddc847), for the same words: the sum of the weights after
three steps, and the sums of the losses. On the machine that they were made on, the weights were equal bit for bit. On
another processor of the same kind three steps of that code differed from them by 6e-3 in a loss and 2e-4 in the sum.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REFERENCE, ROOT, Result
from torch import Tensor

from ei.closure import sure
from ei.common.files import load_file
from ei.datasets.synthetic import _Generated

Script = Callable[..., Result]
FIGURES = json.loads((REFERENCE / "configs.json").read_text())
CONFIGS = ROOT / "configs"
# The cells that each recipe is tried on; budgets are tried on ct_ei.
RECIPES = {
    "clipped": ["ct_ei", "ct_mc"],
    "direct_noise": ["ct_noise_mc", "ct_noise_ei", "ct_noise_sure", "ct_noise_rei", "ct_noise_sup"],
    "few_steps": ["ct_ei"],
    "stopped": ["ct_ei", "ct_sup"],
    "tiles_noise": ["inpainting_noise_rei", "inpainting_noise_sup"],
    "unrolled": ["ct_ei", "ct_mc", "ct_sup"],
    "unrolled_filtered": ["ct_ei"],
    "unrolled_inpainting": ["inpainting_ei", "inpainting_sup"],
    "unrolled_inpainting_wide": ["inpainting_split", "inpainting_ei"],
    "unrolled_mri": ["mri_rei", "mri_sup", "mri_mc"],
    "unrolled_noise": ["ct_noise_rei", "ct_noise_mc", "ct_noise_sup"],
    "unrolled_wide": ["ct_ei", "ct_sup", "limited_angle_ei"],
}
# Newer than these figures; tried in test_large_scans.py and below.
NEWER = {"coarse_to_fine", "unrolled_turned"}
# A cell of each problem, a method with two networks, a budget, two recipes: in `make test`, too.
FAST = {"ct_ei", "inpainting_split", "mri_rei", "ct_noise_sure", "ct_ei + short", "ct_noise_rei + direct_noise",
        "mri_sup + unrolled_mri"}  # fmt: skip


def names_in(folder: str = "") -> list[str]:
    return sorted(path.stem for path in (CONFIGS / folder).glob("*.yaml"))


def cases() -> dict[str, list[Any]]:
    """The words of ``ei train``, by case."""
    words: dict[str, list[Any]] = {cell: [CONFIGS / f"{cell}.yaml"] for cell in names_in()}
    over = {budget: ("budget", ["ct_ei"]) for budget in names_in("budget")}
    over |= {recipe: ("recipe", RECIPES[recipe]) for recipe in names_in("recipe") if recipe not in NEWER}
    for name, (folder, cells) in over.items():
        words |= {f"{cell} + {name}": [CONFIGS / f"{cell}.yaml", CONFIGS / folder / f"{name}.yaml"] for cell in cells}
    physics = {f"physics {name}": ["--physics", CONFIGS / "physics" / f"{name}.yaml"] for name in names_in("physics")}
    return words | {name: [*given, "--group", "rotate"] for name, given in physics.items()}


CASES = cases()


def test_every_file_has_figures() -> None:
    assert set(FIGURES["cases"]) == set(CASES) and set(CASES) >= FAST and len(FAST) >= 6


def former_tau(physics: Any, y: Tensor, variance: Tensor) -> Tensor:
    """The default step of SURE when the figures were made: 0.3 of the noise."""
    count = sure._sum_of_each(physics, torch.ones_like(y))
    noise, size = ((sure._sum_of_each(physics, values) / count).sqrt() for values in (variance, y.square()))
    return torch.maximum(0.3 * noise, sure.TAU_OF_Y * size)


@pytest.mark.parametrize(
    "case", [case if case in FAST else pytest.param(case, marks=pytest.mark.slow) for case in CASES]
)
def test_it_trains_as_before(script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    side = 64 if "tiles" in case or "+ unrolled_inpainting" in case else 32  # tiles are of 64 x 64
    monkeypatch.setattr(_Generated.__init__, "__defaults__", ("train", side, 100, 0))
    monkeypatch.setattr(sure, "default_tau", former_tau)
    done = script("ei train", *CASES[case], "--data", "synthetic", "--base-channels", 4, "--max-steps", 3, "--device",
                  "cpu", "--out", "run")  # fmt: skip
    assert done.code == 0, done.err
    state = load_file(tmp_path / "run" / "ckp_last.pth.tar")
    networks = [weights for key, weights in state.items() if key.startswith("state_dict")]
    total = sum(float(value.double().abs().sum()) for weights in networks for value in weights.values())
    figures = FIGURES["cases"][case]
    assert total == pytest.approx(figures["abs_sum"], rel=1e-3)
    assert state["sums"] == pytest.approx(figures["sums"], rel=2e-2)


def test_the_turned_recipe_is_the_wide_one_with_a_scanner_that_turns(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Generated.__init__, "__defaults__", ("train", 32, 100, 0))
    turned = ["transform={name: Turn, n_trans: 2, step: 3.6}", "closure.move=operator"]
    weights = []
    for recipe, more in (("unrolled_turned", []), ("unrolled_wide", turned)):
        trees = [CONFIGS / "ct_ei.yaml", CONFIGS / "recipe" / f"{recipe}.yaml"]
        done = script("ei train", *trees, *more, "--data", "synthetic", "--base-channels", 4, "--max-steps", 2,
                      "--device", "cpu", "--out", f"run_{len(weights)}")  # fmt: skip
        assert done.code == 0, done.err
        weights.append(load_file(tmp_path / f"run_{len(weights)}" / "ckp_last.pth.tar")["state_dict"])
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
