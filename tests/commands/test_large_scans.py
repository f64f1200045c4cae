"""Stacks of measurements by command: slices, bins, stages, an axis for all rows, interrupted reconstructions."""

from __future__ import annotations

import shlex
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, Result, subprocess_run
from makers import counts_of_a_small_scan, sinograms_of_counts
from page_blocks import commands_of
from scan_makers import discs

import ei
from ei.commands import prepare
from ei.commands import train as train_command
from ei.commands.tree import read_physics
from ei.common.arrays import read_array
from ei.common.files import load_file
from ei.common.unfinished import UnfinishedArray
from ei.datasets import EllipsePhantoms, conversion
from ei.datasets.scans import bin_detectors
from ei.models import UNet
from ei.physics import Tomography

Script = Callable[..., Result]
GEOMETRY = {"image_shape": [32, 32], "n_detectors": 48, "centre": 0.5, "angles": list(range(0, 180, 20))}
SMALL = ("--group", "rotate90", "--method", "mc", "--base-channels", 2, "--epochs", 1, "--device", "cpu",
         "network.norm=none")  # fmt: skip


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """y.npy [12, 48, 9] and its geometry."""
    x = torch.stack([EllipsePhantoms("train", 32, n_images=20)[n] for n in range(12)])[:, None]
    np.save(tmp_path / "y.npy", Tomography(**GEOMETRY).A(x)[:, 0].numpy())
    (tmp_path / "scan.yaml").write_text(yaml.safe_dump({"name": "Tomography", **GEOMETRY}))
    return tmp_path


def train(script: Script, *more: Any, out: str = "run") -> Result:
    done = script("ei train", "--physics", "scan.yaml", "--measurements", "y.npy", *SMALL, "--out", out, *more)
    assert done.code == 0, done.err
    return done


def test_reconstruct_warns_of_sinograms_that_do_not_fit(script: Script, scan: Path) -> None:
    words = ("ei reconstruct", "--physics", "scan.yaml", "--output", "x.npy", "--input")
    assert "warning" not in script(*words, "y.npy").out
    np.save("counts.npy", 1e4 * np.exp(-np.load("y.npy") / 20))
    done = script(*words, "counts.npy")
    assert done.code == 0 and "warning: the sinogram does NOT fit its geometry" in done.out and "logarithm" in done.out


# ---- slices --------------------------------------------------------------------------------------------------------


def test_train_on_some_slices_and_reconstruct_others(script: Script, scan: Path) -> None:
    done = train(script, "data.slices=0:12:3", "data.validation=0.25")
    assert "validation set: 1 of 4 measurements" in done.out
    state = load_file("run/ckp_last.pth.tar")
    assert state["config"]["data"]["slices"] == "0:12:3"
    words = ("--ckp", "run/ckp_last.pth.tar", "--input", "y.npy", "--slices", "4:9:2", "--output", "x.npy")
    done = script("ei reconstruct", *words, "--png")
    assert done.code == 0, done.err
    f = ei.load("run/ckp_last.pth.tar")
    with torch.no_grad():
        expected = f(torch.from_numpy(np.load("y.npy")[4:9:2])[:, None])[:, 0]
    np.testing.assert_allclose(np.load("x.npy"), expected.numpy(), atol=1e-5)
    assert sorted(path.name for path in Path("x").iterdir()) == ["00004.png", "00006.png", "00008.png"]


def test_the_same_command_continues_with_the_same_file_of_the_run(script: Script, scan: Path) -> None:
    """Keys keep their order, or a continued checkpoint would have other bytes than one of an uninterrupted run."""
    words = ("data.slices=0:12:3", "--resume", "auto", "--max-steps")
    train(script, *words, 1)
    before = Path("run/config.yaml").read_text()
    train(script, *words, 2)
    assert Path("run/config.yaml").read_text() == before.replace("max_steps: 1", "max_steps: 2")


