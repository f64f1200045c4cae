"""Train a reconstruction function: the paper's problems and methods, or a tree of parts.

    {prog} --task ct                                      the paper's CT (data in dataset/)
    {prog} --task ct --method sup                         a baseline: mc, sup, ei_sup, ei_adv
    {prog} --task ct --data synthetic                     without data: generated images
    {prog} --task ct --measurements y.npy                 sinograms [n, D, V] alone: no image is needed
    {prog} --physics blur.py:Blur --measurements y.npy    a user-defined operator
    {prog} configs/ct_ei.yaml trainer.epochs=10           a tree, and changes to it
    {prog} configs/ct_ei.yaml closure='{{name: my_closure.py:MyClosure}}'
    {prog} RUN/config.yaml --out AGAIN                    the same run again
    {prog} --resume RUN/ckp_last.pth.tar                  continue a run in its folder
    {prog} --task ct --out RUN --resume auto              begin a run, or continue it where it stopped
    {prog} SCAN.yaml configs/recipe/coarse_to_fine.yaml --out RUN --resume auto
                                                          stages: trainings one after the other, in RUN/stage_1, ...
    torchrun --nproc_per_node=4 -m ei train --task ct -b 8     several processes (GPUs), one run

The last tree wins; flags come after trees, and part.key=value after flags. Every run has a folder with config.yaml,
training_loss.csv, loss.png and checkpoints; Ctrl-C, SIGTERM and SIGUSR1 save and stop it. PSNR in the log is the
paper's, of training batches in training mode: not comparable with test tables.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ei.commands.build import build_training
from ei.commands.checkpoint import carried_physics, check_same_run
from ei.commands.tree import Tree, check_code_is_typed, get, in_order_of, merge
from ei.commands.typed import Parser, Typed, add_flags, read_typed
from ei.common.devices import choose_device
from ei.common.memory import keep_freed_memory
from ei.common.processes import Processes, first_prints, joined
from ei.errors import InputError
from ei.training import Trainer
from ei.training.folder import LAST, STAGE, check_run_folder
from ei.training.state import Checkpoint, is_run_state, load_to_resume, newest_checkpoint
from ei.training.validation import selecting_column


def parser(prog: str) -> Parser:
    return add_flags(Parser(prog=prog, description=(__doc__ or "").format(prog=prog), usage="%(prog)s [options] "
                            "[TREE.yaml ...] [part.key=value ...]"))  # fmt: skip


def main(arguments: Sequence[str], prog: str = "ei train") -> None:
    typed = read_typed(parser(prog), arguments)
    call = {name: typed.flags.pop(name, None) for name in ("out", "resume")}
    with contextlib.ExitStack() as stack:
        stack.enter_context(first_prints())
        device: torch.device | None = None
        for run, folders in runs_of(typed, call):
            tree, checkpoint = tree_of_run(run, folders)
            if device is None:
                device = choose_device(get(tree, "trainer.device"))
                stack.enter_context(joined(device))
            is_finished = train(tree, device, {**folders, "has_physics": run.has_physics}, checkpoint)
            Processes.current().wait()  # the next stage begins when the first process has saved this one
            if not is_finished:
                break


def runs_of(typed: Typed, call: Mapping[str, Any]) -> Iterator[tuple[Typed, Mapping[str, Any]]]:
    """The runs of a command, as their own command lines: one, or those of its stages. Each stage begins with the last
    weights of the one before it. With ``--resume auto`` the first one is the last that has a checkpoint."""
    if not typed.stages:
        yield typed, call
        return
    if call["out"] is None:
        raise InputError("a training in stages needs --out, the folder of their run folders stage_1, stage_2, ..")
    if call["resume"] not in (None, "auto"):
        raise InputError("a training in stages continues with --resume auto")
    check_run_folder(Path(call["out"]), stages=True)
    folders = [Path(call["out"]).absolute() / STAGE.format(number) for number in range(1, len(typed.stages) + 1)]
    begun = [number for number, folder in enumerate(folders) if call["resume"] and (folder / LAST).exists()]
    for number in range(max(begun, default=0), len(folders)):
        weights = [f"network.weights={json.dumps(str(folders[number - 1] / LAST))}"] if number else []
        files = [*typed.files, typed.stages[number]]
        print(f"stage {number + 1} of {len(folders)}")
        stage = dataclasses.replace(
            typed, flags=dict(typed.flags), files=files, assignments=[*typed.assignments, *weights]
        )
        yield stage, {**call, "out": str(folders[number])}


def tree_of_run(typed: Typed, call: Mapping[str, Any]) -> tuple[Tree, Checkpoint | None]:
    """The tree of a run, new or continued; and the checkpoint that it continues."""
    found = _checkpoint_to_resume(call)
    if found is None:
        return typed.tree(), None
    path, state = found
    if not is_run_state(state, path):
        print(f"{path} is not a checkpoint of this project: its weights are taken, the run is new")
        return merge(typed.tree(), {"network": {"weights": str(path.resolve())}}), None
    task, before = typed.flags.pop("task", None), get(state["config"], "trainer.task")
    if task not in (None, before):
        raise InputError(f"--task {task} contradicts the checkpoint {path}, whose run has {before}")
    tree = in_order_of(typed.over(state["config"]), state["config"])
    check_code_is_typed(tree, typed.code, str(path))
    check_same_run(tree, state, str(path))
    return tree, found


def _checkpoint_to_resume(call: Mapping[str, Any]) -> Checkpoint | None:
    """The checkpoint that ``--resume`` asks for; None where there is nothing to continue."""
    if call["resume"] != "auto":
        return None if call["resume"] is None else load_to_resume(call["resume"])
    if call["out"] is None:
        raise InputError("--resume auto needs --out, the run folder to continue or to begin")
    return newest_checkpoint(call["out"])


def train(tree: Tree, device: torch.device, call: Mapping[str, Any], checkpoint: Checkpoint | None) -> bool:
    """Train, or continue, the run that a tree describes; ``call`` has --out, --resume and whether the operator was
    typed. Returns whether it is finished: ``max_steps`` may have ended it before."""
    out, continues, carried = call["out"], False, None
    begins = call["resume"] == "auto" and checkpoint is None
    if checkpoint is not None:
        out = out or str(checkpoint.path.parent)
        continues = Path(out).resolve() == checkpoint.path.parent.resolve()
        carried = carried_physics(checkpoint.state, tree, call["has_physics"], device, str(checkpoint.path))
    if out is not None and not continues:
        check_run_folder(Path(out), begun=begins)
    trainer, loader = build_training(tree, device, out, None if checkpoint is None else checkpoint.state, carried)
    trainer.run_folder.continues = continues or begins
    if checkpoint is not None and _is_finished(trainer, checkpoint.path, is_auto=call["resume"] == "auto"):
        return True
    if device.type == "cpu":
        keep_freed_memory()
    trainer.fit(loader)
    _print_outcome(trainer)
    return trainer.finished


def _print_outcome(trainer: Trainer) -> None:
    if "level" in trainer.networks:
        sigma = float(trainer.networks["level"]().detach())
        print(f"noise: sigma = {sigma:.4g} was found, too high by what is missed of the images (docs/guides/noise.md)")
    if trainer.finished and trainer.epoch < trainer.epochs:
        column, _ = selecting_column(trainer)
        print(f"stopped after epoch {trainer.epoch}: {column} was no better in {trainer.patience} epochs than before")
    print(f"run folder: {trainer.folder}")


def _is_finished(trainer: Trainer, path: Path, is_auto: bool) -> bool:
    """Whether the run of a checkpoint has ended, which is an error unless ``--resume auto`` was given."""
    if not trainer.finished:
        print(f"continuing {path} at epoch {trainer.epoch + 1}, step {trainer.step}")
        return False
    if trainer.epoch < trainer.epochs:
        done, more = f"none of {trainer.patience} epochs was better", "--patience"
    else:
        done, more = f"all {trainer.epochs} epochs are done", "--epochs"
    if not is_auto:
        raise InputError(f"{path} is finished: {done}; give more {more}")
    print(f"{path} is finished: {done}, nothing is left to do")
    return True
