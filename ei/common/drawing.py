"""Figures, written as files; a window opens only if there is a screen and somebody at the terminal."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ei.common.checks import is_unit_range
from ei.common.complex import magnitude
from ei.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(**options: Any) -> Figure:
    # A Figure without pyplot needs no display and leaves the user's backend alone.
    from matplotlib.figure import Figure

    return Figure(layout="constrained", **options)


def check_figure_file(option: str, path: Path) -> None:
    """Raise `InputError` unless the file that ``option`` names can be a figure."""
    from matplotlib.backend_bases import FigureCanvasBase

    endings = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.lower().lstrip(".") not in endings or path.is_dir():
        raise InputError(f"{option} must be a file of a figure (.png, .pdf, .svg, ..), got {path}")


def read_log(log: Path) -> dict[str, list[float]]:
    """The columns of a ``training_loss.csv``, NaN for empty cells; none where there are no rows."""
    with open(log, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name] or "nan") for row in rows] for name in rows[0]} if rows else {}


def loss_curves(log: Path, path: Path) -> None:
    """Draw the columns of a ``training_loss.csv`` against the epoch: losses (logarithmic) and PSNR."""
    columns = read_log(log)
    if not columns:
        return
    epochs = columns.pop("epoch")
    psnrs = {name: columns.pop(name) for name in list(columns) if name.endswith("psnr")}
    figure = new_figure(figsize=(10 if psnrs else 5.5, 4))
    axes = figure.subplots(1, 2 if psnrs else 1, squeeze=False)[0]
    marker = "." if len(epochs) < 30 else None
    for name, values in columns.items():
        axes[0].plot(epochs, values, label=name, marker=marker)
    axes[0].set(yscale="log", title="losses, mean over the epoch")
    for name, values in psnrs.items():
        label, color = ("training batches", "black") if name == "psnr" else ("validation images", "tab:red")
        axes[1].plot(epochs, values, color=color, marker=marker, label=label)
        axes[1].set(ylabel="dB", title="paper PSNR")
    for ax in axes:
        ax.set_xlabel("epoch")
        ax.legend()
        ax.grid(alpha=0.3)
        ax.xaxis.get_major_locator().set_params(integer=True)
    figure.savefig(path, dpi=120)


def _picture(image: Tensor) -> tuple[np.ndarray, str]:
    """The part of an image or measurement of any axes that is drawn, ``[H, W]`` or ``[H, W, 3]``, and a remark where it
    is not all. Of complex images and of two channels it is the magnitude; of coils, and of more than three channels,
    the first. A vector is a row."""
    remark = ""
    if image.dim() == 4 and len(image) == 2 and not image.is_complex():  # real and imaginary part of several coils
        image = torch.complex(image[0].float(), image[1].float())
    while image.dim() > 3:
        image, remark = image[0], f" (1st of {len(image)})"
    image = image.reshape((1,) * (3 - image.dim()) + tuple(image.shape))
    if image.is_complex() and len(image) > 1:
        image, remark = image[:1], f" (1st of {len(image)})"
    image = magnitude(image)
    if len(image) not in (1, 3):
        image, remark = image[:1], f" (1st of {len(image)})"
    array = image.float().cpu().permute(1, 2, 0).numpy()
    return array[..., 0] if len(image) == 1 else array, remark


def _limits(truth: Tensor | None) -> tuple[float, float]:
    """The values that are black and white in a row of images: 0 and 1, or the least and largest of a ground truth in
    other units."""
    if truth is None:
        return 0.0, 1.0
    least, largest = (float(value) for value in torch.aminmax(magnitude(truth)))
    return (0.0, 1.0) if is_unit_range(least, largest) or least == largest else (least, largest)


def image_grid(
    rows: Sequence[Mapping[str, Tensor]], path: Path, captions: Sequence[Mapping[str, str]] | None = None
) -> Figure:
    """Draw images side by side: each row is a dict from title to an image ``[C, H, W]``.

    Images are clipped to [0, 1], or to the values of the row's "ground truth" where it is in other units. Measurements
    (the title begins with "y"; any number of axes) are drawn in their own range.
    """
    n_columns = max(len(row) for row in rows)
    figure = new_figure(figsize=(3 * n_columns, 3.3 * len(rows)))
    axes = figure.subplots(len(rows), n_columns, squeeze=False)
    for r, row in enumerate(rows):
        low, high = _limits(row.get("ground truth"))
        for ax, (title, image) in zip(axes[r], row.items(), strict=False):
            array, remark = _picture(image.detach())
            if title.startswith("y") and (array.ndim == 2 or array.max() > 1):
                ax.imshow(array if array.ndim == 2 else array[..., 0], cmap="gray", aspect="auto")
            else:
                ax.imshow(((array - low) / (high - low)).clip(0, 1), cmap="gray", vmin=0, vmax=1)
            ax.set_title(title + remark)
            if captions and title in captions[r]:
                box = {"facecolor": "black", "alpha": 0.6, "pad": 2, "linewidth": 0}
                place = {"transform": ax.transAxes, "ha": "right", "va": "bottom"}
                ax.text(0.97, 0.04, captions[r][title], color="white", fontsize=9, bbox=box, **place)
    for ax in axes.flat:
        ax.set_axis_off()
    figure.savefig(path, dpi=120)
    return figure


def error_maps(rows: Sequence[Mapping[str, Tensor]], path: Path) -> None:
    """Draw images ``[C, H, W]`` and their errors side by side, each with a colour bar in its own units. The first of a
    row is an image, the others are errors, which share a scale up to their 99.5th percentile."""
    n_columns = max(len(row) for row in rows)
    figure = new_figure(figsize=(3.6 * n_columns, 3.2 * len(rows)))
    axes = figure.subplots(len(rows), n_columns, squeeze=False)
    for of_row, row in zip(axes, rows, strict=True):
        arrays = {title: _picture(image.detach()) for title, image in row.items()}
        errors = [array.ravel() for array, _ in list(arrays.values())[1:]]
        most = float(np.quantile(np.concatenate(errors), 0.995)) if errors else 1.0
        for k, (ax, (title, (array, remark))) in enumerate(zip(of_row, arrays.items(), strict=False)):
            options: Any = {"cmap": "magma", "vmin": 0, "vmax": most or 1.0} if k else {"cmap": "gray"}
            shown = array if array.ndim == 2 else array.clip(0, 1)
            drawn = ax.imshow(shown, **options)
            if array.ndim == 2:
                figure.colorbar(drawn, ax=ax, shrink=0.8)
            ax.set_title(title + remark)
    for ax in axes.flat:
        ax.set_axis_off()
    figure.savefig(path, dpi=120)


def coverage_curves(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw how often errors are within their bars against how often they should be: every column of ``rows`` against
    their "level", in per cent."""
    figure = new_figure(figsize=(4.6, 4.4))
    ax = figure.subplots()
    levels = [100 * row["level"] for row in rows]
    ax.plot(levels, levels, color="black", linewidth=1, label="as it should be")
    for name in rows[0]:
        if name != "level":
            ax.plot(levels, [100 * row[name] for row in rows], marker=".", label=name.replace("_", ", "))
    ax.set(xlabel="nominal [%]", ylabel="within the error bars [%]", ylim=(-2, 102))
    ax.grid(alpha=0.3)
    ax.legend()
    figure.savefig(path, dpi=120)


def show_if_screen(path: Path) -> None:
    """Open a window with the figure at ``path`` if there is a screen and an interactive terminal."""
    has_screen = sys.platform in ("win32", "darwin") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if not (has_screen and sys.stdout.isatty()):
        return
    import matplotlib.pyplot as plt

    if plt.get_backend().lower() == "agg":  # a screen, but no toolkit to open a window with
        return
    plt.figure(path.name)
    plt.imshow(plt.imread(path))
    plt.axis("off")
    plt.show()
