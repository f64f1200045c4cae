"""Masks and coil maps out of files: of torch, NumPy and Matlab, and of pictures."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ei.common.files import load_file, name_among
from ei.errors import InputError, MissingFileError

Source = Tensor | np.ndarray | Sequence | str | os.PathLike
PICTURES = (".png", ".bmp", ".tif", ".tiff")
# What stands for "measured" in a mask: 1, or the largest value of a picture of 8 or 16 bits.
ONES = (1, 255, 65535)


def read_array(source: Source, key: str) -> tuple[Tensor, str]:
    """A mask or maps as a tensor, and what to call them in messages.

    Args:
        source: a tensor, an array or a list, or the path of a file: of ``torch.save`` (a tensor, or a dict with one
            under ``key``), ``.npy``, ``.npz`` or ``.mat`` (under ``key``, or alone), or a picture, whose colours are
            grays.
        key: "mask" or "coil_maps".

    Raises:
        MissingFileError: if there is no such file.
        InputError: naming the file, if it cannot be read or holds something else; or for another kind of source.
    """
    what = key.replace("_", " ")
    if isinstance(source, torch.Tensor):
        return source.detach(), f"the {what}"
    if isinstance(source, np.ndarray):
        return torch.from_numpy(source.copy()), f"the {what}"
    if not isinstance(source, str | os.PathLike):
        try:
            listed = np.array(source)
        except ValueError:  # rows of different lengths
            listed = np.empty(())
        if listed.dtype.kind not in "fiubc" or listed.ndim == 0:
            raise InputError(
                f"the {what} must be a tensor, an array or a list of numbers, or the path of one, not {source!r:.60}"
            )
        return torch.from_numpy(listed), f"the {what}"
    path = Path(source)
    suffix, where = path.suffix.lower(), f"the {what} in {path}"
    readers = {".npy": _npy, ".npz": _npz, ".mat": _mat, **dict.fromkeys(PICTURES, _picture)}
    if suffix not in readers:
        content = load_file(path, what)
        if isinstance(content, Mapping):
            content = content.get(key)
        if not isinstance(content, torch.Tensor):
            raise InputError(f"{where} must be a saved tensor or array, or a dict with one under {key!r}")
        return content, where
    if not path.exists():
        raise MissingFileError(f"there is no {what} {path}; check the path")
    try:
        return torch.from_numpy(np.array(readers[suffix](path, key))), where
    except InputError:
        raise
    except Exception as error:  # the readers raise whatever the bytes lead them to
        raise InputError(f"the {what} {path} is damaged or no {suffix} file of numbers ({error})") from error


def zeros_and_ones(mask: Tensor, where: str) -> Tensor:
    """A mask as float32 zeros and ones, of which the latter may be 255 or 65535, as pictures have them.

    Raises:
        InputError: for other values.
    """
    wanted = f"{where} must hold only zeros (missing) and ones (measured), or 0 and 255"
    if mask.is_complex():
        raise InputError(f"{wanted}, not {mask.dtype}")
    mask = mask.to(torch.float64)  # torch compares few of the integer types
    if not any(bool(((mask == 0) | (mask == one)).all()) for one in ONES):
        raise InputError(f"{wanted}, not values from {mask.min().item():g} to {mask.max().item():g}")
    return (mask != 0).to(torch.float32)


def _npy(path: Path, key: str) -> Any:
    return np.load(path, allow_pickle=False)


def _npz(path: Path, key: str) -> Any:
    with np.load(path, allow_pickle=False) as file:
        return file[name_among(file.files, (key,), path, "array")]


def _mat(path: Path, key: str) -> Any:
    import scipy.io

    content = scipy.io.loadmat(path)
    return content[name_among([name for name in content if not name.startswith("__")], (key,), path, "array")]


def _picture(path: Path, key: str) -> Any:
    from PIL import Image

    with Image.open(path) as image:
        if image.mode in ("1", "L", "F") or image.mode.startswith("I"):
            return np.asarray(image)
        colours = np.asarray(image.convert("RGB"))
    if (colours != colours[..., :1]).any():
        raise InputError(f"the {key} {path} is a picture in colour; save it in black and white")
    return colours[..., 0]
