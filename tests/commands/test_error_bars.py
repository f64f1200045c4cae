"""Error bars by command: ``ei test --uncertainty``, ``--calibrate``, ``ei reconstruct --uncertainty``; SURE."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Result
from torch import Tensor
from torch.optim import Adam

import ei
from ei.closure import EIClosure
from ei.closure.sure import error_estimate
from ei.commands.error_bars import ErrorBars, calibrate
from ei.datasets import EllipsePhantoms, make_loader
from ei.evaluation import bootstrap
from ei.evaluation.calibration import Calibration
from ei.models import UNet, Unrolled
from ei.models.base import ReconstructionFunction
from ei.physics import CT, GaussianNoise, Inpainting
from ei.training import Trainer
from ei.transforms import Shift, Turn

Script = Callable[..., Result]
CKP = ("--ckp", "run/ckp_last.pth.tar")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Inpainting]:
    """A folder with a run, measurements with noise, and test images; and their operator."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("trained")
    physics = Inpainting(16, 16, noise=GaussianNoise(0.05))
    f = Unrolled(UNet(1, 1, base_channels=2, norm="none"), physics, iterations=1, cg_steps=1)
    config = {
        "transform": {"name": "Shift", "n_trans": 1}, "closure": {"name": "EIClosure", "alpha": 1},
        "physics": {"name": "Inpainting", **physics.config}, "noise": {"name": "GaussianNoise", "sigma": 0.05},
        "trainer": {"task": "inpainting"},
    }  # fmt: skip
    images = EllipsePhantoms("train", 16, 8)
    trainer = Trainer(f, physics, Shift(1), EIClosure(1), {"total": Adam(f.net.parameters())}, epochs=1,
                      out=folder / "run", config=config, progress=False)  # fmt: skip
    trainer.fit(make_loader(images, batch_size=2))
    x = torch.stack([images[n] for n in range(4)]).view(4, 1, 16, 16)
    np.save(folder / "x.npy", x.numpy())
    np.save(folder / "y.npy", physics(x)[:, 0].numpy())
    return folder, physics


@pytest.fixture
def run(trained: tuple[Path, Inpainting], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Inpainting:
    """The operator of ``trained``, in a copy of its folder."""
    folder, physics = trained
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return physics


def test_coverage_is_printed_and_drawn(script: Script, run: Inpainting) -> None:
    measured = ("ei test", *CKP, "--measurements", "y.npy", "--truth", "x.npy", "--uncertainty", 20)
    done = script(*measured, "--sample-to-show", 0, 2, "--out", "out")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("error bars of 20 draws"))
    assert [line.split()[0] for line in lines[start + 2 : start + 7]] == ["50%", "80%", "90%", "95%", "99%"]
    assert "true mean squared error / estimated" in done.out
    names = {path.name for path in Path("out").iterdir()}
    assert {"coverage.csv", "coverage.png", "errors.csv", "sample_0_errors.png", "sample_2_errors.png"} <= names
    rows = list(csv.DictReader(Path("out/coverage.csv").read_text().splitlines()))
    f, x = ei.load(CKP[1]), torch.from_numpy(np.load("x.npy"))
    y = torch.from_numpy(np.load("y.npy"))[:, None]
    assert list(rows[0]) == ["level", "norm", "pixels"]
    errors = list(csv.DictReader(Path("out/errors.csv").read_text().splitlines()))
    with torch.no_grad():
        true = (f(y) - x).flatten(1).norm(dim=1)
    assert [float(row["true"]) for row in errors] == pytest.approx(true.tolist(), rel=1e-3)
    assert script("ei test", *CKP, "--measurements", "y.npy", "--truth", "x.npy", "--out", "plain").code == 0
    assert not (Path("plain") / "coverage.csv").exists()


