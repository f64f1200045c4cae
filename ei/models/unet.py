"""The paper's residual UNet."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ei.common.checks import check_choice, check_number
from ei.errors import InputError

NORMS = ("batch", "none")


def _norm_layer(norm: str, channels: int) -> nn.Module:
    """BatchNorm, or an identity in its place, so that the other layers keep their places and with them their names."""
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.Identity()


class Block(nn.Module):
    """Twice: 3x3 convolution with bias, BatchNorm (or, with ``norm="none"``, nothing), ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        padding_mode: Literal["zeros", "circular"] = "zeros",
        norm: str = "batch",
    ) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, padding=1, padding_mode=padding_mode),
            _norm_layer(norm, out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
            _norm_layer(norm, out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor, framed: bool = False) -> Tensor:
        """Where x is ``framed``, the first convolution sees its outermost pixels in place of its padding."""
        if not framed:
            return self.conv(x)
        first = self.conv[0]
        assert isinstance(first, nn.Conv2d)
        return self.conv[1:](functional.conv2d(x, first.weight, first.bias))


class Up(nn.Module):
    """Nearest upsampling by two, then 3x3 convolution with bias, BatchNorm (or nothing), ReLU.

    Upsampling and convolution are computed as one: every output pixel sees only 2x2 different inputs, so the 3x3
    kernel, its equal inputs summed, is a transposed convolution with a 4x4 kernel and stride 2. That takes 4/9 of the
    multiplications and no memory for the upsampled features.
    """

    def __init__(self, in_channels: int, out_channels: int, norm: str = "batch") -> None:
        super().__init__()
        self.up = nn.Sequential(
            nn.Upsample(scale_factor=2),
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            _norm_layer(norm, out_channels),
            nn.ReLU(inplace=True),
        )
        # Which taps of the kernel see an input pixel, by its offset. Made here: a GPU would wait for it in every call.
        self.taps: Tensor
        self.register_buffer("taps", torch.tensor([[0.0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        conv, norm_and_relu = self.up[1], self.up[2:]
        assert isinstance(conv, nn.Conv2d)
        x = functional.conv_transpose2d(x, _upsampling_kernel(conv.weight, self.taps), conv.bias, stride=2, padding=1)
        return norm_and_relu(x)


def _upsampling_kernel(weight: Tensor, taps: Tensor) -> Tensor:
    """The ``[in, out, 4, 4]`` kernel that upsamples by two (nearest) and convolves with ``weight`` ``[out, in, 3, 3]``.
    The input pixel under offset k of the window is seen by those of the three taps that fall on its copies."""
    with torch.autocast(weight.device.type, enabled=False):  # sum first, round to bf16 after
        kernel = torch.einsum("ak,bl,oikl->ioab", taps, taps, weight)
    return kernel.contiguous(memory_format=torch.channels_last)


class UNet(nn.Module):
    """The residual UNet of the paper (section 4 and supplement); maps ``[B, in_channels, H, W]`` to
    ``[B, out_channels, H, W]``.

    Args:
        in_channels, out_channels: channels of the images (equal when ``residual``).
        compact: the number of levels, 4 (the paper's) or 5.
        residual: add the input to the output.
        circular_padding: pad circularly in the very first convolution; all others pad with zeros.
        cat: concatenate the encoder's features (skip first) in the decoder; without it the block that merges them
            is dropped too.
        base_channels: channels of the first level (the paper's 64); each further level doubles them.
        norm: "batch" (the paper's), or "none" to leave BatchNorm out; the other parameters keep their names.

    Raises:
        InputError: for another ``compact`` or ``norm``, channels that do not fit, or (when called) a side that is no
            multiple of ``2**(compact-1)``. `Reconstructor` and `Unrolled` pad such images.

    Module names are those of the authors' checkpoints.

    >>> import torch
    >>> from ei.models import UNet
    >>> UNet(1, 1, base_channels=4)(torch.rand(2, 1, 32, 32)).shape
    torch.Size([2, 1, 32, 32])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        compact: int = 4,
        residual: bool = True,
        circular_padding: bool = True,
        cat: bool = True,
        base_channels: int = 64,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        if compact not in (4, 5):
            raise InputError(f"compact (the number of levels of the UNet) must be 4 or 5, got {compact!r}")
        norm = check_choice("norm", norm, NORMS)
        in_channels = check_number("in_channels", in_channels, integer=True, least=1)
        out_channels = check_number("out_channels", out_channels, integer=True, least=1)
        base_channels = check_number("base_channels", base_channels, integer=True, least=1)
        if residual and in_channels != out_channels:
            raise InputError(
                f"a residual UNet adds its input to its output: in_channels ({in_channels}) and out_channels "
                f"({out_channels}) must be equal, or residual false"
            )
        self.compact, self.residual, self.cat = compact, residual, cat
        self.in_channels = in_channels
        # The arguments to build it again.
        self.config = {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "compact": compact,
            "residual": residual,
            "circular_padding": circular_padding,
            "cat": cat,
            "base_channels": base_channels,
            "norm": norm,
        }
        widths = [base_channels * 2**level for level in range(compact)]

        self.pool = nn.MaxPool2d(2)
        self.Conv1 = Block(in_channels, widths[0], "circular" if circular_padding else "zeros", norm)
        for level in range(2, compact + 1):
            self.add_module(f"Conv{level}", Block(widths[level - 2], widths[level - 1], norm=norm))
        for level in range(compact, 1, -1):
            wide, narrow = widths[level - 1], widths[level - 2]
            self.add_module(f"Up{level}", Up(wide, narrow, norm))
            if cat:
                self.add_module(f"Up_conv{level}", Block(wide, narrow, norm=norm))
        self.Conv_1x1 = nn.Conv2d(widths[0], out_channels, 1)

    @property
    def multiple_of(self) -> int:
        """What the sides of images must be multiples of. Reconstruction functions pad others."""
        return 2 ** (self.compact - 1)

    @property
    def reach(self) -> int:
        """How many pixels beyond a block of ``multiple_of`` x ``multiple_of`` the output in that block depends on."""
        reach = 0
        for _ in range(self.compact - 1):
            reach += 3 if self.cat else 1  # the block that merges features, and the convolution after upsampling
            reach = -(-reach // 2)  # in pixels of the next level
        reach += 2
        for _ in range(self.compact - 1):
            reach = 2 * reach + 2
        return reach

    @property
    def wraps(self) -> bool:
        """Whether pixels at a border see those at the other one. `ei.models.network_tiles` passes them, ``framed``."""
        return bool(self.config["circular_padding"])

    def check_size(self, height: int, width: int) -> None:
        """Raise `InputError`, naming the next size that works, unless images of ``height`` x ``width`` can be halved
        ``compact - 1`` times."""
        step = self.multiple_of
        if height % step or width % step or not height or not width:
            up = [max(step, -(-side // step) * step) for side in (height, width)]
            raise InputError(
                f"images of {height} x {width} do not fit a UNet of {self.compact} levels: sides must be multiples of "
                f"{step}; the next size that works is {up[0]} x {up[1]}"
            )

    def forward(self, x: Tensor, framed: bool = False) -> Tensor:
        """Images to images. Where x is ``framed``, it is ``[B, in_channels, H + 2, W + 2]``, one pixel larger on each
        side, which the first convolution sees in place of its padding."""
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise InputError(f"the UNet needs images of the shape [B, {self.in_channels}, H, W], got {list(x.shape)}")
        inside = x[..., 1:-1, 1:-1] if framed else x
        self.check_size(*inside.shape[2:])
        features = [self.Conv1(x, framed)]
        for level in range(2, self.compact + 1):
            features.append(self.get_submodule(f"Conv{level}")(self.pool(features[-1])))
        up = features.pop()
        for level in range(self.compact, 1, -1):
            up = self.get_submodule(f"Up{level}")(up)
            if self.cat:
                up = self.get_submodule(f"Up_conv{level}")(torch.cat([features.pop(), up], dim=1))
        out = self.Conv_1x1(up)
        return out + inside if self.residual else out
