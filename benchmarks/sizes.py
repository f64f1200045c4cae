"""Tomography from N = 256 to N = 2048: time and memory of N x N pixels, N detectors and N views.

    python benchmarks/sizes.py --out sizes.csv                           all sizes, parallel and fan
    python benchmarks/sizes.py --sizes 256 512 --programs matrix astra --repeats 3 --out sizes.csv

Programs are our two engines, ASTRA alone on the CPU, and deepinv (parallel beams). Each is measured in a process of its
own, one after the other, on one image: "build" is the time until a first A and A_dagger are there, less that of a
second one; "peak" is the most memory that the process took, less what it had with its modules imported; times are
medians. A CG step is a third of three, an EI step is that of a direct network with 16 channels and one rotation. What
is not installed, does not fit in memory or takes longer than --limit is a row with a reason. "load" is the number of
processes that computed on the machine in the last minute: above the threads of this one, times mean little.
"""

from __future__ import annotations

import argparse
import csv
import functools
import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ei.closure import EIClosure
from ei.models import Reconstructor, UNet
from ei.physics import Tomography, pinv_cg
from ei.transforms import Rotate

PROGRAMS = ("matrix", "astra", "ASTRA alone", "deepinv")
BEAMS = ("parallel", "fan")
COLUMNS = ("N", "beam", "program", "build_s", "peak_MB", "A_ms", "adjoint_ms", "A_dagger_ms", "CG_step_ms",
           "EI_step_ms", "threads", "load", "skipped")  # fmt: skip
CG_STEPS = 3


def geometry(side: int, beam: str) -> dict[str, Any]:
    """The arguments of `Tomography`: half a turn of parallel views, or a turn of a fan that sees the inscribed disc."""
    turn = 180 if beam == "parallel" else 360
    arguments = {"image_shape": (side, side), "angles": np.arange(side) * turn / side, "n_detectors": side}
    if beam == "fan":  # magnified by 1.5
        arguments |= {"source_origin": 4.0 * side, "origin_detector": 2.0 * side, "detector_spacing": 1.55}
    return arguments


def ours(side: int, beam: str, engine: str) -> dict[str, Callable[[], Any]]:
    physics = Tomography(**geometry(side, beam), engine=engine)
    return functions_of(physics, torch.rand(1, 1, side, side))


def deepinv(side: int, beam: str) -> dict[str, Callable[[], Any]]:
    import deepinv as library

    if beam != "parallel":
        raise NotImplementedError("its fan is not the same scanner")
    physics = library.physics.Tomography(angles=side, img_width=side, circle=True, normalize=False)
    physics.A_dagger = functools.partial(physics.A_dagger, fbp=True)  # its default solves least squares
    return functions_of(physics, torch.rand(1, 1, side, side))


def functions_of(physics: Any, x: Tensor) -> dict[str, Callable[[], Any]]:
    """What is timed of an operator in torch."""
    y = physics.A(x)
    f = Reconstructor(UNet(1, 1, base_channels=16, norm="none"), physics)
    optimizer = torch.optim.Adam(f.net.parameters())
    closure, transform = EIClosure(1.0), Rotate(1)

    def step() -> None:
        optimizer.zero_grad()
        closure(f, physics, transform, y)["total"].backward()
        optimizer.step()

    return {
        "A": functools.partial(without_gradient, physics.A, x),
        "adjoint": functools.partial(without_gradient, physics.A_adjoint, y),
        "A_dagger": functools.partial(without_gradient, physics.A_dagger, y),
        "CG_step": functools.partial(without_gradient, lambda y: pinv_cg(physics, y, CG_STEPS, tol=0), y),
        "EI_step": step,
    }


