"""Evaluation: image by image, in evaluation mode, fp32, outputs not clipped; both PSNR definitions and SSIM."""

from __future__ import annotations

import csv
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ei.checkpoint import AVERAGED, load_file
from ei.classical import Reconstruction, classical_for
from ei.datasets import image_of, simulate
from ei.errors import InputError, MissingFileError
from ei.experiment import TASKS, image_shape, images_for, load_for_test, sample_of_the_paper, split_beside
from ei.logger import new_run_folder
from ei.metrics import cal_psnr, psnr, ssim
from ei.models import Reconstructor
from ei.options import Parser, add_device_options, choose_device, number
from ei.plot import image_grid, show_if_screen
from ei.seeding import derive_seed

METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"psnr_paper": cal_psnr, "psnr": psnr, "ssim": ssim}


def reconstruct_all(f: Reconstructor, physics: Any, x: Tensor, index: int = 0, seed: int = 0) -> dict[str, Tensor]:
    """One image ``x`` ``[1, C, H, W]`` and what becomes of it: ``y``, ``pinv`` (A_dagger y), ``net`` (f(y)), ``x``."""
    was_training = f.training
    f.eval()
    try:
        with torch.no_grad():
            y = simulate(physics, x, [index], derive_seed(seed, "test"))  # not the noise of the training images
            return {"y": y, "pinv": physics.A_dagger(y), "net": f(y), "x": x}
    finally:
        f.train(was_training)


def evaluate(
    f: Reconstructor,
    physics: Any,
    images: Any,
    more: Mapping[str, Reconstruction] | None = None,
    device: torch.device | str | None = None,
) -> list[dict[str, float]]:
    """Quality of A_dagger y (``pinv``), of the network (``net``) and of ``more`` reconstructions, one image at a time.

    Args:
        f: the reconstruction function.
        physics: the forward operator.
        images: a data set of images ``[H, W]`` or ``[C, H, W]`` with values in [0, 1].
        more: other reconstructions by name, called as ``reconstruct(physics, y)``.
        device: where to compute; by default where f's weights are.

    Returns:
        A row for each image: ``index`` and ``<metric>_<reconstruction>`` for psnr_paper, psnr and ssim.
    """
    device = device or next(f.parameters()).device
    rows = []
    for index in range(len(images)):
        x = image_of(images[index]).to(device)
        done = reconstruct_all(f, physics, x, index)
        outputs = {"pinv": done["pinv"], "net": done["net"]}
        outputs |= {name: reconstruct(physics, done["y"]) for name, reconstruct in (more or {}).items()}
        row: dict[str, float] = {"index": index}
        for metric, function in METRICS.items():
            for name, output in outputs.items():
                row[f"{metric}_{name}"] = float(function(output.to(x.dtype), x))
        rows.append(row)
    return rows


def mean_and_std(rows: Sequence[Mapping[str, float]], name: str) -> list[str]:
    """Mean and (population) standard deviation of every metric of the reconstruction ``name``, as text."""
    cells = []
    for metric in METRICS:
        values = [row[f"{metric}_{name}"] for row in rows]
        digits = 4 if metric == "ssim" else 2
        cells.append(f"{statistics.fmean(values):.{digits}f} +- {statistics.pstdev(values):.{digits}f}")
    return cells


def summary(rows: Sequence[Mapping[str, float]], names: Mapping[str, str]) -> str:
    """A table for a terminal; ``names`` maps reconstructions to their titles."""
    width = max(14, *(len(title) for title in names.values()))
    lines = [f"{'':{width}}  {'paper PSNR [dB]':>16}  {'usual PSNR [dB]':>16}  {'SSIM':>16}"]
    for name, title in names.items():
        lines.append(f"{title:{width}}  " + "  ".join(f"{cell:>16}" for cell in mean_and_std(rows, name)))
    return "\n".join(lines)


