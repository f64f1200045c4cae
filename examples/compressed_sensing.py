"""Compressed sensing of handwritten digits (the paper's project page): 64 random measurements of 16 x 16 pixels.

    python examples/compressed_sensing.py --data usps.npz           train_data, test_data: uint8 [n, 16, 16]
    python examples/compressed_sensing.py --data usps/              torchvision's USPS in that folder (--download)
    python examples/compressed_sensing.py                           no data: scikit-learn's 8 x 8 digits, upsampled

A is a Gaussian 64 x 256 matrix over sqrt(64), A_dagger its pseudo-inverse. EI with 2 shifts learns what A does not see;
measurement consistency alone (MC) cannot. Prints the PSNR on the test digits and writes compressed_sensing.png.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ei.closure import Closure, EIClosure, MCClosure
from ei.common.checks import check_number
from ei.common.drawing import image_grid
from ei.common.scripts import run_script
from ei.datasets import make_loader
from ei.errors import InputError, MissingExtraError
from ei.evaluation import evaluate, reconstruct_all, summary
from ei.models import Reconstructor
from ei.models.unet import Block, Up
from ei.physics import Physics
from ei.training import Trainer
from ei.transforms import Shift

SIDE, MEASUREMENTS = 16, 64


class CompressedSensing(Physics):
    """``y = A x`` with a dense random matrix; measurements ``[B, C, 64]``."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        drawn = torch.randn(MEASUREMENTS, SIDE**2, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("matrix", drawn / math.sqrt(MEASUREMENTS))
        self.register_buffer("pinv", torch.linalg.pinv(self.matrix.double()).float())

    def A(self, x: Tensor) -> Tensor:
        return x.flatten(2) @ self.matrix.T

    def A_dagger(self, y: Tensor) -> Tensor:
        return (y @ self.pinv.T).unflatten(2, (SIDE, SIDE))


class SmallUNet(nn.Module):
    """A residual UNet of three levels: 16 x 16 pixels do not allow the paper's four."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.down = nn.ModuleList([Block(1, width), Block(width, 2 * width), Block(2 * width, 4 * width)])
        self.up = nn.ModuleList([Up(4 * width, 2 * width), Up(2 * width, width)])
        self.merge = nn.ModuleList([Block(4 * width, 2 * width), Block(2 * width, width)])
        self.pool, self.last = nn.MaxPool2d(2), nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down[0](x)
        second = self.down[1](self.pool(first))
        deep = self.down[2](self.pool(second))
        deep = self.merge[0](torch.cat([second, self.up[0](deep)], dim=1))
        deep = self.merge[1](torch.cat([first, self.up[1](deep)], dim=1))
        return x + self.last(deep)


def read_digits(data: str | None, download: bool) -> tuple[str, Tensor, Tensor]:
    """A name, and train and test digits ``[n, 1, 16, 16]`` in [0, 1]."""
    if data is None:
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise MissingExtraError(
                "without --data, scikit-learn's digits are used: pip install 'equivariant-imaging[examples]'"
            ) from error
        small = torch.from_numpy(load_digits().images).float()[:, None] / 16
        digits = nn.functional.interpolate(small, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        return "scikit-learn's 8 x 8 digits, upsampled (not USPS)", digits[:1500], digits[1500:]
    if Path(data).suffix == ".npz":
        try:
            with np.load(data) as file:
                sets = [torch.from_numpy(file[f"{mode}_data"]) for mode in ("train", "test")]
        except (OSError, KeyError, ValueError) as error:
            raise InputError(f"{data} is no .npz file with train_data and test_data: {error}") from error
    else:
        from torchvision.datasets import USPS

        try:
            sets = [torch.from_numpy(USPS(data, train, download=download).data) for train in (True, False)]
        except RuntimeError as error:
            raise InputError(f"there is no USPS in {data}: {error}; --download fetches it") from error
    for digits in sets:
        if digits.shape[1:] != (SIDE, SIDE):
            raise InputError(f"digits must be [n, 16, 16], not {list(digits.shape)}")
    return f"USPS ({data})", *((digits.float() / 255)[:, None] for digits in sets)


def train(digits: Tensor, physics: CompressedSensing, closure: Closure, epochs: int) -> Reconstructor:
    torch.manual_seed(0)
    f = Reconstructor(SmallUNet(), physics)
    optimizer = torch.optim.Adam(f.net.parameters(), lr=5e-4, weight_decay=1e-8)
    trainer = Trainer(f, physics, Shift(2), closure, {"total": optimizer}, epochs=epochs, out=False)
    trainer.fit(make_loader(list(digits), batch_size=8))
    return f


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="an .npz file, or a folder for torchvision's USPS")
    parser.add_argument("--download", action="store_true", help="let torchvision download USPS into --data")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--images", type=int, default=1500, help="training digits (default: 1500)")
    parser.add_argument("--test-images", type=int, default=500, help="test digits (default: 500)")
    parser.add_argument("--out", default="compressed_sensing.png", help="the figure")
    options = parser.parse_args()
    for option, least in (("epochs", 1), ("images", 8), ("test_images", 1)):
        check_number(f"--{option.replace('_', '-')}", getattr(options, option), integer=True, least=least)
    name, digits, test = read_digits(options.data, options.download)
    digits, test = digits[: options.images], test[: options.test_images]
    physics = CompressedSensing()

    networks = {
        "MC": train(digits, physics, MCClosure(), options.epochs),
        "EI": train(digits, physics, EIClosure(alpha=10), options.epochs),
    }
    print(f"\n{name}: {len(digits)} training digits, {options.epochs} epochs; {len(test)} test digits")
    more = {"MC": lambda physics, y: networks["MC"].eval()(y).detach()}
    rows = evaluate(networks["EI"], physics, list(test), more)
    print(summary(rows, {"pinv": "A_dagger y", "MC": "MC", "net": "EI"}))
    drawn = []
    for index in range(min(4, len(test))):
        done = reconstruct_all(networks["EI"], physics, test[index : index + 1])
        mc = more["MC"](physics, done["y"])
        drawn.append({"A_dagger y": done["pinv"][0], "MC": mc[0], "EI": done["net"][0], "truth": test[index]})
    image_grid(drawn, Path(options.out))
    print(f"figure: {options.out}")


if __name__ == "__main__":
    run_script("compressed_sensing.py", main)
