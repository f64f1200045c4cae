"""Image files at the precision that they have: pictures (PNG, JPEG, TIFF, ...), arrays of NumPy, DICOM."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from ei.common.arrays import FileArray, import_extra, open_tiff
from ei.common.checks import check_number
from ei.errors import InputError, MissingExtraError

# Those of torchvision's ImageFolder. torchvision is imported where it is used: that takes seconds.
PICTURES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
ARRAYS = (".npy", ".npz")
DICOM = (".dcm", ".dicom", ".ima")
# Preferred in files of several arrays.
NAMES = ("x", "image", "images", "DATA")

Limits = tuple[float, float]


@dataclass(frozen=True)
class Header:
    """What is known of an image file before it is decoded."""

    channels: int  # 3 with a palette
    height: int  # of the image, upright
    width: int
    kind: str  # of the values
    largest: float | None  # of a type whose range is that of the image; None where the range must be set
    common: bool = False  # an ordinary picture of 8 bits, which Pillow reads as it is


def header_of(path: str | os.PathLike) -> Header:
    """The header of an image file. Raises `InputError` if it cannot be read or holds something else than one image."""
    return _reading(Path(path), {ARRAYS: _array_header, DICOM: _dicom_header}, _picture_header)


def read_values(path: str | os.PathLike) -> np.ndarray:
    """The values of an image file ``[C, H, W]`` as they are in it; DICOM's with slope and intercept applied. Raises
    `InputError` if it cannot be read, or has values that are not finite."""
    values = _reading(Path(path), {ARRAYS: _array_values, DICOM: _dicom_values}, _picture_values)
    if not np.isfinite(values).all():
        raise InputError(f"the image {path} has values that are not finite; correct or remove it")
    return values


def read_image(path: str | os.PathLike) -> Image.Image:
    """A picture of 8 bits (`Header.common`) as RGB, upright by its EXIF orientation; transparency is dropped. Raises
    `InputError` if it cannot be read."""

    def read(path: Path) -> Image.Image:
        with Image.open(path) as image:
            is_upright = _orientation(image) == 1
            return (image if is_upright else ImageOps.exif_transpose(image)).convert("RGB")

    return _reading(Path(path), {}, read)


def scaled(values: np.ndarray, limits: Limits) -> np.ndarray:
    """``values`` as float32, with ``limits`` mapped to [0, 1] and those outside clipped."""
    low, high = limits
    return ((values.astype(np.float64) - low) / (high - low)).clip(0, 1).astype(np.float32)


def check_range(limits: Sequence[float] | None) -> Limits | None:
    """A range (low, high), or None. Raises `InputError` unless low is below high, and both are finite."""
    if limits is None:
        return None
    if not isinstance(limits, list | tuple) or len(limits) != 2:
        raise InputError(f"value_range must be two numbers [LOW, HIGH], got {limits!r}")
    low = check_number("LOW of value_range", limits[0])
    high = check_number("HIGH of value_range", limits[1])
    if low >= high:
        raise InputError(f"value_range must be [LOW, HIGH] with LOW below HIGH, got {list(limits)}")
    return low, high


def needs_range(what: str, kind: str, low: float, high: float) -> str:
    """The message about values whose range must be set."""
    return (
        f"{what} hold {kind} values, from {low:.6g} to {high:.6g}: set value_range to [LOW, HIGH], the values that "
        "become 0 and 1 (for a CT window, [-1000, 400])"
    )


def warn_of_clipping(images: Iterable[np.ndarray], limits: Limits, what: str) -> None:
    """Warn if values of some images lie outside ``limits``, where they are clipped."""
    below = above = total = 0
    for values in images:
        below += int(np.count_nonzero(values < limits[0]))
        above += int(np.count_nonzero(values > limits[1]))
        total += values.size
    if below or above:
        warnings.warn(
            f"of {total} values of {what}, {below} lie below and {above} above value_range "
            f"[{limits[0]:g}, {limits[1]:g}] ({(below + above) / total:.2%}): they are clipped",
            stacklevel=3,
        )


def read_exactly(
    path: str | os.PathLike, header: Header, limits: Limits | None, prepare: Callable[[Image.Image], Image.Image]
) -> Tensor:
    """An image file as float32 ``[C, H, W]`` in [0, 1], never rounded to 8 bits. ``limits`` become 0 and 1, by default
    0 and the largest value of its type; ``prepare`` crops and resizes a PIL image of one channel."""
    values = scaled(read_values(path), limits or (0.0, float(header.largest or 1)))
    return torch.from_numpy(np.stack([np.asarray(prepare(Image.fromarray(channel))) for channel in values]))


def _reading(path: Path, readers: dict[tuple[str, ...], Callable[[Path], Any]], otherwise: Any) -> Any:
    reader = next((reader for suffixes, reader in readers.items() if path.suffix.lower() in suffixes), otherwise)
    try:
        return reader(path)
    except (InputError, MissingExtraError):
        raise
    except Exception as error:  # the readers raise whatever the bytes lead them to
        raise InputError(f"the image {path} cannot be read ({error}); replace or remove it") from error


# ---- pictures -----------------------------------------------------------------------------------------------------

# Tags of TIFF and EXIF.
BITS, PHOTOMETRIC, ORIENTATION, SAMPLE_FORMAT = 258, 262, 274, 339
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB = 0, 1, 2


def _orientation(image: Image.Image) -> int:
    """EXIF's number for how an image lies; 1 is upright."""
    if image.format == "PNG" and not any("exif" in str(key) for key in image.info):
        return 1  # Pillow would decode the pixels to look behind them
    return int(image.getexif().get(ORIENTATION, 1))


