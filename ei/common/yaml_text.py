"""YAML as people expect it: 1e-3 is a number, 010 is ten, and a key stands once."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml

from ei.errors import InputError, MissingFileError


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the numbers of YAML 1.2 and without duplicate keys."""

    # PyYAML shares this table between classes: numbers of YAML 1.1 (octal 010, sexagesimal 1:30, 1_000) are left out.
    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":int", ":float", ":timestamp"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if str(key.value) in seen:
                problem = f"the key {key.value!r} stands twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def _int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    return int(text, 0 if text.lstrip("+-")[:2] in ("0x", "0o") else 10)


def _float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return float(str(loader.construct_scalar(node)).lower().replace(".inf", "inf").replace(".nan", "nan"))


_FIRST = list("-+0123456789.")
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(?:[0-9]+|0x[0-9a-fA-F]+|0o[0-7]+)$"), _FIRST)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$|[-+]?\.inf$|\.nan$|\.NaN$"),
    _FIRST,
)
_Loader.add_constructor("tag:yaml.org,2002:int", _int)
_Loader.add_constructor("tag:yaml.org,2002:float", _float)


def parse_yaml(text: str, where: str) -> Any:
    """The plain values of a YAML text.

    Args:
        text: the YAML.
        where: what it is, for messages.

    Raises:
        InputError: naming the line, for a text that is no YAML, or a key that stands twice.

    >>> parse_yaml("{lr: 5e-4, epochs: 010}", "the text")
    {'lr': 0.0005, 'epochs': 10}
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = "" if mark is None else f", line {mark.line + 1}"
        raise InputError(f"{where}{line} cannot be read as YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{where} cannot be read as YAML: {' '.join(str(error).split())}") from error


def read_yaml(path: str | os.PathLike, what: str = "configuration file") -> dict[str, Any]:
    """The mapping in a YAML file; empty where the file is. Raises `InputError` if it holds something else."""
    file = Path(path)
    if not file.exists():
        raise MissingFileError(f"there is no {what} {path}; check the path")
    if file.is_dir():
        raise InputError(f"the {what} {path} is a folder; give the path of a file in it")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"the {what} {path} cannot be read: {' '.join(str(error).split())}") from error
    content = parse_yaml(text, f"the {what} {path}")
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(f"the {what} {path} must hold keys and values, got {content!r:.60}")
    return content
