"""The tree of a run: reading, merging, keys of the command line, and the parts that it describes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT

from ei.commands import presets, train
from ei.commands.build import build_training
from ei.commands.problem import Problem, set_noise, with_noise_apart
from ei.commands.tree import (
    assign,
    check_keys,
    is_assignment,
    merge,
    overlay,
    read_physics,
    read_tree,
    with_absolute_paths,
)
from ei.commands.typed import read_typed
from ei.common.parts import Context, build
from ei.common.yaml_text import parse_yaml
from ei.errors import InputError, MissingFileError
from ei.physics import CT, GaussianNoise, PoissonNoise

CPU = torch.device("cpu")


def tree_of(*words: str) -> dict[str, Any]:
    """The tree of a command line of ``ei train``."""
    return read_typed(train.parser("ei train"), words).tree()


# ---- merging -------------------------------------------------------------------------------------------------------


def test_trees_are_merged_by_key_and_the_last_wins() -> None:
    base = {"closure": {"name": "EIClosure", "alpha": 1, "stop_gradient": True}, "trainer": {"epochs": 3}}
    over = {"closure": {"alpha": 2}, "data": {"batch_size": 4}}
    merged = merge(base, over)
    assert merged == {"closure": {"name": "EIClosure", "alpha": 2, "stop_gradient": True}, "trainer": {"epochs": 3},
                      "data": {"batch_size": 4}}  # fmt: skip
    assert base["closure"]["alpha"] == 1  # nothing is changed in place


def test_a_run_that_overrides_a_recipe_is_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.yaml").write_text("physics: {name: CT, radon_view: 5}\ntrainer: {epochs: 9, seed: 1}\n")
    (tmp_path / "recipe.yaml").write_text("trainer: {epochs: 3, clip_norm: 1}\n")
    run, recipe = (str(tmp_path / f"{name}.yaml") for name in ("run", "recipe"))
    assert tree_of(recipe, run)["trainer"]["epochs"] == 9
    out = capsys.readouterr().out
    assert "overrides trainer.epochs, trainer.clip_norm of" not in out
    assert f"{run} overrides trainer.epochs of {recipe}" in out
    assert tree_of(run, recipe)["trainer"]["epochs"] == 3
    assert capsys.readouterr().out == ""


def test_the_same_name_keeps_arguments_and_another_replaces_the_whole_part() -> None:
    base = {"closure": {"name": "EIClosure", "alpha": 100, "mc_domain": "image"}}
    same = merge(base, {"closure": {"name": "EIClosure", "alpha": 1}})
    assert same["closure"] == {"name": "EIClosure", "alpha": 1, "mc_domain": "image"}
    for other in ({"name": "my_closure.py:Noise2Inverse"}, {"name": "MCClosure"}):
        assert merge(base, {"closure": other}) == {"closure": other}
    assert merge(base, {"closure": "MCClosure"}) == {"closure": {"name": "MCClosure"}}
    assert merge(base, {"closure": None}) == {"closure": None}


def test_a_part_without_a_name_has_the_default_one() -> None:
    """Another name replaces it, the default's keeps it."""
    base = {"optimizer": {"lr": 1.0}, "network": {"base_channels": 8}}
    assert merge(base, {"optimizer": {"name": "SGD", "momentum": 0.9}})["optimizer"] == {"name": "SGD", "momentum": 0.9}
    assert merge(base, {"optimizer": {"name": "Adam", "eps": 1e-6}})["optimizer"] == {
        "lr": 1.0,
        "name": "Adam",
        "eps": 1e-6,
    }
    assert merge(base, {"network": "UNet"})["network"] == {"base_channels": 8, "name": "UNet"}


