r"""Train and evaluate cells of the paper's table, and of problems beside it, under a stated budget:

    python benchmarks/reproduce.py --cells ct_ei ct_mc ct_sup --budget small --ct-data CT100_128x128.mat
    python benchmarks/reproduce.py --cells inpainting_ei --budget paper --urban-data dataset/Urban100 \
        --mask mask_random0.3.pt
    python benchmarks/reproduce.py --cells mri_ei mri_rei --budget small --mri-data mri_chest_256.npz \
        --mask rei_mask_4x.pth.tar

A cell is a tree ``configs/<problem>_<method>.yaml``, a budget one of ``configs/budget/``, a recipe one of
``configs/recipe/``: settings that are not the paper's. Run again, it continues: each training where it stopped, and
finished ones are only evaluated. In ``--out``: a run folder for each cell, ``<cell>.csv`` with a row for each test
image, ``<problem>.json`` and ``<problem>.md`` with the table, and the pictures ``<problem>.png`` and
``<problem>_curves.png``. The paper's figures stand in the table where data and operator are the paper's, without noise.
"""

from __future__ import annotations

import contextlib
import json
import math
import platform
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ei.commands.flags import path as path_type
from ei.commands.presets import METHODS, method_of
from ei.commands.problem import load_images
from ei.commands.test import load_test, sample_of_the_paper, tree_to_test
from ei.commands.tree import get, read_tree
from ei.commands.typed import Parser, Typed, names_of
from ei.common.complex import magnitude
from ei.common.devices import choose_device
from ei.common.drawing import image_grid, new_figure, read_log
from ei.common.files import load_file, write_atomically
from ei.common.parts import describe
from ei.common.scripts import run_script
from ei.common.signals import leaving_on_sigterm
from ei.datasets import image_of
from ei.datasets.batches import evenly_spaced
from ei.errors import InputError
from ei.evaluation.classical import classical_for
from ei.evaluation.loading import averaged, checked
from ei.evaluation.quality import evaluate, mean_and_std, read_metrics, reconstruct_all, write_metrics
from ei.metrics import cal_psnr
from ei.models.averaged import GROUPS
from ei.training.folder import LAST
from ei.training.log import LOG

ROOT = Path(__file__).resolve().parents[1]
# The paper's figures (its PSNR [dB], its budget), quoted from memory.
PAPERS = {
    "ct": {"pinv": 30.24, "mc": 30.83, "ei": 36.94, "ei_adv": 36.96, "sup": 38.17, "ei_sup": 38.79},
    "inpainting": {"pinv": 5.84, "mc": 5.84, "ei": 25.14, "ei_adv": 23.26, "sup": 26.51, "ei_sup": 26.75},
}
# A_dagger y learns nothing: if its figure is this far from the paper's [dB], data or operator are not the paper's.
SAME_PROBLEM = 0.1
DATA_OPTIONS = {"ct": "ct_data", "inpainting": "urban_data", "mri": "mri_data"}
TASKS_WITH_MASKS = {"inpainting", "mri"}


def names_in(folder: str) -> list[str]:
    """The names of the trees in a folder."""
    return sorted(path.stem for path in (ROOT / folder).glob("*.yaml"))


class Cell(NamedTuple):
    """A cell of a table.

    Attributes:
        name: of its file in configs/.
        problem: the table that it belongs to.
        method: the short name of its closure.
        task: of its tree.
    """

    name: str
    problem: str
    method: str
    task: str


def read_cell(name: str) -> Cell:
    tree = read_tree(str(ROOT / "configs" / f"{name}.yaml"))
    method = method_of(tree)
    return Cell(name, name.removesuffix(f"_{method}"), method, get(tree, "trainer.task"))


# ---- training -------------------------------------------------------------------------------------------------------


def precision_of(configurations: Sequence[str]) -> list[str]:
    """The precision that budget and recipe ask for, as an assignment: a recipe that replaces the reconstructor would
    drop the budget's."""
    precisions = [get(read_tree(str(ROOT / path)), "reconstructor.precision") for path in configurations]
    last = next((precision for precision in reversed(precisions) if precision is not None), None)
    return [] if last is None else [f"reconstructor.precision={last}"]


