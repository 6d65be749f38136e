"""The HSTU experiment runs to its end on tiny data and on files, and its rows are what they are called."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from experiments.common import NONE, check_label
from experiments.sequential import hstu
from jaxrec.augment.stochastic_length import stochastic_length
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.events.split import leave_one_out
from jaxrec.data.sources import sasrec
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.nn.sequential.cosine import Cosine
from jaxrec.nn.sequential.hstu import HSTU
from jaxrec.nn.sequential.sasrec_hstu import SASRecHSTU
from jaxrec.nn.sequential.sasrec_original import SASRecOriginal
from jaxrec.protocols import next_item
from jaxrec.recipes import hstu as recipes
from jaxrec.tasks.encoder import reads_times
from jaxrec.types import Result
from tests.experiments.multitask.runs import results_of
from tests.experiments.own_files import write_events

ROWS = ("sasrec-bce", "sasrec-original-ssm", "sasrec-ssm", "hstu-ssm")
SSM = "softmax of cosines / 0.05, 16 uniform negatives an event"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    longer = ("--epochs", 30, "--batch-size", 16, "--learning-rate", 0.01)
    return results_of(hstu, tmp_path_factory.mktemp("hstu"), "--rows", "popularity", "hstu-ssm", *longer)


@pytest.mark.long
def test_hstu_learns_a_chain_of_items_that_popularity_knows_nothing_of(tiny: dict[str, Result]) -> None:
    assert set(tiny) == {"popularity", "hstu-ssm"}
    assert tiny["hstu-ssm"].metrics["ndcg@10"][0] > 0.5 > 2 * tiny["popularity"].metrics["ndcg@10"][0]


def test_a_trained_row_says_how(tiny: dict[str, Result]) -> None:
    result = tiny["hstu-ssm"]
    assert (result.experiment, result.dataset, result.steps) == ("hstu", "synthetic", 180)
    assert (result.protocol.loss, result.protocol.candidates) == (SSM, "all")
    assert result.protocol.selection == "ndcg@10"
    assert result.note == "reads the time of the target"
    assert not result.published
    baseline = tiny["popularity"]
    assert (baseline.protocol.loss, baseline.protocol.selection, baseline.note) == ("", "none", "")
    assert dict(baseline.config) == {}


def ratings_dat() -> str:
    """A tiny ratings.dat: the chain of the synthetic set, written as MovieLens-1M is."""
    sequences = markov_chain(num_users=24, num_items=20).sequences
    assert sequences.times is not None
    rows = zip(sequences.event_users + 1, sequences.items, sequences.times, strict=True)
    return "".join(f"{user}::{100 + item}::{3 + item % 3}::{time}\n" for user, item, time in rows)


def test_a_public_file_runs_to_the_end_as_the_public_code_does(tmp_path: Path) -> None:
    """Selection on test, stochastic length, bfloat16, blocks and shared negatives, all in the row's name."""
    path = tmp_path / "ratings.dat"
    path.write_text(ratings_dat())
    options = ("--alpha", 1.5, "--dtype", "bfloat16", "--block", 5, "--shared", "--select", "test")
    rows = ("--rows", "popularity", "hstu-large-ssm")
    found = results_of(hstu, tmp_path, "--dataset", "ml-1m", "--file", path, *options, *rows)
    assert set(found) == {"popularity", "hstu-large-ssm+alpha-1.5+shared+bf16+test-selected"}
    assert found["popularity"].protocol.selection == "none"
    result = found["hstu-large-ssm+alpha-1.5+shared+bf16+test-selected"]
    assert result.dataset == "ml-1m-sample"
    assert result.protocol.loss == "softmax of cosines / 0.05, 16 uniform negatives a batch"
    assert result.protocol.selection == "ndcg@10 on test"
    assert result.protocol.split == ("leave-one-out, without validation: training on all events but the last")
    assert result.note == "reads the time of the target; parameters of the best epoch on test"
    assert str(path) not in json.dumps(dict(result.config))
    assert not result.published  # a sample


@pytest.mark.long
def test_a_file_of_yours_runs_to_the_end(tmp_path: Path) -> None:
    path = write_events(tmp_path / "shop.csv")
    names = ("--data", path, "--user", "uid", "--item", "sku", "--time", "ts")
    (result,) = results_of(hstu, tmp_path, *names, "--rows", "sasrec-bce").values()
    assert (result.dataset, result.model, result.protocol.loss) == ("shop.csv", "sasrec-bce", "bce")
    assert not result.published and not result.note


# --- rows ---


def built(row: str, config: hstu.Config, num_items: int = 100) -> Any:
    return hstu.ROWS[row].encoder(num_items, hstu.recipe_of(row, config))


