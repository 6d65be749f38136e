"""The generative form learns from the ratings that stand before a movie; its floor is what it says."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.sequential import hstu_generative as experiment
from jaxrec.report.results import read_results
from tests.experiments.test_tiny import call

LIKED = (4, 5)


def test_tiny_learns_tastes_that_only_earlier_ratings_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who likes which half of the movies is known from the user's ratings alone, so rates tell nothing."""
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")
    places = ("--results", tmp_path / "results", "--workdir", tmp_path / "work", "--seeds", 0)
    longer = ("--epochs", 40, "--every", 4, "--patience", 0, "--learning-rate", 0.01, "--batch-size", 16)
    rows = ("--rows", "rates", "popularity", "generative", "generative-ranking")
    call(experiment, monkeypatch, "--tiny", *rows, *longer, *places)
    found = {(r.result.dataset, r.result.model): r.result for r in read_results(tmp_path / "results")}
    ranking, retrieval = (
        {model: result for (dataset, model), result in found.items() if dataset == f"tiny-{question}"}
        for question in ("ranking", "retrieval")
    )
    assert set(ranking) == {"rates", "generative-bce-ssm", "generative-ranking-bce"}
    assert set(retrieval) == {"popularity", "generative-bce-ssm"}
    alone, both = ranking["generative-ranking-bce"], ranking["generative-bce-ssm"]
    retrieved = retrieval["generative-bce-ssm"]
    assert alone.metrics["auc"][0] > 0.7 > 0.1 + ranking["rates"].metrics["auc"][0]
    assert retrieved.metrics["ndcg@10"][0] > 1.2 * retrieval["popularity"].metrics["ndcg@10"][0]
    for result in ranking.values():
        assert set(result.metrics) == {"auc", "log_loss", "normalized_entropy"}
        assert (result.protocol.candidates, result.protocol.ties) == ("impressions", "half")
    assert both.protocol.selection == retrieved.protocol.selection == "ndcg@10"
    assert both.protocol.loss == "ranking + retrieval"
    assert alone.protocol.selection == "auc"
    assert retrieved.protocol.split.endswith("of rating 4 or 5")


def made() -> tuple[experiment.Data, list[list[tuple[int, int, int]]]]:
    """The data, and each user's events (time, movie, rating) in order."""
    events = experiment.made_up()
    assert events.time is not None and events.value is not None
    rows: list[list[tuple[int, int, int]]] = [[] for _ in range(events.num_users)]
    columns = (column.tolist() for column in (events.user, events.time, events.item, events.value))
    for user, time, item, value in zip(*columns, strict=True):
        rows[user - 1].append((time, item, int(value)))
    return experiment.load(experiment.effective(experiment.Config(tiny=True))), [sorted(row) for row in rows]


def cuts(rows: list[list[tuple[int, int, int]]]) -> tuple[int, int]:
    times = [time for row in rows for time, _, _ in row]
    return int(np.quantile(times, 0.8)), int(np.quantile(times, 0.9))


def test_every_later_event_is_asked_and_the_liked_ones_are_retrieved() -> None:
    data, rows = made()
    first, second = cuts(rows)
    parts: tuple[tuple[experiment.Part, int, int], ...] = (
        ("validation", first, second),
        ("test", second, 10**9),
    )
    for part, low, high in parts:
        want = [
            (user, number, item, rating)
            for user, row in enumerate(rows)
            for number, (time, item, rating) in enumerate(row)
            if low <= time < high and number > 0
        ]
        asked = data.ranking[part]
        assert sorted(zip(*(c.tolist() for c in asked), strict=True)) == [w[:3] for w in want]
        labels = experiment.labels_of(data, part)
        assert labels.tolist() == [float(w[3] in LIKED) for w in want]
        wanted = getattr(data.retrieval.split, part)
        assert sorted(zip(*(c.tolist() for c in wanted), strict=True)) == [
            w[:3] for w in want if w[3] in LIKED
        ]
    trained = [sum(time < first for time, _, _ in row) for row in rows]
    assert data.columns["length"].tolist() == trained
    assert data.columns["actions"].tolist() == [rating for row in rows for _, _, rating in row]


def test_rates_are_those_of_the_movie_in_training_and_of_the_user_so_far() -> None:
    data, rows = made()
    first, _ = cuts(rows)
    trained = [(item, rating in LIKED) for row in rows for time, item, rating in row if time < first]
    average = np.mean([liked for _, liked in trained])

    def log_odds(of: list[bool]) -> float:
        share = (sum(of) + 5 * average) / (len(of) + 5)
        return float(np.log(share / (1 - share)))

    asked, found = data.ranking["test"], experiment.rates(data, "test")
    for user, length, target, score in itertools.islice(zip(*asked, found, strict=True), 40):
        movie = [liked for item, liked in trained if item == target]
        so_far = [rating in LIKED for _, _, rating in rows[user][:length]]
        want = log_odds(movie) + log_odds(so_far) - np.log(average / (1 - average))
        assert score == pytest.approx(want, rel=1e-4, abs=1e-5)


def test_short_runs_are_evaluated_once_all_the_same() -> None:
    assert experiment.effective(experiment.Config(epochs=1)).every == 1
    assert experiment.effective(experiment.Config()).every == 2


def test_ratings_that_are_no_action_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    events = experiment.made_up()
    assert events.value is not None
    halves = dataclasses.replace(events, value=events.value - np.float32(0.5))
    monkeypatch.setattr(experiment, "made_up", lambda: halves)
    with pytest.raises(ValueError, match="tiny: ratings must be whole, from 1 to 5"):
        experiment.load(experiment.Config(tiny=True))


@pytest.mark.parametrize("change", [{"max_len": 1}, {"dropout": 1.0}, {"every": 0}, {"learning_rate": 0.0}])
def test_settings_that_mean_nothing_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(change))}="):
        experiment.Config(**change)
