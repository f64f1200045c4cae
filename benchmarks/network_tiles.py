"""Memory, time and result of a UNet on tiles (`reconstructor.network_tile`) beside whole images.

    python benchmarks/network_tiles.py                                    1024 x 1024, 16 and 64 base channels
    python benchmarks/network_tiles.py --side 512 --channels 16 --tiles 0 256 --training

Each row is a process of its own, on one thread. "peak" is the most memory that it took less what it had before the
call (Linux); "difference" the largest one to the whole image's result, as a part of its largest value. ``--training``
adds a backward pass (without BatchNorm). Tile 0 is the whole image.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from ei.models import Reconstructor, UNet
from ei.physics import Inpainting


def peak() -> float:
    """The most memory of this process so far, in MB. Not ru_maxrss, which a process inherits."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def measure(side: int, channels: int, tile: int, training: bool, out: Path) -> str:
    """The cells of a row; the result goes to a file."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = UNet(1, 1, base_channels=channels, norm="none" if training else "batch")
    f = Reconstructor(net, Inpainting(side, side), network_tile=tile or None).eval()
    y = torch.rand(1, 1, side, side)
    before, began = peak(), time.process_time()
    with torch.set_grad_enabled(training):
        x = f(y)
    if training:
        x.square().mean().backward()
    cells = f"{peak() - before:.0f} MB | {time.process_time() - began:.1f} s"
    np.save(out, x.detach().numpy())
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--channels", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--tiles", type=int, nargs="+", default=[0, 512, 256])
    parser.add_argument("--training", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(measure(options.side, options.channels[0], options.tiles[0], options.training, Path(options.one)))
        return
    print("| base channels | tile | peak | CPU time | difference |\n| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for channels in options.channels:
            for tile in options.tiles:
                out = Path(folder) / f"{channels}_{tile}.npy"
                words = [sys.executable, __file__, "--side", options.side, "--channels", channels, "--tiles", tile,
                         "--one", out, *(["--training"] if options.training else [])]  # fmt: skip
                done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=True)
                whole, found = (np.load(path) for path in (Path(folder) / f"{channels}_{options.tiles[0]}.npy", out))
                difference = abs(found - whole).max() / abs(whole).max()
                print(f"| {channels} | {tile or 'whole'} | {done.stdout.strip()} | {difference:.1g} |", flush=True)


if __name__ == "__main__":
    main()
