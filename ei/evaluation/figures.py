"""Figures of reconstructions side by side, for notebooks and scripts: pyplot's, so that ``plt.show()`` shows them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ei.common.complex import magnitude
from ei.evaluation.classical import Reconstruction
from ei.evaluation.quality import evaluate, image_and_measurement, reconstruct_all
from ei.models.base import ReconstructionFunction
from ei.physics import select_physics

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def show_images(images: Mapping[str, Tensor], *, low: float = 0.0, high: float = 1.0) -> Figure:
    """A row of images, each under its title.

    Args:
        images: by title, ``[1, C, H, W]`` or ``[C, H, W]``; of two channels, and of complex images, the magnitude.
        low, high: the values that are black and white; values outside are clipped.

    >>> import torch
    >>> figure = show_images({"zeros": torch.zeros(1, 8, 8), "noise": torch.rand(1, 3, 8, 8)})
    >>> [ax.get_title() for ax in figure.axes]
    ['zeros', 'noise']
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(images), figsize=(2.4 * len(images), 2.8), squeeze=False, layout="compressed")
    for ax, (title, image) in zip(axes[0], images.items(), strict=True):
        values = magnitude(image.detach().reshape(image.shape[-3:])).float().cpu()
        pixels = ((values - low) / (high - low)).clamp(0, 1).permute(1, 2, 0).numpy()
        ax.imshow(pixels[..., 0] if pixels.shape[-1] == 1 else pixels, cmap="gray", vmin=0, vmax=1)
        ax.set_title(title)
        ax.set_axis_off()
    return figure


def compare(
    f: ReconstructionFunction,
    physics: Any,
    images: Any,
    more: Mapping[str, Reconstruction] | None = None,
    *,
    name: str = "EI",
    pinv: str = "A_dagger y",
    index: int = 0,
) -> Figure:
    """One test image reconstructed by every method, with the mean PSNR over all test images under each title.

    Args:
        f, physics, images, more: as of `evaluate`; images in [0, 1].
        name, pinv: the titles of ``f(y)`` and of ``A_dagger y``.
        index: of the image that is drawn.

    >>> import torch
    >>> from ei.models import Reconstructor, UNet
    >>> from ei.physics import Inpainting
    >>> f = Reconstructor(UNet(1, 1, base_channels=2), Inpainting(16, 16))
    >>> figure = compare(f, f.physics, torch.rand(2, 1, 16, 16))
    >>> [ax.get_title().split("\\n")[0] for ax in figure.axes]
    ['A_dagger y', 'EI', 'ground truth']
    """
    more = more or {}
    rows = evaluate(f, physics, images, more)
    x, y, place = image_and_measurement(images, index, next(f.parameters()).device)
    done = reconstruct_all(f, physics, x, place, y=y)
    with torch.no_grad():
        others = {title: function(select_physics(physics, [place]), done["y"]) for title, function in more.items()}
    shown = {"pinv": done["pinv"], **others, "net": done["net"]}
    means = {key: statistics.fmean(row[f"psnr_{key}"] for row in rows) for key in shown}
    titles = {"pinv": pinv, "net": name}
    titled = {f"{titles.get(key, key)}\n{means[key]:.1f} dB": image for key, image in shown.items()}
    return show_images({**titled, "ground truth": done["x"]})
