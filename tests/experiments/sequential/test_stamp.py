"""The experiment on sessions runs to its end on tiny data, and its rows are labelled as they were trained."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import common
from experiments.sequential import stamp, stamp_published
from jaxrec.data.events.sessions import split_sessions
from jaxrec.data.sources import session_logs as source
from jaxrec.protocols import sessions
from jaxrec.recipes import stamp as recipes
from jaxrec.report.results import read_results
from tests.experiments.own_files import write_events
from tests.experiments.test_tiny import call

LEARNED = {"stamp-ce": "ce", "gru4rec-ce": "ce"}


def test_tiny_runs_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")
    results = tmp_path / "results"
    rows = ("--rows", "random", "item-knn", *LEARNED)
    places = ("--results", results, "--workdir", tmp_path / "work", "--seeds", 3, 4)
    call(stamp, monkeypatch, "--tiny", *rows, *places)
    records = {record.result.model: record.result for record in read_results(results)}
    assert set(records) == {"random", "item-knn", *LEARNED}
    for model, result in records.items():
        assert (result.experiment, result.dataset) == ("stamp", "tiny")
        assert bool(result.steps) == (model in LEARNED)
        assert result.protocol.loss == LEARNED.get(model, "")
        assert (result.protocol.candidates, result.protocol.seen) == ("all", "keep")
        assert result.protocol.selection == ("recall@20" if model in LEARNED else "none")
        assert set(result.metrics) == {f"{m}@{k}" for m in ("recall", "mrr") for k in sessions.KS}
        assert all(len(values) == 2 for values in result.metrics.values())
        assert not result.published  # nothing was published about made-up data
    assert records["item-knn"].metrics["recall@5"][0] > 2 * np.mean(records["random"].metrics["recall@5"])


def test_epochs_chosen_on_test_are_labelled_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")
    places = ("--results", tmp_path / "results", "--workdir", tmp_path / "work", "--seeds", 3)
    call(stamp, monkeypatch, "--tiny", "--rows", "popularity", "stamp-ce", "--select", "test", *places)
    records = {record.result.model: record.result for record in read_results(tmp_path / "results")}
    assert set(records) == {"popularity+all-sessions", "stamp-ce+test-selected"}
    assert records["popularity+all-sessions"].protocol.selection == "none"
    result = records["stamp-ce+test-selected"]
    assert result.protocol.selection == "recall@20 on test"
    assert result.protocol.split == "later sessions tested, all others trained on"
    assert result.config["share"] == 0
    whole = stamp.complete_settings(stamp.Config(select="test"))
    assert stamp.published_numbers("stamp-ce", whole).values["mrr@20"] == 0.2967
    assert "best on test" in stamp_published.note_of("stamp-ce", "test")
    assert (
        stamp_published.note_of("item-knn", "test") == stamp_published.PREPARATION
    )  # nothing of it was chosen


def test_repeated_views_stand_together_in_file_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")
    call(stamp, monkeypatch, "--tiny", "--rows", "markov", "--order", "file", "--results", tmp_path)
    (record,) = read_results(tmp_path)
    assert (record.result.model, record.result.config["order"]) == ("markov+file-order", "file")
    assert not stamp.published_numbers("markov", stamp.complete_settings(stamp.Config(order="file"))).values
    assert not stamp.published_numbers("item-knn", stamp.complete_settings(stamp.Config(order="file"))).values


def test_published_numbers_stand_beside_official_settings_only() -> None:
    official = stamp.complete_settings(stamp.Config())
    assert stamp.published_numbers("stamp-ce", official).values["recall@20"] == 0.6874
    assert not stamp.published_numbers("stamp-ce", dataclasses.replace(official, learning_rate=0.1)).values
    other_epochs = dataclasses.replace(official, epochs=1)
    assert stamp.published_numbers("item-knn", other_epochs).values["mrr@20"] == 0.2181
    assert not stamp.published_numbers("item-knn", dataclasses.replace(official, share=0.5)).values


def test_beside_sessions_in_order_of_time_stands_what_a_third_party_measured() -> None:
    for change in ({}, {"epochs": 3}, {"select": "test"}):
        config = stamp.complete_settings(stamp.Config(dataset="diginetica", **change))
        found = stamp.published_numbers("stamp-ce", config)
        assert found.values == {"recall@20": 0.4564} and "SR-GNN" in found.source and found.incomparable
        assert found not in stamp_published.PUBLISHED.values()  # so no note on the paper's preparation
        assert not stamp.published_numbers("stmp-ce", config).values
    for other in ({"order": "file"}, {"tiny": True}, {"data": "clicks.csv"}):
        config = stamp.complete_settings(stamp.Config(dataset="diginetica", **other))
        assert not stamp.published_numbers("stamp-ce", config).values


def test_another_gru4rec_than_the_papers_has_no_difference_from_it() -> None:
    official = stamp.complete_settings(stamp.Config())
    assert "GRU4Rec is that of 2016" in stamp.published_numbers("gru4rec-ce", official).incomparable
    for row in ("popularity", "item-knn", "stmp-ce", "stamp-ce"):
        assert stamp.published_numbers(row, official).incomparable == ""


def test_the_note_on_popularity_says_what_other_training_sessions_give(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAXREC_DATA_DIR", str(data_dir))
    if not (data_dir / "yoochoose1_64/sessions.npz").exists():
        pytest.skip("yoochoose1_64/sessions.npz is not in the data folder")
    sessions = source.load("yoochoose1_64")

    def recall(share: float, by: Any) -> str:
        split = split_sessions(sessions, share=share, by=by)
        counts = np.bincount(split.training_events().item, minlength=split.num_items + 1)[1:]
        target = counts[split.queries("test").target - 1]
        at_least = len(counts) - np.searchsorted(np.sort(counts), target)  # itself among them
        return f"{np.mean(at_least <= 20):.4f}"

    note = stamp_published.note_of("popularity", "validation")
    assert recall(0.1, "random") == recall(0.0, "random") == "0.0731"
    assert recall(0.1, "last") == "0.0542"
    assert "recall@20 is 0.0731 too, with the first 90 % 0.0542" in note


def test_settings_of_the_authors_by_data_set() -> None:
    found = {
        name: (config.max_norm, config.clip)
        for name in ("yoochoose1_64", "diginetica", "tmall")
        if (config := stamp.complete_settings(stamp.Config(dataset=name)))  # type: ignore[arg-type]
    }
    assert found == {"yoochoose1_64": (1.0, 150.0), "diginetica": (1.5, 110.0), "tmall": (1.0, 150.0)}
    assert stamp.complete_settings(stamp.Config(dataset="diginetica", clip=7.0)).clip == 7.0


@pytest.mark.parametrize("row", stamp.ROWS)
def test_a_rows_name_holds_the_loss_that_trains_it(row: str) -> None:
    common.check_label(row, stamp.ROWS[row].objective().name)


@pytest.mark.long
def test_sessions_of_ones_own_are_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")
    path = write_events(tmp_path / "mine.csv")
    columns = ("--data", path, "--user", "uid", "--item", "sku", "--time", "ts")
    kept = ("--results", tmp_path / "results", "--workdir", tmp_path / "work", "--seeds", 3)
    call(stamp, monkeypatch, "--tiny", "--rows", "markov", "stmp-ce", *columns, *kept)
    found = {record.result.model: record.result for record in read_results(tmp_path / "results")}
    assert {result.dataset for result in found.values()} == {"mine.csv"}
    assert set(found) == {"markov", "stmp-ce"}


@pytest.mark.parametrize(
    "change", [{"batch_size": 0}, {"clip": -1.0}, {"learning_rate": 0.0}, {"dropout": 1.0}, {"seeds": (1, 1)}]
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(change))}="):
        stamp.Config(**change)


def test_summed_gradients_are_cut_by_parameter() -> None:
    """3 examples: the mean gradient times 3, a norm of 15 cut to 6, one of 3 left; Adam starts by ± lr."""
    tx = recipes.summed_adam(recipes.Recipe(batch_size=3, clip=6.0, learning_rate=0.1))
    gradient = {"long": jnp.array([3.0, -4.0]), "short": jnp.array([1.0]), "none": jnp.zeros(2)}
    change, state = tx.update(gradient, tx.init(gradient), gradient)
    np.testing.assert_allclose(change["long"], [-0.1, 0.1], rtol=1e-4)
    first_moment = state[2][0].mu
    np.testing.assert_allclose(first_moment["long"], 0.1 * 6 / 5 * np.array([3.0, -4.0]), rtol=1e-6)
    np.testing.assert_allclose(first_moment["short"], [0.1 * 3.0], rtol=1e-6)
    assert not first_moment["none"].any()
