"""The examples in the docstrings of the public API run, and every public class and function has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
from collections.abc import Iterator

import matplotlib
import numpy as np
import pytest
import torch

import ei

ROOMS = ("physics", "transforms", "models", "closure", "datasets", "training", "evaluation", "metrics")


def public() -> Iterator[tuple[str, str]]:
    for room in ROOMS:
        yield from ((room, name) for name in importlib.import_module(f"ei.{room}").__all__)


@pytest.mark.parametrize(("room", "name"), [pytest.param(*pair, id=".".join(pair)) for pair in public()])
def test_example(room: str, name: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch, numpy, ei and what the room names, and in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(matplotlib, "use", lambda *_, **__: None)
    module = importlib.import_module(f"ei.{room}")
    part = getattr(module, name)
    if not (inspect.isclass(part) or inspect.isfunction(part)) or issubclass_of(part, Exception):
        pytest.skip("neither a function nor a class of parts")
    assert ">>>" in (part.__doc__ or ""), f"ei.{room}.{name} has no example"
    names = {"torch": torch, "np": np, "ei": ei, **{other: getattr(module, other) for other in module.__all__}}
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
    for test in doctest.DocTestFinder(recurse=False).find(part, name, globs=names):
        runner.run(test)
    assert runner.tries > 0 and runner.failures == 0


def issubclass_of(part: object, kind: type) -> bool:
    return inspect.isclass(part) and issubclass(part, kind)