def _upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """``[C, H, W]`` turned and mirrored by EXIF's orientation number."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(-2, -1)
    if orientation in (2, 3, 6, 7):
        values = values[..., ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[..., ::-1, :]
    return np.ascontiguousarray(values)


def _picture_header(path: Path) -> Header:
    if _needs_tifffile(path):
        values = _tiff_values(path)
        channels, height, width = values.shape
        return Header(channels, height, width, kind=values.dtype.name, largest=largest_of(values.dtype))
    with Image.open(path) as image:
        width, height = image.size
        if _orientation(image) in (5, 6, 7, 8):  # lying on its side
            width, height = height, width
        if image.format in ("TIFF", "GIF", "WEBP") and getattr(image, "n_frames", 1) > 1:
            raise InputError(f"the image {path} holds {image.n_frames} pictures; save each as a file")
        kind, largest = _kind_of(image)
        gray = image.mode in ("1", "L", "LA", "F") or image.mode.startswith("I") or _raw_mode(image).startswith("LA")
    return Header(1 if gray else 3, height, width, kind, largest, common=kind == "uint8")


def _decoder_arguments(image: Image.Image) -> tuple[Any, ...]:
    """Pillow's arguments for decoding a file that it has not decoded yet: first how its pixels lie in the file."""
    tiles = getattr(image, "tile", [])
    arguments = tiles[0][3] if tiles else ""
    return arguments if isinstance(arguments, tuple) else (arguments,)


def _raw_mode(image: Image.Image) -> str:
    """How a PNG's pixels lie in the file; empty for other files."""
    return str(_decoder_arguments(image)[0]) if image.format == "PNG" else ""


def _kind_of(image: Image.Image) -> tuple[str, float | None]:
    """The type of a picture's values in its file, and the largest one if that is its range."""
    mode = image.mode
    if image.format == "PNG" and (_raw_mode(image).endswith(";16B") or mode.startswith("I")):
        return "uint16", 65535
    if image.format == "PPM":
        largest = _ppm_largest(image)
        if mode == "I":
            return "uint16", largest or 65535
        if mode == "RGB" and largest is not None and largest > 255:
            name = getattr(image, "filename", "")
            raise InputError(f"the image {name} is a PPM of more than 8 bits, which is not read; save it as a PNG")
    if mode.startswith("I;16"):
        return "uint16", 65535
    if mode == "I":
        bits = image.tag_v2.get(BITS, (32,))[0] if isinstance(image, TiffImageFile) else 32
        return f"int{bits}", None
    return ("float32", None) if mode == "F" else ("uint8", 255)


def _ppm_largest(image: Image.Image) -> float | None:
    arguments = _decoder_arguments(image)
    return float(arguments[1]) if len(arguments) == 2 else None


def _picture_values(path: Path) -> np.ndarray:
    if _needs_tifffile(path):
        return _tiff_values(path)
    with Image.open(path) as image:
        orientation = _orientation(image)
        kind, largest = _kind_of(image)
        if kind == "uint16" and not image.mode.startswith("I"):  # Pillow would round colours of 16 bits to 8
            return _upright(_colours_of_16_bits(path), orientation)
        if kind == "uint8":
            image = image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
        values = np.asarray(image)
        if image.format == "PPM" and image.mode == "I":  # which Pillow stretches to 16 bits
            values = np.rint(values * ((largest or 65535) / 65535))
    return _upright(values[None] if values.ndim == 2 else np.moveaxis(values, -1, 0), orientation)


def _colours_of_16_bits(path: Path) -> np.ndarray:
    from torchvision.io import ImageReadMode, decode_image

    values = decode_image(str(path), mode=ImageReadMode.UNCHANGED).numpy()
    return values[: 1 if len(values) < 3 else 3]  # transparency is dropped


