"""Files: names and paths."""

from __future__ import annotations

import errno
import os
import warnings
from pathlib import Path

import pytest
import yaml

from ei.common.files import identity_of, natural_order, writing
from ei.common.scripts import run_script
from ei.common.yaml_text import parse_yaml, read_yaml
from ei.errors import InputError, StorageError


def test_natural_order() -> None:
    names = ["y_10.npy", "y_2.npy", "y_1.npy", "y_02.npy", "x.npy", "9.npy", "y.npy", "y_2b.npy", "10.npy"]
    wanted = ["9.npy", "10.npy", "x.npy", "y.npy", "y_1.npy", "y_02.npy", "y_2.npy", "y_2b.npy", "y_10.npy"]
    assert sorted(names, key=natural_order) == wanted
    padded = [f"y_{number:03d}.npy" for number in range(12)]
    assert sorted(padded, key=natural_order) == padded  # what was in order stays in it


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e1", 10.0),
        ("5e-4", 5e-4),
        ("-1E+3", -1000.0),
        ("1.5", 1.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("-.inf", -float("inf")),
        ("010", 10),
        ("-007", -7),
        ("0", 0),
        ("0x1F", 31),
        ("0o17", 15),
        ("12:30", "12:30"),
        ("1e", "1e"),
        ("e1", "e1"),
        ("1.2.3", "1.2.3"),
        ("-", [None]),
        ("a.h5:y", "a.h5:y"),
        ("true", True),
        ("null", None),
        ("'1e1'", "1e1"),
    ],
)
def test_numbers_in_yaml(text: str, value: object) -> None:
    found = parse_yaml(f"{{start: {text}}}", "the text")["start"] if text != "-" else parse_yaml(text, "the text")
    assert found == value and type(found) is type(value)


def test_floats_survive_yaml() -> None:
    values = {"a": 1e-5, "b": 1e300, "c": 0.1, "d": 123456789, "e": "text", "f": [1.0, None], "g": "010", "h": True}
    assert parse_yaml(yaml.safe_dump(values), "the text") == values


@pytest.mark.parametrize("text", ["lr: 1\nalpha: 2\nlr: 3\n", "a:\n  lr: 1\n  lr: 1\n", "{lr: 1,\n\n lr: 2}"])
def test_a_key_that_comes_twice(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError, match=r"c\.yaml, line 3 cannot be read as YAML: the key 'lr' stands twice"):
        read_yaml(tmp_path / "c.yaml")
    assert parse_yaml("a: {lr: 1}\nb: {lr: 2}\nc: &c {d: 1}\ne: {<<: *c, d: 2}", "the text")["e"] == {"d": 2}


@pytest.mark.parametrize(
    "text", ["a: [1", "\t- a", "- 1\n", "{[1]: 2", "? {a: 1}\n: 2\n", "!!python/object:os.system {}"]
)
def test_damaged_yaml(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError, match=r"c\.yaml") as error:
        read_yaml(tmp_path / "c.yaml")
    assert "\n" not in str(error.value)


def test_a_folder_is_another_when_a_file_in_it_is_written_over(tmp_path: Path) -> None:
    """As the pages of a scan are, whose folder keeps its own time."""
    page = tmp_path / "p_1.tif"
    page.write_bytes(b"old")
    before = identity_of([tmp_path])
    assert identity_of([tmp_path]) == before
    page.write_bytes(b"newer")
    assert identity_of([tmp_path]) != before


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "Make room, then"), (errno.EACCES, "Correct that, then"), (errno.EROFS, "Correct that, then")],
)
def test_room_is_advised_for_a_full_disk_alone(number: int, advice: str) -> None:
    with (
        pytest.raises(StorageError, match=rf"x\.npy could not be written: .*{advice} again"),
        writing(Path("x.npy"), "Make room, then again"),
    ):
        raise OSError(number, os.strerror(number))


def test_a_command_prints_a_warning_once(capsys: pytest.CaptureFixture) -> None:
    """Also one that comes from several lines."""

    def warns() -> None:
        warnings.warn("few views", stacklevel=1)
        warnings.warn("few views", stacklevel=1)

    with pytest.raises(SystemExit), warnings.catch_warnings():
        warnings.simplefilter("always")
        run_script("ei test", warns)
    assert capsys.readouterr().err == "ei test: warning: few views\n"


def test_a_command_without_permission_ends_in_one_line(capsys: pytest.CaptureFixture) -> None:
    """Wherever it writes: figures and tables of results, too."""

    def fails() -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "results.csv")

    with pytest.raises(SystemExit) as error:
        run_script("ei test", fails)
    assert error.value.code == 1
    assert capsys.readouterr().err == (
        "ei test: stopped: a file results.csv could not be read or written: Read-only file system\n"
    )
