"""Can EI work for an operator and a group? The necessary conditions, before any training.

    {prog} --config configs/ct_ei.yaml --size 32             a configuration of a training
    {prog} --task ct --ct-views 20 --size 32                 a task of the paper, small, so that the answer is exact
    {prog} --physics blur.py:Blur --group rotate             an operator of your own
    {prog} --task mri --size 32 --noise gaussian:0.1         how much noise that is, too

Prints a verdict with its figures, and draws what stays unseen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ei.commands.data import fit_of
from ei.commands.operators import named_physics, operator_for, probe
from ei.commands.options import OPTIONS, Options
from ei.commands.parser import choose_device
from ei.commands.parts import generated_images, image_shape, images_for, measurements_for, named_group
from ei.commands.presets import Shape, task_of
from ei.commands.settings import parser_of, read_options, resolve
from ei.common.user_code import is_user_code
from ei.datasets import image_of
from ei.diagnosis.diagnose import diagnose
from ei.diagnosis.noise_level import noise_report as look_at_noise
from ei.errors import InputError
from ei.physics import Inpainting, image_shape_of
from ei.physics.noise import UNKNOWN
from ei.physics.noise_adapter import noise_with_variance


def main(arguments: Sequence[str], prog: str = "ei diagnose") -> None:
    parser = parser_of("diagnose", prog, (__doc__ or "").format(prog=prog))
    given = read_options(parser, arguments, yaml_parser=parser_of("train", prog, None))
    if given.get("task") is None and given.get("physics") is None:
        raise InputError("--config, --task or --physics is needed: what to diagnose; --help has examples")
    device = choose_device(given.get("device", "cpu" if "gpu" not in given else None), given.get("gpu"))
    no_data = given.get("measurements") is None and OPTIONS["data"].default_for(given.get("task")) is None
    if given.get("noise") == UNKNOWN:
        raise InputError("--noise unknown has no size that could be looked at; give a level, as gaussian:0.1")
    options = resolve({"data": "synthetic", **given} if no_data else given)
    physics = None if options.physics is None else named_physics(options.physics, device)
    shape = _shape(options, given, physics)
    known, physics = physics, operator_for(options, shape, device, physics, {}, given)
    if is_user_code(options.physics):
        probe(physics, "A", torch.zeros(1, *shape), device)
    if isinstance(physics, Inpainting) and physics.count > 1:
        raise InputError("diagnose examines one operator, and this one has a mask for each image: give one of them")
    group = named_group(options.group, options.ei_trans, said=given.get("ei_trans") is not None)
    if not callable(getattr(group, "sample", None)):
        raise InputError(f"diagnose needs a group with sample and apply(x, elements): {options.group} has no sample")
    out = Path(options.out or "diagnosis.png")
    if not out.parent.is_dir():
        raise InputError(f"the folder {out.parent} of --out is not there; make it first")
    found = diagnose(
        physics,
        group,
        shape,
        tol=options.tol,
        max_elements=options.max_elements,
        device=device,
    )
    print(found)
    if options.measurements is not None:
        fit = fit_of(physics, measurements_for(options.measurements, options, known)[0])
        if fit is not None:
            print(f"\n{fit}")
    if noise_with_variance(physics) is not None:  # one of one's own may tell nothing
        print(f"\n{look_at_noise(physics, _some_measurements(options, given, physics, shape, device))}")
    found.save_figure(out)
    print(f"\nfigure: {out}")


def _some_measurements(options: Options, given: Mapping[str, Any], physics: Any, shape: Shape, device: Any) -> Tensor:
    """A few measurements: those of --measurements, or of images: of --data where it was given, else generated."""
    if options.measurements is not None:
        measurements = measurements_for(options.measurements, options, physics)[0]
        return torch.stack([measurements[index] for index in range(min(8, len(measurements)))]).to(device)
    if "data" in given:
        images = images_for(options, "train", shape)
        if image_shape(images) != shape:
            raise InputError(f"--noise is looked at on images of {list(shape)}, and those of --data are "
                             f"{list(image_shape(images))}: leave out --data or --size")  # fmt: skip
    else:
        images = generated_images(shape)
    return physics.A(torch.cat([image_of(images[index]) for index in range(min(8, len(images)))]).to(device))


def _shape(options: Options, given: dict[str, Any], physics: Any) -> Shape:
    """(C, H, W): what the operator tells, --size, or that of the data."""
    task = task_of(options.task)
    told = (None if physics is None else image_shape_of(physics)) or ()
    if "size" in given:
        if told and told[-2:] != (given["size"],) * 2:
            raise InputError(f"--size {given['size']} contradicts the operator, which is for images of "
                             f"{told[-2]} x {told[-1]}; leave it out")  # fmt: skip
        return (task.channels if task else getattr(physics, "channels", 1)), given["size"], given["size"]
    if told and "data" not in given and options.measurements is None:
        channels, height, width = told if len(told) == 3 else (1, *told)
        return channels, height, width
    if options.measurements is not None:
        return measurements_for(options.measurements, options, physics)[1]
    if physics is not None and not told and "data" not in given:
        raise InputError("what images is the operator for? Give it an attribute image_shape = (C, H, W), or --size")
    return image_shape(images_for(options, "train", told))