def _needs_tifffile(path: Path) -> bool:
    """Whether Pillow does not read a TIFF file as it is. These are values other than its own types, a negative of more
    than 8 bits, and an image that does not lie upright (Pillow 13 opens some of those scrambled)."""
    if path.suffix.lower() not in (".tif", ".tiff"):
        return False
    with open(path, "rb") as file:
        if file.read(2) not in (b"II", b"MM"):
            return False  # no TIFF at all: Pillow will raise
    try:
        with Image.open(path) as image:
            if not isinstance(image, TiffImageFile):
                return False
            tags = image.tag_v2
            bits = max(tags.get(BITS, (1,)))
            kind = max(tags.get(SAMPLE_FORMAT, (1,)))
            if tags.get(ORIENTATION, 1) != 1 or (bits > 8 and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO):
                return True
            is_of_pillow = image.mode == "F" or image.mode.startswith("I;16") or (image.mode == "I" and kind == 2)
            return kind != 1 if bits <= 8 else not is_of_pillow
    except Exception:  # types that Pillow does not know
        return True


def _tiff_values(path: Path) -> np.ndarray:
    """``[C, H, W]`` of a TIFF file, by tifffile, upright."""
    with open_tiff(path) as file:
        if len(file.pages) != 1:
            raise InputError(f"the image {path} holds {len(file.pages)} pictures; save each as a file")
        page = file.pages[0]
        values = page.asarray()
        axes = page.axes
        photometric = int(page.photometric)
        orientation = page.tags.valueof(ORIENTATION, default=1)
    if axes == "YXS":
        values = np.moveaxis(values, -1, 0)
    elif axes == "YX":
        values = values[None]
    if axes not in ("YX", "YXS", "SYX") or len(values) not in (1, 3) or photometric > RGB:
        raise InputError(f"the image {path} holds an array {list(values.shape)}: save a gray or an RGB image")
    if photometric == WHITE_IS_ZERO and values.dtype.kind == "u":
        values = np.iinfo(values.dtype).max - values
    return _upright(values, int(orientation))


# ---- arrays -------------------------------------------------------------------------------------------------------


def _image_in(path: Path) -> FileArray:
    """The image of an array file, ``[H, W]`` or ``[C, H, W]``."""
    array = FileArray(path, NAMES, "image")
    shape = list(array.shape)
    if array.dtype.kind == "c" or 0 in shape:
        raise InputError(f"the image {path} must hold real numbers, got {array.dtype} {shape}")
    if len(shape) == 3 and shape[0] > 4 >= shape[2]:
        raise InputError(f"the image {path} must have shape [C, H, W], got {shape}; move the channels to the front")
    if len(shape) not in (2, 3):
        raise InputError(f"the image {path} must have shape [H, W] or [C, H, W], got {shape}")
    return array


def largest_of(dtype: np.dtype) -> float | None:
    """The largest value of a type whose range is that of images: unsigned, of 8 or 16 bit (or a truth value)."""
    return {"bool": 1.0, "uint8": 255.0, "uint16": 65535.0}.get(dtype.name)


def _array_header(path: Path) -> Header:
    array = _image_in(path)
    channels, height, width = (1, *array.shape)[-3:]
    return Header(channels, height, width, kind=array.dtype.name, largest=largest_of(array.dtype))


def _array_values(path: Path) -> np.ndarray:
    values = np.array(_image_in(path)[...])
    return values[None] if values.ndim == 2 else values


# ---- DICOM --------------------------------------------------------------------------------------------------------


def _dicom(path: Path, **options: Any) -> Any:
    dataset = import_extra("pydicom", "dicom", str(path)).dcmread(path, **options)
    if int(dataset.get("NumberOfFrames") or 1) > 1 or int(dataset.get("SamplesPerPixel") or 1) > 1:
        raise InputError(f"the image {path} holds several frames or colours; save each as a gray image")
    if "ModalityLUTSequence" in dataset:
        raise InputError(f"the image {path} maps its values by a table (ModalityLUTSequence), which is not read")
    return dataset


def _dicom_header(path: Path) -> Header:
    dataset = _dicom(path, stop_before_pixels=True)
    return Header(1, int(dataset.Rows), int(dataset.Columns), kind="DICOM", largest=None)


def _dicom_values(path: Path) -> np.ndarray:
    """The values as a viewer shows them: those of MONOCHROME1, whose largest is black, are inverted, unless they are
    Hounsfield units, which mean the same either way."""
    dataset = _dicom(path)
    pixels = dataset.pixel_array.astype(np.float64)
    shown_as = (dataset.get("PhotometricInterpretation"), dataset.get("PresentationLUTShape"))
    is_inverted = shown_as[0] == "MONOCHROME1" or shown_as[1] == "INVERSE"
    if is_inverted and dataset.get("RescaleType") != "HU":
        is_signed = int(dataset.get("PixelRepresentation") or 0) == 1
        pixels = (-1 if is_signed else 2 ** int(dataset.BitsStored) - 1) - pixels
    slope, intercept = (dataset.get(name) for name in ("RescaleSlope", "RescaleIntercept"))
    return (pixels * float(1 if slope is None else slope) + float(intercept or 0))[None]
