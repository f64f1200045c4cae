"""`evaluate` and `report`: the figures, the table and the files."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from conftest import SmallNet, fill
from PIL import Image
from torch.optim import Adam
from torch.utils.data import Subset

import ei
from ei.closure import EIClosure, MCClosure
from ei.datasets import CTData, ImageTree, Tiles, make_loader, simulate
from ei.evaluation import evaluate, report
from ei.evaluation.classical import harmonic_fill
from ei.evaluation.loading import averaged
from ei.evaluation.quality import data_range_of, mean_and_std, reconstruct_all
from ei.metrics import psnr
from ei.models import Reconstructor, UNet
from ei.physics import GaussianNoise, Inpainting
from ei.training import Trainer
from ei.transforms import Shift

IMAGES = list(torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)))


def trained(out: Any, closure: Any = None, **options: Any) -> Trainer:
    physics = Inpainting(16, 16)
    f = Reconstructor(fill(SmallNet(3)), physics)
    optimizers = {"total": Adam(f.net.parameters(), lr=1e-2)}
    closure = closure or EIClosure(1.0)
    trainer = Trainer(f, physics, Shift(2), closure, optimizers, epochs=2, out=out, progress=False, **options)
    trainer.fit(make_loader(IMAGES, 2))
    return trainer


def test_the_moving_average_is_evaluated(tmp_path: Path) -> None:
    """As the scripts do, which take it from the checkpoint; the training itself goes on with its own weights."""
    trainer = trained(tmp_path, average=0.95)
    loaded = ei.load(tmp_path / "ckp_last.pth.tar", net=SmallNet(3))
    rows = evaluate(trainer.f, trainer.physics, IMAGES)
    assert rows == evaluate(loaded, loaded.physics, IMAGES)
    raw = Reconstructor(trainer.networks["total"], trainer.physics)
    assert rows != evaluate(raw, raw.physics, IMAGES)
    assert report(trainer.f, trainer.physics, IMAGES, tmp_path) == evaluate(
        loaded, loaded.physics, IMAGES, {"harmonic fill": harmonic_fill}
    )
    assert trainer.f.net is trainer.networks["total"] and trainer.f.training
    assert len(list(trainer.f.parameters())) == len(list(trainer.networks["total"].parameters()))
    turned, ours = (averaged(f, ["rotate90"]) for f in (trainer.f, loaded))
    assert evaluate(turned, trainer.physics, IMAGES[:1]) == evaluate(ours, loaded.physics, IMAGES[:1])


def test_a_training_without_an_average_removes_the_previous_one() -> None:
    trainer = trained(False, average=0.5)
    optimizers = {"total": Adam(trainer.f.net.parameters())}
    Trainer(trainer.f, trainer.physics, None, MCClosure(), optimizers, epochs=1, out=False, progress=False)
    assert trainer.f.net_averaged is None


def test_the_report_prints_the_method_and_the_existing_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    trainer = trained(False, MCClosure())
    report(trainer.f, trainer.physics, IMAGES, trainer.folder, name="MC")
    out = capsys.readouterr().out
    assert out.startswith("4 test images; ") and "\nMC  " in out and "EI" not in out
    assert "(reconstructions.png, metrics.csv)" in out
    assert {path.name for path in tmp_path.iterdir()} == {"reconstructions.png", "metrics.csv"}
    trainer = trained("run")
    report(trainer.f, trainer.physics, IMAGES, trainer.folder)
    out = capsys.readouterr().out
    assert "\nnetwork  " in out
    assert "(reconstructions.png, metrics.csv, loss.png, training_loss.csv, config.yaml, checkpoints)" in out


def test_a_report_without_pictures(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    trainer = trained(False)
    assert len(report(trainer.f, trainer.physics, IMAGES, tmp_path, n_drawn=0)) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]
    assert capsys.readouterr().out.endswith("(metrics.csv)\n")


class Drawing:
    """A data set that draws in ``__getitem__``, as one that augments does."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> torch.Tensor:
        return IMAGES[index] * (0.5 + 0.5 * torch.rand(1) * np.random.rand())


def test_random_items_are_the_same_in_every_evaluation() -> None:
    trainer = trained(False)
    torch.manual_seed(1)
    before, rows = torch.get_rng_state(), evaluate(trainer.f, trainer.physics, Drawing())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert evaluate(trainer.f, trainer.physics, Drawing()) == rows


