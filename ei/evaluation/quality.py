"""Evaluation: image by image, in evaluation mode, fp32, outputs not clipped; both definitions of PSNR, and SSIM."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Callable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ei.common.complex import magnitude
from ei.common.drawing import image_grid
from ei.common.seeds import derive_seed, seeded
from ei.datasets import Pairs, image_of, simulate
from ei.datasets.batches import declared_data_range, file_name_of, index_in_whole
from ei.errors import InputError
from ei.evaluation.classical import Reconstruction, classical_for
from ei.metrics import SSIM_WINDOW, cal_psnr, psnr, range_of, ssim
from ei.models.base import ReconstructionFunction, evaluating, select_function
from ei.physics import select_physics
from ei.physics.base import check_measures


def ssim_or_nan(a: Tensor, b: Tensor, data_range: float) -> Tensor:
    """`ei.metrics.ssim`; NaN for images smaller than its window, so that their other figures are kept."""
    return ssim(a, b, data_range) if min(a.shape[-2:]) >= SSIM_WINDOW else torch.full((len(a),), math.nan)


# By prediction, ground truth and its range; the paper's PSNR has the largest value of each image as its peak.
METRICS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "psnr_paper": lambda a, b, data_range: cal_psnr(a, b),
    "psnr": psnr,
    "ssim": ssim_or_nan,
}


def reconstruct_all(
    f: ReconstructionFunction, physics: Any, x: Tensor, index: int = 0, seed: int = 0, y: Tensor | None = None
) -> dict[str, Tensor]:
    """One image ``x`` ``[1, C, H, W]``, its measurement ``y`` (by default simulated), ``pinv`` (A_dagger y) and ``net``
    (f(y)); in evaluation mode, with the moving average of the network where its training keeps one.

    >>> physics = ei.physics.Inpainting(16, 16)
    >>> f = ei.models.Reconstructor(ei.models.UNet(1, 1, base_channels=2), physics)
    >>> list(reconstruct_all(f, physics, torch.rand(1, 1, 16, 16)))
    ['y', 'pinv', 'net', 'x']
    """
    with evaluating(f), torch.no_grad():
        selected_f, physics_of_image = select_function(f, physics, [index])
        if y is None:
            seed_of_noise = derive_seed(seed, "test")  # not that of the training images
            y = simulate(physics_of_image, x, [index], seed_of_noise)
        net = selected_f(y)
        return {"y": y, "pinv": physics_of_image.A_dagger(y), "net": net, "x": x}


def data_range_of(images: Any) -> float:
    """The range of the ground truth for PSNR and SSIM: that of the data set if it has one (1 for all of ours in
    [0, 1]), else `ei.metrics.range_of` its values."""
    stated = declared_data_range(images)
    if stated is not None:
        return stated
    values = [magnitude(image_and_measurement(images, index, "cpu")[0]) for index in range(len(images))]
    return range_of(min(float(image.min()) for image in values), max(float(image.max()) for image in values))


def evaluate(
    f: ReconstructionFunction,
    physics: Any,
    images: Any,
    more: Mapping[str, Reconstruction] | None = None,
    device: torch.device | str | None = None,
    *,
    data_range: float | None = None,
) -> list[dict[str, Any]]:
    """Quality of A_dagger y (``pinv``), of the network (``net``) and of ``more`` reconstructions, one image at a time.

    >>> from ei.models import Reconstructor, UNet
    >>> from ei.physics import Inpainting
    >>> physics = Inpainting(16, 16)
    >>> images = torch.rand(2, 1, 16, 16)
    >>> rows = evaluate(Reconstructor(UNet(1, 1, base_channels=4), physics), physics, images)
    >>> len(rows), list(rows[0])[:3]
    (2, ['index', 'psnr_paper_pinv', 'psnr_paper_net'])

    Args:
        f: the reconstruction function. Where its training keeps a moving average of the network (``average=``), that
            is evaluated, as by ``ei test``.
        physics: the forward operator.
        images: a data set of images ``[H, W]`` or ``[C, H, W]``; or pairs of measurements and images
            (`ei.datasets.Pairs`), where nothing is simulated.
        more: other reconstructions by name, called as ``reconstruct(physics, y)``.
        device: where to compute; by default where f's weights are.
        data_range: of the images, for the usual PSNR and SSIM; by default `data_range_of` them: 1 for images in [0, 1].

    Raises:
        InputError: if f, physics or images are of another kind, or there are no images.

    Returns:
        A row for each image: ``index``, ``file`` (its name, where the data set has names), and
        ``<metric>_<reconstruction>`` for psnr_paper, psnr and ssim. For complex images, and for two channels, which are
        a real and an imaginary part, those of the magnitudes.
    """
    _check_evaluated(f, physics, images)
    device = device or next(f.parameters()).device
    data_range = data_range_of(images) if data_range is None else data_range
    rows = []
    for index in range(len(images)):
        x, y, place = image_and_measurement(images, index, device)
        outputs = reconstruct_all(f, physics, x, place, y=y)
        y = outputs.pop("y")
        truth = magnitude(outputs.pop("x"))
        with torch.no_grad():
            for name, reconstruct in (more or {}).items():
                outputs[name] = reconstruct(select_physics(physics, [place]), y)
        file = file_name_of(images, index)
        row: dict[str, Any] = {"index": index} if file is None else {"index": index, "file": file}
        for metric, function in METRICS.items():
            for name, output in outputs.items():
                row[f"{metric}_{name}"] = float(function(magnitude(output).to(truth.dtype), truth, data_range))
        rows.append(row)
    return rows


def _check_evaluated(f: Any, physics: Any, images: Any) -> None:
    check_measures(physics)
    if not isinstance(f, nn.Module):
        raise InputError(
            f"f must be a reconstruction function, as Reconstructor(net, physics), got a {type(f).__name__}"
        )
    if not isinstance(images, Sized) or len(images) == 0:
        what = "an empty one" if isinstance(images, Sized) else f"a {type(images).__name__}"
        raise InputError(f"images must be a data set of test images, got {what}")


def image_and_measurement(images: Any, index: int, device: Any) -> tuple[Tensor, Tensor | None, int]:
    """An image of a data set as a batch of one, its measurement where the set has them, and the index that selects its
    operator (`ei.datasets.batches.index_in_whole`). What the set draws for an item is the same every time."""
    place = index_in_whole(images, index)
    with seeded(derive_seed(0, "test item", index)):
        item = images[index]
    if not isinstance(images, Pairs):
        return image_of(item).to(device), None, place
    y, x = item
    return x[None].to(device), y[None].to(device), place


def mean_and_std(rows: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    """Mean and (population) standard deviation of every metric of the reconstruction ``name``, as text. An infinite
    mean stands alone, with the number of exact images; SSIM of images below its window is named so."""
    cells = []
    for metric in METRICS:
        values = [row[f"{metric}_{name}"] for row in rows]
        mean = statistics.fmean(values)
        digits = 4 if metric == "ssim" else 2
        if math.isfinite(mean):
            cells.append(f"{mean:.{digits}f} +- {statistics.pstdev(values):.{digits}f}")
        elif metric == "ssim" and not any(math.isnan(row[f"psnr_{name}"]) for row in rows):
            cells.append(f"under {SSIM_WINDOW} pixels")
        else:
            exact = sum(value == math.inf for value in values)
            cells.append(f"{mean}" + (f", {exact} exact" if exact else ""))
    return cells


def summary(rows: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> str:
    """A table for a terminal; ``names`` maps reconstructions to their titles.

    >>> row = {"psnr_paper_net": 30.0, "psnr_net": 31.0, "ssim_net": 0.9}
    >>> print(summary([row, row], {"net": "EI"}).splitlines()[-1])
    EI                 30.00 +- 0.00     31.00 +- 0.00  0.9000 +- 0.0000
    """
    width = max(14, *(len(title) for title in names.values()))
    lines = [f"{'':{width}}  {'paper PSNR [dB]':>16}  {'usual PSNR [dB]':>16}  {'SSIM':>16}"]
    for name, title in names.items():
        lines.append(f"{title:{width}}  " + "  ".join(f"{cell:>16}" for cell in mean_and_std(rows, name)))
    return "\n".join(lines)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows that `write_metrics` wrote."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [{name: value if name == "file" else float(value) for name, value in row.items()} for row in rows]


def write_metrics(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the rows as CSV."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def images_by_title(done: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """A row of a figure, ``y | A_dagger y | <name> | ground truth``, from the result of `reconstruct_all`."""
    return {"y": done["y"][0], "A_dagger y": done["pinv"][0], name: done["net"][0], "ground truth": done["x"][0]}


def comparison(
    f: ReconstructionFunction,
    physics: Any,
    x: Tensor,
    path: Path,
    name: str = "EI",
    index: int = 0,
    y: Tensor | None = None,
) -> None:
    """The figure ``y | A_dagger y | <name> | ground truth`` of one image ``[1, C, H, W]``, with the paper's PSNR."""
    done = reconstruct_all(f, physics, x, index, y=y)
    captions = {
        title: f"{float(cal_psnr(magnitude(done[key]), magnitude(x))):.2f} dB"
        for title, key in (("A_dagger y", "pinv"), (name, "net"))
    }
    image_grid([images_by_title(done, name)], path, [captions])


