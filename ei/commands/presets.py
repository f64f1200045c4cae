"""The paper's problems and methods by name, as trees: what ``--task`` and ``--method`` stand for."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

from ei.commands.tree import Tree, arguments_for, name_of
from ei.errors import InputError


class Method(NamedTuple):
    """A closure by its short name, and what tables call it."""

    closure: str
    title: str


METHODS = {
    "ei": Method("EIClosure", "EI"),
    "mc": Method("MCClosure", "MC"),
    "split": Method("SplittingClosure", "Splitting"),
    "split_ei": Method("SplittingEIClosure", "Splitting + EI"),
    "sure": Method("SUREClosure", "SURE"),
    "rei": Method("RobustEIClosure", "REI"),
    "sup": Method("SupervisedClosure", "Sup"),
    "ei_sup": Method("SupervisedEIClosure", "EI_sup"),
    "ei_adv": Method("AdversarialEIClosure", "EI_adv"),
}
# The methods that do without the level of the noise: `ei.closure.UNSUREClosure` finds it.
UNSURE = "UNSUREClosure"
UNKNOWN_NOISE = ("sure", "rei")


class Paper(NamedTuple):
    """What the paper has of a problem beside its settings.

    Attributes:
        place: where the data of a name lies.
        dataset: the data set that reads it, and the argument for the path.
        channels: of its images.
        sample_to_show: the test image of the paper's figure.
        psnr: the paper's PSNR for A_dagger y ("pinv") and each method (from memory).
    """

    place: str
    dataset: tuple[str, str]
    channels: int
    sample_to_show: int
    psnr: Mapping[str, float]


PAPER = {
    "ct": Paper(
        place="dataset/CT/{}_128x128.mat",
        dataset=("CTData", "root_dir"),
        channels=1,
        sample_to_show=4,
        psnr={"pinv": 30.24, "mc": 30.83, "ei": 36.94, "ei_adv": 36.96, "sup": 38.17, "ei_sup": 38.79},
    ),
    "inpainting": Paper(
        place="dataset/{}",
        dataset=("CVDB", "root"),
        channels=3,
        sample_to_show=6,
        psnr={"pinv": 5.84, "mc": 5.84, "ei": 25.14, "ei_adv": 23.26, "sup": 26.51, "ei_sup": 26.75},
    ),
    "mri": Paper(place="dataset/MRI/{}.npz", dataset=("MRIData", "root_dir"), channels=2, sample_to_show=0, psnr={}),
}

# The paper's settings of ct and inpainting (`train_paper_bash.sh`), Robust EI's (Chen, Tachella & Davies, 2022) of mri.
_PROBLEMS: dict[str, Tree] = {
    "ct": {
        "physics": {"name": "CT", "radon_view": 50},
        "transform": {"name": "Rotate", "n_trans": 5},
        "closure": {"name": "EIClosure", "alpha": 100},
        "data": {"train": {"name": "CTData", "root_dir": "dataset/CT/CT100_128x128.mat"}, "batch_size": 2},
        "optimizer": {"name": "Adam", "lr": 5e-4, "weight_decay": 1e-8},
        "schedule": {"name": "step_schedule", "milestones": [2000, 3000, 4000]},
        "trainer": {"epochs": 5000, "ckp_interval": 1000, "task": "ct"},
    },
    "inpainting": {
        "physics": {"name": "Inpainting", "mask_rate": 0.3},
        "transform": {"name": "Shift", "n_trans": 3},
        "closure": {"name": "EIClosure", "alpha": 1},
        "data": {"train": {"name": "CVDB", "root": "dataset/Urban100"}, "batch_size": 1},
        "optimizer": {"name": "Adam", "lr": 1e-3, "weight_decay": 1e-8},
        "schedule": {"name": "step_schedule", "milestones": [500, 1000, 1500]},
        "trainer": {"epochs": 2000, "ckp_interval": 500, "task": "inpainting"},
    },
    "mri": {
        "physics": {"name": "MRI", "mask": {"name": "random_columns", "acceleration": 4}},
        "transform": {"name": "Rotate", "n_trans": 2},
        "closure": {"name": "EIClosure", "alpha": 1},
        "data": {"train": {"name": "MRIData", "root_dir": "dataset/MRI/mri_chest_256.npz"}, "batch_size": 2},
        "optimizer": {"name": "Adam", "lr": 5e-4, "weight_decay": 1e-8},
        "schedule": {"name": "step_schedule", "milestones": [300]},
        "trainer": {"epochs": 500, "ckp_interval": 100, "task": "mri"},
    },
}
_SHARED: Tree = {"network": {"name": "UNet", "base_channels": 64}, "reconstructor": {"name": "Reconstructor"}}

# Without a task: settings that suit a small run.
SMALL: Tree = {
    "transform": {"name": "Shift", "n_trans": 2},
    "closure": {"name": "EIClosure", "alpha": 1},
    "network": {"name": "UNet", "base_channels": 16},
    "reconstructor": {"name": "Reconstructor"},
    "data": {"batch_size": 2},
    "optimizer": {"name": "Adam", "lr": 1e-3, "weight_decay": 1e-8},
    "schedule": {"name": "cosine_schedule"},
    "trainer": {"epochs": 50, "ckp_interval": 50, "clip_norm": 0.01},
}


def problem(task: str | None) -> Tree:
    """The tree of a task, or of a small run without one.

    Raises:
        InputError: for an unknown task.
    """
    if task is None:
        return copy.deepcopy(SMALL)
    if task not in _PROBLEMS:
        raise InputError(f"trainer.task must be one of {', '.join(_PROBLEMS)}, got {task!r}")
    return copy.deepcopy({**_PROBLEMS[task], **_SHARED})


def closure_for(method: str, tree: Mapping[str, Any], is_noise_unknown: bool = False) -> Tree:
    """The closure of a method, with those arguments of the tree's closure that it takes; the weight of the equivariance
    loss is the tree's, or the problem's."""
    before = dict(tree.get("closure") or {})
    name = METHODS[method].closure
    if is_noise_unknown:
        name = UNSURE
    taken = arguments_for("closure", name)
    weight = before.get("alpha", before.get("alpha_ei"))
    if weight is None:
        weight = problem((tree.get("trainer") or {}).get("task"))["closure"]["alpha"]
    closure: Tree = {"name": name}
    if method == "ei_adv":
        closure |= {"alpha_ei": weight, "alpha_adv": before.get("alpha_adv", 1e-8)}
    elif "alpha" in taken and method != "sure":
        closure["alpha"] = weight
    carried = {key: value for key, value in before.items() if key in taken and key not in ("name", "alpha")}
    return {**carried, **closure} if before.get("name") == name else {**closure, **carried}


def method_of(tree: Mapping[str, Any]) -> str:
    """The short name of the tree's closure; that of user-defined code is its own."""
    name = name_of(tree, "closure")
    if name == UNSURE:
        return "rei" if tree["closure"].get("alpha") is not None else "sure"
    short = next((short for short, method in METHODS.items() if method.closure == name), None)
    return short or str(name or "").rpartition(":")[2].removesuffix("Closure").lower()


def title_of(tree: Mapping[str, Any]) -> str:
    """What tables call the method of a tree."""
    method = method_of(tree)
    return METHODS[method].title if method in METHODS else method or "EI"
