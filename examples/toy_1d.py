"""The paper's toy problem in one dimension: why a group makes an image learnable that no measurement shows.

    python examples/toy_1d.py [--quick]

Signals are scaled copies of one triangle whose base is the whole period; the samples in [0.50, 0.75) of it are never
measured. Left: fitting the measurements alone, five networks that differ in nothing but their seed fill the gap
differently, at the same measurement consistency. Right: the set of signals is made invariant to shifts, and EI fills
the gap as it should. Writes toy_1d.png and prints the error in the gap. About two minutes on a CPU.
"""

import argparse
from typing import Any

import torch
from torch import Tensor, nn

from ei.closure import Closure, EIClosure, MCClosure
from ei.common.drawing import new_figure
from ei.datasets import make_loader
from ei.models import Reconstructor
from ei.training import Trainer, cosine_schedule
from ei.transforms import Shift1D

LENGTH = 64
POSITION = torch.arange(LENGTH) / LENGTH
TRIANGLE = 1 - (2 * POSITION - 1).abs()


class Gap:
    """Samples in [0.50, 0.75) are not measured."""

    mask = 1 - ((POSITION >= 0.5) & (POSITION < 0.75)).float()

    def A(self, x: Tensor) -> Tensor:
        return self.mask * x

    def A_dagger(self, y: Tensor) -> Tensor:
        return self.mask * y


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Linear(LENGTH, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, LENGTH)]
    return nn.Sequential(*layers)


def train(signals: Tensor, closure: Closure, transform: Any, seed: int, epochs: int) -> tuple[nn.Module, float]:
    """Train on measurements of ``signals`` ``[n, 1, 1, LENGTH]``; returns f and the last epoch's mean MC loss."""
    f = Reconstructor(network(seed), Gap())
    optimizer = torch.optim.Adam(f.net.parameters(), lr=1e-3)
    trainer = Trainer(f, Gap(), transform, closure, {"total": optimizer}, epochs=epochs, seed=seed, out=False,
                      schedule=cosine_schedule(epochs), report_psnr=False, progress=False)  # fmt: skip
    log = trainer.fit(make_loader(list(signals), batch_size=32, seed=seed))
    return f.eval(), log[-1].get("loss_mc", log[-1].get("loss_fc", float("nan")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the training, to see that it runs")
    parser.add_argument("--out", default="toy_1d.png", help="the figure (default: toy_1d.png)")
    given = parser.parse_args()
    shorter = 10 if given.quick else 1
    torch.set_num_threads(1)  # the networks are tiny

    torch.manual_seed(0)
    scale = 0.5 + torch.rand(512, 1, 1, 1)
    fixed = scale * TRIANGLE
    shifted = torch.cat([torch.roll(one, k % LENGTH, dims=-1)[None] for k, one in enumerate(fixed)])
    gap = Gap.mask == 0
    test = TRIANGLE.view(1, 1, 1, -1)

    fills, worst = [], 0.0
    for seed in range(5):
        f, mc = train(fixed, MCClosure(), None, seed, 150 // shorter)
        with torch.no_grad():
            fills.append(f(Gap().A(test)).flatten())
        worst = max(worst, mc)
    spread = torch.stack(fills)[:, gap].std(dim=0).mean()
    print(f"without the group: five seeds, MC loss at most {worst:.1e}, spread in the gap {spread:.3f} (mean standard "
          f"deviation), error {(torch.stack(fills) - TRIANGLE)[:, gap].square().mean().sqrt():.3f} (RMS)")  # fmt: skip

    f, mc = train(shifted, EIClosure(alpha=1), Shift1D(3), 0, 600 // shorter)
    everywhere = torch.stack([torch.roll(TRIANGLE, k) for k in range(LENGTH)]).view(LENGTH, 1, 1, -1)
    with torch.no_grad():
        found, all_found = f(Gap().A(test)).flatten(), f(Gap().A(everywhere))
    error = (found - TRIANGLE)[gap].square().mean().sqrt()
    all_error = (all_found - everywhere)[..., gap].square().mean().sqrt()
    print(f"with shifts and EI: MC loss {mc:.1e}, error in the gap {error:.3f} (RMS), over all shifts of the triangle "
          f"{all_error:.3f}")  # fmt: skip

    figure = new_figure(figsize=(10, 3.6))
    left, right = figure.subplots(1, 2, sharey=True)
    for ax, title in ((left, "measurement consistency alone, five seeds"), (right, "EI, shift-invariant set")):
        ax.axvspan(0.5, 0.75, color="0.9", label="not measured")
        ax.plot(POSITION, TRIANGLE, color="black", label="truth")
        ax.set(title=title, xlabel="position")
    for fill in fills:
        left.plot(POSITION, fill, linewidth=1)
    right.plot(POSITION, found, color="tab:red", label="EI")
    right.legend()
    figure.savefig(given.out, dpi=120)
    print(f"figure: {given.out}")


if __name__ == "__main__":
    main()
