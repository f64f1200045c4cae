"""Files: written atomically, read without ever running code from them."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import io
import os
import pickle
import re
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ei.common.numpy_in_files import numbers_of_numpy, plain
from ei.errors import InputError, MissingFileError, StorageError

TEMPORARY = ".tmp"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
AGAIN = "Make room, then give the same command again"
CONTINUE = "Files written before are whole; make room, then continue with --resume auto"


def natural_order(name: str) -> tuple[list[str | int], str]:
    """A key to sort names by: numbers in them by their value, so that y_2 comes before y_10."""
    parts: list[str | int] = list(re.split(r"([0-9]+)", name))  # text and digits in turn
    parts[1::2] = [int(part) for part in parts[1::2]]
    return parts, name


def check_path(name: str, value: Any) -> Path:
    """``value`` as a path; raises `InputError` for anything else."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise InputError(f"{name} must be a path, got {value!r}")
    return Path(value)


def load_file(path: str | os.PathLike, what: str = "file", mmap: bool = False) -> Any:
    """Load what `torch.save` wrote to the CPU, with ``weights_only=True``. Numbers and arrays of NumPy come as plain
    numbers and tensors, with a warning.

    Args:
        what: what the file is to the user ("checkpoint", "mask"), for error messages.
        mmap: read tensors when they are used, where the file allows it; its checksums are then not compared.

    Raises:
        MissingFileError: if there is no such file.
        InputError: if it is a folder, damaged, no such file type, or would run code when unpickled.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"the {what} {path} is a folder; give the path of a file in it")
    if not path.exists():
        raise MissingFileError(f"there is no {what} {path}; check the path")
    try:
        mmap = mmap and zipfile.is_zipfile(path)
        if not mmap:
            _compare_checksums(path, what)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle protocol of files from elsewhere
            try:
                return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
            except pickle.UnpicklingError as error:
                if "numpy" not in str(error):
                    raise
            with numbers_of_numpy():
                content = plain(torch.load(path, map_location="cpu", weights_only=True))
        warnings.warn(
            f"the {what} {path} holds numbers of NumPy: they were read as plain numbers and tensors", stacklevel=2
        )
        return content
    except InputError:
        raise
    except PermissionError as error:
        raise InputError(f"the {what} {path} cannot be read: permission denied") from error
    except Exception as error:  # what zipfile and torch.load raise for other bytes depends on the bytes
        culprit = re.search(r"(?:Unsupported (?:global|class): (?:GLOBAL )?|Trying to call )([\w.]+)", str(error))
        if culprit and isinstance(error, pickle.UnpicklingError):
            advice = "could run code: save it again with tensors and plain values only"
            raise InputError(f"the {what} {path} was rejected: it holds a {culprit[1]}, which {advice}") from error
        raise InputError(f"the {what} {path} is damaged or was not written by torch.save; get it again") from error


def _compare_checksums(path: Path, what: str) -> None:
    """torch does not compare the checksums of its archives: bytes that changed on a disk would become weights."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                raise InputError(f"the {what} {path} is damaged (a checksum does not fit); get it again")


def save_file(content: Any, path: str | os.PathLike, previous: Path | None = None) -> None:
    """Write ``content`` so that ``path`` holds either the old bytes or all of the new ones, never a part.

    Equal contents give equal bytes, whatever objects they share and whatever ``path`` is. Tensors are written as on
    the CPU. The old file is kept as ``previous``, if that is given.

    Raises:
        StorageError: if it cannot be written; the old file is as it was.
        TypeError: if there is anything but tensors, numbers, str, bool, None, list, tuple and dict in ``content``.
    """
    # Serialised in memory first: torch reports a full disk as an inconsistency of its own archive.
    buffer = io.BytesIO()
    torch.save(_plain(content, {}), buffer)
    write_atomically(path, buffer.getbuffer(), previous, CONTINUE)


