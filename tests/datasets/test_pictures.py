"""Image files of all kinds: read exactly, or rejected in a line."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from makers import dicom
from PIL import Image

from ei.datasets import (
    ImageTree,
)
from ei.errors import InputError

RNG = np.random.default_rng(0)


DEEP = RNG.integers(0, 65536, (10, 8, 3), dtype=np.uint16)


def one(folder: Path, name: str, **options: Any) -> ImageTree:
    """One of the images of a folder."""
    (folder / "list.txt").write_text(name)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* are left out")
        return ImageTree(folder, "test", split=folder / "list.txt", **options)


def deep_png(path: Path, values: np.ndarray, colour_type: int) -> None:
    """A PNG of 16 bits: Pillow writes none of them in colour."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = values.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def write_image(path: Path, values: np.ndarray) -> None:
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".npz":
        np.savez(path, x=values, other=np.zeros(2))
    elif path.suffix in (".tif", ".tiff"):
        tifffile = pytest.importorskip("tifffile")
        tifffile.imwrite(path, values, photometric="rgb" if values.ndim == 3 else "minisblack")
    elif path.suffix == ".png" and values.dtype == np.uint16:
        deep_png(path, values, 2 if values.ndim == 3 else 0)
    else:
        Image.fromarray(values).save(path)


@pytest.mark.parametrize("ending", [".png", ".tif", ".npy", ".npz", ".pgm"])
def test_16_bits_are_read_at_full_precision(tmp_path: Path, ending: str) -> None:
    write_image(tmp_path / f"x{ending}", DEEP[..., 0])
    expected = torch.from_numpy(DEEP[..., 0] / 65535).float()[None]
    assert torch.equal(ImageTree(tmp_path, "all")[0], expected)
    low, high = 1000, 1000 + 4095
    below, above = (DEEP[..., 0] < low).sum(), (DEEP[..., 0] > high).sum()
    message = rf"of 80 values .* {below} lie below and {above} above value_range \[1000, 5095\]"
    with pytest.warns(UserWarning, match=message):
        inside = ImageTree(tmp_path, "all", value_range=(low, high))[0]
    np.testing.assert_allclose(inside[0], ((DEEP[..., 0] - 1000.0) / 4095).clip(0, 1), atol=1e-6)


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_colours_of_16_bits(tmp_path: Path, ending: str) -> None:
    write_image(tmp_path / f"x{ending}", DEEP)
    expected = torch.from_numpy(np.moveaxis(DEEP / 65535, -1, 0)).float()
    assert torch.equal(ImageTree(tmp_path, "all")[0], expected)
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    torch.testing.assert_close(ImageTree(tmp_path, "all", gray=True)[0], (weights * expected).sum(0, keepdim=True))


def test_transparency_of_16_bits_is_dropped(tmp_path: Path) -> None:
    deep_png(tmp_path / "x.png", DEEP[..., :2], 4)
    assert torch.equal(ImageTree(tmp_path, "all")[0], torch.from_numpy(DEEP[..., 0] / 65535).float()[None])


def test_12_bits_in_16(tmp_path: Path) -> None:
    """What the detector gives is printed, and --range makes [0, 1] of it, all levels different."""
    ramp = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    write_image(tmp_path / "x.png", ramp)
    with pytest.warns(UserWarning, match=r"up to 4095 of 65535.* set value_range to \[0, 4095\]"):
        ImageTree(tmp_path, "all")
    (tmp_path / "y.pgm").write_bytes(b"P5\n64 64\n4095\n" + ramp.astype(">u2").tobytes())
    tree = ImageTree(tmp_path, "all", value_range=(0, 4095))
    for image in tree:
        assert len(image.unique()) == 4096 and torch.equal(image[0], torch.from_numpy(ramp / 4095).float())
    assert torch.equal(one(tmp_path, "y.pgm")[0], tree[1])  # this format tells its largest value


SIGNED = {
    "int16.tif": RNG.integers(-1024, 3072, (8, 6)).astype(np.int16),
    "int32.tif": RNG.integers(-(2**30), 2**30, (8, 6)).astype(np.int32),
    "uint32.tif": RNG.integers(0, 2**32, (8, 6)).astype(np.uint32),
    "int8.tif": RNG.integers(-128, 128, (8, 6)).astype(np.int8),
    "float32.tif": RNG.normal(size=(8, 6)).astype(np.float32),
    "float64.tif": RNG.normal(size=(8, 6)),
    "float16.tiff": RNG.normal(size=(8, 6)).astype(np.float16),
    "float32.npy": RNG.normal(size=(8, 6)).astype(np.float32),
    "int64.npz": RNG.integers(-(2**40), 2**40, (8, 6)),
    "channels.npy": RNG.normal(size=(2, 8, 6)),
}


