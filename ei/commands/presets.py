"""The paper's problems and methods by name: what ``--task`` and ``--method`` stand for. The trees are in problems/."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ei.commands.tree import Tree, arguments_for, check_keys, get, name_of
from ei.common.yaml_text import read_yaml


class Method(NamedTuple):
    """A closure by its short name, and what tables call it."""

    closure: str
    title: str


METHODS = {
    "ei": Method("EIClosure", "EI"),
    "mc": Method("MCClosure", "MC"),
    "moi": Method("MOIClosure", "MOI"),
    "split": Method("SplittingClosure", "Splitting"),
    "split_ei": Method("SplittingEIClosure", "Splitting + EI"),
    "sure": Method("SUREClosure", "SURE"),
    "rei": Method("RobustEIClosure", "REI"),
    "sup": Method("SupervisedClosure", "Sup"),
    "ei_sup": Method("SupervisedEIClosure", "EI_sup"),
    "ei_adv": Method("AdversarialEIClosure", "EI_adv"),
}
# Of the methods sure and rei where the level of the noise is unknown.
UNSURE = "UNSUREClosure"


class Paper(NamedTuple):
    """What is known of a problem of the paper beside its tree: the data set that reads its images, and the argument for
    their path; where those of a name are; their channels; the test image of the paper's figure."""

    dataset: str
    argument: str
    place: str
    channels: int
    sample_to_show: int


PAPER = {
    "ct": Paper("CTData", "root_dir", "dataset/CT/{}_128x128.mat", channels=1, sample_to_show=4),
    "inpainting": Paper("CVDB", "root", "dataset/{}", channels=3, sample_to_show=6),
    "mri": Paper("MRIData", "root_dir", "dataset/MRI/{}.npz", channels=2, sample_to_show=0),
}


def problem(task: str | None) -> Tree:
    """The tree of a task; of the parts of a small run without one."""
    tree = read_yaml(Path(__file__).parent / "problems" / f"{task or 'small'}.yaml")
    check_keys(tree)
    return tree


def data_of(task: str | None) -> Tree:
    """The part ``data`` of a task's tree; nothing for other names, which scripts give to their runs."""
    return {"data": problem(task)["data"]} if task in PAPER else {}


def closure_for(method: str, tree: Mapping[str, Any], is_noise_unknown: bool = False) -> Tree:
    """The closure of a method with those arguments of the tree's closure that it takes. The weight of the equivariance
    loss is the tree's, or the problem's."""
    before = dict(tree.get("closure") or {})
    name = UNSURE if is_noise_unknown else METHODS[method].closure
    taken = arguments_for("closure", name)
    weight = before.get("alpha", before.get("alpha_ei"))
    if weight is None:
        weight = problem(get(tree, "trainer.task"))["closure"]["alpha"]
    closure: Tree = {"name": name}
    if "alpha_ei" in taken:
        closure |= {"alpha_ei": weight, "alpha_adv": 1e-8}
    elif "alpha" in taken and method != "sure":
        closure["alpha"] = weight
    return closure | {key: value for key, value in before.items() if key in taken and key not in ("name", "alpha")}


def method_of(tree: Mapping[str, Any]) -> str:
    """The short name of the tree's closure; a user-defined one is called by its class."""
    name = str(name_of(tree, "closure") or "")
    if name == UNSURE:
        return "sure" if get(tree, "closure.alpha") is None else "rei"
    short = next((short for short, method in METHODS.items() if method.closure == name), None)
    return short or name.rpartition(":")[2].removesuffix("Closure").lower()


def title_of(tree: Mapping[str, Any]) -> str:
    """The title of a tree's method in tables; EI where it names none, as the authors' files."""
    method = method_of(tree)
    return METHODS[method].title if method in METHODS else method or "EI"
