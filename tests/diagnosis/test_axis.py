"""The rotation axis that `check_sinogram` reports: half a bin, with photon noise, in truncated views."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from makers import disc_sinogram
from skimage.data import shepp_logan_phantom
from skimage.transform import radon, resize
from torch import Tensor

from ei.diagnosis.axis import axis_by_centroids
from ei.errors import InputError
from ei.evaluation import check_sinogram
from ei.physics import Tomography

FAN = {"source_origin": 400.0, "origin_detector": 200.0, "detector_spacing": 1.5}


def sample(side: int, kind: str) -> np.ndarray:
    """An image: a round sample with small parts, or one with parts that is not round."""
    row, column = np.mgrid[:side, :side] - (side - 1) / 2
    unit = side / 64
    image = (np.hypot(column, row) < 24 * unit) * 1.0
    parts = [(9, -6, 5, 2), (-10, 8, 4, 0)]
    if kind == "parts":
        parts = [(12, 3, 7, 2.5), (-9, -9, 6, 0.2), (-4, 14, 4, 3), (3, -17, 3, 0)]
    for x, y, radius, value in parts:
        image[np.hypot(column - x * unit, row - y * unit) < radius * unit] = value
    if kind == "parts":
        image *= (np.abs(column) < 14 * unit) | (np.abs(row) < 8 * unit)
    return image


def sinogram(kind: str, side: int = 64, **arguments: Any) -> Tensor:
    """Of pixels half as wide as those of the reconstruction."""
    physics = Tomography((2 * side, 2 * side), pixel_size=0.5, **arguments)
    return physics.A(torch.from_numpy(sample(2 * side, kind))[None, None])


def with_noise(y: Tensor, part: float) -> Tensor:
    return y + part * y.max() * torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=y.dtype)


@pytest.mark.slow
@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize("kind", ["round", "parts", "Shepp-Logan"])
def test_the_half_bin_axis_of_scikit_image_is_found(side: int, kind: str) -> None:
    """With an even side its images turn about pixel side // 2: the centre is 0.5. (It was found in 3 of these 6.)"""
    phantom = sample(side, kind) if kind != "Shepp-Logan" else resize(shepp_logan_phantom(), (side, side))
    angles = np.arange(0, 180, 180 / side)
    y = torch.from_numpy(radon(phantom, angles, circle=True))
    report = check_sinogram(Tomography((side, side), angles, side), y)
    assert not report.fits and "set centre to 0.5" in " ".join(report.findings), str(report)
    assert report.centre == pytest.approx(0.5, abs=0.03)
    report = check_sinogram(Tomography((side, side), angles, side, centre=0.5), y)
    assert report.fits, str(report)


@pytest.mark.parametrize("kind", ["round", "parts"])
@pytest.mark.parametrize("photons", [2e4, 1e5])
@pytest.mark.parametrize("centre", [3.4, 6.6])
def test_photon_noise_and_a_shifted_axis_raise_no_doubt_about_the_angles(
    kind: str, photons: float, centre: float
) -> None:
    """Round samples with 0.5 to 1.2 % of noise were advised to halve their angles: 4 of 24."""
    angles = np.arange(90) * 2.0
    y = sinogram(kind, angles=angles, n_detectors=64, centre=centre)[0, 0].numpy()
    y *= 1.5 / y.max()
    counts = np.maximum(np.random.default_rng(1).poisson(photons * np.exp(-y)), 1)
    report = check_sinogram(Tomography((64, 64), angles, 64), torch.from_numpy(-np.log(counts / photons)))
    assert report.centre == pytest.approx(centre, abs=0.1), str(report)
    assert not report.fits and "angles" not in report.findings[0] and "set centre to" in report.findings[0]


# Every scan truncates its views: the object has a radius of 24 bins.
TRUNCATED: dict[str, dict[str, Any]] = {
    "displaced": {"angles": np.arange(0, 360, 4.0), "n_detectors": 44, "centre": 12.0},
    "region of interest": {"angles": np.arange(0, 360, 4.0), "n_detectors": 36, "centre": 2.0},
    "region of interest, half a turn": {"angles": np.arange(0, 180, 2.0), "n_detectors": 36, "centre": 2.0},
    "displaced fan": {"angles": np.arange(0, 360, 4.0), "n_detectors": 44, "centre": 12.0, **FAN},
    "displaced fan, short scan": {"angles": np.arange(0, 220, 2.0), "n_detectors": 44, "centre": 12.0, **FAN},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRUNCATED)
