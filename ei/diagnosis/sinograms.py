"""Does a measured sinogram fit its geometry? What its views must have in common, whatever they show.

The sum over the detectors of a parallel view is the same for every view, and its centroid is
``axis + a cos t + b sin t`` (Helgason and Ludwig's conditions of order 0 and 1): that gives the axis. What remains is
asked of a coarse reconstruction: how much of the measurements do a few steps of conjugate gradients explain, with the
angles as they are, and as they might have been meant?
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ei.errors import InputError
from ei.physics import Tomography, pinv_cg
from ei.physics.projections import Projections
from ei.physics.scan import Scan

# The coarse reconstruction: at most so many detectors, views and pixels a side, and steps.
DETECTORS, VIEWS, PIXELS, STEPS = 96, 60, 56, 12
# Another reading of the angles is better where it explains so much more; angles are in no order where shuffling them
# makes it so little worse. On the real scans of Helsinki 2022, tomopy's tooth and ToMoBAR's dendrite the right reading
# is better than any other by 1.12 to 8, a wrong order by 0.02 of it (tests/test_sinograms.py).
BETTER, ORDERED = 1.1, 0.75
# As above for parallel views, where the misfits of centroids and widths are multiplied to it: on the real scans a wrong
# reading is worse by 1.9 or more; of good simulated arcs of 40 degrees, which tell little, one was better by up to 1.3.
BETTER_PRODUCT = 1.6
# Views that differ less than this from their mean, or than by three times their noise, tell nothing of their angles.
ALIKE = 0.005
# Behind the object's rim the detector's ends see nothing; a part of what the middle sees is an object that is wider.
WIDER = 0.15
# Shifts of the axis below this many bins are let pass.
AXIS = 0.5


@dataclass
class SinogramReport:
    """What `check_sinogram` found.

    Attributes:
        fits: whether nothing contradicts the geometry.
        centre: where the axis falls on the detector, in bins from its middle, as in `Tomography`; None if unknown.
        findings: sentences: what does not fit and what to do, and what cannot be told.
        wider: the one that says that the object reaches beyond the detector; empty where it does not.
        figures: what they rest on.
    """

    fits: bool = True
    centre: float | None = None
    findings: list[str] = field(default_factory=list)
    wider: str = ""
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def _axis(self) -> str:
        return f"{self.centre:.2f} +- {self.figures.get('error of the axis', math.nan):.2f}"

    def wrong(self, sentence: str) -> None:
        self.fits = False
        self.findings.append(sentence)

    def __str__(self) -> str:
        axis = "unknown" if self.centre is None else f"{self._axis} bins from the middle of the detector"
        head = "the sinogram fits its geometry" if self.fits else "the sinogram does NOT fit its geometry"
        figures = "; ".join(f"{name} {value:.4g}" for name, value in self.figures.items())
        return "\n".join([head, *(f"- {finding}" for finding in self.findings), f"axis: {axis}", figures])

    def line(self) -> str:
        """In one line; what does not contradict the geometry, and yet spoils `A_dagger`, is a second one, a warning."""
        if not self.fits:
            return "the sinogram does NOT fit its geometry: " + " ".join(self.findings)
        axis = "" if self.centre is None else f", axis {self._axis} bins from the middle"
        fits = f"the sinogram fits its geometry ({100 * self.figures['unexplained']:.1f} % unexplained{axis})"
        return f"{fits}\nwarning: {self.wider}" if self.wider else fits


def check_sinogram(physics: Any, y: Tensor) -> SinogramReport:
    """Whether measured sinograms fit a tomography: axis, range and order of the angles, swapped axes, counts without
    the logarithm, and for a fan views or detectors in reverse. Takes seconds.

    Parallel data cannot tell a mirrored, turned or rescaled image from the true one; the report says so.

    Args:
        physics: `Tomography` or `CT`.
        y: sinograms ``[B, C, D, V]`` or ``[D, V]``; the one whose views differ most is looked at, its mean channel.

    Raises:
        InputError: for an operator without views, or sinograms of another shape (but for swapped axes, which are
            found).
    """
    if not isinstance(physics, Projections):
        raise InputError(f"check_sinogram needs Tomography or CT, not {type(physics).__name__}")
    detectors, views = physics.measurement_shape
    y = y.detach().cpu().double().reshape(-1, 1, *y.shape[-2:]) if y.dim() < 4 else y.detach().cpu().double()
    report = SinogramReport()
    if tuple(y.shape[-2:]) == (views, detectors) != (detectors, views):
        report.wrong(
            f"Its axes are swapped: it is [views, detectors] = [{views}, {detectors}], and [detectors, views] is "
            "expected; transpose it."
        )
        return report
    physics.check_sinogram_shape(y)
    if not bool(torch.isfinite(y).all()):
        report.wrong(f"It has {int((~torch.isfinite(y)).sum())} values that are not finite.")
        return report
    sinogram, variation = _most_telling(y.mean(1).numpy())
    report.figures |= {"variation between views": variation, "noise": _noise(sinogram)}
    if not np.any(sinogram):
        report.wrong("It is zero everywhere.")
        return report
    _check_values(sinogram, report)
    if report.fits:
        scan = _scan_of(physics)
        (_check_fan if scan.fan else _check_parallel)(scan, sinogram, report)
    return report


def _most_telling(sinograms: np.ndarray) -> tuple[np.ndarray, float]:
    """The sinogram ``[D, V]`` of up to 16 whose views differ most, and by how much: ``||y - mean view|| / ||y||``."""
    found = []
    for sinogram in sinograms[:: max(1, len(sinograms) // 16)]:
        size = np.linalg.norm(sinogram)
        found.append(float(np.linalg.norm(sinogram - sinogram.mean(1, keepdims=True)) / size) if size else 0.0)
    best = int(np.argmax(found))
    return sinograms[:: max(1, len(sinograms) // 16)][best], found[best]


def _noise(y: np.ndarray) -> float:
    """The part of a sinogram that is white noise, from how its detectors differ from the mean of their neighbours."""
    bends = np.abs(y[:-2] - 2 * y[1:-1] + y[2:]) if len(y) > 2 else np.zeros(1)
    return float(np.median(bends) / 0.6745 / math.sqrt(6) * math.sqrt(y.size) / (np.linalg.norm(y) or 1.0))


def _check_values(y: np.ndarray, report: SinogramReport) -> None:
    """Line integrals are least where the beam passes beside the object; what a detector counts is most there. The sum
    over the detectors hardly varies from view to view, that over the views does from detector to detector."""
    border = max(1, round(0.04 * len(y)))
    quarter = len(y) // 4
    ends = [float(np.median(end)) for end in (y[:border], y[-border:])]
    edge = float(np.median(np.concatenate([y[:border], y[-border:]])))
    middle = float(np.median(y[quarter : len(y) - quarter]))
    over_detectors, over_views = (np.abs(np.std(s) / (np.mean(s) or 1.0)) for s in (y.sum(0), y.sum(1)))
    report.figures |= {"edges": edge, "middle": middle, "variation of the sum": float(over_detectors)}
    if len(y) > 8 and y.shape[1] > 8 and over_views < 0.2 * over_detectors:
        report.wrong(
            f"Its axes seem to be swapped: the sum over the detectors varies by {100 * over_detectors:.0f} % from view "
            f"to view, that over the views by {100 * over_views:.0f} %; it must be [detectors, views]."
        )
    elif middle < 0:
        report.wrong(f"Line integrals are negative in the middle ({middle:.3g}): is the sign of the logarithm right?")
    elif min(ends) > middle:  # on both sides: an object beside the middle of the detector is at one
        report.wrong(
            f"Its logarithm seems to be missing: beside the object it is {edge:.3g}, behind it {middle:.3g}, as counts "
            "are and line integrals are not; ei.datasets.line_integrals takes it."
        )
    else:
        most = float(np.median(y, axis=1).max()) or 1.0
        if max(ends) > WIDER * most:
            beyond = " and ".join(f"{100 * end / most:.0f}" for end in ends)
            report.wider = (
                f"the object reaches beyond the detector (its ends measure {beyond} % of the most it does): filtered "
                "back-projection, which A_dagger is, will be wrong; where every view sees the object, conjugate "
                "gradients (pinv_cg, --reconstructor unrolled) are right"
            )
            report.findings.append(report.wider[0].upper() + report.wider[1:] + ".")


def _scan_of(physics: Projections) -> Scan:
    if isinstance(physics, Tomography):
        return physics.scan
    return Tomography(physics.image_shape, physics.angles, physics.measurement_shape[0]).scan  # type: ignore[arg-type]


# ---- parallel -----------------------------------------------------------------------------------------------------


def _check_parallel(scan: Scan, y: np.ndarray, report: SinogramReport) -> None:
    angles = np.asarray(scan.angles)
    variation = report.figures["variation of the sum"]
    if variation > 0.05:
        report.wrong(
            f"The sum over the detectors varies by {100 * variation:.0f} % from view to view, and of a parallel beam "
            "it is the same for all: does the object reach beyond the detector, does the intensity change, is it a fan?"
        )
    axis, spread, error = _axis(y, angles)
    report.figures |= {"centroid off its sinusoid": spread, "error of the axis": error}
    # Angles first: with wrong ones the axis means nothing.
    if not _check_angles(scan, y, report, partial(_disagreement, y)):
        return
    if error > AXIS:
        report.findings.append(f"Where the axis lies cannot be told from these angles (within {error:.1f} bins).")
    else:
        report.centre = axis
        if abs(axis - scan.centre) > max(AXIS, 3 * error):
            report.wrong(
                f"The axis lies at {axis:.2f} bins from the middle of the detector, the geometry says {scan.centre:g}: "
                f"set centre to {axis:.2f}."
            )
    report.findings.append(
        "Parallel data cannot tell whether the image is mirrored (views in reverse), turned (detectors flipped) or of "
        f"another size; in the unit of the lengths the attenuation reaches {report.figures['attenuation']:.3g}."
    )


def _axis(y: np.ndarray, angles: np.ndarray) -> tuple[float, float, float]:
    """The axis by the centroids of the views, in bins from the middle; how far these are from
    ``axis + a cos t + b sin t`` (root mean square, bins); and the error of the axis."""
    place = np.arange(len(y)) - (len(y) - 1) / 2
    total = y.sum(0)
    centroid = (place[:, None] * y).sum(0) / np.where(total == 0, 1, total)
    t = np.deg2rad(angles)
    terms = np.stack([np.ones_like(t), np.cos(t), np.sin(t)], axis=1)
    found = np.linalg.lstsq(terms, centroid, rcond=None)[0]
    off = centroid - terms @ found
    freedom = max(1, len(t) - 3)
    # Deviations last over many views, so they do not average out as independent ones would.
    variance = np.linalg.pinv(terms.T @ terms)[0, 0] * min(len(t), 12) / 12 * (off @ off) / freedom
    known = len(t) >= 4 and np.linalg.matrix_rank(terms) == 3
    return float(found[0]), float(np.sqrt(np.mean(off**2))), float(math.sqrt(variance)) if known else math.inf


def _disagreement(y: np.ndarray, scan: Scan) -> float:
    """How badly angles fit: what a reconstruction does not explain, times the misfits of centroids and widths to the
    sinusoids of once and twice the angle, which for evenly spread angles tell more."""
    place = np.arange(len(y)) - (len(y) - 1) / 2
    total = y.sum(0)
    total = np.where(total == 0, 1, total)
    centroid = (place[:, None] * y).sum(0) / total
    width = ((place[:, None] - centroid) ** 2 * y).sum(0) / total
    t = np.deg2rad(np.asarray(scan.angles))
    product = unexplained(scan, y)[0]
    for values, order in ((centroid, 1), (width, 2)):
        terms = np.stack([np.ones_like(t), np.cos(order * t), np.sin(order * t)], axis=1)
        off = values - terms @ np.linalg.lstsq(terms, values, rcond=None)[0]
        # Relative to how it varies, and not below what is rounding or noise of a view that hardly does.
        product *= max(float(np.std(off)) / max(float(np.std(values)), 1e-12), 0.01)
    return product


# ---- fan ----------------------------------------------------------------------------------------------------------


def _check_fan(scan: Scan, y: np.ndarray, report: SinogramReport) -> None:
    centre, error = _axis_of_fan(scan, y)
    moved = _with(scan, centre=centre)
    # With the axis elsewhere a wrong reading of the angles may do less harm than the right one.
    best = moved if unexplained(scan, y)[0] > BETTER * unexplained(moved, y)[0] else scan

    def disagreement(other: Scan) -> float:
        return min(unexplained(_with(other, centre=at), y)[0] for at in (scan.centre, centre))

    if not _check_angles(best, y, report, disagreement):
        return
    report.figures["error of the axis"] = error
    if error > 0.02 * len(y):
        report.findings.append("Where the axis lies cannot be told from these angles.")
        return
    report.centre = centre
    if abs(centre - scan.centre) > max(AXIS, error):
        report.wrong(
            f"The axis lies at about {centre:.1f} bins from the middle of the detector, the geometry says "
            f"{scan.centre:g}: set centre to {centre:.1f}, and check again."
        )


def _axis_of_fan(scan: Scan, y: np.ndarray) -> tuple[float, float]:
    """The centre with which a reconstruction explains most, and how far from it 7 % more are left; infinite where the
    centre is not among those tried."""

    def at(centre: float) -> float:
        return unexplained(_with(scan, centre=centre), y)[0]

    reach, middle = 0.04 * len(y), scan.centre
    # Go on to where it is: with an axis that is only roughly known, another reading of the angles may fit better.
    for _ in range(4):
        places = middle + np.linspace(-reach, reach, 9)
        values = np.array([at(place) for place in places])
        best, far = int(values.argmin()), values.max() > BETTER * values.min()
        if 0 < best < len(places) - 1 or not far:
            break
        middle = places[best]
    if not 0 < best < len(places) - 1:
        return float(places[best]), reach / 4 if far else math.inf
    low, high = places[best - 1], places[best + 1]
    fine = np.linspace(low, high, 7)
    found = np.array([at(place) for place in fine])
    # The square is nearly a parabola about its minimum.
    a, b, _ = np.polyfit(fine, found**2, 2)
    if a <= 0:
        return float(fine[found.argmin()]), math.inf
    return float(np.clip(-b / (2 * a), low, high)), float(np.sqrt(0.15 * found.min() ** 2 / a))


# ---- angles -------------------------------------------------------------------------------------------------------


def _check_angles(scan: Scan, y: np.ndarray, report: SinogramReport, disagreement: Callable[[Scan], float]) -> bool:
    """Whether the angles are in order and of the right range, as far as this can be told."""
    part, attenuation = unexplained(scan, y)
    report.figures |= {"unexplained": part, "attenuation": attenuation}
    angles = np.asarray(scan.angles)
    if len(angles) < 4:
        report.findings.append("So few views tell nothing of their angles.")
        return True
    shuffled = _with(scan, angles=tuple(np.random.default_rng(0).permutation(angles).tolist()))
    in_no_order = unexplained(shuffled, y)[0]
    report.figures["unexplained, angles shuffled"] = in_no_order
    if report.figures["variation between views"] < max(ALIKE, 3 * report.figures["noise"]):
        alike = report.figures["variation between views"] < ALIKE
        why = "The object looks alike from all sides" if alike else "Noise hides how the views differ"
        report.findings.append(f"{why}, so the angles cannot be checked.")
        return True
    readings = {
        "cover only half of their range (give them doubled)": _with(scan, angles=tuple((2 * angles).tolist())),
        "cover twice their range (give them halved)": _with(scan, angles=tuple((angles / 2).tolist())),
    }
    reverse = "run in reverse, or the detectors are flipped: the one mends the other, but for a mirrored image"
    if scan.fan:
        readings[reverse] = _with(scan, angles=tuple((-angles).tolist()))
    own = disagreement(scan)
    values = {name: disagreement(other) for name, other in readings.items()}
    best = min(values, key=lambda name: values[name])
    ratio = own / max(values[best], 1e-12)
    report.figures["best other reading of the angles, times better"] = ratio
    if ratio > (BETTER if scan.fan else BETTER_PRODUCT):
        report.wrong(f"The angles seem to {best}: so they fit {ratio:.2g} times as well.")
    elif part > ORDERED * in_no_order:
        report.wrong(
            f"The angles are not those of the views, or not in their order: in random order they fit as well "
            f"({100 * part:.1f} % of the measurements unexplained, {100 * in_no_order:.1f} % in random order)."
        )
    elif part > 0.3:
        report.wrong(
            f"Images of this size explain only {100 * (1 - part):.0f} % of it: is the object larger than the image, "
            "are the lengths in one unit, is the noise so strong?"
        )
    if report.fits and scan.fan and own > values[reverse] / BETTER:
        report.findings.append("Whether the views run in reverse, or the detectors are flipped, cannot be told here.")
    return report.fits


def _with(scan: Scan, **changes: Any) -> Scan:
    return Scan(**{name: changes.get(name, getattr(scan, name)) for name in scan.__dataclass_fields__})


def unexplained(scan: Scan, y: np.ndarray) -> tuple[float, float]:
    """The part of a sinogram ``[D, V]`` that a few steps of conjugate gradients leave, at a coarse resolution, and the
    largest value of that reconstruction but for a hundredth."""
    views = np.unique(np.linspace(0, y.shape[1] - 1, min(y.shape[1], VIEWS)).round().astype(int))
    each = max(1, math.ceil(len(y) / DETECTORS))
    number = len(y) // each
    left = (len(y) - number * each) // 2
    binned = y[left : left + number * each, views].reshape(number, each, -1).mean(1)
    shift = left + (number * each - 1) / 2 - (len(y) - 1) / 2
    height, width = scan.image_shape
    coarse = max(1.0, max(height, width) / PIXELS)
    physics = Tomography(
        (max(1, round(height / coarse)), max(1, round(width / coarse))),
        np.asarray(scan.angles)[views],
        number,
        detector_spacing=scan.detector_spacing * each,
        pixel_size=scan.pixel_size * coarse,
        centre=(scan.centre - shift) / each,
        source_origin=scan.source_origin,
        origin_detector=scan.origin_detector,
    )
    measured = torch.from_numpy(binned.copy())[None, None]
    x = pinv_cg(physics, measured, STEPS, tol=0, orthogonal=True)
    left_over = float((physics.A(x) - measured).norm() / measured.norm())
    return left_over, float(x.flatten().abs().quantile(0.99))
