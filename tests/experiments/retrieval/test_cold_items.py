"""Tables of cold items: both experiments run to their end on tiny data."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from experiments.retrieval import cold_items, dropoutnet
from jaxrec import baselines
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.events.item_cold import divide_items
from jaxrec.report.results import read_results


def run(module: ModuleType, rows: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The results of some rows of a tiny run, by row and by the ending of the data set's name."""
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")
    places = ("--results", str(tmp_path / "results"), "--workdir", str(tmp_path / "work"))
    options = ("--tiny", "--rows", *rows, "--seeds", "3", "4", *places)
    monkeypatch.setattr(sys, "argv", [module.__name__, *options])
    module.main()
    found = [record.result for record in read_results(tmp_path / "results")]
    assert {result.model for result in found} == set(rows)
    return {(r.model, r.dataset.removeprefix("tastes-240x72-")): r for r in found}


def test_dropoutnet_runs_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ("popularity", "content-knn", "ials", "dropoutnet-0.5-transform")
    found = run(dropoutnet, rows, tmp_path, monkeypatch)
    assert len(found) == 2 * len(rows)
    for (row, ending), result in found.items():
        expected = "only-cold-test" if ending == "cold-only" else "all"
        assert result.protocol.candidates == expected
        assert (
            ("share_cold@20" in result.metrics) == ("warm_ndcg@50" in result.metrics) == (expected == "all")
        )
        trained = row.startswith("dropoutnet")
        assert result.protocol.selection == ("recall@100" if trained else "none")
    trained = found["dropoutnet-0.5-transform", "cold-only"]
    assert (trained.config["dropout"], trained.config["transform"], trained.seeds) == (0.25, 0.25, (3, 4))
    ndcg = {row: found[row, "cold-only"].metrics["ndcg@20"][0] for row in rows}
    assert ndcg["content-knn"] > ndcg["popularity"] and ndcg["popularity"] == ndcg["ials"]
    assert found["popularity", "among-all"].metrics["cold_recall@20"] == (0.0,)


def test_cold_items_runs_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ("random", "content-ridge", "linear-prior", "cb2cf-scores", "eges")
    found = run(cold_items, rows, tmp_path, monkeypatch)
    ridge, prior, tower, walks = (found[row, "cold-only"] for row in rows[1:])
    assert ridge.config["regularisation"] in cold_items.TINY["regularisations"]
    for fitted in (ridge, prior):
        assert fitted.metrics["ndcg@20"][0] > max(found["random", "cold-only"].metrics["ndcg@20"])
    assert tower.config["by_scores"] and tower.steps > 0 and walks.config["length"] == 10


def test_walks_follow_training_events_in_their_order() -> None:
    sequences = Sequences.from_lists("made", [[3, 1, 4, 2, 5], [6, 2, 1, 8, 7], [9, 10, 1, 2]])
    split = divide_items(sequences, validation=0.2, test=0.2, warm=0.3, seed=1)
    events = cold_items.events_in_order(sequences, split)
    training = split.cold.training_events()
    raw = np.asarray(split.cold.sequences.user_ids)[training.group] - 1
    kept = set(zip(raw.tolist(), training.item.tolist(), strict=True))
    expected = [
        (user, item)
        for user in range(3)
        for item in sequences.user_items(user).tolist()
        if (user, item) in kept
    ]
    assert list(zip(events.group.tolist(), events.item.tolist(), strict=True)) == expected


def test_fields_begin_with_what_most_warm_items_have() -> None:
    attributes = np.array([[0, 0, 0], [3, 1, 0], [1, 2, 0], [2, 0, 0], [4, 2, 1], [4, 0, 0], [4, 3, 0]])
    warm = np.array([False, True, True, True, False, False, False])  # 1 twice, 2 twice, 3 once, 4 never
    expected = [[0, 0, 0], [1, 3, 0], [1, 2, 0], [2, 0, 0], [1, 2, 4], [4, 0, 0], [3, 4, 0]]
    assert cold_items.fields(attributes, warm).tolist() == expected


def test_the_linear_prior_starts_from_the_seed_that_its_result_names(monkeypatch: pytest.MonkeyPatch) -> None:
    def linear_prior(data: Any, content: Any, *, seed: int, **settings: Any) -> int:
        return seed

    monkeypatch.setattr(baselines, "linear_prior", linear_prior)
    table: Any = SimpleNamespace(data=SimpleNamespace(validation=None), factors={"item_content": None})
    config = cold_items.Config(seeds=(5, 6))
    seed: Any = cold_items.fit("linear-prior", 1.0, table, config)
    assert seed == 5


@pytest.mark.parametrize(
    ("module", "change"),
    [
        (dropoutnet, {"dataset": "b"}), (dropoutnet, {"rates": (1.5,)}), (dropoutnet, {"rows": ("ails",)}),
        (dropoutnet, {"content": "x.npz"}), (dropoutnet, {"epochs": 0}), (cold_items, {"dataset": "Music"}),
        (dropoutnet, {"dropout": 0.3}), (dropoutnet, {"transform": 0.3}),  # rates say both
        (cold_items, {"regularisations": ()}), (cold_items, {"rows": ("cb2fc",)}), (cold_items, {"top": 0}),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(module: Any, change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="none of" if "rows" in change else next(iter(change))):
        dataclasses.replace(module.Config(), **change)
