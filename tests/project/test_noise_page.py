"""The commands of docs/guides/noise.md and mri.md."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, Result
from makers import counts_of_a_small_scan, scan
from page_blocks import commands_of

Script = Callable[..., Result]


@pytest.mark.slow
def test_the_commands_of_the_pages_work(script: Script) -> None:
    """As they stand on the pages, one after the other, on small data, and what some of them print."""
    lines = [line for name in ("noise", "mri") for line in commands_of(ROOT / "docs" / "guides" / f"{name}.md")]
    assert len(lines) == 14
    counts_of_a_small_scan()
    made = script("ei prepare", "sinogram", "--counts", "counts.npy", "--flat", "flat.npy", "--dark", "dark.npy",
                  "--angles", "angles.txt", "--out", "y.npz")  # fmt: skip
    assert made.code == 0, made.err
    rng = np.random.default_rng(0)
    np.savez("images.npz", images=rng.random((20, 16, 16)).astype(np.float32))
    np.save("mask.npy", (np.arange(16) % 4 == 0).astype(np.float32))
    np.save("kspace.npy", np.concatenate([scan(32)[0]] * 10))
    dark = np.load("dark.npy")  # counts_of_a_small_scan's has no read-out noise
    np.save("dark.npy", dark + rng.standard_normal(dark.shape))
    printed = {}
    for line in lines:
        name, *arguments = shlex.split(line)[1:]
        if name == "train":  # as short as can be
            arguments += ["--base-channels", "2", "--epochs", "1", "--device", "cpu"]
            arguments += ["--max-steps", "2"] if "--task" in arguments else []
            arguments += ["--ei-trans", "1"] if "sure" not in arguments else []
        arguments += ["--max-elements", "1"] if name == "diagnose" else []
        done = script(f"ei {name}", *arguments)
        assert done.code == 0, (line, done.err)
        printed[line] = done.out
    flats, bins, of_mri, of_ct, *_ = printed.values()
    gain = float(re.search(r"gain +(\S+)", flats)[1])
    assert gain == pytest.approx(1, rel=0.15) and float(re.search(r"gain +(\S+)", bins)[1]) == pytest.approx(
        0.5, rel=0.2
    )
    assert all("a data-consistency loss below" in text for text in (of_mri, of_ct))
    assert np.iscomplexobj(np.load("cg_sense.npy")) and np.load("learned.npy").shape == (10, 32, 32)
    assert len(list(Path("cg_sense").glob("*.png"))) == 10