@pytest.mark.parametrize("name", SIGNED)
def test_other_types_need_a_range(tmp_path: Path, name: str) -> None:
    values = SIGNED[name]
    write_image(tmp_path / name, values)
    low, high = float(values.min()), float(values.max())
    with pytest.raises(InputError) as error:
        ImageTree(tmp_path, "all")
    assert f"{values.dtype} values, from {low:.6g} to {high:.6g}" in str(error.value), error.value
    assert "value_range to [LOW, HIGH]" in str(error.value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = ImageTree(tmp_path, "all", value_range=(low, high))[0].numpy()
    assert image.dtype == np.float32 and image.shape == (len(values) if values.ndim == 3 else 1, 8, 6)
    np.testing.assert_allclose(image.squeeze(), (values.astype(float) - low) / (high - low), atol=1e-7)
    with pytest.raises(InputError, match="LOW below HIGH"):
        ImageTree(tmp_path, "all", value_range=(3, 3))


def test_dicom_is_read_in_its_units(tmp_path: Path) -> None:
    """Slope and intercept make HU of what is stored; a window maps them to [0, 1]."""
    pydicom = pytest.importorskip("pydicom")
    stored = RNG.integers(0, 4096, (12, 10), dtype=np.uint16)
    hounsfield = stored * 0.5 - 1024
    for number in (2, 10):
        path = tmp_path / f"slice_{number}.dcm"
        path.write_bytes(dicom(stored))
        dataset = pydicom.dcmread(path)
        dataset.RescaleSlope, dataset.RescaleIntercept = "0.5", "-1024"
        dataset.save_as(path)
    with pytest.raises(InputError, match=f"DICOM values, from {hounsfield.min():.6g} to {hounsfield.max():.6g}"):
        ImageTree(tmp_path, "all")
    with pytest.warns(UserWarning, match="clipped"):
        tree = ImageTree(tmp_path, "all", value_range=(-1000, 400))
    np.testing.assert_allclose(tree[1][0], ((hounsfield + 1000) / 1400).clip(0, 1), atol=1e-6)


def test_sizes_of_exact_images(tmp_path: Path) -> None:
    """Crop and resize are those of 8-bit pictures, without their rounding."""
    values = RNG.integers(0, 256, (24, 20), dtype=np.uint8)
    for name in ("common", "exact"):
        (tmp_path / name).mkdir()
    Image.fromarray(values).save(tmp_path / "common" / "x.png")
    np.save(tmp_path / "exact" / "x.npy", values.astype(np.uint16) * 257)
    common, exact = (ImageTree(tmp_path / name, "all", crop=18, resize=7)[0] for name in ("common", "exact"))
    assert common.shape == exact.shape == (1, 7, 7)
    assert 0 < float((common - exact).abs().max()) <= 1.01 / 255  # rows and columns are rounded in turn
    ranged = ImageTree(tmp_path / "common", "all", value_range=(0, 255))[0]
    assert torch.equal(ranged, ImageTree(tmp_path / "common", "all")[0])


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    values = np.zeros((16, 24, 3), np.uint8)
    values[:8, :8] = 255  # the upper left corner as it is stored
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    for name in ("x.jpg", "x.png"):
        Image.fromarray(values).save(tmp_path / name, exif=exif)
    for image in (one(tmp_path, name)[0] for name in ("x.jpg", "x.png")):
        assert image.shape == (3, 24, 16)
        assert float(image[:, :6, 10:].min()) > 0.9 and float(image[:, :, :6].max()) < 0.1
    with pytest.raises(InputError, match="24 x 16 pixels, smaller than the crop of 20"):
        ImageTree(tmp_path, "all", crop=20)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("pages.tif", np.zeros((3, 8, 8), np.uint16), "3 pictures"),
        ("last.npy", np.zeros((8, 9, 3)), "move the channels"),
        ("four.npy", np.zeros((1, 1, 8, 8)), r"\[1, 1, 8, 8\]"),
        ("text.npy", np.full((8, 8), "a"), "must hold numbers"),
        ("complex.npy", np.zeros((8, 8), complex), "real numbers"),
        ("nan.npy", np.full((8, 8), np.nan), "not finite"),
        ("wide.ppm", None, "more than 8 bits"),
        ("cut.npy", None, "cannot be read"),
        ("cut.tif", None, "cannot be read"),
        ("cut.dcm", None, "cannot be read"),
    ],
)
def test_images_that_are_refused(tmp_path: Path, name: str, values: np.ndarray | None, message: str) -> None:
    path = tmp_path / name
    if name == "wide.ppm":
        path.write_bytes(b"P6\n8 10\n4095\n" + (DEEP >> 4).astype(">u2").tobytes())
    elif values is None:
        path.write_bytes(b"\x93NUMPY" if name == "cut.npy" else b"II*\0abc")
    elif name == "pages.tif":
        pytest.importorskip("tifffile").imwrite(path, values, photometric="minisblack")
    else:
        np.save(path, values)
    with pytest.raises(InputError, match=message) as error:
        ImageTree(tmp_path, "all", value_range=(0, 1))
    assert name in str(error.value)


