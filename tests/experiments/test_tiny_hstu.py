"""HSTU's experiments run to their end on tiny data; what its rows are made of; what blocks save."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from experiments.benchmarks import hstu_length
from experiments.published import NONE
from experiments.sequential import hstu
from experiments.sequential.hstu_recipes import RECIPES
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.sources import sasrec
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.nn.sequential.cosine import Cosine
from jaxrec.nn.sequential.hstu import HSTU
from jaxrec.nn.sequential.sasrec_hstu import SASRecHSTU
from jaxrec.nn.sequential.sasrec_original import SASRecOriginal
from jaxrec.protocols import next_item as ranking
from jaxrec.report.results import read_results
from tests.experiments.test_tiny import call

ROWS = ("sasrec-bce", "sasrec-original-ssm", "sasrec-ssm", "hstu-ssm")
SSM = "softmax of cosines / 0.05, 16 uniform negatives an event"


def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *args: object) -> dict[str, Any]:
    """Runs the experiment through its command line: result by model."""
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")
    places = ("--results", tmp_path / "results", "--workdir", tmp_path / "work", "--seeds", 3)
    call(hstu, monkeypatch, "--tiny", *args, *places)
    return {record.result.model: record.result for record in read_results(tmp_path / "results")}


def test_tiny_runs_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HSTU learns a chain of items that popularity knows nothing of."""
    longer = ("--epochs", 30, "--batch-size", 16, "--learning-rate", 0.01)
    found = tiny(tmp_path, monkeypatch, "--rows", "popularity", "hstu-ssm", *longer)
    assert set(found) == {"popularity", "hstu-ssm"}
    result = found["hstu-ssm"]
    assert (result.experiment, result.dataset, result.steps) == ("hstu", "synthetic", 180)
    assert (result.protocol.loss, result.protocol.candidates) == (SSM, "all")
    assert result.protocol.selection == "ndcg@10"
    assert result.note == "reads the time of the target"
    assert not result.published
    assert result.metrics["ndcg@10"][0] > 0.5 > 2 * found["popularity"].metrics["ndcg@10"][0]


def ratings_dat() -> str:
    """A tiny ratings.dat: the chain of the synthetic set, written as MovieLens-1M is."""
    sequences = markov_chain(num_users=24, num_items=20).sequences
    assert sequences.times is not None
    rows = zip(sequences.event_users + 1, sequences.items, sequences.times, strict=True)
    return "".join(f"{user}::{100 + item}::{3 + item % 3}::{time}\n" for user, item, time in rows)


def test_a_public_file_runs_to_the_end_as_the_public_code_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Selection on test, stochastic length, bfloat16, blocks and shared negatives, all in the row's name."""
    path = tmp_path / "ratings.dat"
    path.write_text(ratings_dat())
    options = ("--alpha", 1.5, "--dtype", "bfloat16", "--block", 5, "--shared", "--select", "test")
    found = tiny(
        tmp_path, monkeypatch, "--dataset", "ml-1m", "--file", path, *options, "--rows", "hstu-large-ssm"
    )
    assert set(found) == {"hstu-large-ssm+alpha-1.5+shared+bf16+test-selected"}
    (result,) = found.values()
    assert result.dataset == "ml-1m-sample"
    assert result.protocol.selection == "ndcg@10 on test"
    assert result.protocol.split == ("leave-one-out, without validation: training on all events but the last")
    assert result.note == "reads the time of the target; parameters of the best epoch on test"
    assert str(path) not in json.dumps(dict(result.config))
    assert not result.published  # a sample


# --- rows ---


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("row", [*ROWS, "hstu-large-ssm"])
def test_every_row_of_every_data_set_is_a_model(name: Any, row: hstu.Row) -> None:
    config = hstu.Config(dataset=name)
    recipe = hstu.recipe_of(config, row)
    model: Any = hstu.encoder_of(row, 100, config)
    items = jax.ShapeDtypeStruct((2, recipe.max_len), np.int32)
    key = jax.random.key(0)
    hidden, _ = jax.eval_shape(lambda x: model.init_with_output(key, x, train=False), items)
    assert hidden.shape == (2, recipe.max_len, recipe.dim)
    if row in ("sasrec-original-ssm", "sasrec-ssm"):
        assert isinstance(model, Cosine)
        model = model.encoder
    kinds = {"sasrec-bce": SASRecOriginal, "sasrec-original-ssm": SASRecOriginal, "sasrec-ssm": SASRecHSTU}
    assert isinstance(model, kinds.get(row, HSTU))


def test_rows_of_a_table_have_one_budget() -> None:
    for name in RECIPES:
        config: Any = hstu.Config(dataset=name)  # type: ignore[arg-type]
        assert len({hstu.recipe_of(config, row) for row in ROWS}) == 1


def test_published_settings_are_those_of_the_card() -> None:
    """Width, layers, heads, width of a head, length, dropout, negatives, epochs."""
    expected: dict[tuple[Any, Any], tuple[float, ...]] = {
        ("ml-1m", "hstu-ssm"): (50, 2, 1, 50, 200, 0.2, 128, 101),
        ("ml-1m", "hstu-large-ssm"): (50, 8, 2, 25, 200, 0.2, 128, 101),
        ("ml-20m", "hstu-ssm"): (256, 4, 4, 64, 200, 0.2, 128, 101),
        ("ml-20m", "hstu-large-ssm"): (256, 16, 8, 32, 200, 0.2, 128, 101),
        ("Books", "hstu-ssm"): (64, 4, 4, 16, 50, 0.5, 512, 201),
        ("Books", "hstu-large-ssm"): (64, 16, 8, 8, 50, 0.5, 512, 201),
    }
    for (name, row), values in expected.items():
        assert dataclasses.astuple(hstu.recipe_of(hstu.Config(dataset=name), row))[:8] == values


