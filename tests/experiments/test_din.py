"""The data sets of the experiment on behaviour histories: what is known of items, and that rows read it."""

from __future__ import annotations

import dataclasses
from typing import get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.ranking import din
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.sources import coserec, sasrec
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.tasks.ctr import ctr, other_events

ITEMS = 12
TAGS = np.array([[0, 0], *([k % 5 + 1, 6 if k % 2 else 0] for k in range(ITEMS))], np.int32)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Small sets without times in place of the public ones; gives which were asked for."""
    found: list[tuple[str, str]] = []

    def load(source: str, name: str) -> Sequences:
        found.append((source, name))
        made = markov_chain(20, ITEMS, min_length=4, max_length=9).sequences
        return dataclasses.replace(made, times=None, name=f"{source}/{name}")

    def load_attributes(name: str) -> np.ndarray:
        found.append(("attributes", name))
        return TAGS

    monkeypatch.setattr(coserec, "load", lambda name: load("coserec", name))
    monkeypatch.setattr(coserec, "load_attributes", load_attributes)
    monkeypatch.setattr(sasrec, "load", lambda name: load("sasrec", name))
    return found


@pytest.mark.parametrize(
    ("dataset", "sources"),
    [
        ("Beauty", [("coserec", "Beauty"), ("attributes", "Beauty")]),
        ("Sports", [("coserec", "Sports_and_Outdoors"), ("attributes", "Sports_and_Outdoors")]),
        ("Toys", [("coserec", "Toys_and_Games"), ("attributes", "Toys_and_Games")]),
        ("Yelp", [("coserec", "Yelp"), ("attributes", "Yelp")]),
        ("Games", [("sasrec", "Video")]),
    ],
)
def test_a_name_means_the_set_of_its_paper(
    asked: list[tuple[str, str]], dataset: str, sources: list[tuple[str, str]]
) -> None:
    config = din.Config(dataset=dataset)  # type: ignore[arg-type]
    clicks = din.load(config)
    assert asked == sources
    assert (
        list(clicks.side_info.items) == ["attributes"] * (dataset != "Games") and not clicks.side_info.users
    )
    data = din.resident(clicks, config)
    named = dataset if dataset == "Games" else f"coserec-{dataset}"
    assert data.name == named and data.rule.startswith("last event")


@pytest.mark.parametrize("row", din.ROWS)
def test_every_row_reads_attributes(asked: list[tuple[str, str]], row: din.Row) -> None:
    """The vectors of a target or event are those of the item and of its attributes: two of width 4."""
    config = din.Config(dataset="Beauty", dim=4, length=3)
    clicks = din.load(config)
    module = din.model(row, clicks, config)
    task = ctr(module, length=3, columns=other_events(ITEMS) if row == "dien" else None)
    columns = jax.tree.map(jnp.asarray, clicks.columns())
    rows = {"example": jnp.arange(6), "mask": jnp.ones(6, bool)}

    def logits(key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        variables = task.init(key, task.prepare(key, rows, columns))
        read = {name: jnp.asarray(getattr(clicks, name)[:6]) for name in ("user", "item", "start", "end")}
        batch = din.resident(clicks, config).expand(read, columns)  # type: ignore[misc]
        return task.predict(variables, batch), variables["params"]["embedding"]

    found, tables = jax.eval_shape(logits, jax.random.key(0))
    assert found.shape == (6,)
    assert {name: table.shape for name, table in tables.items()} == {
        "item_embedding": (ITEMS + 1, 4),
        "attributes_embedding": (7, 4),
    }


@pytest.mark.parametrize("dataset", get_args(get_type_hints(din.Config)["dataset"]))
def test_only_sets_with_times_are_split_by_time(dataset: str) -> None:
    if dataset == "ml-100k":
        assert din.Config(dataset="ml-100k", split="time").split == "time"
        return
    with pytest.raises(ValueError, match=f"split='time': {dataset} has no times; use split='last'"):
        din.Config(dataset=dataset, split="time")  # type: ignore[arg-type]
