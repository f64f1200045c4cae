"""Evaluation in Python: what `report` and `evaluate` judge, print and write."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SmallNet, fill
from torch.optim import Adam

import ei
from ei.closure import EIClosure, MCClosure
from ei.datasets import make_loader, simulate
from ei.evaluation import evaluate, report
from ei.evaluation.classical import harmonic_fill
from ei.evaluation.loading import averaged
from ei.evaluation.quality import mean_and_std, reconstruct_all
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
    trainer = Trainer(f, physics, Shift(2), closure or EIClosure(1.0), optimizers, epochs=2, out=out, progress=False,
                      **options)  # fmt: skip
    trainer.fit(make_loader(IMAGES, 2))
    return trainer


def test_what_evaluation_judges_is_the_moving_average(tmp_path: Path) -> None:
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


def test_a_training_without_an_average_takes_that_of_the_one_before_away() -> None:
    trainer = trained(False, average=0.5)
    optimizers = {"total": Adam(trainer.f.net.parameters())}
    Trainer(trainer.f, trainer.physics, None, MCClosure(), optimizers, epochs=1, out=False, progress=False)
    assert trainer.f.net_averaged is None


def test_the_report_names_what_it_is_told_and_the_files_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    trainer = trained(False, MCClosure())
    report(trainer.f, trainer.physics, IMAGES, trainer.folder, name="MC")
    out = capsys.readouterr().out
    assert "\nMC  " in out and "EI" not in out
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


def test_what_a_data_set_draws_is_the_same_every_time_that_it_is_judged() -> None:
    trainer = trained(False)
    torch.manual_seed(1)
    before, rows = torch.get_rng_state(), evaluate(trainer.f, trainer.physics, Drawing())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert evaluate(trainer.f, trainer.physics, Drawing()) == rows


@pytest.mark.parametrize("device", ["nope", "cuda:99"])
def test_a_device_that_is_not_there(device: str, tmp_path: Path) -> None:
    trained(tmp_path / "run")
    with pytest.raises(ei.errors.InputError, match=f"torch cannot use the device '{device}' here"):
        ei.load(tmp_path / "run" / "ckp_last.pth.tar", net=SmallNet(3), device=device)


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


def test_reconstructions_are_judged_as_they_are() -> None:
    """Not clipped to the range of images, which would hide what is wrong with them."""
    physics = Inpainting(16, 16, mask_rate=0)
    net = torch.nn.Conv2d(3, 3, 1, bias=False)
    torch.nn.init.dirac_(net.weight)
    net.weight.data *= 2
    row = evaluate(Reconstructor(net, physics), physics, IMAGES[:1])[0]
    assert row["psnr_net"] == pytest.approx(float(psnr(2 * IMAGES[0][None], IMAGES[0][None])), rel=1e-5)


def test_images_of_a_test_have_noise_of_their_own() -> None:
    """By their number, the same every time, and not that of the training image of this number."""
    physics = Inpainting(16, 16, noise=GaussianNoise(0.1))
    f, x = Reconstructor(fill(SmallNet(3)), physics), IMAGES[0][None]
    y, again, other = (reconstruct_all(f, physics, x, index)["y"] for index in (3, 3, 4))
    assert torch.equal(y, again) and not torch.equal(y, other)
    assert not torch.equal(y, simulate(physics, x, [3], seed=0))


def test_the_harmonic_fill_solves_the_laplace_equation() -> None:
    """What is linear is harmonic, so it is filled exactly; every missing pixel is the mean of its neighbours."""
    mask = Inpainting(9, 11, mask_rate=0.4, seed=2).mask.clone()
    mask[..., [0, -1], :], mask[..., [0, -1]] = 1, 1
    physics = Inpainting(9, 11, mask=mask)
    ramp = (torch.arange(9.0)[:, None] + 2 * torch.arange(11.0)).expand(1, 3, 9, 11).double()
    torch.testing.assert_close(harmonic_fill(physics, physics.A(ramp)), ramp)
    y = physics.A(torch.rand(1, 3, 9, 11, dtype=torch.float64))
    filled, missing = harmonic_fill(physics, y), (mask == 0).expand(1, 3, 9, 11)
    mean = sum(filled.roll(shift, axis) for shift in (1, -1) for axis in (-1, -2)) / 4
    torch.testing.assert_close(filled[missing], mean[missing])
    assert torch.equal(filled[~missing], y[~missing]) and bool((filled[missing] > 0).all())


def test_missing_pixels_at_the_border_are_the_mean_of_the_neighbours_they_have() -> None:
    mask = torch.ones(4, 4)
    mask[0, 0] = mask[0, 2] = 0
    physics, x = Inpainting(4, 4, mask=mask), torch.rand(1, 1, 4, 4, dtype=torch.float64)
    filled, pixels = harmonic_fill(physics, physics.A(x))[0, 0], x[0, 0]
    torch.testing.assert_close(filled[0, 0], (pixels[0, 1] + pixels[1, 0]) / 2)
    torch.testing.assert_close(filled[0, 2], (pixels[0, 1] + pixels[0, 3] + pixels[1, 2]) / 3)


def test_images_too_small_for_ssim_keep_their_other_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    physics = Inpainting(6, 9, mask_rate=0.3)
    f = Reconstructor(UNet(1, 1, base_channels=4, norm="none"), physics)
    rows = report(f, physics, [torch.rand(1, 6, 9) for _ in range(2)], tmp_path, data_range=1.0)
    assert all(np.isfinite(row["psnr_net"]) and np.isnan(row["ssim_net"]) for row in rows)
    assert "under 7 pixels" in capsys.readouterr().out
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 3
