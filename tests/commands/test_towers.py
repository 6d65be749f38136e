"""Two towers, from files of events and of features to answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrec import serve
from jaxrec.commands.train import train
from tests.commands.small_data import EVENTS, ITEMS, write_events

SMALL: dict[str, Any] = {**EVENTS, "dim": 4, "hidden_dims": (4,), "batch_size": 64, "epochs": 1}


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_events(tmp_path_factory.mktemp("towers") / "events.csv")


@pytest.fixture(scope="module")
def features(events: Path) -> Path:
    """Categories of every item, of which some have two."""
    path = events.with_name("items.jsonl")
    rows = [{"sku": f"sku{i}", "kind": "a|b" if i % 2 else "c", "size": i % 3} for i in range(ITEMS + 1)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("model", ["two-tower", "youtube-dnn"])
def test_ids_alone_will_do(events: Path, model: str, tmp_path: Path) -> None:
    run = train(model, events, run=tmp_path / "run", negatives=8, **SMALL)
    assert run.kind == "factors"
    assert "item_features_sha256" not in run.settings
    assert all(len(a.items) == 3 for a in serve.load(tmp_path / "run").recommend(users="all", k=3))


def test_features_do_without_ids(events: Path, features: Path, tmp_path: Path) -> None:
    options = {**SMALL, "ids": False, "history": 4, "item_features": str(features), "streaming": True}
    run = train("two-tower", events, run=tmp_path / "run", **options)
    assert len(run.settings["item_features_sha256"]) == 64
    assert serve.load(tmp_path / "run").recommend(["u3"], k=3)[0].scores.std() > 0


def test_what_makes_no_sense_is_refused(events: Path, features: Path, tmp_path: Path) -> None:
    unknown = tmp_path / "unknown.jsonl"
    unknown.write_text(
        "".join(f'{{"sku": "sku{i}", "kind": "{"" if i == 2 else "a"}"}}\n' for i in range(ITEMS + 1))
    )
    short = tmp_path / "short.jsonl"
    short.write_text("".join(features.read_text().splitlines(keepends=True)[:3]))
    for options, message in (
        ({"item_features": str(short), "ids": False, "history": 4}, "ids=False: item .sku.*no feature"),
        (
            {"item_feature_columns": ("kind",)},
            "item_feature_columns=.* are columns of --item-features",
        ),
        ({"item_features": str(unknown), "ids": False, "history": 4}, "ids=False: item .sku.*no feature"),
        ({"ids": False}, "ids=False: users have no features"),
        ({"ids": False, "history": 4}, "ids=False: users have no features"),
        ({"history": -1}, "history=-1"),
        ({"in_batch": False}, "in_batch=False, negatives=0"),
        (
            {"streaming": True, "corrected": False},
            "streaming=True: .* corrected=False and in_batch=True; leave",
        ),
        ({"hidden_dims": (0,)}, r"hidden_dims=\(0,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            train("two-tower", events, run=tmp_path / "run", **{**SMALL, **options})
    with pytest.raises(ValueError, match="negatives=0"):
        train("youtube-dnn", events, run=tmp_path / "run", **{**SMALL, "negatives": 0})
    with pytest.raises(FileNotFoundError, match=r"user_features='none\.csv'"):
        train("youtube-dnn", events, run=tmp_path / "run", user_features="none.csv", **SMALL)
    with pytest.raises(ValueError, match="item_features=.*: no such option"):
        train("youtube-dnn", events, run=tmp_path / "run", item_features=str(features), **SMALL)
    with pytest.raises(ValueError, match="item_vector_ids='x': names the items of --item-vectors, which is"):
        train("two-tower", events, run=tmp_path / "run", item_vector_ids="x", **SMALL)
    with pytest.raises(ValueError, match="item_features='x': no such option"):
        train("bpr-mf", events, run=tmp_path / "run", item_features="x", **EVENTS)
    assert not (tmp_path / "run").exists()


def test_some_columns_of_a_csv_file_are_read_and_items_may_have_no_line(events: Path, tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    lines = [f"sku{i},{'a;b' if i % 2 else 'c'},{i}" for i in range(ITEMS - 3)]
    path.write_text("\n".join(["sku,kind,size", *lines]) + "\n")
    options = {**SMALL, "item_features": str(path), "item_feature_columns": ("kind",), "direct_dims": (4,)}
    run = train("pdn", events, run=tmp_path / "run", feature_separator=";", **options)
    kinds = np.asarray(run.variables["columns"]["item_kind"])[0]
    assert "item_size" not in run.variables["columns"]
    assert kinds.shape == (ITEMS + 1, 2) and (kinds[1:] == 0).all(axis=1).sum() == 3


def test_views_are_a_column_of_the_features(events: Path, features: Path, tmp_path: Path) -> None:
    options = {**SMALL, "out_dim": 3, "item_features": str(features)}
    run = train("mv-dssm", events, run=tmp_path / "run", view="kind", **options)
    assert run.kind == "factors" and serve.load(tmp_path / "run").embed("items").vectors.shape[1] == 3
    with pytest.raises(ValueError, match="view='colour': is no feature of items .kind, size"):
        train("mv-dssm", events, run=tmp_path / "bad", view="colour", **options)
    assert not (tmp_path / "bad").exists()


def test_a_path_knows_the_features_of_its_items(events: Path, features: Path, tmp_path: Path) -> None:
    options = {**SMALL, "direct_dims": (4,), "item_features": str(features)}
    run = train("pdn", events, run=tmp_path / "run", **options)
    assert set(run.variables["columns"]) == {
        "items", "start", "length", "user_id", "item_id", "item_kind", "item_size"
    }  # fmt: skip
    (answer,) = serve.load(tmp_path / "run").recommend(["u3"], k=3)
    rows = {"uid": ["u3"] * 3, "sku": answer.items.tolist()}
    np.testing.assert_allclose(serve.load(tmp_path / "run").score(rows)["score"], answer.scores, rtol=1e-5)


def test_feedback_is_of_three_kinds(events: Path, tmp_path: Path) -> None:
    head, *lines = events.read_text().splitlines()
    path = tmp_path / "feedback.csv"
    kinds = [1, 1, 1, 1, 0, -1]
    path.write_text(
        "\n".join([f"{head},kind,two", *(f"{line},{kinds[at % 6]},2" for at, line in enumerate(lines))])
    )
    sizes = {"num_heads": 2, "attention_dim": 3, "deep_dims": (4,), "max_len": 4}
    options = {**EVENTS, "dim": 4, "batch_size": 64, "epochs": 1, "evaluate_every": 1, **sizes}
    train("dfn", path, run=tmp_path / "run", feedback="kind", split="last", **options)
    run = serve.load(tmp_path / "run")
    columns = run.kept.variables["columns"]
    assert columns["disliked_length"].sum() > 0 and columns["shown_length"].sum() > 0
    assert run.kept.histories is not None
    assert len(run.kept.histories.items) == sum(kinds[at % 6] == 1 for at in range(len(lines)))
    assert len(run.recommend(["u3"], k=3)[0].items) == 3
    with pytest.raises(ValueError, match="feedback 2 .*must be 1 .clicked."):
        train("dfn", path, run=tmp_path / "bad", feedback="two", **options)
    with pytest.raises(ValueError, match="no value column 'nope' .*; name it with --feedback"):
        train("dfn", path, run=tmp_path / "bad", feedback="nope", **options)
    assert not (tmp_path / "bad").exists()
