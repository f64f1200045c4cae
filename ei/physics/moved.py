"""What group elements do to instruments: a scanner is turned, a mask is moved."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ei.errors import InputError


def degrees_of(element: Any, transform: Any, what: str) -> float:
    """The counter-clockwise turn of the image in degrees, in [0, 360), that a group element is.

    Args:
        element: degrees, or an element of ``transform``.
        transform: a group with a method ``degrees(element)``; None where the element is degrees.
        what: the name of the operator.

    Raises:
        InputError: for an element that is no rotation.
    """
    if transform is None:
        degrees = element
    else:
        convert = getattr(transform, "degrees", None)
        degrees = convert(element) if callable(convert) else None
    is_number = isinstance(degrees, (int, float, torch.Tensor, np.number, np.ndarray))
    values = torch.as_tensor(degrees if is_number else float("nan"), dtype=torch.float64)
    if values.numel() != 1 or not bool(torch.isfinite(values).all()):
        group = "" if transform is None else f" of {type(transform).__name__}"
        raise InputError(f"{what} is moved by rotations, in degrees (Turn, Rotate, Rotate90), got {element}{group}")
    return float(values) % 360


def move_pixels(mask: Tensor, element: Any, transform: Any) -> Tensor:
    """A mask ``[..., H, W]`` whose pixels moved as those of an image under a group element.

    Args:
        mask: zeros and ones.
        element: of ``transform``; without one, two numbers are a shift (rows, columns), one is that of quarter turns.
        transform: a group that permutes pixels (`ei.transforms.Shift`, `Rotate90`, `Reflect`), or None.

    Raises:
        InputError: for an element that does not permute the pixels.
    """
    values = torch.as_tensor(element)
    if transform is None:
        if values.numel() not in (1, 2) or (values.is_floating_point() and bool((values != values.round()).any())):
            raise InputError(
                f"a mask is moved by a shift (rows, columns) or a number of quarter turns, got {element}; give the "
                "transform of other elements"
            )
        steps = [int(step) for step in values.reshape(-1)]
        moved = torch.roll(mask, steps, (-2, -1)) if len(steps) == 2 else torch.rot90(mask, steps[0], (-2, -1))
        if moved.shape != mask.shape:
            raise InputError(f"quarter turns need a square mask, got {list(mask.shape[-2:])} and {element} turns")
        return moved
    # A group that permutes pixels brings each of their numbers to some place, once.
    height, width = mask.shape[-2:]
    places = torch.arange(height * width, dtype=torch.float64, device=mask.device)
    moved = transform.act(places.view(1, 1, height, width), values)
    if moved.shape[-2:] != (height, width) or not torch.equal(moved.flatten().sort().values, places):
        raise InputError(
            f"a mask is moved by what permutes pixels (Shift, Rotate90, Reflect), got {element} of "
            f"{type(transform).__name__}: move the image (closure.move=image)"
        )
    return mask.flatten(-2)[..., moved.flatten().long()].view(mask.shape)