def test_a_calibration_is_found_and_applied(script: Script, run: Inpainting) -> None:
    found = script("ei test", *CKP, "--measurements", "y.npy", "--uncertainty", 20, "--calibrate", "c.json")
    assert found.code == 0, found.err
    assert "4 images are too few for 90, 95, 99 %" in found.out
    factor = json.loads(Path("c.json").read_text())["pixels"]["0.9"]
    pairs = ("ei test", *CKP, "--measurements", "y.npy", "--truth", "x.npy", "--uncertainty", 20)
    done = script(*pairs, "--calibrate", "again.json", "--out", "out")
    assert done.code == 0 and "norm, calibrated" in done.out, done.err
    assert json.loads(Path("again.json").read_text())["pixels"]["0.9"] == pytest.approx(factor, rel=0.3)
    done = script(*pairs, "--calibrate", "truth.json", "--calibrate-by", "truth", "--out", "out")
    truth = json.loads(Path("truth.json").read_text())
    assert done.code == 0 and truth["source"] == "ground truth" and "norm, calibrated" not in done.out, done.err
    errors = list(csv.DictReader(Path("out/errors.csv").read_text().splitlines()))
    ratios = [(float(row["true"]) / float(row["estimated"])) ** 2 for row in errors]
    assert truth["factor"] == pytest.approx((sum(ratios) / len(ratios)) ** 0.5, rel=1e-3)
    reconstruct = ("ei reconstruct", *CKP, "--input", "y.npy", "--uncertainty", 20)
    assert script(*reconstruct, "--output", "a.npy").code == 0
    done = script(*reconstruct, "--output", "b.npy", "--calibration", "c.json", "-b", 3)
    assert done.code == 0 and f"times {factor:.3g}" in done.out and "was found with" not in done.out, done.err
    other = script(*reconstruct, "--output", "c.npy", "--calibration", "c.json", "--group", "reflect", "--noise",
                   "gaussian:0.1")  # fmt: skip
    assert other.code == 0 and "c.json was found with another group, another noise" in other.out, other
    plain, calibrated = np.load("a_std.npy"), np.load("b_std.npy")
    assert plain.shape == np.load("a.npy").shape == (4, 16, 16)
    np.testing.assert_allclose(calibrated, factor * plain, rtol=1e-3, atol=1e-7)
    f, y = ei.load(CKP[1]), torch.from_numpy(np.load("y.npy"))[:, None]
    result = bootstrap(f, f.physics, Shift(1), y, 100, generator=torch.Generator().manual_seed(5))
    assert float(np.sqrt((plain**2).mean())) == pytest.approx(float(result.rmse.square().mean().sqrt()), rel=0.3)