def test_slices_with_their_truth(script: Script, scan: Path) -> None:
    x = torch.stack([EllipsePhantoms("train", 32, n_images=20)[n] for n in range(12)])
    np.save("x_true.npy", x.numpy())
    done = train(script, "--truth", "x_true.npy", "data.slices=2:12:2")
    assert "A x of the ground truth fits y to 0.0%" in done.out
    assert load_file("run/ckp_last.pth.tar")["step"] == 2  # of 4 pairs, the fifth is validated


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--measurements", "y.npy", "data.slices=3:13"), "outside the stack of 12 measurements"),
        (("--measurements", "y.npy", "data.slices=[1, 2]"), "slices must be A:B"),
        (("--data", "synthetic", "data.slices=0:5"), "data.slices is for data.measurements"),
        (("--measurements", "y.npy", "data.bin=60"), "physics.n_detectors must"),
        (("--measurements", "y.npy", "data.bin=two"), "data.bin must"),
    ],
)
def test_wrong_slices_are_an_error_of_one_line(
    words: tuple[str, ...], message: str, script: Script, scan: Path
) -> None:
    done = script("ei train", "--physics", "scan.yaml", *SMALL, *words, "--out", "run")
    assert done.code == 2 and message in done.err and done.err.count("\n") == 1 and not Path("run").exists()


def test_bins_are_of_tomography(script: Script, scan: Path) -> None:
    done = script("ei train", "--task", "ct", "--measurements", "y.npy", "physics.radon_view=9", "physics.img_width=33",
                  "data.bin=2", "--out", "run")  # fmt: skip
    assert done.code == 2 and "data.bin averages the detectors of Tomography, got CT" in done.err


# ---- interrupted reconstructions -----------------------------------------------------------------------------------


WORDS = ("--physics", "scan.yaml", "--input", "y.npy", "-b", 2, "--device", "cpu")


def reconstruct(script: Script, *more: Any, output: str = "x.npy") -> Result:
    return script("ei reconstruct", *WORDS, "--output", output, *more)


