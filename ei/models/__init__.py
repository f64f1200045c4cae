"""Networks. They know nothing of training."""

from ei.models.discriminator import Discriminator
from ei.models.reconstructor import Reconstructor
from ei.models.unet import UNet

__all__ = ["Discriminator", "Reconstructor", "UNet"]
