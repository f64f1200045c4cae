"""Kill a training again and again, resume it each time, and compare what it ends with to a run that was let alone.

    python tests/training/kill.py --kills 50

Half of the kills (SIGKILL) come at a random moment, half in the middle of writing a checkpoint: when a temporary file
is there. Exit code 0 if no byte differs and every resumed run went on from where a checkpoint stood.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import scipy.io

ROOT = Path(__file__).resolve().parents[2]


def command(folder: Path, out: str, epochs: int, *more: str) -> list[str]:
    options = ["--task", "ct", "--data", "ct.mat", "--ct-views", "5", "--base-channels", "4", "-b", "2",
               "--ei-trans", "1", "--epochs", str(epochs), "--ckp-interval", "20", "--out", out]  # fmt: skip
    return [sys.executable, str(ROOT / "demo_train.py"), *options, *more]


def run(arguments: list[str], folder: Path) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        arguments, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def _trains(process: subprocess.Popen, out: Path) -> bool:
    try:
        return f"process {process.pid} " in (out / ".lock").read_text()
    except FileNotFoundError:
        return False


def kill(process: subprocess.Popen, out: Path, in_a_write: bool, patience: float) -> bool:
    """Wait for a moment and kill; False if the process ended before. Says whether it was in a write."""
    # Importing torch takes seconds in which nothing can be lost: the lock is the sign that training begins.
    while not (_trains(process, out) and (out / "ckp_last.pth.tar").exists()) and process.poll() is None:
        time.sleep(0.002)
    began = time.monotonic()
    while process.poll() is None:
        writing = any(out.glob(".ckp_*.tmp"))
        if writing if in_a_write else time.monotonic() - began > patience:
            process.kill()
            process.wait()
            return True
        if not in_a_write:
            time.sleep(0.005)
    return False


def stress(folder: Path, kills: int, epochs: int, seed: int = 0, patience: float = 8.0) -> dict[str, int]:
    """Returns the numbers of kills, of kills in a write, of resumed runs, and of files that differ."""
    chance = random.Random(seed)
    scipy.io.savemat(folder / "ct.mat", {"DATA": np.random.default_rng(0).random((10, 32, 32)).astype(np.float32)})
    whole = run(command(folder, "whole", epochs), folder)
    output = whole.communicate()[0]
    assert whole.returncode == 0, output

    counts = {"kills": 0, "in a write": 0, "resumed": 0, "left half written": 0, "differences": 0}
    out = folder / "killed"
    steps = [0]
    while True:
        arguments = command(folder, "killed", epochs, "--resume", "auto", "--save-every", "0.0005")
        process = run(arguments, folder)
        in_a_write = counts["kills"] % 2 == 1
        killed = counts["kills"] < kills and kill(process, out, in_a_write, chance.uniform(0, patience))
        output = process.communicate()[0]
        continued = re.search(r"continuing .* step (\d+)", output)
        if continued:
            steps.append(int(continued[1]))
            counts["resumed"] += 1
            assert steps[-1] >= steps[-2], f"went back from step {steps[-2]} to {steps[-1]}"
        if not killed:
            assert process.returncode == 0, output
            break
        counts["kills"] += 1
        counts["in a write"] += in_a_write
        counts["left half written"] += any(out.glob(".ckp_*.tmp"))
        print(f"kill {counts['kills']:3}: was resumed at step {steps[-1]}", flush=True)
    names = sorted(path.name for path in (folder / "whole").iterdir() if path.name != "ckp_last-1.pth.tar")
    held = sorted(path.name for path in out.iterdir() if path.name != "ckp_last-1.pth.tar")
    assert held == names, (held, names)
    for name in names:
        if name == "config.yaml":  # tells how often to save, which does not change the result
            continue
        if (folder / "whole" / name).read_bytes() != (out / name).read_bytes():
            print(f"differs: {name}")
            counts["differences"] += 1
    return {**counts, "files compared": len(names) - 1, "steps at resumes": len(set(steps)) - 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts = stress(Path(folder), given.kills, given.epochs, given.seed)
    print(", ".join(f"{name} {count}" for name, count in counts.items()))
    sys.exit(counts["differences"] > 0 or counts["kills"] < given.kills or counts["resumed"] < given.kills)


if __name__ == "__main__":
    main()
