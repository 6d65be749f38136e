"""The TiCoSeRec experiment: it runs to its end, its rows are what they are called, and what was published."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import floors
from experiments.common import NONE, check_label
from experiments.sequential import ticoserec
from experiments.sequential import ticoserec_published as published
from experiments.sequential.ticoserec_views import FORMS
from jaxrec.augment.similarity import SimilarItems
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.events.split import leave_one_out
from jaxrec.data.sources import coserec
from jaxrec.data.sources import ticoserec as source
from jaxrec.protocols import next_item
from jaxrec.recipes import ticoserec as recipes
from jaxrec.recipes import ticoserec_views as views
from jaxrec.types import Array, Result
from tests.experiments.multitask.runs import results_of
from tests.experiments.own_files import write_events

OFFICIAL = ticoserec.Config(dataset="Beauty")
TINY = ticoserec.Config(tiny=True, seeds=(0,))
OTHERWISE: list[dict[str, Any]] = [
    {"preset": "reproduce"},
    {"form": "last"},
    {"similarity": "random"},
    {"operators": "C"},
    {"opposite": True},
    {"no_warm_up": True},
    {"epochs": 2},
    {"dim": 64},
    {"batch_size": 64},
    {"learning_rate": 0.1},
    {"tiny": True},
    {"data": "shop.csv"},
]
WAYS: list[dict[str, Any]] = [
    {},
    {"seeds": (7,)},
    {"seen": "zero"},
    {"test_every": 5},
    {"workdir": "x", "num_devices": 2},
    {"form": "flat", "official_bug": True, "inverted_similarity": True, "seen": "zero", "reject": "all"},
]


# --- runs ---

ONE_LAYER = ("--num-layers", 1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    folder = tmp_path_factory.mktemp("ticoserec")
    return results_of(ticoserec, folder, *ONE_LAYER, "--rows", "random", "popularity", "ticoserec-bce")


def test_tiny_runs_to_the_end(tiny: dict[str, Result]) -> None:
    assert set(tiny) == {"random", "popularity", "ticoserec-bce"}
    for result in tiny.values():
        assert (result.experiment, result.dataset) == ("ticoserec", "synthetic")
        assert all(0 <= value <= 1 for values in result.metrics.values() for value in values)
        assert result.protocol.candidates == "all"
        assert not result.published  # nothing was published about made-up data
    assert (tiny["random"].protocol.loss, tiny["random"].protocol.selection) == ("", "none")


def test_a_trained_row_says_how(tiny: dict[str, Result]) -> None:
    result = tiny["ticoserec-bce"]
    assert result.protocol.loss == "bce + contrastive"
    assert result.protocol.selection == "ndcg@20"
    assert result.steps == 3 * 3  # epochs × batches of 32 of 96 users
    assert result.config["recipe"]["dim"] == 8 and result.config["recipe"]["weight"] == 0.1


def test_one_training_gives_the_epochs_best_on_validation_and_on_test(tmp_path: Path) -> None:
    found = results_of(ticoserec, tmp_path, *ONE_LAYER, "--rows", "sasrec-bce", "--test-every", "1")
    assert set(found) == {"sasrec-bce", "sasrec-bce+test-selected"}
    chosen, best = found["sasrec-bce"], found["sasrec-bce+test-selected"]
    assert (chosen.protocol.selection, best.protocol.selection) == ("ndcg@20", "ndcg@20 on test")
    assert set(chosen.metrics) == set(best.metrics)
    assert "best on test, of every 1, in the training of sasrec-bce" in best.note
    assert "on test" not in chosen.note
    for own, other in zip(best.metrics["ndcg@20"], chosen.metrics["ndcg@20"], strict=True):
        assert own >= other - 1e-6
    assert len(list((tmp_path / "work").rglob("history.jsonl"))) == 1


@pytest.mark.long
def test_a_file_of_yours_without_times_has_the_rows_that_need_none(tmp_path: Path) -> None:
    path = write_events(tmp_path / "shop.csv")
    names = ("--data", path, "--user", "uid", "--item", "sku", "--time", "")
    found = results_of(ticoserec, tmp_path, *names, "--epochs", 2)
    assert set(found) == {*floors.RANKING, "sasrec-bce", "coserec-bce"}
    assert {result.dataset for result in found.values()} == {"shop.csv"}
    assert found["coserec-bce"].protocol.loss == "bce + contrastive"
    assert found["sasrec-bce"].protocol.loss == "bce"
    assert not any(result.published for result in found.values())


# --- rows ---


@pytest.fixture(scope="module")
def columns() -> next_item.Data:
    return next_item.resident(leave_one_out(ticoserec.load(TINY)))


@pytest.mark.parametrize("row", ticoserec.ROWS)
def test_the_loss_is_part_of_every_name(row: str, columns: next_item.Data) -> None:
    check_label(row, ticoserec.ROWS[row].objective(columns).name)


@pytest.mark.parametrize(
    ("row", "change", "phases"),
    [
        ("sasrec-bce", {}, {"plain": 3}),
        ("coserec-bce", {}, {"views": 3}),
        ("ticoserec-bce", {}, {"plain": 1, "views": 2}),
        ("ticoserec-bce", {"epochs": 5}, {"plain": 1, "views": 2, "hybrid": 2}),
        ("ticoserec-bce", {"no_warm_up": True}, {"views": 3}),
        ("ticoserec-bce", {"weight": 0.0}, {"plain": 3}),
        ("sasrec-bce", {"weight": 0.5}, {"plain": 3}),
    ],
)
def test_phases_are_those_of_the_recipe(
    row: str, change: dict[str, Any], phases: dict[str, int], columns: next_item.Data
) -> None:
    """The tasks are never called, so any stands for them."""
    recipe = ticoserec.recipe_of(row, dataclasses.replace(TINY, **change))
    task: Any = "next item"
    with_similar = columns._replace(columns={**columns.columns, "similar": None})
    model: Any = None
    found = recipes.phases(task, task if recipe.weight else None, model, with_similar, recipe)
    assert {phase.name: phase.epochs for phase in found} == phases


def test_every_setting_of_a_recipe_is_an_option() -> None:
    options = {field.name for field in dataclasses.fields(ticoserec.Config)}
    settings = {field.name for field in dataclasses.fields(recipes.Recipe)}
    assert settings - options == {"by_gaps"}  # what the rows differ by
    changed = ticoserec.Config(dropout=0.25, short="IM", threshold=7, temperature=0.5)
    for row in ticoserec.ROWS:
        recipe = ticoserec.recipe_of(row, changed)
        assert (recipe.dropout, recipe.short, recipe.threshold, recipe.temperature) == (0.25, "IM", 7, 0.5)


@pytest.mark.parametrize("name", ticoserec.SIMILARITIES)
def test_every_similarity_has_a_substitute_for_each_item(name: str, columns: next_item.Data) -> None:
    recipe = ticoserec.recipe_of("coserec-bce", TINY)
    found = ticoserec.SIMILARITIES[name](columns.split.sequences, recipe, 0)
    assert found.item.shape == (columns.num_items + 1,)
    assert bool((found.item > 0).any()) == (name != "random")  # which draws anew at every use
    assert int(found.pool_size) > 0


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_a_view_is_a_vector_a_view(name: str, columns: next_item.Data) -> None:
    recipe, form = ticoserec.recipe_of("coserec-bce", TINY), FORMS[name]
    model = recipes.encoder(columns.num_items, recipe, mask_value=form.mask_value)
    task = form.task(model, columns, recipe, 1)
    assert callable(task.losses)
    assert model.mask_value == (-1e4 if name == "flat" else -np.inf)
    assert ticoserec.model_name("coserec-bce", dataclasses.replace(TINY, form=name)) == (
        "coserec-bce" if name == "mean" else f"coserec-bce+{name}"
    )


@pytest.mark.long
def test_a_new_similarity_and_a_new_form_are_an_entry_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What each is given is what it needs, and both are part of the row's name."""
    asked: list[tuple[int, int]] = []

    def successor(sequences: Sequences, recipe: recipes.Recipe, seed: int) -> SimilarItems:
        asked.append((recipe.dim, seed))
        found = views.random(sequences, recipe, seed)
        return found._replace(item=jnp.roll(jnp.arange(sequences.num_items + 1), -1).at[0].set(0))

    def first_event(items: Array, event: Array, length: Array) -> Array:
        return (event == 0).astype(jnp.float32)

    monkeypatch.setattr(ticoserec, "SIMILARITIES", {**ticoserec.SIMILARITIES, "successor": successor})
    monkeypatch.setattr(ticoserec, "FORMS", {**FORMS, "first": views.pooled(first_event)})
    options = ("--rows", "coserec-bce", "--similarity", "successor", "--form", "first", "--epochs", 2)
    (result,) = results_of(ticoserec, tmp_path, *options).values()
    assert result.model == "coserec-bce+first+successor"
    assert asked == [(8, 3)]
    assert "views are compared as their first" in result.note


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 7}, "dim=7: must be a multiple of the 2 attention heads"),
        ({"epochs": 0}, "epochs=0: must be at least 1"),
        ({"test_every": -1}, "test_every=-1: must be at least 1 epoch, or 0"),
        ({"batch_size": -1}, "batch_size=-1: must be at least 1"),
        ({"operators": "SX"}, "operators='SX': letters of SIMRC"),
        ({"short": ""}, "short='': letters of SIMRC"),
        ({"form": "meen"}, "form: 'meen' is none of mean, last, flat; the nearest is 'mean'"),
        ({"similarity": "item2vek"}, "similarity: 'item2vek' is none of .*; the nearest is 'item2vec'"),
        ({"rows": ("tico",)}, "rows: 'tico' is none of"),
        ({"seeds": (1, 1)}, "each once"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ticoserec.Config(**change)


def test_what_ranks_or_draws_as_the_official_code_is_named() -> None:
    config = dataclasses.replace(OFFICIAL, reject="all", seen="zero")
    assert ticoserec.model_name("sasrec-bce", config) == "sasrec-bce+reject-all+seen-zero"
    assert ticoserec.model_name("popularity", config) == "popularity+seen-zero"


def test_data_without_times_have_no_row_that_augments_by_them() -> None:
    config = ticoserec.Config(dataset="coserec-Beauty")
    without = (*ticoserec.BASELINES, "sasrec-bce", "coserec-bce")
    assert ticoserec.rows_of(config, "coserec-Beauty", has_times=False) == without
    assert ticoserec.rows_of(ticoserec.Config(), "ml-100k", has_times=True) == (*without, "ticoserec-bce")
    with pytest.raises(ValueError, match="coserec-Beauty has no times, by which ticoserec-bce augments"):
        ticoserec.Config(dataset="coserec-Beauty", rows=("ticoserec-bce",))
    own = ticoserec.Config(data="shop.csv", rows=("ticoserec-bce",))
    with pytest.raises(ValueError, match="shop.csv has no times, by which ticoserec-bce augments"):
        ticoserec.rows_of(own, "shop.csv", has_times=False)


def test_views_by_times_are_refused_for_data_without(columns: next_item.Data) -> None:
    sequences = dataclasses.replace(columns.split.sequences, times=None)
    data = next_item.resident(leave_one_out(sequences))
    recipe = ticoserec.recipe_of("ticoserec-bce", TINY)
    similar = views.random(sequences, recipe, 0)
    with pytest.raises(ValueError, match="has no times, which these views need"):
        views.augmented(data, recipe, similar)


def test_sasrec_has_the_settings_of_the_code_base_of_its_data() -> None:
    widths = [
        ticoserec.recipe_of("sasrec-bce", ticoserec.Config(dataset=name)).dim
        for name in ("Beauty", "coserec-Beauty")
    ]
    assert widths == [recipes.ticoserec("Beauty").dim, recipes.coserec("coserec-Beauty").dim] == [128, 64]
    assert ticoserec.recipe_of("sasrec-bce", ticoserec.Config(dataset="coserec-Beauty")).weight == 0


# --- published numbers and notes ---


@pytest.mark.parametrize("change", WAYS, ids=str)
def test_official_settings_have_the_published_numbers(change: dict[str, Any]) -> None:
    found = ticoserec.published_numbers("ticoserec-bce", dataclasses.replace(OFFICIAL, **change))
    assert found.values["ndcg@20"] == 0.0501
    assert found.source == published.README


@pytest.mark.parametrize("change", OTHERWISE, ids=str)
def test_other_settings_have_none(change: dict[str, Any]) -> None:
    assert ticoserec.published_numbers("ticoserec-bce", dataclasses.replace(OFFICIAL, **change)) == NONE


@pytest.mark.parametrize(
    ("dataset", "row", "seen", "reason"),
    [
        ("Beauty", "ticoserec-bce", "zero", ""),
        ("Beauty", "ticoserec-bce", "exclude", "leaves seen items in with score 0"),
        ("Beauty", "sasrec-bce", "zero", "another order: 5,846 of 22,287 users"),
        ("Sports", "coserec-bce", "zero", "another order: 8,886 of 35,578 users"),
        ("coserec-Beauty", "sasrec-bce", "zero", ""),
        ("coserec-Sports", "coserec-bce", "exclude", "leaves seen items in with score 0"),
        ("Yelp-A", "coserec-bce", "zero", ""),
    ],
)
def test_a_difference_is_for_the_same_sequences_and_the_same_ranking(
    dataset: Any, row: str, seen: Any, reason: str
) -> None:
    found = ticoserec.published_numbers(row, ticoserec.Config(dataset=dataset, seen=seen))
    assert found.values
    assert (reason in found.incomparable) if reason else (found.incomparable == "")


@pytest.mark.parametrize("row", ["sasrec-bce", "coserec-bce"])
def test_the_figures_for_both_files_are_the_same(row: str) -> None:
    for ours, theirs in published.SAME_EVENTS.items():
        here, there = (published.published_for(name, row, seen="zero") for name in (ours, theirs))
        assert here.values
        assert (here.values, here.source) == (there.values, there.source)


def test_a_note_says_what_was_cut_short_and_what_departs() -> None:
    official = dataclasses.replace(OFFICIAL, **WAYS[-1])
    assert ticoserec.note_of("ticoserec-bce", official) == ""
    cut = dataclasses.replace(official, epochs=54, form="mean")
    assert ticoserec.note_of("ticoserec-bce", cut) == (
        "departs from the official code: views are compared as means over their events; trained for 54 "
        "epochs of the recipe's 350"
    )
    short = ticoserec.Config(preset="reproduce", reject="all")
    assert ticoserec.note_of("sasrec-bce", short) == (
        "settings of TiCoSeRec's code, without views; short training: 30 epochs, width 64"
    )
    assert "of CoSeRec's code" in ticoserec.note_of("sasrec-bce", ticoserec.Config(dataset="coserec-Toys"))


# --- the two orders of the same events ------------------------------------------------------------


def fingerprints(sequences: Sequences, rounds: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """A number of each user and item, by who met what: equal in files that number the same events otherwise.

    Colour refinement: a user's number hangs on those of its items, and the reverse, whatever their order.
    """

    def mixed(x: np.ndarray) -> np.ndarray:
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))

    users, items = sequences.event_users, sequences.items
    of_user = sequences.lengths.astype(np.uint64)
    of_item = np.bincount(items, minlength=sequences.num_items + 1).astype(np.uint64)
    for _ in range(rounds):
        met, by = np.zeros_like(of_user), np.zeros_like(of_item)
        np.add.at(met, users, mixed(of_item[items] + np.uint64(7)))
        np.add.at(by, items, mixed(of_user[users] + np.uint64(13)))
        of_user, of_item = mixed(of_user * np.uint64(31) + met), mixed(of_item * np.uint64(37) + by)
    return of_user, of_item


