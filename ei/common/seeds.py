"""Everything random is a function of a seed and of what it is drawn for: an epoch, a step, an image.

So a run's state needs no generator states, and workers, prefetching or the number of processes cannot change it.
"""

from __future__ import annotations

import hashlib

import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose, as in ``derive_seed(seed, "noise", image_index)``."""
    digest = hashlib.sha256(repr((int(seed), *purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator seeded by `derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(seed, *purpose))
