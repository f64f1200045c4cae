"""How a command ends: errors of one line, and exit codes."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

from ei.common.files import FULL
from ei.common.processes import launched
from ei.errors import InputError, RunError, TrainingStoppedError


def run_script(name: str, main: Callable[[], None]) -> NoReturn:
    """Run a script's ``main`` and end the program.

    Exit codes, each after one line on stderr: 2 for wrong input, 1 for a failed run, 128 + n for a run stopped by
    signal n. Every other exception is a bug and keeps its traceback.
    """
    processes = launched()
    if processes.count > 1:
        name = f"{name} (process {processes.rank} of {processes.count})"
    shown: set[str] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:  # once, from wherever it comes
        if str(message) not in shown:
            print(f"{name}: warning: {message}", file=sys.stderr)
        shown.add(str(message))

    warnings.showwarning = show
    try:
        main()
    except InputError as error:
        print(f"{name}: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except TrainingStoppedError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(128 + error.signal)
    except RunError as error:
        what = "training stopped" if "train" in name else "stopped"
        print(f"{name}: {what}: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # who read the output has enough of it, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        if error.errno not in (*FULL, errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        where = f" {error.filename}" if error.filename else ""
        print(f"{name}: stopped: a file{where} could not be read or written: {error.strerror}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)
