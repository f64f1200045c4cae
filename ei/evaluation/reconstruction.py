"""Measurements of any number to files of images."""

from __future__ import annotations

import contextlib
import functools
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ei.common.arrays import TIFF, FileArray
from ei.common.complex import magnitude
from ei.common.files import complete_folder
from ei.common.processes import Processes
from ei.common.unfinished import UnfinishedArray
from ei.datasets import Measurements
from ei.datasets.batches import in_order, shapes_of_measurements
from ei.errors import InputError
from ei.models.base import ReconstructionFunction, select_function

SCALES = 0.2, 2.0  # brightest values between which pictures are written as they are
# What watches a reconstruction: of f, its operator, y and x = f(y), it may return images, too.
Watch = Callable[[Any, Any, Tensor, Tensor], Tensor | None]


def reconstruct_file(
    f: ReconstructionFunction,
    measurements: Measurements,
    output: Path,
    *,
    batch_size: int = 8,
    device: torch.device | str = "cpu",
    call: Mapping[str, Any] | None = None,
    watch: Watch | None = None,
    beside: Path | None = None,
) -> float:
    """Write the reconstructions of ``measurements`` to the file ``output``, batch by batch. What an interrupted call
    has written is kept beside it, and the same call continues there (`ei.common.unfinished`, also for the errors).
    Processes that have joined (`ei.common.processes`) share the measurements.

    Args:
        f: the reconstruction function, on ``device``; evaluation mode is set.
        measurements: what to reconstruct, ``batch_size`` at a time.
        output: appears when it is complete.
        call: plain values that identify the call.
        watch: called with every batch as ``watch(f, physics, y, x)``, ``x = f(y)``.
        beside: a file for the images that ``watch`` returns, of the layout of ``output`` and real.

    Returns:
        Images a second, of all processes together.
    """
    f.eval()
    is_first = Processes.current().first
    began = time.monotonic()
    with torch.no_grad(), contextlib.ExitStack() as stack:
        paths = [output] if beside is None else [output, beside]
        arrays = [stack.enter_context(UnfinishedArray(path, len(measurements), call or {})) for path in paths]
        reconstruct = functools.partial(_reconstruct, f, measurements, device, watch)
        before = min(array.written for array in arrays)
        if before:
            print(f"continuing {arrays[0].unfinished}: {before} of {len(measurements)} images are there")
        elif is_first:  # the shapes follow from the first image
            _begin(arrays, reconstruct([0]))
        left = arrays[0].share(*arrays[1:])
        shapes = shapes_of_measurements(measurements, f.physics)
        batches = in_order([None if shapes is None else shapes[index] for index in left], batch_size)
        for batch in tqdm(batches, unit="batch", disable=not is_first):
            indices = [left[place] for place in batch]
            for array, images in zip(arrays, reconstruct(indices), strict=False):
                array.write(indices, images)
        for array in arrays:
            array.complete()
    return (len(measurements) - before) / (time.monotonic() - began)


def _begin(arrays: Sequence[UnfinishedArray], firsts: Sequence[np.ndarray]) -> None:
    """Begin arrays with their first slices, where they are not begun."""
    for array, images in zip(arrays, firsts, strict=False):
        if not array.is_begun:
            array.begin(images.shape[1:], images.dtype)
        array.write([0], images)


def _reconstruct(
    f: ReconstructionFunction,
    measurements: Measurements,
    device: torch.device | str,
    watch: Watch | None,
    indices: Sequence[int],
) -> list[np.ndarray]:
    """The images of the measurements with these indices, and those that ``watch`` returns, as files have them."""
    y = torch.stack([measurements[index] for index in indices]).to(device)
    selected_f, physics = select_function(f, f.physics, indices)
    x = selected_f(y)
    watched = None if watch is None else watch(selected_f, physics, y, x)
    images = _in_layout(x, measurements)
    images = images.astype(np.complex64 if np.iscomplexobj(images) else np.float32)
    return [images, *([] if watched is None else [np.abs(_in_layout(watched, measurements)).astype(np.float32)])]


def _in_layout(x: Tensor, measurements: Measurements) -> np.ndarray:
    """Images ``[B, C, H, W]`` with the axes of the measurements' file; a real and an imaginary part as complex."""
    images = x.cpu().numpy()
    if getattr(measurements, "parts", False):
        return images[:, 0] + 1j * images[:, 1]
    return images if getattr(measurements, "channels", True) else images[:, 0]


class WrittenImages:
    """The ``count`` images in a file of `reconstruct_file`, one by one, ``[n, ...]`` as measurements are laid out: a
    TIFF file has channels last, and no axis for a single page."""

    def __init__(self, path: Path, count: int) -> None:
        self._array = FileArray(path, ("x",))
        is_tiff = path.suffix.lower() in TIFF
        self._is_page = is_tiff and count == 1
        self.shape = (1, *self._array.shape) if self._is_page else self._array.shape
        self._channels_last = is_tiff and len(self.shape) == 4
        if self._channels_last:
            self.shape = (self.shape[0], self.shape[3], *self.shape[1:3])
        self.dtype = self._array.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> np.ndarray:
        image = self._array[...] if self._is_page else self._array[index]
        return np.moveaxis(image, -1, 0) if self._channels_last else image


def write_pngs(images: Any, folder: Path, names: Sequence[str]) -> float:
    """One 8-bit PNG an image, under its name, ``[n, H, W]`` or ``[n, C, H, W]`` with C = 1 or 3. Values in [0, 1] are
    written as they are, and clipped; where the brightest of the images (but for a thousandth of its pixels) is beyond
    `SCALES`, as attenuation in a unit of length is, all are divided by that. Of complex images, and of C = 2, it is the
    magnitude, in parts of the brightest of each. The folder appears when it is complete. Images are read one by one.

    Returns:
        What all images are divided by; 1 where each has its own.

    Raises:
        InputError: if the folder is there already, images have other channels, or two the same name.
    """
    from PIL import Image

    if folder.exists():
        raise InputError(f"{folder} exists already; move it away, or choose another --output")
    if len(images.shape) == 4 and images.shape[1] not in (1, 2, 3):
        raise InputError(f"--png writes gray or RGB images, not {images.shape[1]} channels")
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise InputError(f"two PNG files would be called {twice}: rename a file of the input")
    of_parts = has_parts(images)
    scale = 1.0 if of_parts else _scale_of(images)
    with complete_folder(folder) as unfinished:
        for index, name in enumerate(names):
            image = images[index] / scale
            if of_parts:
                image = magnitude(torch.from_numpy(np.array(image))).numpy()
                image = image / _brightest(image)
            pixels = (image.clip(0, 1) * 255).round().astype(np.uint8)
            if pixels.ndim == 3:
                pixels = pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1)
            Image.fromarray(pixels).save(unfinished / f"{name}.png")
    return scale


def _scale_of(images: Any) -> float:
    """What pictures of real images are divided by."""
    brightest = max(_brightest(images[index]) for index in range(len(images)))
    return 1.0 if SCALES[0] <= brightest <= SCALES[1] else brightest


def _brightest(image: np.ndarray) -> float:
    return max(float(np.quantile(image, 0.999)), float(np.finfo(np.float32).tiny))


def has_parts(images: Any) -> bool:
    """Whether images are complex, or real and imaginary part."""
    return images.dtype.kind == "c" or (len(images.shape) == 4 and images.shape[1] == 2)
