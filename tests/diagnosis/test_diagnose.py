"""`diagnose`: its arguments, its report, and estimates beside exact figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from known_operators import Operator

from ei.errors import InputError
from ei.evaluation import diagnose
from ei.physics import CT, Inpainting
from ei.transforms import Rotate, Shift


@pytest.mark.slow
def test_random_probes_agree_with_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    problems: list[tuple[Any, Any]] = [(Inpainting(24, 24, mask_rate=0.5), Shift(2)), (CT(24, 10), Rotate(2))]
    for physics, transform in problems:
        exact = diagnose(physics, transform, (1, 24, 24), max_elements=4, elements=2)
        monkeypatch.setattr("ei.diagnosis.problem.EXACT", 0)
        probed = diagnose(physics, transform, (1, 24, 24), max_elements=4, elements=2)
        monkeypatch.undo()
        assert exact.exact and not probed.exact
        assert probed.verdict[:25] == exact.verdict[:25]
        assert probed.rank == pytest.approx(exact.rank, rel=0.1)
        assert [share for _, share in probed.coverage] == pytest.approx(
            [share for _, share in exact.coverage], abs=0.08
        )
        assert probed.elements[0].visible == pytest.approx(exact.elements[0].visible, abs=0.1)


@pytest.mark.parametrize(
    ("A", "shape", "message"),
    [
        (lambda x: x**2, (1, 8, 8), "linear"),
        (lambda x: (2 * x).detach(), (1, 8, 8), "differentiable"),
        (lambda x: x, (8, 8), r"image_shape = \(C, H, W\)"),
    ],
)
def test_invalid_input_is_an_error(A: Callable, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        diagnose(Operator(A), Shift(2), shape)


@pytest.mark.parametrize("options", [{"tol": 0}, {"tol": 1}, {"max_elements": 0}, {"elements": 0}, {"elements": []}])
def test_arguments_outside_their_range_are_errors(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="0 < tol < 1, max_elements >= 1 and elements >= 1"):
        diagnose(Inpainting(8, 8), Shift(2), (1, 8, 8), **options)


@pytest.mark.figures
def test_the_report_and_its_figure(tmp_path: Path) -> None:
    diagnosis = diagnose(CT(16, 6), Rotate(2), (1, 16, 16), max_elements=4, elements=torch.tensor([30, 45]))
    text = str(diagnosis)
    assert text.splitlines()[0] == diagnosis.verdict
    assert f"rank {diagnosis.rank:.0f}" in text and "elements stacked      2 of 358" in text
    assert len(diagnosis.elements) == 2 and "(nearly) redundant" in text.splitlines()[-2]
    assert len(diagnosis.unseen) == 4 and all(image.shape == (16, 16) for image in diagnosis.unseen.values())
    diagnosis.save_figure(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000