@pytest.mark.parametrize("output", ["x.npy", "x.h5"])
def test_an_interrupted_reconstruction_goes_on(
    script: Script, scan: Path, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = output.replace("x", "whole")
    assert reconstruct(script, output=whole).code == 0
    written = UnfinishedArray.write

    def stopped(array: UnfinishedArray, indices: Any, values: Any) -> None:
        if 6 in indices:
            signal.raise_signal(signal.SIGTERM)
        written(array, indices, values)

    monkeypatch.setattr(UnfinishedArray, "write", stopped)
    done = reconstruct(script, output=output)
    assert done.code == 128 + signal.SIGTERM and "5 of 12 images are kept in" in done.err and not Path(output).exists()
    monkeypatch.setattr(UnfinishedArray, "write", written)
    for changed in (("--slices", "0:6"), ("physics.centre=1",)):
        done = reconstruct(script, *changed, output=output)
        assert done.code == 2 and "choose another" in done.err and done.err.count("\n") == 1, done
    geometry = Path("scan.yaml").read_text()
    Path("scan.yaml").write_text(geometry.replace("centre: 0.5", "centre: 1.5"))
    assert "of a call with another operator" in reconstruct(script, output=output).err
    Path("scan.yaml").write_text(geometry)
    Path("y.npy").touch()
    assert "another time or size of --input" in reconstruct(script, output=output).err


def test_the_rest_of_an_interrupted_reconstruction(script: Script, scan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reconstruct(script, output="whole.npy").code == 0
    written = UnfinishedArray.write
    places: list[int] = []

    def noted(array: UnfinishedArray, indices: Any, values: Any) -> None:
        if 6 in indices and len(places) < 6:
            raise KeyboardInterrupt
        places.extend(indices)
        written(array, indices, values)

    monkeypatch.setattr(UnfinishedArray, "write", noted)
    assert reconstruct(script).code == 130
    places += [-1] * 6
    done = reconstruct(script)
    assert done.code == 0 and "5 of 12 images are there" in done.out
    assert places == [0, 1, 2, 3, 4, *[-1] * 6, *range(5, 12)]
    assert Path("x.npy").read_bytes() == Path("whole.npy").read_bytes()
    assert not list(Path().glob("*.unfinished*"))


@pytest.mark.slow
@pytest.mark.parametrize("output", ["x.npy", "x.h5"])
def test_two_processes_share_the_slices(scan: Path, output: str) -> None:
    """And continue what one has begun."""
    assert subprocess_run("python", "-m", "ei", "reconstruct", *WORDS, "--output", "alone.npy", cwd=scan).code == 0
    torchrun = ("torchrun", "--standalone", "--nproc_per_node=2", "-m", "ei", "reconstruct", *WORDS)
    done = subprocess_run(*torchrun, "--output", output, cwd=scan)
    assert done.code == 0 and done.out.count("images a second") == 1, done.err
    found = read_array(scan / output)
    np.testing.assert_allclose(found, np.load(scan / "alone.npy"), rtol=1e-5, atol=1e-6)
    assert not list(scan.glob("*.unfinished*"))


# ---- bins and stages -----------------------------------------------------------------------------------------------


def test_training_in_bins(script: Script, scan: Path) -> None:
    train(script, "data.bin=2")
    f = ei.load("run/ckp_last.pth.tar")
    assert f.physics.image_shape == (16, 16) and f.physics.scan.pixel_size == 2 and f.physics.scan.centre == 0.25
    tree = yaml.safe_load(Path("run/config.yaml").read_text())
    assert tree["physics"]["n_detectors"] == 48 and tree["data"]["bin"] == 2  # the same run again is the same
    assert script("ei train", "run/config.yaml", "--out", "again").code == 0
    again = load_file("again/ckp_last.pth.tar")["state_dict"]
    assert all(torch.equal(value, again[name]) for name, value in f.net.state_dict().items())
    done = script("ei train", "--resume", "run/ckp_last.pth.tar", "--epochs", 2, "--physics", "scan.yaml")
    assert done.code == 0, done.err
    done = script("ei train", "--resume", "run/ckp_last.pth.tar", "--epochs", 3, "data.bin=4")
    assert done.code == 2 and "data.bin 4 contradicts" in done.err
    # Measurements as they are: the checkpoint knows its bins.
    assert script("ei reconstruct", "--ckp", "run/ckp_last.pth.tar", "--input", "y.npy", "--output", "x.npy").code == 0
    f = ei.load("run/ckp_last.pth.tar")
    binned = torch.from_numpy(bin_detectors(np.load("y.npy"), 2, -2))[:, None]
    with torch.no_grad():
        np.testing.assert_allclose(np.load("x.npy"), f(binned)[:, 0].numpy(), atol=1e-5)


def stages(*words: Any) -> tuple[Any, ...]:
    return ("--physics", "scan.yaml", "--measurements", "y.npy", *SMALL, ROOT / "configs" / "recipe" /
            "coarse_to_fine.yaml", "--out", "run", *words)  # fmt: skip


def test_coarse_to_fine(script: Script, scan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[dict] = []
    build = train_command.build_training

    def noted(tree: Any, *arguments: Any) -> Any:
        trainer, loader = build(tree, *arguments)
        begun.append({name: value.clone() for name, value in trainer.f.net.state_dict().items()})
        return trainer, loader

    monkeypatch.setattr(train_command, "build_training", noted)
    done = script("ei train", *stages())
    assert done.code == 0, done.err
    assert "stage 3 of 3" in done.out and len(begun) == 3
    states = [load_file(f"run/stage_{number}/ckp_last.pth.tar") for number in (1, 2, 3)]
    assert [state["physics"]["image_shape"] for state in states] == [[8, 8], [16, 16], [32, 32]]
    assert [state["physics"]["n_detectors"] for state in states] == [12, 24, 48]
    for before, weights in zip(states, begun[1:], strict=False):
        assert all(torch.equal(value, before["state_dict"][name]) for name, value in weights.items())
    assert not torch.equal(*(next(iter(weights.values())) for weights in begun[1:]))
    # Where all is done, nothing is left to do; and a run that is there is not overwritten.
    done = script("ei train", *stages("--resume", "auto"))
    assert done.code == 0 and "nothing is left to do" in done.out and "stage 1" not in done.out
    done = script("ei train", *stages())
    assert done.code == 2 and "already holds a run" in done.err


def test_a_run_and_stages_do_not_share_a_folder(script: Script, scan: Path) -> None:
    (scan / "run" / "stage_1").mkdir(parents=True)
    words = ("ei train", "--physics", "scan.yaml", "--measurements", "y.npy", *SMALL, "--out", "run")
    for resume in ((), ("--resume", "auto")):
        done = script(*words, *resume)  # the tree with the stages was forgotten
        assert done.code == 2 and "holds a training in stages" in done.err, done
    (scan / "run" / "stage_1" / "config.yaml").write_text("")
    done = script("ei train", *stages("--out", "run/stage_1", "--resume", "auto"))
    assert done.code == 2 and "already holds a run" in done.err, done
    assert [path.name for path in (scan / "run").rglob("*")] == ["stage_1", "config.yaml"]


@pytest.mark.slow
def test_stages_continue_in_the_right_one(script: Script, scan: Path) -> None:
    whole = script("ei train", *stages("--epochs", 2))
    assert whole.code == 0, whole.err
    shutil.move("run", "whole")
    done = script("ei train", *stages("--epochs", 2, "--max-steps", 3))
    assert done.code == 0 and "stage 2" not in done.out  # its first stage is not finished
    shutil.copytree("whole/stage_1", "other")
    done = script("ei train", *stages("--epochs", 2, "--resume", "auto"))
    assert done.code == 0 and "stage 1 of 3" in done.out, done.err
    shutil.rmtree("run/stage_3")
    done = script("ei train", *stages("--epochs", 2, "--resume", "auto"))
    assert done.code == 0 and "stage 1" not in done.out and "stage 3 of 3" in done.out
    expected, found = (load_file(f"{run}/stage_3/ckp_last.pth.tar")["state_dict"] for run in ("whole", "run"))
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("stages: [{data: {bin: 4}}, {}]", (), "needs --out"),
        ("stages: [{data: {bin: 4}}, {}]", ("--out", "run", "--resume", "a.pth.tar"), "--resume auto"),
        ("stages: {data: {bin: 4}}", ("--out", "run"), "stages must be a list of trees"),
        ("stages: [{data: {bins: 4}}]", ("--out", "run"), "stage 1: data.bins is unknown"),
        ("stages: []", ("--out", "run"), "stages must be a list of trees"),
    ],
)
def test_wrong_stages(text: str, words: tuple[str, ...], message: str, script: Script, scan: Path) -> None:
    Path("stages.yaml").write_text(text)
    done = script("ei train", "--physics", "scan.yaml", "--measurements", "y.npy", *SMALL, "stages.yaml", *words)
    assert done.code == 2 and message in done.err and done.err.count("\n") == 1 and not Path("run").exists()


@pytest.mark.slow
def test_the_walk_of_the_page_works(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of docs/guides/large_scans.md as they stand there, on a small scan."""
    counts_of_a_small_scan()
    shutil.copytree(ROOT / "configs", "configs")
    for line in commands_of(ROOT / "docs" / "guides" / "large_scans.md"):
        words = shlex.split(line)
        small = ["--epochs", "1", "--base-channels", "2", "--device", "cpu"] if words[1] == "train" else []
        if words[0] == "torchrun":
            done = subprocess_run(*words, cwd=Path())
        else:
            done = script(f"ei {words[1]}", *words[2:], *small)
        assert done.code == 0, (line, done.err)
    assert read_array("volume.h5").shape == (8, 24, 24) and np.load("all.npy").shape == (12, 24, 24)
    np.testing.assert_allclose(read_array("volume.h5"), np.load("all.npy")[2:10], rtol=1e-4, atol=1e-6)


# ---- network tiles ---------------------------------------------------------------------------------------------------


PICTURES = ("--physics", "mask.yaml", "--measurements", "pictures.npy", *SMALL)


@pytest.fixture
def pictures(scan: Path) -> Path:
    """pictures.npy [3, 136, 128], too large for a tile of 128, and their operator."""
    np.save(scan / "pictures.npy", np.random.default_rng(0).random((3, 136, 128)).astype(np.float32))
    (scan / "mask.yaml").write_text("{name: Inpainting, img_height: 136, img_width: 128, mask_rate: 0.3}")
    return scan


@pytest.mark.slow
def test_network_tiles_by_command(script: Script, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same run and the same images with them and without, also where the checkpoint was trained without."""
    sides: list[int] = []
    forward = UNet.forward

    def noted(net: UNet, x: torch.Tensor, framed: bool = False) -> torch.Tensor:
        sides.append(x.shape[-2] - 2 * framed)
        return forward(net, x, framed)

    monkeypatch.setattr(UNet, "forward", noted)
    tile = "reconstructor.network_tile=128"
    for words, out, largest in (((), "whole", 136), ((tile,), "tiled", 128)):
        sides.clear()
        done = script("ei train", *PICTURES, "--out", out, *words)
        assert done.code == 0 and max(sides) == largest, done.err
    whole, tiled = (load_file(f"{run}/ckp_last.pth.tar") for run in ("whole", "tiled"))
    assert yaml.safe_load(Path("tiled/config.yaml").read_text())["reconstructor"]["network_tile"] == 128
    assert whole["reconstructor"] == tiled["reconstructor"] and whole["config"] == tiled["config"]
    for name, value in whole["state_dict"].items():
        torch.testing.assert_close(tiled["state_dict"][name], value, rtol=1e-4, atol=1e-5)
    words = ("--ckp", "whole/ckp_last.pth.tar", "--input", "pictures.npy", "-b", 1)
    for output, more in (("x.npy", ()), ("tiles.npy", (tile,)), ("averaged.npy", (tile, "--average-over", "reflect"))):
        sides.clear()
        done = script("ei reconstruct", *words, *more, "--output", output)
        assert done.code == 0 and max(sides) == (128 if more else 136), done.err
    np.testing.assert_allclose(np.load("tiles.npy"), np.load("x.npy"), atol=1e-5)
    sides.clear()
    np.save("truth.npy", np.load("pictures.npy"))
    done = script("ei test", *words[:2], "--measurements", "pictures.npy", "--truth", "truth.npy", tile)
    assert done.code == 0 and set(sides) == {128}, done.err
    done = script("ei reconstruct", *words, "--output", "wrong.npy", "reconstructor.network_tile=100")
    assert done.code == 2 and "reconstructor.network_tile must be a multiple of 8" in done.err
    assert done.err.count("\n") == 1 and not Path("wrong.npy").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("reconstructor.network_tile=250",), "reconstructor.network_tile must be a multiple of 8 and at least 120"),
        (("reconstructor.network_tile=64",), "at least 120"),
        (("reconstructor.network_tile=big",), "reconstructor.network_tile must be a whole number"),
        (("reconstructor.network_tile=128", "network.norm=batch"), "BatchNorm in training"),
        (("reconstructor.network_tiles=128",), "did you mean network_tile?"),
    ],
)
def test_wrong_network_tiles(words: tuple[str, ...], message: str, script: Script, pictures: Path) -> None:
    done = script("ei train", *PICTURES, *words, "--out", "run")
    assert done.code == 2 and message in done.err and done.err.count("\n") == 1 and not Path("run").exists(), done.err


