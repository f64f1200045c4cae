"""From what was typed and what files say to the options of a run; and from there to ``config.yaml``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ei.commands.operators import code_needed, read_physics_file, resolved_physics
from ei.commands.options import OPTIONS, Option, Options, add_options, flag
from ei.commands.parser import Parser
from ei.commands.parts import ignored_by
from ei.commands.presets import METHODS, TASKS, UNKNOWN_NOISE
from ei.common.files import read_yaml
from ei.common.user_code import absolute, is_user_code
from ei.errors import InputError
from ei.physics.noise import UNKNOWN
from ei.training.state import rules_of

SCHEDULES = ("schedule", "cos", "one_cycle")


def parser_of(command: str, prog: str, description: str | None, choices: Mapping[str, Any] | None = None) -> Parser:
    """The parser of a command: its options from the table."""
    parser = Parser(prog=prog, description=description)
    return add_options(parser, command, {"task": list(TASKS), "method": list(METHODS), **(choices or {})})


def read_options(parser: Parser, arguments: Sequence[str], yaml_parser: Parser | None = None) -> dict[str, Any]:
    """The options that were given: those of the --config files, overridden by the command line's. The files are
    ``yaml_parser``'s, if there is one."""
    flags = vars(parser.parse(arguments))
    from_file: dict[str, Any] = {}
    for path in flags.get("config", []):
        found = vars((yaml_parser or parser).parse_yaml(path, ignored=("versions",)))
        if "versions" in read_yaml(path):  # a run's own: those of before there were other rules do not say theirs
            found.setdefault("rules", 1)
        from_file = _without_replaced_schedules(from_file, found) | found
    instead = {"device": "gpu", "gpu": "device", "data": "measurements", "measurements": "data"}
    for option, other in instead.items():  # what the command line says replaces the file's, under either name
        if option in flags and other not in flags:
            from_file.pop(other, None)
            if other == "measurements":
                from_file.pop("truth", None)
    if from_file.get("measurements") is not None:  # run folders of before wrote the default --data, too
        from_file.pop("data", None)
    typed = {name: True for name in SCHEDULES if flags.get(name, False) is not False}  # an empty --schedule is one, too
    given = {**_without_replaced_schedules(from_file, typed), **flags}
    for name in ("physics", "group"):
        if is_user_code(given.get(name)):
            given[name] = absolute(given[name])
    physics = given.get("physics")
    if isinstance(physics, str) and not is_user_code(physics):
        given["physics"] = read_physics_file(physics)
    elif isinstance(physics, Mapping):
        given["physics"] = resolved_physics(physics, Path(), "the physics of --config")
    return given


