"""What people would use otherwise, on the same inputs: the per-angle loop of 2021's kind, deepinv, ASTRA.

Each peer is written from its own documentation; deepinv and ASTRA come from the extra ``bench``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class LoopCT:
    """Radon and FBP with one `grid_sample` a view, as a straightforward implementation does it."""

    def __init__(self, img_width: int, radon_view: int) -> None:
        self.n, self.v = img_width, radon_view
        self.d = math.ceil(math.sqrt(2) * img_width)
        self.angles = torch.deg2rad(torch.arange(radon_view) * 180 / radon_view)
        axis = torch.linspace(-1, 1, self.d)
        self.before = self.d // 2 - img_width // 2
        self.grids, self.lines = [], []
        for t in self.angles.tolist():
            xs = math.cos(t) * axis[None, :] + math.sin(t) * axis[:, None]
            ys = -math.sin(t) * axis[None, :] + math.cos(t) * axis[:, None]
            self.grids.append(torch.stack([xs, ys], dim=-1)[None])
            line = math.cos(t) * axis[None, :] - math.sin(t) * axis[:, None]
            self.lines.append(torch.stack([torch.zeros_like(line), line], dim=-1)[None])
        length = max(64, 2 ** math.ceil(math.log2(2 * self.d)))
        distance = torch.minimum(torch.arange(length), length - torch.arange(length))
        kernel = torch.where(distance % 2 == 1, -1 / (math.pi * distance.clamp(min=1)) ** 2, torch.zeros(length))
        kernel[0] = 0.25
        self.filter = (2 * torch.fft.rfft(kernel).real)[:, None]
        self.length = length

    def A(self, x: Tensor) -> Tensor:
        after = self.d - self.n - self.before
        padded = functional.pad(x, (self.before, after, self.before, after))
        views = [
            functional.grid_sample(padded, grid.expand(len(x), -1, -1, -1), align_corners=True).sum(dim=2)
            for grid in self.grids
        ]
        return torch.stack(views, dim=-1)

    def A_dagger(self, y: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(y, n=self.length, dim=2) * self.filter
        filtered = torch.fft.irfft(spectrum, n=self.length, dim=2)[:, :, : self.d]
        image = torch.zeros(*y.shape[:2], self.d, self.d)
        for k, line in enumerate(self.lines):
            view = filtered[..., k : k + 1]
            image = image + functional.grid_sample(view, line.expand(len(y), -1, -1, -1), align_corners=True)
        image = image * (math.pi / (2 * self.v))
        inside = slice(self.before, self.before + self.n)
        return image[..., inside, inside]


def deepinv_ct(img_width: int, radon_view: int) -> Any:
    """deepinv's tomography operator, which equals ours (`.radon`, `.iradon`)."""
    import deepinv

    return deepinv.physics.Tomography(
        angles=radon_view, img_width=img_width, circle=False, normalize=False, adjoint_via_backprop=True
    )


def deepinv_net(base_channels: int = 64) -> nn.Module:
    """deepinv's UNet as the paper's: zero padding everywhere but in the first convolution."""
    import deepinv

    channels = [base_channels * 2**level for level in range(4)]
    net = deepinv.models.UNet(1, 1, circular_padding=True, scales=4, channels_per_scale=channels)
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    for conv in convolutions[1:]:
        conv.padding_mode = "zeros"
    return net


