"""Checks of the plain values that describe a run: numbers, flags, names.

Every check takes the name of a value as free text, ``alpha`` or the full path ``closure.alpha``, and returns the value.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from ei.errors import InputError


def check_tensor(tensor: Any, what: str) -> None:
    """Raise unless ``tensor`` is one of torch."""
    if not isinstance(tensor, torch.Tensor):
        raise InputError(f"{what} must be a torch tensor, got {type(tensor).__name__}")


def shape_or_type(value: Any) -> list[int] | str:
    """What messages show of a value that should be a tensor: its shape, or the type of another value."""
    return list(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__


def check_number(
    name: str,
    value: Any,
    *,
    integer: bool = False,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> Any:
    """``value`` as a float, or as an int where it must be whole.

    Numbers of Python and NumPy and tensors of one element are accepted; bools and strings are not.

    Args:
        name: of the value, for messages.
        value: to be checked.
        integer: whether it must be a whole number; 4.0 is one.
        least, above, most, below: the valid range: ``least <= value``, ``above < value``, ``value <= most``,
            ``value < below``.

    Raises:
        InputError: ``{name} must be finite and > 0, got -1``.

    >>> check_number("closure.alpha", 2, least=0)
    2.0
    """
    number = _real(value)
    bounds = {">=": least, ">": above, "<=": most, "<": below}
    in_range = number is not None and all(
        bound is None or _COMPARISONS[sign](number, bound) for sign, bound in bounds.items()
    )
    if in_range and abs(number) <= sys.float_info.max and not (integer and number != int(number)):
        return int(number) if integer else float(number)
    wanted = " and ".join(f"{sign} {bound:g}" for sign, bound in bounds.items() if bound is not None)
    kind = "a whole number" if integer else "finite and" if wanted else "a finite number"
    raise InputError(f"{name} must be {kind} {wanted}".rstrip() + f", got {(value if number is None else number)!r}")


def check_optional(name: str, value: Any, **valid: Any) -> Any:
    """`check_number`, or None for None."""
    return None if value is None else check_number(name, value, **valid)


_COMPARISONS = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}


def _real(value: Any) -> Any:
    """``value`` as a number of Python; None where it is not a real number."""
    if not isinstance(value, int | float) and getattr(value, "shape", None) in ((), (1,)):
        value = value.item()  # of NumPy or torch
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def check_flag(name: str, value: Any) -> bool:
    """Raise `InputError` unless ``value`` is true or false; returns it."""
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"{name} must be true or false, got {value!r}")
    return bool(value)


def check_choice(name: str, value: Any, choices: Iterable[str]) -> str:
    """Raise `InputError` unless ``value`` is one of ``choices``; returns it."""
    choices = list(choices)
    if not isinstance(value, str) or value not in choices:
        raise InputError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


def is_unit_range(least: float, largest: float) -> bool:
    """Whether values from ``least`` to ``largest`` are those of images in [0, 1]: nothing below 0, and the brightest
    between 1/2 and 1, to a hundredth."""
    return least >= -0.01 and 0.5 <= largest <= 1.01
