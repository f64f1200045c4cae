"""`check_sinogram` on simulated scans: good data fit, and each kind of mistake is a finding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from makers import Disc, disc_sinogram
from scan_makers import discs, noisy_sinogram, scan_arguments

from ei.diagnosis.coarse import unexplained
from ei.diagnosis.detector_shape import _OppositeRays, shape_by_opposite_rays
from ei.errors import InputError
from ei.evaluation import check_sinogram
from ei.physics import CT, Inpainting, Tomography
from ei.physics.scan import Scan


@pytest.mark.parametrize("fan", [False, True])
@pytest.mark.parametrize(("centre", "noise"), [(0.0, 0.0), (3.4, 0.01)])
def test_good_data_fit_and_give_the_axis(fan: bool, centre: float, noise: float) -> None:
    geometry = scan_arguments(fan=fan, centre=centre)
    report = check_sinogram(Tomography(**geometry), noisy_sinogram(geometry, noise))
    assert report.fits, str(report)
    assert report.centre == pytest.approx(centre, abs=0.3)
    assert "fits" in str(report) and "\n" not in report.line()
    if not fan:
        assert any("mirrored" in finding and "attenuation" in finding for finding in report.findings)


@pytest.mark.slow
@pytest.mark.parametrize("fan", [False, True])
def test_an_object_wider_than_the_detector_is_a_finding(fan: bool) -> None:
    """Such a scan fits; but filtered back-projection takes the part beyond the detector for zero."""
    geometry = scan_arguments(fan=fan, n_detectors=24)
    report = check_sinogram(Tomography(**geometry), noisy_sinogram(geometry))
    assert report.fits and "reaches beyond the detector" in report.warnings[0], str(report)
    assert report.line().count("\nwarning: The object reaches") == 1 and "The object reaches" in str(report)
    displaced = scan_arguments(angles=np.arange(0, 360, 3.0), centre=-24.0, n_detectors=60)
    assert "reaches beyond" in check_sinogram(Tomography(**displaced), noisy_sinogram(displaced)).warnings[0]


@pytest.mark.parametrize("noise", [0.0, 0.004])
def test_rows_beside_the_object_are_not_those_that_are_checked(noise: float) -> None:
    """Of a stack, whose first and last rows see air: their noise differs most from view to view."""
    geometry = scan_arguments()
    y = noisy_sinogram(geometry, noise)
    air = noisy_sinogram(geometry, noise, seed=1) - noisy_sinogram(geometry, 0.0)
    report = check_sinogram(Tomography(**geometry), torch.cat([air, y, air, air]))
    assert report.fits and report.warnings == [], str(report)
    assert report.centre == check_sinogram(Tomography(**geometry), y).centre


@pytest.mark.parametrize("fan", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_each_mistake_is_a_finding(fan: bool) -> None:
    geometry = scan_arguments(fan=fan)
    y, angles = noisy_sinogram(geometry), geometry["angles"]
    order = np.random.default_rng(1).permutation(len(angles))
    mistakes: dict[str, tuple[torch.Tensor, dict[str, Any], str]] = {
        "half the range": (y, {"angles": angles / 2}, "half"),
        "twice the range": (y, {"angles": angles * 2}, "twice"),
        "radians": (y, {"angles": np.deg2rad(angles)}, "radians"),
        "shuffled": (y, {"angles": angles[order]}, "order"),
        "swapped axes": (y.mT.contiguous(), {}, "swapped"),
        "counts": (1e4 * torch.exp(-y), {}, "logarithm"),
        "transmission": (torch.exp(-y), {}, "logarithm"),
        "sign": (-y, {}, "negative"),
        "axis": (y, {"centre": 3.0}, "set centre to"),
        "not finite": (torch.where(torch.arange(len(angles)) == 3, torch.nan, y), {}, "finite"),
        "nothing": (torch.zeros_like(y), {}, "zero"),
    }
    if fan:
        mistakes["views in reverse"] = (y, {"angles": -angles}, "reverse")
        mistakes["detectors flipped"] = (y.flip(2), {}, "flipped")
    for name, (wrong, changes, words) in mistakes.items():
        report = check_sinogram(Tomography(**{**geometry, **changes}), wrong)
        assert not report.fits and words in " ".join(report.findings), (name, str(report))


@pytest.mark.slow
@pytest.mark.parametrize("off", [2.9, -4.2, 7.5])
def test_an_axis_far_off_is_found_exactly(off: float) -> None:
    """Beyond the first places that are tried, 4 % of the detectors (2.9 bins) to either side."""
    geometry = scan_arguments(fan=True, centre=off)
    y = noisy_sinogram(geometry)
    report = check_sinogram(Tomography(**scan_arguments(fan=True)), y)
    assert not report.fits and "set centre" in report.findings[0], str(report)
    assert report.centre == pytest.approx(off, abs=0.3)


def test_square_sinograms_show_swapped_axes_too() -> None:
    geometry = scan_arguments(angles=np.arange(72) * 2.5)
    report = check_sinogram(Tomography(**geometry), noisy_sinogram(geometry).mT)
    assert not report.fits and "swapped" in report.findings[0]


def test_undetermined_figures_are_findings() -> None:
    """Parallel views in reverse, or an object that is alike from all sides: nothing contradicts the geometry."""
    geometry = scan_arguments()
    y = noisy_sinogram(geometry)
    report = check_sinogram(Tomography(**{**geometry, "angles": -geometry["angles"]}), y)
    assert report.fits and "mirrored" in " ".join(report.findings)
    axis = torch.arange(48) - 23.5
    bell = torch.exp(-(axis[None] ** 2 + axis[:, None] ** 2) / 100).double()[None, None]
    report = check_sinogram(Tomography(**geometry), Tomography(**geometry).A(bell))
    assert report.fits and "alike" in " ".join(report.findings)
    short = scan_arguments(angles=np.arange(0, 20, 1.0))
    report = check_sinogram(Tomography(**short), noisy_sinogram(short))
    assert report.fits and report.centre is None and "do not determine the axis" in " ".join(report.findings)


PARTS = ((2, -3, 17, 0.02), (-6, 7, 5, 0.02), (9, 2, 4, -0.015), (3, -11, 3, 0.03))


def wide_scan(parts: Sequence[Disc] = PARTS, **changes: Any) -> tuple[dict[str, Any], torch.Tensor]:
    """A fan with a half angle of 22 degrees at the object's edge, and its views with 0.3 % of noise."""
    distances = {"source_origin": 45.0, "origin_detector": 45.0, "detector_spacing": 1.3}
    arguments = scan_arguments(fan=True, centre=1.3, **{"angles": np.arange(0, 360, 2.0), **distances, **changes})
    y = disc_sinogram(Tomography(**arguments), parts)
    noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=y.dtype)
    return arguments, y + 0.003 * y.max() * noise