def test_nested_parts_are_merged_and_replaced_as_parts_are() -> None:
    base = {"physics": {"name": "MRI", "mask": {"name": "random_columns", "acceleration": 4, "seed": 1}}}
    assert merge(base, {"physics": {"mask": {"acceleration": 8}}})["physics"]["mask"]["seed"] == 1
    other = {"name": "mask_for", "source": "m.npy"}
    assert merge(base, {"physics": {"mask": other}})["physics"] == {"name": "MRI", "mask": other}
    data = {"data": {"train": {"name": "CTData", "root_dir": "a.mat"}, "batch_size": 2}}
    merged = merge(data, {"data": {"train": {"name": "ImageTree", "folder": "b"}}})
    assert merged["data"] == {"train": {"name": "ImageTree", "folder": "b"}, "batch_size": 2}
    assert merge(data, {"data": {"train": "synthetic"}})["data"]["train"] == "synthetic"


def test_a_user_defined_closure_keeps_no_alpha(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tree = tree_of("--task", "ct", "closure={name: my_closure.py:Noise2Inverse}")
    assert tree["closure"] == {"name": f"{tmp_path}/my_closure.py:Noise2Inverse"}


# ---- overlays: files whose parts have no name ----------------------------------------------------------------------


def test_an_overlay_leaves_out_what_another_class_takes_with_a_note(capsys: pytest.CaptureFixture) -> None:
    base = {"closure": {"name": "MCClosure"}, "reconstructor": {"name": "Reconstructor"}}
    over = {"closure": {"alpha": 1, "mc_domain": "image"}, "reconstructor": {"precision": "bf16", "cg_steps": 3}}
    merged = overlay(base, over)
    assert merged == {"closure": {"name": "MCClosure", "mc_domain": "image"},
                      "reconstructor": {"name": "Reconstructor", "precision": "bf16"}}  # fmt: skip
    assert capsys.readouterr().out.splitlines() == [
        "note: closure.alpha has no effect on MCClosure",
        "note: reconstructor.cg_steps has no effect on Reconstructor",
    ]


def test_an_overlay_with_a_name_or_an_unknown_key_is_merged_as_it_is(capsys: pytest.CaptureFixture) -> None:
    base = {"closure": {"name": "MCClosure"}}
    assert overlay(base, {"closure": {"name": "EIClosure", "alpha": 1}})["closure"]["alpha"] == 1
    assert overlay(base, {"closure": {"colour": 1}})["closure"]["colour"] == 1  # which the closure then rejects
    user = {"closure": {"name": "/x/mine.py:Mine"}}
    assert overlay(user, {"closure": {"alpha": 1}})["closure"]["alpha"] == 1
    assert capsys.readouterr().out == ""


# ---- keys of the command line --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "is_one"),
    [("closure.alpha=3", True), ("closure={name: MCClosure}", True), ("data.train.crop=4", True), ("noise=null", True),
     ("network.out_=1", True), ("a.yaml", False), ("colour.x=1", True), ("colour=1", False), ("--lr=3", False),
     ("x=y.yaml", False)],
)  # fmt: skip
def test_words_that_are_assignments(word: str, is_one: bool) -> None:
    assert is_assignment(word) == is_one


def test_assignments() -> None:
    tree: dict[str, Any] = {"closure": {"name": "EIClosure", "alpha": 1}, "schedule": "cosine_schedule"}
    assert assign(tree, "closure.alpha=5e-4")["closure"] == {"name": "EIClosure", "alpha": 5e-4}
    assert assign(tree, "closure={name: MCClosure}")["closure"] == {"name": "MCClosure"}
    assert assign(tree, "closure=MCClosure")["closure"] == {"name": "MCClosure"}
    assert assign(tree, "physics.mask.acceleration=8")["physics"] == {"mask": {"acceleration": 8}}
    assert assign(tree, "trainer.clip_norm=null")["trainer"] == {"clip_norm": None}
    assert assign(tree, "schedule.epochs=3")["schedule"] == {"name": "cosine_schedule", "epochs": 3}
    assert assign(tree, "closure.criterion='a=b'")["closure"]["criterion"] == "a=b"
    assert tree["closure"]["alpha"] == 1