def deepinv_step(img_width: int, radon_view: int, n_trans: int, bf16: bool) -> Callable[[Tensor], Tensor]:
    """deepinv's EI step with its own UNet, losses and rotations; the network's input is its FBP, as for ours."""
    net = deepinv_net()
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-4, weight_decay=1e-8)
    loss_of, _ = deepinv_training(deepinv_ct(img_width, radon_view), net, n_trans, bf16)

    def step(y: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def deepinv_training(
    physics: Any, net: nn.Module, n_trans: int, bf16: bool = False
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """deepinv's EI loss of measurements, and its reconstruction function."""
    import deepinv

    transform = deepinv.transform.Rotate(n_trans=n_trans, interpolation_mode="bilinear")
    mc, ei = deepinv.loss.MCLoss(), deepinv.loss.EILoss(transform, weight=100, apply_noise=False)

    def f(y: Tensor, physics: Any = physics) -> Tensor:
        x = physics.iradon(y)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            return net(x).float()

    def loss_of(y: Tensor) -> Tensor:
        x1 = f(y)
        return mc(y=y, x_net=x1, physics=physics).mean() + ei(x_net=x1, physics=physics, model=f).mean()

    return loss_of, f


def loop_step(img_width: int, radon_view: int, n_trans: int, bf16: bool) -> Callable[[Tensor], Tensor]:
    """The EI step as a straightforward program takes it: per-angle loops, the network's modules one after the other,
    default memory format."""
    from ei.models import UNet
    from ei.models.unet import Up
    from ei.transforms import Rotate

    physics, transform = LoopCT(img_width, radon_view), Rotate(n_trans)
    net = UNet(1, 1)
    for module in net.modules():
        if isinstance(module, Up):
            module.forward = module.up.forward  # type: ignore[method-assign]
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-4, weight_decay=1e-8)

    def f(y: Tensor) -> Tensor:
        x = physics.A_dagger(y)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            return net(x).float()

    def step(y: Tensor) -> Tensor:
        optimizer.zero_grad()
        x1 = f(y)
        x2 = transform.apply(x1)
        x3 = f(physics.A(x2))
        loss = functional.mse_loss(physics.A(x1), y) + 100 * functional.mse_loss(x3, x2)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def our_step(img_width: int, radon_view: int, n_trans: int, bf16: bool) -> Callable[[Tensor], Tensor]:
    """Our EI step, as the trainer takes it."""
    from ei.closure import EIClosure
    from ei.models import Reconstructor, UNet
    from ei.physics import CT
    from ei.transforms import Rotate

    physics, transform = CT(img_width, radon_view), Rotate(n_trans)
    f = Reconstructor(UNet(1, 1), physics, precision="bf16" if bf16 else "fp32")
    optimizer = torch.optim.Adam(f.net.parameters(), lr=5e-4, weight_decay=1e-8)
    closure = EIClosure(100)

    def step(y: Tensor) -> Tensor:
        optimizer.zero_grad()
        losses = closure(f, physics, transform, y)
        losses["total"].backward()
        optimizer.step()
        return losses["total"].detach()

    return step


def small_net() -> nn.Module:
    """The UNet of configs/recipe/unrolled.yaml."""
    from ei.models import UNet

    return UNet(1, 1, base_channels=16, norm="none")


def deepinv_modl(net: nn.Module, img_width: int, radon_view: int, iterations: int, cg_steps: int) -> Any:
    """deepinv's MoDL with its tomography: a network and so many steps of conjugate gradients in turn."""
    import deepinv

    class AsDenoiser(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor, sigma: Any) -> Tensor:
            return self.net(x)

    physics = deepinv.physics.Tomography(
        angles=radon_view, img_width=img_width, circle=False, normalize=True, solver="CG", max_iter=cg_steps, tol=0.0
    )
    model = deepinv.models.MoDL(denoiser=AsDenoiser(), num_iter=iterations)
    return lambda y: model(y, physics)


def deepinv_loop(net: nn.Module, physics: Any, iterations: int, cg_steps: int) -> Callable[[Tensor], Tensor]:
    """The steps of `Unrolled`, one after the other, with deepinv's conjugate gradients on its `LinearPhysics`."""
    import deepinv
    from deepinv.optim.utils import conjugate_gradient

    linear = deepinv.physics.LinearPhysics(A=physics.A, A_adjoint=physics.A_adjoint)

    def towards(y: Tensor, steps: int) -> Tensor:
        right_side = linear.A_adjoint(y)
        return conjugate_gradient(
            lambda x: linear.A_adjoint(linear.A(x)),
            right_side,
            max_iter=steps,
            tol=0.0,
            init=torch.zeros_like(right_side),
        )

    def f(y: Tensor) -> Tensor:
        x = towards(y, 2 * cg_steps)
        for _ in range(iterations):
            x = net(x)
            x = x + towards(y - linear.A(x), cg_steps)
        return x

    return f


def astra_forward(img_width: int, radon_view: int) -> Callable[[Any], Any]:
    """ASTRA's CPU forward projection (``linear``) of one image, a numpy array."""
    import astra
    import numpy as np

    detectors = math.ceil(math.sqrt(2) * img_width)
    volume = astra.create_vol_geom(img_width, img_width)
    geometry = astra.create_proj_geom("parallel", 1.0, detectors, np.linspace(0, np.pi, radon_view, endpoint=False))
    projector = astra.create_projector("linear", geometry, volume)

    def forward(image: Any) -> Any:
        identifier, sinogram = astra.create_sino(image, projector)
        astra.data2d.delete(identifier)
        return sinogram

    return forward
