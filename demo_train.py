"""Train as in the paper: CT or inpainting; equivariant imaging or one of its baselines.

    python demo_train.py --task inpainting                      the paper's inpainting run (Urban100 in dataset/)
    python demo_train.py --task ct                              the paper's CT run (CT100 in dataset/)
    python demo_train.py --task ct --method sup                 a baseline: mc, sup, ei_sup, ei_adv
    python demo_train.py --task ct --data synthetic             no data at hand: generated images
    python demo_train.py --task ct --measurements y.npy         your own sinograms [n, D, V]: no image is needed
    python demo_train.py --config configs/ct_ei.yaml            a cell of the paper's table; see also ei/reproduce.py
    python demo_train.py --config my_run.yaml --epochs 10       options from a file; those given here win
    python demo_train.py --resume ckp/RUN/ckp_last.pth.tar      continue a run in its folder
    python demo_train.py --task ct --out RUN --resume auto      begin a run, or continue it where it stopped
    torchrun --nproc_per_node=4 demo_train.py --task ct -b 8    several processes (GPUs), one run

Every run has a folder of its own (--out, or ckp/<time>_<method>_<task>) with config.yaml, training_loss.csv, loss.png
and checkpoints; Ctrl-C, SIGTERM and SIGUSR1 save and stop it. PSNR in the log is the paper's, of training batches in
training mode: not comparable with test tables.
"""

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ei.checkpoint import is_run_state, load_to_resume, newest_checkpoint
from ei.closure.base import DOMAINS
from ei.distributed import joined
from ei.errors import InputError
from ei.experiment import COMMON_DEFAULTS, METHODS, NOT_OF_THE_RUN, OF_SOME_METHODS, TASKS, build_training
from ei.logger import check_run_folder
from ei.memory import keep_freed_memory
from ei.models.reconstructor import PRECISIONS
from ei.options import Parser, add_device_options, choose_device, named, number, run_script


