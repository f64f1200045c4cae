"""Reconstruct measurements with a trained network, or with A_dagger alone:

    {prog} --ckp RUN/ckp_last.pth.tar --input y.npy --output x.npy
    {prog} --ckp RUN/ckp_best.pth.tar --input folder/ --output x.npy --png
    {prog} --ckp RUN/ckp_best.pth.tar --physics blur.py:Blur --input y.npy --output x.npy
    {prog} --physics mri.yaml --input kspace.npy --output x.npy      no network: A_dagger, as CG-SENSE of MRI

Operator, mask and network come from the checkpoint; user-defined code is named again, because code is never run for
what a file says. ``--input`` is what `ei.datasets.Measurements` reads, any number of measurements; they go through
batch by batch. The output, ``[n, C, H, W]`` (``[n, H, W]`` where the input has no channel axis; complex where the input
is complex k-space), appears under its name when it is complete. A folder's files come in their natural order (y_2
before y_10), and PNG files keep their names. Warnings about the measurements are lines that begin with ``warning``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from ei.commands import presets
from ei.commands.build import print_report
from ei.commands.checkpoint import load_function
from ei.commands.flags import BY_NAME
from ei.commands.flags import path as path_type
from ei.commands.parser import Parser, choose_device, device_of_flags, names_of
from ei.commands.problem import (
    build_physics,
    check_count,
    load_measurements,
    needs_sizes,
    set_noise,
    sizes_from_measurements,
    with_noise_apart,
)
from ei.commands.test import operator_of_run
from ei.commands.tree import Tree, check_code_is_typed, get
from ei.commands.typed import Typed, add_flags, chosen_flags, read_typed
from ei.common.checks import check_number
from ei.common.complex import magnitude
from ei.common.files import TEMPORARY, complete_folder, load_file, writing
from ei.common.parts import normalized
from ei.datasets import Measurements
from ei.errors import InputError
from ei.evaluation.loading import averaged, checked
from ei.models import Reconstructor
from ei.models.averaged import GROUPS as AVERAGES
from ei.models.base import ReconstructionFunction
from ei.physics import select_physics

OF_AUTHORS = "of a checkpoint that does not say it"


def reconstruct_file(
    f: ReconstructionFunction,
    measurements: Measurements,
    output: Path,
    *,
    batch_size: int = 8,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> float:
    """Write the reconstructions of ``measurements`` to the ``.npy`` file ``output``.

    Args:
        f: the reconstruction function; evaluation mode is set.
        measurements: what to reconstruct.
        output: appears when it is complete.
        batch_size: measurements at a time.
        device: where f is.
        progress: show a bar.

    Returns:
        Images a second.

    Raises:
        InputError: if measurements cannot be read or do not fit the operator.
        StorageError: if the file cannot be written; nothing is left of it.
    """
    f.eval()
    loader = DataLoader(measurements, batch_size=batch_size)
    temporary = output.with_name(f".{output.name}{TEMPORARY}")
    began = time.monotonic()
    images: Any = None
    try:
        with torch.no_grad(), writing(output), tqdm(total=len(measurements), unit="image", disable=not progress) as bar:
            done = 0
            for y in loader:
                selected = select_physics(f.physics, range(done, done + len(y)))
                x = f.of(selected)(y.to(device)).cpu().numpy()
                if measurements.parts:
                    x = x[:, 0] + 1j * x[:, 1]
                elif not measurements.channels:
                    x = x[:, 0]
                if images is None:
                    shape = (len(measurements), *x.shape[1:])
                    kind = np.complex64 if np.iscomplexobj(x) else np.float32
                    images = np.lib.format.open_memmap(temporary, "w+", kind, shape)
                images[done : done + len(x)] = x
                done += len(x)
                bar.update(len(x))
            images.flush()
            images = None
            temporary.replace(output)
    finally:
        images = None
        temporary.unlink(missing_ok=True)
    return len(measurements) / (time.monotonic() - began)


def write_pngs(images: np.ndarray, folder: Path, names: Sequence[str]) -> None:
    """One 8-bit PNG an image, under its name, ``[n, H, W]`` or ``[n, C, H, W]`` with C = 1 or 3 and values in
    [0, 1] (others are clipped). Of complex images, and of C = 2, it is the magnitude, in parts of the brightest of each
    but for a thousandth of the pixels. The folder appears when it is complete.

    Raises:
        InputError: if the folder is there already, images have other channels, or two the same name.
    """
    from PIL import Image

    if folder.exists():
        raise InputError(f"{folder} exists already; move it away, or choose another --output")
    if images.ndim == 4 and images.shape[1] not in (1, 2, 3):
        raise InputError(f"--png writes gray or RGB images, not {images.shape[1]} channels")
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise InputError(f"two PNG files would be called {twice}: rename a file of the input")
    with complete_folder(folder) as unfinished:
        for name, image in zip(names, images, strict=True):
            if _of_parts(images):
                image = magnitude(torch.from_numpy(np.array(image))).numpy()
                image = image / max(np.quantile(image, 0.999), np.finfo(np.float32).tiny)
            pixels = (image.clip(0, 1) * 255).round().astype(np.uint8)
            if pixels.ndim == 3:
                pixels = pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1)
            Image.fromarray(pixels).save(unfinished / f"{name}.png")


def _of_parts(images: np.ndarray) -> bool:
    return np.iscomplexobj(images) or (images.ndim == 4 and images.shape[1] == 2)


def parser(prog: str) -> Parser:
    made = Parser(prog=prog, description=(__doc__ or "").format(prog=prog))
    add_flags(made, chosen_flags("task", "physics", "mask", "ct_views", "device", "gpu"), task=OF_AUTHORS,
              mask=OF_AUTHORS, ct_views=OF_AUTHORS)  # fmt: skip
    group = made.add_argument_group("reconstruct")
    group.add_argument("--ckp", type=path_type, metavar="PATH",
                       help="the checkpoint; without it --physics alone, for A_dagger")  # fmt: skip
    group.add_argument("--input", type=path_type, metavar="PATH", help="the measurements: a file or a folder (needed)")
    group.add_argument("--output", type=path_type, metavar="X.npy", help="where the images go (needed)")
    group.add_argument("--png", action="store_true", help="write a folder of PNG files beside the output, too")
    group.add_argument("-b", "--batch-size", type=BY_NAME["batch_size"].kind, metavar="N", dest="rows",
                       help="measurements at a time (default: 8)")  # fmt: skip
    group.add_argument("--average-over", type=names_of(AVERAGES), metavar="NAME[,NAME]",
                       help="test-time augmentation: rotate90, reflect, or both")  # fmt: skip
    return made


def main(arguments: Sequence[str], prog: str = "ei reconstruct") -> None:
    typed = read_typed(parser(prog), arguments)
    options = typed.options
    device = choose_device(device_of_flags(typed.flags.pop("device", None), typed.flags.pop("gpu", None)))
    output = _checked_output(options, typed)
    rows = check_number("--batch-size", options.get("rows", 8), integer=True, least=1)
    f, measurements = load_run(options.get("ckp"), options["input"], typed, device)
    if options.get("average_over"):
        if "ckp" not in options:
            raise InputError("--average-over averages a network, and there is none without --ckp; leave it out")
        f = averaged(f, options["average_over"])
    print_report(f.physics, measurements, only_warnings=True)
    rate = reconstruct_file(f, measurements, output, batch_size=rows, device=device)
    images = np.load(output, mmap_mode="r")
    names = [measurements.name_of(index) for index in range(len(measurements))]
    order = f", from {names[0]} to {names[-1]}" if measurements.path.is_dir() else ""
    print(f"{output}: {list(images.shape)} {images.dtype}{order}, {rate:.1f} images a second")
    if options.get("png"):
        folder = output.with_suffix("")
        write_pngs(images, folder, names)
        scaled = " of magnitudes, each divided by its own brightest" if _of_parts(images) else ""
        print(f"{folder}: {len(images)} PNG files{scaled}")


def _checked_output(options: Mapping[str, Any], typed: Typed) -> Path:
    """The output file, as far as it can be checked before any work.

    Raises:
        InputError: if it cannot be written, or the input is missing.
    """
    for name in ("input", "output"):
        if name not in options:
            raise InputError(f"--{name} is needed; --help lists the options")
    if "ckp" not in options and "physics" not in typed.flags:
        raise InputError("--ckp is needed, a checkpoint; or --physics alone, for A_dagger without a network")
    output = Path(options["output"])
    if output.suffix != ".npy" or output.is_dir():
        raise InputError(f"--output must be a .npy file, got {output}")
    if not output.parent.is_dir():
        raise InputError(f"the folder {output.parent} of --output does not exist; make it first")
    if options.get("png") and output.with_suffix("").exists():
        raise InputError(f"--png writes into {output.with_suffix('')}, which exists already; choose another --output")
    return output


def load_run(
    ckp: str | None, source: str, typed: Typed, device: torch.device
) -> tuple[ReconstructionFunction, Measurements]:
    """The reconstruction function of a checkpoint, or A_dagger without one, and the measurements.

    Raises:
        InputError: for what does not fit together.
    """
    if ckp is None:
        physics, measurements, _ = _operator_and_measurements(with_noise_apart(typed.over({})), source, device)
        check_count(physics, len(measurements), "measurements: give theirs with --mask")
        print(f"no checkpoint: A_dagger of {physics}, without a network")
        return Reconstructor(nn.Identity(), physics), measurements
    state = checked(load_file(ckp, "checkpoint"), ckp)
    tree = tree_of_checkpoint(state, typed, ckp)
    if state.get("config"):
        physics = operator_of_run(state, tree, ckp, typed.flags.get("mask"), device)
        measurements, shape = load_measurements(source, physics, source)
    else:
        physics, measurements, shape = _operator_and_measurements(tree, source, device)
    check_count(physics, len(measurements), "measurements: give theirs with --mask")
    return load_function(state, ckp, tree, physics, shape, device), measurements


def tree_of_checkpoint(state: Mapping[str, Any], typed: Typed, path: str) -> Tree:
    """The tree of a checkpoint, or of the task for those of the authors, with what was typed laid over it."""
    task = typed.flags.pop("task", None)
    base = dict(state.get("config") or {})
    if not base and task is None and "physics" not in typed.flags:
        raise InputError(f"the checkpoint {path} does not say its operator: give --task, and --ct-views or --mask; or "
                         "--physics")  # fmt: skip
    if not base:
        base = {"physics": presets.problem(task).get("physics")} if task else {}
    elif task is not None and task != get(base, "trainer.task"):
        raise InputError(f"the checkpoint was trained for the task {get(base, 'trainer.task')}, not for {task}")
    tree = with_noise_apart(typed.over(base))
    used = {key: tree.get(key) for key in ("physics", "noise", "network", "reconstructor")}
    check_code_is_typed(used, typed.code, path)
    return tree


def _operator_and_measurements(tree: Tree, source: str, device: torch.device) -> tuple[Any, Any, Any]:
    description = normalized(tree["physics"], "physics")
    sizes = sizes_from_measurements(source, description) if needs_sizes(description) else {}
    physics = build_physics(description, device, sizes).object
    set_noise(physics, tree.get("noise"))
    measurements, shape = load_measurements(source, physics, source)
    return physics, measurements, shape
