"""The discriminator of adversarial EI: a patch classifier."""

from __future__ import annotations

from torch import Tensor, nn

from ei.common.complex import to_channels
from ei.errors import InputError


class Discriminator(nn.Module):
    """Blocks of 64, 128, 256, 512 channels, each of two 3x3 convolutions, the second with stride 2; LeakyReLU 0.2;
    BatchNorm except on the very first convolution; a last 3x3 convolution to one channel.

    Maps ``[B, C, H, W]`` to ``[B, 1, h, w]``, a score for every patch, with ``(1, h, w)`` in ``output_shape``
    (each side halved four times, rounded up).

    Args:
        input_shape: ``(C, H, W)`` of the images.

    >>> D = Discriminator((3, 32, 32))
    >>> D(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 1, 2, 2])
    """

    def __init__(self, input_shape: tuple[int, int, int]) -> None:
        super().__init__()
        if len(input_shape) != 3 or any(int(side) != side or side < 1 for side in input_shape):
            raise InputError(f"the discriminator's input_shape must be (channels, height, width), not {input_shape}")
        channels, height, width = (int(side) for side in input_shape)
        self.input_shape = (channels, height, width)
        self.output_shape = (1, -(-height // 16), -(-width // 16))
        layers: list[nn.Module] = []
        for out_channels in (64, 128, 256, 512):
            layers.append(nn.Conv2d(channels, out_channels, 3, padding=1))
            if layers[1:]:
                layers.append(nn.BatchNorm2d(out_channels))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
            layers.append(nn.Conv2d(out_channels, out_channels, 3, stride=2, padding=1))
            layers.append(nn.BatchNorm2d(out_channels))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
            channels = out_channels
        layers.append(nn.Conv2d(channels, 1, 3, padding=1))
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        x = to_channels(x) if x.is_complex() else x
        if x.dim() != 4 or tuple(x.shape[1:]) != self.input_shape:
            wanted = ", ".join(["B", *map(str, self.input_shape)])
            raise InputError(f"the discriminator needs images of the shape [{wanted}], not {list(x.shape)}")
        return self.model(x)