def make_parser() -> Parser:
    parser = Parser(prog="demo_train.py", description=__doc__)
    per_task = "paper's: " + ", ".join("{} {}".format(name, "{" + name + "}") for name in TASKS)

    def default(option: str) -> str:
        """The paper's value for each task, for the help."""
        return per_task.format(**{name: task.defaults.get(option, "-") for name, task in TASKS.items()})

    add = parser.add_argument
    add("--task", choices=list(TASKS), help="the inverse problem (needed)")
    add("--method", choices=list(METHODS), help="what to train with (default: ei)")
    add("--data", metavar="PATH", help=f"CT: the .mat file; inpainting: the folder that holds train/ and test/; any "
        f"folder of images; or 'synthetic' ({default('data')})")  # fmt: skip
    add("--measurements", metavar="PATH", help="train from measurements alone: an array (.npy .npz .pt .mat .h5) or "
        "a folder of them; nine tenths train, the rest judges (ckp_best)")  # fmt: skip
    add("--crop", type=number(int, least=1), metavar="N", help="own images: a square of N pixels about the centre")
    add("--resize", type=number(int, least=1), metavar="N", help="own images: to a shorter side of N, after --crop")
    add("--gray", action="store_true", help="own images: make colour gray")
    add("--patch", type=number(int, least=1), metavar="N", help="train on patches of N x N at fixed random places")
    add("--patches", type=number(int, least=1), metavar="N", help="how many an image (default: 1)")
    add("--split", metavar="FILE", help="own images: a list of the test images, one path a line (split.txt of a run)")
    add("--test-fraction", type=number(above=0, below=1), help="own images: drawn for testing (default: 0.1)")
    add("--noise-sigma", type=number(least=0), help="Gaussian noise of the measurements, in their units; drawn once "
        "an image of --data (default: 0)")  # fmt: skip
    add("--config", metavar="FILE.yaml", nargs="+", help="options from files: long names with _ for -; a later file "
        "wins over an earlier one, the command line over all")  # fmt: skip
    add("--out", type=named, metavar="DIR", help="the run folder itself (default: ckp/<time>_<method>_<task>)")
    add("--resume", metavar="PATH|auto", help="continue from a checkpoint of ours (auto: the newest good one in --out, "
        "or begin); of another one, take the weights")  # fmt: skip
    add_device_options(parser)
    add("--seed", type=number(int, least=0), metavar="N", help="of everything random in the run (default: 0)")
    add("--epochs", type=number(int, least=1), metavar="N", help=default("epochs"))
    add("--max-steps", type=number(int, least=1), metavar="N", help="stop after N optimiser steps in all")
    add("-b", "--batch-size", type=number(int, least=1), metavar="N",
        help=f"images a step, over all processes; {default('batch_size')}")  # fmt: skip
    add("--lr", type=number(above=0), help=f"learning rate; {default('lr')}")
    add("--lr-d", type=number(above=0), help="learning rate of the discriminator (default: --lr)")
    add("--wd", type=number(least=0), help="weight decay (default: 1e-8)")
    add("--schedule", type=number(int, least=0), nargs="*", metavar="EPOCH",
        help=f"epochs, counted from 0, at which the learning rate drops to a tenth; {default('schedule')}")  # fmt: skip
    add("--cos", action="store_true", help="cosine learning rate instead of --schedule")
    add("--one-cycle", action="store_true", help="learning rate that climbs to --lr over 30 %% of the epochs, then "
        "falls as a cosine, instead of --schedule and --cos; not the paper's")  # fmt: skip
    add("--ckp-interval", type=number(int, least=1), metavar="N", help=f"epochs; {default('ckp_interval')}")
    add("--save-every", type=number(above=0), metavar="MINUTES",
        help="between the rolling checkpoints ckp_last, ckp_last-1 (default: 5)")  # fmt: skip
    add("--ei-trans", type=number(int, least=1), metavar="N", help=f"transforms a step; {default('ei_trans')}")
    add("--ei-alpha", type=number(least=0), help=f"weight of the equivariance loss; {default('ei_alpha')}")
    add("--mc-domain", choices=DOMAINS, help="ei, mc: measurement consistency of A x1 with y (default), or of "
        "A_dagger A x1 with A_dagger y, whose --ei-alpha is about 1; not the paper's")  # fmt: skip
    add("--stop-gradient", action="store_true", help="ei: the transformed image is data, no gradient flows through it; "
        "not the paper's")  # fmt: skip
    add("--clip-norm", type=number(above=0), metavar="N", help="scale a gradient of a larger norm down to N; not the "
        "paper's")  # fmt: skip
    add("--average", type=number(above=0, below=1), metavar="D", help="keep, and evaluate, a moving average of the "
        "network, of decay D a step; not the paper's")  # fmt: skip
    add("--adv_beta", "--adv-beta", type=number(least=0), help="weight of the adversarial loss (default: 1e-8)")
    add("--ct-views", type=number(int, least=1), metavar="N", help="CT: views (default: 50)")
    add("--mask-rate", type=number(least=0, below=1), help="inpainting: fraction of pixels removed (default: 0.3)")
    add("--mask", metavar="PATH", help="inpainting: a saved mask (.pt), instead of a random one of --mask-rate")
    add("--base-channels", type=number(int, least=1), metavar="N", help="of the UNet's first level (default: 64)")
    add("--precision", choices=PRECISIONS, help="of the network: fp32 (default), or bf16: faster, and not the paper's")
    add("--compile", action="store_true", help="run the network through torch.compile (CUDA)")
    add("--sync-bn", action="store_true", help="several processes: BatchNorm over all of them, not in each its own")
    add("--tensorboard", action="store_true", help="log for TensorBoard, too (pip install tensorboard)")
    add("--workers", type=number(int, least=0), metavar="N", help="processes that load data (default: 0)")
    return parser


def read_options(arguments: Sequence[str]) -> dict[str, Any]:
    """The options that were given: those of the --config files, overridden by the command line's."""
    parser = make_parser()
    flags = vars(parser.parse(arguments))
    from_file: dict[str, Any] = {}
    for path in flags.get("config", []):
        from_file |= vars(parser.parse_yaml(path, ignored=("versions",)))
    if "device" in flags or "gpu" in flags:  # a device on the command line replaces the file's, under either name
        from_file = {key: value for key, value in from_file.items() if key not in ("device", "gpu")}
    return {**from_file, **flags}


