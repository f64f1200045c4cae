"""Evaluate a checkpoint on test images, one at a time.

    {prog} --ckp PATH                                        the authors' (with --task), or a run of yours
    {prog} --ckp PATH --data PATH --sample-to-show 0 4       on other images; what to draw
    {prog} --ckp PATH --physics blur.py:Blur                 a run with an operator of your own
    {prog} --ckp PATH --measurements y.npy --truth x.npy     on measured data whose truth is known

The authors' inpainting checkpoint needs their mask: --mask mask_random0.3.pt. Prints mean and standard deviation of
both PSNR definitions and of SSIM for A_dagger y and the network; writes metrics.csv and a figure for each sample that
is to be shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ei.closure.splitting import mean_over_parts
from ei.commands.operators import check_count, for_other_images, known_physics, operator_for
from ei.commands.options import OPTIONS, Options
from ei.commands.parser import choose_device
from ei.commands.parts import (
    image_shape,
    images_for,
    measurements_for,
    pairs_for,
    sample_of_the_paper,
    say_how_truth_fits,
    split_beside,
)
from ei.commands.presets import METHODS, TASKS
from ei.commands.settings import parser_of, read_options, resolve
from ei.common.drawing import show_if_screen
from ei.common.files import load_file
from ei.datasets import Pairs
from ei.errors import InputError, MissingFileError
from ei.evaluation.loading import averaged, checked, function_of
from ei.evaluation.quality import (
    comparison,
    data_range_of,
    evaluate,
    image_and_measurement,
    summary,
    write_metrics,
)
from ei.models import UNet
from ei.models.base import ReconstructionFunction
from ei.models.padding import padding_for
from ei.models.weights import AVERAGED
from ei.physics import image_shape_of
from ei.training.folder import new_run_folder


def main(arguments: Sequence[str], prog: str = "ei test") -> None:
    given = read_options(parser_of("test", prog, (__doc__ or "").format(prog=prog)), arguments)
    device = choose_device(given.get("device"), given.get("gpu"))
    if "ckp" not in given:
        if "task" not in given:
            raise InputError("--ckp, the checkpoint, is needed; or --task, for the authors' in ckp/<task>")
        given["ckp"] = f"./ckp/{given['task']}/ckp_ei_final.pth.tar"
        if not Path(given["ckp"]).exists():
            raise MissingFileError(
                f"there is no checkpoint {given['ckp']}: put the authors' download there (see the README), or give one "
                "with --ckp"
            )
    state = checked(load_file(given["ckp"], "checkpoint"), given["ckp"])
    options = options_of(state, given)
    physics = for_other_images(known_physics(given.get("physics"), state, device), given)
    if "measurements" in given or "truth" in given:  # not those that the run was trained on
        if "measurements" not in given or "truth" not in given:
            raise InputError("--measurements are judged by their --truth: give both, or images to simulate with --data")
        found, shape = measurements_for(given["measurements"], options, physics)
        images: Any = pairs_for(found, given["truth"], shape)
    else:
        images = images_for(options, "test", None if physics is None else image_shape_of(physics))
        shape = image_shape(images)
    samples = given.get("sample_to_show", [sample_of_the_paper(options.task, images)])
    for sample in samples:
        if sample >= len(images):
            raise InputError(
                f"--sample-to-show {sample} is not among the {len(images)} test images (0 to {len(images) - 1})"
            )
    f = function_for(state, given, options, physics, shape, device)
    if isinstance(images, Pairs):
        say_how_truth_fits(images, f.physics)
    check_count(f.physics, len(images), "test images: give theirs with --mask")
    method = METHODS.get(str((state.get("config") or {}).get("method")), METHODS["ei"])  # the authors' do not say
    name = given.get("model_name", method.title)
    folder = _folder(given.get("out"), name, options.task or "")

    if options.task == "inpainting" and physics is None and "mask" not in given:
        print(
            "note: the checkpoint carries no mask; a random one of rate 0.3 is used, which is not the one it was "
            "trained with: give the authors' with --mask mask_random0.3.pt"
        )
    titles = {"pinv": "A_dagger y", "net": name}
    more = {}
    if given.get("average_over"):
        mean = averaged(f, given["average_over"])
        titles["average"], more["average"] = f"{name}, averaged", lambda physics, y: mean.of(physics)(y)
    if options.method in OPTIONS["keep"].needs["method"] and "config" in state:
        draws = given.get("draws", OPTIONS["draws"].default)
        titles["parts"] = f"{name}, mean of {draws} parts"
        more["parts"] = lambda physics, y: mean_over_parts(f, physics, y, options.keep, draws)
    data_range = given.get("data_range") or data_range_of(images)
    rows = evaluate(f, f.physics, images, more, data_range=data_range)
    weights = " (averaged weights)" if AVERAGED in state else ""
    print(f"{given['ckp']}{weights} on {len(rows)} test images of {given.get('truth', options.data)}, one at a time")
    print(summary(rows, titles))
    write_metrics(rows, folder / "metrics.csv")
    for sample in samples:
        figure = folder / f"sample_{sample}.png"
        x, y = image_and_measurement(images, sample, device)
        comparison(f, f.physics, x, figure, name, sample, y)
        show_if_screen(figure)
    peak = f"usual PSNR and SSIM: peak {data_range:g}"
    print(f"paper PSNR: one norm over the channels, peak max|x|; {peak}. Files: {folder}")


def options_of(state: Any, given: Mapping[str, Any]) -> Options:
    """The options of a run to test: those in its checkpoint, with the data, split and task that are ``given``; those of
    the task, on the task's data, where the checkpoint is not one of ours."""
    config = dict(state.get("config") or {})
    if given.get("task") and config.get("task") not in (None, given["task"]):
        raise InputError(f"the checkpoint was trained for the task {config['task']}, not for {given['task']}")
    if not config and "task" not in given:
        raise InputError(
            f"the checkpoint {given['ckp']} does not say its task: give --task (and --physics, if it is of an operator "
            "of your own)"
        )
    # What a checkpoint carries is compared with what was given when the operator is built.
    taken = ("task",) if config else ("task", "physics", "ct_views", "mask")
    named = {key: given[key] for key in (*taken, "measurements", "truth") if key in given}
    data, task = given.get("data"), given.get("task") or config.get("task")
    if data is None and given.get("dataset_name") and task in TASKS:
        data = TASKS[task].place.format(given["dataset_name"])
    if data is not None:
        named["data"] = data
    if "range" in given:
        named["range"] = given["range"]
    options = resolve(named, config)
    split = {"split": given["split"]} if "split" in given else split_beside(given["ckp"])
    return replace(options, **split)


def function_for(
    state: Any, given: Mapping[str, Any], options: Options, physics: Any, shape: tuple[int, int, int], device: Any
) -> ReconstructionFunction:
    """The reconstruction function of a checkpoint, of ours or of the authors, for test images of ``shape`` (C, H, W).

    Raises:
        InputError: if it does not fit the data or the options ``given``.
    """
    described = state.get("network")
    compact = given.get("network_compact")
    if compact is not None and described and compact != described.get("compact"):
        raise InputError(
            f"--network-compact {compact} contradicts the checkpoint, whose network has {described.get('compact')} "
            "levels; leave the option out"
        )
    physics = operator_for(options, shape, device, physics, state, given)
    net = None if described or "next_epoch" in state else UNet(shape[0], shape[0], compact=compact or 4)
    f = function_of(state, given.get("ckp", "given"), physics, net, device)
    padding_for(f.net, *shape[1:])  # raises now if they are too small
    return f


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
