"""Runs that go on with new days: ids stay, tables grow, and the optimiser goes on where it was."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jaxrec import serve
from jaxrec.commands.train import train
from jaxrec.commands.training import warm_start
from jaxrec.commands.training.warm_start import TRAINING
from jaxrec.serve import run_folder
from jaxrec.train.checkpoint import CHECKPOINTS, Checkpoints, stored
from tests.commands.small_data import EVENTS, ITEMS, write_events, write_rows

STILL = 1e-30  # a learning rate by which no parameter moves
NEW = [f"new{item}" for item in range(3)]
SASREC: Mapping[str, Any] = {
    **EVENTS, "dim": 4, "max_len": 6, "batch_size": 8, "epochs": 1, "evaluate_every": 1, "num_layers": 1,
    "dropout": 0.0,
}  # fmt: skip
DIN: Mapping[str, Any] = {**EVENTS, "dim": 4, "epochs": 1, "batch_size": 32, "length": 4}


def write_new_days(before: Path, path: Path, *, rare: bool = False) -> Path:
    """The events of a file and new ones behind them: of new users, and old ones, with new items.

    The new lines come first, so that by appearance all ids would be others. rare: fewer of them.
    """
    with before.open(newline="") as file:
        header, *lines = list(csv.reader(file))
    late = []
    for user in range(2 if rare else 30):
        for step in range(4):
            late.append([f"v{user}", NEW[(user + step) % 3], str(9_000_000 + 1000 * step + user)])
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *late, *lines])
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    write_events(folder / "events.csv")
    write_new_days(folder / "events.csv", folder / "later.csv")
    train("sasrec", folder / "events.csv", run=folder / "before", **SASREC)
    return folder


@pytest.fixture(scope="module")
def still(folder: Path) -> Any:
    """The run grown by the new days, and not moved."""
    return grow(folder, "later.csv", "still", learning_rate=STILL)


def grow(folder: Path, data: str, run: str, **changes: Any) -> Any:
    options = {**SASREC, "warm_start": str(folder / "before"), "grow": True, **changes}
    return train("sasrec", folder / data, run=folder / run, **options)


def moments(run: Path, like: Any) -> list[np.ndarray]:
    """The arrays of the size of an item table that the optimiser of a run remembers, of its first seed."""
    (path,) = (run / TRAINING).glob(f"**/{CHECKPOINTS}")
    found = stored(path)
    assert found is not None
    with Checkpoints(path, found.description) as checkpoints:
        asked = ocp.args.Composite(arrays=ocp.args.StandardRestore())  # as nested dicts
        arrays = checkpoints._manager.restore(checkpoints.latest(), args=asked).arrays
    leaves: list[np.ndarray] = []

    def visit(tree: Any) -> None:
        for part in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
            if isinstance(part, (dict, list)):
                visit(part)
            elif np.shape(part)[1:] == np.shape(like)[1:]:
                leaves.append(np.asarray(part)[0])

    visit(arrays["state"]["opt_state"])
    return leaves


def test_ids_stay_and_rows_of_old_items_are_those_of_the_run(folder: Path, still: Any) -> None:
    before = run_folder.read(folder / "before")
    old, new = before.vocabulary["item"].tolist(), still.vocabulary["item"].tolist()
    assert new == [*old, *NEW]
    assert still.vocabulary["user"].tolist()[: len(before.vocabulary["user"])] == (
        before.vocabulary["user"].tolist()
    )
    tables = [kept.variables["params"]["item_embedding"][0] for kept in (before, still)]
    np.testing.assert_array_equal(tables[1][: len(old) + 1], tables[0])
    assert np.abs(tables[1][len(old) + 1 :]).min() > 0
    drawn = train("sasrec", folder / "later.csv", run=folder / "drawn", **{**SASREC, "learning_rate": STILL})
    at = [drawn.vocabulary["item"].tolist().index(raw) + 1 for raw in NEW]
    assert at == [1, 2, 3]  # where nothing is known of the ids they are numbered by appearance


def test_old_users_get_the_same_scores_for_old_items(folder: Path, still: Any) -> None:
    before, after = (serve.load(folder / run) for run in ("before", "still"))
    users = ["u0", "u5", "u23"]
    items = [f"sku{item}" for item in range(ITEMS)]
    for found in zip(*(model.recommend(users, k=99, seen="keep") for model in (before, after)), strict=True):
        old, new = (dict(zip(of.items.tolist(), of.scores.tolist(), strict=True)) for of in found)
        np.testing.assert_allclose([new[i] for i in items], [old[i] for i in items], rtol=1e-5, atol=1e-6)
        assert set(new) == {*items, *NEW}


def test_nothing_new_changes_nothing(folder: Path) -> None:
    same = grow(folder, "events.csv", "same", learning_rate=STILL)
    before = run_folder.read(folder / "before")
    assert same.vocabulary["item"].tolist() == before.vocabulary["item"].tolist()
    flat = [run_folder._flat(kept.variables) for kept in (before, same)]
    assert flat[0].keys() == flat[1].keys()
    for name in flat[0]:
        np.testing.assert_array_equal(flat[0][name], flat[1][name])
    assert same.validation == before.validation and same.metrics == before.metrics


def test_the_optimiser_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = run_folder.read(folder / "before")
    opt_state, step = seen_states(folder, "later.csv", "watched", monkeypatch)
    table = before.variables["params"]["item_embedding"]
    old = moments(folder / "before", table)
    assert len(old) == 2 and all(np.abs(moment[1:]).max() > 0 for moment in old)  # of Adam
    adam = opt_state[0]
    for moment, stored_there in zip((adam.mu, adam.nu), old, strict=True):
        grown = np.asarray(moment["model"]["item_embedding"][0])
        np.testing.assert_array_equal(grown[: len(stored_there)], stored_there)
        assert grown.shape[0] == len(stored_there) + len(NEW) and not grown[len(stored_there) :].any()
    assert int(adam.count[0]) > 0 and int(step[0]) == 0


def seen_states(folder: Path, data: str, run: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the optimiser remembers in the first state of a run that grows, and its step."""
    seen: list[Any] = []
    plain = warm_start.grown

    def watched(*args: Any) -> Any:
        carry = plain(*args)

        def keep(state: Any, seeds: Any) -> Any:
            carried = carry(state, seeds)
            found = (carried.opt_state, carried.step)  # copied: training takes their buffers
            seen.append(jax.tree.map(np.array, found))
            return carried

        return keep

    monkeypatch.setattr(warm_start, "grown", watched)
    grow(folder, data, run)
    return seen[0]


