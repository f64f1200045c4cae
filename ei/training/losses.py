"""What a closure must return, checked where it is called: a user-defined one may return anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ei.common.checks import shape_or_type
from ei.errors import InputError
from ei.training.run import Run
from ei.training.validation import columns_of


def name_in_messages(closure: Any) -> str:
    """What messages call a closure, which may be a function: ``closure NAME``."""
    return f"closure {getattr(closure, '__name__', type(closure).__name__)}"


def check_losses(run: Run, losses: Any, x: Tensor | None) -> None:
    """Raise `InputError` unless losses are what a step takes: a scalar for each optimiser and column of the log, and,
    where PSNR is logged, images "x1" of the shape of the ground truth ``x``."""
    closure = name_in_messages(run.closure)
    if not isinstance(losses, Mapping):
        raise InputError(f'{closure} must return a dict with "total" and "x1", got a {type(losses).__name__}')
    columns = getattr(run.closure, "columns", None) or {}
    if not isinstance(columns, Mapping):
        raise InputError(f"columns of {closure} must be a dict {{column of the log: key of a loss}}, got {columns!r}")
    scalars = [*run.optimizers, *columns_of(run.closure, losses).values()]
    for key in (*scalars, *(["x1"] if run.report_psnr else [])):
        if key not in losses:
            has = ", ".join(map(str, losses)) or "none"
            raise InputError(f"{closure} must return {key!r} in its dict, which has {has}")
    for key in scalars:
        _check_scalar(losses[key], f"{key!r} of {closure}")
    if run.report_psnr and x is not None:
        check_images(losses["x1"], list(x.shape), f"{closure}, as x1,")


def check_images(images: Any, expected: list[int], who: str) -> None:
    """Raise `InputError` unless ``images`` are a tensor of the expected shape."""
    got = shape_or_type(images)
    if got != expected:
        raise InputError(f"{who} must give images {expected}, got {got}")


def _check_scalar(loss: Any, who: str) -> None:
    if not isinstance(loss, Tensor):
        raise InputError(f"{who} must be a scalar tensor, got {type(loss).__name__}")
    if loss.numel() != 1:
        raise InputError(f"{who} must be a scalar tensor, got shape {list(loss.shape)}; take its mean()")
