"""Pre-ranking from the command line to its results, and its requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.ranking import preranking, preranking_data
from jaxrec.nn.ranking.cold import Cost
from tests.experiments.multitask.runs import results_of


def test_tiny_runs_to_the_end(tmp_path: Path) -> None:
    """The ranker and the weights are trained though no row asks for them."""
    found = results_of(preranking, tmp_path, "--rows", "popularity", "cold-3", "--dim", "4")
    assert set(found) == {"popularity", "cold-3"}
    for row, result in found.items():
        assert result.experiment == "preranking" and result.dataset == "tiny"
        assert result.baseline == (row == "popularity") and not result.published
        assert 0 < result.metrics["recall_of_ranker"][0] <= 1 and "gauc/click" in result.metrics
    chosen = found["cold-3"]
    assert len(chosen.config["fields"]) == 3 and chosen.protocol.selection == "gauc/click"
    shared = sum(
        name in ("user_id", "age", "gender", "last_item", "last_genres") for name in chosen.config["fields"]
    )
    width = 4 * (3 - shared)
    assert chosen.metrics["kiloflops"] == ((2 * width * 64 + 2 * 64 * 32 + 2 * 32) / 1e3,) * 2


REQUESTS = preranking_data.load(True, negatives=2, candidates=6, length=3)


def test_a_test_request_is_a_click_and_unseen_items() -> None:
    table = REQUESTS.split.impressions
    assert table.group is not None
    rows = REQUESTS.split.test.reshape(-1, 6)
    click, group = table.labels["click"][rows], table.group[rows]
    assert (click[:, 0] == 1).all() and (click[:, 1:] == 0).all()
    assert (group == group[:, :1]).all() and len(np.unique(group[:, 0])) == len(rows) == 40
    items = table.columns["item_id"][rows]
    assert (items[:, 1:] != items[:, :1]).all()
    train = table.labels["click"][REQUESTS.split.train]
    assert train.mean() == pytest.approx(1 / 3)


def test_columns_tell_what_was_before_the_event() -> None:
    table = REQUESTS.split.impressions
    rows = REQUESTS.split.test
    raw = {name: table.raw_values(name, rows) for name in ("last_item", "last_genres", "genres", "user_id")}
    np.testing.assert_array_equal((raw["last_item"].astype(int)) % 3 + 1, raw["last_genres"].astype(int))
    history = table.columns[preranking_data.HISTORY][rows]
    assert history.shape[1] == 3 and (history[:, 0] > 0).all()
    last = np.take_along_axis(history, (history > 0).sum(axis=1)[:, None] - 1, axis=1)[:, 0]
    np.testing.assert_array_equal(last, table.columns["last_item"][rows])
    crossed = table.columns["last_genres_genres"][rows]
    pairs = {(a, b): c for a, b, c in zip(raw["last_genres"], raw["genres"], crossed, strict=True)}
    known = [c for c in pairs.values() if c > 2]
    assert len(set(known)) == len(known)
    assert set(REQUESTS.user) | set(REQUESTS.item) | set(REQUESTS.cross) | {preranking_data.HISTORY} == set(
        table.columns
    )


def test_what_is_kept_of_requests() -> None:
    scores = np.array([[[3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0]]])
    ranked = np.array([[[3.0, 2.0, 1.0, 0.0], [3.0, 2.0, 1.0, 0.0]]] * 2)
    cost = Cost(10, 20, 4_000, 8)
    (found,) = preranking_data.by_request(scores, ranked, keep=2, shown=1, cost=cost)
    assert found == {"hit@2": 0.5, "recall_of_ranker": 0.5, "kiloflops": 4.0, "bytes": 8.0}
    (found,) = preranking_data.by_request(scores, ranked, keep=3, shown=2, cost=None)
    assert found == {"hit@3": 0.5, "recall_of_ranker": 0.75}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep": 50}, "shown=5, keep=50, candidates=50: must be in this order"),
        ({"shown": 0}, "shown=0, keep=10"),
        ({"negatives": 0}, "negatives=0: must be at least 1"),
        ({"rows": ("cold-4",)}, "'cold-4' is none of"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        preranking.Config(**change)