def train_cell(cell: str, configurations: Sequence[str], out: Path, more: Sequence[str]) -> list[str]:
    """Train a cell, or continue it, in a process of its own. Returns the command.

    Raises:
        InputError: if the training cannot run or is stopped.
    """
    trees = [f"configs/{cell}.yaml", *configurations]
    command = ["-m", "ei", "train", *trees, "--out", str(out), "--resume", "auto", *more]
    print(f"\n{cell}: python {shlex.join(command)}", flush=True)
    with leaving_on_sigterm(), add_minutes(out):
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
def add_minutes(out: Path) -> Iterator[None]:
    """Add the minutes of a ``with`` block to ``minutes.json`` of a run folder, however the block ends; but not those of
    one in which the run did not go on, as finished runs are only evaluated."""
    path = out / "minutes.json"
    before: list[float] = json.loads(path.read_text()) if path.exists() else []
    unchanged = _time_of(out / LAST)
    began = time.monotonic()
    try:
        yield
    finally:
        if _time_of(out / LAST) != unchanged:
            write_atomically(path, json.dumps([*before, round((time.monotonic() - began) / 60, 2)]).encode())


def _time_of(path: Path) -> int:
    """When a file was written last; 0 where there is none."""
    return path.stat().st_mtime_ns if path.exists() else 0


# ---- evaluation -----------------------------------------------------------------------------------------------------


class Evaluation(NamedTuple):
    """A finished cell.

    Attributes:
        rows: a row of figures for each test image.
        facts: what the table says of its run.
        noise: of the measurements, as plain values; None where there is none.
        shown: the reconstructions of the test image in the picture.
    """

    rows: list[dict[str, Any]]
    facts: dict[str, Any]
    noise: dict[str, Any] | None
    shown: dict[str, Any]


def evaluate_cell(
    run: Path, task: str, data: str | None, device: torch.device, classical: bool, average_over: Sequence[str]
) -> Evaluation:
    """Evaluate the last checkpoint of a cell on the test images, with classical reconstructions if asked."""
    path = run / LAST
    state = checked(load_file(path, "checkpoint"), path)
    typed = Typed({"task": task, **({} if data is None else {"data": data})}, {}, [], [])
    tree = tree_to_test(state, typed, str(path))
    f, images, _ = load_test(state, tree, str(path), None, device)
    more: dict[str, Any] = {}
    if classical:
        train = load_images(tree["data"], "train", f.physics).object
        more = classical_for(
            f.physics, torch.cat([image_of(train[index]) for index in evenly_spaced(train, 4)]).to(device)
        )
    facts = {
        "steps": state["step"],
        "minutes": round(sum(minutes_of(run)), 1),
        "parameters": sum(p.numel() for p in f.net.parameters()),
        "classical": list(more),
        "averaged": list(average_over),
    }
    if average_over:
        mean = averaged(f, average_over)
        more = {**more, "average": lambda physics, y: mean.of(physics)(y)}
    rows = evaluate(f, f.physics, images, more)
    sample = sample_of_the_paper(task, images)
    shown = reconstruct_all(f, f.physics, image_of(images[sample]).to(device), sample)
    return Evaluation(rows, facts, describe(getattr(f.physics, "noise", None)), shown)


def minutes_of(run: Path) -> list[float]:
    """The minutes of a run; not a number if it was trained by another command."""
    path = run / "minutes.json"
    return json.loads(path.read_text()) if path.exists() else [math.nan]


# ---- tables ---------------------------------------------------------------------------------------------------------


def papers_figures(problem: str, noise: Any, rows: Sequence[Mapping[str, float]]) -> dict[str, str]:
    """The paper's figures by row of the table; none for another problem, other data or operator, or with noise."""
    figures = PAPERS.get(problem)
    if figures is None or noise is not None:
        return {}
    difference = statistics.fmean(row["psnr_paper_pinv"] for row in rows) - figures["pinv"]
    return {name: f"{psnr:.2f}" for name, psnr in figures.items()} if abs(difference) < SAME_PROBLEM else {}


def classical_title(name: str) -> str:
    """A classical reconstruction as tables call it."""
    return re.sub(r"^CGLS (\d+)$", r"least squares (CGLS, \1 iterations)", name)


