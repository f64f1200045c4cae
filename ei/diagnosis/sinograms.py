"""Does a measured sinogram fit its geometry? What its views must have in common, whatever the object is.

The sum over the detectors of a parallel view is the same for every view, and its centroid is
``axis + a cos t + b sin t`` (Helgason and Ludwig's conditions of order 0 and 1): that gives the axis. The rest is asked
of a coarse reconstruction: how much of the measurements a few steps of conjugate gradients explain, with the angles as
they are, and with other readings of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ei.common.checks import check_tensor
from ei.common.white_noise import white_noise
from ei.datasets.defects import find_defects, repair
from ei.diagnosis.axis import BETTER, axis_by_centroids, axis_by_residual, moments, outer_detectors, sinusoid_fit
from ei.diagnosis.coarse import coarse_fit, unexplained
from ei.diagnosis.detector_shape import UNDETERMINED, curved_bins, other_shape, shape_by_opposite_rays
from ei.errors import InputError
from ei.physics import Tomography
from ei.physics.projections import Projections
from ei.physics.scan import Scan

# Angles are in no order where shuffling them makes the fit so little worse. On the real scans a wrong order is worse by
# 0.02 (tests/diagnosis/test_real_scans.py).
ORDERED = 0.75
# As `BETTER` for parallel views, with the misfits of centroids and widths as factors: on the real scans a wrong reading
# is worse by 1.9 or more; of good simulated arcs of 40 degrees, which determine little, one was better by up to 1.3.
BETTER_PRODUCT = 1.6
# Views that differ less than this from their mean, or than by three times their noise, do not determine their angles.
ALIKE = 0.005
# The detector's ends see nothing beside the object; above this part of the largest view the object is wider.
WIDER = 0.15
# Above this part centroids are biased, and the axis is found by a reconstruction.
TRUNCATED = 0.03
# Drifted detectors make stripes of more than this part of the range; the real scans have some of 0.015.
STRIPE = 0.03
# Shifts of the axis below this many bins pass, whatever its error; with an error above the second it is unknown.
AXIS = 0.1
UNKNOWN = 1.5
# Truncated views must be explained up to this part; where they are not, an image this many times as wide is tried.
EXPLAINED = 0.03
# Angles of a fan that leave no more unexplained than this many times the noise are right, or as good as others: a short
# arc does not determine its range (the limited scans of the Helsinki challenge: other readings are up to 1.6 times
# better).
AS_NOISE = 2.5
LARGER = 1.6
# The axis of the geometry is wrong where another leaves this many times less, even if it is not determined which.
CLEARLY_BETTER = 2.0
# A detector may be flat or curved where their rays differ by less than this many detectors.
LEAST_DIFFERENCE = 0.5

REVERSED = "run in reverse, or the detectors are flipped: the one mends the other, but for a mirrored image"


@dataclass
class SinogramReport:
    """The answer of `check_sinogram`; ``str`` of it prints findings and figures.

    Attributes:
        fits: whether nothing contradicts the geometry.
        centre: where the axis falls on the detector, in bins from its middle, as in `Tomography`; None if unknown.
        findings: sentences: what does not fit and what to do, and what cannot be determined.
        warnings: those findings that `line` adds where the sinogram fits: the object reaches beyond the detector; the
            angles cover a few degrees only, as radians do.
        figures: the figures behind the findings.
    """

    fits: bool = True
    centre: float | None = None
    findings: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)

    def require_centre(self) -> float:
        """``centre``; raises `InputError` if it is unknown."""
        if self.centre is None:
            raise InputError(
                "the rotation axis is unknown: pass its place, in bins from the middle of the detector, as centre. "
                + " ".join(self.findings)
            )
        return self.centre

    def reject(self, finding: str) -> None:
        self.fits = False
        self.findings.append(finding)

    def warn(self, finding: str) -> None:
        self.warnings.append(finding)
        self.findings.append(finding)

    @property
    def axis(self) -> str:
        error = self.figures.get("error of the axis", math.nan)
        return "unknown" if self.centre is None else f"{self.centre:.2f} +- {error:.2f} bins from the middle"

    def __str__(self) -> str:
        head = "the sinogram fits its geometry" if self.fits else "the sinogram does NOT fit its geometry"
        figures = "; ".join(f"{name} {value:.4g}" for name, value in self.figures.items())
        findings = (f"- {finding}" for finding in self.findings)
        return "\n".join([head, *findings, f"axis: {self.axis} of the detector", figures])

    def line(self) -> str:
        """One line, a warning where it does not fit; further ones for `warnings`."""
        if not self.fits:
            return "warning: the sinogram does NOT fit its geometry: " + " ".join(self.findings)
        unexplained = 100 * self.figures["unexplained"]
        fits = f"the sinogram fits its geometry ({unexplained:.1f} % unexplained, axis {self.axis})"
        return "\nwarning: ".join([fits, *self.warnings])


def check_sinogram(physics: Projections, y: Tensor) -> SinogramReport:
    """Whether measured sinograms fit a tomography. Takes seconds.

    Checked are the axis, range and order of the angles, swapped axes, and counts without the logarithm. For a fan also
    views or detectors in reverse, and whether the detector is flat or curved. Stuck or drifted detectors and views
    without beam are reported, and interpolated before the rest is checked.

    Parallel data cannot distinguish a mirrored, turned or rescaled image from the true one; the report warns of it.

    >>> from ei.physics import Tomography
    >>> image = torch.zeros(1, 1, 32, 32)
    >>> image[..., 8:20, 10:18] = 1
    >>> physics = Tomography((32, 32), range(0, 180, 4), 48, centre=1.5)
    >>> report = check_sinogram(physics, physics.A(image))
    >>> report.fits, round(report.centre, 1)
    (True, 1.5)

    Args:
        physics: `Tomography` or `CT`.
        y: sinograms ``[B, C, D, V]`` or ``[D, V]``. The one whose views differ most is checked, the mean of its
            channels.

    Raises:
        InputError: for an operator without views, or sinograms of another shape (except for swapped axes, which are a
            finding).
    """
    if not isinstance(physics, Projections):
        raise InputError(f"check_sinogram needs Tomography or CT, got {type(physics).__name__}")
    check_tensor(y, "sinograms for check_sinogram")
    if y.is_complex() or y.numel() == 0:
        raise InputError(f"sinograms for check_sinogram must be real and not empty, got {y.dtype} {list(y.shape)}")
    detectors, views = physics.measurement_shape
    y = y.detach().cpu().double()
    y = y.reshape(-1, 1, *y.shape[-2:]) if y.dim() < 4 else y
    report = SinogramReport()
    if tuple(y.shape[-2:]) == (views, detectors) != (detectors, views):
        report.reject(
            f"Its axes are swapped: it is [views, detectors] = [{views}, {detectors}], and [detectors, views] is "
            "expected; transpose it."
        )
        return report
    physics.check_sinogram_shape(y)
    if not bool(torch.isfinite(y).all()):
        report.reject(f"It has {int((~torch.isfinite(y)).sum())} values that are not finite.")
        return report
    sinograms = y.mean(1).numpy()
    sinogram = sinograms[most_varied(len(sinograms), sinograms.__getitem__)]
    if not np.any(sinogram):
        report.reject("It is zero everywhere.")
        return report
    _check_axes(sinogram, report)
    if not report.fits:
        return report
    defects = find_defects(sinogram, STRIPE)
    sinogram = repair(sinogram, defects)
    _check_axes(sinogram, report)
    report.figures |= {"variation between views": _variation(sinogram), "noise": noise_fraction(sinogram)}
    _check_values(sinogram, report)
    if report.fits:
        _check_geometry(scan_of(physics), sinogram, report)
    for sentence in defects.sentences:
        report.reject(f"{sentence}; ei.datasets.defects.repair (ei prepare sinogram --repair) interpolates them.")
    return report


def most_varied(count: int, sinogram: Callable[[int], np.ndarray]) -> int:
    """Which of ``count`` sinograms ``[D, V]`` `check_sinogram` checks: of up to 31 the one whose views differ most.
    ``sinogram`` gives one of them by its number."""

    def energy(number: int) -> float:
        """Of how views differ beyond the noise. Relative to all of it, rows without an object would have most."""
        y = sinogram(number).astype(np.float64)
        return float(np.square(y).sum()) * (_variation(y) ** 2 - noise_fraction(y) ** 2)

    return max(range(0, count, max(1, count // 16)), key=energy)


def _variation(y: np.ndarray) -> float:
    """By how much the views of a sinogram differ: ``||y - mean view|| / ||y||``."""
    return float(np.linalg.norm(y - y.mean(1, keepdims=True)) / (np.linalg.norm(y) or 1.0))


def noise_fraction(y: np.ndarray) -> float:
    """The part of a sinogram that is white noise, between 0 and about 1."""
    return float(white_noise(y) * math.sqrt(y.size) / (np.linalg.norm(y) or 1.0))


def _check_axes(y: np.ndarray, report: SinogramReport) -> None:
    """The sum over the detectors hardly varies from view to view, that over the views does between detectors."""
    over_detectors, over_views = (float(np.abs(np.std(s) / (np.mean(s) or 1.0))) for s in (y.sum(0), y.sum(1)))
    report.figures["variation of the sum"] = over_detectors
    if min(y.shape) > 8 and over_views < 0.2 * over_detectors:
        report.reject(
            f"Its axes seem to be swapped: the sum over the detectors varies by {100 * over_detectors:.0f} % from view "
            f"to view, that over the views by {100 * over_views:.0f} %; it must be [detectors, views]."
        )


def _check_values(y: np.ndarray, report: SinogramReport) -> None:
    """Line integrals are smallest where the beam passes beside the object; counts are largest there."""
    border = max(1, round(0.04 * len(y)))
    quarter = len(y) // 4
    ends = [y[:border], y[-border:]]
    edge = float(np.median(np.concatenate(ends)))
    middle = float(np.median(y[quarter : len(y) - quarter]))
    largest = float(np.median(y, axis=1).max()) or 1.0
    # The outermost detectors, in the views that see most there: an elongated object leaves the detector in some alone.
    beyond = [float(np.quantile(end.mean(0), 0.9)) / largest for end in outer_detectors(y)]
    report.figures |= {"edges": edge, "middle": middle, "largest at the ends": max(beyond)}
    if not report.fits:
        return
    if middle < 0:
        report.reject(f"Line integrals are negative in the middle ({middle:.3g}): is the sign of the logarithm right?")
    elif min(float(np.median(end)) for end in ends) > middle:  # at one end alone it is an object beside the middle
        report.reject(
            f"Its logarithm seems to be missing: beside the object it is {edge:.3g}, behind it {middle:.3g}, as counts "
            "are and line integrals are not; take it with ei.datasets.line_integrals."
        )
    elif max(beyond) > WIDER:
        report.warn(
            f"The object reaches beyond the detector, its views are truncated (the ends measure {100 * beyond[0]:.0f} "
            f"and {100 * beyond[1]:.0f} % of the largest): filtered back-projection, which A_dagger is, may be wrong; "
            "where every view sees the object, use conjugate gradients (pinv_cg, --reconstructor unrolled)."
        )


def scan_of(physics: Projections) -> Scan:
    """The geometry of `Tomography` or `CT`."""
    if isinstance(physics, Tomography):
        return physics.scan
    return Tomography(physics.image_shape, physics.angles, physics.measurement_shape[0]).scan  # type: ignore[arg-type]


def _check_geometry(scan: Scan, y: np.ndarray, report: SinogramReport) -> None:
    is_truncated = report.figures["largest at the ends"] > TRUNCATED
    if scan.fan or is_truncated:
        _check_by_residual(scan, y, report, is_truncated)
    else:
        _check_by_centroids(scan, y, report)
    if not report.fits:
        return
    _check_shape(scan, y, report)
    if not scan.fan:
        report.findings.append(
            "Parallel data do not determine whether the image is mirrored (views in reverse), turned (detectors "
            "flipped) or of another size; in the unit of the lengths the attenuation reaches "
            f"{report.figures['attenuation']:.3g}."
        )


def _check_shape(scan: Scan, y: np.ndarray, report: SinogramReport) -> None:
    """Whether the detector is flat or curved, where that matters."""
    difference = curved_bins(scan, y)
    if difference < LEAST_DIFFERENCE:
        return
    shape = UNDETERMINED if _why_alike(report) else shape_by_opposite_rays(scan, y)
    report.figures["shape of the detector (0 as given, 1 the other)"] = shape.value_of_any_distance
    other = other_shape(scan)
    if shape.is_other:
        distance = "" if shape.distance_fits else ", and check detector_spacing and the distances: they do not fit, too"
        report.reject(
            f"The detector is {other}, not {scan.detector}: so opposite rays agree, and those at the object's edge are "
            f"{difference:.1f} detectors from where the geometry has them; set detector to {other}{distance}."
        )
    elif not shape.is_given:
        report.findings.append(
            f"The data do not determine whether the detector is flat or curved, and the two differ by {difference:.1f} "
            f"detectors at the object's edge: the geometry has detector {scan.detector}; check the scanner's data "
            "sheet."
        )


def _why_alike(report: SinogramReport) -> str:
    """Why the views do not show how they differ; empty where they do."""
    variation = report.figures["variation between views"]
    if variation < ALIKE:
        return "The object looks alike from all sides"
    return "Noise hides how the views differ" if variation < 3 * report.figures["noise"] else ""


def _check_by_centroids(scan: Scan, y: np.ndarray, report: SinogramReport) -> None:
    variation = report.figures["variation of the sum"]
    if variation > 0.05:
        report.reject(
            f"The sum over the detectors varies by {100 * variation:.0f} % from view to view, and for a parallel beam "
            "it is constant: does the object reach beyond the detector, does the intensity change, is it a fan?"
        )
    centre, error, spread = axis_by_centroids(y, np.asarray(scan.angles))
    report.figures["centroid off its sinusoid"] = spread
    is_determined = 3 * error <= UNKNOWN
    # Angles first: with wrong ones the axis means nothing. They are compared at the axis that the data have.
    moved = replace(scan, centre=centre) if is_determined else scan
    _check_angles(moved, y, report, lambda other: _parallel_misfit(other, y), BETTER_PRODUCT)
    if report.fits:
        _check_axis(scan, report, centre, error, 3 * error, is_determined)


def _check_by_residual(scan: Scan, y: np.ndarray, report: SinogramReport, is_truncated: bool) -> None:
    centre, error = axis_by_residual(scan, y, everywhere=is_truncated)
    best = min((scan, replace(scan, centre=centre)), key=lambda other: unexplained(other, y))
    # Truncated views determine the axis only with an image that explains them.
    limit = max(EXPLAINED, 2 * report.figures["noise"]) if is_truncated else math.inf
    is_explained = unexplained(best, y) <= limit
    if not is_explained and _is_explained_by_larger_image(scan, y, report, limit):
        return
    centres = (scan.centre, centre)
    _check_angles(best, y, report, lambda other: min(unexplained(replace(other, centre=c), y) for c in centres), BETTER)
    if report.fits:
        ratio = unexplained(scan, y) / max(unexplained(best, y), 1e-12)
        is_determined = is_explained and error <= 0.02 * len(y)
        if not is_determined and ratio > CLEARLY_BETTER:
            report.reject(
                f"The axis of the geometry, {scan.centre:g} bins, is wrong, others explain {ratio:.2g} times more, but "
                "these data do not determine which: measure it."
            )
        # Where the geometry explains the data to their noise, another axis must be three errors away.
        is_noise = scan.fan and unexplained(scan, y) <= AS_NOISE * report.figures["noise"]
        limit = (3 if is_noise else 1) * error if ratio > BETTER else math.inf
        _check_axis(scan, report, centre, error, limit, is_determined)


def _is_explained_by_larger_image(scan: Scan, y: np.ndarray, report: SinogramReport, limit: float) -> bool:
    height, width = scan.image_shape
    larger = replace(scan, image_shape=(round(LARGER * height), round(LARGER * width)))
    centre, _ = axis_by_residual(larger, y, everywhere=True)
    residual, attenuation = coarse_fit(replace(larger, centre=centre), y)
    if residual > limit:
        return False
    report.figures |= {"unexplained": residual, "attenuation": attenuation}
    report.findings.append(
        "The object is wider than the image, so that axis and angles cannot be checked: make the image "
        f"{LARGER:g} times as wide."
    )
    return True


def _check_axis(
    scan: Scan, report: SinogramReport, centre: float, error: float, limit: float, is_determined: bool
) -> None:
    report.figures["error of the axis"] = error
    if not is_determined:
        report.findings.append(f"These data do not determine the axis (error {error:.1f} bins).")
        return
    report.centre = centre
    if abs(centre - scan.centre) > max(AXIS, limit):
        report.reject(
            f"The axis lies at {centre:.2f} +- {error:.2f} bins from the middle of the detector, the geometry has "
            f"{scan.centre:g}: set centre to {centre:.2f}."
        )


def _parallel_misfit(scan: Scan, y: np.ndarray) -> float:
    """How badly parallel angles fit, at the axis that they imply: what a reconstruction leaves unexplained, times the
    misfits of centroids and widths to the sinusoids of once and twice the angle. For evenly spread angles the misfits
    determine more."""
    angles = np.asarray(scan.angles)
    product = unexplained(replace(scan, centre=axis_by_centroids(y, angles)[0]), y)
    for values, order in zip(moments(y), (1, 2), strict=True):
        _, off, _ = sinusoid_fit(values, angles, order)
        # Relative to how it varies, and not below the rounding or noise of a view that hardly does.
        product *= max(float(np.std(off)) / max(float(np.std(values)), 1e-12), 0.01)
    return product


def _other_readings(angles: np.ndarray, is_fan: bool) -> dict[str, np.ndarray]:
    """Other readings of the angles, by the finding that is reported if one of them fits."""
    readings = {
        "cover only half of their range (double them)": 2 * angles,
        "cover twice their range (halve them)": angles / 2,
    }
    if np.ptp(angles) <= 2 * np.pi:
        readings["be in radians (give degrees)"] = np.rad2deg(angles)
    return {**readings, REVERSED: -angles} if is_fan else readings


def _check_angles(
    scan: Scan, y: np.ndarray, report: SinogramReport, misfit: Callable[[Scan], float], better: float
) -> None:
    """Whether the angles are in order and of the right range, as far as the data determine it. Another reading of them
    is right if its misfit is ``better`` times smaller."""
    residual, attenuation = coarse_fit(scan, y)
    report.figures |= {"unexplained": residual, "attenuation": attenuation}
    angles = np.asarray(scan.angles)
    if len(angles) < 4:
        report.findings.append("So few views do not determine their angles.")
        return
    if np.ptp(angles) <= 2 * np.pi:
        report.warn(f"The angles cover only {np.ptp(angles):.1f} degrees; are they in radians?")
    shuffled = replace(scan, angles=tuple(np.random.default_rng(0).permutation(angles).tolist()))
    of_shuffled = unexplained(shuffled, y)
    report.figures["unexplained, angles shuffled"] = of_shuffled
    if why := _why_alike(report):
        report.findings.append(f"{why}, so the angles cannot be checked.")
        return
    readings = _other_readings(angles, scan.fan)
    values = {name: misfit(replace(scan, angles=tuple(other.tolist()))) for name, other in readings.items()}
    as_given = misfit(scan)
    best = min(values, key=values.__getitem__)
    ratio = as_given / max(values[best], 1e-12)
    report.figures["best other reading of the angles, times better"] = ratio
    if ratio > better and not (scan.fan and residual <= AS_NOISE * report.figures["noise"]):
        report.reject(f"The angles seem to {best}: so they fit {ratio:.2g} times as well.")
    elif residual > ORDERED * of_shuffled:
        report.reject(
            "The angles are not those of the views, or not in their order: in random order they fit as well "
            f"({100 * residual:.1f} % of the measurements unexplained, {100 * of_shuffled:.1f} % in random order)."
        )
    elif residual > 0.3:
        report.reject(
            f"Images of this size explain only {100 * (1 - residual):.0f} % of it: is the object larger than the "
            "image, are the lengths in one unit, is the noise so strong?"
        )
    elif scan.fan and as_given > values[REVERSED] / BETTER:
        report.findings.append("The data do not determine whether views run in reverse or detectors are flipped.")