def test_an_assignment_through_a_value_is_an_error() -> None:
    tree = {"data": {"train": "/x/images", "batch_size": 2}}
    with pytest.raises(InputError, match=r"data.train is '/x/images', which has no keys; write data.train='\{name"):
        assign(tree, "data.train.crop=4")
    with pytest.raises(InputError, match=r"data.batch_size is 2, which has no keys"):
        assign(tree, "data.batch_size.x=4")


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"closur": {}}, "closur is unknown: a run has physics, noise, transform, .*did you mean closure"),
        ({"data": {"batchsize": 2}}, "data.batchsize is unknown: data has train, .*did you mean batch_size"),
        ({"data": 3}, "data must hold keys"),
    ],
)
def test_unknown_keys_list_the_valid_ones(tree: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_keys(tree)


# ---- files ---------------------------------------------------------------------------------------------------------


def test_paths_in_a_file_are_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.yaml").write_text(
        "physics: {name: Inpainting, mask: ../m.pt}\n"
        "closure: {name: mine.py:Mine, text: a/b}\n"
        "data: {train: images, test: synthetic, measurements: y.npy}\n"
        "network: {weights: w}\nversions: {torch: 2}\n"
    )
    assert read_tree(str(tmp_path / "deep" / "a.yaml")) == {
        "physics": {"name": "Inpainting", "mask": f"{tmp_path}/m.pt"},
        "closure": {"name": f"{tmp_path}/deep/mine.py:Mine", "text": "a/b"},
        "data": {"train": f"{tmp_path}/deep/images", "test": "synthetic", "measurements": f"{tmp_path}/deep/y.npy"},
        "network": {"weights": f"{tmp_path}/deep/w"},
    }
    # Absolute ones, and those of config.yaml, stay.
    assert with_absolute_paths({"data": {"train": "/x/y"}}, tmp_path) == {"data": {"train": "/x/y"}}


def test_ranges_become_lists() -> None:
    described = {"physics": {"angles": {"start": 1, "step": 0.5, "count": 3}}}
    assert with_absolute_paths(described, Path())["physics"]["angles"] == [1, 1.5, 2.0]
    for wrong in ({"start": "a", "step": 1, "count": 3}, {"start": 0, "step": 1, "count": 0},
                  {"start": 0, "step": float("nan"), "count": 2}, {"start": 0, "step": 1, "count": 1.5}):  # fmt: skip
        with pytest.raises(InputError, match=r"physics.angles must be a range"):
            with_absolute_paths({"physics": {"angles": wrong}}, Path())