def with_defaults(given: Mapping[str, Any], resumed: Mapping[str, Any]) -> dict[str, Any]:
    """All options: what was given, over the resumed run's, over the paper's for the task."""
    options = {**resumed, **given}
    if "task" not in options:
        raise InputError(f"--task is needed: one of {', '.join(TASKS)}")
    if "measurements" in given and "data" in given:
        raise InputError("--measurements are instead of the images of --data: give one of them")
    own = TASKS[options["task"]].defaults
    everywhere = {option for task in TASKS.values() for option in task.defaults}
    for option in sorted(everywhere - set(own)):
        if option in given:
            print(f"note: --{option.replace('_', '-')} has no effect on --task {options['task']}")
            options.pop(option)
    defaults = {**COMMON_DEFAULTS, **own}
    method = options.get("method", defaults["method"])
    for option in sorted(OF_SOME_METHODS - set(METHODS[method].options)):
        if given.get(option, defaults[option]) != defaults[option]:
            print(f"note: --{option.replace('_', '-')} has no effect on --method {method}")
    return {**defaults, **options}


def check_same_run(given: Mapping[str, Any], state: Mapping[str, Any], path: str) -> None:
    """Raise if ``given`` contradicts what the checkpoint's run is; say what else changes."""
    for option, before in state["config"].items():
        now = given.get(option, before)
        if now == before or option in NOT_OF_THE_RUN or option in ("mask", "mask_rate", "ct_views"):
            continue  # the physics is compared when it is built
        name = "--" + option.replace("_", "-")
        if option in ("task", "method", "base_channels"):
            raise InputError(f"{name} {now} contradicts the checkpoint {path}, whose run has {before}")
        if option == "batch_size" and state["next_batch"]:
            raise InputError(f"{name} {now} contradicts the checkpoint {path}, which is in the middle of an epoch of "
                             f"batches of {before}")  # fmt: skip
        print(f"note: the run continues with {name} {now}; it had {before}")
        kinds = {"one_cycle": "one-cycle", "cos": "cosine"}
        kind = next((name for key, name in kinds.items() if given.get(key, state["config"].get(key))), None)
        if option == "epochs" and kind is not None:
            print(f"warning: the {kind} schedule depends on --epochs: the learning rates so far were those of "
                  f"{before} epochs, those to come are of {now}", file=sys.stderr)  # fmt: skip


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


def main() -> None:
    given = read_options(sys.argv[1:])
    device = choose_device(given.get("device"), given.get("gpu"))
    if given.get("compile") and device.type != "cuda":
        raise InputError("--compile is for CUDA devices: on a CPU it takes minutes and gains nothing; leave it out")
    with joined(device) as processes, open(os.devnull, "w") as nowhere, contextlib.ExitStack() as stack:
        if not processes.first:
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        train(given, device)


def train(given: Mapping[str, Any], device: torch.device) -> None:
    """Train, or continue, the run that the options ``given`` describe."""
    path, state = checkpoint_to_resume(given)
    resumed: Mapping[str, Any] = {}
    out = given.get("out")
    if path is not None and state is not None and is_run_state(state, path):
        resumed = state["config"]
        check_same_run(given, state, path)
        out = out or str(Path(path).parent)
    continues = bool(resumed) and path is not None and Path(out or "").resolve() == Path(path).parent.resolve()
    begins = given.get("resume") == "auto" and state is None
    if out is not None and not continues:
        check_run_folder(Path(out), begun=begins)
    options = with_defaults({**given, "resume": path, **({"out": out} if out is not None else {})}, resumed)
    trainer, loader = build_training(options, device, state, given)
    trainer.continues = trainer.continues or begins
    if state is not None and not resumed:
        print(f"{path} is not a checkpoint of ours: its weights are taken, the run is new")
    if resumed:
        if trainer.epoch >= trainer.epochs:
            if given["resume"] == "auto":
                print(f"{path} is finished: all {trainer.epochs} epochs are done, nothing is left to do")
                return
            raise InputError(f"{path} is finished: all {trainer.epochs} epochs are done; give more --epochs")
        print(f"continuing {path} at epoch {trainer.epoch + 1}, step {trainer.step}")
    if device.type == "cpu":
        keep_freed_memory()
    trainer.fit(loader)
    print(f"run folder: {trainer.folder}")


if __name__ == "__main__":
    run_script("demo_train.py", main)
