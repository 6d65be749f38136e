"""The experiment on behaviour histories: its data sets, its rows, and a tiny run of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.ranking import din
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.sources import coserec
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.protocols import impressions
from jaxrec.report.results import read_results
from tests.experiments.own_files import write_events
from tests.experiments.test_tiny import call

ITEMS = 12
TAGS = np.array([[0, 0], *([k % 5 + 1, 6 if k % 2 else 0] for k in range(ITEMS))], np.int32)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Small sets without times in place of the public ones; gives which were loaded."""
    found: list[str] = []

    def load(name: str) -> Sequences:
        found.append(name)
        made = markov_chain(20, ITEMS, min_length=4, max_length=9).sequences
        return dataclasses.replace(made, times=None, name=name)

    def load_attributes(name: str) -> np.ndarray:
        found.append(f"attributes of {name}")
        return TAGS

    monkeypatch.setattr("jaxrec.data.load", load)
    monkeypatch.setattr(coserec, "load_attributes", load_attributes)
    return found


@pytest.mark.parametrize(
    ("dataset", "sources"),
    [
        ("Beauty", {"coserec/Beauty", "attributes of Beauty"}),
        ("Sports", {"coserec/Sports_and_Outdoors", "attributes of Sports_and_Outdoors"}),
        ("Toys", {"coserec/Toys_and_Games", "attributes of Toys_and_Games"}),
        ("Yelp", {"coserec/Yelp", "attributes of Yelp"}),
        ("Video", {"sasrec/Video"}),
    ],
)
def test_a_name_means_the_set_of_its_paper(loaded: list[str], dataset: str, sources: set[str]) -> None:
    config = din.Config(dataset=dataset)  # type: ignore[arg-type]
    clicks = din.load(config)
    assert set(loaded) == sources
    assert list(clicks.side_info.items) == ["attributes"] * (dataset != "Video")
    assert not clicks.side_info.users
    assert clicks.rule.startswith("last event")
    named = dataset if dataset == "Video" else f"coserec-{dataset}"
    assert din.dataset_name(config, clicks) == named


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize("row", din.ROWS)
def test_every_row_reads_attributes_and_gives_the_losses_of_its_label(row: str) -> None:
    """The vectors of a target or event are those of the item and of its attributes: two of width 4."""
    config = din.Config(dataset="Beauty", dim=4, length=3)
    clicks = din.load(config)
    task = din.task_of(din.ROWS[row], clicks, config)
    columns = jax.tree.map(jnp.asarray, clicks.columns())
    examples = {"example": jnp.arange(6), "mask": jnp.ones(6, bool)}
    data = impressions.resident_clicks(clicks, length=3)

    def outputs(key: jax.Array) -> tuple[Any, ...]:
        prepared = task.prepare(key, examples, columns)
        variables = task.init(key, prepared)
        read = {name: jnp.asarray(getattr(clicks, name)[:6]) for name in ("user", "item", "start", "end")}
        batch = data.expand(read, columns)  # type: ignore[misc]
        found = task.losses(variables, prepared, key)[0]
        return task.predict(variables, batch), variables["params"]["embedding"], found

    logits, tables, losses = jax.eval_shape(outputs, jax.random.key(0))
    assert logits.shape == (6,)
    assert {name: table.shape for name, table in tables.items()} == {
        "item_embedding": (ITEMS + 1, 4),
        "attributes_embedding": (7, 4),
    }
    further = [din.TERMS[name] for name in losses if name != "click"]
    assert din.ROWS[row].label == " + ".join(["bce", *further])


@pytest.mark.parametrize("dataset", get_args(get_type_hints(din.Config)["dataset"]))
def test_only_sets_with_times_are_split_by_time(dataset: str) -> None:
    if dataset == "ml-100k":
        assert din.Config(dataset="ml-100k", split="time").split == "time"
        return
    with pytest.raises(ValueError, match=f"split='time': {dataset} has no times; use split='last'"):
        din.Config(dataset=dataset, split="time")  # type: ignore[arg-type]
    assert din.Config(dataset=dataset, split="user").split == "user"  # type: ignore[arg-type]


def tiny(folder: Path, monkeypatch: pytest.MonkeyPatch, *options: object) -> dict[str, Any]:
    """Results of a tiny run, by row."""
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")
    call(din, monkeypatch, "--tiny", *options, "--results", folder / "results", "--workdir", folder / "work")
    return {record.result.model: record.result for record in read_results(folder / "results")}


def test_tiny_runs_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = tiny(tmp_path, monkeypatch, "--rows", "base", "dien", "--seeds", 3, 4)
    losses = {name: result.protocol.loss for name, result in found.items()}
    assert losses == {"base": "bce", "dien": "bce + next behaviour"}
    for result in found.values():
        assert result.experiment == "din" and result.steps > 0
        assert len(result.metrics["rela_impr/click"]) == 2
        assert result.protocol.candidates == "impressions"
        assert not result.published  # nothing was published about made-up data
    assert found["base"].metrics["rela_impr/click"] == (0.0, 0.0)


@pytest.mark.long
def test_tiny_tests_on_other_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clicks = din.load(din.Config(tiny=True, split="user"))
    users = [set(clicks.user[part].tolist()) for part in (clicks.train, clicks.validation, clicks.test)]
    assert [len(some) for some in users] == [48, 6, 6] and len(set.union(*users)) == 60
    found = tiny(tmp_path, monkeypatch, "--rows", "base", "--split", "user", "--seeds", 0)
    assert found["base"].protocol.split.startswith("users 80/10/10, seed 0; ")


@pytest.mark.long
def test_a_file_of_ones_own_is_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_events(tmp_path / "mine.csv")
    options = (
        "--rows",
        "din",
        "--seeds",
        0,
        "--data",
        path,
        "--user",
        "uid",
        "--item",
        "sku",
        "--time",
        "ts",
    )
    found = tiny(tmp_path, monkeypatch, *options)
    assert found["din"].dataset == "mine.csv"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"seeds": (1, 1)}, "each once"),
        ({"mba": 0.0}, "mba=0.0: must be positive"),
        ({"rows": ("dim",)}, "rows: 'dim' is none of .*; the nearest is 'din'"),
        ({"data": "a.csv", "time": "", "split": "time"}, "split='time': a.csv has no times"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        din.Config(**change)
