"""Measurements before a training: do they fit operator and ground truth, what are their scale and noise."""

from __future__ import annotations

import math
import statistics
from typing import Any

import torch
from torch import Tensor

from ei.common.devices import device_of_tensors
from ei.datasets import Pairs, image_of
from ei.datasets.batches import evenly_spaced, index_in_whole
from ei.datasets.kspace import check_centred
from ei.diagnosis.sinograms import SinogramReport, check_sinogram, noise_fraction
from ei.diagnosis.user_defined import call
from ei.errors import InputError
from ei.physics import MRI, Tomography, select_physics
from ei.physics.projections import Projections

# Noise leaves a part of y that no image explains; above this, over what the operator itself leaves, a warning is due.
UNEXPLAINED = 0.15
# Sinograms of which more of the norm is white noise see no object.
AIR = 0.9


def measurement(dataset: Any, index: int) -> Tensor:
    """A measurement of a data set of measurements, or of pairs."""
    item = dataset[index]
    return item[0] if isinstance(item, tuple) else item


def some_measurements(physics: Any, measurements: Any) -> dict[int, Tensor]:
    """A few measurements by their places in the data set, evenly spaced; of sinograms, without those that are noise
    alone, as the slices of a stack above and below its object are, if others are left."""
    ys = {n: measurement(measurements, n) for n in evenly_spaced(measurements)}
    if not isinstance(physics, Projections):
        return ys
    seen = {n: y for n, y in ys.items() if noise_fraction(y.mean(0).double().numpy()) < AIR}
    return seen or ys


def report_measurements(physics: Any, measurements: Any) -> list[str]:
    """Lines about a few measurements: what they look like, and what is wrong with them (``warning: ...``)."""
    some = some_measurements(physics, measurements)
    ys = {index_in_whole(measurements, n): y for n, y in some.items()}
    misfits = [_misfits(select_physics(physics, [index]), y[None]) for index, y in ys.items()]
    fit, usual = torch.tensor(misfits).median(0).values.tolist()
    shapes = sorted({tuple(y.shape) for y in ys.values()})
    each = f"{list(shapes[0])} each" if len(shapes) == 1 else f"{list(shapes[0])} to {list(shapes[-1])}"
    values = [(y.abs() if y.is_complex() else y).float() for y in ys.values()]
    low, high = min(float(y.min()) for y in values), max(float(y.max()) for y in values)
    lines = [f"measurements: {each}, values {low:.3g} to {high:.3g}; A A_dagger y fits y to {fit:.1%}"]
    constant = [index for index, y in zip(ys, values, strict=True) if bool(y.max() == y.min())]
    if constant:
        lines.append(f"warning: all values of measurement {constant[0]} are the same")
    if fit > UNEXPLAINED + 2 * usual:
        lines.append(
            f"warning: measurements of images fit to {usual:.1%}: check that the operator is the one of these "
            "measurements, that their axes are in its order, and that unmeasured entries are zero"
        )
    return lines


def _misfits(physics: Any, y: Tensor) -> list[float]:
    """What ``A A_dagger y`` leaves of y, and what it leaves of ``A A_dagger y``, a measurement of an image for certain:
    A_dagger need not be exact (FBP is not)."""
    with torch.no_grad():
        y = y.to(device_of_tensors(physics) or y.device)
        again = physics.A(physics.A_dagger(y))
        third = physics.A(physics.A_dagger(again))
    least = torch.finfo(torch.float32).tiny
    return [float((b - a).norm() / a.norm().clamp(min=least)) for a, b in ((y, again), (again, third))]


def report_sinograms(physics: Any, measurements: Any) -> SinogramReport | None:
    """Whether measured sinograms fit their geometry; None for other measurements. Of scans that differ it
    is the report of the first that does not fit, or else of the first with warnings."""
    if not isinstance(physics, Projections):
        return None
    if not isinstance(physics, Tomography) or physics.count == 1:
        return check_sinogram(physics, torch.stack(list(some_measurements(physics, measurements).values())))
    reports = [_report_scan(physics, measurements, n) for n in evenly_spaced(measurements, 4)]
    return min(reports, key=lambda report: (report.fits, not report.warnings))


