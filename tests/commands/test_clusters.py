"""`jaxrec train kuaishou-ebr`: clusters of items are learned, kept with the run, and merged into lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import serve
from jaxrec.commands.train import train
from jaxrec.data import load_events
from jaxrec.data.events.clusters import clusters_from_labels
from jaxrec.data.events.split import leave_one_out
from jaxrec.protocols import next_item
from jaxrec.recipes import kuaishou_ebr as recipes
from jaxrec.report.results import read_results
from jaxrec.serve.export import export
from jaxrec.serve.readers import items as items_reader
from jaxrec.tasks.cluster_ranking import by_priority, place_in_cluster
from tests.commands.small_data import EVENTS, ITEMS, write_events

SIZES: dict[str, Any] = {
    "clusters": 3, "dim": 4, "inner_dim": 4, "num_layers": 0, "num_heads": 1, "intent_dim": 2,
    "intent_layers": 0, "max_len": 4, "batch_size": 8, "num_samples": 5, "epochs": 2, "vector_dim": 3,
}  # fmt: skip
SMALL = {**EVENTS, **SIZES}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clusters")
    write_events(folder / "events.csv")
    train("kuaishou-ebr", folder / "events.csv", run=folder / "run", seeds=(0, 1), **SMALL)
    return folder


def test_clusters_are_those_of_the_training_events_and_stay_with_the_run(folder: Path) -> None:
    run = serve.load(folder / "run")
    assert (run.kept.kind, run.protocol.selection) == ("baseline", "ndcg@10")
    models = {record.result.model for record in read_results(folder / "run" / "results")}
    assert models == {"random", "popularity", "kuaishou-ebr"}
    sequences = load_events(folder / "events.csv", name="events", **EVENTS)
    data = next_item.resident(leave_one_out(sequences))
    expected = recipes.cluster_items(data, recipes.EventsRecipe(**SIZES)).of
    kept = run.kept.variables["columns"]["cluster"]
    np.testing.assert_array_equal(kept, np.stack([expected] * 2))  # the same for both seeds
    assert len(clusters_from_labels(expected[1:]).sizes) == 3


def test_lists_are_merged_from_the_scores_of_the_trained_module(folder: Path) -> None:
    run = serve.load(folder / "run")
    module = run.module.scores.keywords["model"]
    params, of = run.variables["model"], np.asarray(run.variables["columns"]["cluster"])
    history = ["sku3", "sku4", "sku5", "sku6", "sku7"]
    number = {raw: at for at, raw in enumerate(run.vocabulary["item"].tolist(), 1)}
    seen = [number[raw] for raw in history]
    window = jnp.array([seen[-4:]])
    table = module.apply(params, method="item_table")
    hidden = [
        module.apply(params, window, clusters=jnp.full((1, 1), cluster), train=False)[0, -1]
        for cluster in range(3)
    ]
    products = np.array([0.0, *(hidden[of[item]] @ table[item] for item in range(1, ITEMS + 1))])
    products[seen] = -np.inf
    intent = module.apply(params, window, train=False, method="intent")[:, -1]
    place = place_in_cluster(jnp.asarray(products)[None], jnp.asarray(of))
    expected = np.array(by_priority(place, jnp.asarray(of), intent, alpha=1.0)[0])
    expected[[0, *seen]] = -np.inf
    (found,) = run.recommend(histories=[history], k=ITEMS)
    order = np.argsort(-expected, kind="stable")[: ITEMS - len(history)]
    assert found.items.tolist() == run.vocabulary["item"][order - 1].tolist()
    np.testing.assert_allclose(found.scores, expected[order], rtol=1e-4, atol=1e-5)


def test_a_user_is_answered_as_their_history_and_pairs_have_the_same_scores(folder: Path) -> None:
    run, mean = serve.load(folder / "run"), serve.load(folder / "run", seed="mean")
    histories = run.kept.histories
    assert histories is not None
    own = run.vocabulary["item"][histories.items[: histories.offsets[1]] - 1].tolist()
    user = run.vocabulary["user"][0]
    (by_user,), (by_history,) = run.recommend([user], k=ITEMS), run.recommend(histories=[own], k=ITEMS)
    assert by_user.items.tolist() == by_history.items.tolist()
    assert set(by_user.items).isdisjoint(own)
    rows = {"uid": [user] * len(by_user.items), "sku": by_user.items.tolist()}
    np.testing.assert_allclose(run.score(rows)["score"], by_user.scores, rtol=1e-5)
    assert len(mean.recommend("all", k=2)) == 24
    with pytest.raises(ValueError, match="sku99"):
        run.recommend(histories=[["sku99"]])
    with pytest.raises(ValueError, match="has no vectors of items where its scores are no products"):
        run.embed("items")


def test_an_export_gives_the_lists_of_the_run(folder: Path) -> None:
    run = serve.load(folder / "run")
    export(run, folder / "exported", k=4)
    histories = [["sku3", "sku4"], ["sku1", "sku2", "sku3", "sku4", "sku5", "sku6"]]
    exported = items_reader.Reader(folder / "exported").recommend(histories, k=4)
    for found, expected in zip(exported, run.recommend(histories=histories, k=4), strict=True):
        assert found["items"] == expected.items.tolist()
        np.testing.assert_allclose(found["scores"], expected.scores, rtol=1e-4)


def test_cluster_after_cluster_without_prompts(folder: Path, tmp_path: Path) -> None:
    options = {**SMALL, "alpha": float("inf"), "keep_seen": True, "prompts": False, "epochs": 1}
    kept = train("kuaishou-ebr", folder / "events.csv", run=tmp_path / "run", **options)
    assert kept.settings["alpha"] == "inf"
    (found,) = serve.load(tmp_path / "run").recommend(histories=[["sku3"]], k=ITEMS)
    assert len(found.items) == ITEMS  # seen ones, too
    of = kept.variables["columns"]["cluster"][0]
    number = {raw: at for at, raw in enumerate(kept.vocabulary["item"].tolist(), 1)}
    order = [int(of[number[raw]]) for raw in found.items.tolist()]
    assert (np.diff(order) != 0).sum() == 2


def test_what_makes_no_sense_is_refused(folder: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.csv"
    lines = [f"u{user},sku{(user + step) % 5},{step}" for user in range(6) for step in range(3)]
    short.write_text("\n".join(["uid,sku,ts", *lines]) + "\n")
    for file, changes, message in (
        (folder / "events.csv", {"clusters": 99}, "clusters=99: only 12 items have a training event"),
        (folder / "events.csv", {"clusters": 0}, "clusters=0"),
        (folder / "events.csv", {"alpha": -1.0}, "alpha=-1.0: must be 0 or more"),
        (folder / "events.csv", {"vector_epochs": 0}, "vector_epochs=0: must be at least 1"),
        (folder / "events.csv", {"num_samples": 0}, "num_samples=0"),
        (folder / "events.csv", {"split": "sessions"}, "split='sessions'"),
        (folder / "events.csv", {"warm_start": str(folder / "run")}, "keeps final vectors, counts or cl"),
        (short, {}, "no user has two training events"),
    ):
        with pytest.raises(ValueError, match=message):
            train("kuaishou-ebr", file, run=tmp_path / "run", **{**SMALL, **changes})
    assert not (tmp_path / "run").exists()


def test_both_seeds_learn_something(folder: Path) -> None:
    params = serve.load(folder / "run").kept.variables["model"]["params"]["prompts"]
    assert all(np.abs(of_seed - 1).max() > 0 for of_seed in np.asarray(params))
    assert not np.array_equal(*jax.device_get(params))