def without_gradient(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    with torch.no_grad():
        return function(at)


def astra_alone(side: int, beam: str) -> dict[str, Callable[[], Any]]:
    """ASTRA's own algorithms with its linear (parallel) or line (fan) projector on the CPU, in one thread."""
    import astra

    arguments = geometry(side, beam)
    angles, spacing = np.deg2rad(arguments["angles"]), arguments.get("detector_spacing", 1.0)
    volume = astra.create_vol_geom(side, side)
    if beam == "parallel":
        rays = astra.create_proj_geom("parallel", spacing, side, angles)
    else:
        distances = arguments["source_origin"], arguments["origin_detector"]
        rays = astra.create_proj_geom("fanflat", spacing, side, angles, *distances)
    projector = astra.create_projector("linear" if beam == "parallel" else "line_fanflat", rays, volume)
    image = astra.data2d.create("-vol", volume, np.random.default_rng(0).random((side, side), np.float32))
    result, sinogram = astra.data2d.create("-vol", volume), astra.data2d.create("-sino", rays)

    def algorithm(name: str, iterations: int = 1) -> Callable[[], None]:
        config = astra.astra_dict(name)
        config |= {"ProjectorId": projector, "ProjectionDataId": sinogram}
        config["VolumeDataId" if name == "FP" else "ReconstructionDataId"] = image if name == "FP" else result
        identifier = astra.algorithm.create(config)
        return lambda: astra.algorithm.run(identifier, iterations)

    found: dict[str, Callable[[], Any]] = {
        "A": algorithm("FP"),
        "adjoint": algorithm("BP"),
        "CG_step": algorithm("CGLS", CG_STEPS),
    }
    if beam == "parallel":  # it has no filtered back-projection of a fan on the CPU
        found["A_dagger"] = algorithm("FBP")
    found["A"]()
    return found


MAKERS: dict[str, Callable[[int, str], dict[str, Callable[[], Any]]]] = {
    "matrix": functools.partial(ours, engine="matrix"),
    "astra": functools.partial(ours, engine="astra"),
    "ASTRA alone": astra_alone,
    "deepinv": deepinv,
}


def peak() -> float:
    """The most memory of this process so far, in MB (Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def seconds(function: Callable[[], Any]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def measure(side: int, beam: str, program: str, repeats: int) -> dict[str, Any]:
    """A row of the table, of this process."""
    torch.manual_seed(0)
    if program in ("ASTRA alone", "deepinv"):
        importlib.import_module("astra" if program == "ASTRA alone" else "deepinv")
    before = peak()
    began = time.perf_counter()
    functions = MAKERS[program](side, beam)
    functions.get("A_dagger", functions["A"])()
    built = time.perf_counter() - began
    times = {name: statistics.median(seconds(function) for _ in range(repeats)) for name, function in functions.items()}
    row = {f"{name}_ms": f"{1e3 * value / (CG_STEPS if name == 'CG_step' else 1):.1f}" for name, value in times.items()}
    build = max(0.0, built - times["A"] - times.get("A_dagger", times["A"]))
    return {**row, "build_s": f"{build:.2f}", "peak_MB": f"{peak() - before:.0f}", "threads": torch.get_num_threads(),
            "load": f"{os.getloadavg()[0]:.1f}"}  # fmt: skip


def row_of(side: int, beam: str, program: str, repeats: int, limit: float) -> dict[str, Any]:
    """The same in a process of its own; with the reason where it does not end well."""
    head = {"N": side, "beam": beam, "program": program}
    command = [sys.executable, __file__, "--one", str(side), beam, program, "--repeats", str(repeats)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {**head, "skipped": f"longer than {limit:g} s"}
    if done.returncode < 0:
        return {**head, "skipped": f"ended by signal {-done.returncode} (out of memory?)"}
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {**head, "skipped": lines[-1][:200] if lines else f"ended with code {done.returncode}"}
    return {**head, **json.loads(done.stdout.splitlines()[-1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024, 2048], metavar="N")
    parser.add_argument("--beams", nargs="+", default=BEAMS, choices=BEAMS)
    parser.add_argument("--programs", nargs="+", default=PROGRAMS, choices=PROGRAMS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--limit", type=float, default=3600, metavar="SECONDS", help="of each process")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", nargs=3, metavar=("N", "BEAM", "PROGRAM"), help="measure one in this process")
    options = parser.parse_args()
    if options.one:
        side, beam, program = options.one
        print(json.dumps(measure(int(side), beam, program, options.repeats)))
        return
    if options.out is None:
        parser.error("--out is needed")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with open(options.out, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for side in options.sizes:
            for beam in options.beams:
                for program in options.programs:
                    row = row_of(side, beam, program, options.repeats, options.limit)
                    writer.writerow(row)
                    file.flush()
                    print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)


if __name__ == "__main__":
    main()
