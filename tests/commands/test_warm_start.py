"""Runs that begin with the parameters of another run, or with given vectors of items."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxrec import serve
from jaxrec.commands.train import train
from jaxrec.commands.training.warm_start import move_rows
from jaxrec.serve import run_folder
from tests.commands.small_data import EVENTS, ITEMS, write_events, write_rows

STILL = 1e-30  # a learning rate by which no parameter moves
SASREC: Mapping[str, Any] = {
    **EVENTS, "dim": 4, "max_len": 6, "batch_size": 8, "epochs": 1, "evaluate_every": 1, "num_layers": 1,
}  # fmt: skip
DEEP: Mapping[str, Any] = {
    "labels": ("click",), "categorical": ("city", "device"), "numeric": ("price",), "epochs": 1, "dim": 4,
}  # fmt: skip
SHIFT = 4  # the first item of the later data; items 4 to 11 are in both


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    write_events(folder / "events.csv")
    write_events(folder / "later.csv", first_item=SHIFT)
    write_rows(folder / "rows.csv")
    train("sasrec", folder / "events.csv", run=folder / "before", **SASREC)
    return folder


def table_by_id(kept: Any) -> dict[str, np.ndarray]:
    """Rows of a run's item table by raw id, of its first seed; "" is padding."""
    table = kept.variables["params"]["item_embedding"][0]
    return dict(zip(["", *kept.vocabulary["item"].tolist()], table, strict=True))


def test_items_keep_their_vectors_by_raw_id_and_new_ones_are_drawn(folder: Path) -> None:
    options = {**SASREC, "learning_rate": STILL}
    before = run_folder.read(folder / "before")
    drawn = train("sasrec", folder / "later.csv", run=folder / "drawn", **options)
    kept = train(
        "sasrec", folder / "later.csv", run=folder / "warm", warm_start=str(folder / "before"), **options
    )
    old, new, cold = (table_by_id(run) for run in (before, kept, drawn))
    shared = [f"sku{item}" for item in range(SHIFT, ITEMS)]
    added = [f"sku{item}" for item in range(ITEMS, ITEMS + SHIFT)]
    assert set(new) == {"", *shared, *added}
    for raw in shared:
        np.testing.assert_array_equal(new[raw], old[raw])
        assert np.abs(new[raw] - cold[raw]).max() > 0
    for raw in added:
        np.testing.assert_array_equal(new[raw], cold[raw])
    positions = [run.variables["params"]["position_embedding"] for run in (before, kept)]
    np.testing.assert_array_equal(*positions)


@pytest.mark.parametrize("seeds", [(3, 4)])
def test_a_run_of_one_seed_starts_several(folder: Path, seeds: tuple[int, ...]) -> None:
    options = {**SASREC, "learning_rate": STILL, "warm_start": str(folder / "before"), "seeds": seeds}
    kept = train("sasrec", folder / "later.csv", run=folder / "two", **options)
    first, second = kept.variables["params"]["item_embedding"]
    at = kept.vocabulary["item"].tolist()
    known = [1 + at.index(f"sku{item}") for item in range(SHIFT, ITEMS)]
    added = [1 + at.index(f"sku{item}") for item in range(ITEMS, ITEMS + SHIFT)]
    np.testing.assert_array_equal(first[known], second[known])
    assert np.abs(first[added] - second[added]).max() > 0
    three = {**options, "seeds": (5, 6, 7), "warm_start": str(folder / "two")}
    with pytest.raises(ValueError, match="has 2 seeds and this run 3; give as many"):
        train("sasrec", folder / "later.csv", run=folder / "three", **three)


@pytest.mark.long
def test_a_model_of_sessions_is_carried_over_without_the_states_of_its_training(folder: Path) -> None:
    options: dict[str, Any] = {**EVENTS, "dim": 4, "batch_size": 4, "epochs": 1, "split": "sessions"}
    before = train("gru4rec", folder / "events.csv", run=folder / "sessions", **options)
    options |= {"learning_rate": STILL, "warm_start": str(folder / "sessions")}
    kept = train("gru4rec", folder / "later.csv", run=folder / "later-sessions", **options)
    old, new = table_by_id(before), table_by_id(kept)
    for raw in [f"sku{item}" for item in range(SHIFT, ITEMS)]:
        np.testing.assert_array_equal(new[raw], old[raw])


def test_categories_of_a_table_keep_their_vectors(folder: Path) -> None:
    first = train("deep", folder / "rows.csv", run=folder / "deep", **DEEP)
    text = (folder / "rows.csv").read_text().replace("amsterdam", "zagreb").replace("cairo", "athens")
    (folder / "moved.csv").write_text(text)
    options = {**DEEP, "learning_rate": STILL, "warm_start": str(folder / "deep")}
    second = train("deep", folder / "moved.csv", run=folder / "moved", **options)
    tables = []
    for kept in (first, second):
        assert kept.encoders is not None
        raw = next(field.raw.tolist() for field in kept.encoders.fields if field.name == "city")
        table = kept.variables["params"]["embedding"]["city_embedding"][0]
        tables.append(dict(zip(["padding", "missing", "unknown", *raw], table, strict=True)))
    before, after = tables
    assert set(after) - set(before) == {"zagreb", "athens"}
    for name in ("missing", "unknown", "berlin", "delhi"):
        np.testing.assert_array_equal(after[name], before[name])


