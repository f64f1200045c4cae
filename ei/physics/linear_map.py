"""Fixed linear maps as matrices with their transposes: the engine behind operators that are precomputed.

Sparse ones are kept as plain dense tensors and viewed as a CSR matrix only for a product: a CSR tensor as a module's
buffer would break deepcopy, DistributedDataParallel and the state dict.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakValueDictionary

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from ei.errors import InputError

WIDE = 16  # columns; of fewer, MKL multiplies multiples of four fastest
GATHERED = 2**27  # values gathered at a time on a GPU
LARGE = 2e9  # bytes of matrices above which the user is warned


@dataclass(frozen=True)
class CSR:
    """A sparse matrix in compressed-row form: int32 pointers and columns, floating values."""

    row_pointers: Tensor
    columns: Tensor
    values: Tensor
    shape: tuple[int, int]

    @classmethod
    def from_scipy(cls, matrix: scipy.sparse.csr_array, device: torch.device, dtype: torch.dtype) -> CSR:
        matrix.sort_indices()
        if matrix.nnz > np.iinfo(np.int32).max:
            raise MemoryError(f"a sparse matrix of {matrix.nnz:,} entries is too large for 32-bit row pointers")
        return cls(
            torch.from_numpy(matrix.indptr.astype(np.int32)).to(device),
            torch.from_numpy(matrix.indices.astype(np.int32)).to(device),
            torch.from_numpy(np.asarray(matrix.data)).to(device, dtype),
            (int(matrix.shape[0]), int(matrix.shape[1])),
        )

    def multiply(self, vectors: Tensor) -> Tensor:
        """The product with ``vectors`` ``[columns, K]``, of any strides, outside autocast."""
        view = torch.sparse_csr_tensor(self.row_pointers, self.columns, self.values, self.shape, check_invariants=False)
        with torch.autocast(vectors.device.type, enabled=False):
            rows, count = vectors.shape
            if count == 1:
                with contextlib.suppress(RuntimeError):  # torch has none of batched gradients: jacobian(vectorize=True)
                    return torch.mv(view, vectors[:, 0])[:, None]  # twice as fast on a CPU
            if vectors.device.type == "cpu" and count < WIDE and count % 4:  # 1.3 to 1.7 times as fast
                filled = vectors.new_zeros(rows, count + -count % 4)
                filled[:, :count] = vectors
                return (view @ filled)[:, :count]
            return view @ vectors.contiguous()

    def gather(self, vectors: Tensor) -> Tensor:
        """`multiply` in plain operations, for graphs that are exported: slower, and as much memory as entries."""
        rows = torch.arange(self.shape[0], dtype=torch.int32, device=vectors.device)
        rows = rows.repeat_interleave(self.row_pointers.diff(), output_size=len(self.columns))
        vectors = vectors.to(self.values.dtype)  # autocast reaches into a graph, where another part may have cast them
        terms = self.values[:, None] * vectors.index_select(0, self.columns)
        return vectors.new_zeros(self.shape[0], vectors.shape[1]).index_add(0, rows, terms)


@dataclass(frozen=True)
class PaddedRows:
    """A sparse matrix whose rows are padded with zeros to one length, for GPUs. A product adds each row's terms in the
    same order every time; that of cuSPARSE does not, and a training would not repeat itself."""

    columns: Tensor  # int32 [rows * length]; the padding of a row repeats its last column
    values: Tensor  # [rows, length]
    shape: tuple[int, int]

    @classmethod
    def from_scipy(cls, matrix: scipy.sparse.csr_array, device: torch.device, dtype: torch.dtype) -> PaddedRows:
        matrix.sort_indices()
        counts = np.diff(matrix.indptr)
        rows, length = matrix.shape[0], int(counts.max(initial=1))
        if rows * length > np.iinfo(np.int32).max:
            raise InputError(
                f"a sparse matrix of {rows} rows of {length} entries is too large for 32-bit indices on a GPU; use "
                "fewer views or smaller images, or the device cpu"
            )
        columns = np.zeros((rows, length), np.int32)
        values = np.zeros((rows, length), matrix.dtype)
        if matrix.nnz:
            filled = np.arange(length) < counts[:, None]
            columns[:] = np.where(counts > 0, matrix.indices[matrix.indptr[1:] - 1], 0)[:, None]  # the last of each row
            columns[filled] = matrix.indices
            values[filled] = matrix.data
        return cls(
            torch.from_numpy(columns.ravel()).to(device),
            torch.from_numpy(values).to(device, dtype),
            (int(rows), int(matrix.shape[1])),
        )

    def multiply(self, vectors: Tensor) -> Tensor:
        """The product with ``vectors`` ``[columns, K]``, of any strides."""
        across = vectors.mT.contiguous()
        rows, length = self.values.shape
        at_a_time = max(1, GATHERED // max(1, length * len(across)))
        parts = [
            across.index_select(1, self.columns[first * length : (first + at_a_time) * length])
            .view(len(across), -1, length)
            .mul(self.values[first : first + at_a_time])
            .sum(-1)
            for first in range(0, rows, at_a_time)
        ]
        return (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)).mT


@dataclass(frozen=True)
class Dense:
    """A dense matrix ``[rows, columns]``."""

    values: Tensor

    def multiply(self, vectors: Tensor) -> Tensor:
        with torch.autocast(vectors.device.type, enabled=False):
            return self.values @ vectors


class Matrix(Protocol):
    """What multiplies as a matrix does."""

    def multiply(self, vectors: Tensor) -> Tensor:
        """The product with ``vectors`` ``[columns, K]``."""
        ...


class LinearMap:
    """A fixed matrix M and its transpose: ``M(v)`` maps ``[columns, K]`` to ``[rows, K]``, ``M.T(w)`` maps back. Both
    are differentiable any number of times and leave autocast, forward and backward.

    Never changed after construction, so instances may be shared.
    """

    def __init__(self, matrix: Matrix, transpose: Matrix) -> None:
        self.matrix = matrix
        self.transpose = transpose

    @classmethod
    def from_scipy(cls, matrix: scipy.sparse.csr_array, device: torch.device, dtype: torch.dtype) -> LinearMap:
        """With the stored transpose, so that the backward pass is one product like the forward pass."""
        layout = PaddedRows if device.type == "cuda" else CSR
        transpose = scipy.sparse.csr_array(matrix.T)
        return cls(layout.from_scipy(matrix, device, dtype), layout.from_scipy(transpose, device, dtype))

    @property
    def T(self) -> LinearMap:
        return LinearMap(self.transpose, self.matrix)

    @property
    def nbytes(self) -> int:
        """The memory of both matrices."""
        return _nbytes(self.matrix) + _nbytes(self.transpose)

    def __call__(self, vectors: Tensor) -> Tensor:
        if torch.jit.is_tracing() or torch.compiler.is_compiling():
            # An exported graph has neither sparse tensors nor functions of ours.
            return getattr(self.matrix, "gather", self.matrix.multiply)(vectors)
        return _Multiply.apply(vectors, self)


def _nbytes(matrix: Matrix) -> int:
    tensors = [part for part in vars(matrix).values() if isinstance(part, Tensor)]
    inside = getattr(matrix, "matrix", None)
    return sum(tensor.nbytes for tensor in tensors) + (_nbytes(inside) if inside is not None else 0)


class _Multiply(torch.autograd.Function):
    @staticmethod
    def forward(vectors: Tensor, linear_map: LinearMap) -> Tensor:
        return linear_map.matrix.multiply(vectors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.linear_map = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Multiply.apply(grad, ctx.linear_map.T), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return _Multiply.apply(tangent, ctx.linear_map)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, vectors: Tensor, linear_map: LinearMap) -> tuple[Tensor, int | None]:
        """For `torch.func`: the mapped axis adds columns."""
        if in_dims[0] is None:
            return _Multiply.apply(vectors, linear_map), None
        mapped = vectors.movedim(in_dims[0], -1)
        product = _Multiply.apply(mapped.reshape(len(mapped), -1), linear_map)
        return product.view(len(product), *mapped.shape[1:]), mapped.dim() - 1


def shared(make: Callable[..., LinearMap]) -> Callable[..., LinearMap]:
    """Equal arguments give the same linear map as long as there is a reference to it; then it is freed."""
    maps: WeakValueDictionary[tuple, LinearMap] = WeakValueDictionary()

    @functools.wraps(make)
    def make_once(*arguments: Any) -> LinearMap:
        linear_map = maps.get(arguments)
        if linear_map is None:
            maps[arguments] = linear_map = make(*arguments)
        return linear_map

    return make_once


def check_matrix_size(name: str, kept: float, needed: float, entries: float) -> None:
    """Warn of large matrices of the operator ``name`` before they are made: of ``kept`` bytes, ``needed`` bytes while
    they are made, and so many ``entries`` of the largest one.

    Raises:
        InputError: if they do not fit in this machine's memory or into 32-bit indices.
    """
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        memory = sys.maxsize
    if needed > memory or entries > np.iinfo(np.int32).max:
        raise InputError(
            f"{name} would need {needed / 1e9:.0f} GB to precompute its matrices, and this machine has "
            f"{memory / 1e9:.0f} GB; use fewer views or smaller images"
        )
    if kept > LARGE:
        message = f"{name} precomputes matrices of {kept / 1e9:.1f} GB ({needed / 1e9:.1f} GB while they are made)"
        warnings.warn(message, stacklevel=4)


# torch warns once per process that CSR tensors are in beta; users can do nothing about it.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor(torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1), (1, 1))
