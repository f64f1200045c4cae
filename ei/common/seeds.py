"""Everything random is a function of a seed and of what it is drawn for: an epoch, a step, an image.

So a run's state needs no generator states, and workers, prefetching or the number of processes cannot change it.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose, as in ``derive_seed(seed, "noise", image_index)``."""
    digest = hashlib.sha256(repr((int(seed), *purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator seeded by `derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(seed, *purpose))


def seed_all(seed: int) -> None:
    """Seed every global generator that people's code may draw from: torch's, NumPy's (the legacy one) and Python's."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextlib.contextmanager
def states_kept(devices: Sequence[torch.device] = ()) -> Iterator[None]:
    """A ``with`` block after which the global generators (torch's on the CPU and on CUDA ``devices``, NumPy's,
    Python's) go on as if nothing had been drawn or seeded in it."""
    numpys, pythons = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        np.random.set_state(numpys)
        random.setstate(pythons)


@contextlib.contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """A ``with`` block in which the global generators are seeded, and after which they go on as if it had not been; of
    the CUDA generators that of ``device`` alone."""
    cuda = device is not None and device.type == "cuda"
    with states_kept([device] if cuda and device is not None else []):
        # Not torch.manual_seed, which would seed those of all CUDA devices, whose states are not kept.
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        yield