def write_atomically(
    path: str | os.PathLike, content: bytes | memoryview, previous: Path | None = None, advice: str = AGAIN
) -> None:
    """Write ``content`` so that ``path`` holds either the old bytes or all of the new ones, whatever happens. There is
    a whole file under its name at any moment; the old one is kept as ``previous``, if that is given. An error ends with
    the advice.

    Raises:
        StorageError: if it cannot be written (a full disk, a missing permission); the old file is as it was.
    """
    path = Path(path)
    with writing(path, advice), replacing(path, previous) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def replacing(path: Path, previous: Path | None = None) -> Iterator[Path]:
    """A new empty file, to be written in a ``with`` block, at whose end it takes the place of ``path``; if anything is
    raised, nothing is left of it. The old file is kept as ``previous``, if that is given."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        complete_file(temporary, path, previous)
    finally:
        temporary.unlink(missing_ok=True)


def complete_file(temporary: Path, path: Path, previous: Path | None = None) -> None:
    """Put a complete file in the place of ``path``, whose old file is kept as ``previous``, if that is given."""
    with open(temporary, "r+b") as file:
        os.fsync(file.fileno())
    umask = os.umask(0)
    os.umask(umask)
    temporary.chmod(0o666 & ~umask)
    if previous is not None and path.exists():
        _copy_name(path, previous)
    os.replace(temporary, path)
    _flush_folder(path.parent)


def identity_of(paths: Iterable[Path]) -> str:
    """A hash of the names, sizes and times of files, and of those in folders: another one means that a file was
    replaced or changed."""
    digest = hashlib.sha256()
    # A folder's own time stays when a file in it is written over.
    files = (file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path]))
    for path in files:
        status = path.stat()
        digest.update(f"{path.absolute()}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def check_not_read(option: str, written: Path, sources: Iterable[str | os.PathLike]) -> None:
    """Raise `InputError` if the file that ``option`` names would replace one of the files that are read, or become one
    of those in a folder that is."""
    for source in map(Path, sources):
        if source.resolve() == written.resolve():
            raise InputError(f"{option} would overwrite {source}, which is read; choose another {option}")
        if source.resolve() == written.resolve().parent:
            raise InputError(f"{option} would write {written} into the folder {source}, which is read; choose another")


@contextlib.contextmanager
def complete_folder(path: Path) -> Iterator[Path]:
    """A folder to fill that becomes ``path`` when it is complete; if anything is raised, nothing is left of it."""
    temporary = path.with_name(f".{path.name}{TEMPORARY}")
    with writing(path):
        shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
        try:
            temporary.mkdir(parents=True)
            yield temporary
            temporary.replace(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _copy_name(path: Path, other: Path) -> None:
    """Make ``other`` the same file as ``path``, which keeps its name."""
    link = other.with_name(f".{other.name}.{os.getpid()}{TEMPORARY}")
    try:
        os.link(path, link)
    except OSError:  # a file system without hard links: for a moment there is no file under the name of path
        os.replace(path, other)
    else:
        os.replace(link, other)


def _flush_folder(folder: Path) -> None:
    """Have the new names in ``folder`` on the disk, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def writing(path: Path, advice: str = AGAIN) -> Iterator[None]:
    """Turn an error of the file system in a ``with`` block into a `StorageError` about ``path``, which ends with an
    advice, for a full disk "make room"."""
    try:
        yield
    except OSError as error:
        if error.errno not in (*FULL, None):  # NumPy gives no number
            advice = re.sub("make room", "correct that", advice, flags=re.IGNORECASE)
            advice = advice[0].upper() + advice[1:]
        raise StorageError(f"{path} could not be written: {error.strerror or error}. {advice}") from error


def remove_temporaries(folder: Path, name: str = "*") -> None:
    """Remove what a killed process left half written in ``folder``: of all files, or of the one of this name."""
    for path in folder.glob(f".{name if name == '*' else glob.escape(name) + '.*'}{TEMPORARY}"):
        path.unlink(missing_ok=True)


def _plain(content: Any, strings: dict[str, str]) -> Any:
    """A copy in which containers are fresh and equal strings are one object, because pickle writes a second reference
    to an object differently from an equal one."""
    if isinstance(content, torch.Tensor):
        return content.detach().cpu()
    if type(content) is str:
        return strings.setdefault(content, content)
    if content is None or type(content) in (int, float, bool):
        return content
    if isinstance(content, np.number | np.bool_):  # as a learning rate out of np.logspace is
        return content.item()
    if isinstance(content, Mapping):
        return {_plain(key, strings): _plain(value, strings) for key, value in content.items()}
    if type(content) in (list, tuple):
        return type(content)(_plain(entry, strings) for entry in content)
    raise TypeError(f"a checkpoint may not hold a {type(content).__name__}: it could not be loaded safely")
