"""Train and evaluate cells of the paper's table, and of problems beside it, under a stated budget (from a clone of the
project):

    {prog} --cells ct_ei ct_mc ct_sup --budget small --ct-data CT100_128x128.mat
    {prog} --cells inpainting_ei --budget paper --urban-data dataset/Urban100 --mask mask_random0.3.pt
    {prog} --cells mri_ei mri_rei mri_sup --budget small --mri-data mri_chest_256.npz --mask rei_mask_4x.pth.tar

A cell is a file ``<problem>_<method>.yaml`` of ``configs/``, a budget one of ``configs/budget/``, a recipe, where one
is given, one of ``configs/recipe/``: settings that are not the paper's. Run again, it continues: each training where it
stopped, and finished ones are only evaluated. In ``--out``: a run folder for each cell, ``<cell>.csv`` with a row for
each test image, ``<problem>.json`` and ``<problem>.md`` with the table beside the paper's figures, and the pictures
``<problem>.png`` and ``<problem>_curves.png``.
"""

from __future__ import annotations

import contextlib
import json
import math
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ei.commands.operators import known_physics
from ei.commands.options import OPTIONS
from ei.commands.parser import choose_device
from ei.commands.parts import image_shape, images_for, sample_of_the_paper
from ei.commands.presets import METHODS, TASKS
from ei.commands.settings import parser_of
from ei.commands.test import function_for, options_of
from ei.common.complex import magnitude
from ei.common.drawing import curves, image_grid
from ei.common.files import load_file, read_yaml, write_atomically
from ei.common.signals import leaving_on_sigterm
from ei.datasets import image_of
from ei.datasets.batches import evenly_spaced as spread
from ei.errors import InputError
from ei.evaluation.classical import classical_for
from ei.evaluation.loading import averaged, checked
from ei.evaluation.quality import evaluate, mean_and_std, read_metrics, reconstruct_all, write_metrics
from ei.metrics import cal_psnr
from ei.training.folder import LAST
from ei.training.log import LOG

DATA_OPTIONS = {"ct": "ct_data", "inpainting": "urban_data", "mri": "mri_data"}
ROOT = Path(__file__).resolve().parents[2]


def cells() -> list[str]:
    """The names of the cells: the files of ``configs/``."""
    return sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))


def overlays(kind: str) -> list[str]:
    """The names of the files in ``configs/budget/`` or ``configs/recipe/``."""
    return sorted(path.stem for path in (ROOT / "configs" / kind).glob("*.yaml"))


def train_cell(cell: str, configurations: Sequence[str], out: Path, more: Sequence[str]) -> list[str]:
    """Train a cell, or continue it, in a process of its own. Returns the command.

    Raises:
        InputError: if the training cannot run or is stopped.
    """
    command = [
        "-m",
        "ei",
        "train",
        "--config",
        f"configs/{cell}.yaml",
        *configurations,
        "--out",
        str(out),
        "--resume",
        "auto",
        *more,
    ]
    print(f"\n{cell}: python {shlex.join(command)}", flush=True)
    with leaving_on_sigterm(), minutes_noted(out):
        code = run_to_its_end([sys.executable, *command])
    if code:
        raise InputError(f"the training of {cell} ended with code {code}; run the same command to continue")
    return command


def run_to_its_end(command: Sequence[str]) -> int:
    """Run a training; its exit code. Ctrl-C reaches it, too, and SIGTERM is passed on: it saves and stops, which is
    waited for."""
    training = subprocess.Popen(command, cwd=ROOT)
    try:
        return training.wait()
    except KeyboardInterrupt:
        training.wait()
        raise
    except SystemExit:
        training.terminate()
        training.wait()
        raise


@contextlib.contextmanager
def minutes_noted(out: Path) -> Iterator[None]:
    """Add the minutes of a ``with`` block to ``minutes.json`` of a run folder, however the block ends; but not those of
    one in which the run has not gone on, as finished ones are only looked at."""
    spent, newest = out / "minutes.json", out / LAST
    before: list[float] = json.loads(spent.read_text()) if spent.exists() else []
    stood, began = _written(newest), time.monotonic()
    try:
        yield
    finally:
        if _written(newest) != stood:
            write_atomically(spent, json.dumps([*before, round((time.monotonic() - began) / 60, 2)]).encode())


