"""Reconstruct new measurements with a trained network (from anywhere):

    python -m ei.reconstruct --ckp RUN/ckp_last.pth.tar --input y.npy --output x.npy
    python -m ei.reconstruct --ckp RUN/ckp_best.pth.tar --input folder/ --output x.npy --png

Operator, mask and network come from the checkpoint. ``--input`` is what `ei.datasets.Measurements` reads, any number of
measurements; they go through batch by batch. The output, ``[n, C, H, W]`` (``[n, H, W]`` where the input has no channel
axis), appears under its name when it is complete.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

import ei.models
from ei.checkpoint import TEMPORARY, complete_folder, generator_weights, load_file, load_weights, writing
from ei.datasets import Measurements
from ei.describe import rebuild
from ei.errors import InputError
from ei.experiment import TASKS, load_for_test, rebuild_physics
from ei.models import Reconstructor
from ei.options import Parser, add_device_options, choose_device, named, number, run_script


def reconstruct_file(
    f: Reconstructor,
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
                x = f(y.to(device)).cpu().numpy()
                if not measurements.channels:
                    x = x[:, 0]
                if images is None:
                    shape = (len(measurements), *x.shape[1:])
                    images = np.lib.format.open_memmap(temporary, "w+", np.float32, shape)
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


def write_pngs(images: np.ndarray, folder: Path) -> None:
    """One 8-bit PNG an image, ``[n, H, W]`` or ``[n, C, H, W]`` with C = 1 or 3 and values in [0, 1] (others are
    clipped). The folder appears when it is complete.

    Raises:
        InputError: if the folder is there already, or images have other channels.
    """
    from PIL import Image

    if folder.exists():
        raise InputError(f"{folder} is there already; move it away, or choose another --output")
    if images.ndim == 4 and images.shape[1] not in (1, 3):
        raise InputError(f"--png writes gray or RGB images, not {images.shape[1]} channels")
    with complete_folder(folder) as unfinished:
        for index, image in enumerate(images):
            pixels = (image.clip(0, 1) * 255).round().astype(np.uint8)
            if pixels.ndim == 3:
                pixels = pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1)
            Image.fromarray(pixels).save(unfinished / f"{index:05d}.png")


def _load(state: Any, path: str, given: Mapping[str, Any], y: Measurements, device: torch.device) -> Reconstructor:
    """The reconstruction function of a checkpoint, for measurements like ``y``."""
    if isinstance(state, Mapping) and "physics" in state:
        net = rebuild(state.get("network"), ei.models)
        load_weights(net, generator_weights(state, path), path)
        return Reconstructor(net.to(device), rebuild_physics(state, device))
    if "task" not in given:
        raise InputError(f"the checkpoint {path} does not say its operator: give --task, and --ct-views or --mask")
    task = TASKS[given["task"]]
    shape = task.measured_shape(y.item_shape, {**task.defaults, **given})
    return load_for_test(state, path, given["task"], given, shape, device)[0]


def main() -> None:
    parser = Parser(prog="python -m ei.reconstruct", description=__doc__)
    add = parser.add_argument
    add("--ckp", type=named, metavar="PATH", help="the checkpoint (needed)")
    add("--input", type=named, metavar="PATH", help="the measurements: a file or a folder (needed)")
    add("--output", type=named, metavar="X.npy", help="where the images go (needed)")
    add("--png", action="store_true", help="write a folder of PNG files beside the output, too")
    add("-b", "--batch-size", type=number(int, least=1), metavar="N", help="measurements at a time (default: 8)")
    add("--task", choices=list(TASKS), help="of a checkpoint that does not say it (the authors')")
    add("--ct-views", type=number(int, least=1), metavar="N", help="CT: of such a checkpoint (default: 50)")
    add("--mask", metavar="PATH", help="inpainting: of such a checkpoint")
    add_device_options(parser)
    given = vars(parser.parse(sys.argv[1:]))
    for option in ("ckp", "input", "output"):
        if option not in given:
            raise InputError(f"--{option} is needed; --help lists the options")
    output = Path(given["output"])
    if output.suffix != ".npy" or output.is_dir():
        raise InputError(f"--output must be a .npy file, not {output}")
    if not output.parent.is_dir():
        raise InputError(f"the folder {output.parent} of --output is not there; make it first")
    folder = output.with_suffix("")
    if given.get("png") and folder.exists():
        raise InputError(f"--png would write into {folder}, which is there already; choose another --output")
    device = choose_device(given.get("device"), given.get("gpu"))
    measurements = Measurements(given["input"])
    state = load_file(given["ckp"], "checkpoint")
    f = _load(state, given["ckp"], given, measurements, device)
    rate = reconstruct_file(f, measurements, output, batch_size=given.get("batch_size", 8), device=device)
    images = np.load(output, mmap_mode="r")
    print(f"{output}: {list(images.shape)} float32, {rate:.1f} images a second")
    if given.get("png"):
        write_pngs(images, folder)
        print(f"{folder}: {len(images)} PNG files")


if __name__ == "__main__":
    run_script("python -m ei.reconstruct", main)
