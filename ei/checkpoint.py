"""Files of tensors: written atomically, read without ever running code from them."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import re
import shutil
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ei.errors import InputError, MissingFileError, StorageError

LAST, LAST_BUT_ONE, BEST = "ckp_last.pth.tar", "ckp_last-1.pth.tar", "ckp_best.pth.tar"
TEMPORARY = ".tmp"
AVERAGED = "state_dict_averaged"
FIFTH_LEVEL = ("Conv5.", "Up5.", "Up_conv5.")


def load_file(path: str | os.PathLike, what: str = "file", device: torch.device | str = "cpu") -> Any:
    """Load what `torch.save` wrote, with ``weights_only=True``.

    Args:
        path: the file.
        what: what the file is to the user ("checkpoint", "mask"), for error messages.
        device: where tensors go, wherever they were saved.

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
        # torch does not look at the checksums of its own archive: bytes that changed on a disk would become weights.
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() is not None:
                    raise InputError(f"the {what} {path} is damaged (a checksum does not fit); get it again")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle protocol of files from elsewhere
            return torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        culprit = re.search(r"(?:Unsupported (?:global|class): (?:GLOBAL )?|Trying to call )([\w.]+)", str(error))
        if culprit:
            raise InputError(
                f"the {what} {path} was refused: it holds a {culprit[1]}, and unpickling it could run code. Save it "
                "again with tensors and plain values only, from a program you trust"
            ) from error
        raise InputError(f"the {what} {path} is damaged or was not written by torch.save; get it again") from error
    except InputError:
        raise
    except PermissionError as error:
        raise InputError(f"the {what} {path} cannot be read: permission denied") from error
    except Exception as error:  # what zipfile and torch.load raise for foreign bytes depends on the bytes
        raise InputError(f"the {what} {path} is damaged or was not written by torch.save; get it again") from error


