"""Models of items alone and methods that count in order, from a file to answers for anybody's history."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrec import serve
from jaxrec.commands.train import train
from jaxrec.serve.run_folder import Kept
from tests.commands.small_data import EVENTS, ITEMS, write_attributes, write_events

WALKS: dict[str, Any] = {"dim": 4, "walk_length": 4, "window": 2, "epochs": 2}
MODELS: dict[str, dict[str, Any]] = {
    "pinsage": {"dim": 4, "hidden_dim": 3, "neighbours": 3, "walks": 5, "negatives": 4, "batch_size": 32,
                "epochs": 2, "evaluate_every": 1, "seeds": (0, 1), "hard": 1, "hard_first": 0.1,
                "hard_last": 0.5, "hard_walks": 20},
    "eges": {**WALKS, "attributes": ("colour",)},
    "co-visitation": {"beyond": (5,)},
    "markov": {"split": "user"},
    "item-knn": {},
}  # fmt: skip


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_events(tmp_path_factory.mktemp("items") / "events.csv")


@pytest.fixture(scope="module", params=MODELS)
def kept(request: pytest.FixtureRequest, events: Path) -> tuple[str, Path, Kept]:
    name, folder = request.param, events.parent / request.param
    given: dict[str, Any] = {**EVENTS, **MODELS[name]}
    if name == "eges":
        given["item_attributes"] = str(write_attributes(events.parent / "attributes.csv"))
    return name, folder, train(name, events, run=folder, **given)


def test_a_run_is_measured_beside_its_floors(kept: tuple[str, Path, Kept]) -> None:
    name, folder, run = kept
    assert run.kind == "baseline" and run.protocol.selection == "ndcg@10"
    assert sorted(path.stem for path in (folder / "results").rglob("*.json")) == sorted(
        [name, "popularity", "random"]
    )
    assert len(run.metrics["ndcg@10"]) == len(run.validation["ndcg@10"]) == len(run.seeds)
    assert ("coverage@5" in run.metrics) == (name == "co-visitation")


def test_a_history_of_anybody_is_answered_as_a_user_of_the_run(kept: tuple[str, Path, Kept]) -> None:
    _, folder, run = kept
    loaded, user = serve.load(folder), run.vocabulary["user"][2]
    assert run.histories is not None
    own = run.histories.items[run.histories.offsets[2] : run.histories.offsets[3]]
    history = run.vocabulary["item"][own - 1].tolist()
    (by_user,) = loaded.recommend([user], k=ITEMS)
    (by_history,) = loaded.recommend(histories=[history], k=ITEMS)
    assert by_user.items.tolist() == by_history.items.tolist()
    assert set(by_user.items.tolist()).isdisjoint(history)
    np.testing.assert_allclose(by_user.scores, by_history.scores, rtol=1e-5)
    rows = {"uid": [user] * len(by_user.items), "sku": by_user.items.tolist()}
    np.testing.assert_allclose(loaded.score(rows)["score"], by_user.scores, rtol=1e-5)


def test_counting_in_order_finds_the_circle(events: Path, kept: tuple[str, Path, Kept]) -> None:
    """Every user goes through the items in a circle, so the next item is the one that follows the last."""
    name, folder, run = kept
    if name not in ("markov", "co-visitation"):
        return
    (answer,) = serve.load(folder).recommend(histories=[["sku3", "sku4"]], k=1)
    assert answer.items.tolist() == ["sku5"]
    assert run.metrics["hit@10"] == (1.0,)


def test_what_makes_no_sense_is_refused(events: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="markov draws no random numbers"):
        train("markov", events, run=tmp_path / "a", **EVENTS, seeds=(0, 1))
    with pytest.raises(ValueError, match="has no attributes of items, which EGES reads"):
        train("eges", events, run=tmp_path / "a", **EVENTS)
    attributes = str(write_attributes(events.parent / "attributes.csv"))
    with pytest.raises(ValueError, match="an item has 2 values of an attribute, and EGES reads one of each"):
        train("eges", events, run=tmp_path / "a", **EVENTS, item_attributes=attributes)
    with pytest.raises(ValueError, match=r"item_attributes=.*: is not read with --side none; leave it out"):
        train("eges", events, run=tmp_path / "a", **EVENTS, item_attributes=attributes, side="none")
    with pytest.raises(ValueError, match=r"attributes=\('colour',\): are columns of --item-attributes"):
        train("eges", events, run=tmp_path / "a", **EVENTS, attributes=("colour",), side="none")
    with pytest.raises(ValueError, match="history=0: must be at least 1|last=0: must be at least 1"):
        train("deepwalk", events, run=tmp_path / "a", **EVENTS, history=0)
    with pytest.raises(ValueError, match="no such option; the nearest is"):
        train("pinsage", events, run=tmp_path / "a", **EVENTS, item_attributes=attributes)
    assert not list(tmp_path.iterdir())
