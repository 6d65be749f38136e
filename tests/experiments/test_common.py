"""What the experiments have in common: settings that are checked, left to a recipe, or no part of a run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from experiments import common
from experiments.ranking import off_policy


@dataclasses.dataclass(frozen=True)
class Recipe:
    dim: int = 50
    epochs: int = 10
    shared: bool = False


@dataclasses.dataclass(frozen=True)
class Config(common.Options):
    file: str = ""
    dim: int | None = None
    epochs: int | None = None
    shared: bool = True
    workdir: str = "work"


def test_a_setting_left_to_the_recipe_is_not_checked() -> None:
    common.check(Config(), "dim", "num_devices")
    with pytest.raises(ValueError, match="^dim=0: must be at least 1"):
        common.check(Config(dim=0), "dim")


def test_a_recipe_keeps_what_the_config_leaves_to_it() -> None:
    assert common.override(Recipe(), Config(epochs=3)) == Recipe(dim=50, epochs=3, shared=True)


@pytest.mark.parametrize("rows", [("sasrec",), ("sasrec-bce", "sasrec")])
def test_a_row_that_is_none_names_the_nearest(rows: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="rows: 'sasrec' is none of random, sasrec-bce; the nearest is 'sas"):
        common.check_rows(rows, ("random", "sasrec-bce"))


def test_a_choice_that_is_none_names_the_nearest() -> None:
    common.check_choice("form", "mean", {"mean": 1, "flat": 2})
    with pytest.raises(ValueError, match="form: 'flt' is none of mean, flat; the nearest is 'flat'"):
        common.check_choice("form", "flt", {"mean": 1, "flat": 2})


def test_a_row_is_given_once() -> None:
    with pytest.raises(ValueError, match="a row is repeated"):
        common.check_rows(("random", "random"), ("random",))


def test_a_run_is_described_by_what_decides_its_numbers() -> None:
    config = Config(file="ratings.dat", dim=8, num_devices=2)
    options = common.training_options(config, "set", "row", left_out=("file",), row="row")
    assert options["workdir"] == Path("work/set/row")
    assert options["num_devices"] == 2
    described = {"row": "row", "tiny": False, "dim": 8, "epochs": None, "shared": True}
    assert options["description"] == described
    whole = common.training_options(config, "set", "row", row="row")
    assert whole["description"] == {**described, "file": "ratings.dat"}


def test_added_options_describe_a_run_where_they_are_given() -> None:
    assert "accumulate_steps" not in common.describe_settings(Config())
    assert common.describe_settings(Config(accumulate_steps=4))["accumulate_steps"] == 4
    assert common.training_options(Config(accumulate_steps=4))["accumulate_steps"] == 4
    assert common.num_shares(Config(accumulate_steps=4, num_devices=2)) == 8
    with pytest.raises(ValueError, match="^accumulate_steps=0: must be at least 1"):
        common.check(Config(accumulate_steps=0))


def test_options_of_steps_are_refused_where_nothing_is_trained() -> None:
    common.check_untrained(Config())
    with pytest.raises(ValueError, match="^accumulate_steps=2: is of training by steps"):
        common.check_untrained(Config(accumulate_steps=2))
    with pytest.raises(ValueError, match="^accumulate_steps=2: is of training by steps"):
        off_policy.Config(accumulate_steps=2)


def test_options_of_a_file_describe_a_run_that_reads_one() -> None:
    without = common.describe_settings(common.EventOptions())
    assert without == common.describe_settings(common.EventOptions(data="", tiny=False)) == {"tiny": False}
    with_file = common.describe_settings(common.EventOptions(data="mine.csv", user="uid", k_core=5))
    assert with_file == without | {
        "data": "mine.csv",
        "user": "uid",
        "item": "item",
        "time": "time",
        "k_core": 5,
    }