class Smooth(ReconstructionFunction):
    """Filtered back-projection, blurred: it lacks power, and streaks with it."""

    def forward(self, y: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(self.physics.A_dagger(y), 5, 1, 2)


def test_a_scanner_is_calibrated_by_the_power_between_its_views(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    f = Smooth(torch.nn.Identity(), CT(32, 20))
    images = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    measurements = [(f, f.physics, f.physics.A(x[None])) for x in images]
    found = calibrate(f, measurements, ErrorBars(Turn(1), 4), tmp_path / "c.json")
    assert found == Calibration.load(tmp_path / "c.json") and found.source == "the power between the views"
    assert found.factor == pytest.approx(found.pixels[0.9], rel=0.1)
    assert "calibration of 3 measurements, from the power that x lacks" in capsys.readouterr().out


def test_error_bars_beside_images(script: Script, run: Inpainting) -> None:
    done = script("ei reconstruct", *CKP, "--input", "y.npy", "--output", "x.tif", "--uncertainty", 5)
    assert done.code == 0, done.err
    assert "5 draws are too few for the 95 % quantile" in done.out
    assert Path("x_std.tif").exists() and Path("x_std.png").exists()
    assert "not calibrated" in done.out
    np.testing.assert_array_equal(np.load("x.npy").shape, (4, 1, 16, 16))


def test_sure_is_printed_where_the_noise_is_known(script: Script, run: Inpainting) -> None:
    done = script("ei reconstruct", *CKP, "--input", "y.npy", "--output", "o.npy")
    assert done.code == 0, done.err
    f, y = ei.load(CKP[1]), torch.from_numpy(np.load("y.npy"))[:, None]
    expected = error_estimate(f, f.physics, y)
    assert f"SURE: ||A f(y) - A x||^2 / m is estimated as {expected:.3g}, from 4 measurements" in done.out
    louder = script("ei reconstruct", *CKP, "--input", "y.npy", "--output", "o.npy", "--noise", "gaussian:0.2")
    f.physics.noise = GaussianNoise(0.2)
    assert f"estimated as {error_estimate(f, f.physics, y):.3g}, from" in louder.out
    assert not Path("o_std.npy").exists()


def test_sure_is_the_error_in_measurements() -> None:
    """f keeps what is measured: the error is that of the noise, sigma^2."""
    physics = Inpainting(64, 64, noise=GaussianNoise(0.1))
    y = physics(torch.rand(8, 1, 64, 64))
    assert error_estimate(lambda y: y, physics, y) == pytest.approx(0.01, rel=0.05)
    assert error_estimate(lambda y: 0 * y + 0.5, physics, y) == pytest.approx(1 / 12, rel=0.05)


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("ei test", ["--calibrate", "c.json"], "--calibrate needs error bars: give --uncertainty 100, too"),
        ("ei reconstruct", ["--calibration", "c.json"], "--calibration needs error bars"),
        ("ei test", ["--uncertainty", "9", "--calibrate", "c.json", "--calibrate-by", "truth"], "needs the --truth"),
        ("ei test", ["--uncertainty", "9", "--calibrate", "y.npy"], "--calibrate would overwrite y.npy, which is no c"),
        ("ei test", ["--uncertainty", "9", "--calibrate", "no/c.json"], "the folder no of --calibrate does not exist"),
        ("ei reconstruct", ["--uncertainty", "1"], "--uncertainty must be a whole number >= 2, got 1"),
        ("ei reconstruct", ["--uncertainty", "9", "--calibration", "c.json"], "there is no calibration c.json"),
        ("ei reconstruct", ["--uncertainty", "9", "--group", "scale"], "Scale has no inverse"),
        ("ei test", ["--uncertainty", "9"], "give both, or images with --data"),
    ],
)
def test_bad_options(script: Script, run: Inpainting, command: str, arguments: list[str], message: str) -> None:
    data = ["--measurements", "y.npy"] if command == "ei test" else ["--input", "y.npy", "--output", "o.npy"]
    done = script(command, *CKP, *data, *arguments)
    assert done.code == 2 and message in done.err, done.err
    assert done.err.strip().splitlines()[-1].startswith(f"{command}: error:")
    assert not Path("o_std.npy").exists()


def test_the_scanner_of_a_run_is_turned(script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``--group turn``: in training with the closure's move, and for error bars of a run that had another group."""
    monkeypatch.chdir(tmp_path)
    physics = ei.physics.Tomography((16, 16), range(0, 180, 20), 23)
    Path("scan.yaml").write_text(json.dumps({"name": "Tomography", **physics.config}))
    np.save("y.npy", physics.A(torch.rand(3, 1, 16, 16))[:, 0].numpy())
    small = ("--physics", "scan.yaml", "--measurements", "y.npy", "--base-channels", 2, "--max-steps", 1)
    done = script("ei train", *small, "--group", "turn", "closure.move=operator", "--out", "run")
    assert done.code == 0, done.err
    assert "name: Turn" in Path("run/config.yaml").read_text()
    drawn = ("--uncertainty", 20, "--group", "turn")
    done = script("ei reconstruct", *CKP, "--input", "y.npy", "--output", "x.npy", *drawn)
    assert done.code == 0, done.err
    assert np.load("x_std.npy").max() > 0
