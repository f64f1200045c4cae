"""Scans that differ, by command: trained, resumed, reconstructed; operators that move or are drawn; wrong input."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, Result
from page_blocks import commands_of

import ei
from ei.common.files import load_file
from ei.datasets import EllipsePhantoms
from ei.physics import Tomography

Script = Callable[..., Result]
ANGLES = [list(range(first, first + 180, step)) for first, step in ((0, 30), (10, 36), (20, 30), (5, 36), (15, 45))]
SMALL = ("--base-channels", 2, "network.norm=none", "--device", "cpu", "--held-out", 0.2, "-b", 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    physics = Tomography((16, 16), ANGLES, 23)
    (tmp_path / "y").mkdir()
    for n in range(len(ANGLES)):
        y = physics.of([n]).A(EllipsePhantoms("train", 16)[n][None, None])
        np.save(tmp_path / "y" / f"scan_{n}.npy", y[0, 0].numpy())
    geometry = {"name": "Tomography", "image_shape": [16, 16], "n_detectors": 23}
    (tmp_path / "geometry.yaml").write_text(yaml.safe_dump({**geometry, "angles": ANGLES}))
    return tmp_path


@pytest.mark.parametrize("command", commands_of(ROOT / "docs" / "guides" / "scans.md", "bash"))
def test_the_commands_of_the_guide(script: Script, folder: Path, command: str) -> None:
    images = ("physics.img_width=16", "physics.radon_view=10", "data.train={name: EllipsePhantoms, img_size: 16}")
    words = shlex.split(command.removeprefix("ei train"))
    more = images if "--data" in words else ()
    done = script("ei train", *words, *SMALL, *more, "--epochs", 1, "--max-steps", 1, "--out", "run")
    assert done.code == 0, done


RUN = ("ei train", "--physics", "geometry.yaml", "--measurements", "y", *SMALL)


@pytest.mark.parametrize(
    "method",
    [("--method", "moi"), ("--group", "rotate90", "closure.operators=any"),
     ("--group", "rotate90", "closure.move=operator")],
    ids=["moi", "any", "operator"],
)  # fmt: skip
def test_a_run_of_scans_that_differ(script: Script, folder: Path, method: tuple[str, ...]) -> None:
    done = script(*RUN, *method, "--epochs", 2, "--out", "whole")
    assert done.code == 0, done
    whole = load_file("whole/ckp_last.pth.tar")
    # One of the five is the validation set: the others have three or four shapes, of two scans at most.
    assert whole["step"] in (2 * 3, 2 * 4)

    assert script(*RUN, *method, "--epochs", 1, "--out", "part").code == 0
    done = script("ei train", "--resume", "part/ckp_last.pth.tar", "--epochs", 2)
    assert done.code == 0, done
    part = load_file("part/ckp_last.pth.tar")["state_dict"]
    assert all(torch.equal(value, part[name]) for name, value in whole["state_dict"].items())

    done = script("ei reconstruct", "--ckp", "whole/ckp_last.pth.tar", "--input", "y", "--output", "x.npy")
    assert done.code == 0, done
    f = ei.load("whole/ckp_last.pth.tar")
    for n, image in enumerate(np.load("x.npy")):
        y = torch.from_numpy(np.load(f"y/scan_{n}.npy"))[None, None]
        with torch.no_grad():
            expected = f.of(f.physics.of([n]))(y)
        torch.testing.assert_close(torch.from_numpy(image).reshape(16, 16), expected[0, 0], rtol=1e-4, atol=1e-5)


def test_a_list_of_files_in_a_tree(script: Script, folder: Path) -> None:
    (folder / "run.yaml").write_text(
        yaml.safe_dump({"data": {"measurements": [f"y/scan_{n}.npy" for n in range(5)]}, "closure": "MOIClosure"})
    )
    done = script("ei train", "run.yaml", "--physics", "geometry.yaml", *SMALL, "closure.alpha=1", "--epochs", 1,
                  "--out", "run")  # fmt: skip
    assert done.code == 0, done
    assert script(*RUN, "--method", "moi", "closure.alpha=1", "--epochs", 1, "--out", "same").code == 0
    one, other = (load_file(f"{name}/ckp_last.pth.tar")["state_dict"] for name in ("run", "same"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_simulated_scans_that_differ(script: Script, folder: Path) -> None:
    geometry = yaml.safe_load((folder / "geometry.yaml").read_text())
    (folder / "four.yaml").write_text(yaml.safe_dump({**geometry, "angles": ANGLES[:4]}))
    np.save(folder / "x.npy", np.stack([EllipsePhantoms("train", 16)[n].numpy() for n in range(5)]))
    done = script("ei train", "--physics", "four.yaml", "--data", "x.npy", "--method", "moi", "--base-channels", 2,
                  "data.train.value_range=[0, 1]",
                  "network.norm=none", "--device", "cpu", "--epochs", 1, "--out", "run")  # fmt: skip
    assert done.code == 0, done
    assert load_file("run/ckp_last.pth.tar")["step"] == 2  # two scans of each of two shapes


def trained(script: Script, *arguments: object) -> None:
    done = script(*RUN, "--method", "moi", "--max-steps", 1, "--out", "run", *arguments)
    assert done.code == 0, done


def test_slices_have_the_operators_of_their_places(script: Script, folder: Path) -> None:
    trained(script, "data.slices=1:5")
    for name, arguments in (("all", ()), ("some", ("--slices", "1:5:2"))):
        done = script("ei reconstruct", "--ckp", "run/ckp_last.pth.tar", "--input", "y", "--output", f"{name}.npy",
                      *arguments)  # fmt: skip
        assert done.code == 0, done
    np.testing.assert_allclose(np.load("some.npy"), np.load("all.npy")[1:5:2], rtol=1e-4, atol=1e-5)

    np.save("x.npy", np.stack([EllipsePhantoms("train", 16)[n].numpy() for n in range(5)])[:, None])
    done = script("ei test", "--ckp", "run/ckp_last.pth.tar", "--measurements", "y", "--truth", "x.npy",
                  "data.slices=1:5", "--sample-to-show", 1, "--out", "test")  # fmt: skip
    assert done.code == 0, done
    assert "fits y to 0.0%" in done.out and "4 test images" in done.out, done.out


def test_other_scans_by_their_own_geometry(script: Script, folder: Path) -> None:
    trained(script)
    geometry = yaml.safe_load((folder / "geometry.yaml").read_text())
    one = {**geometry, "angles": ANGLES[3]}
    (folder / "one.yaml").write_text(yaml.safe_dump(one))
    np.save("y_3.npy", np.load("y/scan_3.npy")[None])
    call = ("ei reconstruct", "--ckp", "run/ckp_last.pth.tar")
    assert script(*call, "--input", "y", "--output", "all.npy").code == 0
    done = script(*call, "--input", "y_3.npy", "--physics", "one.yaml", "--output", "x.npy")
    assert done.code == 0, done
    np.testing.assert_allclose(np.load("x.npy")[0], np.load("all.npy")[3], rtol=1e-4, atol=1e-5)

    (folder / "other.yaml").write_text(yaml.safe_dump({**one, "n_detectors": 21}))
    done = script(*call, "--input", "y_3.npy", "--physics", "other.yaml", "--output", "wrong.npy")
    assert done.code == 2 and "physics.n_detectors 21 contradicts" in done.err, done
    done = script("ei train", "--resume", "run/ckp_last.pth.tar", "--max-steps", 2, "--physics", "one.yaml")
    assert done.code == 2 and "physics.angles [5" in done.err and len(done.err) < 300, done


def scanned(name: str, angles: list[float], centre: float = 0.0) -> np.ndarray:
    """Images; their sinograms with the angles are in NAME.npz, the geometry, which names this file, in NAME.yaml."""
    x = torch.stack([EllipsePhantoms("train", 16)[n] for n in range(3)]).view(3, 1, 16, 16)
    y = Tomography((16, 16), angles, 23, centre=centre).A(x)[:, 0]
    np.savez(f"{name}.npz", y=y.numpy(), angles=np.array(angles))
    geometry = {"name": "Tomography", "image_shape": [16, 16], "n_detectors": 23, "centre": centre}
    Path(f"{name}.yaml").write_text(yaml.safe_dump({**geometry, "angles": f"{name}.npz"}))
    return x[:, 0].numpy()


def test_another_scan_of_the_same_scanner_has_its_own_angles_and_axis(script: Script, tmp_path: Path) -> None:
    """Also where it is in files of the same names."""
    angles = [10.0 * k for k in range(18)]
    x = scanned("y", angles)
    run = ("ei train", "--physics", "y.yaml", "--measurements", "y.npz", "--method", "mc", *SMALL, "--max-steps", 1,
           "reconstructor={name: Unrolled, iterations: 1, cg_steps: 30}", "--out", "run")  # fmt: skip
    assert script(*run).code == 0
    call = ("ei reconstruct", "--ckp", "run/ckp_last.pth.tar", "--physics", "y.yaml", "--input", "y.npz", "--output")
    done = script(*call, "same.npy")
    assert done.code == 0 and "note: physics" not in done.out, done
    error = np.linalg.norm(np.load("same.npy") - x)
    for name, turned, centre in (("angles", [t + 40 for t in angles], 0.0), ("centre", angles, 2.0)):
        scanned("y", turned, centre)
        done = script(*call, f"{name}.npy")
        assert done.code == 0 and f"note: physics.{name} is that of this scan" in done.out, done
        assert np.linalg.norm(np.load(f"{name}.npy") - x) < 1.5 * error
    done = script("ei reconstruct", "--ckp", "run/ckp_last.pth.tar", "--input", "y.npz", "--output", "old.npy")
    assert done.code == 0 and np.linalg.norm(np.load("old.npy") - x) > 2 * error  # of the checkpoint: not typed again
    done = script("ei train", "--resume", "run/ckp_last.pth.tar", "--max-steps", 2, "--physics", "y.yaml")
    assert done.code == 2 and "physics.centre 2.0 contradicts" in done.err, done
    scanned("y", [t + 40 for t in angles])
    done = script("ei train", "--resume", "run/ckp_last.pth.tar", "--max-steps", 2, "--physics", "y.yaml")
    assert done.code == 2 and "y.npz', whose content has changed, contradicts" in done.err, done


def test_other_scans_in_bins(script: Script, folder: Path) -> None:
    trained(script, "data.bin=2", "physics.n_detectors=23")
    call = ("ei reconstruct", "--ckp", "run/ckp_last.pth.tar", "--input", "y", "--output")
    assert script(*call, "carried.npy").code == 0
    done = script(*call, "typed.npy", "--physics", "geometry.yaml")
    assert done.code == 0, done
    np.testing.assert_array_equal(np.load("typed.npy"), np.load("carried.npy"))
    (folder / "few").mkdir()
    np.save("few/a.npy", np.load("y/scan_3.npy"))
    geometry = yaml.safe_load((folder / "geometry.yaml").read_text())
    (folder / "few.yaml").write_text(yaml.safe_dump({**geometry, "angles": [ANGLES[3]]}))
    done = script("ei reconstruct", "--ckp", "run/ckp_last.pth.tar", "--input", "few", "--physics", "few.yaml",
                  "--output", "few.npy")  # fmt: skip
    assert done.code == 0, done
    np.testing.assert_allclose(np.load("few.npy")[0], np.load("carried.npy")[3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("physics", ["Inpainting", "MRI"])
def test_other_images_by_their_own_masks(script: Script, tmp_path: Path, physics: str) -> None:
    channels = {"Inpainting": 1, "MRI": 2}[physics]
    shape = (6, 1, 16, 16) if channels == 1 else (6, 16, 16)
    masks = (torch.rand(shape) < 0.7).float()
    masks[..., 8, 8] = 1
    y = (masks.view(6, 1, 16, 16) * torch.rand(6, channels, 16, 16)).numpy()
    for name, part in (("train", slice(4)), ("other", slice(4, 6))):
        np.save(f"{name}_masks.npy", masks.numpy()[part])
        np.save(f"{name}.npy", y[part])
    sizes = {"img_height": 16, "img_width": 16} if channels == 1 else {}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump({"name": physics, **sizes, "mask": "train_masks.npy"}))
    done = script("ei train", "--physics", "p.yaml", "--measurements", "train.npy", "--method", "mc", *SMALL,
                  "--max-steps", 1, "--out", "run")  # fmt: skip
    assert done.code == 0, done
    call = ("ei reconstruct", "--ckp", "run/ckp_last.pth.tar", "--input", "other.npy", "--output")
    done = script(*call, "x.npy", "--mask", "other_masks.npy")
    assert done.code == 0, done
    if physics == "MRI":
        np.save("swapped.npy", np.load("other_masks.npy")[::-1])
        np.save("two.npy", np.concatenate([np.load("other_masks.npy")[:1], np.load("train_masks.npy")[:1]]))
        for mask, message in (("swapped.npy", "is it the mask"), ("two.npy", "measurement 1, has .* values")):
            done = script(*call, "wrong.npy", "--mask", mask)
            assert done.code == 2 and re.search(message, done.err), done
    np.save("kept.npy", np.load("train_masks.npy"))
    np.save("train_masks.npy", np.load("other_masks.npy"))  # under the name that the checkpoint knows
    done = script(*call, "again.npy", "--mask", "train_masks.npy")
    assert done.code == 0 and "warning" not in done.out, done
    np.testing.assert_array_equal(np.load("again.npy"), np.load("x.npy"))
    np.save("train_masks.npy", np.load("kept.npy"))
    done = script(*call, "wrong.npy", "--mask", "train_masks.npy")
    assert done.code == 2 and "a mask for each of 4 images, and there are 2 measurements" in done.err, done


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("physics.angles=[[0, 30, 60], [0, 90], [0], [1], [2]]", "--method", "moi"),
            "measurement 0 must have shape [23, 3]",
        ),
        ((f"physics.angles={ANGLES[:4]}", "--method", "moi"), "there is a scan for each of 4 images, and there are 5"),
        (("--task", "ct", "--data", "synthetic", "--method", "moi"), "one operator serves all images"),
        (("--group", "shift", "closure.move=operator"), "Tomography is moved by rotations, in degrees"),
        (("--group", "rotate", "closure.move=turned"), "closure.move must be"),
    ],
)
def test_wrong_input(script: Script, folder: Path, arguments: tuple[str, ...], message: str) -> None:
    base = ("ei train", *SMALL) if "--task" in arguments else RUN
    done = script(*base, *arguments, "--epochs", 1, "--out", "wrong")
    assert done.code == 2, done
    assert message in done.err, done.err
    assert not (folder / "wrong").exists()
