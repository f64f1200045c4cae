"""The noise of detectors from flats and darks, and the commands of docs/noise.md."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, Result
from makers import counts_of_a_small_scan, scan

from ei.datasets.flats import detector_noise
from ei.errors import InputError

Script = Callable[..., Result]


def exposures(
    gain: float, sigma: float, photons: float, drift: float = 0.0, frames: int = 40
) -> tuple[np.ndarray, ...]:
    """Flats and darks ``[n, 8, 60]`` of pixels that differ by a tenth, with an offset."""
    rng = np.random.default_rng(0)
    expected = photons * rng.uniform(0.9, 1.1, (8, 60)) * (1 + drift * rng.standard_normal((frames, 1, 1)))
    offset = rng.uniform(90, 110, (8, 60))
    flat = gain * rng.poisson(expected) + offset + sigma * rng.standard_normal((frames, 8, 60))
    return flat, offset + sigma * rng.standard_normal((frames, 8, 60))


@pytest.mark.parametrize(("gain", "sigma", "drift"), [(0.65, 3.0, 0.0), (5.0, 20.0, 0.01), (0.02, 0.1, 0.05)])
def test_gain_and_read_out_are_found(gain: float, sigma: float, drift: float) -> None:
    """Whatever the pattern of the pixels is, and though the beam varies."""
    found = detector_noise(*exposures(gain, sigma, 1e4, drift))
    assert abs(found.gain - gain) < 4 * found.gain_error and found.gain_error < 0.02 * gain
    assert found.sigma == pytest.approx(sigma, rel=0.03) and found.photons == pytest.approx(1e4, rel=0.1)
    assert found.drift == pytest.approx(drift, rel=0.4, abs=2e-3)
    name, numbers = found.of_line_integrals.split(":")
    assert name == "transmission" and [float(n) for n in numbers.split(",")] == pytest.approx(
        [found.photons, found.sigma / found.gain], rel=1e-3
    )


def test_bins_are_measured_as_bins() -> None:
    """Means of independent detectors have half the gain and read-out variance; of detectors that see the same, all."""
    flat, dark = exposures(0.65, 3.0, 1e4)
    found = detector_noise(flat, dark, 2)
    assert found.gain == pytest.approx(0.325, rel=0.05) and found.sigma == pytest.approx(3 / 2**0.5, rel=0.03)
    doubled = detector_noise(flat.repeat(2, -1), dark.repeat(2, -1), 2)
    assert doubled.gain == pytest.approx(detector_noise(flat, dark).gain)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda flat, dark: (flat[:1], dark), "--flat must hold two or more exposures"),
        (lambda flat, dark: (flat, dark[:1]), "--dark must hold two or more"),
        (lambda flat, dark: (dark, flat), "not brighter"),
        (lambda flat, dark: (flat, dark[:, :4]), "one detector"),
        (lambda flat, dark: (flat.mean(0) + 0 * flat, dark), "averaged already"),
        (lambda flat, dark: (np.where(flat > flat.mean(), np.nan, flat), dark), "not finite"),
        (lambda flat, dark: (flat * 1j, dark), "complex128"),
    ],
)
def test_flats_that_tell_nothing(change: Callable, said: str) -> None:
    with pytest.raises(InputError) as error:
        detector_noise(*change(*exposures(0.65, 3.0, 1e4, frames=4)))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_the_flats_of_the_tooth(shared_data: Path, script: Script) -> None:
    pytest.importorskip("h5py")
    file = shared_data / "tooth.h5"
    done = script(
        "ei prepare", "noise", "--flat", f"{file}:exchange/data_white", "--dark", f"{file}:exchange/data_dark"
    )
    assert done.code == 0 and "gain                   0.651" in done.out, done


def test_the_commands_of_the_page_work(script: Script) -> None:
    """As they stand in docs/noise.md, one after the other, on small data, and what some of them say."""
    text = (ROOT / "docs" / "noise.md").read_text(encoding="utf-8")
    lines = [line.split("  #")[0] for line in text.splitlines() if line.startswith("    python -m ei")]
    assert len(lines) == 14
    counts_of_a_small_scan()
    made = script("ei prepare", "sinogram", "--counts", "counts.npy", "--flat", "flat.npy", "--dark", "dark.npy",
                  "--angles", "angles.txt", "--out", "y.npz")  # fmt: skip
    assert made.code == 0, made.err
    rng = np.random.default_rng(0)
    np.savez("images.npz", images=rng.random((20, 16, 16)).astype(np.float32))
    np.save("mask.npy", (np.arange(16) % 4 == 0).astype(np.float32))
    np.save("kspace.npy", np.concatenate([scan(32)[0]] * 10))
    dark = np.load("dark.npy")  # counts_of_a_small_scan's has no read-out noise
    np.save("dark.npy", dark + rng.standard_normal(dark.shape))
    said = {}
    for line in lines:
        name, *arguments = shlex.split(line)[3:]
        if name == "train":  # as short as can be
            arguments += ["--base-channels", "2", "--epochs", "1", "--device", "cpu"]
            arguments += ["--max-steps", "2"] if "--task" in arguments else []
            arguments += ["--ei-trans", "1"] if "sure" not in arguments else []
        arguments += ["--max-elements", "1"] if name == "diagnose" else []
        done = script(f"ei {name}", *arguments)
        assert done.code == 0, (line, done.err)
        said[line] = done.out
    flats, bins, of_mri, of_ct, *_ = said.values()
    gain = float(re.search(r"gain +(\S+)", flats)[1])
    assert gain == pytest.approx(1, rel=0.15) and float(re.search(r"gain +(\S+)", bins)[1]) == pytest.approx(
        0.5, rel=0.2
    )
    assert all("a data-consistency loss below" in text for text in (of_mri, of_ct))
    assert np.iscomplexobj(np.load("cg_sense.npy")) and np.load("learned.npy").shape == (10, 32, 32)
    assert len(list(Path("cg_sense").glob("*.png"))) == 10
