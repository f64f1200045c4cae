"""Physics and networks as plain values, so that a checkpoint alone suffices to build them again."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from ei.errors import InputError


def describe(part: Any) -> dict[str, Any] | None:
    """The class name and the constructor's arguments of a physics or network of ours, which tells them as ``config``;
    None for others: a class of somebody else's may bear the name of one of ours."""
    config = getattr(part, "config", None)
    ours = type(part).__module__.startswith(__name__.split(".", 1)[0] + ".")
    return {"name": type(part).__name__, **config} if ours and isinstance(config, dict) else None


def rebuild(
    description: Mapping[str, Any] | None, package: ModuleType, *, where: str = "the checkpoint", **more: Any
) -> Any:
    """Build what `describe` described from the classes of ``package`` (`ei.physics`, `ei.models`).

    Args:
        description: ``name`` and the constructor's arguments.
        package: its ``__all__`` names the classes.
        where: what holds the description, for messages.
        more: further arguments.

    Raises:
        InputError: if the description is None, names no class of the package, or its arguments do not fit.
    """
    arguments = dict(description or {})
    name = arguments.pop("name", None)
    classes = {cls for cls in package.__all__ if isinstance(getattr(package, cls), type)}
    if not isinstance(name, str) or name not in classes:
        near = difflib.get_close_matches(str(name), classes, n=1)
        raise InputError(
            f"{where} does not say how to build its {package.__name__.removeprefix('ei.')}"
            + (f" ({name} is no class of {package.__name__})" if name else " (it names no class)")
            + (f"; did you mean {near[0]}?" if near else "")
        )
    made = getattr(package, name)
    parameters = inspect.signature(made).parameters
    taken = [argument for argument in parameters if argument not in more]
    unknown = [argument for argument in arguments if argument not in taken]
    if unknown and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        raise InputError(
            f"{where} gives {name} {', '.join(map(str, unknown))}, which it does not take: it takes {', '.join(taken)}"
        )
    try:
        return made(**arguments, **more)
    except InputError:
        raise
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise InputError(f"{where} describes no {name} that can be built: {error}") from error
