"""Operators that differ by image: what they see together; which of image and operator to move."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from conftest import Result

from ei.diagnosis.operators import Together, report_moves, report_operators
from ei.physics import CT, MRI, Inpainting, Tomography
from ei.transforms import Shift


def masks(*rates: float) -> Inpainting:
    """Masks that keep consecutive parts of the pixels of 4 x 4 images."""
    kept, first = [], 0
    for rate in rates:
        mask = torch.zeros(16)
        mask[first : first + round(16 * rate)] = 1
        first += round(16 * rate)
        kept.append(mask.view(1, 4, 4))
    return Inpainting(4, 4, mask=torch.stack(kept))


@pytest.mark.parametrize(
    ("rates", "alone", "together"), [((0.25, 0.75), "25.00%", "100.00%"), ((0.25, 0.5), "25.00%", "75.00%")]
)
def test_what_masks_see_together(rates: tuple[float, ...], alone: str, together: str) -> None:
    report = report_operators(masks(*rates), Shift(1), (1, 4, 4), 0.01, torch.device("cpu"))
    assert f"2 operators: one sees {alone} of image space, all of them {together}" in report
    assert ("they see everything" in report) == (together == "100.00%")


def test_the_operators_together_are_a_stack() -> None:
    physics = Tomography((6, 6), [[0, 30], [50, 70, 90]], 9)
    x = torch.rand(2, 1, 6, 6)
    y = Together(physics).A(x)
    assert torch.equal(y, torch.cat([physics.of([n]).A(x).flatten(1) for n in (0, 1)], 1))


@pytest.mark.parametrize(
    ("physics", "advice"),
    [
        (CT(16, 12), "closure.move=operator"),
        (CT(16, 60, uniform=False), "closure.move=image"),
        (Tomography((16, 16), range(0, 120, 6), 23), "closure.move=image"),
        (Tomography((16, 16), range(0, 180, 6), 23), "closure.move=operator"),
    ],
)
def test_what_to_move(physics: CT | Tomography, advice: str) -> None:
    assert advice in str(report_moves(physics))
    assert report_moves(MRI(torch.ones(8))) is None


def test_by_command(script: Callable[..., Result], tmp_path: Path) -> None:
    geometry = {"name": "Tomography", "image_shape": [12, 12], "n_detectors": 17,
                "angles": [[0, 20, 40, 60, 80], [90, 110, 130, 150]]}  # fmt: skip
    (tmp_path / "g.yaml").write_text(yaml.safe_dump(geometry))
    done = script("ei diagnose", "--physics", "g.yaml", "--group", "rotate90", "--noise", "gaussian:0.1")
    assert done.code == 0, done
    assert "2 operators: one sees" in done.out
    assert "closure.move=image" in done.out