def _written(path: Path) -> int:
    """When a file was written last; 0 where there is none."""
    return path.stat().st_mtime_ns if path.exists() else 0


def evaluate_cell(
    run: Path, task: str, data: str, device: torch.device, classical: bool, average_over: Sequence[str] | None
) -> dict[str, Any]:
    """The test images' figures for a finished cell, of classical reconstructions too if asked, and what the table
    tells of its run."""
    path = run / LAST
    state = checked(load_file(path, "checkpoint"), path)
    given = {"ckp": str(path), "task": task, "data": data}
    options = options_of(state, given)
    images = images_for(options, "test")
    f = function_for(state, given, options, known_physics(None, state, device), image_shape(images), device)
    more = {}
    if classical:
        train = images_for(options, "train")
        some = torch.cat([image_of(train[index]) for index in spread(train, 4 * (options.patches or 1))]).to(device)
        more = classical_for(f.physics, some)
    mean = averaged(f, average_over) if average_over else None
    rows = evaluate(f, f.physics, images, {**more, **({"average": lambda physics, y: mean(y)} if mean else {})})
    shown = sample_of_the_paper(task, images)
    spent = run / "minutes.json"  # not there if the run was trained by another command
    minutes = json.loads(spent.read_text()) if spent.exists() else [math.nan]
    facts = {
        "steps": state["step"],
        "minutes": round(sum(minutes), 1),
        "parameters": sum(p.numel() for p in f.net.parameters()),
        "classical": list(more),
        "averaged": list(average_over or []),
    }
    return {
        "rows": rows,
        "facts": facts,
        "shown": reconstruct_all(f, f.physics, image_of(images[shown]).to(device), shown),
    }


