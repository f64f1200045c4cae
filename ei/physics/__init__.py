"""Forward operators. Anything with ``A(x)`` and ``A_dagger(y)`` is a physics; these are the paper's."""

from ei.physics.base import Physics
from ei.physics.ct import CT
from ei.physics.inpainting import Inpainting
from ei.physics.noise import GaussianNoise

__all__ = ["CT", "GaussianNoise", "Inpainting", "Physics"]
