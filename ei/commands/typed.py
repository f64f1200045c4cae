"""From the words of a command line to the tree of a run: presets, files, everyday flags, ``part.key=value``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from ei.commands import presets
from ei.commands.flags import BY_NAME, FLAGS, Flag, apply_flags
from ei.commands.tree import (
    CLASSES,
    DEFAULT_NAMES,
    Tree,
    assign,
    is_assignment,
    merge,
    overlay,
    read_tree,
    walk_texts,
)
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
    """What a person typed.

    Attributes:
        flags: the everyday flags, by name.
        options: the options of the command itself.
        files: the trees of the files.
        assignments: ``part.key=value``.
    """

    flags: dict[str, Any]
    options: dict[str, Any]
    files: list[Tree] = field(default_factory=list)
    assignments: list[str] = field(default_factory=list)

    def over(self, base: Mapping[str, Any]) -> Tree:
        """``base`` with all that was typed laid over it."""
        tree = dict(base)
        for content in self.files:
            tree = overlay(tree, content)
        tree = apply_flags(tree, {name: value for name, value in self.flags.items() if name in BY_NAME})
        for text in self.assignments:
            tree = assign(tree, text)
        return tree

    def tree(self) -> Tree:
        """The tree of a new run: over the problem of ``--task``; of a run without one, parts that nothing says are
        those of a small run."""
        task = self.flags.get("task")
        base = {} if task is None else presets.problem(task)
        for content in self.files:
            base = overlay(base, content)
        base = _with_missing_parts(base)
        return Typed(self.flags, {}, [], self.assignments).over(base)

    @property
    def code(self) -> set[str]:
        """The user-defined code that was typed, as ``FILE.py:NAME`` with absolute paths."""
        texts = {absolute(value) for value in self.flags.values() if is_user_code(value)}
        changes: Tree = {}
        for text in self.assignments:
            part = text.partition("=")[0].split(".")[0]
            changes = merge(changes, {f"{part}{len(changes)}": assign({}, text)})
        return texts | {text for text in walk_texts([self.files, changes]) if is_user_code(text)}

    @property
    def changes(self) -> Tree:
        """The keys that files and assignments say, as a tree."""
        tree: Tree = {}
        for content in self.files:
            tree = merge(tree, content)
        for text in self.assignments:
            tree = assign(tree, text)
        return tree


def _with_missing_parts(tree: Tree) -> Tree:
    small = presets.problem(None)
    for key, part in small.items():
        given = tree.get(key)
        if key not in tree:
            tree[key] = part
        elif isinstance(given, Mapping) and key in CLASSES and "name" not in given and key not in DEFAULT_NAMES:
            tree[key] = merge(part, given)
    return tree


def read_typed(parser: Parser, words: Sequence[str]) -> Typed:
    """Read a command line.

    Raises:
        InputError: for words that are no options, files or keys.
    """
    assignments = [word for word in words if is_assignment(word)]
    values = vars(parser.parse([word for word in words if not is_assignment(word)]))
    paths = [*values.pop("config", []), *values.pop("trees", [])]
    for path in paths:
        if not path.endswith((".yaml", ".yml")):
            raise InputError(f"{path} must be a file of a tree (.yaml), or a key as trainer.epochs=3")
    flags = {name: value for name, value in values.items() if name in BY_NAME}
    options = {name: value for name, value in values.items() if name not in BY_NAME}
    return Typed(flags, options, [read_tree(path) for path in paths], assignments)


def add_flags(parser: Parser, flags: Sequence[Flag] | None = None, **help_texts: str) -> Parser:
    """Give a parser everyday flags, all of them by default, in named groups; with other help texts where given."""
    groups: dict[str, Any] = {}
    for flag in FLAGS if flags is None else flags:
        group = groups.get(flag.group) or parser.add_argument_group(flag.group)
        groups[flag.group] = group
        names = [*([flag.alias] if flag.alias else []), "--" + flag.name.replace("_", "-")]
        more: dict[str, Any] = {"help": help_texts.get(flag.name, flag.help), "dest": flag.name}
        if flag.kind is None:
            more["action"] = "store_true"
        else:
            more |= {"type": flag.kind, "nargs": flag.nargs, "metavar": flag.metavar, "choices": flag.choices}
        group.add_argument(*names, **more)
    parser.add_argument("trees", nargs="*", metavar="TREE.yaml | part.key=value", help="trees of parts, and keys")
    return parser


def chosen_flags(*names: str) -> list[Flag]:
    """Some of the everyday flags, for a command that has not all of them."""
    return [BY_NAME[name] for name in names]
