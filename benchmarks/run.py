"""Speed and memory, side by side with peers: the same inputs, checked equal first, interleaved repeats.

    python benchmarks/run.py                     every section: build, operator, step, unrolled, growth
    python benchmarks/run.py operator step       some of them
    python benchmarks/run.py --repeats 20 --out results.json

Prints tables (median, minimum, ratio of medians to ours) and writes JSON with machine and versions. Peers come from
the extra ``bench``: pip install -e '.[bench]'.
"""

from __future__ import annotations

import argparse
import copy
import functools
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]
import peers  # noqa: E402

from ei.common.memory import keep_freed_memory  # noqa: E402
from ei.models import UNet, Unrolled  # noqa: E402
from ei.physics import CT  # noqa: E402
from ei.physics.ct import radon_matrix, view_degrees  # noqa: E402
from ei.physics.linear_map import LinearMap  # noqa: E402

N, V = 128, 50
Table = dict[str, dict[str, float]]


def compare(functions: Mapping[str, Callable[[], Any]], repeats: int) -> Table:
    """Times of each function in ms: one warm-up, then ``repeats`` rounds in which each runs once."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for round_ in range(repeats + 1):
        for name, function in functions.items():
            began = time.perf_counter()
            function()
            if round_:
                times[name].append(1e3 * (time.perf_counter() - began))
    ours = statistics.median(times["ours"])
    return {
        name: {"median_ms": statistics.median(t), "min_ms": min(t), "ratio": statistics.median(t) / ours}
        for name, t in times.items()
    }


def show(title: str, table: Table) -> None:
    print(f"\n{title}")
    for name, row in table.items():
        print(f"  {name:28} median {row['median_ms']:10.3f} ms   min {row['min_ms']:10.3f} ms   {row['ratio']:7.2f} x")


def check_equal(a: torch.Tensor, b: torch.Tensor, tolerance: float, what: str) -> None:
    difference = float((a - b).norm() / b.norm())
    print(f"{what}: relative difference {difference:.1e}")
    if not difference < tolerance:
        raise SystemExit(f"{what} are not equal: the comparison would mean nothing")


def with_backward(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> Callable[[], Any]:
    at = x.detach().clone().requires_grad_()
    weights = torch.randn_like(function(x))
    return lambda: torch.autograd.grad(function(at), at, weights)


def operator_section(repeats: int) -> dict[str, Table]:
    ours, loop, theirs = CT(N, V), peers.LoopCT(N, V), peers.deepinv_ct(N, V)
    tables = {}
    for batch in (10, 1):
        x = torch.rand(batch, 1, N, N)
        y = ours.A(x)
        for name, peer in (("loop", loop.A), ("deepinv", theirs.radon)):
            check_equal(peer(x), y, 1e-4, f"A of {name} and ours, batch {batch}")
        for name, peer in (("loop", loop.A_dagger), ("deepinv", theirs.iradon)):
            check_equal(peer(y), ours.A_dagger(y), 1e-4, f"A_dagger of {name} and ours, batch {batch}")
        for what, at, functions in (
            ("A", x, {"ours": ours.A, "loop of grid_sample": loop.A, "deepinv": theirs.radon}),
            ("A_dagger", y, {"ours": ours.A_dagger, "loop of grid_sample": loop.A_dagger, "deepinv": theirs.iradon}),
        ):
            forward = compare({name: functools.partial(f, at) for name, f in functions.items()}, repeats)
            tables[f"{what}, batch {batch}, forward"] = forward
            both = compare({name: with_backward(f, at) for name, f in functions.items()}, repeats)
            tables[f"{what}, batch {batch}, forward + backward"] = both
    image = torch.rand(10, 1, N, N)
    astra_forward, arrays = peers.astra_forward(N, V), [i[0].numpy() for i in image]
    tables["A, 10 images, ours in one batch, ASTRA one by one"] = compare(
        {"ours": lambda: ours.A(image), "ASTRA linear, CPU": lambda: [astra_forward(a) for a in arrays]}, repeats
    )
    for title, table in tables.items():
        show(title, table)
    return tables


def build_section(repeats: int) -> dict[str, Any]:
    seconds = []
    for _ in range(max(3, repeats // 4)):
        began = time.perf_counter()
        CT(N, V)  # dropped at once, and its matrices with it
        seconds.append(time.perf_counter() - began)
    kept = CT(N, V)
    megabytes = bytes_of_matrices(kept) / 1e6
    print(f"\nbuilding CT({N}, {V}): median {statistics.median(seconds):.2f} s; its matrices take {megabytes:.0f} MB")
    return {"median_s": statistics.median(seconds), "matrices_MB": megabytes}


def bytes_of_matrices(physics: CT) -> int:
    maps = (make(torch.device("cpu"), torch.float32) for make in (physics.projection, physics.back_projection))
    return sum(one.nbytes for one in maps)


STEPS = {"ours": peers.our_step, "loop of grid_sample": peers.loop_step, "deepinv": peers.deepinv_step}


def take_steps(name: str, bf16: bool) -> dict[str, Any]:
    """Times and peak memory of a few steps, in a process of its own; freed memory is kept, as demo_train.py does."""
    keep_freed_memory()
    y = CT(N, V).A(torch.rand(2, 1, N, N))
    step = STEPS[name](N, V, 5, bf16)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step(y)
    times = []
    for _ in range(3):
        began = time.perf_counter()
        step(y)
        times.append(1e3 * (time.perf_counter() - began))
    return {"times": times, "MB": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3}


def step_section(repeats: int) -> dict[str, Any]:
    """The EI step of the paper's CT network, batch 2, 5 rotations; processes alternate between the contenders."""
    ours_net, their_net = UNet(1, 1), peers.deepinv_net()
    their_net.load_state_dict(dict(zip(their_net.state_dict(), ours_net.state_dict().values(), strict=True)))
    x = torch.rand(2, 1, N, N)
    with torch.no_grad():
        check_equal(their_net(x), ours_net(x), 1e-5, "UNet of deepinv and ours")
    times: dict[tuple[str, bool], list[float]] = {}
    megabytes: dict[tuple[str, bool], float] = {}
    for _ in range(max(2, repeats // 6)):
        for bf16 in (False, True):
            for name in STEPS:
                command = [sys.executable, __file__, "--steps-of", name, *(["--bf16"] if bf16 else [])]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                result = json.loads(done.stdout.splitlines()[-1])
                times.setdefault((name, bf16), []).extend(result["times"])
                megabytes[name, bf16] = max(megabytes.get((name, bf16), 0), result["MB"])
    tables: dict[str, Any] = {}
    for bf16 in (False, True):
        ours = statistics.median(times["ours", bf16])
        title = f"EI step, CT {N}, {V} views, batch 2, 5 rotations, {'bf16' if bf16 else 'fp32'}"
        tables[title] = {
            name: {
                "median_ms": statistics.median(times[name, bf16]),
                "min_ms": min(times[name, bf16]),
                "ratio": statistics.median(times[name, bf16]) / ours,
                "peak_MB": megabytes[name, bf16],
            }
            for name in STEPS
        }
        show(title, tables[title])
        print("  peak memory: " + ", ".join(f"{name} {megabytes[name, bf16]:.0f} MB" for name in STEPS))
    return tables


def unrolled_section(repeats: int) -> dict[str, Any]:
    """A reconstruction by network and conjugate gradients in turn, and its gradient, at the size of the CT recipe."""
    iterations, cg_steps = 3, 5
    net = peers.small_net()
    physics = CT(N, V)
    ours = Unrolled(net, physics, iterations=iterations, cg_steps=cg_steps)
    y = physics.A(torch.nn.functional.avg_pool2d(torch.rand(2, 1, 4 * N, 4 * N), 4))
    double = Unrolled(copy.deepcopy(net).double(), physics, iterations=iterations, cg_steps=cg_steps)
    with torch.no_grad():
        loop = peers.deepinv_loop(double.net, physics, iterations, cg_steps)
        check_equal(double(y.double()), loop(y.double()), 1e-4, "Unrolled and the loop over deepinv's LinearPhysics")
    theirs = peers.deepinv_modl(net, N, V, iterations, cg_steps)
    functions: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"ours": ours, "deepinv MoDL": theirs}

    def trained(f: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(f(y).square().mean(), list(net.parameters()))

    weight = torch.ones((), requires_grad=True)

    def physics_trained() -> Any:
        return torch.autograd.grad(_towards_data(ours, y, weight).square().mean(), weight)

    with torch.no_grad():
        forward = compare({name: functools.partial(f, y) for name, f in functions.items()}, repeats)
        physics_alone = compare(
            {"ours": lambda: ours(y), "of it conjugate gradients": lambda: _towards_data(ours, y)}, repeats
        )
    tables = {
        "unrolled, batch 2, forward": forward,
        "unrolled, batch 2, forward + backward": compare({n: trained(f) for n, f in functions.items()}, repeats),
        "unrolled, batch 2, forward, its parts": physics_alone,
        "unrolled, batch 2, forward + backward, its parts": compare(
            {"ours": trained(ours), "of it conjugate gradients": physics_trained}, repeats
        ),
    }
    for title, table in tables.items():
        show(title, table)
    return tables


def _towards_data(f: Unrolled, y: torch.Tensor, weight: torch.Tensor | float = 1.0) -> torch.Tensor:
    """What `Unrolled` does with one weight for its network."""
    x = f._pinv(y, 2 * f.cg_steps)
    for _ in range(f.iterations):
        x = weight * x
        x = x + f._pinv(y - f.physics.A(x), f.cg_steps)
    return x


def measure_growth(img_width: int, radon_view: int) -> dict[str, float]:
    """Build time, memory and time per image of one geometry, in a process of its own."""
    CT(8, 3)  # imports and first calls
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    physics = CT(img_width, radon_view)
    build = time.perf_counter() - began
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3
    kept = bytes_of_matrices(physics)
    batch = 10
    x = torch.rand(batch, 1, img_width, img_width)
    y = physics.A(x)
    times = {}
    for name, function in (("A", lambda: physics.A(x)), ("A_dagger", lambda: physics.A_dagger(y))):
        times[name] = compare({"ours": function}, 5)["ours"]["median_ms"] / batch
    return {
        "build_s": build,
        "matrices_MB": kept / 1e6,
        "while_building_MB": peak,
        "bytes_per_pixel_and_view": kept / (img_width**2 * radon_view),
        "A_ms_per_image": times["A"],
        "A_dagger_ms_per_image": times["A_dagger"],
    }


def growth_section(repeats: int) -> dict[str, dict[str, float]]:
    """How cost grows with N and V; up to 8 GB are needed for the largest."""
    table = {}
    print("\n    N    V   build s   matrices MB   while building MB   bytes/(N^2 V)   A ms/image   A_dagger ms/image")
    for n in (64, 128, 256, 512):
        for v in (20, 50, 180):
            command = [sys.executable, __file__, "--growth-of", str(n), str(v)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            row = json.loads(done.stdout.splitlines()[-1])
            table[f"N = {n}, V = {v}"] = row
            print(f"{n:5} {v:4} {row['build_s']:9.2f} {row['matrices_MB']:13.0f} {row['while_building_MB']:19.0f} "
                  f"{row['bytes_per_pixel_and_view']:15.1f} {row['A_ms_per_image']:12.2f} "
                  f"{row['A_dagger_ms_per_image']:19.2f}")  # fmt: skip
    return table


def symmetry_section(repeats: int) -> dict[str, Table]:
    """The matrices of the views that give the others, beside those of all views."""
    few = CT(N, V).projection(torch.device("cpu"), torch.float32)
    matrix = radon_matrix(view_degrees(V, True, 0.0), N, CT(N, V).n_detectors)
    whole = LinearMap.from_scipy(matrix, torch.device("cpu"), torch.float32)
    tables = {}
    for count in (1, 2, 4, 10, 20):
        x = torch.rand(N * N, count)
        y = whole(x)
        check_equal(few(x), y, 1e-5, f"A of {count} images")
        for name, maps, at in (("A", (few, whole), x), ("adjoint of A", (few.T, whole.T), y)):
            functions = dict(
                zip(("ours", "matrix of all views"), (functools.partial(m, at) for m in maps), strict=True)
            )
            tables[f"{name}, {count} image{'s' * (count > 1)}"] = compare(functions, repeats)
    for title, table in tables.items():
        show(title, table)
    return tables


SECTIONS = {
    "build": build_section,
    "symmetry": symmetry_section,
    "operator": operator_section,
    "step": step_section,
    "unrolled": unrolled_section,
    "growth": growth_section,
}


def machine() -> dict[str, Any]:
    model = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    installed = {distribution.metadata["Name"].lower() for distribution in importlib.metadata.distributions()}
    packages = ("torch", "deepinv", "astra-toolbox", "numpy", "scipy")
    versions = {name: importlib.metadata.version(name) for name in packages if name in installed}
    return {"cpu": model, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "versions": versions,
            "capability": torch.backends.cpu.get_cpu_capability()}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", help="default: all")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", default="benchmarks/results.json")
    parser.add_argument("--steps-of", help=argparse.SUPPRESS)
    parser.add_argument("--growth-of", nargs=2, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--bf16", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.steps_of:
        print(json.dumps(take_steps(options.steps_of, options.bf16)))
        return
    if options.growth_of:
        print(json.dumps(measure_growth(*options.growth_of)))
        return
    result: dict[str, Any] = {"machine": machine()}
    print(json.dumps(result["machine"]))
    for section in options.sections or SECTIONS:
        result[section] = SECTIONS[section](options.repeats)
    Path(options.out).write_text(json.dumps(result, indent=1))
    print(f"\nwritten: {options.out}")


if __name__ == "__main__":
    main()
