"""`jaxrec train sim-hard`: a search by a category of the items, from two files to scores of pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import serve
from jaxrec.commands.train import train
from jaxrec.commands.training.clicks import larger
from jaxrec.data.events.interactions import Interactions
from jaxrec.data.tables.click_histories import SideInfo, next_clicks
from jaxrec.recipes import search
from jaxrec.serve import run_folder
from jaxrec.serve.export import export
from jaxrec.serve.readers import clicks as clicks_reader
from tests.commands.small_data import EVENTS, ITEMS, write_attributes, write_events

SMALL: dict[str, Any] = {
    **EVENTS, "category": "colour", "dim": 2, "recent": 2, "k": 2, "length": 6, "epochs": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("categories")
    write_events(folder / "events.csv")
    write_attributes(folder / "attributes.csv")
    train("sim-hard", folder / "events.csv", run=folder / "run", seeds=(0, 1), **asked(folder))
    return folder


def asked(folder: Path, **changes: Any) -> dict[str, Any]:
    return {**SMALL, "item_attributes": str(folder / "attributes.csv"), **changes}


def pairs(users: int = 3) -> dict[str, list[str]]:
    names = [f"u{user}" for user in range(users)]
    return {
        "uid": [user for user in names for _ in range(ITEMS)],
        "sku": [f"sku{item}" for _ in names for item in range(ITEMS)],
    }


def column_of(kept: run_folder.Kept) -> np.ndarray:
    """The number of the category of each item, by hand: "" 1, blue 2, red 3; the last item has no line."""
    numbers = [int(raw.removeprefix("sku")) for raw in kept.vocabulary["item"].tolist()]
    return np.array([0, *(1 if at == ITEMS - 1 else 3 - at % 2 for at in numbers)], np.int32)


def test_scores_are_those_of_the_trained_module_with_the_categories_of_the_file(folder: Path) -> None:
    run = serve.load(folder / "run")
    assert run.kept.kind == "clicks" and run.protocol.selection == "auc/click"
    assert run.kept.vocabulary["category"].tolist() == ["", "blue", "red"]
    column = column_of(run.kept)
    np.testing.assert_array_equal(run.variables["constants"]["category"], column)
    rows, histories = pairs(), run.kept.histories
    assert histories is not None
    item_of = {raw: number for number, raw in enumerate(run.kept.vocabulary["item"].tolist(), 1)}
    user_of = {raw: number for number, raw in enumerate(run.kept.vocabulary["user"].tolist())}
    item = np.array([item_of[raw] for raw in rows["sku"]])
    past = np.zeros((len(item), 6), np.int32)
    for row, user in enumerate(user_of[raw] for raw in rows["uid"]):
        own = histories.items[histories.offsets[user] : histories.offsets[user + 1]][-6:]
        past[row, 6 - len(own) :] = own
    batch = {
        "item": item, "category": column[item], "history_item": past, "history_category": column[past],
    }  # fmt: skip
    trained = run.module.within  # the module that was trained, without what looks categories up
    logit = trained.apply({"params": run.variables["params"]}, jax.tree.map(jnp.asarray, batch), train=False)
    np.testing.assert_allclose(run.score(rows)["click"], jax.nn.sigmoid(logit), rtol=1e-5)


def test_an_event_of_another_category_is_not_found(folder: Path) -> None:
    """What stands before the last events changes a score only where its category is the target's."""
    run = serve.load(folder / "run")
    column = np.asarray(run.variables["constants"]["category"])
    red, blue = np.flatnonzero(column == 3), np.flatnonzero(column == 2)

    def score(first: int) -> float:
        batch = {"item": red[:1], "history_item": np.array([[0, 0, 0, first, blue[0], blue[1]]])}
        return float(run.module.apply(run.variables, jax.tree.map(jnp.asarray, batch), train=False)[0])

    assert score(blue[2]) == score(blue[3])
    assert score(red[1]) != score(red[2])


def test_an_export_scores_as_the_run(folder: Path) -> None:
    run, answered = serve.load(folder / "run"), pairs(1)
    export(run, folder / "exported")
    histories = run.kept.histories
    assert histories is not None
    own = run.kept.vocabulary["item"][histories.items[: histories.offsets[1]] - 1].tolist()
    assert run.kept.vocabulary["user"][0] == "u0"
    found = clicks_reader.Reader(folder / "exported").score(answered["sku"], [own] * ITEMS)
    np.testing.assert_allclose(found["click"], run.score(answered)["click"], rtol=1e-5)