def _without_replaced_schedules(options: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` without their learning-rate schedules, if those ``over`` them choose one."""
    chosen = any(over.get(name) for name in SCHEDULES)
    return {name: value for name, value in options.items() if not (chosen and name in SCHEDULES)}


def defaults_for(task: str | None) -> dict[str, Any]:
    """The defaults of a task (None: of a small run without one) for all options of the table."""
    values = {name: entry.default_for(task) for name, entry in OPTIONS.items()}
    values |= TASKS[task].defaults if task is not None else {}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def resolve(given: Mapping[str, Any], resumed: Mapping[str, Any] | None = None) -> Options:
    """All options: what was given, over the resumed run's, over the defaults. Says which given ones have no effect.

    Raises:
        InputError: for options that exclude each other, or that are missing.
    """
    resumed = resumed or {}
    known_here = {name: value for name, value in resumed.items() if name in OPTIONS}
    chosen = {**_without_replaced_schedules(known_here, given), **given}
    for option, other in (("data", "measurements"), ("measurements", "data")):
        if given.get(option) is not None and given.get(other) is None:
            chosen.pop(other, None)
            if given.get("truth") is None:  # of other measurements
                chosen.pop("truth", None)
    task, physics = chosen.get("task"), chosen.get("physics")
    if task is None and physics is None:
        raise InputError(f"--task is needed: one of {', '.join(TASKS)}; or --physics, for an operator of your own")
    if given.get("measurements") is not None and given.get("data") is not None:
        raise InputError("--measurements are instead of the images of --data: give one of them")
    for name, known in (("task", TASKS), ("method", METHODS)):  # the parser has looked at what was given, not at files
        if chosen.get(name) not in (None, *known):
            raise InputError(f"there is no {name} {chosen[name]!r} here: {', '.join(known)}")
    defaults = defaults_for(task)
    data = chosen.get("data", defaults["data"])
    for name, value in given.items():
        entry = OPTIONS[name]
        if entry.tasks is not None and value is not None and (physics is not None or task not in entry.tasks):
            lacks = "an operator of --physics" if physics is not None else f"--task {task}"
        elif value == defaults[name]:
            continue
        elif entry.images and chosen.get("measurements") is not None:
            lacks = "--measurements"
        elif entry.images and data is not None and (lacks := ignored_by(data, name, chosen)):
            pass
        else:
            others = {other: chosen.get(other, defaults[other]) for other in entry.needs}
            lacks = next((f"{flag(o)} {v}" for o, v in others.items() if v not in entry.needs[o]), "")
        if lacks:
            print(f"note: {flag(name)} has no effect on {lacks}")
            chosen.pop(name, None)
    of_physics = physics.get("noise") if isinstance(physics, Mapping) else None
    named = chosen.get("noise")
    if named == UNKNOWN:
        _check_unknown(chosen)
        named = None
    if sum(1 for noise in (named, chosen.get("noise_sigma"), of_physics) if noise) > 1:
        raise InputError("--noise, --noise-sigma and the noise in the file of --physics contradict each other: "
                         "give one of them")  # fmt: skip
    # A schedule that was chosen replaces the one that was not.
    if "schedule" in chosen or any(chosen.get(name) for name in SCHEDULES):
        defaults |= {name: [] if name == "schedule" else False for name in SCHEDULES}
    options = Options(**{**defaults, **chosen})
    if options.measurements is not None:
        options.data = None
    if options.truth is not None and options.measurements is None:
        raise InputError("--truth are the images of --measurements: give those, too")
    if options.data is None and options.measurements is None:
        raise InputError("--data (images to simulate measurements of) or --measurements are needed without --task")
    return options


def _check_unknown(chosen: Mapping[str, Any]) -> None:
    """Raise unless ``--noise unknown`` can be trained with."""
    if chosen.get("method") not in UNKNOWN_NOISE:
        raise InputError(
            f"--noise unknown is for --method {' and '.join(UNKNOWN_NOISE)}, which find its level (UNSURE), not for "
            f"{chosen.get('method', OPTIONS['method'].default)}"
        )
    if chosen.get("measurements") is not None and chosen.get("noise_sigma"):
        raise InputError("--noise unknown and --noise-sigma contradict each other: give one of them")
    if chosen.get("measurements") is None and not chosen.get("noise_sigma"):
        raise InputError(
            "--noise unknown is of --measurements; with images of --data give --noise-sigma, too: it is simulated, and "
            "the training is not told"
        )


def config_of(state: Mapping[str, Any]) -> dict[str, Any]:
    """The options in a checkpoint of ours, with the rules that the run goes on by."""
    return {"held_out": None, **state["config"], "rules": rules_of(state)}


def run_config(options: Options) -> dict[str, Any]:
    """What a checkpoint keeps, and ``config.yaml`` begins with: the options that change what is computed."""
    return {name: value for name, value in _means_something(options).items() if OPTIONS[name].scope == "run"}


def machine_config(options: Options) -> dict[str, Any]:
    """What ``config.yaml`` holds beside it."""
    return {name: value for name, value in _means_something(options).items() if OPTIONS[name].scope == "machine"}


def _means_something(options: Options) -> dict[str, Any]:
    def holds(entry: Option) -> bool:
        return entry.tasks is None or (options.task in entry.tasks and options.physics is None)

    return {
        name: getattr(options, name) for name, entry in OPTIONS.items() if "train" in entry.commands and holds(entry)
    }


def check_code_is_given(options: Options, given: Mapping[str, Any], path: str) -> None:
    """Raise if ``options``, resumed from the checkpoint ``path``, name code of one's own that was not ``given`` now."""
    for name in ("physics", "group"):
        text = getattr(options, name)
        if is_user_code(text) and given.get(name) is None:
            raise InputError(code_needed(f"run of {path}", text, flag(name)))


def check_same_run(given: Mapping[str, Any], state: Mapping[str, Any], path: str) -> None:
    """Raise if ``given`` contradicts what the checkpoint's run is; say what else changes."""
    config = config_of(state)
    # An option that is newer than the run had its default in it (of the fixed ones, what it had is compared elsewhere).
    # A task that is not known is told where the run is built.
    task = config.get("task")
    defaults = {
        name: value
        for name, value in defaults_for(task if task in TASKS else None).items()
        if name in given and not OPTIONS[name].fixed
    }
    for name, before in {**defaults, **config}.items():
        entry, now = OPTIONS.get(name), given.get(name, before)
        if entry is None or now == before or entry.scope != "run" or entry.tasks is not None:
            continue  # what the task's physics depends on is compared when that is built
        if any(config.get(other) not in values for other, values in entry.needs.items() if other in config):
            continue  # it means nothing to this run
        if entry.fixed or (name == "physics" and is_user_code(now) != is_user_code(before)):
            raise InputError(f"{flag(name)} {now} contradicts the checkpoint {path}, whose run has {before}")
        if name == "batch_size" and state["next_batch"]:
            raise InputError(
                f"{flag(name)} {now} contradicts the checkpoint {path}, which is in the middle of an epoch of batches "
                f"of {before}"
            )
        print(f"note: the run continues with {flag(name)} {now}; it had {before}")
        kinds = {"one_cycle": "one-cycle", "cos": "cosine"}
        kind = next((word for key, word in kinds.items() if given.get(key, config.get(key))), None)
        if name == "epochs" and kind is not None:
            print(f"warning: the {kind} schedule depends on --epochs: the learning rates so far were those of "
                  f"{before} epochs, those to come are of {now}", file=sys.stderr)  # fmt: skip
