"""From the words of a command line to the tree of a run: presets, files, everyday flags, ``part.key=value``."""

from __future__ import annotations

import argparse
import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from ei.commands import presets
from ei.commands.flags import BY_NAME, FLAGS, OF_PHYSICS, apply_flags
from ei.commands.tree import (
    CLASSES,
    DEFAULT_NAMES,
    STAGES,
    Tree,
    assign,
    get,
    is_assignment,
    leaves,
    merge,
    overlay,
    read_tree,
    walk_texts,
)
from ei.common.checks import check_number
from ei.common.parts import suggestion
from ei.common.user_code import absolute, is_user_code
from ei.errors import InputError


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line on stderr (exit code 2), whose options may not be abbreviated, and
    which leaves out what was not given."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            **options,
            add_help=False,
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=30, width=118),
        )
        self.add_argument("-h", "--help", "--h", action="help", help="show this help and exit")

    def error(self, message: str) -> NoReturn:
        raise InputError(message)

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse, suggesting the nearest option for an unknown one."""
        values, unknown = self.parse_known_intermixed_args(arguments)
        if unknown:
            options = [name for action in self._actions for name in action.option_strings]
            near = suggestion(unknown[0].split("=")[0], options)
            raise InputError(f"unknown argument {unknown[0]}{near or '; --help lists the options'}")
        return values


def names_of(valid: Iterable[str]) -> Callable[[str], list[str]]:
    """An option's type: some of the ``valid`` names, with commas."""

    def parse(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",")]
        if not set(names) <= set(valid):
            raise argparse.ArgumentTypeError(f"must be some of {', '.join(valid)}, with commas, got {text!r}")
        return names

    return parse


@dataclass
class Typed:
    """The command line: everyday flags, the options of the command itself, trees, ``part.key=value``, and the stages of
    the last tree that has some."""

    flags: dict[str, Any]
    options: dict[str, Any]
    files: list[Tree]
    assignments: list[str]
    stages: list[Tree] = field(default_factory=list)

    def over(self, base: Mapping[str, Any]) -> Tree:
        """``base`` with all that was typed laid over it."""
        return self._flags_over(functools.reduce(overlay, self.files, dict(base)))

    def tree(self) -> Tree:
        """The tree of a new run: over the problem of ``--task``; without one, missing parts are
        those of a small run."""
        task = self.flags.get("task")
        tree = functools.reduce(overlay, self.files, {} if task is None else presets.problem(task))
        for key, part in presets.problem(None).items():
            typed: Any = tree.get(key, part)
            lacks_name = isinstance(typed, Mapping) and "name" not in typed and key in CLASSES
            tree[key] = merge(part, typed) if lacks_name and key not in DEFAULT_NAMES else typed
        return self._flags_over(tree)

    def _flags_over(self, tree: Tree) -> Tree:
        return functools.reduce(assign, self.assignments, apply_flags(tree, self.flags))

    @property
    def has_physics(self) -> bool:
        """Whether the operator, or a key of it, is among what was typed."""
        keys = [word.split("=")[0].split(".")[0] for word in self.assignments]
        return (
            "physics" in keys or any("physics" in tree for tree in self.files) or not OF_PHYSICS.isdisjoint(self.flags)
        )

    @property
    def code(self) -> set[str]:
        """The user-defined code that was typed, as ``FILE.py:NAME`` with absolute paths."""
        texts = {absolute(value) for value in self.flags.values() if is_user_code(value)}
        typed = [self.files, [assign({}, text) for text in self.assignments]]
        return texts | {text for text in walk_texts(typed) if is_user_code(text)}


def read_typed(parser: Parser, words: Sequence[str]) -> Typed:
    """Read a command line."""
    assignments = [word for word in words if is_assignment(word)]
    values = vars(parser.parse([word for word in words if not is_assignment(word)]))
    paths = [*values.pop("config", []), *values.pop("trees", [])]
    for path in paths:
        if not path.endswith((".yaml", ".yml")):
            raise InputError(f"{path} must be a file of a tree (.yaml), or a key as trainer.epochs=3")
    if "gpu" in values:
        gpu = check_number("--gpu", values.pop("gpu"), integer=True, least=0)
        if values.get("device", "auto") not in ("auto", "cuda", f"cuda:{gpu}"):
            raise InputError(f"--gpu {gpu} and --device {values['device']} contradict each other; give one of them")
        values["device"] = f"cuda:{gpu}"
    flags = {name: value for name, value in values.items() if name in BY_NAME}
    options = {name: value for name, value in values.items() if name not in BY_NAME}
    files = [read_tree(path) for path in paths]
    _note_order(paths, files)
    stages = [found for found in (tree.pop(STAGES, []) for tree in files) if found]
    return Typed(flags, options, files, assignments, stages[-1] if stages else [])


def _note_order(paths: Sequence[str], files: Sequence[Tree]) -> None:
    """Print which keys of a recipe or a budget, files without an operator, are lost to a whole run given after it."""
    for (path, before), (later_path, later) in itertools.combinations(zip(paths, files, strict=True), 2):
        merged = merge(before, later)
        lost = [key for key, value in leaves(before) if get(merged, key) != value]
        if lost and "physics" in later and "physics" not in before:
            keys = ", ".join(lost)
            print(f"note: {later_path} overrides {keys} of {path}: the last tree wins, so give the whole run first")


def add_flags(parser: Parser, *names: str, **help_texts: str) -> Parser:
    """Give a parser everyday flags, all of them by default, in named groups; with other help texts where given."""
    groups: dict[str, Any] = {}
    for flag in FLAGS:
        if names and flag.name not in names:
            continue
        group = groups.get(flag.group) or parser.add_argument_group(flag.group)
        groups[flag.group] = group
        words = [*(["-b"] if flag.name == "batch_size" else []), "--" + flag.name.replace("_", "-")]
        more: dict[str, Any] = {"help": help_texts.get(flag.name, flag.help), "dest": flag.name, **flag.more}
        more |= {"action": "store_true"} if flag.kind is None else {"type": flag.kind, "metavar": flag.metavar}
        group.add_argument(*words, **more)
    parser.add_argument("trees", nargs="*", metavar="TREE.yaml | part.key=value", help="trees of parts, and keys")
    return parser
