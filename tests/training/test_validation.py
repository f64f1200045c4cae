"""The validation set of a run: which part of the data it is, and what the commands do with it."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import scipy.io
import torch
from conftest import Result

import ei
from ei.closure import MCClosure, SUREClosure
from ei.common.files import load_file
from ei.common.seeds import derive_seed, seed_all
from ei.datasets import Measurements, make_loader, split_validation
from ei.metrics import cal_psnr
from ei.models import Reconstructor, UNet
from ei.physics import CT, GaussianNoise, Inpainting
from ei.training import Trainer
from ei.transforms import Shift

Script = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = np.random.default_rng(0).random((11, 16, 16)).astype(np.float32)  # 9 of them train
    scipy.io.savemat(tmp_path / "x.mat", {"DATA": images})
    np.save(tmp_path / "y.npy", CT(16, 5).A(torch.from_numpy(images)[:, None])[:, 0].numpy())
    return tmp_path


COMMON = ("ei train", "--task", "ct", "--ct-views", 5, "--base-channels", 2, "--ei-trans", 1, "-b", 3, "--schedule")


def log(run: str) -> list[dict[str, str]]:
    with open(f"{run}/training_loss.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_part_of_the_training_images_is_the_validation_set(script: Script, folder: Path) -> None:
    """Only where it is asked for; by PSNR, as a table of those images would have it; and it ends with patience."""
    done = script(*COMMON, "--data", "x.mat", "--held-out", 0.2, "--epochs", 3, "--out", "run")
    assert done.code == 0 and "validation set: 2 of 9 training images" in done.out, done.err
    values = [float(row["validation_psnr"]) for row in log("run")]
    best = max(range(3), key=lambda epoch: values[epoch])
    assert load_file("run/ckp_best.pth.tar")["epoch"] == best
    f, (_, rest) = (
        ei.load("run/ckp_best.pth.tar"),
        split_validation(scipy.io.loadmat("x.mat")["DATA"][:9], 0.2, "images"),
    )
    with torch.no_grad():
        truth = [torch.from_numpy(rest[k])[None, None] for k in range(2)]
        each = [float(cal_psnr(f(f.physics.A(x)), x)) for x in truth]
    assert values[best] == pytest.approx(sum(each) / 2, rel=1e-4)

    # A learning rate that makes nothing better: nothing is learned.
    stuck = (*COMMON, "--data", "x.mat", "--held-out", 0.2, "--epochs", 30, "--lr", 1e-30, "--patience", 2)
    done = script(*stuck, "--wd", 0, "network.norm=none", "--out", "stuck")
    assert done.code == 0 and len(log("stuck")) == 3, done
    assert "stopped after epoch 3: validation_psnr was no better in 2 epochs than before" in done.out
    done = script(*stuck, "--out", "stuck", "--resume", "auto")
    assert done.code == 0 and "is finished: none of 2 epochs was better" in done.out
    done = script("ei train", "--resume", "stuck/ckp_last.pth.tar", "--held-out", 0.5)
    assert done.code == 2 and "data.validation 0.5 contradicts the checkpoint" in done.err


def test_the_papers_runs_train_on_all_images(script: Script, folder: Path) -> None:
    done = script(*COMMON, "--data", "x.mat", "--epochs", 1, "--out", "run")
    assert done.code == 0 and "validation set" not in done.out
    assert load_file("run/ckp_last.pth.tar")["step"] == 3 and "validation_psnr" not in log("run")[0]
    done = script(*COMMON, "--data", "x.mat", "--epochs", 1, "--patience", 2, "--out", "other")
    assert done.code == 2 and "--held-out" in done.err and not Path("other").exists()


def test_measurements_are_validated_in_batches(script: Script, folder: Path) -> None:
    done = script(*COMMON, "--measurements", "y.npy", "--held-out", 0.4, "--epochs", 1, "--out", "run")
    assert done.code == 0 and "validation set: 5 of 11 measurements" in done.out, done.err
    f, (_, rest) = ei.load("run/ckp_last.pth.tar"), split_validation(Measurements("y.npy"), 0.4, "measurements")
    with torch.no_grad():
        y = torch.stack([rest[k] for k in range(5)])
        mc = float((f.physics.A(f(y)) - y).square().mean())
    assert float(log("run")[0]["validation_loss_mc"]) == pytest.approx(mc, rel=1e-4)
    done = script(*COMMON, "--measurements", "y.npy", "--held-out", 0, "--epochs", 1, "--out", "all")
    assert (
        done.code == 0 and load_file("all/ckp_last.pth.tar")["step"] == 4 and not Path("all/ckp_best.pth.tar").exists()
    )


class Size:
    """A closure whose loss is the largest value of a batch, plus what its group drew."""

    columns: ClassVar = {"loss_total": "total"}
    needs_truth = False

    def __init__(self) -> None:
        self.drawn: list[float] = []

    def check(self, f: object, physics: object) -> None:
        pass

    def __call__(self, f: Any, physics: Any, transform: Any, y: torch.Tensor, x: object = None) -> dict:
        if not f.training:
            self.drawn.append(float(transform.apply(y).flatten()[:5].sum()))
        x1 = f(y)
        return {"total": y.max() + 0 * x1.sum(), "x1": x1.detach()}


def test_sure_of_the_validation_set_is_of_measurements() -> None:
    """Where the closure has none and the noise is known: a mean over what the mask measures, not over the image."""
    physics = Inpainting(8, 8, mask_rate=0.5, noise=GaussianNoise(0.1))
    ys = list(physics.mask[0] * torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    f = Reconstructor(UNet(1, 1, base_channels=2), physics)
    trainer = Trainer(f, physics, None, MCClosure(), {"total": torch.optim.SGD(f.net.parameters(), lr=0.0)}, epochs=1,
                      out=False, progress=False, report_psnr=False,
                      validation=make_loader(ys, 3, shuffle=False, measured=True))  # fmt: skip
    (row,) = trainer.fit(make_loader(ys, 3, measured=True))
    seed_all(derive_seed(trainer.seed, "held out", 0))
    with torch.no_grad():
        expected = SUREClosure()(f.eval(), physics, None, torch.stack(ys))["total"]
    assert row["validation_sure"] == pytest.approx(float(expected), rel=1e-5)


def test_validation_batches_are_weighted_by_their_images_and_their_elements_stay() -> None:
    """A last batch of one image weighs one, and every epoch has the same elements."""
    ys = [torch.full((1, 8, 8), value) + torch.arange(8.0) / 100 for value in (0.0, 0.0, 0.0, 0.4)]
    closure, validation = Size(), make_loader(ys, 3, shuffle=False, measured=True)
    physics = SimpleNamespace(A=lambda x: x, A_dagger=lambda y: y)
    f = Reconstructor(UNet(1, 1, base_channels=2), physics)
    optimizers = {"total": torch.optim.Adam(f.net.parameters())}
    trainer = Trainer(f, physics, Shift(2), closure, optimizers, epochs=3, out=False, progress=False,
                      report_psnr=False, validation=validation)  # fmt: skip
    history = trainer.fit(make_loader(ys, 2, measured=True))
    expected = (3 * 0.07 + 0.47) / 4
    assert [row["validation_loss_total"] for row in history] == pytest.approx([expected] * 3, rel=1e-5)
    assert closure.drawn[:2] == closure.drawn[2:4] == closure.drawn[4:] and closure.drawn[0] != closure.drawn[1]
