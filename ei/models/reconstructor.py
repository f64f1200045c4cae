"""The reconstruction function of the paper, ``f = G o A_dagger``."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ei.errors import InputError
from ei.models.base import ReconstructionFunction, outside_autocast


class Reconstructor(ReconstructionFunction):
    """``f(y) = net(physics.A_dagger(y))``.

    Args:
        net: the network G, from images ``[B, C, H, W]`` to images; it is put in channels-last format.
        physics: anything with ``A_dagger(y)``.
        precision, image_scale, network_tile: see `ei.models.base.ReconstructionFunction`, also for the errors.

    >>> import torch
    >>> from ei.models import Reconstructor, UNet
    >>> from ei.physics import CT
    >>> f = Reconstructor(UNet(1, 1, base_channels=4), CT(32, 10))
    >>> f(torch.rand(2, 1, 46, 10)).shape
    torch.Size([2, 1, 32, 32])
    """

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that change what it computes; precision and tiles only change how."""
        return {"image_scale": self.image_scale}

    def forward(self, y: Tensor) -> Tensor:
        """Measurements ``y`` to images ``[B, C, H, W]`` in the dtype of the network's weights (float32), complex where
        those of A_dagger are."""
        if not hasattr(self.physics, "A_dagger"):
            raise InputError(
                f"Reconstructor needs A_dagger(y), and {type(self.physics).__name__} has none: define it as "
                "ei.physics.pinv_cg(self, y, steps=20), or use Unrolled"
            )
        with outside_autocast(y):
            x = self.physics.A_dagger(y)
        return self.call_net(x)