@pytest.mark.parametrize("name", recipes.RECIPES)
@pytest.mark.parametrize("row", hstu.ROWS)
def test_every_row_of_every_data_set_is_a_model(name: Any, row: str) -> None:
    config = hstu.Config(dataset=name)
    recipe, model = hstu.recipe_of(row, config), built(row, config)
    items = jax.ShapeDtypeStruct((2, recipe.max_len), np.int32)
    key = jax.random.key(0)
    hidden, _ = jax.eval_shape(lambda x: model.init_with_output(key, x, train=False), items)
    assert hidden.shape == (2, recipe.max_len, recipe.dim)
    if row in ("sasrec-original-ssm", "sasrec-ssm", "sasrec-raw-residual-ssm"):
        assert isinstance(model, Cosine)
        model = model.encoder
    kinds: dict[str, type] = {
        "sasrec-bce": SASRecOriginal,
        "sasrec-original-ssm": SASRecOriginal,
        "sasrec-ssm": SASRecHSTU,
        "sasrec-raw-residual-ssm": SASRecHSTU,
    }
    assert isinstance(model, kinds.get(row, HSTU))


@pytest.mark.parametrize("row", hstu.ROWS)
def test_the_loss_is_part_of_every_name(row: str) -> None:
    data = next_item.resident(leave_one_out(markov_chain(num_users=8, num_items=40).sequences))
    objective = hstu.ROWS[row].objective(data, hstu.recipe_of(row, hstu.Config(shared=True)))
    check_label(row, objective.name)
    expected = "bce" if row == "sasrec-bce" else "softmax of cosines / 0.05, 128 uniform negatives a batch"
    assert objective.description == expected


def test_every_setting_of_a_recipe_is_an_option() -> None:
    options = {field.name for field in dataclasses.fields(hstu.Config)}
    assert {field.name for field in dataclasses.fields(recipes.Recipe)} <= options
    changed = hstu.recipe_of("hstu-ssm", hstu.Config(dim=24, head_dim=6, max_len=30, temperature=0.1))
    assert (changed.dim, changed.head_dim, changed.max_len, changed.temperature) == (24, 6, 30, 0.1)


def test_rows_of_a_table_have_one_budget() -> None:
    for name in recipes.RECIPES:
        config: Any = hstu.Config(dataset=name)  # type: ignore[arg-type]
        assert len({hstu.recipe_of(row, config) for row in ROWS}) == 1


def test_published_settings_are_those_of_the_card() -> None:
    """Width, layers, heads, width of a head, length, dropout, negatives, epochs."""
    expected: dict[tuple[Any, str], tuple[float, ...]] = {
        ("ml-1m", "hstu-ssm"): (50, 2, 1, 50, 200, 0.2, 128, 101),
        ("ml-1m", "hstu-large-ssm"): (50, 8, 2, 25, 200, 0.2, 128, 101),
        ("ml-20m", "hstu-ssm"): (256, 4, 4, 64, 200, 0.2, 128, 101),
        ("ml-20m", "hstu-large-ssm"): (256, 16, 8, 32, 200, 0.2, 128, 101),
        ("Books", "hstu-ssm"): (64, 4, 4, 16, 50, 0.5, 512, 201),
        ("Books", "hstu-large-ssm"): (64, 16, 8, 8, 50, 0.5, 512, 201),
    }
    for (name, row), values in expected.items():
        assert dataclasses.astuple(hstu.recipe_of(row, hstu.Config(dataset=name)))[:8] == values


@pytest.mark.parametrize("change", [{}, {"seeds": (7,)}, {"file": "x"}, {"block": 64}])
def test_published_settings_have_the_published_numbers(change: dict[str, Any]) -> None:
    """They select on test, and a reader is told what the published ranks are among."""
    config = hstu.Config(dataset="ml-1m", select="test", **change)
    found = hstu.published_numbers("hstu-ssm", config)
    assert hstu.note_of(built("hstu-ssm", config), config).split("; ") == [
        "reads the time of the target",
        "parameters of the best epoch on test",
    ]
    assert found.values["ndcg@10"] == 0.1720 and found.values["hit@200"] == 0.7716
    assert "no validation split" in found.source
    assert "among all 3,883 movies of the file and takes out the last 200 inputs" in found.incomparable


