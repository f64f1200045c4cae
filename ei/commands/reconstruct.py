"""Reconstruct new measurements with a trained network, or with A_dagger alone:

    {prog} --ckp RUN/ckp_last.pth.tar --input y.npy --output x.npy
    {prog} --ckp RUN/ckp_best.pth.tar --input folder/ --output x.npy --png
    {prog} --ckp RUN/ckp_best.pth.tar --physics blur.py:Blur --input y.npy --output x.npy
    {prog} --physics mri.yaml --input kspace.npy --output x.npy      no network: A_dagger, as CG-SENSE of MRI

Operator, mask and network come from the checkpoint; an operator of your own is named again, because code is never run
for what a file says. ``--input`` is what `ei.datasets.Measurements` reads, any number of measurements; they go through
batch by batch. The output, ``[n, C, H, W]`` (``[n, H, W]`` where the input has no channel axis; complex where the input
is complex k-space), appears under its name when it is complete. A folder's files come in their natural order (y_2
before y_10), and PNG files keep their names. What is odd about the measurements is a line that begins with ``warning``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from ei.commands.data import look_of
from ei.commands.operators import check_contradictions, check_count, for_other_images, known_physics, operator_for
from ei.commands.parser import choose_device
from ei.commands.parts import measurements_for
from ei.commands.presets import TASKS
from ei.commands.settings import parser_of, read_options, resolve
from ei.common.complex import magnitude
from ei.common.files import TEMPORARY, complete_folder, load_file, writing
from ei.datasets import Measurements
from ei.errors import InputError
from ei.evaluation.loading import averaged, checked, function_of
from ei.models import Reconstructor, UNet
from ei.models.base import ReconstructionFunction
from ei.physics import select_physics


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
        f: the reconstruction function; it is put in evaluation mode.
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
                own = select_physics(f.physics, range(done, done + len(y)))
                x = f.of(own)(y.to(device)).cpu().numpy()
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
        raise InputError(f"{folder} is there already; move it away, or choose another --output")
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


def main(arguments: Sequence[str], prog: str = "ei reconstruct") -> None:
    given = read_options(parser_of("reconstruct", prog, (__doc__ or "").format(prog=prog)), arguments)
    for option in ("input", "output"):
        if option not in given:
            raise InputError(f"--{option} is needed; --help lists the options")
    if "ckp" not in given and "physics" not in given:
        raise InputError("--ckp is needed, a checkpoint; or --physics alone, for A_dagger without a network")
    output = Path(given["output"])
    if output.suffix != ".npy" or output.is_dir():
        raise InputError(f"--output must be a .npy file, not {output}")
    if not output.parent.is_dir():
        raise InputError(f"the folder {output.parent} of --output is not there; make it first")
    folder = output.with_suffix("")
    if given.get("png") and folder.exists():
        raise InputError(f"--png would write into {folder}, which is there already; choose another --output")
    device = choose_device(given.get("device"), given.get("gpu"))
    trained = "ckp" in given
    state = checked(load_file(given["ckp"], "checkpoint"), given["ckp"]) if trained else {}
    physics = for_other_images(known_physics(given.get("physics"), state, device), given)
    task = given.get("task") or (state.get("config") or {}).get("task")
    net = None
    if physics is None:
        if task not in TASKS:
            raise InputError(f"the checkpoint {given['ckp']} does not say its operator: give --task, and --ct-views or "
                             "--mask; or --physics")  # fmt: skip
        options = resolve({"task": task, **{key: value for key, value in given.items() if key in ("ct_views", "mask")}})
        measurements, shape = measurements_for(given["input"], options, None)
        physics = operator_for(options, shape, device, None, state, given)
        net = None if isinstance(state.get("network"), dict) else UNet(shape[0], shape[0])
    else:
        check_contradictions(state, given, task if task in TASKS else None, physics)
        measurements, _ = measurements_for(given["input"], None, physics)
    check_count(physics, len(measurements), "measurements: give theirs with --mask")
    f = function_of(state, given["ckp"], physics, net, device) if trained else Reconstructor(nn.Identity(), physics)
    if not trained:
        print(f"no checkpoint: A_dagger of {physics}, without a network")
    if given.get("average_over"):
        if not trained:
            raise InputError("--average-over averages a network, and there is none without --ckp; leave it out")
        f = averaged(f, given["average_over"])
    for line in look_of(physics, measurements).splitlines():
        if line.startswith("warning"):  # else they are as those it was trained on
            print(line)
    rate = reconstruct_file(f, measurements, output, batch_size=given.get("batch_size", 8), device=device)
    images = np.load(output, mmap_mode="r")
    names = [measurements.name_of(index) for index in range(len(measurements))]
    order = f", from {names[0]} to {names[-1]}" if measurements.path.is_dir() else ""
    print(f"{output}: {list(images.shape)} {images.dtype}{order}, {rate:.1f} images a second")
    if given.get("png"):
        write_pngs(images, folder, names)
        scaled = " of magnitudes, each divided by its own brightest" if _of_parts(images) else ""
        print(f"{folder}: {len(images)} PNG files{scaled}")
