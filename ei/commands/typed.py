"""From the words of a command line to the tree of a run: presets, files, everyday flags, ``part.key=value``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ei.commands import presets
from ei.commands.flags import BY_NAME, FLAGS, UNKNOWN, Flag, apply_flags, check_unknown_noise
from ei.commands.parser import Parser
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
from ei.common.user_code import absolute, is_user_code
from ei.errors import InputError


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
        if self.flags.get("noise") == UNKNOWN:
            check_unknown_noise(tree)
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
