"""Problems of users: measurements, images and operators; the preparation of the paper's data; the examples."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from conftest import ROOT, Result, subprocess_run
from makers import RandomMatrix, dicom
from PIL import Image

import ei
from ei.common.files import load_file
from ei.datasets import make_loader, split_images, split_validation
from ei.datasets.paper_data import imresize_matrix
from ei.evaluation.quality import read_metrics
from ei.physics import CT, Inpainting

# ---------------------------------------------------------------------------------------------------- measurements


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same training from images and from their measurements alone, and noisy ones."""
    folder = tmp_path_factory.mktemp("runs")
    images = np.random.default_rng(0).random((12, 16, 16)).astype(np.float32)
    scipy.io.savemat(folder / "x.mat", {"DATA": images})
    # Ordered so that the training measurements are those of the training images, in their order.
    train, validation = (part.indices for part in split_validation(range(12), 0.1, "they"))
    place = np.empty(12, dtype=int)
    place[[*train, *validation]] = range(12)
    np.save(folder / "y.npy", CT(16, 8).A(torch.from_numpy(images[place])[:, None])[:, 0].numpy())
    common = ["--task", "ct", "--ct-views", 8, "--base-channels", 2, "--epochs", 3, "--ei-alpha", 1, "--schedule"]
    for name, more in {"images": ["--data", "x.mat"], "alone": ["--measurements", "y.npy"],
                       "noisy": ["--data", "x.mat", "--noise", "gaussian:0.5"]}.items():  # fmt: skip
        done = subprocess_run("python", ROOT / "demo_train.py", *common, *more, "--out", name, cwd=folder)
        assert done.code == 0, done.err
    return folder


@pytest.mark.slow
def test_measurements_alone_train_the_same(runs: Path) -> None:
    """To the rounding of products with A, which hangs on how many images are multiplied at once: training makes it
    grow."""
    images, alone = (read_metrics(runs / name / "training_loss.csv") for name in ("images", "alone"))
    assert len(images) == len(alone) == 3
    for ours, theirs, allowed in zip(images, alone, (1e-3, 0.03, 0.03), strict=True):
        for column in ("loss_mc", "loss_ei", "loss_total"):
            assert ours[column] == pytest.approx(theirs[column], rel=allowed)
    noisy = read_metrics(runs / "noisy" / "training_loss.csv")
    assert abs(noisy[0]["loss_mc"] / images[0]["loss_mc"] - 1) > 0.03


