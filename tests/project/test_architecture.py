"""The house: what may know what, how large its functions are, and that what is dropped is freed."""

from __future__ import annotations

import ast
import doctest
import gc
import importlib
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from ei.errors import InputError
from ei.physics import CT
from ei.physics.ct import Geometry, radon_map
from ei.training.folder import LOCK, RunLock

EI = ROOT / "ei"
# From the ground up: a room knows only what stands before it here.
FLOORS = ["errors", "common", "metrics", "physics", "transforms", "models", "closure", "datasets", "training",
          "evaluation", "diagnosis", "commands", "ei"]  # fmt: skip
MOST_BRANCHES = 12
MOST_ARGUMENTS = 8
BRANCHES = (ast.If, ast.For, ast.While, ast.IfExp, ast.BoolOp, ast.ExceptHandler, ast.comprehension)


def imports(path: Path) -> Iterator[str]:
    """The modules and names of the project that a file imports, wherever: also under ``if TYPE_CHECKING`` and in
    functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.split(".")[0] == "ei")
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} has a relative import"
            if (node.module or "").split(".")[0] == "ei":
                yield from (f"{node.module}.{name.name}" for name in node.names)


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in sorted(EI.rglob("*.py")) if path.name != "__main__.py"}


def room_of(name: str) -> str:
    """The room of a module, or of a name in it; "ei" for the package itself, which is on top."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in FLOORS else "ei"


def test_every_module_is_in_a_room() -> None:
    rooms = {module.split(".")[1] for module in MODULES if "." in module}
    assert rooms == set(FLOORS)


@pytest.mark.parametrize("module", [module for module in MODULES if module != "ei"])
def test_no_import_runs_upwards(module: str) -> None:
    floor = FLOORS.index(room_of(module))
    for name in imports(MODULES[module]):
        if name != "ei.__version__":
            assert FLOORS.index(room_of(name)) <= floor, f"{module} imports {name}"


def circle_in(edges: dict[str, set[str]]) -> list[str]:
    """A circle of a graph; empty if it has none."""
    done: set[str] = set()

    def visit(node: str, way: tuple[str, ...]) -> list[str]:
        if node in way:
            return [*way[way.index(node) :], node]
        if node in done:
            return []
        for other in sorted(edges.get(node, ())):
            if circle := visit(other, (*way, node)):
                return circle
        done.add(node)
        return []

    return next((circle for node in sorted(edges) if (circle := visit(node, ()))), [])


def test_there_is_no_circle() -> None:
    assert circle_in({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle_in({"a": {"b", "c"}, "b": {"c"}}) == []
    edges = {}
    for module, path in MODULES.items():
        named = {name if name in MODULES else name.rpartition(".")[0] for name in imports(path)} - {module, "ei"}
        edges[module] = {name for name in named if name in MODULES}
    assert not (circle := circle_in(edges)), " -> ".join(circle)


def functions() -> Iterator[tuple[str, bool, ast.FunctionDef]]:
    """All functions, nested ones too, as "module.function"; whether it is a method."""
    for module, path in MODULES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        methods = {id(child) for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for child in node.body}
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                yield f"{module}.{node.name} (line {node.lineno})", id(node) in methods, node


def test_functions_have_few_branches() -> None:
    branches = {name: sum(isinstance(part, BRANCHES) for part in ast.walk(node)) for name, _, node in functions()}
    assert {name: count for name, count in branches.items() if count > MOST_BRANCHES} == {}


def test_functions_have_few_arguments() -> None:
    """Constructors may have more: they are called with names."""
    many = {}
    for name, is_method, node in functions():
        arguments = len(node.args.posonlyargs) + len(node.args.args) + len(node.args.kwonlyargs)
        is_static = any(ast.unparse(decorator) == "staticmethod" for decorator in node.decorator_list)
        count = arguments - (is_method and not is_static)
        if count > MOST_ARGUMENTS and node.name != "__init__":
            many[name] = count
    assert many == {}


def test_an_argument_is_named_in_the_class_that_takes_it_alone() -> None:
    """As an example, one of the trainer: the tree carries it there, and the commands do not know it."""
    places = {path.relative_to(EI).as_posix() for path in EI.rglob("*.py") if "clip_norm" in path.read_text()}
    assert {place for place in places if not place.startswith("training/")} == set()


EXAMPLES = ("ei.common.parts", "ei.common.yaml_text", "ei.common.checks")


@pytest.mark.parametrize(
    "module", [name for name in MODULES if name.startswith(EXAMPLES)]
)  # fmt: skip
def test_the_examples_in_docstrings_run(module: str) -> None:
    """Those of the public API run in test_docstrings.py."""
    result = doctest.testmod(importlib.import_module(module))
    assert result.failed == 0 and result.attempted > 0


# ---- what is dropped is freed ------------------------------------------------------------------------------------


def test_operators_that_are_dropped_are_freed() -> None:
    """Their matrices go with the last operator of a geometry; equal ones share them."""
    key = (Geometry(24, 7), torch.device("cpu"), torch.float32)
    first, second = CT(24, 7), CT(24, 7)
    matrices = weakref.ref(radon_map(*key))
    assert matrices() is first.projection(*key[-2:]) is second.projection(*key[-2:])
    del first
    gc.collect()
    assert matrices() is not None
    del second
    gc.collect()
    assert matrices() is None


def test_a_run_lock_as_windows_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There an open file can be neither renamed nor removed."""
    lock = RunLock(tmp_path)
    allowed = {name: getattr(Path, name) for name in ("replace", "unlink")}

    def guarded(name: str):
        def call(path: Path, *arguments, **options):
            if not lock._file.closed:
                raise PermissionError(32, "The process cannot access the file because it is being used")
            return allowed[name](path, *arguments, **options)

        return call

    for name in allowed:
        monkeypatch.setattr(Path, name, guarded(name))
    lock.release()
    assert not list(tmp_path.iterdir())
    again = RunLock(tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(PermissionError(32, "in use")))
    again.release()  # somebody has opened it since: it is theirs now
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] in ([LOCK], [f"{LOCK}.tmp"])


def test_a_lock_is_released_for_others(tmp_path: Path) -> None:
    first = RunLock(tmp_path)
    first.release()
    second = RunLock(tmp_path)
    assert (tmp_path / LOCK).exists()
    second.release()
    with pytest.raises(InputError):
        RunLock(tmp_path / "nowhere")
