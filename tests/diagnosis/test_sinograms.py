"""`check_sinogram` on simulated scans and, where they are, on real ones: each kind of mistake must be seen."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from conftest import Result

from ei.datasets import line_integrals
from ei.errors import InputError
from ei.evaluation import check_sinogram
from ei.physics import CT, Inpainting, Tomography

FAN = {"source_origin": 120.0, "origin_detector": 60.0, "detector_spacing": 1.5}


def phantom(side: int = 48) -> torch.Tensor:
    axis = torch.arange(side) - (side - 1) / 2
    image = torch.zeros(side, side)
    for x, y, radius, value in ((2, -3, 17, 0.02), (-6, 7, 5, 0.02), (9, 2, 4, -0.015), (3, -11, 3, 0.03)):
        image += value * ((axis[None] - x) ** 2 + (axis[:, None] - y) ** 2 < radius**2)
    return image[None, None].double()


def scan(**changes: Any) -> dict[str, Any]:
    fan = changes.pop("fan", False)
    beam = {"angles": np.arange(0, 360, 3.0), **FAN} if fan else {"angles": np.arange(0, 180, 2.0)}
    return {"image_shape": (48, 48), "n_detectors": 72, **beam, **changes}


def measured(geometry: dict[str, Any], noise: float = 0.004, seed: int = 0) -> torch.Tensor:
    y = Tomography(**geometry).A(phantom())
    return y + noise * torch.randn(y.shape, generator=torch.Generator().manual_seed(seed), dtype=y.dtype)


@pytest.mark.parametrize("fan", [False, True])
@pytest.mark.parametrize(("centre", "noise"), [(0.0, 0.0), (3.4, 0.01)])
def test_good_data_fit_and_give_the_axis(fan: bool, centre: float, noise: float) -> None:
    geometry = scan(fan=fan, centre=centre)
    report = check_sinogram(Tomography(**geometry), measured(geometry, noise))
    assert report.fits, str(report)
    assert report.centre == pytest.approx(centre, abs=0.3)
    assert "fits" in str(report) and "\n" not in report.line()
    if not fan:
        assert any("mirrored" in finding and "attenuation" in finding for finding in report.findings)


@pytest.mark.parametrize("fan", [False, True])
def test_an_object_wider_than_the_detector_is_said(fan: bool) -> None:
    """Such a scan may be meant, so it fits; but filtered back-projection takes what is beyond for nothing."""
    geometry = scan(fan=fan, n_detectors=24)
    report = check_sinogram(Tomography(**geometry), measured(geometry))
    assert report.fits and "reaches beyond the detector" in report.wider, str(report)
    assert report.line().count("\nwarning: the object reaches") == 1 and "The object reaches" in str(report)
    off_centre = {"angles": np.arange(0, 360, 3.0), "centre": -24.0, "n_detectors": 60}
    assert "reaches beyond" in check_sinogram(Tomography(**scan(**off_centre)), measured(scan(**off_centre))).wider


@pytest.mark.parametrize("fan", [False, True])
def test_each_mistake_is_seen(fan: bool) -> None:
    geometry = scan(fan=fan)
    y, angles = measured(geometry), geometry["angles"]
    order = np.random.default_rng(1).permutation(len(angles))
    mistakes: dict[str, tuple[torch.Tensor, dict[str, Any], str]] = {
        "half the range": (y, {"angles": angles / 2}, "half"),
        "twice the range": (y, {"angles": angles * 2}, "twice"),
        "shuffled": (y, {"angles": angles[order]}, "order"),
        "swapped axes": (y.mT.contiguous(), {}, "swapped"),
        "counts": (1e4 * torch.exp(-y), {}, "logarithm"),
        "transmission": (torch.exp(-y), {}, "logarithm"),
        "sign": (-y, {}, "negative"),
        "axis": (y, {"centre": 3.0}, "centre to -0.0" if not fan else "axis lies"),
        "not finite": (torch.where(torch.arange(len(angles)) == 3, torch.nan, y), {}, "finite"),
        "nothing": (torch.zeros_like(y), {}, "zero"),
    }
    if fan:
        mistakes["views in reverse"] = (y, {"angles": -angles}, "reverse")
        mistakes["detectors flipped"] = (y.flip(2), {}, "flipped")
    for name, (wrong, changes, said) in mistakes.items():
        report = check_sinogram(Tomography(**{**geometry, **changes}), wrong)
        told = " ".join(report.findings)
        assert not report.fits, (name, str(report))
        assert said in told or (name == "axis" and "set centre to" in told), (name, str(report))


@pytest.mark.parametrize("off", [2.9, -4.2, 7.5])
def test_an_axis_far_off_is_found_exactly(off: float) -> None:
    """Beyond the first places that are tried, 4 % of the detectors (2.9 bins) to either side."""
    geometry = scan(fan=True, centre=off)
    y = measured(geometry)
    report = check_sinogram(Tomography(**scan(fan=True)), y)
    assert not report.fits and "set centre" in report.findings[0], str(report)
    assert report.centre == pytest.approx(off, abs=0.3)


def test_square_sinograms_show_swapped_axes_too() -> None:
    geometry = scan(angles=np.arange(72) * 2.5)
    report = check_sinogram(Tomography(**geometry), measured(geometry).mT)
    assert not report.fits and "swapped" in report.findings[0]


def test_what_cannot_be_told_is_said() -> None:
    """Parallel views in reverse, or an object that is alike from all sides: nothing contradicts, and that is said."""
    geometry = scan()
    y = measured(geometry)
    report = check_sinogram(Tomography(**{**geometry, "angles": -geometry["angles"]}), y)
    assert report.fits and "mirrored" in " ".join(report.findings)
    axis = torch.arange(48) - 23.5
    bell = torch.exp(-(axis[None] ** 2 + axis[:, None] ** 2) / 100).double()[None, None]
    report = check_sinogram(Tomography(**geometry), Tomography(**geometry).A(bell))
    assert report.fits and "alike" in " ".join(report.findings)
    short = scan(angles=np.arange(0, 20, 1.0))
    report = check_sinogram(Tomography(**short), measured(short))
    assert report.fits and report.centre is None and "cannot be told" in " ".join(report.findings)


def test_it_serves_the_papers_ct_and_refuses_others() -> None:
    physics = CT(48, 60)
    y = physics.A(phantom())
    assert check_sinogram(physics, y).fits
    assert not check_sinogram(physics, y[..., torch.randperm(60, generator=torch.Generator().manual_seed(2))]).fits
    with pytest.raises(InputError, match="Inpainting"):
        check_sinogram(Inpainting(4, 4), torch.zeros(1, 1, 4, 4))
    with pytest.raises(InputError, match="59 views"):
        check_sinogram(Tomography(**scan()), torch.zeros(1, 1, 72, 59))


def test_the_commands_print_it(script: Callable[..., Result]) -> None:
    geometry = scan(centre=2.0)
    y = measured(geometry)[:, 0].float().repeat(4, 1, 1).numpy()
    np.save("y.npy", y)
    np.save("angles.npy", geometry["angles"])
    coarse = "name: Tomography\nimage_shape: [16, 16]\npixel_size: 3\nangles: angles.npy\nn_detectors: 72\n"
    Path("g.yaml").write_text(coarse + "centre: 2\n")
    train = ("ei train", "--physics", "g.yaml", "--group", "rotate", "--measurements", "y.npy", "--base-channels", 2,
             "--epochs", 1, "--max-steps", 1, "--device", "cpu", "--out")  # fmt: skip
    done = script(*train, "run")
    assert done.code == 0 and "the sinogram fits its geometry" in done.out and "axis 2.0" in done.out, done
    Path("g.yaml").write_text(coarse)
    done = script(*train, "other")
    assert done.code == 0 and "does NOT fit" in done.out and "set centre to 2.0" in done.out
    done = script("ei diagnose", "--physics", "g.yaml", "--group", "rotate", "--measurements", "y.npy")
    assert done.code == 0 and "set centre to 2.0" in done.out and "variation of the sum" in done.out


def test_line_integrals_are_beer_and_lamberts() -> None:
    rng = np.random.default_rng(0)
    flat, dark = rng.uniform(900, 1100, (20, 1, 7)), rng.uniform(90, 110, (10, 1, 7))
    truth = rng.uniform(0, 3, (5, 1, 7)).astype(np.float32)
    counts = (flat.mean(0) - dark.mean(0)) * np.exp(-truth) + dark.mean(0)
    np.testing.assert_allclose(line_integrals(counts, flat, dark), truth, atol=1e-5)
    tensor = line_integrals(torch.from_numpy(counts), torch.from_numpy(flat), torch.from_numpy(dark))
    assert isinstance(tensor, torch.Tensor) and np.allclose(tensor.numpy(), truth, atol=1e-5)
    counts[0, 0, :2] = 0
    with pytest.warns(UserWarning, match="no photons at 2 of 35"):
        found = line_integrals(counts, flat, dark)
    assert np.isfinite(found).all() and (found[0, 0, :2] == found.max()).all()
    for wrong in ((counts, dark, flat), (counts, flat[:, :, :3], dark), (counts * np.nan, flat, dark)):
        with pytest.raises(InputError):
            line_integrals(*wrong)


# ---- real scans ---------------------------------------------------------------------------------------------------


def tooth(shared: Path) -> tuple[np.ndarray, np.ndarray]:
    file = pytest.importorskip("h5py").File(shared / "tooth.h5")["exchange"]
    counts, flat, dark = (file[name][:, 0] for name in ("data", "data_white", "data_dark"))
    return line_integrals(counts, flat, dark).T, file["theta"][:]


def helsinki(shared: Path, name: str, views: slice = slice(0, 720, 6)) -> tuple[np.ndarray, np.ndarray]:
    full = scipy.io.loadmat(shared / "HTC2022" / f"htc2022_{name}_full.mat", squeeze_me=True, struct_as_record=False)
    full = full["CtDataFull"]
    return full.sinogram.T[:, views], full.parameters.angles[views].astype(float)


HELSINKI = ("ta", "tb", "tc", "td", *(f"0{level}{scan}" for level in range(1, 6) for scan in "abc"))
# All of them take minutes: EI_SCANS=all
SCANS = ("tooth", "dendrite", *HELSINKI) if os.environ.get("EI_SCANS") == "all" else ("tooth", "ta")


def scan_of(shared: Path, name: str) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Sinogram [detectors, views], angles and geometry of a real scan."""
    if name == "tooth":
        return *tooth(shared), {"image_shape": (96, 96), "pixel_size": 640 / 96, "centre": -23.3}
    if name == "dendrite":
        file = scipy.io.loadmat(shared / "RealDataDend.mat")
        geometry = {"image_shape": (96, 96), "pixel_size": 1260 / 96}
        return file["sinoRD"] / 1000, np.rad2deg(file["anglesRad"].ravel()), geometry
    y, angles = helsinki(shared, name)
    geometry = {"image_shape": (96, 96), "detector_spacing": 0.8, "pixel_size": 0.2 * 410.66 / 553.74 * 512 / 96,
                "source_origin": 410.66, "origin_detector": 143.08}  # fmt: skip
    return y.reshape(-1, 4, y.shape[-1]).mean(1), angles, geometry


