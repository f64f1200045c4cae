"""Why the group matters: super-resolution cannot be learnt with shifts, and can with scalings.

    python examples/super_resolution.py [--epochs N]

A takes the means of 2 x 2 pixels. What it does not see are fine details, and shifting an image does not make its fine
details visible; shrinking it does (Scanvic et al., "Self-supervised learning for image super-resolution and
deblurring", 2023), if no gradient flows through the shrunk image. Generated dead leaves images, which look the same at
all scales.
"""

import argparse

import torch
from torch import Tensor, nn
from torch.nn import functional

from ei.closure import EIClosure
from ei.datasets import DeadLeaves, make_loader
from ei.evaluation import diagnose, evaluate, summary
from ei.models import Reconstructor
from ei.training import Trainer, cosine_schedule
from ei.transforms import Scale, Shift, Transform

SIZE = 64


class Means:
    """Means of 2 x 2 pixels, every second row and column."""

    def A(self, x: Tensor) -> Tensor:
        return functional.avg_pool2d(x, 2)

    def A_dagger(self, y: Tensor) -> Tensor:
        return y.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1)


class Refine(nn.Module):
    """Five convolutions that correct an upsampled image, without BatchNorm, as is usual for super-resolution."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        inner = [layer for _ in range(3) for layer in (nn.Conv2d(width, width, 3, padding=1), nn.ReLU())]
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), *inner, nn.Conv2d(width, 3, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def train(transform: Transform, stop_gradient: bool, epochs: int) -> Reconstructor:
    torch.manual_seed(0)
    f = Reconstructor(Refine(), Means())
    optimizer = torch.optim.Adam(f.net.parameters(), lr=1e-3)
    closure = EIClosure(alpha=1, stop_gradient=stop_gradient)
    trainer = Trainer(f, Means(), transform, closure, {"total": optimizer}, epochs=epochs, out=False,
                      schedule=cosine_schedule(epochs), progress=False)  # fmt: skip
    trainer.fit(make_loader(DeadLeaves("train", SIZE), batch_size=2))
    return f.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=12)
    epochs = parser.parse_args().epochs
    print("shifts:", diagnose(Means(), Shift(3), (1, 24, 24)).verdict, flush=True)
    trials = {
        "shifts": (Shift(1), False),
        "scales": (Scale(1), False),
        "scales, stopped gradient": (Scale(1), True),
    }
    networks = {}
    for name, (transform, stop_gradient) in trials.items():
        networks[name] = train(transform, stop_gradient, epochs)
        print(f"{name}: trained", flush=True)
    more = {name: lambda physics, y, f=f: f(y).detach() for name, f in networks.items()}
    more["bicubic"] = lambda physics, y: functional.interpolate(y, scale_factor=2, mode="bicubic", align_corners=False)
    rows = evaluate(networks["shifts"], Means(), DeadLeaves("test", SIZE), more)
    print(summary(rows, {"pinv": "A_dagger y", "bicubic": "bicubic", **{name: f"EI, {name}" for name in trials}}))


if __name__ == "__main__":
    main()
