"""Data by command: files, pairs, k-space, scans."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, Result, fill
from makers import counts_of_a_small_scan, scan
from page_blocks import commands_of
from PIL import Image

import ei
from ei.closure import MCClosure
from ei.common.complex import magnitude
from ei.common.files import load_file
from ei.datasets import (
    MRIData,
    make_loader,
)
from ei.evaluation import evaluate
from ei.evaluation.quality import read_metrics
from ei.models import Reconstructor, UNet
from ei.physics import CT, MRI
from ei.training import Trainer

Script = Callable[..., Result]
FILES = ("--counts", "counts.npy", "--flat", "flat.npy", "--dark", "dark.npy", "--angles", "angles.txt")


RNG = np.random.default_rng(0)


def small(**options: Any) -> UNet:
    return UNet(1, 1, base_channels=2, **options)


WEIGHTS = fill(small()).state_dict()


def write_images(folder: Path, height: int = 16, width: int = 24) -> None:
    images = np.random.default_rng(0).random((20, height, width)).astype(np.float32)
    np.savez(folder / "images.npz", images=images)


def test_the_commands_take_a_bare_state_dict(script: Any, tmp_path: Path) -> None:
    torch.save({"module." + name: value for name, value in UNet(1, 1).state_dict().items()}, "theirs.pt")
    np.save("y.npy", CT(8, 50).A(torch.rand(2, 1, 8, 8))[:, 0].numpy())
    done: Result = script(
        "ei reconstruct", "--task", "ct", "--ckp", "theirs.pt", "--input", "y.npy", "--output", "x.npy"
    )
    assert done.code == 0 and np.load("x.npy").shape == (2, 8, 8), done
    assert "bare state dict" in done.err and "'module.'" in done.err and "A_dagger" in done.err


def test_folders_of_measurements_keep_their_names(script: Any, tmp_path: Path) -> None:
    """Each image is that of the file whose name it bears; numbers in names count as numbers."""
    physics, f = CT(8, 5), Reconstructor(fill(small()).eval(), CT(8, 5))
    (tmp_path / "y").mkdir()
    images = {f"y_{number}": torch.rand(1, 1, 8, 8) for number in (10, 2, 1)}
    for name, image in images.items():
        np.save(f"y/{name}.npy", physics.A(image)[0, 0].numpy())
    stack = torch.rand(2, 1, 8, 8)
    np.save("y/z.npy", physics.A(stack)[:, 0].numpy())
    np.savez("y/y_2.npz", y=physics.A(stack[:1])[:, 0].numpy())
    trainer = Trainer(f, physics, None, MCClosure(), {"total": torch.optim.Adam(f.net.parameters())}, epochs=1,
                      out=tmp_path / "run", progress=False)  # fmt: skip
    trainer.fit(make_loader([torch.rand(1, 8, 8)] * 2, 2))
    done: Result = script(
        "ei reconstruct", "--ckp", "run/ckp_last.pth.tar", "--input", "y", "--output", "x.npy", "--png"
    )
    assert done.code == 0 and "from y_1 to z_00001" in done.out, done
    for output, said in (("y/x.npy", "write y/x.npy into the folder y, which is read"), ("z.npy", "overwrite z.npy")):
        source = output if output == "z.npy" else "y"
        np.save("z.npy", np.load("y/z.npy"))
        done = script("ei reconstruct", "--ckp", "run/ckp_last.pth.tar", "--input", source, "--output", output)
        assert done.code == 2 and said in done.err and np.array_equal(np.load("z.npy"), np.load("y/z.npy")), done
    names = ["y_1", "y_2.npy", "y_2.npz", "y_10", "z_00000", "z_00001"]
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == sorted(f"{name}.png" for name in names)
    truth = [images["y_1"], images["y_2"], stack[:1], images["y_10"], stack[:1], stack[1:]]
    with torch.no_grad():
        expected = torch.cat([trainer.f.eval()(physics.A(image)) for image in truth])[:, 0].numpy()
    np.testing.assert_allclose(np.load("x.npy"), expected, atol=1e-5)
    for name, image in zip(names, expected, strict=True):
        written = np.asarray(Image.open(tmp_path / "x" / f"{name}.png")) / 255
        np.testing.assert_allclose(written, image.clip(0, 1), atol=0.51 / 255)


def test_a_run_in_hounsfield_units(script: Any, tmp_path: Path) -> None:
    """The range is a part of the run: its tests, and its repetition, read the images as it did."""
    (tmp_path / "slices").mkdir()
    for number in range(6):
        np.save(f"slices/{number}.npy", RNG.integers(-1000, 1000, (16, 16)).astype(np.int16))
    small_run = ("--task", "ct", "--ct-views", 5, "--data", "slices", "--max-steps", 1, "--base-channels", 2,
                 "--batch-size", 2, "--ei-trans", 1, "--epochs", 1)  # fmt: skip
    done: Result = script("ei train", *small_run, "--out", "run")
    assert done.code == 2 and "int16 values, from -" in done.err and "value_range to [LOW, HIGH]" in done.err, done.err
    done = script("ei train", *small_run, "data.train.value_range=[-1000, 400]", "--out", "run")
    assert done.code == 0 and "above value_range [-1000, 400]" in done.err, done.err
    assert script("ei train", "--config", "run/config.yaml", "--max-steps", 1, "--out", "again").code == 0
    first, second = (load_file(f"{name}/ckp_last.pth.tar")["state_dict"] for name in ("run", "again"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    done = script("ei test", "--ckp", "run/ckp_last.pth.tar", "--out", "test")
    assert done.code == 0, done.err
    (row,) = read_metrics(tmp_path / "test" / "metrics.csv")
    assert row["file"] == (tmp_path / "run" / "split.txt").read_text().strip()


def test_a_run_of_one_array_with_a_range(script: Any, tmp_path: Path) -> None:
    """An array of other values needs one, too."""
    np.save(tmp_path / "x.npy", RNG.integers(-1000, 1000, (10, 16, 16)).astype(np.int16))
    small_run = ("--task", "ct", "--ct-views", 5, "--data", "x.npy", "--max-steps", 1, "--base-channels", 2,
                 "--batch-size", 2, "--ei-trans", 1, "--epochs", 1)  # fmt: skip
    done: Result = script("ei train", *small_run, "data.train.value_range=[-1000, 400]", "--out", "run")
    assert done.code == 0 and "no effect" not in done.out and "above value_range [-1000, 400]" in done.err, done
    assert load_file("run/ckp_last.pth.tar")["config"]["data"]["train"]["value_range"] == [-1000, 400]
    looked = ("--task", "ct", "--ct-views", 5, "--data", "x.npy", "--max-elements", 1)
    assert "value_range to [LOW, HIGH]" in script("ei diagnose", *looked).err  # which it takes, too
    assert script("ei diagnose", *looked, "data.train.value_range=[-1000, 400]").code == 0


def test_a_picture_as_the_mask_of_a_run(script: Any, tmp_path: Path) -> None:
    mask = Image.fromarray(RNG.integers(0, 2, (16, 16)).astype(np.uint8) * 255)
    mask.save("mask.png")
    np.save("y.npy", RNG.random((4, 3, 16, 16), dtype=np.float32))
    options = ("--mask", "mask.png", "--base-channels", 2, "--max-steps", 1, "--ei-trans", 1, "--out", "run")
    done: Result = script("ei train", "--task", "inpainting", "--measurements", "y.npy", *options)
    assert done.code == 0, done.err
    assert torch.equal(load_file("run/ckp_last.pth.tar")["mask"], torch.from_numpy(np.asarray(mask) / 255).float())
    # Pixels that the mask drops are said, as before a training; measurements of this mask need no word.
    again = ("ei reconstruct", "--ckp", "run/ckp_last.pth.tar", "--output", "x.npy", "--input")
    assert "warning: measurements of images fit to 0.0%" in script(*again, "y.npy").out
    np.save("own.npy", np.load("y.npy") * (np.asarray(mask) > 0))
    done = script(*again, "own.npy")
    assert done.code == 0 and "warning" not in done.out, done


SMALL_MRI = ("--base-channels", 2, "--epochs", 1, "--device", "cpu", "--ei-trans", 1, "network.norm=none")


@pytest.mark.figures
def test_the_task_by_commands(script: Script) -> None:
    """Images that are not square, a mask of more columns, of which the middle is taken; train, test, resume."""
    write_images(Path())
    mask = torch.zeros(1, 32, 1)  # Robust EI's form
    mask[:, ::3] = 1
    torch.save({"mask": mask}, "mask.pth.tar")
    train = ("ei train", "--task", "mri", "--data", "images.npz", "--noise", "gaussian:0.1", *SMALL_MRI)
    done = script(*train, "--method", "rei", "--mask", "mask.pth.tar", "--out", "run")
    assert done.code == 0, done.err
    assert "its middle 24 are used, of which 8 are measured" in done.err
    f = ei.load("run/ckp_last.pth.tar")
    assert f.physics.image_shape == (2, 16, 24) and torch.equal(f.physics.mask, mask[0, 4:28, 0])
    tested = script("ei test", "--ckp", "run/ckp_last.pth.tar", "--out", "tested")
    assert tested.code == 0 and Path("tested/sample_0.png").stat().st_size > 5000, tested.err
    rows = evaluate(f, f.physics, MRIData("test", "images.npz"))
    assert f"{rows[0]['psnr_net']:.4f}"[:5] in Path("tested/metrics.csv").read_text()
    again = script("ei train", "--resume", "run/ckp_last.pth.tar", "--epochs", 2, "--mask", "mask.pth.tar")
    assert again.code == 0, again.err
    torch.save(1 - mask, "other.pt")
    for wrong, said in (
        (("ei train", "--resume", "run/ckp_last.pth.tar", "--epochs", 3, "--mask", "other.pt"), "contradicts"),
        ((*train, "--mask", "mask.pth.tar", "--out", "no", "--data", "none.npz"), "none.npz"),
        ((*train, "physics.mask.acceleration=0.5", "--out", "no"), "physics.mask.acceleration"),
    ):
        refused = script(*wrong)
        assert refused.code == 2 and said in refused.err.splitlines()[-1], refused
    drawn = script(*train, "physics.mask.acceleration=3", "--out", "drawn")
    assert drawn.code == 0 and int(load_file("drawn/ckp_last.pth.tar")["mask"].sum()) == 8, drawn.err
    diagnosed = script("ei diagnose", "--task", "mri", "--group", "shift", "--size", 8, "--max-elements", 3)
    assert diagnosed.code == 0 and "cannot learn" in diagnosed.out, diagnosed.err


def test_measured_k_space_is_prepared_and_reconstructed(script: Script) -> None:
    k, x = scan()
    np.save("kspace.npy", k[0])
    done = script("ei prepare", "kspace", "--source", "kspace.npy", "--out", "y.npz")
    assert done.code == 0, done.err
    assert "21 of 32 columns" in done.out and "24 x 11" in done.out
    described = yaml.safe_load(Path("y.yaml").read_text())
    assert described == {"name": "MRI", "mask": "y_mask.npy", "coil_maps": "y_maps.npy", "cg_steps": 8}
    done = script("ei reconstruct", "--physics", "y.yaml", "--input", "y.npz", "--output", "x.npy", "--png")
    assert done.code == 0 and "without a network" in done.out, done.err
    found = np.load("x.npy")
    assert found.shape == (1, 32, 32) and found.dtype == np.complex64
    # The sum of squares of the true maps is one, so that magnitudes are the image's.
    truth = magnitude(x)[0, 0].numpy()
    assert np.linalg.norm(np.abs(found[0]) - truth) < 0.1 * np.linalg.norm(truth)
    assert Path("x/00000.png").stat().st_size > 200


@pytest.mark.parametrize("coils", [1, 3])
def test_training_from_complex_k_space(script: Script, coils: int) -> None:
    """``[n, H, W]`` or ``[n, K, H, W]``, complex, trains as the same k-space in two real channels does."""
    side = 16
    rng = np.random.default_rng(0)
    k, _ = scan(side, coils, 10)
    k = k * rng.uniform(0.8, 1.2, (10, 1, 1, 1)).astype(np.float32)
    np.save("whole.npy", k)
    assert script("ei prepare", "kspace", "--source", "whole.npy", "--out", "y.npz").code == 0
    k = k[:, 0] if coils == 1 else k
    np.save("complex.npy", k)
    np.save("parts.npy", np.stack([k.real, k.imag], 1))
    for name in ("complex", "parts"):
        data = ("--physics", "y.yaml", "--measurements", f"{name}.npy", "--noise", "gaussian:0.001")
        done = script("ei train", *data, "--group", "rotate90", *SMALL_MRI, "--method", "rei", "--out", name)
        assert done.code == 0, done.err
        done = script("ei reconstruct", "--ckp", f"{name}/ckp_best.pth.tar", "--input", f"{name}.npy",
                      "--output", f"x_{name}.npy")  # fmt: skip
        assert done.code == 0, done.err
    a, b = np.load("x_complex.npy"), np.load("x_parts.npy")
    assert a.dtype == np.complex64 and a.shape == (10, side, side) and b.shape == (10, 2, side, side)
    np.testing.assert_array_equal(np.stack([a.real, a.imag], 1), b)
    done = script("ei diagnose", "--physics", "y.yaml", "--group", "rotate90", "--measurements", "complex.npy",
                  "--max-elements", 2)  # fmt: skip
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda k: k.real, ["complex", "float32"]),
        (lambda k: k[0, 0], ["[coils, rows, columns]", "[32, 32]"]),
        (lambda k: np.fft.ifftshift(k, axes=(-2, -1)), ["at the ends of its rows", "fftshift"]),
        (lambda k: np.where(np.arange(32) // 2 == 8, 0, k), ["without a gap", "coil_maps"]),
        (lambda k: np.concatenate([k, np.roll(k, 1, -1)]), ["differ", "one mask"]),
        (lambda k: np.where(np.arange(32) == 0, np.nan, k), ["finite"]),
    ],
)
def test_k_space_that_cannot_be_used(script: Script, change: Callable, said: list[str]) -> None:
    np.save("k.npy", change(scan()[0]))
    done = script("ei prepare", "kspace", "--source", "k.npy", "--out", "y.npz")
    assert done.code == 2 and all(word in done.err for word in said) and done.err.count("\n") == 1, done
    assert not Path("y.npz").exists()


def test_k_space_that_does_not_fit_is_an_error(script: Script) -> None:
    k, _ = scan(16, 3, 4)
    np.save("k.npy", k)
    assert script("ei prepare", "kspace", "--source", "k.npy", "--out", "y.npz").code == 0
    cases: dict[str, tuple[np.ndarray, list[str]]] = {
        "coils": (k[:, :2], ["[4, 2, 16, 16]", "[2, 3, 16, 16]"]),
        "outside": (k + 1, ["not zero", "mask"]),
        "empty": (k * (abs(np.arange(16) - 8) < 2), ["is zero at"]),
        "shifted": (np.fft.ifftshift(k, axes=-2), ["at the ends of its rows", "fftshift"]),
        "real": (k.real, ["[4, 3, 16, 16]"]),
    }
    for name, (array, said) in cases.items():
        np.save(f"{name}.npy", array)
        done = script("ei reconstruct", "--physics", "y.yaml", "--input", f"{name}.npy", "--output", "x.npy")
        assert done.code == 2 and done.err.count("\n") == 1, (name, done)
        assert all(word in done.err for word in said), (name, done.err)
    np.save("sinograms.npy", k[:, 0])
    done = script("ei train", "--task", "ct", "--measurements", "sinograms.npy", "--out", "no")
    assert done.code == 2 and "complex" in done.err and done.err.count("\n") == 1, done
    for arguments, word in (
        (("--input", "k.npy", "--output", "x.npy"), "--ckp"),
        (("--physics", "y.yaml", "--input", "k.npy", "--output", "x.npy", "--average-over", "rotate90"), "--average"),
    ):
        done = script("ei reconstruct", *arguments)
        assert done.code == 2 and word in done.err and done.err.count("\n") == 1, done


def test_real_k_space(shared_data: Path, script: Script) -> None:
    """SigPy's brain, 8 coils, 12 % of k-space: consistent with what was measured, and dark where there is air."""
    done = script("ei prepare", "kspace", "--source", shared_data / "cartesian_ksp.npy", "--out", "brain.npz")
    assert done.code == 0 and "5148 of 41400 points" in done.out and "24 x 24" in done.out, done.err
    done = script("ei reconstruct", "--physics", "brain.yaml", "--input", "brain.npz", "--output", "x.npy", "--png")
    assert done.code == 0, done.err
    image = np.abs(np.load("x.npy")[0])
    assert image[:, :10].mean() < 0.15 * image[80:150, 60:120].mean()
    physics = MRI("brain_mask.npy", "brain_maps.npy", cg_steps=8)
    y = torch.stack([(k := torch.from_numpy(np.load("brain.npz")["y"])).real, k.imag], 1)
    with torch.no_grad():
        left = torch.linalg.vector_norm(physics.A(physics.A_dagger(y)) - y) / torch.linalg.vector_norm(y)
    assert float(left) < 0.12