@pytest.mark.slow
def test_validation_losses_select_the_best_epoch(runs: Path) -> None:
    with open(runs / "alone" / "training_loss.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    losses = ["loss_mc", "loss_ei", "loss_total"]
    assert list(rows[0]) == ["epoch", *losses, *(f"validation_{name}" for name in losses)]
    best = min(range(3), key=lambda k: float(rows[k]["validation_loss_total"]))
    assert load_file(runs / "alone" / "ckp_best.pth.tar")["epoch"] == best
    assert not (runs / "images" / "ckp_best.pth.tar").exists()


@pytest.mark.slow
def test_reconstruct(runs: Path) -> None:
    arguments = ["--ckp", "alone/ckp_best.pth.tar", "--input", "y.npy", "--output", "new.npy"]
    done = subprocess_run("python", "-m", "ei", "reconstruct", *arguments, "--png", "-b", 5, cwd=runs)
    assert done.code == 0 and "images a second" in done.out, done.err
    images = np.load(runs / "new.npy")
    assert images.shape == (12, 16, 16) and images.dtype == np.float32
    assert len(list((runs / "new").glob("*.png"))) == 12 and Image.open(runs / "new" / "00000.png").mode == "L"
    f = ei.load(runs / "alone" / "ckp_best.pth.tar")
    with torch.no_grad():
        expected = f(torch.from_numpy(np.load(runs / "y.npy"))[:, None])[:, 0]
    np.testing.assert_allclose(images, expected.numpy(), atol=1e-5)
    leftovers = [path.name for path in runs.iterdir() if path.name.startswith(".")]
    assert leftovers == []


@pytest.mark.slow
def test_nothing_under_its_name_before_it_is_complete(runs: Path) -> None:
    y = np.load(runs / "y.npy")
    y[9] = np.nan
    np.save(runs / "bad.npy", y)
    done = subprocess_run("python", "-m", "ei", "reconstruct", "--ckp", "alone/ckp_last.pth.tar", "--input", "bad.npy",
                          "--output", "never.npy", "-b", 2, cwd=runs)  # fmt: skip
    assert done.code == 2 and "measurement 9" in done.err
    assert not [path for path in runs.iterdir() if "never" in path.name]


WRONG = {
    "sup": (
        ["demo_train.py", "--task", "ct", "--method", "sup", "--measurements", "y.npy", "--ct-views", "8"],
        "images",
    ),
    "views": (["demo_train.py", "--task", "ct", "--measurements", "y.npy"], "set radon_view: 8"),
    "both": (["demo_train.py", "--task", "ct", "--measurements", "y.npy", "--data", "x.mat"], "one of them"),
    "mask": (
        ["demo_train.py", "--task", "inpainting", "--measurements", "y.npy"],
        "physics: measurements of Inpainting need the mask",
    ),
    "missing": (["demo_train.py", "--task", "ct", "--measurements", "z.npy"], "no measurements"),
    "output": (["ei reconstruct", "--ckp", "a", "--input", "y.npy", "--output", "x.png"], ".npy"),
    "needed": (["ei reconstruct", "--ckp", "a", "--output", "x.npy"], "--input is needed"),
    "checkpoint": (["ei reconstruct", "--ckp", "y.npy", "--input", "y.npy", "--output", "x.npy"], "checkpoint"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", WRONG)
def test_wrong_commands(runs: Path, case: str, script: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, message = WRONG[case]
    monkeypatch.chdir(runs)
    done = script(*arguments)
    assert done.code == 2 and len(done.err.splitlines()) == 1 and message in done.err


# ---------------------------------------------------------------------------------------------------------- images


@pytest.mark.slow
def test_training_and_testing_on_a_folder_of_images(tree: Path) -> None:
    own = ["--data", tree, "data.train.crop=40", "data.train.resize=16", "data.train.test_fraction=0.4"]
    done = subprocess_run("python", ROOT / "demo_train.py", "--task", "inpainting", *own, "--base-channels", 2,
                          "--epochs", 1, "--schedule", "--out", "run", cwd=tree.parent)  # fmt: skip
    assert done.code == 0, done.err
    left_out = (tree.parent / "run" / "split.txt").read_text().split()
    assert left_out == split_images(tree, 0.4)["test"]
    Image.new("RGB", (50, 50)).save(tree / "0_new.png")  # does not change what is tested
    done = subprocess_run("python", ROOT / "demo_test_inpainting.py", "--ckp", "run/ckp_last.pth.tar", "--data", tree,
                          "--out", "test", cwd=tree.parent)  # fmt: skip
    assert done.code == 0 and "2 test images" in done.out, done.err


@pytest.mark.parametrize("task", [("--task", "inpainting"), ("--physics", "mask.yaml", "--group", "shift")])
def test_a_folder_of_training_images_alone(
    tmp_path: Path, script: Callable[..., Result], task: tuple[str, ...]
) -> None:
    """There need not be any test images yet, in the layout of Urban100 or in any other."""
    for name in ("a", "b"):
        path = tmp_path / "images" / "train" / "train" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (512, 512, 3), dtype=np.uint8)).save(path)
    (tmp_path / "mask.yaml").write_text("{name: Inpainting, mask_rate: 0.3}\n")
    done = script(
        "ei train", *task, "--data", "images", "--base-channels", 2, "-b", 1, "--max-steps", 1, "--out", "run"
    )
    assert done.code == 0, done.err
    assert not (tmp_path / "run" / "split.txt").exists()
    assert script("ei test", "--ckp", "run/ckp_last.pth.tar").code == 2


# ------------------------------------------------------------------------------------------------------- operators


@pytest.mark.parametrize("rows", [8, 30])
def test_conjugate_gradients_reach_the_pseudo_inverse(rows: int) -> None:
    """The solution of least norm, or of least squares; an image that is zero stays zero beside others."""
    physics = RandomMatrix(rows)
    y = torch.randn(3, rows, dtype=torch.float64)
    y[1] = 0
    expected = (y @ torch.linalg.pinv(physics.matrix).T).view(3, 1, 4, 5)
    torch.testing.assert_close(physics.A_dagger(y), expected, rtol=0, atol=1e-8)


def test_a_deepinv_physics_works_as_it_is() -> None:
    deepinv = pytest.importorskip("deepinv")
    from ei.closure import EIClosure
    from ei.models import Reconstructor, UNet
    from ei.training import Trainer
    from ei.transforms import Shift

    mask = Inpainting(16, 16, mask_rate=0.4).mask
    theirs, ours = deepinv.physics.Inpainting(img_size=(1, 16, 16), mask=mask), Inpainting(16, 16, mask=mask)
    losses = []
    for physics in (theirs, ours):
        torch.manual_seed(0)
        f = Reconstructor(UNet(1, 1, base_channels=2), physics)
        optimizer = torch.optim.Adam(f.net.parameters())
        trainer = Trainer(f, physics, Shift(2), EIClosure(1), {"total": optimizer}, epochs=2, out=False, progress=False)
        images = [torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(i)) for i in range(4)]
        losses.append(trainer.fit(make_loader(images, 2))[-1]["loss_total"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


# ----------------------------------------------------------------------------------------------------- preparation


def test_imresize() -> None:
    """Rows sum to one, and inside a ramp stays a ramp."""
    matrix = imresize_matrix(64, 16)
    np.testing.assert_allclose(matrix.sum(1), 1)
    inside = (matrix @ np.arange(64.0))[3:-3]
    np.testing.assert_allclose(inside, np.arange(16)[3:-3] * 4 + 1.5)
    np.testing.assert_allclose(imresize_matrix(5, 5), np.eye(5), atol=1e-12)
    np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-12)


@pytest.mark.slow
def test_prepare_ct100(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(tmp_path / "slices.zip", "w") as archive:
        for number in range(100):
            pixels = rng.integers(-1000, 2000, (16, 16)).repeat(16, 0).repeat(16, 1)
            archive.writestr(f"dicom/ID_{number:04d}_AGE_0060_CONTRAST_1_CT.dcm", dicom(pixels))
    prepare = ["python", "-m", "ei", "prepare", "ct100", "--dicom"]
    done = subprocess_run(*prepare, "slices.zip", cwd=tmp_path)
    assert done.code == 0 and "dB" in done.out, done.err
    images = scipy.io.loadmat(tmp_path / "dataset" / "CT" / "CT100_128x128.mat")["DATA"]
    assert images.shape == (100, 128, 128) and images.dtype == np.float32
    assert np.all(images.min((1, 2)) == 0) and np.all(images.max((1, 2)) == 1)
    with zipfile.ZipFile(tmp_path / "few.zip", "w") as archive:
        archive.writestr("ID_0000_CT.dcm", b"")
    done = subprocess_run(*prepare, "few.zip", cwd=tmp_path)
    assert done.code == 2 and "100 files" in done.err and len(done.err.splitlines()) == 1


@pytest.mark.slow
def test_prepare_urban100(tmp_path: Path) -> None:
    (tmp_path / "source" / "deep").mkdir(parents=True)
    for number in range(1, 101):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / "source" / "deep" / f"img_{number:03d}.png")
    prepare = ["python", "-m", "ei", "prepare", "urban100", "--source"]
    done = subprocess_run(*prepare, "source", cwd=tmp_path)
    assert done.code == 0, done.err
    root = tmp_path / "dataset" / "Urban100"
    assert len(list(root.glob("train/train/*.png"))) == 90
    assert sorted(path.name for path in root.glob("test/test/*.png"))[0] == "img_091.png"
    again = subprocess_run(*prepare, "source", cwd=tmp_path)
    assert again.code == 2 and "already" in again.err
    (tmp_path / "source" / "deep" / "img_050.png").write_bytes(b"broken")
    broken = subprocess_run(*prepare, "source", "--out", "other", cwd=tmp_path)
    assert broken.code == 2 and "img_050.png" in broken.err
    assert not (tmp_path / "other").exists() and not list(tmp_path.glob(".other*"))