def _report_scan(physics: Tomography, measurements: Any, n: int) -> SinogramReport:
    """Of one of the scans that differ; what it finds begins with the number of the scan."""
    number = index_in_whole(measurements, n)
    report = check_sinogram(physics.of([number]), measurement(measurements, n)[None])
    for sentences in (report.findings, report.warnings):
        sentences[:1] = [f"Scan {number}: {first}" for first in sentences[:1]]
    return report


def report_data(physics: Any, measurements: Any) -> list[str]:
    """The lines of `report_measurements` and of `report_sinograms`."""
    lines = report_measurements(physics, measurements)
    sinograms = report_sinograms(physics, measurements)
    return lines if sinograms is None else [*lines, *sinograms.line().splitlines()]


def report_truth(physics: Any, pairs: Pairs) -> list[str]:
    """Lines about how well ``A x`` of the ground truth fits y over a few pairs; a warning where another image's ``A x``
    fits as well: files in another order or in other units would train in silence."""
    some = some_measurements(physics, pairs)
    rows, ys = list(some), list(some.values())
    operators = [select_physics(physics, [index_in_whole(pairs, index)]) for index in rows]

    def misfit(shift: int) -> float:
        others = (pairs[rows[k - shift]][1][None] for k in range(len(rows)))
        predicted = (call(own, "A", x)[0].cpu() for own, x in zip(operators, others, strict=True))
        return statistics.median(float((p - y).norm() / y.norm()) for p, y in zip(predicted, ys, strict=True))

    lines = [f"A x of the ground truth fits y to {misfit(0):.1%} of its norm"]
    if len(rows) > 1 and misfit(0) >= 0.9 * misfit(1):
        lines.append(
            f"warning: that of another image fits it to {misfit(1):.1%}: are measurements and ground truth in the same "
            "order and orientation, and in the units of the operator?"
        )
    return lines


def check_kspace(physics: MRI, y: Tensor, path: str) -> None:
    """Raise if k-space has values where the mask measures nothing, or none at all where it does: it is another's."""
    mask = physics.sampling_mask[0].cpu() != 0
    if mask.dim() != y.dim() or any(side not in (1, has) for side, has in zip(mask.shape, y.shape, strict=True)):
        return  # the operator raises
    check_centred(torch.complex(y[0], y[1]) if not y.is_complex() else y)
    filled = y != 0
    outside = int((filled & ~mask).sum())
    inside = float((filled & mask).sum() / mask.expand_as(y).sum())
    if outside:
        raise InputError(
            f"{path} has {outside} values that are not zero where the mask measures nothing: is it the mask of this "
            "k-space? If it is to leave a part of it out, set that to zero first"
        )
    if inside < 0.5:
        raise InputError(
            f"{path} is zero at {1 - inside:.0%} of what the mask measures: is it the mask of this k-space, and are "
            "its axes [n, (coil,) row, column]?"
        )


def find_image_scale(physics: Any, measurements: Any, device: torch.device) -> float:
    """The largest value of ``A_dagger y``, but for its thousandth part, over a few measurements; 1 where images are in
    about [0, 1] already."""
    peaks = []
    for index, y in some_measurements(physics, measurements).items():
        selected = select_physics(physics, [index_in_whole(measurements, index)])
        x = selected.A_dagger(y[None].to(device)).abs().flatten()
        peaks.append(float(x.kthvalue(max(1, math.ceil(0.999 * len(x)))).values))
    scale = float(f"{statistics.median(peaks):.3g}")
    if not scale > 0:
        raise InputError("A_dagger of the measurements is zero: is this the operator that they were made with?")
    return 1.0 if 1 / 3 <= scale <= 3 else scale


def starting_level(physics: Any, dataset: Any, device: torch.device, measured: bool) -> float:
    """Where the search for an unknown level of noise starts: a hundredth of the root mean square of a few measurements,
    where they are not zero. Noise is seldom below, and the search is to come from there."""
    squares = []
    for index in evenly_spaced(dataset):
        if measured:
            y = measurement(dataset, index)
        else:
            y = select_physics(physics, [index_in_whole(dataset, index)]).A(image_of(dataset[index]).to(device))
        squares.append(y[y != 0].abs().square().mean())
    level = float(f"{0.01 * float(torch.stack(squares).nanmean()) ** 0.5:.3g}")
    if not level > 0:
        raise InputError("the measurements are all zero: there is no noise to find in them")
    return level
