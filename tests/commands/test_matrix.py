"""Models of interaction matrices, from a file to answers: trained, served, exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrec import serve
from jaxrec.commands.train import train
from jaxrec.report.results import read_results
from jaxrec.serve import queries
from jaxrec.serve.export import export
from jaxrec.serve.run_folder import Kept
from tests.commands.small_data import EVENTS, ITEMS, write_attributes, write_events
from tests.serve.test_export import reader

TRAINED: dict[str, dict[str, Any]] = {
    "bpr-mf": {"dim": 4, "batch_size": 32, "epochs": 3, "evaluate_every": 1, "seeds": (0, 1)},
    "lightgcn": {"dim": 4, "num_layers": 2, "batch_size": 32, "epochs": 2, "evaluate_every": 2},
    "neumf": {"batch_size": 32, "epochs": 1, "split": "last"},
    "rcf": {"dim": 4, "attention_dim": 2, "hidden_dim": 4, "max_history": 4, "batch_size": 32, "epochs": 2,
            "evaluate_every": 1, "seeds": (0, 1)},
    "two-tower": {"dim": 4, "hidden_dims": (4,), "batch_size": 32, "epochs": 1},
    "mv-dssm": {"dim": 4, "hidden_dims": (4,), "out_dim": 3, "batch_size": 32, "epochs": 1},
    "pdn": {"dim": 4, "hidden_dims": (4,), "direct_dims": (4,), "batch_size": 32, "epochs": 1,
            "evaluate_every": 1, "seeds": (0, 1)},
    "dfn": {"dim": 4, "num_heads": 2, "attention_dim": 3, "deep_dims": (4,), "max_len": 4, "batch_size": 32,
            "epochs": 1, "evaluate_every": 1},
}  # fmt: skip
OF_HISTORIES: dict[str, dict[str, Any]] = {
    "mult-vae": {"hidden_dim": 6, "latent_dim": 3, "batch_size": 8, "epochs": 2, "evaluate_every": 1},
}
COUNTED: dict[str, dict[str, Any]] = {
    "ease": {"regularisation": 1.0, "beyond": (5,)},
    "matrix-user-knn": {},
    "ials": {"dim": 4, "epochs": 2, "seeds": (0, 1)},
}
MODELS = {**TRAINED, **OF_HISTORIES, **COUNTED}
WITHOUT_VECTORS = ("neumf", "rcf", "pdn", "dfn", "ease", "matrix-user-knn", *OF_HISTORIES)
READ_HISTORIES = ("ease", "ials", *OF_HISTORIES)


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_events(tmp_path_factory.mktemp("matrix") / "events.csv")


# Of the kind of bpr-mf and lightgcn for all that is tested here; test_towers trains them too.
TOWERS = ("two-tower", "mv-dssm")


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[pytest.mark.long] if name in TOWERS else []) for name in MODELS],
)
def kept(request: pytest.FixtureRequest, events: Path) -> tuple[str, Path, Kept]:
    name, folder = request.param, events.parent / request.param
    given: dict[str, Any] = {**EVENTS, **MODELS[name]}
    if name == "rcf":
        given["item_attributes"] = str(write_attributes(events.parent / "attributes.csv"))
    return name, folder, train(name, events, run=folder, **given)


def test_a_run_is_measured_beside_its_floors(kept: tuple[str, Path, Kept]) -> None:
    name, folder, run = kept
    assert run.kind == ("baseline" if name in READ_HISTORIES else "factors")
    found = {record.result.model: record.result for record in read_results(folder / "results")}
    assert set(found) == {name, "popularity", "random"}
    assert [model for model in found if not found[model].baseline] == ([] if name in COUNTED else [name])
    assert set(run.metrics) >= {"recall@10", "ndcg@10", "recall_capped@20"}
    assert ({"coverage@5", "novelty@5", "popularity_lift@5"} <= set(run.metrics)) == (name == "ease")
    assert not [metric for metric in run.metrics if metric.startswith("share/")]
    assert len(run.validation["ndcg@10"]) == len(run.seeds)


def test_lists_hold_no_item_that_the_user_had(kept: tuple[str, Path, Kept]) -> None:
    _, folder, run = kept
    answers = serve.load(folder).recommend(users="all", k=ITEMS)
    assert run.histories is not None
    assert [answer.user for answer in answers] == run.vocabulary["user"].tolist()
    for user, answer in enumerate(answers):
        ids = run.histories.items[run.histories.offsets[user] : run.histories.offsets[user + 1]]
        own = set(run.vocabulary["item"][ids - 1].tolist())
        assert set(answer.items.tolist()) == set(run.vocabulary["item"].tolist()) - own


def test_pairs_have_the_scores_of_lists_and_products_of_vectors(kept: tuple[str, Path, Kept]) -> None:
    name, folder, run = kept
    loaded = serve.load(folder)
    user = run.vocabulary["user"][3]
    (answer,) = loaded.recommend([user], k=5)
    rows = {"uid": [user] * len(answer.items), "sku": answer.items.tolist()}
    np.testing.assert_allclose(loaded.score(rows)["score"], answer.scores, rtol=1e-5)
    if name in WITHOUT_VECTORS:
        with pytest.raises(ValueError, match="has no vectors of items where its scores are no products"):
            loaded.embed("items")
        return
    users, items = loaded.embed("users"), loaded.embed("items")
    chosen = [items.ids.tolist().index(item) for item in answer.items]
    at = users.ids.tolist().index(user)
    np.testing.assert_allclose(items.vectors[chosen] @ users.vectors[at], answer.scores, rtol=1e-4, atol=1e-6)


def test_users_of_several_calls_have_lists_of_their_own(
    kept: tuple[str, Path, Kept], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder, _ = kept
    whole = serve.load(folder).recommend(users="all", k=3)
    monkeypatch.setattr(queries, "SIZES", (5,))
    monkeypatch.setattr(queries, "GROUP", 2)
    for ours, theirs in zip(serve.load(folder).recommend(users="all", k=3), whole, strict=True):
        assert ours.user == theirs.user
        np.testing.assert_allclose(ours.scores, theirs.scores, rtol=1e-5, atol=1e-6)


def test_histories_of_anybody_are_for_models_that_read_them(kept: tuple[str, Path, Kept]) -> None:
    name, folder, _ = kept
    run = serve.load(folder)
    if name in READ_HISTORIES:
        (answer,) = run.recommend(histories=[["sku1", "sku2"]], k=3)
        assert not {"sku1", "sku2"} & set(answer.items.tolist())
        return
    with pytest.raises(ValueError, match="knows the users of its data and reads no histories"):
        run.recommend(histories=[["sku1"]])
    with pytest.raises(ValueError, match="the run has no user 'new'"):
        run.recommend(["new"])
    (answer,) = run.recommend(["new"], cold="popularity")
    assert answer.by == "popularity"


def test_a_reader_recommends_what_the_run_does(kept: tuple[str, Path, Kept], tmp_path: Path) -> None:
    pytest.importorskip("flatbuffers", reason="flatbuffers (extra `export`) is not installed")
    name, folder, run = kept
    loaded, users = serve.load(folder), run.vocabulary["user"][[4, 0, 7]].tolist()
    export(loaded, tmp_path / "e", k=5)
    if name in READ_HISTORIES:
        histories = [["sku1", "sku2", "sku3"], ["sku7"]]
        found = reader(tmp_path / "e").recommend(histories, k=4)
        expected = loaded.recommend(histories=histories, k=4)
    else:
        found = reader(tmp_path / "e").recommend(users, k=4)
        expected = loaded.recommend(users, k=4)
        (other,) = reader(tmp_path / "e").recommend(users[:1], k=5, excluded=[["sku1"]])
        assert "sku1" not in other["items"] and len(other["items"]) == 5
        with pytest.raises(ValueError, match="users that the run does not know: new"):
            reader(tmp_path / "e").recommend(["new"], k=5)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["items"] == theirs.items.tolist()
        np.testing.assert_allclose(ours["scores"], theirs.scores, rtol=1e-5, atol=1e-6)


def test_what_makes_no_sense_is_refused(events: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ease draws no random numbers"):
        train("ease", events, run=tmp_path / "a", **EVENTS, seeds=(0, 1))
    with pytest.raises(ValueError, match="events.csv: has no attributes of items, by which RCF relates them"):
        train("rcf", events, run=tmp_path / "c", **EVENTS)
    assert not list(tmp_path.iterdir())
    train("ease", events, run=tmp_path / "ease", **EVENTS)
    with pytest.raises(ValueError, match="keeps final vectors, counts or clusters"):
        train("bpr-mf", events, run=tmp_path / "b", **EVENTS, warm_start=str(tmp_path / "ease"))
    assert not (tmp_path / "b").exists()


def test_a_method_that_counts_is_searched(events: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    (tmp_path / "space.toml").write_text(
        "[settings]\nregularisation = {low = 0.1, high = 100.0, log = true}\n"
    )
    options: Any = {"sweep": str(tmp_path / "space.toml"), "trials": 2}
    run = train("ease", events, run=tmp_path / "run", **EVENTS, **options)
    assert 0.1 <= run.settings["regularisation"] <= 100