def report(
    f: ReconstructionFunction,
    physics: Any,
    images: Any,
    folder: Path | str | None = None,
    n_drawn: int = 3,
    name: str = "network",
    *,
    data_range: float | None = None,
) -> list[dict[str, Any]]:
    """Evaluate on test images, print the table, and write ``metrics.csv`` and the figure ``reconstructions.png`` into
    ``folder`` (by default the current one). Classical reconstructions that suit the physics stand beside the network.

    >>> from ei.models import Reconstructor, UNet
    >>> from ei.physics import Inpainting
    >>> physics = Inpainting(16, 16)
    >>> f = Reconstructor(UNet(1, 1, base_channels=4), physics)
    >>> rows = report(f, physics, torch.rand(2, 1, 16, 16), n_drawn=0)  # doctest: +ELLIPSIS
    2 test images; usual PSNR and SSIM: peak 1
    ...

    Arguments and result are those of `evaluate`; the first ``n_drawn`` images are drawn, and ``name`` is the title of
    the network in table and figure: "EI", "MC", ...
    """
    _check_evaluated(f, physics, images)
    folder = Path(folder or ".")
    more = classical_for(physics)
    data_range = data_range_of(images) if data_range is None else data_range
    rows = evaluate(f, physics, images, more, data_range=data_range)
    print(f"{len(rows)} test images; usual PSNR and SSIM: peak {data_range:g}")
    print(summary(rows, {"pinv": "A_dagger y", **{title: title for title in more}, "net": name}))
    write_metrics(rows, folder / "metrics.csv")
    device = next(f.parameters()).device
    drawn = []
    for index in range(min(n_drawn, len(images))):
        x, y, place = image_and_measurement(images, index, device)
        drawn.append(images_by_title(reconstruct_all(f, physics, x, place, y=y), name))
    if drawn:
        image_grid(drawn, folder / "reconstructions.png")
    files = ["reconstructions.png", "metrics.csv", "loss.png", "training_loss.csv", "config.yaml"]
    files = [file for file in files[not drawn :] if (folder / file).is_file()]
    files += ["checkpoints"] if any(folder.glob("ckp_*.pth.tar")) else []
    print(f"files: {folder} ({', '.join(files)})")
    return rows
