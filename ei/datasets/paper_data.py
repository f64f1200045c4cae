"""The paper's data from what can be fetched by hand: 100 DICOM slices, and Urban100's images."""

from __future__ import annotations

import functools
import io
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ei.common.arrays import import_extra
from ei.common.files import complete_folder, write_atomically, writing
from ei.datasets.stack import CT_KEY
from ei.errors import InputError, MissingFileError
from ei.metrics import psnr
from ei.physics import CT

Read = Callable[[], bytes]
SIDE = 128


@contextmanager
def files_of(source: Path, suffixes: tuple[str, ...]) -> Iterator[dict[str, Read]]:
    """The files of a folder tree or a ZIP with one of the ``suffixes``: names (without folders) and how to read them,
    sorted by name. Nothing is unpacked to the disk. Raises `InputError` for a ZIP that would unpack outside its folder,
    or a name that comes twice."""
    if not source.exists():
        raise MissingFileError(f"there is no folder or archive {source}; check the path")
    if source.is_dir():
        paths = [path for path in source.rglob("*") if path.suffix.lower() in suffixes and path.is_file()]
        yield _by_name(source, [(path.name, path.read_bytes) for path in paths])
        return
    try:
        archive = zipfile.ZipFile(source)
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"{source} is no folder and no ZIP archive ({error})") from error
    with archive:
        members: list[tuple[str, Read]] = []
        for member in archive.infolist():
            place = PurePosixPath(member.filename.replace("\\", "/"))
            if place.is_absolute() or ".." in place.parts or re.match(r"[A-Za-z]:", member.filename):
                raise InputError(
                    f"{source} was rejected: it would unpack {member.filename!r} outside its folder; get it from "
                    "a source you trust"
                )
            hidden = any(part.startswith((".", "__MACOSX")) for part in place.parts)
            if place.suffix.lower() in suffixes and not member.is_dir() and not hidden:
                members.append((place.name, functools.partial(archive.read, member)))
        yield _by_name(source, members)


def _by_name(source: Path, files: list[tuple[str, Read]]) -> dict[str, Read]:
    by_name = dict(sorted(files))
    if len(by_name) != len(files):
        raise InputError(f"{source} holds files of the same name in several folders; give the folder of one set")
    return by_name


def imresize_matrix(n_in: int, n_out: int) -> np.ndarray:
    """The ``[n_out, n_in]`` matrix of Matlab's antialiased bicubic ``imresize`` along one axis (a = -1/2, symmetric
    border, Keys 1981): where it shrinks, the kernel is widened by the same factor."""
    scale = n_out / n_in
    stretch = min(scale, 1.0)
    centre = (np.arange(n_out) + 0.5) / scale - 0.5
    reach = 2 / stretch
    tap = np.floor(centre - reach)[:, None] + np.arange(int(np.ceil(2 * reach)) + 2)
    t = np.abs(stretch * (tap - centre[:, None]))
    weight = np.where(t <= 1, 1.5 * t**3 - 2.5 * t**2 + 1, np.where(t <= 2, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2, 0))
    weight /= weight.sum(axis=1, keepdims=True)
    place = np.mod(tap, 2 * n_in).astype(int)
    place = np.minimum(place, 2 * n_in - 1 - place)
    matrix = np.zeros((n_out, n_in))
    np.add.at(matrix, (np.arange(n_out)[:, None], place), weight)
    return matrix


def prepare_ct100(source: Path, out: Path) -> float:
    """Write ``out`` from the 100 DICOM slices: in the order of their names, 512 x 512 to 128 x 128, each slice scaled
    to [0, 1].

    Returns:
        The mean PSNR of the FBP of 50 views over the test slices (the paper's: 30.24 dB).
    """
    pydicom = import_extra("pydicom", "dicom", "ct100")
    import scipy.io

    with files_of(source, (".dcm",)) as files:
        wanted = [f"ID_{number:04d}_" for number in range(100)]
        missing = [start for start in wanted if sum(name.startswith(start) for name in files) != 1]
        if missing or len(files) != 100:
            raise InputError(
                f"{source} is not CT100: 100 files ID_0000_...dcm to ID_0099_...dcm are needed, it has {len(files)}"
                + (f" and not one {missing[0]}..." if missing else "")
            )
        slices = []
        for name, read in tqdm(files.items(), unit="slice"):
            try:
                pixels = pydicom.dcmread(io.BytesIO(read())).pixel_array.astype(np.float64)
            except Exception as error:  # pydicom raises whatever the bytes lead it to
                raise InputError(f"{name} in {source} cannot be read ({error}); get it again") from error
            if pixels.ndim != 2:
                raise InputError(f"{name} in {source} is no single slice: {list(pixels.shape)}")
            small = imresize_matrix(pixels.shape[0], SIDE) @ pixels @ imresize_matrix(pixels.shape[1], SIDE).T
            slices.append((small - small.min()) / (small.max() - small.min()))
    buffer = io.BytesIO()
    images = np.stack(slices).astype(np.float32)
    scipy.io.savemat(buffer, {CT_KEY: images}, do_compression=True)
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, buffer.getvalue())
    physics, x = CT(SIDE, 50), torch.from_numpy(images[90:])[:, None]
    return float(psnr(physics.A_dagger(physics.A(x)), x).mean())


def prepare_urban100(source: Path, out: Path) -> None:
    """Write ``out/{train/train,test/test}/img_*.png``: the first 90 images train, the last 10 test, as in the paper.
    Raises `InputError` for a source that is not 100 images img_001 to img_100, each of which opens."""
    if out.exists():
        raise InputError(f"{out} exists already; move it away, or give another --out")
    with files_of(source, (".png",)) as files:
        numbers = {name: int(match[1]) for name in files if (match := re.match(r"img_(\d+)", name))}
        if sorted(numbers.values()) != list(range(1, 101)):
            raise InputError(
                f"{source} is not Urban100: one file each img_001*.png to img_100*.png is needed, it has {len(numbers)}"
            )
        with complete_folder(out) as unfinished:
            for name, number in tqdm(numbers.items(), unit="image"):
                content = files[name]()
                try:
                    with Image.open(io.BytesIO(content)) as image:
                        image.load()
                except (OSError, ValueError, SyntaxError) as error:
                    raise InputError(f"{name} in {source} cannot be opened ({error}); get it again") from error
                mode = "train" if number <= 90 else "test"
                folder = unfinished / mode / mode
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"img_{number:03d}.png").write_bytes(content)
