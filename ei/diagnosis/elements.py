"""What single elements of a group bring, and how many of them bring something that the others do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ei.diagnosis.isotropic import Isotropic, is_information
from ei.diagnosis.stack import Stack
from ei.physics.krylov import transposed


@dataclass
class Element:
    """What one group element brings.

    Attributes:
        visible: the share of the energy of images in the null space of A that A sees after the transform, with accurate
            rotations. For an orthogonal transform it is the share of the rows of ``A T_g`` outside the range of
            ``A^T``, times rank(A) / (n - rank(A)).
        isotropic: the same share for an isotropic filter of A's rank, which gains by interpolation alone; 0 where
            nothing is interpolated.
        redundant: not more than interpolation shows, or at most half of what the best element shows: nearly a
            permutation of the measurements.
    """

    element: Tensor
    visible: float
    isotropic: float = 0.0
    redundant: bool = False

    @property
    def gain(self) -> float:
        return self.visible / max(self.isotropic, 1e-12)

    @property
    def informative(self) -> bool:
        return is_information(self.visible, self.isotropic)


def examine_elements(alone: Stack, elements: Sequence[Tensor], isotropic: Isotropic | None = None) -> list[Element]:
    """What each of some elements brings to A; with ``isotropic`` where the group interpolates pixels."""
    filters = isotropic.visible_by(elements) if isotropic else [0.0] * len(elements)
    examined = [Element(*each) for each in zip(elements, alone.visible_by(elements), filters, strict=True)]
    least = max(one.visible for one in examined) / 2 if isotropic else -1.0
    for one in examined:
        one.redundant = not one.informative or one.visible <= least
    return examined


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
