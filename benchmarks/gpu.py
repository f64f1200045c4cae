"""Times of training steps on a GPU, with and without CUDA graphs, and of the sparse products; one CSV.

    python benchmarks/gpu.py --out benchmarks/measured/gpu.csv

The problem is the paper's CT (128 x 128, 50 views). A step is loss, backward pass and Adam's step, waited for; medians.
"unrolled" is the reconstruction of configs/recipe/unrolled_wide.yaml, or of unrolled.yaml where its targets are not
frozen; "direct" is the paper's network with 5 rotations.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import scipy.sparse
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ei.closure import EIClosure
from ei.models import Reconstructor, UNet, Unrolled
from ei.models.base import ReconstructionFunction, computing
from ei.physics import CT
from ei.physics.ct import Geometry, back_projection_map, radon_map
from ei.physics.linear_map import CSR, PaddedRows
from ei.transforms import FourierRotate, Rotate

UNROLLED = [  # base channels, batch, precision, frozen targets
    (32, 1, "bf16", True),
    (64, 1, "bf16", True),
    (64, 4, "bf16", True),
    (16, 2, "fp32", False),
]


def step_ms(f: ReconstructionFunction, closure: Any, group: Any, batch: int, repeats: int) -> float:
    physics = f.physics
    x = torch.rand(batch, 1, 128, 128, device="cuda")
    y = physics.A(x)
    optimizer = torch.optim.Adam(f.net.parameters(), lr=1e-4)
    times = []
    with computing(f):
        for _ in range(repeats + 3):  # the first ones record graphs, choose algorithms, allocate
            torch.cuda.synchronize()
            began = time.perf_counter()
            optimizer.zero_grad()
            closure(f, physics, group, y, x)["total"].backward()
            optimizer.step()
            torch.cuda.synchronize()
            times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times[3:])


def steps(repeats: int) -> list[dict[str, object]]:
    physics = CT(128, 50).cuda()
    rows: list[dict[str, object]] = []

    def add(name: str, f: ReconstructionFunction, closure: Any, group: Any, batch: int) -> None:
        f.cuda()
        plain = step_ms(f, closure, group, batch, repeats)
        f.use_cuda_graphs()
        graphs = step_ms(f, closure, group, batch, repeats)
        rows.append({"step": name, "plain_ms": round(plain, 1), "graphs_ms": round(graphs, 1)})
        print(rows[-1], flush=True)

    for channels, batch, precision, frozen in UNROLLED:
        net = UNet(1, 1, base_channels=channels, norm="none")
        add(
            f"unrolled, {channels} channels, batch {batch}, {precision}{', frozen targets' if frozen else ''}",
            Unrolled(net, physics, iterations=5, cg_steps=5, precision=precision),
            EIClosure(1.0, mc_domain="image", stop_gradient=True, frozen_targets=frozen),
            FourierRotate(2),
            batch,
        )
    for precision in ("fp32", "tf32", "bf16"):
        f = Reconstructor(UNet(1, 1), physics, precision)
        add(f"direct, 64 channels, batch 2, {precision}", f, EIClosure(100.0), Rotate(5), 2)
    return rows


def products() -> None:
    """Print what our product with padded rows takes beside cuSPARSE's, and whether either repeats itself."""
    for name, make in (("A", radon_map), ("A_dagger", back_projection_map)):
        csr = make(
            Geometry(128, 50, uniform=False), torch.device("cpu"), torch.float64
        ).matrix  # all views: no symmetry
        assert isinstance(csr, CSR)
        parts = (csr.values.numpy(), csr.columns.numpy(), csr.row_pointers.numpy())
        matrix = scipy.sparse.csr_array(parts, shape=csr.shape)
        for columns in (1, 2, 10):
            v = torch.rand(matrix.shape[1], columns, device="cuda")
            for form in (CSR, PaddedRows):
                product = form.from_scipy(matrix, v.device, v.dtype)
                first = product.multiply(v)
                again = all(torch.equal(product.multiply(v), first) for _ in range(20))
                torch.cuda.synchronize()
                began = time.perf_counter()
                for _ in range(100):
                    product.multiply(v)
                torch.cuda.synchronize()
                each = 10 * (time.perf_counter() - began)
                print(f"{name}, {columns} columns, {form.__name__}: {each:.3f} ms, the same 20 times: {again}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu.py needs a CUDA device")
    print(torch.cuda.get_device_name(), torch.__version__)
    products()
    rows = steps(options.repeats)
    with open(options.out, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
