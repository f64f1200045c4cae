"""Memory of a training process on the CPU."""

from __future__ import annotations

import ctypes
import platform


def keep_freed_memory() -> bool:
    """Ask the C library to keep freed memory for the next step instead of giving it back to the system.

    Every step of a training frees and takes the same large blocks; by default glibc returns each to the system, which
    then hands out fresh pages, zeroed, one fault at a time. The process keeps its peak memory until it ends, so this is
    for training processes only, before they begin.

    Returns:
        Whether it had an effect: only glibc has this setting, elsewhere nothing is done.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    mmap_max, trim_threshold = -4, -1  # M_MMAP_MAX, M_TRIM_THRESHOLD of malloc.h
    return bool(libc.mallopt(mmap_max, 0)) and bool(libc.mallopt(trim_threshold, 2**31 - 1))
