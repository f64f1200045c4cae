"""Evaluate a checkpoint on test images, one at a time.

    {prog} --ckp PATH                                        the authors' (with --task), or a run of this project
    {prog} --ckp PATH --data PATH --sample-to-show 0 4       on other images; what to draw
    {prog} --ckp PATH --physics blur.py:Blur                 a run with a user-defined operator
    {prog} --ckp PATH --measurements y.npy --truth x.npy     on measured data with ground truth
    {prog} --ckp PATH --uncertainty 100                      error bars, and how often the error is within them
    {prog} --ckp PATH --uncertainty 100 --calibrate FILE [--measurements y.npy]
                                                             what corrects them, from measurements alone
    {prog} --ckp PATH data.test='{{name: ImageTree, folder: photos, crop: 256}}'       any key of the run's tree

The authors' inpainting checkpoint needs their mask: --mask mask_random0.3.pt. Prints mean and standard deviation of
both PSNR definitions and of SSIM for A_dagger y and the network; writes metrics.csv and a figure for each sample that
is shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ei.closure.splitting import mean_over_parts
from ei.commands import error_bars, presets
from ei.commands.build import split_beside
from ei.commands.checkpoint import carried_physics, load_function, tree_of_checkpoint
from ei.commands.flags import path as path_type
from ei.commands.presets import PAPER
from ei.commands.problem import Problem
from ei.commands.tree import Tree, get, merge, name_of
from ei.commands.typed import Parser, Typed, add_flags, names_of, read_typed
from ei.common.checks import check_number
from ei.common.devices import choose_device
from ei.common.drawing import show_if_screen
from ei.common.files import load_file
from ei.datasets import ImageTree, Measurements, Pairs
from ei.diagnosis.before_training import report_truth
from ei.diagnosis.user_defined import Shape
from ei.errors import InputError, MissingFileError
from ei.evaluation.loading import averaged, checked
from ei.evaluation.quality import (
    comparison,
    data_range_of,
    evaluate,
    image_and_measurement,
    summary,
    write_metrics,
)
from ei.models.averaged import GROUPS as AVERAGES
from ei.models.base import ReconstructionFunction
from ei.models.weights import AVERAGED
from ei.training.folder import make_folder, new_run_folder

OF_AUTHORS = "for a checkpoint that lacks it"
FLAGS = ("task", "physics", "mask", "ct_views", "data", "measurements", "truth", "group", "device", "gpu", "out")


def parser(prog: str) -> Parser:
    made = Parser(prog=prog, description=(__doc__ or "").format(prog=prog))
    add_flags(
        made, *FLAGS, mask=f"the mask, {OF_AUTHORS}", ct_views=OF_AUTHORS,
        data="the test images (default: those of the run, or of the task)",
        measurements="measured data instead of simulated ones; needs --truth (not for --calibrate)",
        group="of --uncertainty (default: that of the run)",
        out="folder for metrics.csv and figures (default: evaluations/<time>_<name>_<task>)",
    )  # fmt: skip
    group = made.add_argument_group("test")
    group.add_argument("--ckp", type=path_type, metavar="PATH",
                       help="the checkpoint (default: the authors' in ckp/<task>/ckp_ei_final.pth.tar)")  # fmt: skip
    group.add_argument("--dataset-name", metavar="NAME", help="look for the task's data under this name")
    group.add_argument("--model-name", metavar="NAME", help="what table and figures call the network")
    group.add_argument("--sample-to-show", type=int, nargs="*", metavar="I", help="test images to draw, from 0")
    group.add_argument("--data-range", type=float, metavar="R",
                       help="range of the images for the usual PSNR and SSIM (default: 1, or found)")  # fmt: skip
    group.add_argument("--average-over", type=names_of(AVERAGES), metavar="NAME[,NAME]",
                       help="test-time augmentation, too: rotate90, reflect, or both")  # fmt: skip
    group.add_argument("--draws", type=int, metavar="N",
                       help="of a splitting run: average over N random parts, too (default: 8)")  # fmt: skip
    group.add_argument("--network-compact", type=int, metavar="N", help=f"levels of the network, {OF_AUTHORS} (4)")
    error_bars.add_options(made, calibrate=True)
    return made


def main(arguments: Sequence[str], prog: str = "ei test") -> None:
    typed = read_typed(parser(prog), arguments)
    options = typed.options
    device = choose_device(typed.flags.pop("device", None))
    out = typed.flags.pop("out", None)
    ckp = _checkpoint_path(options.get("ckp"), typed.flags.get("task"))
    state = checked(load_file(ckp, "checkpoint"), ckp)
    tree = tree_to_test(state, typed, ckp)
    f, images, shape = load_test(state, tree, ckp, device, typed)
    bars = error_bars.read_options({**options, "ckp": ckp, "average_over": None}, tree, f, shape, typed.code)
    if bars is not None and isinstance(images, Measurements):  # without ground truth there is nothing to test
        if options.get("calibrate_by") == "truth":
            raise InputError("--calibrate-by truth needs the --truth of the --measurements")
        error_bars.calibrate(f, error_bars.measurements_of(f, images), bars, Path(options["calibrate"]))
        return
    task = get(tree, "trainer.task")
    samples = _samples(options.get("sample_to_show"), task, images)
    name = options.get("model_name") or presets.title_of(tree)
    data_range = options.get("data_range")
    data_range = data_range_of(images) if data_range is None else check_number("--data-range", data_range, above=0)
    folder = _folder(out, name, task or "")
    titles, more = _more_rows(f, tree, name, options)
    rows = evaluate(f, f.physics, images, more, data_range=data_range)
    where = "measurements" if isinstance(images, Pairs) else _place(tree)
    weights = " (averaged weights)" if AVERAGED in state else ""
    print(f"{ckp}{weights} on {len(rows)} test images of {where}, one at a time")
    print(summary(rows, titles))
    write_metrics(rows, folder / "metrics.csv")
    for sample in samples:
        figure = folder / f"sample_{sample}.png"
        x, y, place = image_and_measurement(images, sample, device)
        comparison(f, f.physics, x, figure, name, place, y)
        show_if_screen(figure)
    if bars is not None:
        _error_bars(f, images, bars, options, folder, samples)
    peak = f"usual PSNR and SSIM: peak {data_range:g}"
    print(f"paper PSNR: one norm over the channels, peak max|x|; {peak}. Files: {folder}")


def _error_bars(
    f: ReconstructionFunction, images: Any, bars: error_bars.ErrorBars, options: Mapping[str, Any], folder: Path,
    samples: list[int],
) -> None:  # fmt: skip
    """The coverage of error bars, and their calibration by measurements (before it) or by ground truth (of it)."""
    path, by_truth = options.get("calibrate"), options.get("calibrate_by") == "truth"
    if path is not None and not by_truth:
        found = error_bars.calibrate(f, error_bars.measurements_of(f, images), bars, Path(path))
        bars = replace(bars, calibration=found)
    scores = error_bars.report_error_bars(f, images, bars, folder, samples)
    if path is not None and by_truth:
        error_bars.write_calibration(scores, "ground truth", bars, Path(path))


def _checkpoint_path(ckp: str | None, task: str | None) -> str:
    if ckp is not None:
        return ckp
    if task is None:
        raise InputError("--ckp, the checkpoint, is needed; or --task, for the authors' in ckp/<task>")
    ckp = f"./ckp/{task}/ckp_ei_final.pth.tar"
    if not Path(ckp).exists():
        raise MissingFileError(f"there is no checkpoint {ckp}: put the authors' download there, or give --ckp")
    return ckp


def tree_to_test(state: Mapping[str, Any], typed: Typed, path: str) -> Tree:
    """The tree of a checkpoint with its list of test images, ``--dataset-name`` and ``--network-compact``."""
    state = dict(state)
    config = dict(state.get("config") or {})
    task = typed.flags.get("task") or get(config, "trainer.task")
    changes: Tree = {}
    name = typed.options.get("dataset_name")
    split = split_beside(path)
    if name is not None and task in PAPER and "data" not in typed.flags:
        place = PAPER[task].place.format(name)
        changes = {"data": {"train": {"name": PAPER[task].dataset, PAPER[task].argument: place}}}
    elif split is not None and get(config, "data.train.name") == ImageTree.__name__:
        changes = {"data": {"train": {"split": split}}}
    if config and changes:
        state["config"] = merge(config, changes)
        changes = {}
    tree = tree_of_checkpoint(state, typed, path)
    compact = typed.options.get("network_compact")
    if compact is not None:
        described = (state.get("network") or {}).get("compact")
        if described not in (None, compact):
            raise InputError(
                f"--network-compact {compact} contradicts the {described} levels of the checkpoint; leave it out"
            )
        changes = merge(changes, {"network": {"compact": compact}})
    return merge(tree, changes)


def load_test(
    state: Mapping[str, Any],
    tree: Tree,
    path: str,
    device: torch.device,
    typed: Typed | None = None,
) -> tuple[ReconstructionFunction, Any, Shape]:
    """The reconstruction function of a checkpoint, with the operator of the run; the test images, or pairs of
    measurements and ground truth, or (where a calibration is ``typed``) measurements alone; and (C, H, W) of the
    images.
    """
    data = {key: value for key, value in (tree.get("data") or {}).items() if key != "validation"}
    has_measurements = data.get("measurements") is not None
    has_truth = data.get("truth") is not None
    if has_measurements != has_truth and not (has_measurements and typed is not None and "calibrate" in typed.options):
        raise InputError("--measurements are compared with their --truth: give both, or images with --data")
    if not has_measurements and data.get("train") is None and data.get("test") is None:
        raise InputError("the run was trained from measurements alone: give images to test on with --data")
    carried = carried_physics(state, tree, typed is not None and typed.has_physics, device, path, others=True)
    problem = Problem({**tree, "data": data}, device, "test", carried)
    f = load_function(state, path, tree, problem.physics, problem.shape, device)
    if isinstance(problem.data, Pairs):
        print("\n".join(report_truth(f.physics, problem.data)))
    if carried is None and name_of(tree, "physics") == "Inpainting" and "mask" not in tree["physics"]:
        print("note: the checkpoint carries no mask, and a random one is used: give the authors' with --mask")
    return f, problem.data, problem.shape


def _samples(asked: list[int] | None, task: str | None, images: Any) -> list[int]:
    if asked is None:
        asked = [sample_of_the_paper(task, images)]
    for sample in asked:
        if not 0 <= sample < len(images):
            raise InputError(f"--sample-to-show must be a test image, 0 to {len(images) - 1}, got {sample}")
    return asked


def sample_of_the_paper(task: str | None, images: Any) -> int:
    """Which of the test ``images`` the paper's figure shows; the last one if there are too few."""
    return min(PAPER[task].sample_to_show if task in PAPER else 0, len(images) - 1)