SMALL_CT = ("--task", "ct", "--ct-views", 5, "--base-channels", 4, "--batch-size", 3, "--epochs", 2, "--device", "cpu")


def test_by_command(script: Script, files: Path) -> None:
    pairs = ("--measurements", "y.npy", "--truth", "x.npy")
    done = script("ei train", *SMALL_CT, *pairs, "--method", "sup", "--out", "run")
    assert done.code == 0 and "A x of the ground truth fits y to 0.0%" in done.out and "warning" not in done.out, (
        done.err
    )
    with open(files / "run" / "training_loss.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 and all(3 < float(row["psnr"]) < 60 and float(row["validation_loss"]) > 0 for row in rows)
    assert (files / "run" / "ckp_best.pth.tar").exists()

    done = script("ei test", "--ckp", "run/ckp_last.pth.tar", *pairs, "--out", "measured")
    assert done.code == 0 and "12 test images of measurements" in done.out, done.err
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
        (("--truth", "x.npy"), ["data.truth", "data.measurements"]),
        (("--measurements", "y.npy", "--truth", "y.npy"), ["y.npy", "[1, 16, 16]"]),
        (("--measurements", "y.npy", "--truth", "few.npy"), ["12 measurements", "5 images"]),
    ],
)
def test_wrong_pairs_are_errors(script: Script, files: Path, arguments: tuple[str, ...], said: list[str]) -> None:
    np.save(files / "few.npy", np.zeros((5, 16, 16), np.float32))
    done = script("ei train", *SMALL_CT, *arguments, "--out", "run")
    line = done.err.strip().splitlines()[-1]
    assert done.code == 2 and all(part in line for part in said) and not (files / "run").exists(), done.err