# ---- the axis ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_axis_is_the_median_of_several_rows(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    counts_of_a_small_scan(5)
    found = iter([1.0, 7.0, 1.4, None, 1.5])
    check = prepare.check_sinogram

    def reported(physics: Any, y: Any) -> Any:
        report = check(physics, y)
        if len(y) == 1:
            report.centre = next(found)
        return report

    monkeypatch.setattr(prepare, "check_sinogram", reported)
    done = script("ei prepare", "sinogram", "--counts", "counts.npy", "--flat", "flat.npy", "--dark", "dark.npy",
                  "--angles", "angles.txt", "--out", "y.npz")  # fmt: skip
    assert done.code == 0, done.err
    assert "axis: 1.45 bins from the middle, the median of 4 rows (1.00 to 7.00)" in done.out
    assert "warning: the axis differs between rows; of a tilted detector --axis-per-slice" in done.out
    assert yaml.safe_load(Path("y.yaml").read_text())["centre"] == 1.45


def test_of_a_tilted_detector_each_row_is_shifted_onto_one_axis(script: Script, tmp_path: Path) -> None:
    """The axis moves by half a bin from row to row: its line is found, and every slice is then that of one axis."""
    angles = np.arange(0, 180, 4.0)
    image = discs(32)
    axes = -1.5 + 0.5 * np.arange(7)
    rows = [Tomography((32, 32), angles, 56, centre=centre).A(image)[0, 0].numpy() for centre in axes.tolist()]
    np.save("counts.npy", 1e4 * np.exp(-np.stack(rows)).transpose(2, 0, 1))  # [views, rows, detectors]
    np.save("flat.npy", np.full((7, 56), 1e4))
    np.save("dark.npy", np.zeros((7, 56)))
    np.savetxt("angles.txt", angles)
    words = ("ei prepare", "sinogram", *COUNTS, "--out")
    done = script(*words, "y.npy", "--axis-per-slice")
    assert done.code == 0, done.err
    found = yaml.safe_load(Path("y.yaml").read_text())["centre"]
    assert found == pytest.approx(0, abs=0.1) and "the sinogram fits its geometry" in done.out, done.out
    expected = Tomography((32, 32), angles, 56, centre=found).A(image)[0, 0].numpy()
    y = np.load("y.npy")
    errors = [float(np.linalg.norm(each - expected) / np.linalg.norm(expected)) for each in y]
    assert max(errors) < 0.02 and float(np.linalg.norm(rows[0] - expected) / np.linalg.norm(expected)) > 0.15, errors
    done = script(*words, "z.npy", "--axis-per-slice", "--centre", 1)
    assert done.code == 2 and "--centre and --axis-per-slice exclude each other" in done.err
    for name in ("counts", "flat", "dark"):  # two rows: no line
        array = np.load(f"{name}.npy")
        np.save(f"{name}.npy", array[:, :2] if name == "counts" else array[:2])
    done = script(*words, "z.npy", "--axis-per-slice")
    assert done.code == 2 and "needs 3 rows in which the axis is found, got 2 of 2" in done.err, done
    assert done.err.count("\n") == 1 and not list(tmp_path.glob("z*"))
    done = script("ei prepare", "noise", "--flat", "flat.npy", "--dark", "dark.npy", "--axis-per-slice")
    assert done.code == 2 and "noise does not use --axis-per-slice" in done.err, done