def test_a_file_of_one_part_has_its_noise_apart(tmp_path: Path) -> None:
    for text in ("name: CT\nradon_view: 5\nnoise: gaussian:0.1\n",
                 "physics: {name: CT, radon_view: 5}\nnoise: gaussian:0.1\ntrainer: {epochs: 3}\n"):  # fmt: skip
        (tmp_path / "p.yaml").write_text(text)
        part = read_physics(str(tmp_path / "p.yaml"))
        assert part == {"physics": {"name": "CT", "radon_view": 5}, "noise": "gaussian:0.1"}
    with pytest.raises(MissingFileError, match=r"no physics file .*none.yaml"):
        read_physics(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize(
    ("text", "value"),
    [("5e-4", 5e-4), ("1e5", 1e5), ("010", 10), ("-3", -3), (".5", 0.5), ("1.", 1.0), ("1_000", "1_000"),
     ("1:30", "1:30"), ("0x10", 16), (".inf", float("inf")), ("true", True), ("null", None), ("yes", True),
     ("2024-01-01", "2024-01-01"), ("1e", "1e"), ("[1, 1e1]", [1, 10.0]), ("{a: 1}", {"a": 1}),
     ("gaussian:0.1", "gaussian:0.1")],
)  # fmt: skip
def test_numbers_of_yaml(text: str, value: Any) -> None:
    read = parse_yaml(text, "x")
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "x, line 3 cannot be read as YAML: the key 'a' stands twice"),
        ("a: {b: 1, b: 2}", "the key 'b' stands twice"),
        ("a: [1", "x, line 1 cannot be read as YAML"),
        ("!!python/object/apply:os.getcwd []", "cannot be read as YAML"),
        ("a: \x00", "cannot be read as YAML"),
    ],
)
def test_what_is_no_yaml(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_yaml(text, "x")


# ---- the order of the command line ---------------------------------------------------------------------------------


def test_files_come_before_flags_and_flags_before_keys(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("optimizer: {lr: 1}\ntrainer: {epochs: 1, seed: 1}\ndata: {batch_size: 1}\n")
    (tmp_path / "b.yaml").write_text("trainer: {epochs: 2, seed: 2}\n")
    tree = tree_of("trainer.seed=4", "--epochs", "3", str(tmp_path / "a.yaml"), "--task", "ct", "--seed", "3",
                   str(tmp_path / "b.yaml"))  # fmt: skip
    assert (tree["optimizer"]["lr"], tree["data"]["batch_size"]) == (1, 1)
    assert (tree["trainer"]["epochs"], tree["trainer"]["seed"], tree["trainer"]["task"]) == (3, 4, "ct")
    assert tree["schedule"]["milestones"] == [2000, 3000, 4000]  # of the task
    same = tree_of("--config", str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml"), "--task", "ct", "--seed", "3",
                   "--epochs", "3", "trainer.seed=4")  # fmt: skip
    assert same == tree


def test_the_tree_of_a_task_is_a_tree_file() -> None:
    """What ``--task`` stands for, ``configs/`` spells out."""
    for task in presets.PAPER:
        typed = tree_of("--task", task)
        file = tree_of(str(ROOT / "configs" / f"{task}_ei.yaml"))
        for tree in (typed, file):
            tree["data"].pop("train")
            tree["trainer"].pop("seed", None)
            tree.pop("noise", None)
        assert typed == file, task


@pytest.mark.parametrize("method", presets.METHODS)
def test_a_method_is_a_closure_of_the_tree(method: str) -> None:
    tree = tree_of("--task", "ct", "--method", method, "--noise", "gaussian:0.1")
    assert tree["closure"]["name"] == presets.METHODS[method].closure and presets.method_of(tree) == method
    assert ("alpha" in tree["closure"]) == (method in ("ei", "moi", "rei", "ei_sup", "split_ei"))
    assert tree["closure"].get("alpha", 100) == 100


def test_wrong_words() -> None:
    for words, message in (
        (["surplus"], r"surplus must be a file of a tree \(.yaml\), or a key"),
        (["--epoch", "3"], "--epoch; did you mean --epochs"),
        (["no.yaml"], "no.yaml"),
        (["closure.alpha={a: 1"], r"closure.alpha=\{a: 1, line 1 cannot be read as YAML"),
    ):
        with pytest.raises(InputError, match=message):
            tree_of("--task", "ct", *words)


# ---- noise ---------------------------------------------------------------------------------------------------------


def test_noise_may_be_written_as_text() -> None:
    physics = CT(8, 3)
    assert set_noise(physics, "poisson:0.05") == {"name": "PoissonNoise", "gain": 0.05}
    assert isinstance(physics.noise, PoissonNoise)
    assert set_noise(physics, {"name": "GaussianNoise", "sigma": 0.1}) == {"name": "GaussianNoise", "sigma": 0.1}
    assert isinstance(physics.noise, GaussianNoise)
    assert set_noise(physics, None) == {} and physics.noise is None


def test_noise_of_physics_is_noise_of_the_run() -> None:
    described = {"physics": {"name": "CT", "radon_view": 3, "noise": "gaussian:0.1"}, "data": {"train": "synthetic"}}
    tree = with_noise_apart(described)
    assert tree["physics"] == {"name": "CT", "radon_view": 3} and tree["noise"] == "gaussian:0.1"
    problem = Problem(described, CPU)
    assert problem.physics.noise.sigma == 0.1 and problem.tree["noise"] == {"name": "GaussianNoise", "sigma": 0.1}
    with pytest.raises(InputError, match=r"noise and physics.noise contradict each other"):
        with_noise_apart({**described, "noise": "gaussian:0.2"})


def test_unknown_noise_of_simulated_data_needs_the_noise_that_is_added() -> None:
    words = ("--task", "ct", "--data", "synthetic", "--noise", "unknown", "--method", "rei")
    with pytest.raises(InputError, match=r"give the noise that is added as a key: noise=gaussian:0\.1"):
        build_training(tree_of(*words), torch.device("cpu"), out=False)
    tree = tree_of("--task", "ct", "--noise", "unknown", "--method", "rei", "noise=gaussian:0.1")
    assert tree["closure"]["name"] == presets.UNSURE and tree["noise"] == "gaussian:0.1"


# ---- parts ---------------------------------------------------------------------------------------------------------


class Wheel:
    def __init__(self, radius: float, spokes: int = 3) -> None:
        self.radius = radius
        self.spokes = spokes


class Wide(Wheel):
    def __init__(self, width: float = 1.0, **shared: Any) -> None:
        super().__init__(**shared)
        self.width = width


class Car:
    def __init__(self, wheels: list[Wheel], spare: Wheel | None = None, device: Any = None) -> None:
        self.wheels = wheels
        self.spare = spare
        self.device = device


ROOM = {"Car": Car, "Wheel": Wheel, "Wide": Wide}


def make_car(description: Any, **sizes: Any) -> Any:
    return build(description, ROOM, "car", Context(sizes, {"device": CPU}, ROOM))


def test_nested_parts_are_built_first() -> None:
    described = {"name": "Car", "wheels": [{"name": "Wheel", "radius": 1}, {"name": "Wide", "radius": 2, "width": 3}],
                 "spare": {"name": "Wheel", "radius": 4}}  # fmt: skip
    car, filled = make_car(described)
    assert [wheel.radius for wheel in car.wheels] == [1, 2] and (car.wheels[1].width, car.spare.radius) == (3, 4)
    assert filled == described and car.device is CPU  # objects are no part of the description


def test_sizes_are_filled_in_and_described() -> None:
    wheel, filled = make_car({"name": "Wheel"}, radius=2, colour="red")
    assert wheel.radius == 2 and filled == {"name": "Wheel", "radius": 2}
    called: list[int] = []
    assert make_car({"name": "Wheel", "radius": 5}, radius=lambda: called.append(1)).object.radius == 5
    assert called == []  # nothing is computed that the tree says


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"name": "Wheel"}, r"^car.radius is missing: Wheel needs it"),
        ({"name": "Wheel", "radius": 1, "spoke": 2},
         r"^car.spoke is unknown: Wheel takes radius, spokes; did you mean spokes"),
        ({"name": "Wide", "radius": 1, "colour": 2}, r"^car.colour is unknown: Wide takes width, radius, spokes"),
        ({"name": "Car", "wheels": [{"name": "Wheel", "raduis": 1}]}, r"^car.wheels.0.raduis is unknown: .*radius"),
        ({"name": "Car", "wheels": [], "device": "cpu"}, r"^car.device is unknown: Car takes wheels, spare$"),
        ({"name": "Whel", "radius": 1},
         r"^car.name must be a class, got 'Whel'; it is one of Car, .*did you mean Wheel"),
        ({"radius": 1}, r"^car.name is missing; it is one of Car, Wheel, Wide, or FILE.py:NAME"),
        ("Wheel", r"^car.radius is missing"),
        (3, r"^car must be \{name: Class, argument: value\}, got 3"),
    ],
)  # fmt: skip
def test_wrong_parts_are_errors_with_the_full_path(description: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_car(description)


def test_code_that_is_not_trusted_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Wheel: pass\n")
    description = {"name": f"{tmp_path}/evil.py:Wheel"}
    for one in (description, {"name": "Car", "wheels": [description]}):
        with pytest.raises(InputError, match="imported only if it is typed"):
            build(one, ROOM, "car", Context({}, {}, ROOM, trusted=False))
    assert not (tmp_path / "ran").exists()
    assert type(build(description, ROOM, "car").object).__name__ == "Wheel" and (tmp_path / "ran").exists()