def test_exact_reconstructions_have_a_table(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Without missing pixels A_dagger is the inverse: its PSNR is infinite, and no standard deviation is."""
    physics = Inpainting(16, 16, mask_rate=0)
    rows = report(Reconstructor(fill(SmallNet(3)), physics), physics, IMAGES, tmp_path)
    assert all(row["psnr_pinv"] == math.inf and math.isfinite(row["psnr_net"]) for row in rows)
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("A_dagger"))
    assert line.split("  ")[1:] and line.count("inf, 4 exact") == 2 and line.endswith("1.0000 +- 0.0000")


def test_the_table_shows_mean_and_deviation_of_these_images() -> None:
    """They are all the images there are, not a sample of more: divided by their number."""
    rows = [dict.fromkeys(("psnr_paper_net", "psnr_net", "ssim_net"), value) for value in (1.0, 3.0)]
    assert mean_and_std(rows, "net") == ["2.00 +- 1.00", "2.00 +- 1.00", "2.0000 +- 1.0000"]


def test_outputs_are_not_clipped() -> None:
    """Not clipped to the range of images, which would hide what is wrong with them."""
    physics = Inpainting(16, 16, mask_rate=0)
    net = torch.nn.Conv2d(3, 3, 1, bias=False)
    torch.nn.init.dirac_(net.weight)
    net.weight.data *= 2
    row = evaluate(Reconstructor(net, physics), physics, IMAGES[:1])[0]
    assert row["psnr_net"] == pytest.approx(float(psnr(2 * IMAGES[0][None], IMAGES[0][None])), rel=1e-5)


def test_noise_of_test_images_differs_from_that_of_training_images() -> None:
    """By their number, the same every time, and not that of the training image of this number."""
    physics = Inpainting(16, 16, noise=GaussianNoise(0.1))
    f, x = Reconstructor(fill(SmallNet(3)), physics), IMAGES[0][None]
    y, again, other = (reconstruct_all(f, physics, x, index)["y"] for index in (3, 3, 4))
    assert torch.equal(y, again) and not torch.equal(y, other)
    assert not torch.equal(y, simulate(physics, x, [3], seed=0))


def test_images_too_small_for_ssim_keep_their_other_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    physics = Inpainting(6, 9, mask_rate=0.3)
    f = Reconstructor(UNet(1, 1, base_channels=4, norm="none"), physics)
    rows = report(f, physics, [torch.rand(1, 6, 9) for _ in range(2)], tmp_path, data_range=1.0)
    assert all(np.isfinite(row["psnr_net"]) and np.isnan(row["ssim_net"]) for row in rows)
    assert "under 7 pixels" in capsys.readouterr().out
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 3


def test_the_range_is_that_of_all_images() -> None:
    images = torch.stack([torch.full((8, 8), 10.0), torch.linspace(0, 40, 64).view(8, 8)])
    assert data_range_of(images) == data_range_of(images.flip(0)) == 40


@pytest.mark.parametrize("unit", [1.0, 0.02, 1e-4, 3000.0])
def test_reports_do_not_depend_on_the_unit(unit: float, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A bad reconstruction is as bad in 1/mm as in [0, 1]: peak 1 gave it 93 dB and an SSIM of 1.0000."""
    physics = Inpainting(16, 16, mask_rate=0.5)
    f = Reconstructor(SmallNet(1).to(torch.float64), physics, image_scale=unit)
    torch.manual_seed(0)
    images = torch.rand(2, 16, 16, dtype=torch.float64)
    images[0, 0, :2] = torch.tensor([0.0, 1.0])
    rows = report(f, physics, images * unit, tmp_path, n_drawn=1)
    expected = evaluate(f.of(physics), physics, images * unit, data_range=unit)
    assert [row["psnr_pinv"] for row in rows] == pytest.approx([row["psnr_pinv"] for row in expected])
    mse = (physics.A_dagger(physics.A(images[:, None])) - images[:, None]).square().flatten(1).mean(1)
    assert [row["psnr_pinv"] for row in rows] == pytest.approx((-10 * mse.log10()).tolist())
    assert all(row["ssim_pinv"] < 0.9 for row in rows)
    assert f"usual PSNR and SSIM: peak {unit:g}" in capsys.readouterr().out


def test_sets_in_the_unit_range_keep_the_peak_1(tmp_path: Path) -> None:
    """Whatever values the test images have."""
    Image.fromarray(np.full((8, 8), 40, np.uint8)).save(tmp_path / "dark.png")
    tree = ImageTree(tmp_path)
    assert data_range_of(tree) == data_range_of(Tiles(tree, 4)) == data_range_of(Subset(tree, [0])) == 1
    for unit, expected in ((1.0, 1.0), (4000.0, 4000.0), (0.02, 0.02)):
        images = np.linspace(0, unit, 10 * 64).reshape(10, 8, 8)
        scipy.io.savemat(tmp_path / "x.mat", {"DATA": images})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = data_range_of(CTData("test", tmp_path / "x.mat"))
        assert found == (expected if unit == 1 else pytest.approx(images[9].max() - images[9].min()))
