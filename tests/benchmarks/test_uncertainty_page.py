"""The page of the error bars."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_tables_of_error_bars_are_those_of_the_committed_files() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))  # as Python does for a script
    try:
        module = importlib.import_module("uncertainty")
    finally:
        sys.path.pop(0)
    page = (ROOT / "docs/results/uncertainty.md").read_text(encoding="utf-8")
    assert page.split(module.MARKER)[1] == f"\n\n{module.tables()}"
