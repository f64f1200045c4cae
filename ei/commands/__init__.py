"""The commands: what a person types. ``python -m ei COMMAND``, or ``ei COMMAND`` where the project is installed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

from ei.commands.parser import nearest, run_script
from ei.errors import InputError

COMMANDS = {
    "train": "train a reconstruction function, with a task of the paper or an operator of your own",
    "test": "evaluate a checkpoint, of yours or of the authors, on test images",
    "reconstruct": "reconstruct new measurements with a checkpoint",
    "diagnose": "ask, before any training, whether EI can work for an operator and a group",
    "reproduce": "train and evaluate cells of the paper's table under a budget",
    "prepare": "lay out the paper's data from what can be fetched by hand",
}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command; ends the program (see `run_script`)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    run_script(f"ei {words[0]}" if words and words[0] in COMMANDS else "ei", lambda: _dispatch(words))


def _dispatch(words: Sequence[str]) -> None:
    if not words or words[0] in ("-h", "--h", "--help"):
        print("usage: ei COMMAND [options]        ei COMMAND --help lists them\n")
        print("\n".join(f"  {name:12} {what}" for name, what in COMMANDS.items()))
        return
    command, *rest = words
    if command not in COMMANDS:
        raise InputError(f"there is no command {command}{nearest(command, COMMANDS) or '; ei --help lists them'}")
    importlib.import_module(f"ei.commands.{command}").main(rest, f"ei {command}")


def script(name: str, command: str, *arguments: str) -> NoReturn:
    """Run a command as one of the paper's scripts: under the script's name, with fixed arguments before the user's."""
    module = importlib.import_module(f"ei.commands.{command}")
    run_script(name, lambda: module.main([*arguments, *sys.argv[1:]], name))
