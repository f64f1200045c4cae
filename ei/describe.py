"""Physics and networks as plain values, so that a checkpoint alone suffices to build them again."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from ei.errors import InputError


def describe(part: Any) -> dict[str, Any] | None:
    """The class name and the constructor's arguments of a physics or network that tells them as ``config``; None for
    others (a user's own class need not)."""
    config = getattr(part, "config", None)
    return {"name": type(part).__name__, **config} if isinstance(config, dict) else None


def rebuild(description: Mapping[str, Any] | None, package: ModuleType, **more: Any) -> Any:
    """Build what `describe` described from the classes of ``package`` (`ei.physics`, `ei.models`).

    Raises:
        InputError: if the description is None or names no class of the package.
    """
    arguments = dict(description or {})
    name = arguments.pop("name", None)
    if name not in package.__all__:
        raise InputError(
            f"the checkpoint does not say how to build its {package.__name__.removeprefix('ei.')}"
            + (f" ({name} is no class of {package.__name__})" if name else "")
        )
    try:
        return getattr(package, name)(**arguments, **more)
    except InputError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"the checkpoint describes no {name} that can be built: {error}") from error