def test_another_order_is_warned_of(script: Script, files: Path) -> None:
    wrong = ("--measurements", "y.npy", "--truth", "other.npy")
    done = script("ei train", *SMALL_CT, *wrong, "--method", "sup", "--max-steps", 1, "--out", "run")
    assert done.code == 0 and "warning: that of another image fits" in done.out, done.out + done.err


def test_tables_of_pairs_keep_the_names_of_their_files(script: Script, files: Path) -> None:
    for name in ("x", "y"):
        (files / name).mkdir()
        for k, item in enumerate(np.load(files / f"{name}.npy")):
            np.save(files / name / f"scan_{k}.npy", item)
    assert script("ei train", *SMALL_CT, "--measurements", "y", "--out", "run").code == 0
    done = script("ei test", "--ckp", "run/ckp_last.pth.tar", "--measurements", "y", "--truth", "x", "--out", "test")
    assert done.code == 0, done.err
    with open(files / "test" / "metrics.csv", newline="") as file:
        assert [row["file"] for row in csv.DictReader(file)] == [f"scan_{k}" for k in range(12)]


@pytest.mark.parametrize("number", range(12))
def test_a_measurement_that_is_not_finite_is_an_error_before_the_run(script: Script, files: Path, number: int) -> None:
    """Some are in the training set, some in the validation set, and few of them are examined more closely."""
    y = np.load(files / "y.npy")
    y[number, 2, 3] = np.nan
    np.save(files / "y.npy", y)
    done = script("ei train", *SMALL_CT, "--measurements", "y.npy", "--out", "run")
    assert done.code == 2 and f"measurement {number} " in done.err and "finite" in done.err, done
    assert not (files / "run").exists()


