"""Measurements beside their ground truth."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ei.closure import EIClosure, SupervisedClosure
from ei.datasets import (
    Measurements,
    Pairs,
    make_loader,
)
from ei.models import Reconstructor, UNet
from ei.physics import CT
from ei.training import Trainer
from ei.transforms import Rotate90


@pytest.mark.parametrize("closure", [SupervisedClosure(), EIClosure(1.0)], ids=["sup", "ei"])
def test_pairs_train_as_simulated_measurements_do(files: Path, closure: SupervisedClosure | EIClosure) -> None:
    physics = CT(16, 5)
    pairs = Pairs(Measurements(files / "y.npy"), Measurements(files / "x.npy"))
    found = []
    for loader in (make_loader(pairs, 4), make_loader(pairs.images, 4)):
        torch.manual_seed(0)
        f = Reconstructor(UNet(1, 1, base_channels=4), physics)
        optimizers = {"total": torch.optim.Adam(f.net.parameters(), lr=1e-3)}
        trainer = Trainer(f, physics, Rotate90(2), closure, optimizers, epochs=2, out=False, progress=False)
        found.append((trainer.fit(loader), f.state_dict()))
    assert found[0][0] == found[1][0] and "psnr" in found[0][0][0]
    torch.testing.assert_close(found[0][1], found[1][1], rtol=0, atol=0)


def test_pairs_are_always_measured(files: Path) -> None:
    """Else their measurements would be taken for images."""
    pairs = Pairs(Measurements(files / "y.npy"), Measurements(files / "x.npy"))
    part = torch.utils.data.Subset(pairs, range(3))
    for loader in (make_loader(pairs, 2), make_loader(part, 2), make_loader(pairs, 2, measured=True)):
        assert sorted(next(iter(loader))) == ["index", "x", "y"]
    assert sorted(next(iter(make_loader(pairs.images, 2)))) == ["index", "x"]
