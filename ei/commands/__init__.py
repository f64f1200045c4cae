"""The command line. ``python -m ei COMMAND``, or ``ei COMMAND`` where the project is installed.

What a user can get wrong raises `InputError` in all of this room: one line, before anything is written.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

COMMANDS = {
    "train": "train a reconstruction function: a problem of the paper, or a tree of parts",
    "test": "evaluate a checkpoint, of this project or of the authors, on test images",
    "reconstruct": "reconstruct measurements with a checkpoint",
    "diagnose": "before any training: can EI work for an operator and a group",
    "prepare": "lay out data: the paper's, measured scans, k-space",
}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command; ends the program (see `run_script`)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--h", "--help"):  # without importing torch
        rows = "".join(f"  {name:12} {what}\n" for name, what in COMMANDS.items())
        # In one write, so that `ei --help | head` closes no pipe between two.
        print(f"usage: ei COMMAND [options]        ei COMMAND --help lists them\n\n{rows}", end="")
        sys.exit(0)
    _run(f"ei {words[0]}" if words[0] in COMMANDS else "ei", lambda: _dispatch(words))


def _run(name: str, main: Callable[[], None]) -> NoReturn:
    """`run_script`; its import is that of torch and takes seconds, in which Ctrl-C is one line, too."""
    try:
        from ei.common.scripts import run_script
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        sys.exit(130)
    run_script(name, main)


def _dispatch(words: Sequence[str]) -> None:
    from ei.common.parts import suggestion
    from ei.errors import InputError

    command, *rest = words
    if command not in COMMANDS:
        raise InputError(f"there is no command {command}{suggestion(command, COMMANDS) or '; ei --help lists them'}")
    importlib.import_module(f"ei.commands.{command}").main(rest, f"ei {command}")


def script(name: str, command: str, *arguments: str) -> NoReturn:
    """Run a command as one of the paper's scripts: under the script's name, with fixed arguments before the user's."""
    _run(name, lambda: importlib.import_module(f"ei.commands.{command}").main([*arguments, *sys.argv[1:]], name))