def test_truncated_views_have_the_axis_of_their_geometry(name: str) -> None:
    """Their centroids are off by 5 bins and more; the true geometry was rejected with a wrong "set centre to"."""
    scan = TRUNCATED[name]
    y = with_noise(sinogram("parts", **scan), 0.005)
    report = check_sinogram(Tomography((64, 64), **scan), y)
    assert report.fits and "views are truncated" in report.warnings[0] in str(report), str(report)
    assert report.centre == pytest.approx(scan["centre"], abs=0.4)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRUNCATED)
@pytest.mark.parametrize("kind", ["round", "parts"])
def test_a_wrong_axis_of_truncated_views_is_corrected_to_the_right_one_or_unknown(name: str, kind: str) -> None:
    scan = TRUNCATED[name]
    y = with_noise(sinogram(kind, **scan), 0.005)
    report = check_sinogram(Tomography((64, 64), **{**scan, "centre": 0.0}), y)
    assert report.centre is None or report.centre == pytest.approx(scan["centre"], abs=0.6), str(report)
    assert not report.fits and ("set centre to" in report.findings[-1]) == (report.centre is not None), str(report)


@pytest.mark.slow
@pytest.mark.parametrize("side", [20, 40])
def test_an_image_smaller_than_the_object_gives_no_wrong_axis(side: int) -> None:
    scan = TRUNCATED["region of interest"]
    y = with_noise(sinogram("parts", **scan), 0.005)
    report = check_sinogram(Tomography((side, side), **scan), y)
    assert report.centre is None or report.centre == pytest.approx(scan["centre"], abs=0.4), str(report)
    assert "set centre to" not in " ".join(report.findings)


@pytest.mark.slow
def test_an_axis_in_a_flat_valley_is_unknown() -> None:
    """Near the detector's end views of a uniform disc are alike for many axes: 28.4 +- 0.7 was reported for 24."""
    row, column = np.mgrid[:96, :96] - 47.5
    disc = torch.from_numpy((np.hypot(column, row) < 42) * 1.0)[None, None]
    scan = {"angles": np.arange(0, 360, 2.0), "n_detectors": 62}
    y = Tomography((96, 96), centre=24.0, **scan).A(disc)
    for centre in (24.0, 0.0):
        report = check_sinogram(Tomography((96, 96), centre=centre, **scan), y)
        assert report.centre is None and "do not determine" in str(report), str(report)
        assert report.fits == (centre == 24) and "set centre to" not in str(report)


@pytest.mark.slow
def test_a_round_object_beyond_the_detector_is_seen_at_its_ends() -> None:
    """The sum over the detectors is constant for a centred disc however much of it is cut off."""
    disc = sample(128, "round") > 0
    angles = np.arange(0, 180, 3.0)
    y = Tomography((128, 128), angles, 40, pixel_size=0.5).A(torch.from_numpy(disc * 1.0)[None, None])
    report = check_sinogram(Tomography((64, 64), angles, 40), y)
    assert report.figures["variation of the sum"] < 0.05 and "views are truncated" in report.warnings[0]


def test_an_unknown_axis_is_never_zero() -> None:
    angles = np.arange(0, 20, 1.0)
    y = with_noise(sinogram("parts", angles=angles, n_detectors=64), 0.01)
    report = check_sinogram(Tomography((64, 64), angles, 64), y)
    assert report.centre is None and "axis: unknown" in str(report) and "axis unknown" in report.line()
    with pytest.raises(InputError, match="axis is unknown: pass its place"):
        report.require_centre()
    angles = np.arange(0, 180, 3.0)
    y = sinogram("parts", angles=angles, n_detectors=64)
    report = check_sinogram(Tomography((64, 64), angles, 64), y)
    assert report.require_centre() == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("offset", [0.0, 0.01, 0.05, -0.05])
@pytest.mark.parametrize("drift", [0.0, 0.03])
def test_the_brightness_of_the_beam_does_not_move_the_axis(offset: float, drift: float) -> None:
    """A beam that is weaker than in the flats by one in a hundred moved it by 0.25 bins, said to be within 0.01."""
    angles = np.arange(0, 180, 2.0)
    physics = Tomography((64, 64), angles, 96, centre=6.3)
    discs = [(6, -4, 14, 0.03), (-9, 8, 5, 0.03), (2, -8, 4, 0.04)]
    y = disc_sinogram(physics, discs)[0, 0].double().numpy()
    assert y.max() > 1  # so much is absorbed
    y += offset + drift * angles / 180
    y += 0.004 * np.random.default_rng(0).normal(size=y.shape)
    centre, error, _ = axis_by_centroids(y, angles)
    assert abs(centre - 6.3) < 0.06 and error < 0.03
