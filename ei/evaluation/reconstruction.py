"""Measurements of any number to files of images."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
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
) -> float:
    """Write the reconstructions of ``measurements`` to the file ``output``, image by image (`ArrayWriter`).

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
    shapes = shapes_of_measurements(measurements, f.physics)
    batches = None if shapes is None else in_order(shapes, batch_size)
    loader = DataLoader(measurements, batch_size if batches is None else 1, batch_sampler=batches)
    began = time.monotonic()
    with torch.no_grad(), contextlib.ExitStack() as stack:
        bar = stack.enter_context(tqdm(total=len(measurements), unit="image", disable=not progress))
        writer: ArrayWriter | None = None
        for y in loader:
            done = 0 if writer is None else writer.written
            physics = select_physics(f.physics, range(done, done + len(y)))
            x = f.of(physics)(y.to(device)).cpu().numpy()
            if getattr(measurements, "parts", False):
                x = x[:, 0] + 1j * x[:, 1]
            elif not getattr(measurements, "channels", True):
                x = x[:, 0]
            if writer is None:
                dtype = np.complex64 if np.iscomplexobj(x) else np.float32
                writer = stack.enter_context(ArrayWriter(output, (len(measurements), *x.shape[1:]), dtype))
            for image in x:
                writer.write(image)
            bar.update(len(x))
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
