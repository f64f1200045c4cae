"""Locks: what a living process keeps to itself on a disk."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import sys
from pathlib import Path
from typing import Any

from ei.common.files import TEMPORARY
from ei.errors import InputError


class Lock:
    """Keeps something on a disk to one living process. The system releases it when the process dies, however it dies.

    Args:
        path: of the lock's own file.
        what: it keeps ("the run folder x"), for messages.
        choice: the option that chooses another one, for messages.

    Raises:
        InputError: if another process holds it, or the file cannot be made.

    >>> Lock(Path("/tmp/.lock"), "the folder /tmp", "--out").release()
    """

    def __init__(self, path: Path, what: str, choice: str) -> None:
        self.path = path
        while True:
            try:
                self._file = open(self.path, "a+", encoding="utf-8")  # noqa: SIM115
            except OSError as error:
                reason = error.strerror or error
                raise InputError(
                    f"{what} cannot be written: {reason}; correct that, or choose another {choice}"
                ) from error
            if not _lock(self._file):
                self._file.seek(0)
                holder = self._file.read().strip() or "another process"
                self._file.close()
                raise InputError(f"{what} is in use by {holder}; wait for its end, or choose another {choice}")
            # Between our opening and locking it, the one that held it may have removed it.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._file.fileno()), os.stat(self.path)):
                    break
            self._file.close()
        self._file.truncate(0)
        with contextlib.suppress(OSError):  # of a full disk: the lock holds without a name
            os.write(self._file.fileno(), f"process {os.getpid()} on {platform.node()}".encode())

    def release(self) -> None:
        # The name goes while the lock is held, so that nobody locks a file that is about to vanish. Windows neither
        # renames nor removes an open file: there the file is closed first, and stays if another process has opened it.
        path = self.path
        with contextlib.suppress(OSError):
            path = path.replace(path.with_name(f"{path.name}{TEMPORARY}"))
        self._file.close()
        with contextlib.suppress(PermissionError):
            path.unlink(missing_ok=True)


def _lock(file: Any) -> bool:
    """Take the lock on a file; False if another process has it. POSIX record locks, because a forked process that
    loads data must not inherit it."""
    try:
        if os.name == "posix":
            import fcntl

            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return False
        print(
            f"warning: {file.name} cannot be locked ({error.strerror or error}): see to it that no other process "
            "writes there",
            file=sys.stderr,
        )
    return True
