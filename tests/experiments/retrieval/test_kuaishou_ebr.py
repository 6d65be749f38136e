"""Retrieval by clusters: the experiment runs to its end on tiny data, and compares like with like."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import common
from experiments.retrieval import kuaishou_ebr as experiment
from jaxrec.data.events.clusters import clusters_from_labels, one_cluster
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.events.split import leave_one_out
from jaxrec.nn.retrieval.kuaishou_ebr import KuaishouEBR
from jaxrec.protocols import next_item
from jaxrec.recipes import kuaishou_ebr as recipes
from jaxrec.report.results import read_results

TINY = common.shrink_if_tiny(experiment.Config(tiny=True), **experiment.TINY)
DATA = next_item.resident(leave_one_out(experiment.load(TINY)))


def test_tiny_runs_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")
    rows = ("popularity", "prompts-ssm")
    options = ("--tiny", "--rows", *rows, "--alpha", "inf", "--seeds", "3")
    places = ("--results", str(tmp_path / "results"), "--workdir", str(tmp_path / "work"))
    monkeypatch.setattr(sys, "argv", [experiment.__name__, *options, *places])
    experiment.main()
    found = {record.result.model: record.result for record in read_results(tmp_path / "results")}
    assert set(found) == set(rows)
    for result in found.values():
        assert result.experiment == "kuaishou_ebr"
        assert not result.published and not result.source  # nothing is published for these data
        assert list(result.metrics) == [*(f"recall@{k}" for k in experiment.LENGTHS), "seen_targets"]
        *values, seen = [value for (value,) in result.metrics.values()]
        assert seen == DATA.split.repeats.test / len(DATA.split.test.user) > 0  # of these data
        assert 0 <= values[0] <= values[1] <= values[2] <= values[3] <= 1
    assert found["popularity"].protocol.selection == "none" and found["popularity"].steps == 0
    assert found["popularity"].baseline and not found["prompts-ssm"].baseline
    trained = found["prompts-ssm"]
    assert trained.protocol.loss == "in-cluster sampled softmax + intent"
    assert trained.protocol.selection == "recall@50"
    assert trained.steps == 2 * 3  # epochs, steps of 96 users in batches of 32
    assert trained.config["alpha"] == "inf"
    assert sum(trained.config["sizes"]) == DATA.num_items


def test_rows_differ_in_the_model_and_the_clusters_only() -> None:
    """As many steps an epoch for users as for their (user, cluster) pairs."""
    clusters = clusters_from_labels(np.arange(DATA.num_items) % TINY.clusters)
    whole = one_cluster(DATA.num_items)
    plain, divided = recipes.sasrec(DATA.num_items, TINY), recipes.with_intents(DATA.num_items, TINY)
    work = {
        "sasrec-ssm": recipes.by_user(plain, DATA, whole, TINY, intents=False, num_devices=1),
        "naive-mtl-ssm": recipes.by_user(divided, DATA, clusters, TINY, intents=True, num_devices=1),
        "prompts-ssm": recipes.by_user_and_cluster(divided, DATA, clusters, TINY, num_devices=1),
    }
    assert {row: part.plan.num_steps for row, part in work.items()} == dict.fromkeys(experiment.ROWS, 3)
    assert [row for row, part in work.items() if "example_user" in part.columns] == ["prompts-ssm"]
    assert isinstance(divided, KuaishouEBR)


def test_clusters_come_from_training_events_and_hold_every_item(monkeypatch: pytest.MonkeyPatch) -> None:
    """Directions decide, not lengths; an item without a training event joins the largest cluster."""
    rows = [[1, 2, 3, 4, 8], [5, 6, 5, 7, 1], [2, 1, 6, 3, 7]]  # the last two of each are held out
    data = next_item.resident(leave_one_out(Sequences.from_lists("small", rows, num_items=8)))
    vectors = np.array([[9, 9], [1, 0], [5, 0.1], [0.1, 0], [9, 9], [0, 2], [0.1, 7], [9, 9], [9, 9]])
    given: list[list[int]] = []

    def item_vectors(key: object, parts: list[np.ndarray], **options: int) -> np.ndarray:
        given.extend(part.tolist() for part in parts)
        assert options == {"num_items": 8, "dim": 20, "epochs": 2}
        return vectors

    monkeypatch.setattr(recipes, "item_vectors", item_vectors)
    found = recipes.cluster_items(data, dataclasses.replace(TINY, clusters=2))
    assert given == [[1, 2, 3], [5, 6, 5], [2, 1, 6]]
    parts = np.split(found.members, found.start[1:-1])
    assert sorted(part.tolist() for part in parts) == [[1, 2, 3, 4, 7, 8], [5, 6]]


def test_tiny_changes_defaults_only() -> None:
    config = common.shrink_if_tiny(experiment.Config(tiny=True, dim=12, clusters=4), **experiment.TINY)
    assert (config.dim, config.clusters, config.epochs) == (12, 4, 2)
    default = experiment.Config()
    assert common.shrink_if_tiny(default, **experiment.TINY) == default


@pytest.mark.parametrize("field", ["clusters", "dim", "num_samples", "vector_epochs", "epochs", "save_every"])
def test_sizes_below_one_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field}=0: must be at least 1"):
        dataclasses.replace(experiment.Config(), **{field: 0})


@pytest.mark.parametrize(
    "change",
    [{"alpha": -1.0}, {"alpha": float("nan")}, {"patience": -1}, {"cluster_seed": -1}, {"intent_layers": -1},
     {"dropout": 1.0}, {"num_heads": 3}, {"intent_dim": 5}, {"seeds": ()}, {"seeds": (0, 0)}],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        dataclasses.replace(experiment.Config(), **change)  # type: ignore[arg-type]
