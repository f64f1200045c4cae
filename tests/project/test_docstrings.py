"""The examples in the docstrings of the public API run, and every public class and function has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import ei

ROOMS = ("physics", "transforms", "models", "closure", "datasets", "training", "evaluation", "metrics")


def public() -> Iterator[tuple[str, str]]:
    """Room and name of the public classes and functions, but for exceptions and names of types."""
    for room in ROOMS:
        module = importlib.import_module(f"ei.{room}")
        for name in module.__all__:
            part = getattr(module, name)
            if inspect.isfunction(part) or (inspect.isclass(part) and not issubclass(part, Exception)):
                yield room, name


@pytest.mark.parametrize(("room", "name"), [pytest.param(*pair, id=".".join(pair)) for pair in public()])
def test_example(room: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch, numpy, ei and the names of its room, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    plt.switch_backend("agg")
    module = importlib.import_module(f"ei.{room}")
    part = getattr(module, name)
    names = {"torch": torch, "np": np, "ei": ei, **{other: getattr(module, other) for other in module.__all__}}
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
    for test in doctest.DocTestFinder(recurse=False).find(part, name, globs=names):
        runner.run(test)
    plt.close("all")
    assert ">>>" in (part.__doc__ or ""), f"ei.{room}.{name} has no example"
    assert runner.failures == 0
