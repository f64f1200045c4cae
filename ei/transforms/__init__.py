"""Groups of transforms the set of images is invariant to."""

from ei.transforms.base import Transform
from ei.transforms.rotate import Rotate
from ei.transforms.shift import Shift

__all__ = ["Rotate", "Shift", "Transform"]
