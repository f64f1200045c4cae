"""Measurements of any number to files of images."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ei.common.complex import magnitude
from ei.common.files import complete_folder
from ei.common.processes import Processes
from ei.common.unfinished import UnfinishedArray
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
    call: Mapping[str, Any] | None = None,
) -> float:
    """Write the reconstructions of ``measurements`` to the file ``output``, batch by batch. What an interrupted call
    has written is kept beside it, and the same call continues there (`ei.common.unfinished`). Processes that have
    joined (`ei.common.processes`) share the measurements.

    Args:
        f: the reconstruction function; evaluation mode is set.
        measurements: what to reconstruct.
        output: appears when it is complete.
        batch_size: measurements at a time.
        device: where f is.
        progress: show a bar.
        call: plain values that identify the call.

    Returns:
        Images a second, of all processes together.

    Raises:
        InputError: if measurements cannot be read or do not fit the operator, or what is kept is of another call.
        StorageError: if the file cannot be written; what was written is kept.
    """
    f.eval()
    processes = Processes.current()
    began = time.monotonic()
    with torch.no_grad(), UnfinishedArray(output, len(measurements), call or {}, processes) as images:
        before = images.written
        if before:
            print(f"continuing {images.unfinished}: {before} of {len(measurements)} images are there")
        elif processes.first and not images.is_begun:  # their shape follows from the first one
            x = _reconstruct(f, measurements, [0], device)
            images.begin(x.shape[1:], x.dtype)
            images.write([0], x)
        left = images.share()
        shapes = shapes_of_measurements(measurements, f.physics)
        batches = in_order([None if shapes is None else shapes[index] for index in left], batch_size)
        with tqdm(total=len(left), unit="image", disable=not (progress and processes.first)) as bar:
            for batch in batches:
                indices = [left[place] for place in batch]
                images.write(indices, _reconstruct(f, measurements, indices, device))
                bar.update(len(batch))
        images.complete()
    return (len(measurements) - before) / (time.monotonic() - began)


def _reconstruct(
    f: ReconstructionFunction, measurements: Measurements, indices: Sequence[int], device: torch.device | str
) -> np.ndarray:
    """The images of the measurements with these indices, as the output has them: float32 or complex64."""
    y = torch.stack([measurements[index] for index in indices])
    x = f.of(select_physics(f.physics, indices))(y.to(device)).cpu().numpy()
    if getattr(measurements, "parts", False):
        x = x[:, 0] + 1j * x[:, 1]
    elif not getattr(measurements, "channels", True):
        x = x[:, 0]
    return x.astype(np.complex64 if np.iscomplexobj(x) else np.float32)


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