@pytest.mark.slow
@pytest.mark.parametrize("true", ["flat", "curved"])
def test_the_shape_of_a_wide_detector_is_found(true: str) -> None:
    """Flat and curved detectors have the outermost rays of the object 2 detectors apart, which passed as fitting."""
    arguments, y = wide_scan(detector=true)
    report = check_sinogram(Tomography(**arguments), y)
    assert report.fits and "curved" not in " ".join(report.findings), str(report)
    other = "curved" if true == "flat" else "flat"
    report = check_sinogram(Tomography(**{**arguments, "detector": other}), y)
    assert not report.fits and report.findings[-1].endswith(f"set detector to {true}."), str(report)


@pytest.mark.parametrize("true", ["flat", "curved"])
@pytest.mark.parametrize("seed", range(5))
def test_the_true_shape_is_never_rejected(seed: int, true: str) -> None:
    """Also in short scans, where few rays are measured twice. The wrong one is found where the right one is certain."""
    draw = np.random.default_rng(seed)
    parts = [
        (*draw.uniform(-3, 3, 2), 16, 1.0),
        *((*draw.uniform(-9, 9, 2), draw.uniform(2, 5), draw.uniform(-0.5, 1)) for _ in range(3)),
    ]
    for angles in (np.arange(0, 360, 3.0), np.arange(0, 250, 2.0)):
        arguments, y = wide_scan(parts, angles=angles, detector=true)
        shapes = {}
        for detector in ("flat", "curved"):
            scan = Tomography(**{**arguments, "detector": detector}).scan
            shapes[detector] = shape_by_opposite_rays(scan, y[0, 0].numpy())
        right = shapes.pop(true)
        (wrong,) = shapes.values()
        assert not right.is_other and not wrong.is_given, (right, wrong)
        assert (right.is_given and wrong.is_other) or len(angles) > 120, (right, wrong)


@pytest.mark.slow
def test_an_undetermined_shape_of_the_detector_is_a_finding() -> None:
    short = {"angles": np.arange(0, 130, 2.0)}
    arguments, y = wide_scan(**short)
    report = check_sinogram(Tomography(**arguments), y)
    (said,) = [finding for finding in report.findings if "do not determine whether the detector is flat" in finding]
    assert report.fits and "differ by 2.4 detectors" in said and "detector flat; check" in said, str(report)
    narrow, y = wide_scan(source_origin=300.0, origin_detector=72.0, **short)
    assert "curved" not in str(check_sinogram(Tomography(**narrow), y))


@pytest.mark.parametrize(
    "changes",
    [{"angles": np.arange(0, 130, 2.0)}, {"parts": [(0, 0, 17, 0.02)]}, {"angles": np.arange(0, 360, 15.0)}],
    ids=["a short arc", "alike from all sides", "few views"],
)
def test_a_shape_of_the_detector_that_is_not_determined(changes: dict[str, Any]) -> None:
    for detector in ("flat", "curved"):
        arguments, y = wide_scan(detector=detector, **changes)
        shape = shape_by_opposite_rays(Tomography(**arguments).scan, y[0, 0].numpy())
        assert not shape.is_other and not shape.is_given, shape