@pytest.mark.parametrize(
    "change",
    [
        {"select": "validation"},
        {"times": False},
        {"alpha": 1.6},
        {"shared": True},
        {"epochs": 2},
        {"num_layers": 3},
        {"dtype": "bfloat16"},
        {"dropout": 0.0},
        {"max_len": 100},
        {"tiny": True},
        {"data": "shop.csv"},
    ],
)
def test_other_settings_have_none(change: dict[str, Any]) -> None:
    config = hstu.Config(dataset="ml-1m", **{"select": "test", **change})
    assert hstu.published_numbers("hstu-ssm", config) == NONE


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_dropout_is_that_of_the_command_line(dropout: float) -> None:
    config = hstu.Config(dataset="Beauty", dropout=dropout)
    model = built("hstu-ssm", config, 3)
    assert isinstance(model, HSTU) and model.dropout == model.linear_dropout == dropout
    assert hstu.model_name("hstu-ssm", config) == f"hstu-ssm+dropout-{dropout:g}"
    assert hstu.recipe_of("hstu-ssm", hstu.Config(dataset="Beauty")).dropout == 0.5


def test_layers_are_those_of_the_command_line() -> None:
    config = hstu.Config(dataset="Beauty", num_layers=2)
    for row in ROWS:
        assert hstu.recipe_of(row, config).num_layers == 2
        assert hstu.model_name(row, config) == f"{row}+layers-2"
    assert hstu.recipe_of("sasrec-ssm", hstu.Config(dataset="Beauty")).num_layers == 4


def test_data_without_times_need_hstu_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sasrec, "load", lambda name: Sequences.from_lists(name, [[1, 2, 3, 1]]))
    with pytest.raises(ValueError, match="Video: has no times; --no-times"):
        hstu.load(hstu.Config(dataset="Video"))
    config = hstu.Config(dataset="Video", times=False)
    assert hstu.load(config).times is None
    assert hstu.model_name("hstu-ssm", config) == "hstu-ssm+no-times"
    model = built("hstu-ssm", config, 3)
    assert isinstance(model, HSTU) and not reads_times(model)


def test_without_validation_all_events_but_the_last_are_training() -> None:
    """A user of two events stays in training only, as ever."""
    sequences = Sequences.from_lists("small", [[1, 2, 3, 4], [1, 2], [4, 3, 2]])
    split = hstu.split(sequences, "test")
    assert split.train_length.tolist() == [3, 2, 2]
    assert split.test.target.tolist() == [4, 2]
    assert split.validation is split.test
    plain = hstu.split(sequences, "validation")
    assert plain.train_length.tolist() == [2, 2, 1]


@pytest.mark.parametrize("row", hstu.ROWS)
def test_hstu_alone_reads_shortened_histories(
    row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Seen(Exception):
        pass

    def train(*arguments: Any, shortening: Any, **options: Any) -> Any:
        raise Seen(shortening is not None)

    monkeypatch.setattr(next_item, "train", train)
    kept = {"results": str(tmp_path), "workdir": str(tmp_path)}
    with pytest.raises(Seen) as seen:
        hstu.run(hstu.Config(tiny=True, alpha=1.2, rows=(row,), seeds=(0,), **kept))
    assert seen.value.args == (row.startswith("hstu"),)


def test_shortened_histories_take_fewer_rows() -> None:
    config = hstu.Config(tiny=True, alpha=1.2, batch_size=32)
    data = next_item.resident(hstu.split(hstu.load(config), "validation"))
    recipe = hstu.recipe_of("hstu-ssm", config)
    shortening, model = recipes.stochastic(recipe), built("hstu-ssm", config, data.num_items)
    assert shortening is not None
    short = next_item.packing_of(data, model, 32, grow=shortening.lengths)
    whole = next_item.packing_of(data, model, 32)
    assert short is not None and whole is not None and short.rows < whole.rows
    key, real = jax.random.key(0), np.ones((2, 12), bool)
    expected = stochastic_length(key, real, max_len=12, alpha=1.2)
    np.testing.assert_array_equal(shortening.events(key, real), expected)
    assert recipes.stochastic(hstu.recipe_of("hstu-ssm", hstu.Config())) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"block": -1}, "block=-1"),
        ({"num_layers": -1}, "num_layers=-1"),
        ({"dropout": 1.0}, "dropout=1.0: must lie in"),
        ({"alpha": 1.0}, "alpha=1.0: must be above 1"),
        ({"file": "x"}, "file='x': goes with one of ml-1m, ml-20m, Books, not ml-100k"),
        ({"file": "x", "dataset": "ml-1m", "data": "y"}, "file='x': goes with one of .*, not --data"),
        ({"num_heads": 3, "dim": 8}, "num_heads=3: must divide dim=8"),
        ({"rows": ("hstu",)}, "rows: 'hstu' is none of .*; the nearest is 'hstu-ssm'"),
        ({"seeds": (1, 1)}, "each once"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hstu.Config(**change)
