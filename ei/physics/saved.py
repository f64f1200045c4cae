"""Masks and coil maps: tensors, arrays, lists, or files of them, also pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ei.common.arrays import FileArray, native
from ei.errors import InputError, MissingFileError

Source = Tensor | np.ndarray | Sequence | str | os.PathLike
PICTURES = (".png", ".bmp", ".tif", ".tiff")
# What stands for "measured" in a mask: 1, or the largest value of a picture of 8 or 16 bits.
ONES = (1, 255, 65535)


def read_array(source: Source, key: str) -> tuple[Tensor, str]:
    """A mask or coil maps as a tensor, and what to call them in messages.

    Args:
        source: a tensor, an array or a list; or the path of a file, see `ei.common.arrays.FileArray` (of several arrays
            the one called ``key`` is read), or of a picture, whose colours must be grays.
        key: "mask" or "coil_maps".

    Raises:
        MissingFileError: if there is no such file.
        InputError: naming the file, if it cannot be read or holds something else; or for another kind of source.
    """
    what = key.replace("_", " ")
    if isinstance(source, Tensor):
        return source.detach(), f"the {what}"
    if not isinstance(source, str | os.PathLike):
        return torch.from_numpy(_listed(source, what)), f"the {what}"
    is_picture = Path(source).suffix.lower() in PICTURES
    values = _picture(Path(source), what) if is_picture else FileArray(source, (key,), what)[...]
    return torch.from_numpy(np.array(values)), f"the {what} in {source}"


def zeros_and_ones(mask: Tensor, where: str) -> Tensor:
    """A mask as float32 zeros and ones, of which the latter may be 255 or 65535, as pictures have them. Raises
    `InputError` for other values."""
    wanted = f"{where} must hold only zeros (missing) and ones (measured), or 0 and 255"
    if mask.is_complex():
        raise InputError(f"{wanted}, not {mask.dtype}")
    mask = mask.to(torch.float64)  # torch compares few of the integer types
    if not any(bool(((mask == 0) | (mask == one)).all()) for one in ONES):
        raise InputError(f"{wanted}, not values from {mask.min().item():g} to {mask.max().item():g}")
    return (mask != 0).to(torch.float32)


def _listed(source: np.ndarray | Sequence, what: str) -> np.ndarray:
    try:
        array = np.array(source)
    except ValueError:  # rows of different lengths
        array = np.empty(())
    if array.dtype.kind not in "fiubc" or array.ndim == 0:
        raise InputError(
            f"the {what} must be a tensor, an array or a list of numbers, or the path of one, not {source!r:.60}"
        )
    return native(array)


def _picture(path: Path, what: str) -> np.ndarray:
    if not path.exists():
        raise MissingFileError(f"there is no {what} {path}; check the path")
    try:
        with Image.open(path) as image:
            if image.mode in ("1", "L", "F") or image.mode.startswith("I"):
                return np.asarray(image)
            colours = np.asarray(image.convert("RGB"))
    except Exception as error:  # Pillow raises whatever the bytes lead it to
        raise InputError(f"the {what} {path} is damaged or no picture ({error})") from error
    if (colours != colours[..., :1]).any():
        raise InputError(f"the {what} {path} is a picture in colour; save it in black and white")
    return colours[..., 0]
