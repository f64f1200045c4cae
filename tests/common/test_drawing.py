"""Figures: any channels, any measurements, any units."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ei.common.drawing import image_grid

pytestmark = pytest.mark.figures


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("measured", [(7,), (2, 3, 8, 8), (4, 8, 8)], ids=str)
def test_figures_of_any_channels_and_measurements(tmp_path: Path, channels: int, measured: tuple[int, ...]) -> None:
    x = torch.rand(channels, 8, 8)
    row = {"y": torch.rand(measured), "A_dagger y": x, "EI": x, "ground truth": x}
    titles = [axes.get_title() for axes in image_grid([row], tmp_path / "grid.png").axes]
    assert titles[1] == ("A_dagger y (1st of 5)" if channels == 5 else "A_dagger y")
    assert ("1st of" in titles[0]) == (len(measured) > 1)


def test_images_in_other_units_are_not_black(tmp_path: Path) -> None:
    """Attenuations of 0.04 / mm look like images in [0, 1] that were divided by 25."""
    x = torch.linspace(0, 1, 64).view(1, 8, 8)
    shown = []
    for scale in (1.0, 0.04):
        figure = image_grid([{"EI": scale * x, "ground truth": scale * x}], tmp_path / "grid.png")
        shown.append(figure.axes[0].get_images()[0].get_array())
    np.testing.assert_allclose(shown[0], shown[1], atol=1e-6)
