"""The parts of a run as plain values, ``{name: Class, argument: value}``, and the objects that they describe.

A name is one of the classes that the caller passes, or ``FILE.py:NAME``. Arguments that are parts themselves are built
first, so that parts nest. The context fills in what a part lacks and its constructor takes.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, NamedTuple

from ei.common.user_code import error_in_a_line, import_user_code, is_user_code
from ei.errors import InputError

Classes = Mapping[str, Callable[..., Any]]


@dataclass(frozen=True)
class Context:
    """Arguments of constructors that a tree may leave out.

    Attributes:
        sizes: plain values, which become part of the description. A value that is a function is called when needed.
        objects: other objects (network, operator, device), which a tree cannot give.
        nested: the classes and functions that an argument may name.
        trusted: whether code that the description names may be run; never for checkpoints.
    """

    sizes: Mapping[str, Any] = field(default_factory=dict)
    objects: Mapping[str, Any] = field(default_factory=dict)
    nested: Classes = field(default_factory=dict)
    trusted: bool = True


class Built(NamedTuple):
    """An object, and its description with the sizes that the context filled in."""

    object: Any
    description: dict[str, Any]


def describe(part: Any) -> dict[str, Any] | None:
    """The class name and the constructor's arguments of a part of this project, which has them as ``config``; None for
    others: a user-defined class may have the name of one of ours."""
    config = getattr(part, "config", None)
    is_ours = type(part).__module__.startswith(__name__.split(".", 1)[0] + ".")
    return {"name": type(part).__name__, **config} if is_ours and isinstance(config, dict) else None


def classes_of(room: ModuleType, base: type, *without: type) -> dict[str, Callable[..., Any]]:
    """The public classes of a room that derive from ``base``, but not from ``without``, by name."""
    found = {name: getattr(room, name) for name in room.__all__}
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, type) and issubclass(value, base) and value is not base and not issubclass(value, without)
    }


def normalized(description: Any, path: str) -> dict[str, Any]:
    """A description as a dict with ``name``; a text is a name without arguments. Raises `InputError` for anything
    else."""
    if isinstance(description, str):
        return {"name": description}
    if not isinstance(description, Mapping):
        raise InputError(f"{path} must be {{name: Class, argument: value}}, got {description!r}")
    return dict(description)


def find(name: Any, classes: Classes, path: str) -> Callable[..., Any]:
    """What a name stands for: one of ``classes``, or what ``FILE.py:NAME`` names, which is imported. Raises
    `InputError`, listing the valid names."""
    if is_user_code(name):
        return import_user_code(name)
    if isinstance(name, str) and name in classes:
        return classes[name]
    problem = f"{path}.name is missing" if name is None else f"{path}.name must be a class, got {name!r}"
    raise InputError(f"{problem}; it is one of {', '.join(classes)}, or FILE.py:NAME{suggestion(name, classes)}")


def suggestion(word: Any, valid: Iterable[str]) -> str:
    """What an unknown word may have meant, as the end of a message; empty if nothing is near."""
    near = difflib.get_close_matches(str(word), list(valid), n=1)
    return f"; did you mean {near[0]}?" if near else ""


class Signature(NamedTuple):
    """The arguments that a class or function takes, by name; whether it takes any other; the name of ``*arguments``."""

    parameters: dict[str, inspect.Parameter]
    takes_any: bool
    variadic: str | None

    @property
    def required(self) -> set[str]:
        return {name for name, parameter in self.parameters.items() if parameter.default is parameter.empty}


def signature_of(make: Callable[..., Any]) -> Signature:
    """The arguments of a class or function; ``**shared`` of a constructor stands for those of its base classes. Other
    objects, which user-defined code may be, take none."""
    parameters: dict[str, inspect.Parameter] = {}
    variadic = None
    for function in _constructors(make):
        forwards = False
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                forwards = True
            elif parameter.kind is parameter.VAR_POSITIONAL:
                variadic = variadic or name
            elif name != "self":
                parameters.setdefault(name, parameter)
        if not forwards:
            return Signature(parameters, False, variadic)
    return Signature(parameters, callable(make) and not inspect.isclass(make), variadic)


def _constructors(make: Callable[..., Any]) -> list[Callable[..., Any]]:
    if not inspect.isclass(make):
        return [make] if callable(make) else []
    # torch's and Python's own base classes take anything and use none of it.
    mro = [cls for cls in make.__mro__ if cls is make or not cls.__module__.startswith(("torch.nn", "torch.utils"))]
    constructors = [vars(cls)["__init__"] for cls in mro if "__init__" in vars(cls) and cls is not object]
    has_new = make.__new__ is not object.__new__  # as a NamedTuple
    return constructors or ([make] if has_new else [])


def missing_arguments(description: Mapping[str, Any], make: Callable[..., Any], nested: Classes) -> set[str]:
    """The required arguments that a description, or one of the parts in it, lacks."""
    missing = signature_of(make).required - {*description}
    for value in description.values():
        if isinstance(value, Mapping) and value.get("name") in nested:
            missing |= missing_arguments(value, nested[value["name"]], nested)
    return missing


def build(description: Any, classes: Classes, path: str, context: Context | None = None) -> Built:
    """The object that a description describes.

    Args:
        description: ``{name: Class, argument: value}``, or a name.
        classes: what names stand for.
        path: of the part in the tree, for messages.
        context: arguments that the tree may leave out.

    Raises:
        InputError: for an unknown name or argument (with the valid ones), a missing one, or what the constructor
            raises; with the full path of the key.

    >>> import fractions
    >>> build({"name": "Fraction", "numerator": 3}, {"Fraction": fractions.Fraction}, "share").object
    Fraction(3, 1)
    """
    context = context or Context()
    arguments = normalized(description, path)
    name = arguments.pop("name", None)
    if is_user_code(name) and not context.trusted:
        raise InputError(f"{path} names code, {name}, which is imported only if it is typed: name it again")
    make = find(name, classes, path)
    if is_user_code(name) and not (inspect.isclass(make) or inspect.isroutine(make)):
        if arguments:
            raise InputError(f"{path}: {name} is an object and takes no arguments, got {', '.join(arguments)}")
        return Built(make, {"name": name})
    signature = signature_of(make)
    _check_arguments(arguments, signature, path, str(name), context)
    filled = _sizes_for(arguments, signature, context)
    values = {key: _build_nested(value, f"{path}.{key}", context) for key, value in arguments.items()}
    values |= filled | {key: value for key, value in context.objects.items() if key in signature.parameters}
    for key in sorted(signature.required - {*values}):
        raise InputError(f"{path}.{key} is missing: {name} needs it")
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in filled.items()}
    return Built(_call(make, values, signature, path, str(name)), {"name": name, **arguments, **plain})


def _sizes_for(arguments: Mapping[str, Any], signature: Signature, context: Context) -> dict[str, Any]:
    sizes = {key: value for key, value in context.sizes.items() if key in signature.parameters and key not in arguments}
    return {key: value() if callable(value) else value for key, value in sizes.items()}


def _check_arguments(
    arguments: Mapping[str, Any], signature: Signature, path: str, name: str, context: Context
) -> None:
    """Raise unless a class takes all of the arguments, and none is one that the run sets; lists the valid ones."""
    valid = [key for key in signature.parameters if key not in context.objects]
    valid += [signature.variadic] if signature.variadic else []
    for key in arguments:
        if key in context.objects or (key not in valid and not signature.takes_any):
            listed = ", ".join(valid) or "no arguments"
            raise InputError(f"{path}.{key} is unknown: {name} takes {listed}{suggestion(key, valid)}")


def _build_nested(value: Any, path: str, context: Context) -> Any:
    if isinstance(value, Mapping) and "name" in value:
        return build(value, context.nested, path, context).object
    if isinstance(value, list) and value and all(isinstance(one, Mapping) and "name" in one for one in value):
        return [_build_nested(one, f"{path}.{index}", context) for index, one in enumerate(value)]
    return value


def _call(make: Callable[..., Any], values: dict[str, Any], signature: Signature, path: str, name: str) -> Any:
    positional = values.pop(signature.variadic, []) if signature.variadic else []
    try:
        return make(*positional, **values)
    except InputError as error:
        raise type(error)(_with_path(str(error), path, signature)) from error
    except (Exception, SystemExit) as error:  # whatever user-defined code or a constructor raises
        if not is_user_code(name) and not isinstance(error, (TypeError, ValueError, RuntimeError, AttributeError)):
            raise
        raise InputError(f"{path}: {name} could not be built: {error_in_a_line(error)}") from error


def _with_path(message: str, path: str, signature: Signature) -> str:
    """A constructor's message with the full path of the key that it begins with."""
    first = re.match(r"\w+", message)
    return f"{path}.{message}" if first and first[0] in signature.parameters else f"{path}: {message}"
