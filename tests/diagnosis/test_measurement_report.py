"""The report on measurements before a training."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from scan_makers import noisy_sinogram, scan_arguments
from torch import Tensor

from ei.datasets import DeadLeaves, EllipsePhantoms
from ei.diagnosis import before_training
from ei.diagnosis.before_training import find_image_scale, report_data, report_measurements, report_sinograms
from ei.diagnosis.sinograms import SinogramReport
from ei.physics import CT, MRI, Inpainting, Tomography


def phantoms(n: int = 4) -> Tensor:
    return torch.stack([EllipsePhantoms("train", 32, n_images=20)[i] for i in range(n)])[:, None]


def leaves(n: int = 4) -> Tensor:
    return torch.stack([DeadLeaves("train", 32)[i] for i in range(n)])


def report_on(physics: Any, y: Tensor) -> str:
    return "\n".join(report_measurements(physics, list(y)))


COMPLEX = torch.complex(phantoms(), phantoms().flip(-1)).squeeze(1)
MASK = torch.zeros(32, 32)
MASK[:, ::3] = 1


@pytest.mark.parametrize(
    ("physics", "x"),
    [
        (CT(32, 46), phantoms()),
        (CT(32, 20, uniform=False), phantoms()),
        (Inpainting(32, 32), leaves()),
        (MRI(MASK), torch.view_as_real(COMPLEX).movedim(-1, 1).contiguous()),
    ],
    ids=["ct", "limited angle", "inpainting", "mri"],
)
def test_measurements_of_the_operator_get_no_warning(physics: Any, x: Tensor) -> None:
    y = physics.A(x)
    noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    assert "warning" not in report_on(physics, y) and "A A_dagger y fits y to" in report_on(physics, y)
    if isinstance(physics, CT):
        assert "warning" not in report_on(physics, y + 0.1 * y.std() * noise)


@pytest.mark.parametrize(
    ("physics", "y", "words"),
    [
        (CT(32, 46), CT(32, 46).A(phantoms()).mT, "axes"),
        (CT(32, 46), 1e4 * torch.exp(-CT(32, 46).A(phantoms()) / 10), "operator"),
        (Inpainting(32, 32), leaves(), "unmeasured entries"),
        (Inpainting(32, 32), Inpainting(32, 32, seed=3).A(leaves()), "operator"),
        (Inpainting(32, 32), torch.zeros(2, 3, 32, 32), "all values of measurement 0"),
    ],
    ids=["swapped axes", "no logarithm", "not masked", "another mask", "empty"],
)
def test_anomalies_get_a_warning(physics: Any, y: Tensor, words: str) -> None:
    warning = report_on(physics, y).splitlines()[-1]
    assert warning.startswith("warning:") and words in warning


def test_of_scans_that_differ_the_misfit_is_printed_before_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """A warning of the first scan was lost with the report of the next one."""
    fits, wide, wrong = SinogramReport(), SinogramReport(), SinogramReport()
    for report in (fits, wide, wrong):
        report.figures["unexplained"] = 0.01
    wide.warn("The object reaches beyond the detector.")
    wrong.reject("Its axes are swapped.")
    physics = Tomography((8, 8), [[0.0, 60.0, 120.0]] * 3, 12)
    y = list(torch.zeros(3, 1, 12, 3))
    for reports, found in (([fits, wide, fits], wide), ([wide, fits, wrong], wrong), ([fits, fits, fits], fits)):
        remaining = iter(deepcopy(reports))
        monkeypatch.setattr(before_training, "check_sinogram", lambda physics, y, left=remaining: next(left))
        report = report_sinograms(physics, y)
        assert report is not None and report.fits == found.fits
        expected = [f"Scan {reports.index(found)}: {words}" for words in found.findings]
        assert report.findings == expected and report.warnings == expected[: len(found.warnings)]
        assert all(words in report.line() for words in expected)


def test_slices_of_air_do_not_count(recwarn: pytest.WarningsRecorder) -> None:
    """Above and below the object a stack sees nothing but noise: it has no scale, and no operator explains it."""
    arguments = scan_arguments()
    physics = Tomography(**arguments)
    y = noisy_sinogram(arguments)[0]
    air = [noisy_sinogram(arguments, seed=n)[0] - noisy_sinogram(arguments, 0.0)[0] for n in range(1, 6)]
    stack = [*air[:3], y, y, *air[3:]]
    assert find_image_scale(physics, stack, torch.device("cpu")) == find_image_scale(physics, [y], torch.device("cpu"))
    assert report_data(physics, stack)[0] == report_data(physics, [y])[0]
    assert not any("warning" in line for line in report_data(physics, stack)), report_data(physics, stack)
    assert find_image_scale(physics, air, torch.device("cpu")) < 0.1  # nothing else is there
    Tomography(**arguments).A_dagger(air[0][None])
    assert not recwarn.list, str(recwarn.list[0])
    with pytest.warns(UserWarning, match="views end inside the object"):
        Tomography(**arguments | {"n_detectors": 24}).A_dagger(y[None, :, 24:48])