@pytest.mark.parametrize(
    ("model", "change", "message"),
    [
        ("sasrec-postnorm", {}, "is a run of sasrec, not of sasrec-postnorm"),
        ("sasrec", {"dim": 8}, "params/item_embedding.*give the settings of that run"),
        ("sasrec", {"num_layers": 2}, "is not in it; give the settings of that run"),
        ("sasrec", {"item": "ts", "time": ""}, "has no item in common with this data"),
    ],
)
def test_a_run_that_does_not_fit_is_refused_before_training(
    model: str, change: dict[str, Any], message: str, folder: Path, tmp_path: Path
) -> None:
    options = {**SASREC, "warm_start": str(folder / "before"), **change}
    with pytest.raises(ValueError, match=message):
        train(model, folder / "later.csv", run=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


@given(
    before=st.lists(st.integers(0, 9), min_size=1, max_size=6, unique=True),
    now=st.lists(st.integers(0, 9), min_size=1, max_size=6, unique=True),
    first=st.integers(0, 3),
    two_axes=st.booleans(),
)
def test_move_rows_is_a_loop_over_ids(before: list[int], now: list[int], first: int, two_axes: bool) -> None:
    rng = np.random.default_rng(0)
    shapes = [(first + len(ids), first + len(ids) if two_axes else 2) for ids in (before, now)]
    old, drawn = (rng.standard_normal(shape) for shape in shapes)
    rows = np.array([before.index(raw) if raw in before else -1 for raw in now])
    found = move_rows(old, drawn, {0: rows, 1: rows} if two_axes else {0: rows})
    expected = drawn.copy()
    old_at = {raw: first + at for at, raw in enumerate(before)} | {-1 - at: at for at in range(first)}
    new_at = {raw: first + at for at, raw in enumerate(now)} | {-1 - at: at for at in range(first)}
    columns = (old_at, new_at) if two_axes else ({0: 0, 1: 1}, {0: 0, 1: 1})
    for raw in set(old_at) & set(new_at):
        for other in set(columns[0]) & set(columns[1]):
            expected[new_at[raw], columns[1][other]] = old[old_at[raw], columns[0][other]]
    np.testing.assert_array_equal(found, expected)


# --- vectors of items --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vectors(folder: Path) -> Path:
    """Vectors of all items of both files."""
    rng = np.random.default_rng(0)
    lines = ["sku,a,b,c"]
    lines += [f"sku{item}," + ",".join(f"{x:.4f}" for x in rng.standard_normal(3)) for item in range(16)]
    (folder / "vectors.csv").write_text("\n".join(lines) + "\n")
    return folder / "vectors.csv"


@pytest.fixture(scope="module")
def with_vectors(folder: Path, vectors: Path) -> Path:
    """A run whose items have the given vectors."""
    train("sasrec", folder / "events.csv", run=folder / "vectors", **SASREC, item_vectors=str(vectors))
    return folder / "vectors"


def test_vectors_are_kept_as_they_were_given(with_vectors: Path, vectors: Path) -> None:
    kept = run_folder.read(with_vectors)
    assert kept.name == "sasrec-bce+vectors"
    given = dict(line.split(",", 1) for line in vectors.read_text().splitlines()[1:])
    expected = [[0.0] * 3] + [[float(x) for x in given[raw].split(",")] for raw in kept.vocabulary["item"]]
    np.testing.assert_array_equal(kept.variables["constants"]["item_vectors"][0], np.float32(expected))
    run = serve.load(with_vectors)
    (answer,) = run.recommend(["u1"], k=3)
    assert len(answer.items) == 3


def test_a_warm_start_takes_the_vectors_of_its_own_items(
    folder: Path, vectors: Path, with_vectors: Path
) -> None:
    options = {**SASREC, "item_vectors": str(vectors), "learning_rate": STILL}
    options["warm_start"] = str(with_vectors)
    kept = train("sasrec", folder / "later.csv", run=folder / "warm-vectors", **options)
    given = dict(line.split(",", 1) for line in vectors.read_text().splitlines()[1:])
    expected = [[0.0] * 3] + [[float(x) for x in given[raw].split(",")] for raw in kept.vocabulary["item"]]
    np.testing.assert_array_equal(kept.variables["constants"]["item_vectors"][0], np.float32(expected))
    before = run_folder.read(with_vectors).variables["params"]["projection"]
    np.testing.assert_array_equal(kept.variables["params"]["projection"], before)


def test_an_item_without_a_vector_is_named_before_training(
    folder: Path, vectors: Path, tmp_path: Path
) -> None:
    lines = [line for line in vectors.read_text().splitlines() if not line.startswith("sku3,")]
    (tmp_path / "few.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match="1 of 12 items have no vector, such as 'sku3'"):
        train(
            "sasrec",
            folder / "events.csv",
            run=tmp_path / "run",
            **SASREC,
            item_vectors=str(tmp_path / "few.csv"),
        )
    assert not (tmp_path / "run").exists()


def test_sessions_read_side_by_side_have_no_vectors(folder: Path, vectors: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {**EVENTS, "split": "sessions", "item_vectors": str(vectors)}
    with pytest.raises(ValueError, match="split='sessions': WithItemVectors does not read sessions side by"):
        train("gru4rec", folder / "events.csv", run=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