COUNTS = ("--counts", "counts.npy", "--flat", "flat.npy", "--dark", "dark.npy", "--angles", "angles.txt")


@pytest.mark.parametrize("out", ["folder/y.npz", "y.npy", "y.h5"])
def test_sinograms_are_written_row_by_row(out: str, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """To any file, continued where the command was interrupted, with the geometry beside it."""
    counts_of_a_small_scan(5)
    a_row_at_a_time = (None, None, None, 1, False, 1)
    monkeypatch.setattr(conversion.Conversion.__init__, "__defaults__", a_row_at_a_time)
    monkeypatch.setattr(prepare, "check_sinogram", lambda physics, y: "the sinogram was checked")  # takes seconds
    written = UnfinishedArray.write
    rows: list[int] = []

    def stopped(array: UnfinishedArray, indices: Any, values: Any) -> None:
        rows.extend(indices)
        if rows == [0, 1, 2]:
            raise KeyboardInterrupt
        written(array, indices, values)

    monkeypatch.setattr(UnfinishedArray, "write", stopped)
    done = script("ei prepare", "sinogram", *COUNTS, "--centre", 1.5, "--out", out)
    assert done.code == 130 and "2 of 5 sinograms are kept in" in done.err and not Path(out).exists()
    done = script("ei prepare", "sinogram", *COUNTS, "--centre", 1.5, "--out", out, "--bin", 2)
    assert done.code == 2 and "another --bin" in done.err and done.err.count("\n") == 1
    angles = np.loadtxt("angles.txt")
    np.savetxt("angles.txt", angles + 1)
    done = script("ei prepare", "sinogram", *COUNTS, "--centre", 1.5, "--out", out)
    assert done.code == 2 and "another --angles" in done.err, done
    np.savetxt("angles.txt", angles)
    done = script("ei prepare", "sinogram", *COUNTS, "--centre", 1.5, "--out", out)
    assert done.code == 0 and "continuing" in done.out and "was checked" in done.out and rows == [0, 1, 2, 2, 3, 4], (
        done.err
    )
    expected = sinograms_of_counts(*(np.load(f"{name}.npy") for name in ("counts", "flat", "dark")))
    np.testing.assert_array_equal(read_array(out, ("y",)), expected)
    physics = read_physics(str(Path(out).with_suffix(".yaml")))["physics"]
    operator = Tomography(**{key: value for key, value in physics.items() if key != "name"})
    np.testing.assert_array_equal(operator.angles, np.loadtxt("angles.txt"))
    assert sorted(path.name for path in Path(out).parent.glob("y*")) == [f"y{Path(out).suffix}", "y.yaml"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--out", "y.tif"), "--out must be a file that ends in .npz, .npy, .h5, .hdf5, got y.tif"),
        (("--out", "y.npz", "--angles", "three.txt"), "there must be an angle for each of 30 views, got 3"),
        (("--out", "y.npz", "--bin", "25"), "a bin of 25 detectors is larger than the 24 detectors"),
        (("--out", "y.npz", "--bin", "0"), "--bin must be a whole number >= 1"),
        (("--out", "y.npz", "--centre", "nan"), "--centre must be a finite number"),
        (("--out", "y.npz", "--flat", "none.npy"), "there is no flat file none.npy"),
        (("--out", "y.npz", "--counts", "dark.npy"), "an angle for each of 10 views, got 30"),
    ],
)
def test_wrong_words_for_sinograms(words: tuple[str, ...], message: str, script: Script) -> None:
    counts_of_a_small_scan(2)
    np.savetxt("three.txt", np.arange(3.0))
    done = script("ei prepare", "sinogram", *COUNTS, *words)
    assert done.code == 2 and message in done.err and done.err.count("\n") == 1, done.err
    assert not list(Path().glob("y*"))


