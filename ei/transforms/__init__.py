"""Groups of transforms the set of images is invariant to."""

from ei.transforms.base import Transform
from ei.transforms.compose import Compose
from ei.transforms.rotate import Rotate
from ei.transforms.rotate_fourier import FourierRotate
from ei.transforms.scale import Scale
from ei.transforms.shift import Shift, Shift1D
from ei.transforms.turn import Turn
from ei.transforms.turns import Reflect, Rotate90

__all__ = [
    "Compose",
    "FourierRotate",
    "Reflect",
    "Rotate",
    "Rotate90",
    "Scale",
    "Shift",
    "Shift1D",
    "Transform",
    "Turn",
]
