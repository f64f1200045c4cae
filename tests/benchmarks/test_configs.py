"""The frozen trees of configs/: cells of the tables, budgets and recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT

from ei.commands import presets
from ei.commands.problem import build_physics
from ei.commands.tree import arguments_for, name_of, read_physics, read_tree, with_absolute_paths

CELLS = [f"{task}_{method}" for task in ("ct", "inpainting") for method in ("ei", "mc", "sup", "ei_adv", "ei_sup")]
LIMITED_ANGLE = [f"limited_angle_{method}" for method in ("ei", "mc", "sup")]
SPLITTING = ["inpainting_split"]
MRI = [f"mri_{method}" for method in ("ei", "mc", "sup", "sure", "rei")]
NOISE = {
    "ct": {"name": "TransmissionNoise", "photons": 100000, "sigma": 30, "scale": 0.0064},
    "inpainting": {"name": "PoissonNoise", "gain": 0.05},
}
NOISY = [f"{task}_noise_{method}" for task in NOISE for method in ("ei", "mc", "sup", "sure", "rei")]


def read(path: str) -> dict[str, Any]:
    return read_tree(str(ROOT / "configs" / f"{path}.yaml"))


def preset(task: str, method: str) -> dict[str, Any]:
    """The tree that ``--task TASK --method METHOD`` stands for."""
    tree = with_absolute_paths(presets.problem(task), ROOT)
    tree["closure"] = presets.closure_for(method, tree)
    if method in ("mc", "sup", "sure"):
        del tree["transform"]
    return {**tree, "trainer": {**tree["trainer"], "seed": 0}}


def without(tree: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in tree.items() if key not in keys}


def test_there_is_a_tree_for_each_cell() -> None:
    names = sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))
    assert names == sorted([*CELLS, *LIMITED_ANGLE, *SPLITTING, *MRI, *NOISY])


@pytest.mark.parametrize("cell", CELLS)
def test_cells_are_the_papers(cell: str) -> None:
    task, method = cell.split("_", 1)
    assert read(cell) == preset(task, method)


def test_the_papers_settings() -> None:
    """train_paper_bash.sh, in numbers."""
    ct, inpainting = read("ct_ei"), read("inpainting_ei")
    assert ct["physics"] == {"name": "CT", "radon_view": 50} and ct["closure"] == {"name": "EIClosure", "alpha": 100}
    assert ct["transform"] == {"name": "Rotate", "n_trans": 5} and ct["data"]["batch_size"] == 2
    assert ct["optimizer"] == {"name": "Adam", "lr": 5e-4, "weight_decay": 1e-8}
    assert ct["schedule"]["milestones"] == [2000, 3000, 4000] and ct["trainer"]["epochs"] == 5000
    assert inpainting["physics"] == {"name": "Inpainting", "mask_rate": 0.3}
    assert inpainting["closure"]["alpha"] == 1 and inpainting["transform"] == {"name": "Shift", "n_trans": 3}
    assert inpainting["optimizer"]["lr"] == 1e-3 and inpainting["data"]["batch_size"] == 1
    assert inpainting["schedule"]["milestones"] == [500, 1000, 1500] and inpainting["trainer"]["epochs"] == 2000
    adversarial = read("ct_ei_adv")["closure"]
    assert adversarial == {"name": "AdversarialEIClosure", "alpha_ei": 100, "alpha_adv": 1e-8}


@pytest.mark.parametrize("cell", MRI)
def test_cells_of_mri_are_robust_eis(cell: str) -> None:
    tree = read(cell)
    assert tree.pop("noise") == {"name": "GaussianNoise", "sigma": 0.1}
    assert tree == preset("mri", cell.removeprefix("mri_"))


@pytest.mark.parametrize("cell", NOISY)
def test_noisy_cells_are_the_papers_with_robust_eis_noise(cell: str) -> None:
    task, method = cell.split("_noise_")
    tree = read(cell)
    assert tree.pop("noise") == NOISE[task]
    assert tree == preset(task, method)


@pytest.mark.parametrize("cell", LIMITED_ANGLE)
def test_a_limited_angle_is_the_papers_ct_with_another_operator(cell: str) -> None:
    tree, papers = read(cell), read(f"ct_{cell.removeprefix('limited_angle_')}")
    assert without(tree, "physics") == without(papers, "physics")
    # Views that are not uniform are 1 degree apart.
    assert tree["physics"] == {"name": "CT", "img_width": 128, "radon_view": 120, "uniform": False}


@pytest.mark.parametrize("cell", SPLITTING)
def test_splitting_is_measurement_consistency_with_another_closure(cell: str) -> None:
    tree, papers = read(cell), read("inpainting_mc")
    assert tree["closure"] == {"name": "SplittingClosure"}
    assert without(tree, "closure") == without(papers, "closure")


@pytest.mark.parametrize("budget", sorted((ROOT / "configs" / "budget").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_budget_changes_the_length_and_never_the_problem_or_the_method(budget: Path) -> None:
    tree = read_tree(str(budget))
    assert set(tree) <= {"transform", "network", "reconstructor", "optimizer", "schedule", "trainer"}
    assert set(tree.get("transform", {})) <= {"n_trans"} and set(tree.get("reconstructor", {})) <= {"precision"}
    assert "name" not in tree.get("network", {})


@pytest.mark.parametrize("recipe", sorted((ROOT / "configs" / "recipe").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_changes_the_training_of_any_cell_and_not_its_length(recipe: Path) -> None:
    tree = read_tree(str(recipe))
    assert tree and not set(tree) & {"physics", "noise"}
    assert "name" not in tree.get("closure", {}) and "train" not in tree.get("data", {})
    assert not set(tree.get("trainer", {})) & {"epochs", "max_steps", "task"}
    assert "precision" not in tree.get("reconstructor", {})


@pytest.mark.parametrize("trial", sorted((ROOT / "benchmarks" / "trials").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_trial_has_the_keys_of_some_class(trial: Path) -> None:
    """One without a name is merged over what is there: of physics over CT, else over the parts of a recipe."""
    defaults = {"physics": "CT", "closure": "EIClosure", "reconstructor": "Unrolled", "transform": "Rotate"}
    for key, part in read_tree(str(trial)).items():
        if key != "data":
            name = part.get("name") or defaults.get(key) or name_of({}, key)
            assert set(part) <= {"name", "transforms", *arguments_for(key, name)}


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "physics").glob("*.yaml")), ids=lambda path: path.stem)
def test_geometries_are_operators(path: Path) -> None:
    physics = build_physics(read_physics(str(path))["physics"], torch.device("cpu"), {}).object
    assert physics.image_shape in ((128, 128), (160, 160)) and len(physics.angles) >= 180
