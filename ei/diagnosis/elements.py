"""What single elements of a group bring, and how many of them bring something that the others do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ei.diagnosis.isotropic import Isotropic, is_information
from ei.diagnosis.problem import ROUNDING, energy_of
from ei.diagnosis.stack import Stack
from ei.physics.krylov import transposed


@dataclass
class Element:
    """What one group element brings.

    Attributes:
        element: the group element.
        share: the share of the rows of ``A T_g`` outside the range of ``A^T``, over white probes.
        share_interpolation: the share for ``A T_g^-1 T_g``, 0 without interpolation.
        visible: the share of the energy of images in the null space of A that A sees after the transform.
        visible_interpolation: the same for ``T_g^-1 T_g``.
        informative: whether that is more than interpolation shows (`ei.diagnosis.isotropic`).
        gain: over an isotropic filter, with accurate rotations; None where nothing is interpolated.
        redundant: not informative, or, where pixels are interpolated, with at most half the largest share of the
            elements examined: nearly a permutation of the measurements.
    """

    element: Tensor
    share: float
    share_interpolation: float
    visible: float
    visible_interpolation: float
    informative: bool
    gain: float | None = None
    redundant: bool = False


def examine_elements(alone: Stack, elements: Sequence[Tensor], isotropic: Isotropic | None = None) -> list[Element]:
    """What each of some elements brings to A; with ``isotropic`` where the group interpolates pixels."""
    examined = [_examine_element(alone, element, isotropic) for element in elements]
    least = max(one.share for one in examined) / 2 if isotropic else -1.0
    for one in examined:
        one.redundant = not one.informative or one.share <= least
    return examined


def _examine_element(alone: Stack, element: Tensor, isotropic: Isotropic | None) -> Element:
    problem = alone.problem

    def turned(x: Tensor) -> Tensor:
        return problem.transformed(x, [element])

    def returned(x: Tensor) -> Tensor:
        return problem.there_and_back(x, element)

    white = problem.white(64 if problem.exact else 2)
    rows = [alone.after(function).project(white) for function in (turned, returned)]
    shares = [energy_of(row - alone.project(row)) / max(energy_of(row), 1e-300) for row in rows]
    visible, by_interpolation = alone.visible([turned, returned])
    if isotropic is None:
        return Element(element, *shares, visible, by_interpolation, visible > ROUNDING)
    (accurate,) = alone.visible_by([element])
    of_filter = isotropic.visible(lambda x: problem.accurate.apply(x, element[None]))
    gain = accurate / max(of_filter, 1e-12)
    return Element(element, *shares, visible, by_interpolation, is_information(accurate, of_filter), gain)


def exact_classes(alone: Stack, pools: Sequence[Sequence[Tensor]], most: int) -> tuple[list[Tensor], bool]:
    """Elements of a group that does not interpolate, at most ``most``, of which each shows something that A and the
    others do not; and whether there may be more. ``A T_g`` sees what ``A T_h`` sees exactly if ``T_g T_h^-1`` shows A
    nothing of its null space. A pool is searched if those before it have too few classes."""
    problem = alone.problem
    hidden = alone.hidden[:, :8]
    classes: list[Tensor] = []
    moved = [hidden]  # the hidden images, moved back by each class
    for pool in pools:
        left = list(pool)
        for images in moved:
            left = alone.elements_that_show(left, images)
        while left:
            if len(classes) == most:
                return classes, True
            classes.append(left[0])
            moved.append(problem.columns(problem.transformed_back(problem.images(hidden), left[0])))
            left = alone.elements_that_show(left[1:], moved[-1])
    return classes, False


def interpolated_classes(
    alone: Stack, elements: Sequence[Tensor], most: int, isotropic: Isotropic | None = None
) -> tuple[list[Tensor], bool]:
    """`exact_classes` for a group that interpolates, among ``elements``, by comparison with isotropic filters."""
    classes: list[Tensor] = []
    for element in elements:
        if all(_shows_more(alone, element, other, isotropic) for other in [None, *classes]):
            classes.append(element)
        if len(classes) == most:
            return classes, len(elements) > most
    return classes, False


def _shows_more(alone: Stack, element: Tensor, other: Tensor | None, isotropic: Isotropic | None) -> bool:
    """Whether ``A T_g`` sees something that ``A T_h`` (A, if ``other`` is None) does not."""
    accurate = alone.problem.accurate

    def against(x: Tensor) -> Tensor:
        if other is not None:
            x = transposed(lambda image: accurate.apply(image, other[None]), x, x.shape)
        return accurate.apply(x, element[None])

    return is_information(alone.visible([against])[0], isotropic.visible(against) if isotropic else 0.0)


def needs_every_class(alone: Stack, classes: Sequence[Tensor], threshold: float) -> bool:
    """Whether without any one of the classes (or the identity) a share of image space above ``threshold`` is unseen."""
    others = [list(classes[:k]) + list(classes[k + 1 :]) for k in range(len(classes))]
    subsets = [alone.with_elements(rest) for rest in others] + [alone.with_elements(classes, identity=False)]
    return all(1 - subset.seen() > threshold for subset in subsets)
