"""What a stack of views sees: by a matrix for small images, by random probes and Lanczos' method for larger ones."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from ei.diagnosis.problem import ROUNDING, Map, Problem, energy_of, listed_by
from ei.errors import InputError

LANCZOS_STEPS = 80


class Stack:
    """The operator ``M = sum_g T_g^T A^T A T_g`` restricted to the support. What the stack of views ``A T_g`` sees is
    spanned by the eigenvectors of M whose eigenvalues exceed (tol * largest singular value of A)^2.

    ``Stack(problem)`` is A alone; `with_elements` makes stacks with its threshold.

    Args:
        problem: operator and group.
        elements: the views beside A itself, which is one where ``identity`` is true.
        top: the squared largest singular value of A; by default it is computed, for A alone.
    """

    def __init__(
        self, problem: Problem, elements: Sequence[Tensor] = (), identity: bool = True, top: float | None = None
    ) -> None:
        self.problem = problem
        self.elements = list(elements)
        self.identity = identity
        self.top = top or 0.0
        if top is None:
            self.top = float(max(theta.max() for theta, _ in self._spectrum))
        self.threshold = problem.tol**2 * self.top

    def with_elements(self, elements: Sequence[Tensor], identity: bool = True) -> Stack:
        return Stack(self.problem, elements, identity, self.top)

    def apply(self, columns: Tensor) -> Tensor:
        """``M`` times columns ``[size, count]``."""
        problem = self.problem
        result = torch.zeros_like(columns)
        views: list[list[Tensor]] = [[]] if self.identity else []
        # A few elements at a time bound the memory.
        views += [self.elements[k : k + 8] for k in range(0, len(self.elements), 8)]
        for elements in views:
            with torch.enable_grad():
                x = problem.images(columns).requires_grad_()
                y = problem.physics.A(problem.transformed(x, elements) if elements else x)
                if not y.requires_grad:
                    raise InputError("diagnose needs an A of differentiable torch operations, and autograd finds none")
                (gradient,) = torch.autograd.grad(y, x, y.detach())
            result += problem.columns(gradient)
        return result * problem.support[:, None]

    def match_rank(self, share: float) -> None:
        """Move the threshold so that this share of image space is seen, as far as the eigenvalues allow. Only where
        matrices are formed."""
        values, _ = self._decomposition
        hidden = len(values) - round(share * len(values))
        if 0 < hidden < len(values):
            below, above = values[hidden - 1 : hidden + 1].clamp(min=1e-12 * float(values[-1])).tolist()
            self.threshold = (below * above) ** 0.5

    def seen(self) -> float:
        """The share of image space (inside the support) that is seen."""
        return statistics.fmean(
            float(weight[theta > self.threshold].sum() / weight.sum()) for theta, weight in self._spectrum
        )

    def project(self, columns: Tensor) -> Tensor:
        """The part of images (columns) that is seen."""
        columns = columns * self.problem.support[:, None]
        if self.problem.exact:
            values, vectors = self._decomposition
            seen = vectors[:, values > self.threshold]
            return seen @ (seen.T @ columns)
        return self._lanczos(columns)[1]

    def unseen_power(self) -> tuple[Tensor, Tensor]:
        """The mean power of the unseen part of white images, by pixel and by frequency (zero frequency centred)."""
        white = self.problem.white(256 if self.problem.exact else 8 if not self.elements else 2)
        left = (white - self.project(white)).T.reshape(-1, *self.problem.shape)
        spectrum = torch.fft.fftshift(torch.fft.fft2(left, norm="ortho").abs().square().mean((0, 1)), dim=(-2, -1))
        return left.square().mean((0, 1)).cpu(), spectrum.cpu()

    @cached_property
    def hidden(self) -> Tensor:
        """The problem's probes (columns) without what is seen of them."""
        return self.problem.probes - self.project(self.problem.probes)

    def visible(self, maps: Sequence[Map], probes: int = 64) -> list[float]:
        """The share of the energy of unseen images, at most ``probes``, that is seen after each of the maps."""
        hidden = self.hidden[:, :probes]
        energy = max(energy_of(hidden), 1e-300)
        with torch.no_grad():
            after = [self.problem.columns(function(self.problem.images(hidden))) for function in maps]
        seen = self.project(torch.cat(after, dim=1)).split(hidden.shape[1], dim=1)
        return [energy_of(part) / energy for part in seen]

    def visible_by(self, elements: Sequence[Tensor], probes: int = 64) -> list[float]:
        """`visible` for each of some elements, with accurate rotations."""
        maps = [lambda x, element=element: self.problem.accurate.apply(x, element[None]) for element in elements]
        return [share for k in range(0, len(maps), 8) for share in self.visible(maps[k : k + 8], probes)]

    def elements_that_show(self, elements: Sequence[Tensor], images: Tensor) -> list[Tensor]:
        """Those of some elements that make A see some of these unseen images (columns), the best first. Only for A
        alone and groups that do not interpolate; one application of A for each element."""
        problem = self.problem
        energy = max(energy_of(images), 1e-300)
        shares: list[float] = []
        for k in range(0, len(elements), 16):
            with torch.no_grad():
                after = problem.transformed(problem.images(images), elements[k : k + 16])
                if problem.exact:
                    seen = self.project(problem.columns(after)).square().sum(0)
                else:
                    seen = problem.physics.A(after).abs().double().square().flatten(1).sum(1) / self.top
            shares += (seen.reshape(-1, images.shape[1]).sum(1) / energy).tolist()
        limit = ROUNDING if problem.exact else problem.tol**2
        order = sorted(range(len(shares)), key=lambda k: (shares[k], k), reverse=True)
        return [elements[k] for k in order if shares[k] > limit]

    def hides_from_whole_group(self) -> bool:
        """Whether what is unseen stays unseen under the whole group, because it does under the generators. Only for
        groups that do not interpolate."""
        problem = self.problem
        generators = listed_by(problem.transform, "generators", torch.empty(1, *problem.shape))
        if generators is None:
            return False
        x = problem.white(4)
        x = x - self.project(x)
        with torch.no_grad():
            moved = torch.cat([problem.columns(problem.transformed(problem.images(x), [g])) for g in generators], dim=1)
        return energy_of(self.project(moved)) <= (ROUNDING if problem.exact else 1e-3) * energy_of(moved)

    @cached_property
    def _spectrum(self) -> list[tuple[Tensor, Tensor]]:
        """Eigenvalues and their weights: all, or a quadrature for each of two random probes."""
        if self.problem.exact:
            values, _ = self._decomposition
            return [(values, torch.ones_like(values))]
        return self._lanczos(self.problem.white(2))[0]

    @cached_property
    def _decomposition(self) -> tuple[Tensor, Tensor]:
        """All eigenvalues, ascending, and the eigenvectors ``[size, n]``."""
        problem = self.problem
        support = problem.support.nonzero().flatten()
        matrix = torch.zeros(problem.n, problem.n, dtype=torch.float64, device=problem.device)
        for start in range(0, problem.n, 256):
            block = torch.zeros(problem.size, min(256, problem.n - start), dtype=torch.float64)
            block[support[start : start + 256], torch.arange(block.shape[1])] = 1
            matrix[:, start : start + 256] = self.apply(block.to(problem.device))[support]
        values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
        whole = torch.zeros(problem.size, problem.n, dtype=torch.float64, device=problem.device)
        whole[support] = vectors
        return values, whole

    def _lanczos(self, columns: Tensor) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """Lanczos' method from each column, with full reorthogonalisation: its quadrature (nodes, weights), and the
        column projected on what is seen."""
        steps = min(LANCZOS_STEPS, self.problem.n)
        norms = columns.norm(dim=0)
        # Memory access dominates the time: the vectors of a column lie behind each other.
        basis = columns.new_empty(columns.shape[1], steps, columns.shape[0])
        diagonal, beside = columns.new_zeros(2, steps, columns.shape[1])
        basis[:, 0] = (columns / norms.clamp(min=1e-300)).T
        running = norms > 0
        scale = self.top
        for step in range(steps):
            rest = self.apply(basis[:, step].T)
            diagonal[step] = (basis[:, step].T * rest).sum(0)
            for _ in range(2):  # twice is enough (Kahan and Parlett)
                coefficients = basis[:, : step + 1] @ rest.T[:, :, None]
                rest = rest - (coefficients.mT @ basis[:, : step + 1])[:, 0].T
            length = rest.norm(dim=0)
            scale = max(scale, float(diagonal[step].max()))
            running = running & (length > 1e-6 * scale)  # below, it is the rounding of float32
            if step + 1 == steps or not bool(running.any()):
                break
            beside[step] = torch.where(running, length, 0)
            basis[:, step + 1] = torch.where(running, rest / length.clamp(min=1e-300), 0).T
        quadratures = []
        projected = torch.zeros_like(columns)
        for k in range(columns.shape[1]):
            size = int((beside[:, k] == 0).nonzero()[0]) + 1
            off = torch.diag(beside[: size - 1, k], 1)
            theta, vectors = torch.linalg.eigh(torch.diag(diagonal[:size, k]) + off + off.T)
            quadratures.append((theta, vectors[0].square()))
            coefficients = vectors @ ((theta > self.problem.tol**2 * self.top) * vectors[0]) * norms[k]
            projected[:, k] = coefficients @ basis[k, :size]
        return quadratures, projected