STORED = {  # how an image is stored that is to be turned and mirrored by EXIF's numbers
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.T,
    6: lambda x: np.rot90(x),
    7: lambda x: x[::-1, ::-1].T,
    8: lambda x: np.rot90(x, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64, np.int8])
def test_the_orientation_of_tiff_is_applied_once(tmp_path: Path, orientation: int, dtype: type) -> None:
    """By Pillow it was applied twice, or to rows of a wrong length, and by tifffile not at all."""
    tifffile = pytest.importorskip("tifffile")
    upright = np.arange(60).reshape(6, 10).astype(dtype)
    stored = np.ascontiguousarray(STORED[orientation](upright))
    tags = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "x.tif", stored, photometric="minisblack", extratags=tags)
    image = ImageTree(tmp_path, value_range=(0, 100))[0]
    np.testing.assert_allclose(image[0], upright / 100, atol=1e-6)
    if dtype == np.uint8:
        np.testing.assert_allclose(ImageTree(tmp_path)[0][0], upright / 255, atol=1e-6)
        assert ImageTree(tmp_path, crop=6)[0].shape == (1, 6, 6)


@pytest.mark.parametrize("ending", [".jpg", ".png"])
@pytest.mark.parametrize("orientation", STORED)
def test_the_orientation_of_other_pictures(tmp_path: Path, orientation: int, ending: str) -> None:
    upright = (np.add.outer(np.arange(32), 3 * np.arange(48)) + 20).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](upright))
    Image.fromarray(stored).save(tmp_path / f"x{ending}", exif=exif, **({"quality": 100} if ending == ".jpg" else {}))
    for options in ({}, {"value_range": (0, 255)}):  # by Pillow, and exactly
        np.testing.assert_allclose(ImageTree(tmp_path, **options)[0][0], upright / 255, atol=4 / 255)


@pytest.mark.parametrize(
    ("settings", "is_inverted"),
    [
        ({}, False),
        ({"PhotometricInterpretation": "MONOCHROME1"}, True),
        ({"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"}, True),
        ({"PhotometricInterpretation": "MONOCHROME1", "RescaleType": "HU"}, False),
    ],
)
@pytest.mark.parametrize("signed", [False, True])
def test_dicom_whose_largest_value_is_black(tmp_path: Path, settings: dict, is_inverted: bool, signed: bool) -> None:
    """As a viewer shows it, but for Hounsfield units."""
    pydicom = pytest.importorskip("pydicom")
    stored = RNG.integers(-2048 if signed else 0, 2048 if signed else 4096, (12, 10)).astype(np.int16)
    (tmp_path / "x.dcm").write_bytes(dicom(stored))
    dataset = pydicom.dcmread(tmp_path / "x.dcm")
    settings = {"PixelRepresentation": int(signed), "BitsStored": 12, "HighBit": 11, "RescaleSlope": 2, **settings}
    for name, value in settings.items():
        setattr(dataset, name, value)
    dataset.save_as(tmp_path / "x.dcm")
    shown = (-1 if signed else 4095) - stored if is_inverted else stored
    np.testing.assert_allclose(
        ImageTree(tmp_path, value_range=(-5000, 9000))[0][0], (2 * shown + 5000) / 14000, atol=1e-5
    )


def test_a_negative_of_16_bits(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "x.tif", 65535 - DEEP[..., 0], photometric="miniswhite")
    assert torch.equal(ImageTree(tmp_path)[0][0], torch.from_numpy(DEEP[..., 0] / 65535).float())
