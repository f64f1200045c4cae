"""Can EI work for an operator and a group? The necessary conditions, before any training.

    {prog} configs/ct_ei.yaml --size 32                      a tree of a training
    {prog} --task ct --ct-views 20 --size 32                 a task of the paper, small, so that the answer is exact
    {prog} --physics blur.py:Blur --group rotate             a user-defined operator
    {prog} --task mri --size 32 --noise gaussian:0.1         how much noise that is, too
    {prog} --physics scan.yaml --measurements y.npy          whether a sinogram fits its geometry, too

Prints a verdict with its figures, and draws what stays unseen.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ei.commands.problem import (
    Problem,
    build_physics,
    check_size,
    generated_class,
    needs_sizes,
    set_noise,
    sizes_of,
    square_side,
    with_noise_apart,
)
from ei.commands.tree import Tree, build_group, check_keys, get, name_of
from ei.commands.typed import Parser, Typed, add_flags, read_typed
from ei.common.checks import check_number
from ei.common.devices import choose_device
from ei.common.drawing import check_figure_file
from ei.common.parts import normalized
from ei.common.user_code import is_user_code
from ei.datasets import image_of
from ei.diagnosis import diagnose
from ei.diagnosis.before_training import report_sinograms
from ei.diagnosis.noise_level import noise_report
from ei.diagnosis.operators import report_moves, report_operators
from ei.diagnosis.user_defined import Shape, call
from ei.errors import InputError
from ei.physics import image_shape_of, select_physics
from ei.physics.noise import UNKNOWN
from ei.physics.noise_adapter import noise_with_variance

FLAGS = ("task", "physics", "group", "noise", "mask", "mask_rate", "ct_views", "data", "measurements", "ei_trans",
         "config", "out", "device", "gpu")  # fmt: skip
CHANNELS = {"CT": 1, "Tomography": 1, "MRI": 2, "Inpainting": 3}


def parser(prog: str) -> Parser:
    made = Parser(prog=prog, description=(__doc__ or "").format(prog=prog))
    add_flags(made, *FLAGS, out="the figure (default: diagnosis.png)")
    group = made.add_argument_group("diagnose")
    group.add_argument("--size", type=int, metavar="N", help="images of N x N, instead of any data")
    group.add_argument("--tol", type=float, metavar="TOL",
                       help="singular values below TOL of the largest are null (default: 0.01)")  # fmt: skip
    group.add_argument("--max-elements", type=int, metavar="N", help="group elements stacked at most (default: 64)")
    return made


def main(arguments: Sequence[str], prog: str = "ei diagnose") -> None:
    typed = read_typed(parser(prog), arguments)
    options = typed.options
    device = choose_device(typed.flags.pop("device", "cpu"))
    out = Path(typed.flags.pop("out", "diagnosis.png"))
    check_figure_file("--out", out)
    if not out.parent.is_dir():
        raise InputError(f"the folder {out.parent} of --out does not exist; make it first")
    if typed.flags.get("noise") == UNKNOWN:
        raise InputError("--noise unknown has no size that could be examined; give a level, as gaussian:0.1")
    tree = with_noise_apart(typed.tree())
    check_keys(tree)
    if tree.get("physics") is None:
        raise InputError("--task, --physics or a tree with physics is needed: what to diagnose; --help has examples")
    physics, shape, data = load_operator(tree, typed, device)
    group = build_group(tree, shape)
    if not callable(getattr(group, "sample", None)):
        raise InputError(f"diagnose needs a group with sample(x), and {name_of(tree, 'transform')} has none")
    tol = check_number("--tol", options.get("tol", 0.01), above=0, below=1)
    result = diagnose(
        select_physics(physics, [0]),
        group,
        shape,
        tol=tol,
        max_elements=check_number("--max-elements", options.get("max_elements", 64), integer=True, least=1),
        device=device,
    )
    print(result)
    if getattr(physics, "count", 1) > 1:
        print(f"\n{report_operators(physics, group, shape, tol, device)}")
    moves = report_moves(physics)
    if moves is not None:
        print(f"\n{moves}")
    print_measurements(physics, shape, data, device)
    result.save_figure(out)
    print(f"\nfigure: {out}")


def load_operator(tree: Tree, typed: Typed, device: torch.device) -> tuple[Any, Shape, Problem | None]:
    """The operator of a tree, with its noise, the shape (C, H, W) of its images, and the problem where there is data:
    sizes are those of ``--size``, of the operator, or of the data.
    """
    has_measurements = get(tree, "data.measurements") is not None
    description = normalized(tree["physics"], "physics")
    physics = None if needs_sizes(description) else build_physics(description, device, {}).object
    shape = _shape_without_data(typed, physics, description, has_measurements or "data" in typed.flags)
    problem = None
    if shape is None:
        if not has_measurements and get(tree, "data.train") is None:
            raise InputError("the size of the images is unknown: give the operator image_shape = (C, H, W), or --size")
        problem = Problem(tree, device)
        physics, shape = problem.physics, problem.shape
    elif physics is None:
        physics = build_physics(description, device, sizes_of(shape)).object
    check_size(physics, shape)
    if problem is None:
        set_noise(physics, tree.get("noise"))
    if is_user_code(name_of(tree, "physics")):
        call(physics, "A", torch.zeros(1, *shape), device)
    return physics, shape, problem


def _shape_without_data(typed: Typed, physics: Any, description: Tree, has_data: bool) -> Shape | None:
    """(C, H, W) of ``--size``, or of the operator where no data was given; None where it follows from the data."""
    expected = (None if physics is None else image_shape_of(physics)) or ()
    size = typed.options.get("size")
    if size is None:
        if not expected or has_data:
            return None
        channels, height, width = expected if len(expected) == 3 else (1, *expected)
        return channels, height, width
    size = check_number("--size", size, integer=True, least=4)
    if expected and expected[-2:] != (size, size):
        sides = f"{expected[-2]} x {expected[-1]}"
        raise InputError(f"--size {size} contradicts the operator, which is for images of {sides}; leave it out")
    channels = CHANNELS.get(str(description["name"]), getattr(physics, "channels", 1))
    return (expected[0] if len(expected) == 3 else channels), size, size


def print_measurements(physics: Any, shape: Shape, problem: Problem | None, device: torch.device) -> None:
    """Print whether measured sinograms fit their geometry, and how much noise there is: in the measurements, or in
    those of the images, generated ones where there are none."""
    has_measurements = problem is not None and problem.has_measurements
    several = getattr(physics, "count", 1) > 1
    if problem is not None and has_measurements:
        report = report_sinograms(physics, problem.data)
        print(f"\n{report}" if report is not None else "")
    physics = select_physics(physics, [0])
    if noise_with_variance(physics) is None:  # a user-defined one may have none
        return
    data = generated_class(shape[0])("train", img_size=square_side(shape)) if problem is None else problem.data
    some = [data[index] for index in range(1 if several else min(8, len(data)))]
    ys = torch.stack(some) if has_measurements else physics.A(torch.cat([image_of(item) for item in some]).to(device))
    print(f"\n{noise_report(physics, ys.to(device))}")