def test_prepare_takes_the_options_of_what_it_prepares(script: Script, scan: Path) -> None:
    counts_of_a_small_scan()
    words = ("--counts", "counts.npy", "--flat", "flat.npy", "--dark", "dark.npy", "--angles", "angles.txt")
    done = script("ei prepare", "sinogram", *words, "--source", "x.npy", "--out", "z.npz")
    assert done.code == 2 and "sinogram does not use --source" in done.err and not Path("z.npz").exists()
    done = script("ei prepare", "noise", "--flat", "flat.npy", "--dark", "dark.npy", "--out", "z.npz")
    assert done.code == 2 and "noise does not use --out" in done.err


@pytest.mark.slow
def test_two_processes_prepare_one_file(script: Script, scan: Path) -> None:
    counts_of_a_small_scan(rows=5)
    words = ("prepare", "sinogram", "--counts", "counts.npy", "--flat", "flat.npy", "--dark", "dark.npy", "--angles",
             "angles.txt", "--centre", "1.5", "--out")  # fmt: skip
    assert script("ei", *words, "one.npy").code == 0
    done = subprocess_run("torchrun", "--standalone", "--nproc_per_node=2", "-m", "ei", *words, "two.npy", cwd=scan)
    assert done.code == 0, done.err
    assert done.out.count("two.yaml: the geometry") == 1
    assert Path("one.npy").read_bytes() == Path("two.npy").read_bytes()
    assert sorted(path.name for path in scan.glob("*two*")) == ["two.npy", "two.yaml"]