def test_new_items_are_recommended_after_training(folder: Path) -> None:
    grow(folder, "later.csv", "trained", epochs=20, learning_rate=0.02)
    model = serve.load(folder / "trained")
    found = model.recommend([f"v{user}" for user in range(10)], k=3, seen="keep")
    assert sum(len({*of_user.items.tolist()} & {*NEW}) for of_user in found) >= 15  # by chance 6 of 30


def test_a_run_that_grew_grows_again(folder: Path, still: Any) -> None:
    again = grow(folder, "later.csv", "again", learning_rate=STILL, warm_start=str(folder / "still"))
    assert again.vocabulary["item"].tolist() == still.vocabulary["item"].tolist()
    tables = [kept.variables["params"]["item_embedding"] for kept in (again, still)]
    np.testing.assert_array_equal(*tables)


def test_one_seed_grows_into_several(folder: Path) -> None:
    two = grow(folder, "later.csv", "two", learning_rate=STILL, seeds=(3, 4))
    first, second = two.variables["params"]["item_embedding"]
    count = len(run_folder.read(folder / "before").vocabulary["item"]) + 1
    np.testing.assert_array_equal(first[:count], second[:count])
    assert np.abs(first[count:] - second[count:]).max() > 0


@pytest.mark.long
def test_a_click_model_grows_by_items_and_users(folder: Path) -> None:
    before = train("din", folder / "events.csv", run=folder / "din", **DIN)
    options = {**DIN, "learning_rate": STILL, "warm_start": str(folder / "din"), "grow": True}
    after = train("din", folder / "later.csv", run=folder / "din-later", **options)
    for name, more in {"item": 3, "user": 30}.items():
        old, new = (kept.vocabulary[name].tolist() for kept in (before, after))
        assert new[: len(old)] == old and len(new) == len(old) + more
    flat = [run_folder._flat(kept.variables) for kept in (before, after)]
    for name, array in flat[0].items():
        grown = flat[1][name][tuple(slice(size) for size in array.shape)]
        np.testing.assert_array_equal(grown, array)


# --- refusals ----------------------------------------------------------------------------------------


def test_users_of_a_model_that_numbers_them_may_not_be_lost(folder: Path) -> None:
    train("din", folder / "events.csv", run=folder / "din-all", **DIN)
    write_events(folder / "fewer.csv", users=20)
    options = {**DIN, "warm_start": str(folder / "din-all"), "grow": True}
    with pytest.raises(ValueError, match="user: 4 of 24 raw ids are lost, such as 'u20'.*leave --grow out"):
        train("din", folder / "fewer.csv", run=folder / "fewer", **options)
    assert not (folder / "fewer").exists()


def test_values_of_a_table_keep_their_rows_also_where_none_is_left(folder: Path) -> None:
    """athens would stand before the others, and the last city has no row any more."""
    write_rows(folder / "rows.csv")
    options: dict[str, Any] = {
        "labels": ("click",), "categorical": ("city", "device"), "numeric": ("price",), "epochs": 1, "dim": 4
    }  # fmt: skip
    train("deep", folder / "rows.csv", run=folder / "deep", **options)
    before = run_folder.read(folder / "deep")
    values = warm_start.vocabularies_of(before)["city"].tolist()
    (folder / "moved.csv").write_text((folder / "rows.csv").read_text().replace(values[-1], "athens"))
    options |= {"warm_start": str(folder / "deep"), "grow": True, "learning_rate": STILL}
    after = train("deep", folder / "moved.csv", run=folder / "moved", **options)
    assert warm_start.vocabularies_of(after)["city"].tolist() == [*values, "athens"]
    old, new = (run_folder._flat(kept.variables) for kept in (before, after))
    (name,) = (name for name in old if name.endswith("city_embedding"))
    np.testing.assert_array_equal(new[name][:, : old[name].shape[1]], old[name])
    found = serve.load(folder / "moved").score(folder / "rows.csv")
    for label, expected in serve.load(folder / "deep").score(folder / "rows.csv").items():
        assert np.isfinite(found[label]).all() and len(found[label]) == len(expected)


def test_a_run_without_checkpoints_and_growth_without_a_run_are_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "before", tmp_path / "before")
    shutil.rmtree(tmp_path / "before" / TRAINING)
    with pytest.raises(ValueError, match="has no checkpoint in training/ of its seeds"):
        grow(folder, "later.csv", "none", warm_start=str(tmp_path / "before"))
    with pytest.raises(ValueError, match="grow=True: is of a run that grows; name it by --warm-start"):
        grow(folder, "later.csv", "none", warm_start="")
    assert not (folder / "none").exists()
