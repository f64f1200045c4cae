"""Real pairs: measurements whose true images are known, for supervised learning and for judging."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from conftest import Result

from ei.closure import EIClosure, SupervisedClosure
from ei.datasets import EllipsePhantoms, Measurements, Pairs, make_loader
from ei.models import Reconstructor, UNet
from ei.physics import CT
from ei.training import Trainer
from ei.transforms import Rotate90

Script = Callable[..., Result]
SMALL = ("--task", "ct", "--ct-views", 5, "--base-channels", 4, "--batch-size", 3, "--epochs", 2, "--device", "cpu")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    x = torch.stack([EllipsePhantoms("train", 16, n_images=20)[i] for i in range(12)])
    np.save(tmp_path / "x.npy", x.numpy())
    np.save(tmp_path / "y.npy", CT(16, 5).A(x[:, None])[:, 0].numpy())
    np.save(tmp_path / "other.npy", x.flip(0).numpy())
    scipy.io.savemat(tmp_path / "x.mat", {"DATA": np.concatenate([np.zeros((108, 16, 16), np.float32), x.numpy()])})
    return tmp_path


@pytest.mark.parametrize("closure", [SupervisedClosure(), EIClosure(1.0)], ids=["sup", "ei"])
def test_pairs_train_as_simulated_measurements_do(files: Path, closure: SupervisedClosure | EIClosure) -> None:
    physics = CT(16, 5)
    pairs = Pairs(Measurements(files / "y.npy"), Measurements(files / "x.npy"))
    found = []
    for loader in (make_loader(pairs, 4, measured=True), make_loader(pairs.images, 4)):
        torch.manual_seed(0)
        f = Reconstructor(UNet(1, 1, base_channels=4), physics)
        optimizers = {"total": torch.optim.Adam(f.net.parameters(), lr=1e-3)}
        trainer = Trainer(f, physics, Rotate90(2), closure, optimizers, epochs=2, out=False, progress=False)
        found.append((trainer.fit(loader), f.state_dict()))
    assert found[0][0] == found[1][0] and "psnr" in found[0][0][0]
    torch.testing.assert_close(found[0][1], found[1][1], rtol=0, atol=0)


def test_by_command(script: Script, files: Path) -> None:
    pairs = ("--measurements", "y.npy", "--truth", "x.npy")
    done = script("ei train", *SMALL, *pairs, "--method", "sup", "--out", "run")
    assert done.code == 0 and "A x of --truth fits y to 0.0%" in done.out and "warning" not in done.out, done.err
    with open(files / "run" / "training_loss.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 and all(3 < float(row["psnr"]) < 60 and float(row["held_out_loss"]) > 0 for row in rows)
    assert (files / "run" / "ckp_best.pth.tar").exists()

    done = script("ei test", "--ckp", "run/ckp_last.pth.tar", *pairs, "--out", "measured")
    assert done.code == 0 and "12 test images of x.npy" in done.out, done.err
    done = script("ei test", "--ckp", "run/ckp_last.pth.tar", "--data", "x.mat", "--out", "simulated")
    assert done.code == 0, done.err
    measured, simulated = (
        np.genfromtxt(files / folder / "metrics.csv", delimiter=",", names=True) for folder in ("measured", "simulated")
    )
    assert len(measured) == 12 and (files / "measured" / "sample_4.png").exists()
    for name in ("psnr_net", "psnr_paper_pinv", "ssim_net"):
        np.testing.assert_allclose(measured[name], simulated[name], atol=1e-3)

    again = script("ei train", "--config", "run/config.yaml", "--out", "again")
    assert again.code == 0, again.err
    first, second = (torch.load(files / run / "ckp_last.pth.tar")["state_dict"] for run in ("run", "again"))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--method", "sup", "--measurements", "y.npy"), ["--truth"]),
        (("--truth", "x.npy"), ["--truth", "--measurements"]),
        (("--measurements", "y.npy", "--truth", "y.npy"), ["y.npy", "[1, 16, 16]"]),
        (("--measurements", "y.npy", "--truth", "few.npy"), ["12 measurements", "5 images"]),
    ],
)
def test_wrong_pairs_are_told(script: Script, files: Path, arguments: tuple[str, ...], said: list[str]) -> None:
    np.save(files / "few.npy", np.zeros((5, 16, 16), np.float32))
    done = script("ei train", *SMALL, *arguments, "--out", "run")
    line = done.err.strip().splitlines()[-1]
    assert done.code == 2 and all(part in line for part in said) and not (files / "run").exists(), done.err


def test_another_order_is_seen(script: Script, files: Path) -> None:
    wrong = ("--measurements", "y.npy", "--truth", "other.npy")
    done = script("ei train", *SMALL, *wrong, "--method", "sup", "--max-steps", 1, "--out", "run")
    assert done.code == 0 and "warning: that of another image fits" in done.out, done.out + done.err


def test_another_layout_is_seen(script: Script, files: Path) -> None:
    """True images that another program has written turned or mirrored: said, and which way it is."""
    np.save(files / "turned.npy", np.load(files / "x.npy").transpose(0, 2, 1))
    wrong = ("--measurements", "y.npy", "--truth", "turned.npy")
    done = script("ei train", *SMALL, *wrong, "--method", "sup", "--max-steps", 1, "--out", "run")
    assert done.code == 0, done.err
    assert "warning: with rows and columns exchanged, these images fit to 0.0%" in done.out, done.out


def test_tables_of_pairs_keep_the_names_of_their_files(script: Script, files: Path) -> None:
    for name in ("x", "y"):
        (files / name).mkdir()
        for k, item in enumerate(np.load(files / f"{name}.npy")):
            np.save(files / name / f"scan_{k}.npy", item)
    assert script("ei train", *SMALL, "--measurements", "y", "--out", "run").code == 0
    done = script("ei test", "--ckp", "run/ckp_last.pth.tar", "--measurements", "y", "--truth", "x", "--out", "test")
    assert done.code == 0, done.err
    with open(files / "test" / "metrics.csv", newline="") as file:
        assert [row["file"] for row in csv.DictReader(file)] == [f"scan_{k}" for k in range(12)]


@pytest.mark.parametrize("number", range(12))
def test_any_measurement_that_is_not_finite_is_told_before_the_run(script: Script, files: Path, number: int) -> None:
    """Some train, some are held out, and few of them are looked at more closely."""
    y = np.load(files / "y.npy")
    y[number, 2, 3] = np.nan
    np.save(files / "y.npy", y)
    done = script("ei train", *SMALL, "--measurements", "y.npy", "--out", "run")
    assert done.code == 2 and f"measurement {number} " in done.err and "finite" in done.err, done
    assert not (files / "run").exists()
