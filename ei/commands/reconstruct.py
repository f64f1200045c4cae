"""Reconstruct measurements with a trained network, or with A_dagger alone:

    {prog} --ckp RUN/ckp_last.pth.tar --input y.npy --output x.npy
    {prog} --ckp RUN/ckp_best.pth.tar --input folder/ --output x.npy --png
    {prog} --ckp RUN/ckp_best.pth.tar --physics blur.py:Blur --input y.npy --output x.npy
    {prog} --ckp RUN/ckp_best.pth.tar --input scan.h5:exchange/data --slices 100:1100 --output volume.h5
    {prog} --ckp RUN/ckp_best.pth.tar --input y.npy --output x.npy --uncertainty 100 --calibration FILE
    {prog} --physics mri.yaml --input kspace.npy --output x.npy      no network: A_dagger, as CG-SENSE of MRI
    torchrun --nproc_per_node=4 -m ei reconstruct ...                several processes share the images

Operator, mask and network come from the checkpoint; user-defined code is named again, because a checkpoint never
causes code to run. ``--input`` is any number of measurements, as `ei.datasets.Measurements` reads them; they go
through batch by batch. The output, ``[n, C, H, W]`` (``[n, H, W]`` where the input has no channel axis; complex where
the input is complex k-space), appears under its name when it is complete. Until then the images are beside it, in
OUTPUT.unfinished: where the command is interrupted, or the disk is full, the same command continues there. A folder's
files come in their natural order (y_2 before y_10), and PNG files keep their names. Warnings about the measurements are
lines that begin with ``warning``.
``--uncertainty`` writes the estimated error of every pixel beside the output, to ``x_std.npy``. Where the noise is
known (of the run, or ``--noise``), SURE's estimate of the error in measurements is printed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ei.commands import error_bars
from ei.commands.checkpoint import carried_physics, files_of_physics, load_function, tree_of_checkpoint
from ei.commands.flags import path as path_type
from ei.commands.problem import Problem
from ei.commands.tree import Tree, get
from ei.commands.typed import Parser, Typed, add_flags, names_of, read_typed
from ei.common.arrays import split_name
from ei.common.checks import check_number
from ei.common.devices import choose_device
from ei.common.files import check_not_read, identity_of, load_file
from ei.common.parts import describe
from ei.common.processes import launched, together
from ei.diagnosis.before_training import report_data
from ei.diagnosis.user_defined import Shape
from ei.errors import InputError
from ei.evaluation.loading import averaged, checked
from ei.evaluation.reconstruction import WrittenImages, has_parts, reconstruct_file, write_pngs
from ei.models import Reconstructor
from ei.models.averaged import GROUPS as AVERAGES
from ei.models.base import ReconstructionFunction
from ei.training.state import CARRIED

OUTPUTS = (".npy", ".tif", ".tiff", ".h5", ".hdf5")
OF_AUTHORS = "for a checkpoint that lacks it"


def parser(prog: str) -> Parser:
    made = Parser(prog=prog, description=(__doc__ or "").format(prog=prog))
    add_flags(made, "task", "physics", "mask", "ct_views", "noise", "group", "device", "gpu", task=OF_AUTHORS,
              mask=OF_AUTHORS, ct_views=OF_AUTHORS, noise="of the measurements (default: that of the run)",
              group="of --uncertainty (default: that of the run)")  # fmt: skip
    group = made.add_argument_group("reconstruct")
    group.add_argument("--ckp", type=path_type, metavar="PATH",
                       help="the checkpoint; without it --physics alone, for A_dagger")  # fmt: skip
    group.add_argument("--input", type=path_type, metavar="PATH", help="the measurements: a file or a folder (needed)")
    group.add_argument("--slices", type=path_type, metavar="A:B[:S]",
                       help="of --input, from A up to but without B, every S-th (default: all)")  # fmt: skip
    group.add_argument(
        "--output",
        type=path_type,
        metavar="X.npy",
        help="where the images go: .npy, .tif (a page an image) or .h5 (needed)",
    )
    group.add_argument("--png", action="store_true", help="write a folder of PNG files beside the output, too")
    group.add_argument("-b", "--batch-size", type=int, metavar="N", dest="rows",
                       help="measurements at a time (default: 8)")  # fmt: skip
    group.add_argument("--average-over", type=names_of(AVERAGES), metavar="NAME[,NAME]",
                       help="test-time augmentation: rotate90, reflect, or both")  # fmt: skip
    error_bars.add_options(made, calibrate=False)
    return made


def main(arguments: Sequence[str], prog: str = "ei reconstruct") -> None:
    typed = read_typed(parser(prog), arguments)
    options = typed.options
    device = choose_device(typed.flags.pop("device", None))
    output = _checked_output(options, typed)
    with together(device):
        _reconstruct(typed, output, device)


def _reconstruct(typed: Typed, output: Path, device: torch.device) -> None:
    options = typed.options
    rows = check_number("--batch-size", options.get("rows", 8), integer=True, least=1)
    call = _call_of(typed)
    f, measurements, tree, shape = load_run(options.get("ckp"), options["input"], typed, device)
    bars = error_bars.read_options(options, tree, f, shape, typed.code)
    if options.get("average_over"):
        if "ckp" not in options:
            raise InputError("--average-over averages a network, and there is none without --ckp; leave it out")
        f = averaged(f, options["average_over"])
    for line in report_data(f.physics, measurements):
        if line.startswith("warning"):
            print(line)
    call["time or size of --input"] = identity_of(measurements.files)
    call["operator"] = _identity_of_operator(f.physics, tree, typed.code)
    watch = error_bars.Watch(f, bars)
    beside = None if bars is None else error_bars.beside(output)
    rate = reconstruct_file(
        f, measurements, output, batch_size=rows, device=device, call=call, watch=watch, beside=beside
    )
    if not launched().first:
        return
    images = WrittenImages(output, len(measurements))
    names = [measurements.name_of(index) for index in range(len(measurements))]
    order = f", from {names[0]} to {names[-1]}" if measurements.path.is_dir() else ""
    print(f"{output}: {list(images.shape)} {images.dtype}{order}, {rate:.1f} images a second")
    print("".join(f"{line}\n" for line in watch.lines(output)), end="")
    if options.get("png"):
        folder = output.with_suffix("")
        scale = write_pngs(images, folder, names)
        scaled = "" if scale == 1 else f", values divided by {scale:.3g}"
        if has_parts(images):
            scaled = " of magnitudes, each divided by its own brightest"
        print(f"{folder}: {len(images)} PNG files{scaled}")


def _call_of(typed: Typed) -> dict[str, Any]:
    """What identifies a call: all that its images depend on."""
    named = {f"--{name.replace('_', '-')}": value for name, value in typed.flags.items()}
    named |= {"--slices": typed.options.get("slices"), "--average-over": typed.options.get("average_over")}
    named |= {"--uncertainty": typed.options.get("uncertainty"), "--calibration": _hash(typed, "calibration")}
    named |= {"trees": typed.files, "keys": typed.assignments} if typed.files or typed.assignments else {}
    return {"checkpoint": _hash(typed, "ckp"), "--input": os.path.abspath(typed.options["input"]), **named}


def _identity_of_operator(physics: Any, tree: Tree, code: set[str]) -> str:
    """A hash of an operator, of the user-defined code that was typed and of the files that it reads: they may change
    between two calls."""
    described = describe(physics)
    digest = hashlib.sha256(json.dumps(described, default=str).encode())
    if described is None:
        digest.update(identity_of(files_of_physics(tree)).encode())
    for tensor in (getattr(physics, name, None) for name in CARRIED):
        digest.update(b"" if tensor is None else tensor.cpu().numpy().tobytes())
    for text in sorted(code):
        digest.update(Path(text.rpartition(":")[0]).read_bytes())
    return digest.hexdigest()


def _hash(typed: Typed, name: str) -> str | None:
    """A hash of the content of the file that an option names."""
    path = typed.options.get(name)
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path is not None and Path(path).is_file() else None


def _checked_output(options: Mapping[str, Any], typed: Typed) -> Path:
    """The output file, as far as it can be checked before any work."""
    for name in ("input", "output"):
        if name not in options:
            raise InputError(f"--{name} is needed; --help lists the options")
    if "ckp" not in options and "physics" not in typed.flags:
        raise InputError("--ckp is needed, a checkpoint; or --physics alone, for A_dagger without a network")
    output = Path(options["output"])
    if output.suffix.lower() not in OUTPUTS or output.is_dir():
        raise InputError(f"--output must be a file that ends in {', '.join(OUTPUTS)}, got {output}")
    for written in (output, error_bars.beside(output)):
        check_not_read("--output", written, [split_name(options["input"])[0]])
    if not output.parent.is_dir():
        raise InputError(f"the folder {output.parent} of --output does not exist; make it first")
    if options.get("png") and output.with_suffix("").exists():
        raise InputError(f"--png writes into {output.with_suffix('')}, which exists already; choose another --output")
    return output


def load_run(
    ckp: str | None, source: str, typed: Typed, device: torch.device
) -> tuple[ReconstructionFunction, Any, Tree, Shape]:
    """The reconstruction function of a checkpoint, or A_dagger without one; the measurements; the tree of the run; and
    (C, H, W) of the images."""
    data = {"measurements": source, "slices": typed.options.get("slices")}
    if ckp is None:
        tree = typed.over({})
        problem = Problem({**tree, "data": data}, device)
        print(f"no checkpoint: A_dagger of {problem.physics}, without a network")
        return Reconstructor(nn.Identity(), problem.physics), problem.data, tree, problem.shape
    state = checked(load_file(ckp, "checkpoint"), ckp)
    config = {key: value for key, value in (state.get("config") or {}).items() if key != "data"}
    tree = tree_of_checkpoint({**state, "config": config}, typed, ckp)
    carried = carried_physics(state, tree, typed.has_physics, device, ckp, others=True)
    data["bin"] = get(state.get("config") or {}, "data.bin")
    problem = Problem({**tree, "data": data}, device, carried=carried)
    f = load_function(state, ckp, tree, problem.physics, problem.shape, device)
    return f, problem.data, tree, problem.shape