def write_metrics(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Write the rows as CSV."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def run_test_script(task: str, prog: str, description: str, data_of: Callable[[str], str], dataset_name: str) -> None:
    """What the scripts that evaluate a checkpoint do; they differ in the task and in where their data lies.

    Args:
        task: "ct" or "inpainting".
        prog, description: name and manual of the script.
        data_of: from ``--dataset-name`` to the path of the data.
        dataset_name: the default of ``--dataset-name``.
    """
    shown = TASKS[task].sample_to_show
    parser = Parser(prog=prog, description=description)
    add = parser.add_argument
    checkpoint = f"./ckp/{task}/ckp_ei_final.pth.tar"
    add("--ckp", metavar="PATH", help=f"the checkpoint, the authors' or ours (default: {checkpoint})")
    add("--data", metavar="PATH", help=f"the test data, or 'synthetic' (default: {data_of(dataset_name)})")
    add(
        "--split", metavar="FILE", help="own images: the list of test images (default: split.txt beside the checkpoint)"
    )
    add("--dataset-name", metavar="NAME", help=f"looks for the data under this name (default: {dataset_name})")
    add("--model-name", metavar="NAME", help="what to call the network in table and figures (default: EI)")
    add("--sample-to-show", type=number(int, least=0), nargs="*", metavar="I",
        help=f"test images to draw, counted from 0 (default: {shown}, the paper's)")  # fmt: skip
    add("--ct-views", type=number(int, least=1), metavar="N", help="CT: views, if the checkpoint does not say (50)")
    add("--mask", metavar="PATH", help="inpainting: the mask, if the checkpoint does not carry it")
    add("--network-compact", type=number(int), metavar="N",
        help="levels of the network, if the checkpoint does not say (default: 4)")  # fmt: skip
    add("--out", metavar="DIR", help="folder for metrics.csv and figures (default: evaluations/<time>_<name>_<task>)")
    add_device_options(parser)
    given = vars(parser.parse(sys.argv[1:]))

    device = choose_device(given.get("device"), given.get("gpu"))
    path = given.get("ckp", checkpoint)
    if "ckp" not in given and not Path(path).exists():
        raise MissingFileError(
            f"there is no checkpoint {path}: put the authors' download there (see the README), or give one with --ckp"
        )
    state = load_file(path, "checkpoint")
    data = given.get("data", data_of(given.get("dataset_name", dataset_name)))
    options = dict(state.get("config", {})) if isinstance(state, Mapping) else {}
    options |= {"split": given["split"]} if "split" in given else split_beside(path)
    images = images_for(task, data, "test", options)
    samples = given.get("sample_to_show", [sample_of_the_paper(task, images)])
    for sample in samples:
        if sample >= len(images):
            raise InputError(
                f"--sample-to-show {sample} is not among the {len(images)} test images (0 to {len(images) - 1})"
            )
    f, physics = load_for_test(state, path, task, given, image_shape(images), device)
    name = given.get("model_name", "EI")
    folder = _folder(given.get("out"), name, task)

    if task == "inpainting" and "physics" not in state and "mask" not in given:
        print(
            "note: the checkpoint carries no mask; a random one of rate 0.3 is used, which is not the one it was "
            "trained with: give the authors' with --mask mask_random0.3.pt"
        )
    rows = evaluate(f, physics, images)
    weights = " (averaged weights)" if AVERAGED in state else ""
    print(f"{path}{weights} on {len(rows)} test images of {data}, one at a time")
    print(summary(rows, {"pinv": "A_dagger y", "net": name}))
    write_metrics(rows, folder / "metrics.csv")
    for sample in samples:
        figure = folder / f"sample_{sample}.png"
        draw(f, physics, image_of(images[sample]).to(device), figure, name, sample)
        show_if_screen(figure)
    print(f"paper PSNR: one norm over the channels, peak max|x|; usual PSNR: peak 1. Files: {folder}")


def draw(f: Reconstructor, physics: Any, x: Tensor, path: Path, name: str = "EI", index: int = 0) -> None:
    """The figure ``y | A_dagger y | <name> | truth`` of one image ``[1, C, H, W]``, with the paper's PSNR."""
    done = reconstruct_all(f, physics, x, index)
    captions = {
        "A_dagger y": f"{float(cal_psnr(done['pinv'], x)):.2f} dB",
        name: f"{float(cal_psnr(done['net'], x)):.2f} dB",
    }
    row = {"y": done["y"][0], "A_dagger y": done["pinv"][0], name: done["net"][0], "truth": x[0]}
    image_grid([row], path, [captions])


def _folder(out: str | None, name: str, task: str) -> Path:
    if out is None:
        return new_run_folder(
            "".join(c if c.isalnum() or c in "-_." else "-" for c in name), task, parent="evaluations"
        )
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be made: {error.strerror or error}") from error
    return folder


def report(
    f: Reconstructor,
    physics: Any,
    images: Any,
    folder: Path | None,
    n_drawn: int = 3,
) -> list[dict[str, float]]:
    """Evaluate on held-out images, print the table, and write ``metrics.csv`` and the figure ``reconstructions.png``
    into ``folder`` (None: the current one). Classical reconstructions that suit the physics stand beside the network.

    Arguments and result are those of `evaluate`; the first ``n_drawn`` images are drawn.
    """
    folder = Path(folder or ".")
    more = classical_for(physics)
    rows = evaluate(f, physics, images, more)
    print(f"{len(rows)} held-out images")
    print(summary(rows, {"pinv": "A_dagger y", **{name: name for name in more}, "net": "EI"}))
    write_metrics(rows, folder / "metrics.csv")
    device = next(f.parameters()).device
    drawn = []
    for index in range(min(n_drawn, len(images))):
        done = reconstruct_all(f, physics, image_of(images[index]).to(device), index)
        drawn.append({"y": done["y"][0], "A_dagger y": done["pinv"][0], "EI": done["net"][0], "truth": done["x"][0]})
    image_grid(drawn, folder / "reconstructions.png")
    print(f"files: {folder} (reconstructions.png, loss.png, training_loss.csv, metrics.csv, checkpoints)")
    return rows
