"""The state of a run: what a checkpoint holds, how a run continues from one, and which one is the newest."""

from __future__ import annotations

import itertools
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ei.common.files import load_file
from ei.common.parts import describe
from ei.common.user_code import is_user_code
from ei.errors import InputError, TrainingDivergedError
from ei.models.weights import AVERAGED, load_weights
from ei.training.folder import LAST, LAST_BUT_ONE
from ei.training.run import Run

# The tensors that operators of `ei.physics` are built from.
CARRIED = ("mask", "coil_maps")


def state_of(run: Run, epoch: int) -> dict[str, Any]:
    """Everything to continue from here: 2021's keys, and ours. ``epoch`` is the epoch the file is named after.

    Raises:
        TrainingDivergedError: if a weight is not finite. The losses are of the weights before the last step: that step
            itself may have gone wrong.
    """
    state: dict[str, Any] = {"epoch": epoch}
    for key, network in run.networks.items():
        weights = network.state_dict()
        for name, value in weights.items():
            if value.is_floating_point() and not bool(value.isfinite().all()):
                place = f"epoch {run.epoch + 1}, by step {run.step}"
                raise TrainingDivergedError(f"{name} became NaN or infinite in {place}: lower the learning rate")
        state[f"state_dict{_suffix(run, key)}"] = weights
        state[f"optimizer{_suffix(run, key)}"] = run.optimizers[key].state_dict()
    if run.averaged is not None:
        state[AVERAGED] = run.averaged.module.state_dict()
    # Of a user-defined operator the tree holds the name: its class alone may not be all of it.
    is_user_defined = is_user_code((run.config.get("physics") or {}).get("name"))
    physics = getattr(run.physics, "whole", run.physics)  # of tiles, that of whole images
    carried = {name: getattr(physics, name, None) for name in CARRIED}
    return state | {
        "config": dict(run.config),
        "physics": None if is_user_defined else describe(physics),
        "network": describe(run.networks["total"]),
        "reconstructor": describe(run.f),
        **{name: part.cpu() if isinstance(part, torch.Tensor) else None for name, part in carried.items()},
        "noise": describe(getattr(physics, "noise", None)),
        "seed": run.seed,
        "step": run.step,
        "next_epoch": run.epoch,
        "next_batch": run.batch,
        "sums": dict(run.tally.sums),
        "history": [dict(row) for row in run.history],
    }


def restore(run: Run, state: Mapping[str, Any]) -> None:
    """Restore the state of a run from the content of a full checkpoint of this kind of run; raises `InputError` for
    another."""
    if not is_run_state(state, "given"):
        raise InputError("the checkpoint is not of this kind of run: it cannot be continued")
    for key, network in run.networks.items():
        weights, optimizer = (state.get(f"{part}{_suffix(run, key)}") for part in ("state_dict", "optimizer"))
        if not isinstance(weights, Mapping) or not isinstance(optimizer, Mapping):
            raise InputError("the checkpoint is not of this kind of run: it cannot be continued")
        load_weights(network, weights, "given")
        _load_optimizer(run.optimizers[key], optimizer)
    if run.averaged is not None and isinstance(state.get(AVERAGED), Mapping):
        load_weights(run.averaged.module, state[AVERAGED], "given")
        run.averaged.n_averaged.fill_(state["step"])  # at 0 it would begin anew from the weights
    run.epoch, run.batch, run.step = state["next_epoch"], state["next_batch"], state["step"]
    run.tally.sums, run.tally.steps = dict(state["sums"]), run.batch
    run.history = [dict(row) for row in state["history"]]


def _suffix(run: Run, key: str) -> str:
    """What 2021 appended to "state_dict" and "optimizer": nothing, or _G and _D where there are two networks."""
    return "" if len(run.networks) == 1 else "_G" if key == "total" else f"_{key}"