def table(folder: Path, problem: str) -> str:
    """The table of a problem in Markdown, from the files ``<problem>.json`` and ``<problem>_<method>.csv`` of
    `report`: mean and standard deviation over the test images."""
    facts = json.loads((folder / f"{problem}.json").read_text(encoding="utf-8"))["methods"]
    rows = {method: read_metrics(folder / f"{problem}_{method}.csv") for method in facts}
    papers = {name: f"{psnr:.2f}" for name, psnr in TASKS[problem].papers.items()} if problem in TASKS else {}
    lines = ["| | paper PSNR [dB] | usual PSNR [dB] | SSIM | steps | minutes | the paper, at its budget |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip

    def line(title: str, method: str, name: str, *rest: str) -> None:
        lines.append("| " + " | ".join([title, *mean_and_std(rows[method], name), *rest]) + " |")

    first = next(iter(facts))
    line("A_dagger y", first, "pinv", "-", "-", papers.get("pinv", "-"))
    for name in facts[first]["classical"]:
        line(f"{name} (no learning)", first, name, "-", "-", "-")
    for method, fact in facts.items():
        title, spent = METHODS[method].title, (str(fact["steps"]), _minutes(fact["minutes"]))
        line(title, method, "net", *spent, papers.get(method, "-"))
        if fact["averaged"]:
            line(f"{title}, averaged over {' and '.join(fact['averaged'])}", method, "average", "-", "-", "-")
    return "\n".join(lines)


def _minutes(spent: float) -> str:
    return "-" if math.isnan(spent) else f"{spent:.0f}"


def machine() -> str:
    """This machine and these versions, in words."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    return f"commit {commit.strip() or 'unknown'}, torch {torch.__version__}, {platform.machine()}, {device}"


def report(
    problem: str,
    configurations: Sequence[str],
    epochs: int | None,
    out: Path,
    results: dict[str, dict[str, Any]],
    commands: Sequence[str],
) -> None:
    """Write the table, the per-image figures and the pictures of a problem."""
    first = next(iter(results.values()))
    for method, result in results.items():
        write_metrics(result["rows"], out / f"{problem}_{method}.csv")
    facts = {method: result["facts"] for method, result in results.items()}
    told = {"machine": machine(), "commands": [f"python {command}" for command in commands], "methods": facts}
    (out / f"{problem}.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    settings = "\n".join((ROOT / path).read_text().strip() for path in configurations)
    named = ", ".join(f"{Path(path).parent.name} `{Path(path).stem}`" for path in configurations)
    named += f", but {epochs} epochs" if epochs else ""
    text = [
        f"## {problem}, {named}", "", "```yaml", settings, "```", "", table(out, problem), "",
        f"{len(first['rows'])} test images; paper PSNR: one norm over the channels, peak max|x|. {machine()}.", "",
        *(f"    {command}" for command in told["commands"]), "",
    ]  # fmt: skip
    (out / f"{problem}.md").write_text("\n".join(text), encoding="utf-8")
    print("\n".join(text))
    x = first["shown"]["x"]
    order = [m for m in ("mc", "ei", "ei_adv", "split", "split_ei", "sure", "rei", "sup", "ei_sup") if m in results]
    row = {"A_dagger y": first["shown"]["pinv"][0]} | {METHODS[m].title: results[m]["shown"]["net"][0] for m in order}
    captions = {name: f"{float(cal_psnr(magnitude(image[None]), magnitude(x))):.2f} dB" for name, image in row.items()}
    image_grid([{**row, "truth": x[0]}], out / f"{problem}.png", [captions])
    spent = {
        "steps": {METHODS[m].title: facts[m]["steps"] for m in order},
        "minutes": {METHODS[m].title: facts[m]["minutes"] for m in order},
    }
    curves({METHODS[m].title: out / f"{problem}_{m}" / LOG for m in order}, spent, out / f"{problem}_curves.png")


def main(arguments: Sequence[str], prog: str = "ei reproduce") -> None:
    budgets, recipes = overlays("budget"), overlays("recipe")
    if not budgets:
        raise InputError(f"{prog} needs a clone of the project: configs/ is not beside the package")
    choices = {"cells": cells(), "budget": budgets, "recipe": recipes}
    given = vars(parser_of("reproduce", prog, (__doc__ or "").format(prog=prog), choices).parse(arguments))
    for option in ("cells", "budget"):
        if option not in given:
            raise InputError(f"--{option} is needed; --help lists them")
    device = choose_device(given.get("device"), given.get("gpu"))
    configurations = [f"configs/budget/{given['budget']}.yaml"]
    name = given["budget"]
    if "recipe" in given:
        configurations.append(f"configs/recipe/{given['recipe']}.yaml")
        name += f"-{given['recipe']}"
    for option in ("epochs", "noise"):
        if option in given:
            name += f"-{given[option]}".replace(":", "-").replace(",", "-")
    out = Path(given.get("out", ROOT / "reproduction" / name)).resolve()

    with_mask = sorted({read_yaml(str(ROOT / "configs" / f"{cell}.yaml"))["task"] for cell in given["cells"]} &
                       set(OPTIONS["mask"].tasks or ()))  # fmt: skip
    if "mask" in given and len(with_mask) > 1:
        raise InputError(
            f"--mask is of one problem, and the cells are of {' and '.join(with_mask)}: one after the other"
        )
    results: dict[str, dict[str, dict[str, Any]]] = {}
    commands: dict[str, list[str]] = {}
    for cell in given["cells"]:
        settings = read_yaml(str(ROOT / "configs" / f"{cell}.yaml"))
        task, method = settings["task"], settings["method"]
        problem = cell.removesuffix(f"_{method}")
        data = given.get(DATA_OPTIONS[task])
        if data is None:
            data = str(ROOT / settings["data"])
        elif data != "synthetic":
            data = str(Path(data).resolve())
        more = ["--data", data, "--device", str(device)]
        more += ["--epochs", str(given["epochs"])] if "epochs" in given else []
        more += ["--noise", given["noise"]] if "noise" in given else []
        if "mask" in given and task in with_mask:
            more += ["--mask", str(Path(given["mask"]).resolve())]
        command = train_cell(cell, configurations, out / cell, more)
        commands.setdefault(problem, []).append(shlex.join(command))
        found = results.setdefault(problem, {})
        found[method] = evaluate_cell(out / cell, task, data, device, not found, given.get("average_over"))
    for problem, found in results.items():
        report(problem, configurations, given.get("epochs"), out, found, commands[problem])
    print(f"files: {out}")
