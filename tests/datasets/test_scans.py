"""From what a detector counted to a reconstruction, by the commands of docs/tomography.md."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import yaml
from conftest import ROOT, Result
from makers import counts_of_a_small_scan

from ei.datasets.scans import binned, read_array, sinograms_of_counts
from ei.errors import InputError

Script = Callable[..., Result]


def test_the_walk_of_the_page_works(script: Script) -> None:
    """The commands of docs/tomography.md as they stand there, on a small scan with a shifted axis, flats, darks."""
    text = (ROOT / "docs" / "tomography.md").read_text(encoding="utf-8")
    walk = text[text.index("## From counts to a reconstruction") :].split("\n## ")[0]
    lines = [line.split("  #")[0] for line in walk.splitlines() if line.startswith("    python -m ei")]
    assert len(lines) == 6
    counts_of_a_small_scan()
    said = []
    for line in lines:
        name, *arguments = shlex.split(line)[3:]
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


def test_scans_are_read_and_binned(tmp_path: Path) -> None:
    array = np.arange(42.0).reshape(7, 6)
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", a=array, b=array + 1)
    np.savetxt(tmp_path / "a.csv", array, delimiter=",")
    scipy.io.savemat(tmp_path / "a.mat", {"a": array})
    for name in ("a.npy", "a.npz:a", "a.csv", "a.mat"):
        np.testing.assert_array_equal(read_array(str(tmp_path / name)), array)
    np.testing.assert_array_equal(read_array(str(tmp_path / "a.npz:b")), array + 1)
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["deep/a"] = array
    np.testing.assert_array_equal(read_array(f"{tmp_path / 'a.h5'}:deep/a"), array)
    for wrong, named in (("a.npz", "a, b"), ("a.h5:b", "deep/a"), ("b.npy", "b.npy")):
        with pytest.raises(InputError, match=re.escape(named)):
            read_array(str(tmp_path / wrong))
    np.testing.assert_array_equal(binned(array, 3), [array[:3].mean(0), array[3:6].mean(0)])
    np.testing.assert_array_equal(binned(array, 5), [array[1:6].mean(0)])
    with pytest.raises(InputError, match="8"):
        binned(array, 8)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("sinogram", "--counts", "counts.npy"), "--flat"),
        (("sinogram", "--counts", "none.npy", "--flat", "flat.npy", "--dark", "dark.npy", "--angles", "angles.txt",
          "--out", "y.npz"), "none.npy"),
        (("sinogram", "--counts", "counts.npy", "--flat", "flat.npy", "--dark", "dark.npy", "--angles", "counts.npy",
          "--out", "y.npz"), "30 views"),
        (("htc2022", "--source", "."), "htc2022_"),
        (("tooth", "--source", "tooth.h5"), "tooth.h5"),
    ],
)  # fmt: skip
def test_wrong_input_is_told_in_a_line(arguments: tuple[str, ...], said: str, script: Script) -> None:
    counts_of_a_small_scan(2)
    done = script("ei prepare", *arguments)
    assert done.code == 2 and said in done.err and done.err.count("\n") == 1, done
    assert not Path("y.npz").exists()


def test_real_scans_are_prepared(shared_data: Path, script: Script) -> None:
    done = script("ei prepare", "htc2022", "--source", shared_data / "HTC2022", "--views", 30, "--arc", 60, "--bin", 16)
    assert done.code == 0, done.err
    folder = Path("dataset/HTC2022/30_over_60")
    geometry = yaml.safe_load((folder / "geometry.yaml").read_text())
    assert geometry["angles"] == [2.0 * k for k in range(30)] and geometry["image_shape"] == [32, 32]
    assert np.load(folder / "train.npy").shape == (15, 35, 30) and np.load(folder / "test.npy").shape == (4, 35, 30)
    reference = np.load(folder / "test_reference.npy")
    assert reference.shape == (4, 1, 32, 32) and 0.02 < np.quantile(reference, 0.9) < 0.06  # per millimetre
    pytest.importorskip("h5py")
    done = script("ei prepare", "tooth", "--source", shared_data / "tooth.h5", "--bin", 8)
    assert done.code == 0 and "the sinogram fits" in done.out
    assert np.load("dataset/tooth/y_reference.npy").shape == (2, 1, 80, 80)


def test_as_many_flats_as_views_are_averaged() -> None:
    """Each was taken as that of its view, and put its noise into the sinogram."""
    rng = np.random.default_rng(0)
    counts, flat, dark = rng.uniform(500, 900, (6, 5)), rng.uniform(900, 1100, (6, 5)), rng.uniform(0, 10, (6, 5))
    expected = -np.log((counts - dark.mean(0)) / (flat.mean(0) - dark.mean(0)))
    np.testing.assert_allclose(sinograms_of_counts(counts, flat, dark)[0], expected.T, rtol=1e-5)
    np.testing.assert_allclose(sinograms_of_counts(counts, flat.mean(0), dark)[0], expected.T, rtol=1e-5)
    rows = [array[:, None].repeat(2, 1) for array in (counts, flat, dark)]  # [V, rows, D], [n, rows, D]
    np.testing.assert_allclose(sinograms_of_counts(*rows), np.stack([expected.T] * 2), rtol=1e-5)