def _more_rows(
    f: ReconstructionFunction, tree: Tree, name: str, options: Mapping[str, Any]
) -> tuple[dict[str, str], dict[str, Any]]:
    """The titles of all rows of the table, and what computes those beside A_dagger y and the network."""
    titles = {"pinv": "A_dagger y", "net": name}
    more: dict[str, Any] = {}
    if options.get("average_over"):
        mean = averaged(f, options["average_over"])
        titles["average"] = f"{name}, averaged"
        more["average"] = lambda physics, y: mean.of(physics)(y)
    if str(name_of(tree, "closure")).startswith("Splitting"):
        draws = check_number("--draws", options.get("draws", 8), integer=True, least=1)
        keep = get(tree, "closure.keep", 0.8)
        titles["parts"] = f"{name}, mean of {draws} parts"
        more["parts"] = lambda physics, y: mean_over_parts(f, physics, y, keep, draws)
    return titles, more


def _place(tree: Tree) -> str:
    """Where the test images are from, in words."""
    part = get(tree, "data.test") or get(tree, "data.train")
    if isinstance(part, str):
        return part
    texts = [value for key, value in part.items() if key != "name" and isinstance(value, str) and "/" in value]
    return texts[0] if texts else str(part["name"])


def _folder(out: str | None, name: str, task: str) -> Path:
    if out is None:
        plain = "".join(c if c.isalnum() or c in "-_." else "-" for c in name)
        return new_run_folder(plain, task, parent="evaluations")
    return make_folder(Path(out))
