"""Networks and reconstruction functions. They know nothing of training."""

from ei.models.averaged import GroupAverage, average_over
from ei.models.discriminator import Discriminator
from ei.models.reconstructor import Reconstructor
from ei.models.unet import UNet
from ei.models.unrolled import Unrolled

__all__ = ["Discriminator", "GroupAverage", "Reconstructor", "UNet", "Unrolled", "average_over"]
