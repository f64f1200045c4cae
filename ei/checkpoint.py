"""Files of tensors: written atomically, read without ever running code from them."""

from __future__ import annotations

import os
import pickle
import re
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ei.errors import InputError, MissingFileError

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
    except PermissionError as error:
        raise InputError(f"the {what} {path} cannot be read: permission denied") from error
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError, OSError) as error:
        # What torch.load raises for truncated or foreign bytes depends on where they break off.
        raise InputError(f"the {what} {path} is damaged or was not written by torch.save; get it again") from error


def save_file(content: Any, path: str | os.PathLike, previous: Path | None = None) -> None:
    """Write ``content`` so that ``path`` holds either the old bytes or all of the new ones, never a part.

    Equal contents give equal bytes, whatever objects they share and whatever ``path`` is. Tensors are written as on
    the CPU. The old file is kept as ``previous``, if that is given.

    Raises:
        TypeError: if there is anything but tensors, str, int, float, bool, None, list, tuple and dict in ``content``.
    """
    content = _plain(content, {})
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        if previous is not None and path.exists():
            os.replace(path, previous)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


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
    """The weights of the reconstruction network in a checkpoint of ours or of the authors.

    Raises:
        InputError: if there is neither ``state_dict`` nor ``state_dict_G``.
    """
    for key in ("state_dict", "state_dict_G"):
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
