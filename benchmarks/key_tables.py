"""The tables of docs/reference/run_keys.md: the keys of each part of a tree, from signatures and docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

from ei.commands.tree import CLASSES, DATASETS
from ei.common.parts import signature_of

Rows = list[list[str]]

# What is built from other parts, which a tree cannot say.
OBJECTS = {
    "device", "noise", "net", "physics", "f", "transform", "closure", "optimizers", "schedule", "validation",
    "report_psnr", "out", "config", "method", "on_epoch_end", "dtype",
}  # fmt: skip
# What follows from the data or other parts where the tree does not say it.
FOLLOWS = {
    "img_width", "img_height", "image_shape", "width", "height", "in_channels", "out_channels", "input_shape",
    "img_size", "mode",
}  # fmt: skip
FOLLOWS_IN = {("UNSUREClosure", "sigma"), ("cosine_schedule", "epochs"), ("one_cycle_schedule", "epochs")}


# Types as a tree has them.
KINDS = {
    r"\bos\.PathLike\b": "path", r"\bSource\b": "path or list", r"\bLimits\b": "list of two", r"\bnn\.Module\b": "part",
    r"\b(?:Sequence|Iterable)\[(\w+)\]": r"list of \1",
}  # fmt: skip
# Base classes, and what a tree says otherwise: data.tile, data.measurements with data.truth, --average-over.
NOT_LISTED = {
    "Physics", "Noise", "Transform", "Closure", "TiledInpainting", "Tiles", "Pairs", "Measurements", "GroupAverage",
}  # fmt: skip


def keys(part: str) -> Rows:
    """A row for each class of a part, with the first line of its docstring, and for each of its arguments."""
    rows = [["key", "type", "default", "meaning"]]
    earlier: set[tuple[str, str]] = set()
    for name, make in (DATASETS if part == "data" else CLASSES[part]).items():
        if name in NOT_LISTED:
            continue
        rows.append([f"**`{name}`**", "", "", summary(make)])
        for key, kind, default, meaning in arguments_of(name, make):
            rows.append([key, kind, default, "as above" if meaning and (key, meaning) in earlier else meaning])
            earlier.add((key, meaning))
    return rows


def summary(make: Callable[..., Any]) -> str:
    """The first sentence of a docstring."""
    first = inspect.cleandoc(make.__doc__ or "").split("\n\n")[0]
    return cell(re.split(r"(?<=[a-z)`])\. (?=[A-Z`])", " ".join(first.split()))[0])


def cell(text: str) -> str:
    return text.replace("``", "`").replace("|", "\\|")


def arguments_of(name: str, make: Callable[..., Any]) -> Rows:
    """The arguments of a class or function that a tree may say: key, type, default, meaning."""
    signature = signature_of(make)
    meanings = meanings_of(make)
    rows = []
    for key, parameter in signature.parameters.items():
        if key in OBJECTS:
            continue
        default = "needed" if parameter.default is parameter.empty else plain(parameter.default)
        if key in FOLLOWS or (name, key) in FOLLOWS_IN:
            default = "follows"
        rows.append([f"`{key}`", kind_of(parameter.annotation), default, meanings.get(key, "")])
    if signature.variadic is not None:
        rows.append([f"`{signature.variadic}`", "list of parts", "needed", meanings.get(signature.variadic, "")])
    return rows


def plain(value: Any) -> str:
    """A default as YAML has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return str(list(value))
    return "-" if value in (None, "") or callable(value) else str(value)


def kind_of(annotation: Any) -> str:
    """An annotation in a cell."""
    if annotation is inspect.Parameter.empty:
        return ""
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    for word, plain_word in KINDS.items():
        text = re.sub(word, plain_word, text)
    parts = [part.strip() for part in text.split("|")]
    return " or ".join(part for part in parts if part not in ("None", "Tensor", "Criterion"))


def meanings_of(make: Callable[..., Any]) -> dict[str, str]:
    """What the docstrings of a class and of its base classes say of each argument."""
    meanings: dict[str, str] = {}
    for cls in make.__mro__ if inspect.isclass(make) else [make]:
        for key, text in arguments_section(cls.__doc__ or "").items():
            if not text.startswith("see `"):
                meanings.setdefault(key, text)
    return meanings


def arguments_section(docstring: str) -> dict[str, str]:
    """The section ``Args:`` of a docstring: a text for each name."""
    found = re.search(r"^Args:\n((?:[ ]{4}.*\n?|\n)*)", inspect.cleandoc(docstring), re.MULTILINE)
    entries = re.split(r"\n?^ {4}(?=\S)", found[1] if found else "", flags=re.MULTILINE)
    meanings = {}
    for entry in filter(None, entries):
        names, _, text = entry.partition(":")
        for name in names.split(","):
            meanings[name.strip().lstrip("*")] = cell(" ".join(text.split()))
    return meanings
