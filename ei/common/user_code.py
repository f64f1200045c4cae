"""Objects out of people's own Python files, named on the command line as ``FILE.py:NAME``."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import inspect
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from ei.errors import InputError, MissingFileError

FILE_AND_NAME = re.compile(r"(?P<file>.+\.py):(?P<name>[A-Za-z_]\w*)")


def is_user_code(text: Any) -> bool:
    """Whether ``text`` has the form ``FILE.py:NAME``."""
    return isinstance(text, str) and FILE_AND_NAME.fullmatch(text) is not None


def absolute(text: str) -> str:
    """``FILE.py:NAME`` with the file's absolute path."""
    found = FILE_AND_NAME.fullmatch(text)
    assert found is not None
    return f"{Path(found['file']).resolve()}:{found['name']}"


def import_user_code(text: str) -> Any:
    """Run the file that ``FILE.py:NAME`` names, and give what is called NAME in it. Only for what a person typed or
    wrote into a configuration: never for what a checkpoint says.

    Raises:
        MissingFileError: if there is no such file.
        InputError: if the text has another form, the file cannot be run, or holds no such name.
    """
    found = FILE_AND_NAME.fullmatch(text)
    if found is None:
        raise InputError(f"code of your own is named as FILE.py:NAME, not {text!r}")
    path, name = Path(found["file"]).resolve(), found["name"]
    if not path.is_file():
        raise MissingFileError(f"there is no file {found['file']} (of {text}); check the path")
    module = _module(path, path.stat().st_mtime_ns)
    if not hasattr(module, name):
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
        raise InputError(f"{found['file']} holds nothing called {name}" + (f"; it has {', '.join(own)}" if own else ""))
    return getattr(module, name)


@functools.lru_cache(maxsize=8)
def _module(path: Path, _: int) -> ModuleType:
    """The module in a file, run once as long as the file does not change."""
    name = f"own_code_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # pickling looks its classes up there
    sys.path.insert(0, str(path.parent))  # it may import what lies beside it
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the code raises
        raise InputError(f"{path} could not be run: {_in_a_line(error, path)}") from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def made(thing: Any, text: str, wanted: str, **arguments: Any) -> Any:
    """``thing`` itself if it is an object with a method ``wanted``, else what the class or function gives when it is
    called, with those of the ``arguments`` whose names it knows.

    Raises:
        InputError: if the call fails, or what it gives has no such method.
    """
    if not inspect.isclass(thing) and callable(getattr(thing, wanted, None)):
        return thing
    if callable(thing):
        try:
            thing = thing(**{name: value for name, value in arguments.items() if takes(thing, name)})
        except InputError:
            raise
        except (Exception, SystemExit) as error:  # whatever the code raises
            raise InputError(f"{text} could not be made: {_in_a_line(error, None)}") from error
    if not callable(getattr(thing, wanted, None)):
        raise InputError(f"{text} is of type {type(thing).__name__}, without a method {wanted}")
    return thing


def takes(thing: Any, name: str) -> bool:
    """Whether a class or function has an argument of this name."""
    try:
        return name in inspect.signature(thing).parameters
    except (TypeError, ValueError):  # classes of C code do not tell
        return False


def _in_a_line(error: BaseException, path: Path | None) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    where = f", line {lines[-1]}" if lines else ""
    return f"{type(error).__name__}: {error}{where}"
