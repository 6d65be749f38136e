"""What a file of a space may say, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import pytest

from jaxrec.tuning.space import Setting, Space, check_file, own_settings, read_space

SEARCHABLE = ("rate", "layers", "dims", "kind", "flag", "maybe")


@dataclasses.dataclass(frozen=True)
class Config:
    rate: float = 0.1
    layers: int = 2
    dims: tuple[int, ...] = (8,)
    kind: Literal["a", "b"] = "a"
    flag: bool = False
    maybe: float | None = None
    epochs: int = 3


def space_of(tmp_path: Path, text: str, row: str = "mlp") -> Space:
    path = tmp_path / "space.toml"
    path.write_text(text)
    return read_space(path, row, Config, SEARCHABLE)


def test_every_kind_of_setting(tmp_path: Path) -> None:
    text = """
    seed = 3
    pruner = "hyperband"
    metric = "valid/auc"
    [settings]
    rate = {low = 1e-4, high = 1, log = true}
    layers = {low = 1, high = 4}
    dims = {choices = [[8], [16, 8]]}
    kind = {choices = ["a", "b"]}
    flag = {choices = [true, false]}
    maybe = {choices = [1, 0.5]}
    """
    found = space_of(tmp_path, text)
    assert (found.seed, found.pruner, found.metric) == (3, "hyperband", "auc")
    assert found.settings == {
        "rate": Setting("float", 1e-4, 1.0, True),
        "layers": Setting("int", 1, 4),
        "dims": Setting("choice", choices=((8,), (16, 8))),
        "kind": Setting("choice", choices=("a", "b")),
        "flag": Setting("choice", choices=(True, False)),
        "maybe": Setting("choice", choices=(1.0, 0.5)),
    }


def test_a_rows_own_setting_stands_in_for_the_general_one(tmp_path: Path) -> None:
    text = "[settings]\nlayers = {low = 1, high = 2}\n[rows.deep]\nlayers = {low = 5, high = 9}"
    assert space_of(tmp_path, text, "mlp").settings["layers"].high == 2
    assert space_of(tmp_path, text, "deep").settings["layers"].high == 9
    assert own_settings(tmp_path / "space.toml", "deep") == {"layers"}
    assert own_settings(tmp_path / "space.toml", "mlp") == set()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[settings]\nrate = {low = 1, high = 0.1}",
            "settings.rate: low = 1, high = 0.1: low must be below high",
        ),
        ("[settings]\nrate = {low = 1, high = 1}", "low must be below high"),
        (
            "[settings]\nrate = {low = 0, high = 1, log = true}",
            "low = 0: must be positive on a logarithmic scale",
        ),
        ("[settings]\nrate = {low = 0, high = inf}", "both finite"),
        ("[settings]\nrate = {low = 0}", "settings.rate: high is missing"),
        ("[settings]\nlayers = {low = 1, high = 2.5}", "layers: high = 2.5: must be a whole number"),
        ("[settings]\nlayers = {choices = [1, true]}", "layers: choices: True is not a whole number"),
        ("[settings]\nkind = {choices = ['a', 'c']}", "kind: choices: 'c' is not one of 'a', 'b'"),
        ("[settings]\nkind = {low = 1, high = 2}", "is no number but one of 'a', 'b'; give {choices"),
        ("[settings]\ndims = {choices = [8]}", "dims: choices: 8 is not a list of int"),
        ("[settings]\nlayers = {choices = [2, 2]}", "2 is repeated"),
        ("[settings]\nrate = {choices = [0.1, nan]}", "rate: choices: nan: must be finite"),
        ("[settings]\nrate = {choices = [inf]}", "rate: choices: inf: must be finite"),
        ("[settings]\nlayers = {choices = []}", "must be a list of at least one value"),
        ("[settings]\nrate = {choices = [1.0], low = 0}", "give choices alone, or a range alone"),
        ("[settings]\nrate = 0.1", "must be a range"),
        (
            "[settings]\nrate = {low = 0, hihg = 1}",
            "hihg: is none of choices, high, log, low; the nearest is 'high'",
        ),
        ("[settings]\nrat = {low = 0, high = 1}", "settings.rat = .*: is no setting; the nearest is 'rate'"),
        (
            "[settings]\nepochs = {low = 1, high = 9}",
            "settings.epochs = .*: decides what is measured or how long",
        ),
        ("metric = 'test/auc'", "metric = 'test/auc': settings are never chosen on the test split"),
        ("metric = 'auc on test'", "never chosen on the test split"),
        ("pruner = 'halving'", "pruner = 'halving': must be one of median, hyperband, none"),
        ("seed = -1", "seed = -1: must be a whole number"),
        ("trials = 3", "trials: is none of"),
        ("[settings", "is not TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        space_of(tmp_path, text)


def test_a_row_that_is_none_and_an_empty_space_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "space.toml"
    path.write_text("[rows.mpl]\nrate = {low = 0, high = 1}")
    with pytest.raises(ValueError, match=r"rows.mpl: is none of knn, mlp; the nearest is 'mlp'"):
        check_file(path, ("mlp", "knn"), Config, SEARCHABLE)
    path.write_text("seed = 0")
    with pytest.raises(ValueError, match="has no setting to search"):
        check_file(path, ("mlp",), Config, SEARCHABLE)
    with pytest.raises(OSError, match="absent"):
        check_file(tmp_path / "absent.toml", ("mlp",), Config, SEARCHABLE)
