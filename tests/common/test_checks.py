"""One wording for every number, flag and choice that is out of its range."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from ei.common.checks import check_choice, check_flag, check_number
from ei.errors import InputError


@pytest.mark.parametrize(
    ("value", "limits", "message"),
    [
        (0, {"integer": True, "least": 1}, "a whole number >= 1, got 0"),
        (2.5, {"integer": True}, "a whole number, got 2.5"),
        (math.inf, {"integer": True}, "a whole number, got inf"),
        (-1, {"above": 0}, "finite and > 0, got -1"),
        (0.0, {"above": 0}, "finite and > 0, got 0.0"),
        (1, {"least": 0, "below": 1}, "finite and >= 0 and < 1, got 1"),
        (359, {"integer": True, "least": 1, "most": 358}, "a whole number >= 1 and <= 358, got 359"),
        (np.float32(math.nan), {}, "a finite number, got nan"),
        (10**400, {}, f"a finite number, got {10**400}"),
        (True, {}, "a finite number, got True"),
        (np.bool_(True), {}, f"a finite number, got {np.bool_(True)!r}"),
        ("1", {}, "a finite number, got '1'"),
        (None, {"integer": True}, "a whole number, got None"),
        ([1], {}, "a finite number, got [1]"),
        (1j, {}, "a finite number, got 1j"),
    ],
)
def test_numbers_out_of_range(value: Any, limits: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        check_number("closure.alpha", value, **limits)
    assert str(error.value).replace("np.True_", "True") == f"closure.alpha must be {message}".replace(
        "np.True_", "True"
    )


@pytest.mark.parametrize(
    "value", [4, 4.0, np.int64(4), np.float32(4), np.array(4), torch.tensor(4), torch.tensor([4.0])]
)
def test_numbers_of_python_numpy_and_torch(value: Any) -> None:
    whole, number = check_number("n", value, integer=True, least=4, most=4), check_number("n", value)
    assert (whole, number) == (4, 4.0) and type(whole) is int and type(number) is float


def test_flags_and_choices() -> None:
    assert check_flag("circle", np.bool_(True)) is True and check_choice("domain", "image", ("image", "y")) == "image"
    with pytest.raises(InputError, match="circle must be true or false, got 'no'"):
        check_flag("circle", "no")
    for wrong in ("sinogram", 1, None):
        with pytest.raises(InputError, match="domain must be one of 'image', 'y', got "):
            check_choice("domain", wrong, ("image", "y"))
