"""`jaxrec train` of a model of several interests, and what its run answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrec import serve
from jaxrec.commands.train import train
from jaxrec.report.results import read_results
from tests.commands.small_data import EVENTS, write_events

SMALL: dict[str, Any] = {
    **EVENTS, "dim": 4, "max_len": 6, "batch_size": 8, "epochs": 2, "num_samples": 16, "least": 1,
}  # fmt: skip
WITHOUT_CUTS = {name: value for name, value in SMALL.items() if name != "least"}  # every event is a target


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_events(folder / "events.csv")
    train("comirec-sa", folder / "events.csv", run=folder / "run", seeds=(0, 1), **SMALL)
    return folder


def test_a_run_is_kept_with_its_baselines_and_answers(folder: Path) -> None:
    run = serve.load(folder / "run")
    assert (run.kept.kind, run.kept.name) == ("multi-interest", "comirec-sa-ssm-logq")
    assert set(run.kept.validation) >= {"ndcg@10"}
    results = {record.result.model for record in read_results(folder / "run" / "results")}
    assert results == {"random", "popularity", "comirec-sa-ssm-logq"}
    (answer,) = run.recommend(["u3"], k=4)
    users, items = run.embed("users"), run.embed("items")
    vectors = users.vectors[users.ids.tolist().index("u3")]
    scores = (vectors @ items.vectors.T).max(axis=0)
    assert users.vectors.shape == (24, 4, 4)
    for item, score in zip(answer.items, answer.scores, strict=True):
        np.testing.assert_allclose(scores[items.ids.tolist().index(item)], score, rtol=1e-5, atol=1e-6)


def test_a_run_begins_with_another_ones_parameters(folder: Path) -> None:
    again = train(
        "comirec-sa",
        folder / "events.csv",
        run=folder / "again",
        seeds=(0, 1),
        warm_start=str(folder / "run"),
        **SMALL,
    )
    assert again.kind == "multi-interest"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "sessions"}, "comirec-sa reads users; name another split"),
        ({"least": 0}, "least=0: must be at least 1"),
        ({"loss": "bce"}, "loss='bce': must be one of ssm-logq, ce, bpr"),
        ({"num_interests": 0}, "num_interests=0: must be at least 1"),
    ],
)
def test_wrong_options_are_refused(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train("comirec-sa", folder / "events.csv", run=folder / "bad", **{**SMALL, **options})
    assert not (folder / "bad").exists()


def test_octopus_is_trained_and_has_a_vector_of_each_channel(folder: Path) -> None:
    given = {**WITHOUT_CUTS, "epochs": 1, "num_channels": 3}
    train("octopus", folder / "events.csv", run=folder / "octopus", penalty=0.5, **given)
    run = serve.load(folder / "octopus")
    assert (run.kept.kind, run.kept.name) == ("multi-interest", "octopus-ssm-logq")
    assert run.embed("users").vectors.shape == (24, 3, 4)
    assert len(run.recommend(["u3"], k=4)[0].items) == 4
    for channels, message in ((5, "num_interests=5: must be at most dim=4"), (0, "num_channels=0: must be")):
        given = {**WITHOUT_CUTS, "num_channels": channels}
        with pytest.raises(ValueError, match=message):
            train("octopus", folder / "events.csv", run=folder / "bad", **given)
    assert not (folder / "bad").exists()


def test_vectors_of_items_are_refused(folder: Path) -> None:
    vectors = {f"sku{item}": np.ones(2, np.float32) for item in range(12)}
    path = folder / "vectors.npz"
    np.savez(path, sku=np.array(list(vectors)), vectors=np.stack(list(vectors.values())))
    with pytest.raises(ValueError, match="item_vectors: comirec-sa reads ids of items alone"):
        train("comirec-sa", folder / "events.csv", run=folder / "bad", item_vectors=str(path), **SMALL)