def matched(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """For each entry of a its place in b, -1 where it is not in both just once."""
    once = [values[counts == 1] for values, counts in (np.unique(x, return_counts=True) for x in (a, b))]
    shared = np.intersect1d(*once)
    order = np.argsort(b)
    return np.where(np.isin(a, shared), order[np.searchsorted(b, a, sorter=order) % len(b)], -1)


@pytest.mark.parametrize("name", ["Beauty", "Sports", "Yelp-A"])
@pytest.mark.long
def test_the_two_files_order_the_events_of_a_day_otherwise(
    name: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counts that stand in the reasons, and that CoSeRec's files sort the events of a day by item."""
    monkeypatch.setenv("JAXREC_DATA_DIR", str(data_dir))
    file = recipes.COSEREC_FILES[published.SAME_EVENTS[name]]
    if not (data_dir / f"coserec/{file}.txt.gz").exists():
        pytest.skip(f"the data folder has no coserec/{file}.txt.gz")
    ours, theirs = source.load(name), coserec.load(file)
    (our_users, our_items), (their_users, their_items) = fingerprints(ours), fingerprints(theirs)
    item = matched(our_items, their_items)
    item[0] = -1  # padding, which no event has
    of_theirs = np.zeros(theirs.num_items + 1, np.int64)
    of_theirs[item[item > 0]] = np.flatnonzero(item > 0)
    assert ours.times is not None
    compared = equal = same_day = ascending = 0
    for user, other in enumerate(matched(our_users, their_users)):
        here = item[ours.user_items(user)]
        if other < 0 or (here < 0).any():
            continue
        there = theirs.user_items(other)
        assert sorted(here) == sorted(there)
        compared, equal = compared + 1, equal + np.array_equal(here, there)
        if name != "Yelp-A":  # whose users repeat items
            when = dict(zip(here, ours.times[ours.offsets[user] : ours.offsets[user + 1]], strict=True))
            gaps = np.diff([when[i] for i in there])
            assert (gaps >= 0).all()
            same_day += int((gaps == 0).sum())
            ascending += int((np.diff(of_theirs[there])[gaps == 0] > 0).sum())
    assert ascending == same_day
    if name == "Yelp-A":
        assert equal == compared > 0.999 * ours.num_users
    else:
        counts = re.findall(r"([\d,]+) of ([\d,]+) users", published.OTHER_ORDER[name])
        assert counts == [(f"{equal:,}", f"{compared:,}")]
    if name == "Beauty":
        assert same_day == 76_867