def table(folder: Path, problem: str) -> str:
    """The table of a problem in Markdown, from the files ``<problem>.json`` and ``<problem>_<method>.csv`` of
    `report`: mean and standard deviation over the test images."""
    content = json.loads((folder / f"{problem}.json").read_text(encoding="utf-8"))
    facts = content["methods"]
    rows = {method: read_metrics(folder / f"{problem}_{method}.csv") for method in facts}
    first = next(iter(facts))
    papers = papers_figures(problem, content.get("noise"), rows[first])
    head = ["", "paper PSNR [dB]", "usual PSNR [dB]", "SSIM", "steps", "minutes"]
    table = [[*head, "the paper, at its budget"], ["---"] * 7]

    def line(title: str, method: str, name: str, steps: str = "-", minutes: str = "-", papers: str = "-") -> None:
        table.append([title, *mean_and_std(rows[method], name), steps, minutes, papers])

    line("A_dagger y", first, "pinv", papers=papers.get("pinv", "-"))
    for name in facts[first]["classical"]:
        line(classical_title(name), first, name)
    for method, fact in facts.items():
        title = METHODS[method].title
        minutes = "-" if math.isnan(fact["minutes"]) else f"{fact['minutes']:.0f}"
        line(title, method, "net", str(fact["steps"]), minutes, papers.get(method, "-"))
        if fact["averaged"]:
            line(f"{title}, test-time augmentation", method, "average")
    columns = 7 if papers else 6
    return "\n".join(f"| {' | '.join(row[:columns])} |" for row in table)


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
    results: Mapping[str, Evaluation],
    commands: Sequence[str],
) -> None:
    """Write the table, the per-image figures and the pictures of a problem."""
    first = next(iter(results.values()))
    for method, result in results.items():
        write_metrics(result.rows, out / f"{problem}_{method}.csv")
    facts = {method: result.facts for method, result in results.items()}
    lines = [f"python {command}" for command in commands]
    content = {"machine": machine(), "commands": lines, "noise": first.noise, "methods": facts}
    (out / f"{problem}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    settings = "\n".join((ROOT / path).read_text().strip() for path in configurations)
    named = ", ".join(f"{Path(path).parent.name} `{Path(path).stem}`" for path in configurations)
    named += f", but {epochs} epochs" if epochs else ""
    text = [
        f"## {problem}, {named}", "", "```yaml", settings, "```", "", table(out, problem), "",
        f"{len(first.rows)} test images; paper PSNR: one norm over the channels, peak max|x|. {machine()}.", "",
        *(f"    {command}" for command in lines), "",
    ]  # fmt: skip
    (out / f"{problem}.md").write_text("\n".join(text), encoding="utf-8")
    print("\n".join(text))
    draw(problem, out, results)


def curves(logs: Mapping[str, Path], spent: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Draw the PSNR column of several ``training_loss.csv`` against the cost of the runs.

    Args:
        logs: titles and files.
        spent: for each panel's axis ("steps", "minutes") the total of each title's run; epochs are taken as equal.
        path: the figure.
    """
    psnr = {title: read_log(log).get("psnr", []) for title, log in logs.items()}  # none before an epoch has ended
    figure = new_figure(figsize=(5.5 * len(spent), 4))
    axes = figure.subplots(1, len(spent), squeeze=False, sharey=True)[0]
    for ax, (unit, totals) in zip(axes, spent.items(), strict=True):
        for title, values in psnr.items():
            places = [totals[title] * (k + 1) / len(values) for k in range(len(values))]
            ax.plot(places, values, label=title, marker="." if len(values) < 30 else None)
        ax.set(xlabel=unit, ylabel="dB", title="paper PSNR of the training batches")
        ax.grid(alpha=0.3)
        ax.legend()
    figure.savefig(path, dpi=120)


ORDER = ("mc", "ei", "ei_adv", "split", "split_ei", "sure", "rei", "sup", "ei_sup")


def draw(problem: str, out: Path, results: Mapping[str, Evaluation]) -> None:
    """The pictures of a problem: a test image, and the losses beside steps and minutes."""
    first = next(iter(results.values()))
    x = first.shown["x"]
    titles = {method: METHODS[method].title for method in ORDER if method in results}
    row = {"A_dagger y": first.shown["pinv"][0]}
    row |= {title: results[method].shown["net"][0] for method, title in titles.items()}
    captions = {name: f"{float(cal_psnr(magnitude(image[None]), magnitude(x))):.2f} dB" for name, image in row.items()}
    image_grid([{**row, "ground truth": x[0]}], out / f"{problem}.png", [captions])
    spent = {
        unit: {title: results[method].facts[unit] for method, title in titles.items()} for unit in ("steps", "minutes")
    }
    logs = {title: out / f"{problem}_{method}" / LOG for method, title in titles.items()}
    curves(logs, spent, out / f"{problem}_curves.png")


# ---- the command ----------------------------------------------------------------------------------------------------


def parser() -> Parser:
    made = Parser(prog="reproduce.py", description=__doc__)
    made.add_argument("--cells", nargs="+", choices=names_in("configs"), metavar="CELL", help="files of configs/")
    made.add_argument("--budget", choices=names_in("configs/budget"), help="a file of configs/budget/")
    made.add_argument("--recipe", choices=names_in("configs/recipe"), metavar="RECIPE",
                      help=f"a file of configs/recipe/: {', '.join(names_in('configs/recipe'))}")  # fmt: skip
    made.add_argument("--ct-data", type=path_type, metavar="PATH", help="CT100_128x128.mat, or synthetic")
    made.add_argument("--urban-data", type=path_type, metavar="PATH", help="the folder of Urban100, or synthetic")
    made.add_argument("--mri-data", type=path_type, metavar="PATH", help="mri_chest_256.npz, or synthetic")
    made.add_argument("--mask", type=path_type, metavar="PATH", help="a saved mask, of inpainting or MRI")
    made.add_argument("--noise", metavar="NAME:NUMBERS", help="another noise than the cells', as ei train takes it")
    made.add_argument("--epochs", type=int, metavar="N", help="instead of the budget's")
    made.add_argument("--average-over", type=names_of(GROUPS), metavar="NAME[,NAME]",
                      help="test-time augmentation, too: rotate90, reflect, or both")  # fmt: skip
    made.add_argument("--out", type=path_type, metavar="PATH", help="default: reproduction/<budget>-<recipe>")
    made.add_argument("--device", metavar="DEVICE", help="auto, cpu or cuda:N (default: auto)")
    return made


def folder_of(options: Mapping[str, Any]) -> Path:
    """The folder of a table: ``--out``, or one that is named after its settings."""
    settings = [str(options[name]) for name in ("budget", "recipe", "epochs", "noise") if name in options]
    name = "-".join(settings).replace(":", "-").replace(",", "-")
    return Path(options.get("out", ROOT / "reproduction" / name)).resolve()


def data_of(cell: Cell, options: Mapping[str, Any]) -> str | None:
    """The images of a cell as ``--data`` takes them; None for those of its file."""
    data = options.get(DATA_OPTIONS[cell.task])
    return data if data in (None, "synthetic") else str(Path(data).resolve())


def flags_of(cell: Cell, options: Mapping[str, Any], device: torch.device) -> list[str]:
    """The flags that the training of a cell gets beside its trees."""
    flags = {"data": data_of(cell, options), "epochs": options.get("epochs"), "noise": options.get("noise")}
    if "mask" in options and cell.task in TASKS_WITH_MASKS:
        flags["mask"] = str(Path(options["mask"]).resolve())
    flags["device"] = str(device)
    return [word for name, value in flags.items() if value is not None for word in (f"--{name}", str(value))]


def main() -> None:
    options = vars(parser().parse(sys.argv[1:]))
    for name in ("cells", "budget"):
        if name not in options:
            raise InputError(f"--{name} is needed; --help lists them")
    device = choose_device(options.get("device"))
    configurations = [f"configs/{kind}/{options[kind]}.yaml" for kind in ("budget", "recipe") if kind in options]
    out = folder_of(options)
    cells = [read_cell(name) for name in options["cells"]]
    with_mask = sorted({cell.task for cell in cells} & TASKS_WITH_MASKS)
    if "mask" in options and len(with_mask) > 1:
        raise InputError(
            f"--mask is of one problem, and the cells are of {' and '.join(with_mask)}: one after the other"
        )
    results: dict[str, dict[str, Evaluation]] = {}
    commands: dict[str, list[str]] = {}
    for cell in cells:
        more = [*flags_of(cell, options, device), *precision_of(configurations)]
        command = train_cell(cell.name, configurations, out / cell.name, more)
        commands.setdefault(cell.problem, []).append(shlex.join(command))
        others = results.setdefault(cell.problem, {})
        others[cell.method] = evaluate_cell(
            out / cell.name, cell.task, data_of(cell, options), device, not others, options.get("average_over", [])
        )
    for problem, evaluations in results.items():
        report(problem, configurations, options.get("epochs"), out, evaluations, commands[problem])
    print(f"files: {out}")


if __name__ == "__main__":
    run_script("reproduce.py", main)