@pytest.mark.parametrize("name", SCANS)
def test_real_scans_fit_and_every_mistake_in_them_is_seen(shared_data: Path, name: str) -> None:
    if name in HELSINKI and not (shared_data / "HTC2022" / f"htc2022_{name}_full.mat").exists():
        pytest.skip(f"the scan {name} is not there")
    sinogram, angles, geometry = scan_of(shared_data, name)
    y = torch.from_numpy(np.ascontiguousarray(sinogram, dtype=np.float64))

    def check(y: torch.Tensor, angles: np.ndarray, **changes: Any) -> Any:
        return check_sinogram(Tomography(angles=angles, n_detectors=y.shape[-2], **{**geometry, **changes}), y)

    centre = geometry.get("centre", 0.0)
    report = check(y, angles)
    assert report.fits and report.centre == pytest.approx(centre, abs=0.5), str(report)
    shuffled = np.random.default_rng(0).permutation(angles)
    wrong = {
        "half": check(y, angles / 2),
        "order": check(y, shuffled),
        "set centre": check(y, angles, centre=centre + 5),
        "logarithm": check(1e4 * torch.exp(-y), angles),
    }
    if "source_origin" in geometry:
        wrong |= {"reverse": check(y, -angles), "flipped": check(y.flip(0), angles)}
    for said, told in wrong.items():
        assert not told.fits and said in " ".join(told.findings), (said, str(told))
    physics = Tomography(angles=angles, n_detectors=len(y), **geometry)
    assert "swapped" in check_sinogram(physics, y.T.contiguous()).findings[0]


def test_the_axis_of_the_tooth_is_where_a_sweep_finds_it(shared_data: Path) -> None:
    y, angles = tooth(shared_data)
    geometry = {"image_shape": (64, 64), "pixel_size": 10.0, "angles": angles, "n_detectors": 640}
    report = check_sinogram(Tomography(**geometry), torch.from_numpy(y.copy()))
    assert not report.fits and report.centre is not None
    assert report.centre + 319.5 == pytest.approx(296.2, abs=0.5)