def test_a_run_goes_on_with_new_items_and_categories(folder: Path) -> None:
    write_events(folder / "later.csv", first_item=3)
    lines = [f"sku{item},{('red', 'blue', 'amber')[item % 3]}" for item in range(ITEMS + 3)]
    (folder / "later_attributes.csv").write_text("\n".join(["sku,colour", *lines]) + "\n")
    given = asked(folder, item_attributes=str(folder / "later_attributes.csv"), learning_rate=1e-30)
    given |= {"seeds": (0, 1), "warm_start": str(folder / "run")}
    before = run_folder.read(folder / "run")
    for name, grow in (("warm", False), ("grown", True)):
        kept = train("sim-hard", folder / "later.csv", run=folder / name, grow=grow, **given)
        known = kept.vocabulary["category"].tolist()
        assert known == (["", "blue", "red", "amber"] if grow else ["amber", "blue", "red"])
        path = ("params", "model", "items", "category_embedding")
        old, new = cast(Any, before.variables), cast(Any, kept.variables)
        for part in path:
            old, new = old[part], new[part]
        for raw in ("blue", "red"):
            at = before.vocabulary["category"].tolist().index(raw)
            np.testing.assert_array_equal(new[:, 1 + known.index(raw)], old[:, 1 + at])


def test_categories_that_no_item_has_any_more_stay(folder: Path) -> None:
    (folder / "blue.csv").write_text("sku,colour\n" + "".join(f"sku{item},blue\n" for item in range(ITEMS)))
    given = asked(folder, item_attributes=str(folder / "blue.csv"), learning_rate=1e-30)
    given |= {"seeds": (0, 1), "warm_start": str(folder / "run")}
    before = run_folder.read(folder / "run")
    assert before.vocabulary["category"].tolist() == ["", "blue", "red"]
    kept = train("sim-hard", folder / "events.csv", run=folder / "blue", grow=True, **given)
    assert kept.vocabulary["category"].tolist() == ["", "blue", "red"]
    old, new = (run_folder._flat(each.variables) for each in (before, kept))
    (name,) = (name for name in old if name.endswith("category_embedding"))
    np.testing.assert_array_equal(new[name], old[name])


def test_larger_vocabularies_have_the_same_examples() -> None:
    item = (np.arange(12) + np.repeat([0, 1, 2], 4)) % 6
    sequences = Interactions.from_raw("x", np.repeat([1, 2, 3], 4), item, None, None).to_sequences()
    side = SideInfo({"category": np.array([0, 2, 1, 1, 2, 1, 2], np.int32)}, {})
    clicks = next_clicks(sequences, side_info=side)
    grown = larger(clicks, {"item": 2, "category": 3})
    assert (grown.num_items, grown.side_info.item_sizes()) == (8, {"category": 6})
    assert larger(clicks, {"item": 2}).side_info.item_sizes() == {"category": 3}
    np.testing.assert_array_equal(grown.item, clicks.item)
    (category,) = [i for i in search.sim_hard(grown, search.Recipe()).model.items if i.name == "category"]
    assert category.vocab_size == 6


def test_what_makes_no_sense_is_refused(folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.csv"
    empty.write_text("sku,colour,size\n" + "".join(f"sku{item},,1\n" for item in range(ITEMS)))
    for changes, message in (
        ({"item_attributes": ""}, "name a file with a line for each item by --item-attributes"),
        ({"category": ""}, "category='': .* and its column of categories by --category"),
        ({"category": "shade"}, "shade"),
        ({"item_attributes": str(empty)}, "category='colour': no item has a value; name another column"),
        ({"recent": 6}, "short=6: of histories of 6 events nothing is left to search"),
        ({"attributes": ("colour",)}, "no such option; the nearest is"),
    ):
        with pytest.raises(ValueError, match=message):
            train("sim-hard", folder / "events.csv", run=tmp_path / "run", **asked(folder, **changes))
    missing = asked(folder, item_attributes="none.csv")
    with pytest.raises(FileNotFoundError, match=r"item_attributes='none\.csv': there is no such file"):
        train("sim-hard", folder / "events.csv", run=tmp_path / "run", **missing)
    with pytest.raises(ValueError, match="category='colour': no such option"):
        train("sim", folder / "events.csv", run=tmp_path / "run", category="colour", **EVENTS)
    assert not (tmp_path / "run").exists()
