"""The house: what may know what, how large its rooms are, and that what is dropped is freed."""

from __future__ import annotations

import ast
import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from ei.errors import InputError
from ei.physics import CT
from ei.physics.ct import radon_map
from ei.training.folder import LOCK, RunLock

EI = ROOT / "ei"
# From the ground up: a room knows only what stands before it here.
FLOORS = ["errors", "common", "metrics", "physics", "transforms", "models", "closure", "datasets", "training",
          "evaluation", "commands", "ei"]  # fmt: skip


def imports(path: Path) -> Iterator[str]:
    """The modules of the project that a file imports when it runs: not those under ``if TYPE_CHECKING``."""

    def walk(node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            if isinstance(child, ast.Import):
                yield from (name.name for name in child.names if name.name.split(".")[0] == "ei")
            elif isinstance(child, ast.ImportFrom) and (child.module or "").split(".")[0] == "ei" and not child.level:
                yield from (f"{child.module}.{name.name}" for name in child.names)
            yield from walk(child)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")))


def files() -> list[Path]:
    return [path for path in sorted(EI.rglob("*.py")) if (path.name != "__main__.py" and path.parent != EI) or
            path.stem in FLOORS]  # fmt: skip


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("path", files(), ids=module_of)
def test_no_import_runs_upwards(path: Path) -> None:
    own = FLOORS.index(module_of(path).split(".")[1])
    for name in imports(path):
        if name in ("ei.__version__", "ei"):
            continue
        room = name.split(".")[1]
        assert FLOORS.index(room) <= own, f"{module_of(path)} imports {name}"


def test_common_and_errors_know_nothing_of_the_rest() -> None:
    for path in [*(EI / "common").glob("*.py"), EI / "errors.py"]:
        assert all(name.split(".")[1] in ("common", "errors") for name in imports(path)), path.name


def test_the_method_knows_nothing_of_runs() -> None:
    """Physics, transforms, models, closures and data import no training, and these four not each other upwards."""
    for room in ("physics", "transforms", "models", "closure", "datasets"):
        for path in (EI / room).glob("*.py"):
            assert not [name for name in imports(path) if name.split(".")[1] in ("training", "evaluation", "commands")]


def test_there_is_no_circle() -> None:
    modules = {module_of(path): path for path in EI.rglob("*.py")}
    edges = {}
    for module, path in modules.items():
        found = {name if name in modules else name.rsplit(".", 1)[0] for name in imports(path)} - {module, "ei"}
        edges[module] = {name for name in found if name in modules}
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way, module))
        if module not in done:
            for other in sorted(edges[module]):
                visit(other, (*way, module))
            done.add(module)

    for module in edges:
        visit(module, ())


def test_sizes() -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in EI.rglob("*.py")}
    assert max(lines.values()) <= 400, max(lines, key=lambda path: lines[path])
    assert lines[EI / "training" / "trainer.py"] <= 280
    loose = [path.name for path in EI.iterdir() if path.is_file()]
    assert len(loose) <= 6, loose


def test_an_option_is_named_in_the_table_and_where_it_is_used() -> None:
    """As an example: the entry, the trainer's argument, and the line that hands it on."""
    places = {path.relative_to(EI).as_posix() for path in EI.rglob("*.py") if "clip_norm" in path.read_text()}
    assert places == {"commands/options.py", "commands/train.py", "training/trainer.py"}


# ---- what is dropped is freed ------------------------------------------------------------------------------------


def test_operators_that_are_dropped_are_freed() -> None:
    """Their matrices go with the last operator of a geometry; equal ones share them."""
    key = (24, 7, True, False, torch.device("cpu"), torch.float32)
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
