"""Files: written atomically, read without ever running code from them."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import re
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from ei.common.numpy_in_files import numbers_of_numpy, plain
from ei.errors import InputError, MissingFileError, StorageError

TEMPORARY = ".tmp"


def natural_order(name: str) -> tuple[list[str | int], str]:
    """A key to sort names by: numbers in them by their value, so that y_2 comes before y_10."""
    parts: list[str | int] = list(re.split(r"([0-9]+)", name))  # text and digits in turn
    parts[1::2] = [int(part) for part in parts[1::2]]
    return parts, name


def check_path(name: str, value: Any) -> Path:
    """``value`` as a path.

    Raises:
        InputError: ``{name} must be a path, got 5``.
    """
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise InputError(f"{name} must be a path, got {value!r}")
    return Path(value)


def load_file(
    path: str | os.PathLike, what: str = "file", device: torch.device | str = "cpu", mmap: bool = False
) -> Any:
    """Load what `torch.save` wrote, with ``weights_only=True``. Numbers and arrays of NumPy come as plain numbers and
    tensors, with a warning.

    Args:
        path: the file.
        what: what the file is to the user ("checkpoint", "mask"), for error messages.
        device: where tensors go, wherever they were saved.
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
                return torch.load(path, map_location=device, weights_only=True, mmap=mmap)
            except pickle.UnpicklingError as error:
                if "numpy" not in str(error):
                    raise
            with numbers_of_numpy():
                content = plain(torch.load(path, map_location=device, weights_only=True))
        warnings.warn(
            f"the {what} {path} holds numbers of NumPy: they were read as plain numbers and tensors", stacklevel=2
        )
        return content
    except pickle.UnpicklingError as error:
        culprit = re.search(r"(?:Unsupported (?:global|class): (?:GLOBAL )?|Trying to call )([\w.]+)", str(error))
        if culprit:
            raise InputError(
                f"the {what} {path} was rejected: it holds a {culprit[1]}, and unpickling it could run code. Save it "
                "again with tensors and plain values only, from a program you trust"
            ) from error
        raise InputError(f"the {what} {path} is damaged or was not written by torch.save; get it again") from error
    except InputError:
        raise
    except PermissionError as error:
        raise InputError(f"the {what} {path} cannot be read: permission denied") from error
    except Exception as error:  # what zipfile and torch.load raise for foreign bytes depends on the bytes
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
    write_atomically(path, buffer.getbuffer(), previous)


def write_atomically(path: str | os.PathLike, content: bytes | memoryview, previous: Path | None = None) -> None:
    """Write ``content`` so that ``path`` holds either the old bytes or all of the new ones, whatever happens. There is
    a whole file under its name at any moment; the old one is kept as ``previous``, if that is given.

    Raises:
        StorageError: if it cannot be written (a full disk, a missing permission); the old file is as it was.
    """
    path = Path(path)
    with writing(path):
        temporary = temporary_beside(path)
        try:
            temporary.write_bytes(content)
            complete_file(temporary, path, previous)
        finally:
            temporary.unlink(missing_ok=True)


def temporary_beside(path: Path) -> Path:
    """A new empty file beside ``path``, to be written and then put in its place by `complete_file`."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY)
    os.close(handle)
    return Path(temporary)


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


@contextlib.contextmanager
def complete_folder(path: Path) -> Iterator[Path]:
    """A folder to fill that becomes ``path`` when it is complete; if anything is raised, nothing is left of it.

    Raises:
        StorageError: if it cannot be written.
    """
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
def writing(path: Path) -> Iterator[None]:
    """Turn an error of the file system in a ``with`` block into a `StorageError` about ``path``."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path} could not be written: {error.strerror or error}. Files written before are whole; make room, then "
            "continue with --resume auto"
        ) from error


def remove_temporaries(folder: Path) -> None:
    """Remove what a killed process left half written in ``folder``."""
    for path in folder.glob(f".*{TEMPORARY}"):
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


class _Loader(yaml.SafeLoader):
    """YAML whose numbers are those of version 1.2: 1e1 and 5e-4 are numbers, 010 is ten; a key must not come twice."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":int", ":float"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in keys:
                line = key.start_mark.line + 1
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} comes twice (line {line})")
            keys.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        text = self.construct_scalar(node)
        return int(text, 0 if re.match("[-+]?0[box]", text) else 10)


_FLOAT = r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
_INT = r"[-+]?(?:0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)"
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(f"(?:{_INT})$"), [*"-+0123456789"])
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"(?:{_FLOAT})$"), [*"-+0123456789."])
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_integer)


def parse_yaml(text: str) -> Any:
    """The value of a text in YAML, with the numbers of YAML 1.2.

    Raises:
        InputError: in one line, if it is no YAML, or has a key twice.

    >>> parse_yaml("{step: 1e1, count: 010}")
    {'step': 10.0, 'count': 10}
    """
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(" ".join(str(error).split())) from error


def read_yaml(path: str | os.PathLike) -> dict[str, Any]:
    """A YAML file's mapping (`parse_yaml`).

    Raises:
        InputError: if it cannot be read, has a key twice, or holds something else.
    """
    if not Path(path).exists():
        raise MissingFileError(f"there is no configuration file {path}; check the path")
    if Path(path).is_dir():
        raise InputError(f"the configuration file {path} is a folder; give the path of a file in it")
    try:
        content = parse_yaml(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"the configuration file {path} cannot be read: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(f"the configuration file {path} must hold lines 'option: value'")
    return content
