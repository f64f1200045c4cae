"""`check_sinogram` on real scans, where they are beside the checkout."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch

from ei.datasets import line_integrals
from ei.evaluation import check_sinogram
from ei.physics import Tomography

pytestmark = pytest.mark.slow


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
    geometry = {
        "image_shape": (96, 96),
        "detector_spacing": 0.8,
        "pixel_size": 0.2 * 410.66 / 553.74 * 512 / 96,
        "source_origin": 410.66,
        "origin_detector": 143.08,
    }
    return y.reshape(-1, 4, y.shape[-1]).mean(1), angles, geometry


@pytest.mark.parametrize("name", SCANS)
def test_real_scans_fit_and_every_mistake_in_them_is_a_finding(shared_data: Path, name: str) -> None:
    if name in HELSINKI and not (shared_data / "HTC2022" / f"htc2022_{name}_full.mat").exists():
        pytest.skip(f"the scan {name} is missing")
    sinogram, angles, geometry = scan_of(shared_data, name)
    y = torch.from_numpy(np.ascontiguousarray(sinogram, dtype=np.float64))

    def check(y: torch.Tensor, angles: np.ndarray, **changes: Any) -> Any:
        return check_sinogram(Tomography(angles=angles, n_detectors=y.shape[-2], **{**geometry, **changes}), y)

    centre = geometry.get("centre", 0.0)
    report = check(y, angles)
    error = report.figures["error of the axis"]  # 5 of 1,260 bins for the dendrite, which is wider than its detector
    assert report.fits and report.centre == pytest.approx(centre, abs=max(0.5, error)), str(report)
    shuffled = np.random.default_rng(0).permutation(angles)
    wrong = {
        "half": check(y, angles / 2),
        "order": check(y, shuffled),
        "set centre": check(y, angles, centre=centre + max(5, 4 * error)),
        "logarithm": check(1e4 * torch.exp(-y), angles),
    }
    if "source_origin" in geometry:
        wrong |= {"reverse": check(y, -angles), "flipped": check(y.flip(0), angles)}
    for words, report in wrong.items():
        assert not report.fits and words in " ".join(report.findings), (words, str(report))
    physics = Tomography(angles=angles, n_detectors=len(y), **geometry)
    assert "swapped" in check_sinogram(physics, y.T.contiguous()).findings[0]


def test_the_axis_of_the_tooth_is_where_a_sweep_finds_it(shared_data: Path) -> None:
    y, angles = tooth(shared_data)
    geometry = {"image_shape": (64, 64), "pixel_size": 10.0, "angles": angles, "n_detectors": 640}
    report = check_sinogram(Tomography(**geometry), torch.from_numpy(y.copy()))
    assert not report.fits and report.centre is not None
    assert report.centre + 319.5 == pytest.approx(296.2, abs=0.5)