@pytest.mark.parametrize("change", [{}, {"seeds": (7,)}, {"file": "x"}, {"block": 64}])
def test_published_settings_have_the_published_numbers(change: dict[str, Any]) -> None:
    """They select on test, and a reader is told what the published ranks are among."""
    config = hstu.Config(dataset="ml-1m", select="test", **change)
    found = hstu.published_numbers("hstu-ssm", config)
    assert hstu.note_of("hstu-ssm", config).split("; ") == [
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
        {"tiny": True},
    ],
)
def test_other_settings_have_none(change: dict[str, Any]) -> None:
    config = hstu.Config(dataset="ml-1m", **{"select": "test", **change})
    assert hstu.published_numbers("hstu-ssm", config) == NONE


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_dropout_is_that_of_the_command_line(dropout: float) -> None:
    config = hstu.Config(dataset="Beauty", dropout=dropout)
    model = hstu.encoder_of("hstu-ssm", 3, config)
    assert isinstance(model, HSTU) and model.dropout == model.linear_dropout == dropout
    assert hstu.model_name("hstu-ssm", config) == f"hstu-ssm+dropout-{dropout:g}"
    assert hstu.recipe_of(hstu.Config(dataset="Beauty"), "hstu-ssm").dropout == 0.5


def test_layers_are_those_of_the_command_line() -> None:
    config = hstu.Config(dataset="Beauty", num_layers=2)
    for row in ROWS:
        assert hstu.recipe_of(config, row).num_layers == 2
        assert hstu.model_name(row, config) == f"{row}+layers-2"
    assert hstu.recipe_of(hstu.Config(dataset="Beauty"), "sasrec-ssm").num_layers == 4


def test_data_without_times_need_hstu_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sasrec, "load", lambda name: Sequences.from_lists(name, [[1, 2, 3, 1]]))
    with pytest.raises(ValueError, match="Video: has no times; --no-times"):
        hstu.load(hstu.Config(dataset="Video"))
    config = hstu.Config(dataset="Video", times=False)
    assert hstu.load(config).times is None
    assert hstu.model_name("hstu-ssm", config) == "hstu-ssm+no-times"
    model = hstu.encoder_of("hstu-ssm", 3, config)
    assert isinstance(model, HSTU) and not model.reads_times


def test_without_validation_all_events_but_the_last_are_training() -> None:
    """A user of two events stays in training only, as ever."""
    sequences = Sequences.from_lists("small", [[1, 2, 3, 4], [1, 2], [4, 3, 2]])
    split = hstu.split_of(sequences, "test")
    assert split.train_length.tolist() == [3, 2, 2]
    assert split.test.target.tolist() == [4, 2]
    assert split.validation is split.test
    plain = hstu.split_of(sequences, "validation")
    assert plain.train_length.tolist() == [2, 2, 1]


def test_rows_of_shortened_histories_are_fewer() -> None:
    config = hstu.Config(tiny=True, alpha=1.2, batch_size=32)
    data = ranking.resident(hstu.split_of(hstu.load(config), "validation"))
    assert hstu.shortened_rows(data, config, 12).rows < ranking.training_rows(data, 32, 12, 1).rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"block": -1}, "block=-1"),
        ({"num_layers": -1}, "num_layers=-1"),
        ({"dropout": 1.0}, "dropout=1.0: must lie in"),
        ({"alpha": 1.0}, "alpha=1.0: must be above 1"),
        ({"file": "x"}, "file='x': goes with one of ml-1m, ml-20m, Books, not ml-100k"),
        ({"seeds": (1, 1)}, "none twice"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hstu.Config(**change)


# --- the cost of length ---


def test_blocks_take_less_memory_and_give_the_same_gradients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")
    call(hstu_length, monkeypatch, "--tiny", "--results", tmp_path)
    printed = capsys.readouterr().out
    gaps = [float(number) for number in re.findall(r" by (\d\.\de[+-]\d+)", printed)]
    assert len(gaps) == 2 and max(gaps) < 1e-5
    stored = {figure["name"]: figure for figure in json.loads((tmp_path / "hstu_length.json").read_text())}
    assert set(stored) == {
        f"hstu_length/{kind}_32{of}" for kind in hstu_length.KINDS for of in ("", ":memory")
    }
    assert {figure["unit"] for figure in stored.values()} == {"s", "MiB"}
    memory = {name: stored[f"hstu_length/{name}_32:memory"]["median"] for name in hstu_length.KINDS}
    assert memory["blocked"] < memory["plain"]


def test_what_is_too_large_has_no_seconds() -> None:
    large = hstu_length.Measured("plain", 64, 3 * 2**20, [])
    small = hstu_length.Measured("blocked", 64, 2**20, [2.0, 4.0, 3.0])
    assert [(f.name, f.unit, f.median) for f in hstu_length.figures(large)] == [
        ("hstu_length/plain_64:memory", "MiB", 3.0)
    ]
    assert [f.median for f in hstu_length.figures(small)] == [3.0, 1.0]
    assert hstu_length.table([large, small]).splitlines()[-1].split() == [
        "64", "too", "large", "3", "3.0", "1.0", "3.0"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block": 0}, "block=0: must be at least 1"),
        ({"longest": 3000}, "longest=3000: must be a power of two"),
        ({"longest": 128}, "longest=128: must be at least shortest=256"),
        ({"num_heads": 3}, "num_heads=3: must divide dim=64"),
    ],
)
def test_lengths_that_mean_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hstu_length.Config(**change)