def save_file(content: Any, path: str | os.PathLike, previous: Path | None = None) -> None:
    """Write ``content`` so that ``path`` holds either the old bytes or all of the new ones, never a part.

    Equal contents give equal bytes, whatever objects they share and whatever ``path`` is. Tensors are written as on
    the CPU. The old file is kept as ``previous``, if that is given.

    Raises:
        StorageError: if it cannot be written; the old file is as it was.
        TypeError: if there is anything but tensors, str, int, float, bool, None, list, tuple and dict in ``content``.
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
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(temporary, 0o666 & ~umask)
            if previous is not None and path.exists():
                _copy_name(path, previous)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
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
    """Turn what a file system refuses in a ``with`` block into a `StorageError` about ``path``."""
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


RUN_STATE: dict[str, type | tuple[type, ...]] = {
    "config": Mapping,
    "physics": (Mapping, type(None)),
    "network": (Mapping, type(None)),
    "mask": (torch.Tensor, type(None)),
    "seed": int,
    "step": int,
    "next_epoch": int,
    "next_batch": int,
    "sums": Mapping,
    "history": list,
}


def is_run_state(state: Any, path: str | os.PathLike) -> bool:
    """Whether a checkpoint's content is one of ours, from which a run can be continued.

    Raises:
        InputError: if it is one of ours, but with parts missing or of the wrong kind.
    """
    if not isinstance(state, Mapping) or "next_epoch" not in state:
        return False
    for key, kind in RUN_STATE.items():
        if key not in state or not isinstance(state[key], kind) or (kind is int and state[key] < 0):
            raise InputError(f"the checkpoint {path} cannot be continued: its {key!r} is missing or wrong")
    for row in (state["sums"], *state["history"]):
        if not isinstance(row, Mapping) or not all(isinstance(value, int | float) for value in row.values()):
            raise InputError(f"the checkpoint {path} cannot be continued: its 'sums' or 'history' hold no numbers")
    return True


def newest_checkpoint(folder: str | os.PathLike) -> tuple[Path, Any] | None:
    """The undamaged checkpoint of a run folder that is furthest in its run, with its content; None if the folder has no
    checkpoints. Damaged ones are reported on stderr.

    Raises:
        InputError: if there are checkpoints and none can be loaded.
    """
    folder = Path(folder)
    kept = [path for path in folder.glob("ckp_*.pth.tar") if re.fullmatch(r"ckp_\d+\.pth\.tar", path.name)]
    kept.sort(key=lambda path: int(path.name.split("_")[1].split(".")[0]), reverse=True)
    rolling = [path for path in (folder / LAST, folder / LAST_BUT_ONE) if path.exists()]
    good: list[tuple[Path, Any]] = []
    for path in [*rolling, *kept]:
        if path in kept and good and good[-1][0] in kept:
            break  # older ones cannot be newer than this
        try:
            state = load_file(path, "checkpoint")
            if is_run_state(state, path):
                good.append((path, state))
        except InputError as error:
            print(f"warning: {error}; looking for another one", file=sys.stderr)
    if not good and (rolling or kept):
        raise InputError(f"no checkpoint in {folder} can be used; move them away, or choose another --out")
    # Of equals the first one: the rolling one.
    return max(good, key=lambda found: found[1]["step"]) if good else None


def load_to_resume(path: str | os.PathLike) -> tuple[Path, Any]:
    """The checkpoint ``path`` and its content. If it is the newest one of a run (``ckp_last.pth.tar``) and damaged, or
    missing beside an older one, that is reported on stderr, and the newest good one of the run is used.

    Raises:
        InputError: if it cannot be loaded.
    """
    path = Path(path)
    try:
        return path, load_file(path, "checkpoint")
    except InputError as error:
        others = path.name == LAST and path.parent.is_dir()
        found = newest_checkpoint(path.parent) if others and (path.parent / LAST_BUT_ONE).exists() else None
        if found is None and any(path.parent.glob("ckp_*.pth.tar")) and path.name.startswith("ckp_"):
            raise InputError(
                f"{error}, or look for another one of the run: --resume auto --out {path.parent}"
            ) from error
        if found is None:
            raise
        print(f"warning: {path} cannot be used; continuing from {found[0]}", file=sys.stderr)
        return found


def _plain(content: Any, strings: dict[str, str]) -> Any:
    """A copy in which containers are fresh and equal strings are one object, because pickle writes a second reference
    to an object differently from an equal one."""
    if isinstance(content, torch.Tensor):
        return content.detach().cpu()
    if type(content) is str:
        return strings.setdefault(content, content)
    if content is None or type(content) in (int, float, bool):
        return content
    if isinstance(content, Mapping):
        return {_plain(key, strings): _plain(value, strings) for key, value in content.items()}
    if type(content) in (list, tuple):
        return type(content)(_plain(entry, strings) for entry in content)
    raise TypeError(f"a checkpoint may not hold a {type(content).__name__}: it could not be loaded safely")


def generator_weights(checkpoint: Any, path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """The weights of the reconstruction network in a checkpoint of ours or of the authors; their moving average, if the
    run kept one.

    Raises:
        InputError: if there is neither ``state_dict`` nor ``state_dict_G``.
    """
    for key in (AVERAGED, "state_dict", "state_dict_G"):
        if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(key), Mapping):
            return dict(checkpoint[key])
    raise InputError(f"{path} is no checkpoint: it has neither 'state_dict' nor 'state_dict_G'")


def load_weights(net: nn.Module, weights: Mapping[str, torch.Tensor], path: str | os.PathLike) -> None:
    """Load ``weights`` into ``net``, exactly.

    The authors' files carry a fifth UNet level that a network of four levels never uses: exactly those keys are
    dropped for such a network.

    Raises:
        InputError: for any other difference in names or shapes, naming the first of them.
    """
    if getattr(net, "compact", None) == 4:
        weights = {name: value for name, value in weights.items() if not name.startswith(FIFTH_LEVEL)}
    own = net.state_dict()
    missing = [name for name in own if name not in weights]
    unexpected = [name for name in weights if name not in own]
    reshaped = [
        f"{name} is {list(weights[name].shape)} in the file and {list(own[name].shape)} in the network"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    difference = (
        reshaped
        or [f"{name} is not in the file" for name in missing]
        or [f"{name} is not in the network" for name in unexpected]
    )
    if difference:
        raise InputError(
            f"the checkpoint {path} is of another network: {difference[0]} (check task and network options)"
        )
    net.load_state_dict(dict(weights))
