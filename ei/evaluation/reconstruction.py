"""Measurements of any number to files of images."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from ei.common.arrays import ArrayWriter
from ei.common.complex import magnitude
from ei.common.files import complete_folder
from ei.datasets import Measurements
from ei.datasets.batches import in_order, shapes_of_measurements
from ei.errors import InputError
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
    watch: Callable[[Any, Any, Tensor, Tensor], Tensor | None] | None = None,
    beside: Path | None = None,
) -> float:
    """Write the reconstructions of ``measurements`` to the file ``output``, image by image (`ArrayWriter`).

    Args:
        f: the reconstruction function; evaluation mode is set.
        measurements: what to reconstruct.
        output: appears when it is complete.
        batch_size: measurements at a time.
        device: where f is.
        progress: show a bar.
        watch: called with every batch as ``watch(f, physics, y, x)``, ``x = f(y)``.
        beside: a file for the images that ``watch`` returns, of the layout of ``output`` and real.

    Returns:
        Images a second.

    Raises:
        InputError: if measurements cannot be read or do not fit the operator.
        StorageError: if the file cannot be written; nothing is left of it.
    """
    f.eval()
    shapes = shapes_of_measurements(measurements, f.physics)
    batches = None if shapes is None else in_order(shapes, batch_size)
    loader = DataLoader(measurements, batch_size if batches is None else 1, batch_sampler=batches)
    began = time.monotonic()
    with torch.no_grad(), contextlib.ExitStack() as stack:
        bar = stack.enter_context(tqdm(total=len(measurements), unit="image", disable=not progress))
        writers: dict[Path, ArrayWriter] = {}
        done = 0
        for y in loader:
            physics = select_physics(f.physics, range(done, done + len(y)))
            own, y = f.of(physics), y.to(device)
            x = own(y)
            watched = None if watch is None else watch(own, physics, y, x)
            outputs = {output: _in_layout(x, measurements)}
            if beside is not None and watched is not None:
                outputs[beside] = np.abs(_in_layout(watched, measurements))
            for path, images in outputs.items():
                if path not in writers:
                    dtype = np.complex64 if np.iscomplexobj(images) else np.float32
                    shape = (len(measurements), *images.shape[1:])
                    writers[path] = stack.enter_context(ArrayWriter(path, shape, dtype))
                for image in images:
                    writers[path].write(image)
            done += len(x)
            bar.update(len(x))
    return len(measurements) / (time.monotonic() - began)


def _in_layout(x: Tensor, measurements: Measurements) -> np.ndarray:
    """Images ``[B, C, H, W]`` with the axes of the measurements' file; a real and an imaginary part as complex."""
    images = x.cpu().numpy()
    if getattr(measurements, "parts", False):
        return images[:, 0] + 1j * images[:, 1]
    return images if getattr(measurements, "channels", True) else images[:, 0]


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
            if has_parts(images):
                image = magnitude(torch.from_numpy(np.array(image))).numpy()
                image = image / max(np.quantile(image, 0.999), np.finfo(np.float32).tiny)
            pixels = (image.clip(0, 1) * 255).round().astype(np.uint8)
            if pixels.ndim == 3:
                pixels = pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1)
            Image.fromarray(pixels).save(unfinished / f"{name}.png")


def has_parts(images: np.ndarray) -> bool:
    """Whether images are complex, or real and imaginary part."""
    return np.iscomplexobj(images) or (images.ndim == 4 and images.shape[1] == 2)
