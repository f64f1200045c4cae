"""User-defined code: objects out of Python files, named as ``FILE.py:NAME``."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from ei.errors import InputError, MissingFileError

FILE_AND_NAME = re.compile(r"(?P<file>.+\.py):(?P<name>[A-Za-z_]\w*)")
PREFIX = "user_code_"  # of its modules' names


def is_user_code(text: Any) -> bool:
    """Whether ``text`` has the form ``FILE.py:NAME``."""
    return isinstance(text, str) and FILE_AND_NAME.fullmatch(text) is not None


def absolute(text: str) -> str:
    """``FILE.py:NAME`` with the file's absolute path."""
    found = FILE_AND_NAME.fullmatch(text)
    assert found is not None
    return f"{Path(found['file']).resolve()}:{found['name']}"


def import_user_code(text: str) -> Any:
    """Run the file that ``FILE.py:NAME`` names, and give what is called NAME in it. Only for text that was typed or
    stands in a configuration: never for that of a checkpoint.

    Raises:
        MissingFileError: if there is no such file.
        InputError: if the text has another form, the file cannot be run, or holds no such name.
    """
    found = FILE_AND_NAME.fullmatch(text)
    if found is None:
        raise InputError(f"user-defined code must be named as FILE.py:NAME, got {text!r}")
    path, name = Path(found["file"]).resolve(), found["name"]
    if not path.is_file():
        raise MissingFileError(f"there is no file {found['file']} (of {text}); check the path")
    module = _module(path, path.stat().st_mtime_ns)
    if not hasattr(module, name):
        defined = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
        raise InputError(f"{found['file']} has no {name}; it has {', '.join(defined) or 'no classes or functions'}")
    return getattr(module, name)


@functools.lru_cache(maxsize=8)
def _module(path: Path, _: int) -> ModuleType:
    """The module in a file, run once as long as the file does not change."""
    name = f"{PREFIX}{hashlib.sha256(str(path).encode()).hexdigest()[:8]}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # pickling looks its classes up there
    sys.path.insert(0, str(path.parent))  # it may import what lies beside it
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the code raises
        raise InputError(f"{path} could not be run: {error_in_a_line(error)}") from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def error_in_a_line(error: BaseException) -> str:
    """The type and message of an error, and the innermost line of user-defined code that it came through."""
    files = {getattr(module, "__file__", None) for name, module in sys.modules.items() if name.startswith(PREFIX)}
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    where = f", line {lines[-1].lineno} of {Path(lines[-1].filename).name}" if lines else ""
    return f"{type(error).__name__}: {error}{where}"
