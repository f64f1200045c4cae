"""Forward operators: CT, inpainting, tomography, MRI. Any class with ``A(x)`` and ``A_dagger(y)`` is a physics."""

from ei.physics.base import Physics, image_shape_of, select_physics
from ei.physics.ct import CT
from ei.physics.inpainting import Inpainting
from ei.physics.krylov import WithPseudoInverse, pinv_cg, with_pseudo_inverse
from ei.physics.mri import MRI, mask_for, random_columns
from ei.physics.noise import (
    GaussianNoise,
    Noise,
    PoissonGaussianNoise,
    PoissonNoise,
    TransmissionNoise,
    parse_noise,
)
from ei.physics.split import Split
from ei.physics.tiles import TiledInpainting
from ei.physics.tomography import Tomography

__all__ = [
    "CT",
    "MRI",
    "GaussianNoise",
    "Inpainting",
    "Noise",
    "Physics",
    "PoissonGaussianNoise",
    "PoissonNoise",
    "Split",
    "TiledInpainting",
    "Tomography",
    "TransmissionNoise",
    "WithPseudoInverse",
    "image_shape_of",
    "mask_for",
    "parse_noise",
    "pinv_cg",
    "random_columns",
    "select_physics",
    "with_pseudo_inverse",
]