def _load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load what the optimiser has gathered; its settings (weight decay, ...) stay those it was made with."""
    settings = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    shapes = [[list(p.shape) for p in group["params"]] for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(dict(state))
        for group, setting, sizes in zip(optimizer.param_groups, settings, shapes, strict=True):
            group.update(setting)
            for parameter, size in zip(group["params"], sizes, strict=True):
                for name, value in optimizer.state.get(parameter, {}).items():
                    if isinstance(value, torch.Tensor) and value.dim() and list(value.shape) != size:
                        raise ValueError(f"{name} has the shape {list(value.shape)}")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise InputError(f"the optimiser's state in the checkpoint does not fit: {error}") from error


RUN_STATE: dict[str, type | tuple[type, ...]] = {
    "config": Mapping,
    "physics": (Mapping, type(None)),
    "network": (Mapping, type(None)),
    "mask": (torch.Tensor, type(None)),
    "seed": int,
    "step": int,
    "next_epoch": int,
    "next_batch": int,
    "sums": Mapping,
    "history": list,
}


def is_run_state(state: Any, path: str | os.PathLike) -> bool:
    """Whether a checkpoint's content is one of ours, from which a run can be continued.

    Raises:
        InputError: if it is one of ours, but with parts missing or of the wrong kind.
    """
    if not isinstance(state, Mapping) or "next_epoch" not in state:
        return False
    for key, kind in RUN_STATE.items():
        if key not in state or not isinstance(state[key], kind) or (kind is int and state[key] < 0):
            raise InputError(f"the checkpoint {path} cannot be continued: its {key!r} is missing or wrong")
    for row in (state["sums"], *state["history"]):
        if not isinstance(row, Mapping) or not all(isinstance(value, int | float) for value in row.values()):
            raise InputError(f"the checkpoint {path} cannot be continued: its 'sums' or 'history' hold no numbers")
    return True


class Checkpoint(NamedTuple):
    """A checkpoint to continue from: its path and its content."""

    path: Path
    state: Any


def newest_checkpoint(folder: str | os.PathLike) -> Checkpoint | None:
    """The undamaged checkpoint of a run folder that is furthest in its run; None if the folder has no checkpoints.
    Damaged ones are reported on stderr.

    Raises:
        InputError: if there are checkpoints and none can be loaded.
    """
    folder = Path(folder)
    matches = (re.fullmatch(r"ckp_(\d+)\.pth\.tar", path.name) for path in folder.glob("ckp_*.pth.tar"))
    epochs = sorted((int(match[1]) for match in matches if match), reverse=True)
    kept = [folder / f"ckp_{epoch}.pth.tar" for epoch in epochs]
    rolling = [path for path in (folder / LAST, folder / LAST_BUT_ONE) if path.exists()]
    good = [*_undamaged(rolling), *itertools.islice(_undamaged(kept), 1)]
    if not good and (rolling or kept):
        raise InputError(f"no checkpoint in {folder} can be used; move them away, or choose another --out")
    # Of equals the first one: the rolling one.
    return max(good, key=lambda found: found.state["step"]) if good else None


def _undamaged(paths: Iterable[Path]) -> Iterator[Checkpoint]:
    for path in paths:
        try:
            state = load_file(path, "checkpoint")
            if is_run_state(state, path):
                yield Checkpoint(path, state)
        except InputError as error:
            print(f"warning: {error}; looking for another one", file=sys.stderr)


def load_to_resume(path: str | os.PathLike) -> Checkpoint:
    """The checkpoint ``path``. If it is the newest one of a run (``ckp_last.pth.tar``) and damaged, or missing beside
    an older one, that is reported on stderr, and the newest good one of the run is used.

    Raises:
        InputError: if it cannot be loaded.
    """
    path = Path(path)
    try:
        return Checkpoint(path, load_file(path, "checkpoint"))
    except InputError as error:
        has_older = path.name == LAST and (path.parent / LAST_BUT_ONE).exists()
        found = newest_checkpoint(path.parent) if has_older else None
        if found is not None:
            print(f"warning: {path} cannot be used; continuing from {found.path}", file=sys.stderr)
            return found
        if not path.name.startswith("ckp_") or not any(path.parent.glob("ckp_*.pth.tar")):
            raise
        raise InputError(f"{error}, or look for another one of the run: --resume auto --out {path.parent}") from error
