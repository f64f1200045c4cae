"""The command line: options that are not abbreviated, devices, errors of one line."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

import torch

from ei.common.parts import suggestion
from ei.common.processes import launched
from ei.errors import InputError, RunError, TrainingStoppedError


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line on stderr (exit code 2), whose options may not be abbreviated, and
    which leaves out what was not given."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            **options,
            add_help=False,
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=30, width=118),
        )
        self.add_argument("-h", "--help", "--h", action="help", help="show this help and exit")

    def error(self, message: str) -> NoReturn:
        raise InputError(message)

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse, suggesting the nearest option for an unknown one."""
        values, unknown = self.parse_known_intermixed_args(arguments)
        if unknown:
            options = [name for action in self._actions for name in action.option_strings]
            near = suggestion(unknown[0].split("=")[0], options)
            raise InputError(f"unknown argument {unknown[0]}{near or '; --help lists the options'}")
        return values


def names_of(valid: Iterable[str]) -> Callable[[str], list[str]]:
    """An option's type: some of the ``valid`` names, with commas."""

    def parse(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",")]
        if not set(names) <= set(valid):
            raise argparse.ArgumentTypeError(f"must be some of {', '.join(valid)}, with commas, got {text!r}")
        return names

    return parse


def choose_device(asked: str | None) -> torch.device:
    """The device that ``auto``, ``cpu`` or ``cuda:N`` asks for; auto by default.

    Raises:
        InputError: if there is none of that name, or several processes would share it.
    """
    # Each of several processes that torchrun started on this machine takes a GPU for itself.
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    count = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked in (None, "auto"):
        asked = "cuda" if available else "cpu"
    try:
        device = torch.device(str(asked))
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device must be auto, cpu or cuda:N, got {asked!r}")
    if device.type == "cpu":
        return device
    if device.index is not None and count > 1:
        raise InputError(f"{count} processes cannot share {device}; leave --device and --gpu out: each takes its own")
    if not available:
        raise InputError(f"{device} was asked for, but torch sees no CUDA device; use --device cpu")
    if device.index is None and count > available:
        raise InputError(
            f"each of {count} processes takes a CUDA device of its own, and torch sees {available}: start fewer, or "
            "give --device cpu"
        )
    device = torch.device("cuda", rank if device.index is None else device.index)
    if (device.index or 0) >= available:
        raise InputError(f"{device} was asked for, but torch sees {available} CUDA device(s)")
    return device


def device_of_flags(device: str | None, gpu: int | None) -> str | None:
    """What ``--device`` and ``--gpu`` ask for together.

    Raises:
        InputError: if they contradict each other.
    """
    if gpu is None:
        return device
    if gpu < 0:
        raise InputError(f"--gpu must be a whole number >= 0, got {gpu}")
    if device not in (None, "auto", "cuda", f"cuda:{gpu}"):
        raise InputError(f"--gpu {gpu} and --device {device} contradict each other; give one of them")
    return f"cuda:{gpu}"


def run_script(name: str, main: Callable[[], None]) -> NoReturn:
    """Run a script's ``main``; an error of the user's is one line on stderr and exit code 2, a failed run is one line
    and exit code 1, a run stopped by a signal one line and 128 + its number. Everything else is a bug and keeps its
    traceback."""
    processes = launched()
    if processes.count > 1:
        name = f"{name} (process {processes.rank} of {processes.count})"
    warnings.showwarning = lambda message, category, *_: print(f"{name}: warning: {message}", file=sys.stderr)
    try:
        main()
    except InputError as error:
        print(f"{name}: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except TrainingStoppedError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(128 + error.signal)
    except RunError as error:
        print(f"{name}: training stopped: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # who read the output has enough of it, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)
