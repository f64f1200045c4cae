"""Minutes of training until the test slices of CT100 are reconstructed at 31, 32, 33 dB: ours and deepinv's EI.

    python benchmarks/time_to_quality.py ours    --data CT100_128x128.mat --out ours.csv
    python benchmarks/time_to_quality.py deepinv --data CT100_128x128.mat --out deepinv.csv
    python benchmarks/time_to_quality.py compare ours.csv deepinv.csv

Both train the same UNet from the same weights on the same batches with Adam, cosine to zero, one thread, and are tested
alike (eval mode, usual PSNR). The clock is this process's CPU time without the tests, so that both can run at once on
a shared machine. Each uses its own operator, network code, losses and rotations.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]
import peers  # noqa: E402
from speed_tables import minutes_to  # noqa: E402

from ei.closure import EIClosure  # noqa: E402
from ei.common.memory import keep_freed_memory  # noqa: E402
from ei.datasets import CTData, make_loader  # noqa: E402
from ei.metrics import psnr  # noqa: E402
from ei.models import Reconstructor, UNet  # noqa: E402
from ei.physics import CT  # noqa: E402
from ei.training import cosine_schedule  # noqa: E402
from ei.transforms import Rotate  # noqa: E402

N, V = 128, 50


def train(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    net: torch.nn.Module = UNet(1, 1, base_channels=options.base_channels)
    f: Callable[[torch.Tensor], torch.Tensor]
    loss_of: Callable[[torch.Tensor], torch.Tensor]
    physics = CT(N, V)
    if options.who == "ours":
        keep_freed_memory()
        f = Reconstructor(net, physics, options.precision)
        closure, transform = EIClosure(100), Rotate(options.ei_trans)

        def ours(y: torch.Tensor) -> torch.Tensor:
            return closure(f, physics, transform, y)["total"]

        loss_of = ours
    else:
        weights = net.state_dict().values()
        theirs = peers.deepinv_net(options.base_channels)
        theirs.load_state_dict(dict(zip(theirs.state_dict(), weights, strict=True)))
        net = theirs
        bf16 = options.precision == "bf16"
        loss_of, f = peers.deepinv_training(peers.deepinv_ct(N, V), theirs, options.ei_trans, bf16)
    loader = make_loader(CTData("train", options.data), batch_size=2, seed=options.seed)
    test = CTData("test", options.data).images[:, None]
    sinograms = physics.A(test)
    optimizer = torch.optim.Adam(net.parameters(), lr=options.lr, weight_decay=1e-8)
    factor = cosine_schedule(options.epochs)
    spent, step = 0.0, 0
    with open(options.out, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "step", "cpu_minutes", "psnr"])
        for epoch in range(options.epochs):
            optimizer.param_groups[0]["lr"] = options.lr * factor(epoch)
            loader.batch_sampler.set_epoch(epoch)
            net.train()
            began = time.process_time()
            for batch in loader:
                y = physics.A(batch["x"][:, None])
                optimizer.zero_grad()
                loss_of(y).backward()
                optimizer.step()
                step += 1
            spent += time.process_time() - began
            net.eval()
            with torch.no_grad():
                outputs = [psnr(f(y[None]), x[None]) for x, y in zip(test, sinograms, strict=True)]
            quality = float(torch.cat(outputs).mean())
            writer.writerow([epoch + 1, step, f"{spent / 60:.3f}", f"{quality:.3f}"])
            file.flush()


def compare(paths: list[str]) -> None:
    """First epoch from which the PSNR is at least so high, and its minute: once, and for good."""
    for path in paths:
        with open(path, newline="") as file:
            rows = [(float(r["cpu_minutes"]), float(r["psnr"])) for r in csv.DictReader(file)]
        for wanted in (30, 31, 32, 33):
            first, lasting = minutes_to(rows, wanted)
            print(f"{path}: {wanted} dB first after {first} min, for good after {lasting} min")
        print(f"{path}: {len(rows)} epochs in {rows[-1][0]} min, {rows[-1][1]:.2f} dB at the end")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("who", choices=["ours", "deepinv", "compare"])
    parser.add_argument("files", nargs="*", help="of compare")
    parser.add_argument("--data", default="dataset/CT/CT100_128x128.mat")
    parser.add_argument("--out")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--base-channels", type=int, default=16)
    parser.add_argument("--ei-trans", type=int, default=5)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    options = parser.parse_args()
    if options.who == "compare":
        compare(options.files)
    else:
        options.out = options.out or f"{options.who}.csv"
        train(options)


if __name__ == "__main__":
    main()
