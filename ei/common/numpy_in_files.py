"""NumPy's numbers and arrays in files of `torch.save`: read as plain numbers and tensors, without NumPy's own code.

``weights_only=True`` rejects them, since it knows none of the functions that they are pickled with. Here functions of
ours stand in for those: they take the bytes of a number or an array of numbers, and nothing else.
"""

from __future__ import annotations

import contextlib
import pickle
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

NUMBER = re.compile(r"[biufc]\d{1,2}")


class _DType:
    """Stands in for `numpy.dtype`: of a number, "f8" as an example."""

    def __init__(self, name: Any, *_: Any) -> None:
        if not isinstance(name, str) or NUMBER.fullmatch(name) is None:
            raise pickle.UnpicklingError("Unsupported global: GLOBAL numpy.dtype")  # of texts or objects
        self.dtype = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])

    def read(self, content: Any) -> np.ndarray:
        return np.frombuffer(content, self.dtype).astype(self.dtype.newbyteorder("="))


class _Array:
    """Stands in for `numpy.ndarray`, which is made first and filled later; `plain` puts the tensor in its place."""

    tensor: torch.Tensor

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, columns_first, content = state
        array = dtype.read(content).reshape(shape, order="F" if columns_first else "C")
        self.tensor = torch.from_numpy(np.ascontiguousarray(array))


def _scalar(dtype: _DType, content: bytes) -> Any:
    return dtype.read(content).item()


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _no_bytes() -> bytes:
    """How pickle writes the content of an empty array."""
    return b""


@contextlib.contextmanager
def numbers_of_numpy() -> Iterator[None]:
    """In a ``with`` block, `torch.load` with ``weights_only=True`` takes numbers and arrays of NumPy, too; what it
    gives needs to go through `plain`."""
    stand_ins: list[tuple[Any, str]] = [
        (_DType, "numpy.dtype"),
        (_Array, "numpy.ndarray"),
        (_no_bytes, "builtins.bytes"),
    ]
    for core in ("numpy.core", "numpy._core"):  # before and since NumPy 2
        stand_ins += [(_scalar, f"{core}.multiarray.scalar"), (_reconstruct, f"{core}.multiarray._reconstruct")]
    with torch.serialization.safe_globals(stand_ins):  # type: ignore[arg-type]
        yield


def plain(content: Any) -> Any:
    """A loaded file's content with tensors for arrays of NumPy.

    Raises:
        pickle.UnpicklingError: if there is a dtype of NumPy by itself in it.
    """
    if isinstance(content, _DType):
        raise pickle.UnpicklingError("Unsupported global: GLOBAL numpy.dtype")
    if isinstance(content, _Array):
        return content.tensor
    if isinstance(content, Mapping):
        return {plain(key): plain(value) for key, value in content.items()}
    if type(content) in (list, tuple):
        return type(content)(plain(entry) for entry in content)
    return content
