"""How far off is a reconstruction? The bootstrap of an f by its group (Tachella & Pereyra, "Equivariant Bootstrapping
for Uncertainty Quantification in Imaging Inverse Problems", AISTATS 2024).

The reconstruction ``x = f(y)`` is measured and reconstructed again from many positions, with fresh noise. The distance
of these reconstructions from x stands for the distance of x from the ground truth. Errors that all draws share do not
show, so the estimate has to be checked, and calibrated (`ei.evaluation.calibration`).
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ei.closure.base import MOVES
from ei.common.checks import check_choice, check_number
from ei.common.seeds import derive_seed, generator, seeded
from ei.errors import InputError
from ei.models.base import evaluating, require_of
from ei.physics.base import move_physics, where_sampled
from ei.physics.noise import Noise
from ei.physics.noise_adapter import SeededNoise, get_noise
from ei.transforms.base import Transform


class Draw(NamedTuple):
    """One draw of the bootstrap."""

    number: int
    element: Tensor  # of the group
    physics: Any  # that measured it
    reference: Tensor  # what was measured, T_g x, or x where the operator moves
    reconstruction: Tensor  # f(y_g)

    @property
    def error(self) -> Tensor:
        """``[B, C, H, W]``, where the instrument sees it: turned with the image where the image was turned."""
        return self.reconstruction - self.reference


class Resampling:
    """The draws of a bootstrap. Each is a function of the seed and of its number alone.

    Args:
        f, physics, transform, y, draws, move: see `bootstrap`, also for the errors.
        noise: a noise model, or None for none.
        seed: of elements and noise.

    Attributes:
        x: ``f(y)``.
        move: "image" or "operator".
    """

    def __init__(
        self, f: Any, physics: Any, transform: Any, y: Tensor, draws: int, noise: Any, seed: int, move: str | None
    ) -> None:
        self.f, self.physics, self.transform, self.noise = f, physics, transform, noise
        self.seed = seed
        self.draws = check_number("draws", draws, integer=True, least=2)
        with _evaluated(f):
            self.x = f(y)
        if not self.x.dim() >= 3 or len(self.x) != len(y):
            raise InputError(f"f must return images [B, C, H, W] for {len(y)} measurements, got {list(self.x.shape)}")
        self.elements = [self._draw_element(number) for number in range(self.draws)]
        self.move = self._choose_move(None if move is None else check_choice("move", move, MOVES))
        # Equal elements follow each other, so that an operator is moved once for all its draws.
        self.order = sorted(range(self.draws), key=lambda number: self.elements[number].reshape(-1).tolist())
        self._last: Draw | None = None

    def _draw_element(self, number: int) -> Tensor:
        sample = getattr(self.transform, "sample", None)
        if not callable(sample):
            raise InputError(
                f"the bootstrap draws group elements by sample(x), and {type(self.transform).__name__} has none: "
                "choose a group of ei.transforms"
            )
        with seeded(derive_seed(self.seed, "element", number), self.x.device):
            element = torch.as_tensor(sample(self.x[:1])[0])
        return element[0] if getattr(self.transform, "per_image", False) else element

    def _choose_move(self, asked: str | None) -> str:
        try:
            if asked != "image":
                require_of(self.f, "move=operator needs")
                for element in self.elements:
                    move_physics(self.physics, element, self.transform)
                return "operator"
        except InputError:
            if asked == "operator":
                raise
        self._undo(self.x[:1], self.elements[0])  # raises now where there is no inverse
        return "image"

    def _undo(self, x: Tensor, element: Tensor) -> Tensor:
        if isinstance(self.transform, Transform):
            return self.transform.undo(x, element)
        if not callable(getattr(self.transform, "inverse", None)):
            raise InputError(f"{type(self.transform).__name__} has no inverse(element): choose a group that has")
        return self.transform.apply(x, self.transform.inverse(element)[None])

    def back(self, draw: Draw, image: Tensor) -> Tensor:
        """An image that lies as in ``draw.error``, as it lies in x."""
        return image if self.move == "operator" else self._undo(image, draw.element)

    def likeness(self, draw: Draw) -> Tensor | float:
        """The weight of each pixel of a draw, as it lies in x. Where pixels are measured by themselves, one that A
        measures is compared with draws that measure it, and one that A misses with draws that miss it, too."""
        mask = getattr(self.physics, "pixel_mask", None)
        if mask is None:
            return 1.0
        mask = mask.to(self.x.device, self.x.real.dtype)
        if self.move == "operator":
            of_draw = draw.physics.pixel_mask.to(mask)
        else:
            of_draw = self._undo(mask.expand(-1, -1, *self.x.shape[-2:]), draw.element)
        return 1 - (mask - of_draw).abs().clamp(max=1)

    def __len__(self) -> int:
        return self.draws

    def __iter__(self) -> Iterator[Draw]:
        return (self.draw(number) for number in self.order)

    def draw(self, number: int) -> Draw:
        """The draw of this number, whatever was drawn before."""
        element = self.elements[number]
        last = self._last if self._last is not None and torch.equal(self._last.element, element) else None
        if last is not None and self.noise is None:
            return last._replace(number=number)  # without noise it is the same
        f, physics, reference = self.f, self.physics, self.x
        with _evaluated(f):
            if self.move == "operator":
                physics = move_physics(physics, element, self.transform) if last is None else last.physics
                f = f.of(physics)
            else:
                reference = self.transform.apply(reference, element[None])
            y = measure_with(self.noise, physics, reference, derive_seed(self.seed, "noise", number))
            self._last = Draw(number, element, physics, reference, f(y))
            return self._last


def measure_with(noise: Any, physics: Any, x: Tensor, seed: int) -> Tensor:
    """``A x`` with the noise of this seed, for every image the same, so that a batch changes nothing. Counts of
    negative ``A x`` are drawn as if it were zero (`ei.closure.base.measure`)."""
    u = physics.A(x)
    if noise is None:
        return u
    clip = getattr(noise, "clip", None)
    clean = u if clip is None else clip(u)
    noisy = torch.cat([noise(one, generator=generator(seed)) for one in clean.split(1)])
    return where_sampled(physics, noisy, clean) + (u - clean)


class Bootstrap:
    """What a bootstrap found out about ``x = f(y)``; see `bootstrap`.

    Args:
        resampling: makes the draws.
        draws: the draws of ``resampling`` in any order, as from a progress bar around it.

    Attributes:
        x: the reconstruction ``[B, C, H, W]``.
        mse: the estimated mean squared error of every image, ``[B]``.
        std: the standard deviation of every pixel over the draws ``[B, C, H, W]``; where pixels are measured by
            themselves (inpainting), over the draws that measure a pixel as A does, or miss it as A does.
        bias: the mean of the draws less x, ``[B, C, H, W]``: what the draws have in common.
        rmse: the estimated root mean squared error of every pixel, of both, ``[B, C, H, W]``.
        norms: the Euclidean norm of the error of every draw, ``[draws, B]``.
        interpolation: the mean of ``|T_g^-1 T_g x - x|^2`` of every image, ``[B]``: zero where the operator moves and
            for groups that move pixels. It is not in the other figures.
        move: "image" or "operator".

    >>> physics = ei.physics.Inpainting(8, 8)
    >>> result = bootstrap(physics.A_dagger, physics, ei.transforms.Shift(1), torch.ones(2, 1, 8, 8), draws=20)
    >>> result.psnr().shape, result.draws.shape
    (torch.Size([2]), torch.Size([20, 2, 1, 8, 8]))
    """

    def __init__(self, resampling: Resampling, draws: Iterable[Draw] | None = None) -> None:
        self._resampling = resampling
        x = self.x = resampling.x
        move = self.move = resampling.move
        back = resampling.back
        sums = Sums()
        smoothed = torch.zeros_like(x.real, dtype=torch.float64)
        norms: dict[int, Tensor] = {}
        interpolated = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for draw in resampling if draws is None else draws:
            norms[draw.number] = torch.linalg.vector_norm(draw.error.flatten(1), dim=1).double()
            error = back(draw, draw.error)
            weight = resampling.likeness(draw)
            sums.add(error, weight)
            if move == "image":
                # Interpolation smooths the error, but not its square: what the error loses by it is put back.
                smoothed += weight * (back(draw, draw.error.abs().square()) - error.abs().square())
                interpolated += (back(draw, draw.reference) - x).abs().square().flatten(1).mean(1).double()
        count = len(norms)
        self.norms = stacked(norms)
        self.interpolation = interpolated / count
        self.mse = self.norms.square().mean(0) / x[0].numel()
        squares = (sums.squares + smoothed).clamp(min=0)
        self.std = (squares / (sums.weight - 1).clamp(min=1)).sqrt().to(x.real.dtype)
        self.bias = sums.mean.to(x.dtype)
        self.rmse = (squares / sums.weight.clamp(min=1) + sums.mean.abs().square()).sqrt().to(x.real.dtype)

    def psnr(self, data_range: float = 1.0) -> Tensor:
        """The PSNR in dB that the estimated error means, ``[B]``; ``data_range`` as of `ei.metrics.psnr`."""
        return 10 * torch.log10(check_number("data_range", data_range, above=0) ** 2 / self.mse)

    def quantile(self, p: float) -> Tensor:
        """The p-quantile of the error's norm ``||x_g - x||`` over the draws, ``[B]``. Warns where the draws are too few
        for it: 20 for 95 %."""
        p = check_number("p", p, above=0, below=1)
        count = len(self.norms)
        if count * (1 - p) < 1 - 1e-9:
            warnings.warn(
                f"the {100 * p:g} % quantile of {count} draws is little more than the largest: take at least "
                f"{round(1 / (1 - p))} draws",
                stacklevel=2,
            )
        return torch.quantile(self.norms, p, dim=0)

    @property
    def draws(self) -> Tensor:
        """All draws as they lie in x, ``x_g`` ``[draws, B, C, H, W]``, computed again from their seeds."""
        return stacked({draw.number: self.x + self._resampling.back(draw, draw.error) for draw in self._resampling})


def stacked(by_number: Mapping[int, Tensor]) -> Tensor:
    """The tensors of all draws in the order of their numbers."""
    return torch.stack([by_number[number] for number in sorted(by_number)])


class Sums:
    """Mean and squared deviations of a stream of tensors, in float64, of every entry (Welford, "Note on a method for
    calculating corrected sums of squares and products", 1962).

    Attributes:
        mean, weight: of what was added; the sum of its weights.
        squares: the sum of ``weight * |value - mean|^2``.
    """

    def __init__(self) -> None:
        self.mean = self.squares = self.weight = torch.zeros((), dtype=torch.float64)

    def add(self, value: Tensor, weight: Tensor | float = 1.0) -> None:
        """Add a tensor, with a weight >= 0 for every entry."""
        value = value.to(torch.promote_types(value.dtype, torch.float64))
        weight = torch.as_tensor(weight, dtype=torch.float64, device=value.device).expand(value.shape)
        self.weight = self.weight + weight
        before = value - self.mean
        self.mean = self.mean + before * weight / self.weight.clamp(min=1e-300)
        self.squares = self.squares + weight * (before * (value - self.mean).conj()).real


@torch.no_grad()
def bootstrap(
    f: Any,
    physics: Any,
    transform: Any,
    y: Tensor,
    draws: int = 100,
    noise: Any = None,
    generator: torch.Generator | None = None,
    move: str | None = None,
) -> Bootstrap:
    """Estimate the errors of ``x = f(y)`` from ``draws`` reconstructions of x from other positions.

    Of each draw, with a group element g drawn with replacement: ``y_g = noise(A T_g x)``, ``x_g = T_g^-1 f(y_g)``. The
    error is taken as ``f(y_g) - T_g x``, before it is turned back, so that interpolating x costs nothing. Where the
    operator moves, ``x_g = f_g(noise(A_g x))`` with ``A_g = A T_g^-1`` and f with that operator. The errors ``x_g - x``
    stand for the error of x. They do not show a bias that f has at x as well, a wrong A, or a wrong group.

    Args:
        f: the reconstruction function, in evaluation mode here.
        physics: its operator.
        transform: a group of ei.transforms with inverses.
        y: measurements ``[B, ...]``.
        draws: at least 2; 20 for the 95 % quantile of the norm, 100 for the 99 %.
        noise: a noise model in place of ``physics.noise``, if the physics has one.
        generator: of the seed (torch's global one by default). Images of a batch have the same elements and noise, so
            that each is as it is alone.
        move: "image", "operator", or None for the operator where it can be moved for all elements drawn (and f has
            ``of``), else the image.

    Raises:
        InputError: for an f of another operator, a noise where the physics has none, a group without inverses, fewer
            than two draws, or an operator that cannot be moved and has to be.

    >>> physics = ei.physics.Inpainting(16, 16)
    >>> f = ei.models.Reconstructor(ei.models.UNet(1, 1, base_channels=4), physics)
    >>> result = bootstrap(f, physics, ei.transforms.Shift(1), physics.A(torch.rand(2, 1, 16, 16)), draws=20)
    >>> result.std.shape, result.mse.shape, result.quantile(0.95).shape
    (torch.Size([2, 1, 16, 16]), torch.Size([2]), torch.Size([2]))
    """
    device = None if generator is None else generator.device
    seed = int(torch.randint(2**62, (), generator=generator, device=device))
    resampling = Resampling(f, physics, transform, y, draws, noise_for(physics, noise), seed, move)
    check_operator_of(f, physics, resampling.x)
    return Bootstrap(resampling)


def noise_for(physics: Any, noise: Any = None) -> Any:
    """The noise of the draws: that of the physics, or the given one in its place. Raises `InputError` for a noise that
    the physics has not, or that is no noise."""
    simulated = get_noise(physics)
    if noise is None:
        return simulated
    if not callable(noise):
        raise InputError(f"noise must be a noise model, as GaussianNoise(0.1), got {noise!r}")
    if simulated is None:
        raise InputError(
            f"the physics has no noise, so its f was not made for {noise}: set physics.noise, or leave the noise out"
        )
    return noise if isinstance(noise, Noise | SeededNoise) else SeededNoise(noise)


def check_operator_of(f: Any, physics: Any, x: Tensor) -> None:
    """Raise `InputError` if f has another operator than ``physics``: their measurements of x are compared."""
    trained_for = getattr(f, "physics", physics)
    if trained_for is physics:
        return
    expected, found = physics.A(x), trained_for.A(x)
    rounding = 1e-4 * float(torch.linalg.vector_norm(expected))
    if expected.shape != found.shape or float(torch.linalg.vector_norm(expected - found)) > rounding:
        raise InputError(
            f"f reconstructs measurements of {trained_for}, and the physics of the bootstrap is another operator, "
            f"{physics}: give f.of(physics), or f.physics"
        )


@contextlib.contextmanager
def _evaluated(f: Any) -> Iterator[None]:
    """f as it is evaluated, without gradients."""
    with torch.no_grad(), evaluating(f) if isinstance(f, nn.Module) else contextlib.nullcontext():
        yield