@pytest.mark.slow
def test_the_walk_of_the_page_works(script: Script) -> None:
    """The commands of docs/guides/ct_scan.md as they stand there, on a small scan with a shifted axis, flats, darks."""
    lines = commands_of(ROOT / "docs" / "guides" / "ct_scan.md")
    assert len(lines) == 6
    counts_of_a_small_scan()
    said = []
    for line in lines:
        name, *arguments = shlex.split(line)[1:]
        if name == "train":  # as short as can be
            longer = "--epochs" in arguments
            arguments = arguments[: arguments.index("--epochs")] if longer else [*arguments, "--base-channels", "2"]
            arguments += ["--epochs", "3" if longer else "2", "--device", "cpu"]
        done = script(f"ei {name}", *arguments)
        assert done.code == 0, (line, done.err)
        said.append(done.out)
    assert "the sinogram fits" in said[0]
    assert yaml.safe_load(Path("y.yaml").read_text())["centre"] == pytest.approx(1.5, abs=0.2)
    images = np.load("x.npy")
    assert images.shape == (12, 24, 24) and np.isfinite(images).all()
    assert 0 < np.quantile(images, 0.99) < 0.2  # an attenuation, in the unit of the bins


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("sinogram", "--counts", "counts.npy"), "sinogram needs --out"),
        (("sinogram", "--counts", "none.npy", "--flat", "flat.npy", "--dark", "dark.npy", "--angles", "angles.txt",
          "--out", "y.npz"), "none.npy"),
        (("sinogram", "--counts", "counts.npy", "--flat", "flat.npy", "--dark", "dark.npy", "--angles", "counts.npy",
          "--out", "y.npz"), "angles must be a list"),
        (("sinogram", *FILES, "--centre", 100, "--out", "y.npz"), "check centre (100 bins)"),
        (("sinogram", *FILES, "--centre", 1, "--out", "counts.npy"), "--out would overwrite counts.npy, which is read"),
        (("sinogram", *FILES, "--centre", 1, "--out", "mine.npz"), "mine.yaml has source_origin and would be overw"),
        (("kspace", "--source", "k_mask.npy", "--out", "k.npz"), "--out would overwrite k_mask.npy, which is read"),
    ],
)  # fmt: skip
def test_wrong_input_is_an_error_of_one_line(arguments: tuple[str, ...], said: str, script: Script) -> None:
    counts_of_a_small_scan(2)
    np.save("k_mask.npy", np.ones((2, 16, 16), np.complex64))
    Path("mine.yaml").write_text("{name: Tomography, source_origin: 300}")
    before = {path: path.read_bytes() for path in Path().iterdir()}
    done = script("ei prepare", *arguments)
    assert done.code == 2 and said in done.err and done.err.count("\n") == 1, done
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


def test_flats_and_darks_in_one_file_have_their_usual_names(script: Script) -> None:
    counts_of_a_small_scan(2)
    np.savez("scan.npz", **{name: np.load(f"{name}.npy") for name in ("counts", "flat", "dark")})
    done = script("ei prepare", "noise", "--flat", "scan.npz", "--dark", "scan.npz")
    assert done.code == 0, done
    assert done.out == script("ei prepare", "noise", "--flat", "flat.npy", "--dark", "dark.npy").out