@pytest.mark.parametrize(("angles", "n"), [
    (np.add.outer([0, 1e-3], np.arange(0, 360, 5.0)).ravel(), 72),
    (np.append(np.arange(0, 360, 0.02), 0.031), 3600),
])  # fmt: skip
def test_angles_close_to_each_other_take_no_more_memory(angles: np.ndarray, n: int) -> None:
    """The views of two turns, whose angles differ by rounding, were resampled in steps of that rounding."""
    scan = Scan((8, 8), tuple(angles.tolist()), 12, 1.0, 1.0, 0.0, 20.0, 10.0)
    assert _OppositeRays(scan, np.ones((12, len(angles)))).n == n


def test_a_wrong_distance_is_not_taken_for_another_shape() -> None:
    arguments, y = wide_scan()
    for distance in (42.0, 48.0):
        scan = Tomography(**{**arguments, "origin_detector": distance}).scan
        assert not shape_by_opposite_rays(scan, y[0, 0].numpy()).is_other


@pytest.mark.slow
def test_a_curved_detector_of_other_bins_is_found() -> None:
    """Bins of equal angles between the edges of a flat detector, where both shapes agree."""
    arguments, y = wide_scan(detector="curved")
    half = 0.5 * (y.shape[2] - 1) * arguments["detector_spacing"] / 90
    flat = {**arguments, "detector": "flat", "detector_spacing": arguments["detector_spacing"] * np.tan(half) / half}
    shape = shape_by_opposite_rays(Tomography(**flat).scan, y[0, 0].numpy())
    assert shape.is_other and not shape.distance_fits, shape
    report = check_sinogram(Tomography(**flat), y)
    assert not report.fits and "set detector to curved, and check detector_spacing" in report.findings[-1], str(report)


def test_the_coarse_reconstruction_has_the_shape_of_the_detector() -> None:
    """Of a strongly curved one: a flat detector of this width explains half."""
    geometry = scan_arguments(fan=True, source_origin=40.0, origin_detector=10.0, detector="curved")
    scan, y = Tomography(**geometry).scan, noisy_sinogram(geometry, 0.0)[0, 0].numpy()
    assert 1.5 * unexplained(scan, y) < unexplained(replace(scan, detector="flat"), y)


@pytest.mark.parametrize("fan", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_defects_of_the_detector_are_findings(fan: bool) -> None:
    """Each by its number; what is found of the axis is as without them."""
    geometry = scan_arguments(fan=fan, centre=3.4)
    physics, y = Tomography(**geometry), noisy_sinogram(geometry, 0.002)
    saturated, level = y.clone(), float(y.max())
    saturated[..., 40:42, :] = level
    stuck, drifted, dark = y.clone(), y.clone(), y.clone()
    stuck[..., 30, :] = 0.6 * level
    drifted[..., 36, :] += 0.1 * level
    dark[..., 20] = 0.0
    cases = {"detectors are stuck": (saturated, "40, 41"), "1 detectors are stuck": (stuck, "30"),
             "1 detectors have drifted": (drifted, "36"), "1 views have no beam": (dark, "20")}  # fmt: skip
    for words, (wrong, number) in cases.items():
        report = check_sinogram(physics, wrong)
        (finding,) = [finding for finding in report.findings if words in finding]
        assert not report.fits and f": {number}; " in finding and "--repair" in finding, str(report)
        assert report.centre == pytest.approx(3.4, abs=0.3), (words, str(report))


def test_few_rays_that_any_axis_explains_determine_none() -> None:
    """One detector: a reconstruction leaves nothing of it, whatever the axis, and the check crashed."""
    physics = Tomography((16, 16), [0, 90], 1, source_origin=60.0, origin_detector=40.0)
    assert check_sinogram(physics, torch.ones(1, 2)).centre is None


def test_it_takes_ct_and_rejects_other_operators() -> None:
    physics = CT(48, 60)
    y = physics.A(discs())
    assert check_sinogram(physics, y).fits
    assert not check_sinogram(physics, y[..., torch.randperm(60, generator=torch.Generator().manual_seed(2))]).fits
    with pytest.raises(InputError, match="Inpainting"):
        check_sinogram(Inpainting(4, 4), torch.zeros(1, 1, 4, 4))
    with pytest.raises(InputError, match="59 views"):
        check_sinogram(Tomography(**scan_arguments()), torch.zeros(1, 1, 72, 59))


def test_only_tensors_of_real_values_are_checked() -> None:
    physics = CT(8, 4)
    y = torch.ones(1, 1, *physics.measurement_shape)
    for wrong, words in ((y.numpy(), "torch tensor"), (y * 1j, "real"), (y[:0], "not empty")):
        with pytest.raises(InputError, match=words):
            check_sinogram(physics, wrong)


@pytest.mark.slow
def test_radians_that_noise_hides_are_a_warning() -> None:
    image = torch.zeros(1, 1, 32, 32)
    image[..., 8:20, 10:18] = 1
    y = Tomography((32, 32), range(0, 180, 6), 48).A(image)
    y = y + 2 * float(y.std()) * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    for scale, warns in ((1.0, False), (np.pi / 180, True)):
        report = check_sinogram(Tomography((32, 32), [scale * t for t in range(0, 180, 6)], 48), y)
        assert report.fits and ("are they in radians?" in report.line()) == warns
