"""The command line: types that check ranges, options from YAML files, devices, errors of one line."""

from __future__ import annotations

import argparse
import difflib
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

import torch

from ei.common.files import read_yaml
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
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.add_argument("-h", "--help", "--h", action="help", help="show this help and exit")
        # For YAML files: options that may be mappings, and those whose value may be none.
        self.mappings: set[str] = set()
        self.optional: set[str] = set()

    def error(self, message: str) -> NoReturn:
        raise InputError(message)

    def parse(self, arguments: Sequence[str], namespace: argparse.Namespace | None = None) -> argparse.Namespace:
        """Parse, suggesting the nearest option for an unknown one."""
        values, unknown = self.parse_known_args(arguments, namespace)
        if unknown:
            known = [name for action in self._actions for name in action.option_strings]
            near = nearest(unknown[0].split("=")[0], known)
            raise InputError(f"unknown argument {unknown[0]}{near or '; --help lists the options'}")
        return values

    def parse_yaml(self, path: str, ignored: Sequence[str] = ()) -> argparse.Namespace:
        """Read options from a YAML file: keys are the long option names with ``_`` for ``-``. A key without a value
        (null) says nothing, or "none" where that is a value."""
        content = read_yaml(path)
        actions = {action.dest: action for action in self._actions if action.dest not in ("help", "config")}
        arguments: list[str] = []
        plain: dict[str, Any] = {}
        for key, value in content.items():
            if key in ignored:
                continue
            if key not in actions:
                raise InputError(f"{path}: unknown key {key!r}{nearest(str(key), actions, quoted=True)}")
            option = max(actions[key].option_strings, key=len)
            if value is None:
                if key in self.optional:
                    plain[key] = None
            elif actions[key].nargs == 0:
                if not isinstance(value, bool):
                    raise InputError(f"{path}: {key} must be true or false, not {value!r}")
                plain[key] = value
            elif isinstance(value, list) and actions[key].nargs is not None:
                arguments += [option, *(str(entry) for entry in value)]
            elif isinstance(value, dict) and key in self.mappings:
                plain[key] = value
            elif isinstance(value, str | int | float) and not isinstance(value, bool):
                arguments.append(f"{option}={value}")
            else:
                raise InputError(f"{path}: {key} cannot be {value!r}")
        try:
            found = self.parse(arguments)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        vars(found).update(plain)
        return found


def nearest(word: str, known: Iterable[str], quoted: bool = False) -> str:
    """What may have been meant by an unknown word, as the end of a message; empty if nothing is near."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {repr(near[0]) if quoted else near[0]}?" if near else ""


def number(
    kind: Callable[[str], Any] = float,
    least: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Callable[[str], Any]:
    """An option's type: a finite number of ``kind`` (int or float) within limits."""
    limits = [
        *([f">= {least}"] if least is not None else []),
        *([f"> {above}"] if above is not None else []),
        *([f"< {below}"] if below is not None else []),
    ]
    wanted = " and ".join([("a whole number" if kind is int else "a finite number"), *limits])

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be {wanted}, not {text!r}") from None
        if (
            not math.isfinite(value)
            or (least is not None and value < least)
            or (above is not None and value <= above)
            or (below is not None and value >= below)
        ):
            raise argparse.ArgumentTypeError(f"must be {wanted}, not {text}")
        return value

    return parse


def names_of(known: Iterable[str]) -> Callable[[str], list[str]]:
    """An option's type: some of the ``known`` names, with commas."""

    def parse(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",")]
        if not set(names) <= set(known):
            raise argparse.ArgumentTypeError(f"must be some of {', '.join(known)}, with commas, not {text!r}")
        return names

    return parse


def named(text: str) -> str:
    """An option's type: a path that is not empty (as an unset shell variable makes it)."""
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def choose_device(device: str | None, gpu: int | None) -> torch.device:
    """The device that ``--device`` and ``--gpu`` ask for.

    Raises:
        InputError: if they contradict each other, or the device is not there.
    """
    # Each of several processes that torchrun started on this machine takes a GPU of its own.
    own, local = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    asked = device or "auto"
    if asked == "auto":
        if gpu is None and not torch.cuda.is_available():
            return torch.device("cpu")
        asked = "cuda" if gpu is None else f"cuda:{gpu}"
    try:
        chosen = torch.device(asked)
    except RuntimeError:
        raise InputError(f"--device must be auto, cpu or cuda:N, not {asked!r}") from None
    if chosen.type not in ("cpu", "cuda"):
        raise InputError(f"--device must be auto, cpu or cuda:N, not {asked!r}")
    if chosen.type == "cuda" and chosen.index is None:
        chosen = torch.device("cuda", own)
    elif chosen.type == "cuda" and local > 1:
        raise InputError(f"{local} processes cannot share {chosen}; leave --device and --gpu out: each takes its own")
    if gpu is not None and chosen != torch.device(f"cuda:{gpu}"):
        raise InputError(f"--gpu {gpu} and --device {asked} contradict each other; give one of them")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"{chosen} was asked for, but torch sees no CUDA device; use --device cpu")
    if asked == "cuda" and local > torch.cuda.device_count() > 0:
        raise InputError(f"each of {local} processes takes a CUDA device of its own, and torch sees "
                         f"{torch.cuda.device_count()}: start fewer, or give --device cpu")  # fmt: skip
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise InputError(f"{chosen} was asked for, but torch sees {torch.cuda.device_count()} CUDA device(s)")
    return chosen


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
