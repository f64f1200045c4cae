"""Train a reconstruction function: one of the paper's problems, or one of your own.

    {prog} --task inpainting                              the paper's inpainting run (Urban100 in dataset/)
    {prog} --task ct                                      the paper's CT run (CT100 in dataset/)
    {prog} --task ct --method sup                         a baseline: mc, sup, ei_sup, ei_adv
    {prog} --task ct --data synthetic                     no data at hand: generated images
    {prog} --task ct --measurements y.npy                 your own sinograms [n, D, V]: no image is needed
    {prog} --task ct --measurements y.npy --truth x.npy --method sup       real pairs
    {prog} --physics blur.py:Blur --group shift --measurements y.npy      an operator of your own
    {prog} --config configs/ct_ei.yaml                    a cell of the paper's table; see also the command reproduce
    {prog} --config RUN/config.yaml --out AGAIN           the same run again; options given here win
    {prog} --resume ckp/RUN/ckp_last.pth.tar              continue a run in its folder
    {prog} --task ct --out RUN --resume auto              begin a run, or continue it where it stopped
    torchrun --nproc_per_node=4 -m ei train --task ct -b 8      several processes (GPUs), one run

Every run has a folder of its own (--out, or ckp/<time>_<method>_<task>) with config.yaml, training_loss.csv, loss.png
and checkpoints; Ctrl-C, SIGTERM and SIGUSR1 save and stop it. PSNR in the log is the paper's, of training batches in
training mode: not comparable with test tables. Without --task, defaults suit a small run.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.optim import SGD, Adam

from ei.closure import AdversarialEIClosure, SplittingClosure, UNSUREClosure
from ei.closure.base import InUnits
from ei.commands.data import TrainingData, find_image_scale, fit_of, level_to_start_from, look_of
from ei.commands.operators import check_count, known_physics, operator_for, probe_operator, probe_steps
from ei.commands.options import GROUPED, Options
from ei.commands.parser import choose_device
from ei.commands.parts import named_group, probe_group, say_how_truth_fits
from ei.commands.presets import Shape, closure_of
from ei.commands.settings import (
    check_code_is_given,
    check_same_run,
    config_of,
    machine_config,
    parser_of,
    read_options,
    resolve,
    run_config,
)
from ei.common.files import load_file
from ei.common.memory import keep_freed_memory
from ei.common.processes import Processes, joined, launched
from ei.common.seeds import derive_seed
from ei.common.user_code import is_user_code
from ei.datasets import make_loader
from ei.errors import InputError
from ei.models import Reconstructor, UNet, Unrolled
from ei.models.base import ReconstructionFunction
from ei.models.padding import padding_for
from ei.models.sync_bn import synchronize_batch_norm
from ei.models.weights import generator_weights, load_weights
from ei.physics import TiledInpainting, select_physics
from ei.physics.noise import UNKNOWN
from ei.training import RunFolder, Trainer, cosine_schedule, one_cycle_schedule, step_schedule
from ei.training.folder import check_run_folder
from ei.training.state import is_run_state, load_to_resume, newest_checkpoint
from ei.training.validation import judge

# Of the logarithm of an unknown level of noise; slow beside the network, which has to follow.
LEVEL_RATE = 0.02


def main(arguments: Sequence[str], prog: str = "ei train") -> None:
    given = read_options(parser_of("train", prog, (__doc__ or "").format(prog=prog)), arguments)
    device = choose_device(given.get("device"), given.get("gpu"))
    if given.get("compile") and device.type != "cuda":
        raise InputError("--compile is for CUDA devices: on a CPU it takes minutes and gains nothing; leave it out")
    if given.get("cuda_graphs") and (device.type != "cuda" or launched().count > 1 or given.get("compile")):
        raise InputError("--cuda-graphs is for one process on a CUDA device, and not with --compile; leave it out")
    with joined(device) as processes, open(os.devnull, "w") as nowhere, contextlib.ExitStack() as stack:
        if not processes.first:
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        train(given, device)


def train(given: Mapping[str, Any], device: torch.device) -> None:
    """Train, or continue, the run that the options ``given`` describe."""
    path, state = checkpoint_to_resume(given)
    resumed: Mapping[str, Any] = {}
    out = given.get("out")
    if path is not None and state is not None:
        if is_run_state(state, path):
            resumed = config_of(state)
            check_same_run(given, state, path)
            out = out or str(Path(path).parent)
        else:
            given = {"weights": str(Path(path).resolve()), **given}
    continues = bool(resumed) and path is not None and Path(out or "").resolve() == Path(path).parent.resolve()
    begins = given.get("resume") == "auto" and state is None
    if out is not None and not continues:
        check_run_folder(Path(out), begun=begins)
    options = resolve({**given, "resume": path, "out": out}, resumed)
    if resumed:
        check_code_is_given(options, given, str(path))
    trainer, loader = build_training(options, device, state if resumed else None, given)
    trainer.run_folder.continues = continues or begins
    if state is not None and not resumed:
        print(f"{path} is not a checkpoint of ours: its weights are taken, the run is new")
    if resumed:
        if trainer.finished:
            patient = trainer.epoch < trainer.epochs
            done = (
                f"none of {trainer.patience} epochs was better" if patient else f"all {trainer.epochs} epochs are done"
            )
            if given["resume"] == "auto":
                print(f"{path} is finished: {done}, nothing is left to do")
                return
            raise InputError(f"{path} is finished: {done}; give more --{'patience' if patient else 'epochs'}")
        print(f"continuing {path} at epoch {trainer.epoch + 1}, step {trainer.step}")
    if device.type == "cpu":
        keep_freed_memory()
    trainer.fit(loader)
    if "level" in trainer.networks:
        found = float(trainer.networks["level"]())
        print(
            f"noise: sigma = {found:.4g} was found, more than there is by what is missed of the images (docs/noise.md)"
        )
    if trainer.finished and trainer.epoch < trainer.epochs:
        column, _ = judge(trainer)
        print(f"stopped after epoch {trainer.epoch}: {column} was no better in {trainer.patience} epochs than before")
    print(f"run folder: {trainer.folder}")


def checkpoint_to_resume(given: Mapping[str, Any]) -> tuple[str | None, Mapping[str, Any] | None]:
    """The checkpoint that ``--resume`` asks for, and its content; None where there is nothing to continue."""
    if "resume" not in given:
        return None, None
    if given["resume"] == "auto":
        if "out" not in given:
            raise InputError("--resume auto needs --out, the run folder to continue or to begin")
        found = newest_checkpoint(given["out"])
    else:
        found = load_to_resume(given["resume"])
    return (None, None) if found is None else (str(found[0]), found[1])


def build_training(
    options: Options,
    device: torch.device,
    state: Mapping[str, Any] | None = None,
    given: Mapping[str, Any] | None = None,
) -> tuple[Trainer, Any]:
    """A trainer and its loader. Everything a user can get wrong is checked here, before a run folder is made.

    Args:
        options: resolved.
        device: where to train.
        state: the content of a checkpoint of ours to continue from.
        given: the options the user gave, checked against the checkpoint's.

    Raises:
        InputError: for what does not fit together.
    """
    given = given or {}
    # What a checkpoint carries is taken from there, so that a run continues where its files are no more.
    setting = options.physics if state is None else given.get("physics")
    known = known_physics(setting, state or {}, device)
    data = TrainingData(options, known if options.physics is not None else None)
    physics = operator_for(options, data.shape, device, known, state or {}, given)
    check_count(physics, data.count, "measurements" if data.measured else "training images")
    if is_user_code(options.physics):
        y = probe_operator(physics, data.shape, device)
        if options.reconstructor == "unrolled":
            probe_steps(physics, y, data.shape, options.filtered, device)
    if data.pairs is not None and state is None:
        say_how_truth_fits(data.pairs, physics)
    if options.tile is not None:
        physics = TiledInpainting(physics, options.tile)
    if data.measured and state is None:
        print(look_of(physics, data.train))
        fit = fit_of(physics, data.train)
        if fit is not None:
            print(fit.line())
    if options.image_scale is None and data.measured and state is None:
        options.image_scale = find_image_scale(physics, data.train, device)
        print(f"image scale: {options.image_scale:g} (from A_dagger y; losses are in units of it)")
    transform = None
    if options.method in GROUPED:
        transform = named_group(options.group, options.ei_trans, said=given.get("ei_trans") is not None)
        probe_group(transform, data.trained, options.group)  # raises now if the group has too few elements
    loader = make_loader(
        data.train, options.batch_size, workers=options.workers, seed=options.seed, measured=data.measured
    )

    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(options.seed, "weights"))
        net = UNet(data.trained[0], data.trained[0], base_channels=options.base_channels, norm=options.norm)
        padding_for(net, *data.trained[1:])  # raises now if they are too small
        batches = (len(data.train), options.batch_size, options.sync_bn)
        if options.norm == "batch":
            check_batch_statistics(data.trained, net.compact - 1, *batches)
        start = level_to_start_from(physics, data, device) if options.noise == UNKNOWN else None
        closure = closure_of(options, data.trained, start)
    if closure.needs_truth and data.measured and data.pairs is None:
        raise InputError(
            f"--method {options.method} learns from images; --measurements have none: use ei or mc, or give --truth"
        )
    net.to(device)
    if options.sync_bn:
        synchronize_batch_norm(net, device)
    f = _reconstruction_function(options, net, physics)
    closure.check(f, physics)
    if options.cuda_graphs:
        if options.recompute or options.tile is not None or select_physics(physics, [0]) is not physics:
            raise InputError("--cuda-graphs is for one operator, without --tile and without --recompute; leave it out")
        if isinstance(closure.closure if isinstance(closure, InUnits) else closure, SplittingClosure):
            raise InputError(f"--cuda-graphs is for one operator, and --method {options.method} makes parts of it")
        f.use_cuda_graphs()
    optimizers: dict[str, torch.optim.Optimizer] = {
        "total": Adam(net.parameters(), lr=options.lr, weight_decay=options.wd)
    }
    if isinstance(closure, AdversarialEIClosure):
        check_batch_statistics(data.trained, 4, *batches)
        closure.discriminator.to(device)
        if options.sync_bn:
            synchronize_batch_norm(closure.discriminator, device)
        lr_d = options.lr if options.lr_d is None else options.lr_d
        optimizers["D"] = Adam(closure.discriminator.parameters(), lr=lr_d, weight_decay=0)
    networks: dict[str, torch.nn.Module] | None = None
    inner = closure.closure if isinstance(closure, InUnits) else closure
    if isinstance(inner, UNSUREClosure):
        networks = {"total": net, "level": inner.noise_level}
        optimizers["level"] = SGD(inner.noise_level.parameters(), lr=LEVEL_RATE)
    if options.weights is not None and state is None:
        content = load_file(options.weights, "checkpoint")
        load_weights(net, generator_weights(content, options.weights), options.weights)

    trainer = Trainer(
        f,
        physics,
        transform,
        closure,
        optimizers,
        networks=networks,
        epochs=options.epochs,
        schedule=_schedule(options),
        seed=options.seed,
        out=RunFolder(
            options.out,
            environment={**machine_config(options), "device": str(device)},
            files=data.files,
            tensorboard=options.tensorboard,
        ),
        ckp_interval=options.ckp_interval,
        save_every=options.save_every,
        max_steps=options.max_steps,
        clip_norm=options.clip_norm,
        average=options.average,
        report_psnr=not data.measured or data.pairs is not None,
        held_out=data.held_out,
        patience=options.patience,
        config=run_config(options),
        method=options.method,
        task=options.task or "",
        rules=options.rules,
    )
    if state is not None:
        trainer.resume(state)
    return trainer, loader


def _reconstruction_function(options: Options, net: UNet, physics: Any) -> ReconstructionFunction:
    scale = options.image_scale or 1.0
    if options.reconstructor == "direct":
        return Reconstructor(net, physics, options.precision, options.compile, image_scale=scale)
    if options.compile:
        net.compile()
    return Unrolled(
        net,
        physics,
        iterations=options.iterations,
        cg_steps=options.cg_steps,
        last=options.last,
        recompute=options.recompute,
        precision=options.precision,
        image_scale=scale,
        filtered=options.filtered,
    )


def check_batch_statistics(shape: Shape, halvings: int, n_images: int, batch_size: int, sync_bn: bool = False) -> None:
    """Raise if BatchNorm would see a single value per channel, which has no variance, after ``halvings`` of the sides;
    or if BatchNorm over all processes had one without an image."""
    processes = Processes.current()
    smallest = n_images % batch_size or batch_size
    if sync_bn and smallest < processes.count:
        raise InputError(
            f"--sync-bn needs an image in every process, but the last batch of an epoch has {smallest} for "
            f"{processes.count} processes; choose another --batch-size"
        )
    smallest = smallest if sync_bn else max(1, smallest // processes.count)
    if smallest * -(-shape[1] // 2**halvings) * -(-shape[2] // 2**halvings) < 2:
        raise InputError(
            f"images of {shape[1]} x {shape[2]} in a batch of {smallest} leave BatchNorm one value per channel at the "
            "deepest level of the network; use larger images or batches"
        )


def _schedule(options: Options) -> Callable[[int], float]:
    if options.one_cycle:
        return one_cycle_schedule(options.epochs)
    return cosine_schedule(options.epochs) if options.cos else step_schedule(options.schedule)
