"""The TiCoSeRec experiment: which rows have published numbers beside them, and whether they compare."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.common import NONE
from experiments.sequential import ticoserec
from experiments.sequential import ticoserec_recipes as recipes
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.sources import coserec
from jaxrec.data.sources import ticoserec as source

OFFICIAL = ticoserec.Config(dataset="Beauty")
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
    {"tiny": True},
]


WAYS: list[dict[str, Any]] = [
    {},
    {"seeds": (7,)},
    {"seen": "zero"},
    {"workdir": "x", "num_devices": 2},
    {"form": "flat", "official_bug": True, "inverted_similarity": True, "seen": "zero", "reject": "all"},
]


@pytest.mark.parametrize("change", WAYS, ids=str)
def test_official_settings_have_the_published_numbers(change: dict[str, Any]) -> None:
    found = ticoserec.published_numbers("ticoserec-bce", dataclasses.replace(OFFICIAL, **change))
    assert found.values["ndcg@20"] == 0.0501
    assert found.source == recipes.README


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
    dataset: Any, row: Any, seen: Any, reason: str
) -> None:
    found = ticoserec.published_numbers(row, ticoserec.Config(dataset=dataset, seen=seen))
    assert found.values
    assert (reason in found.incomparable) if reason else (found.incomparable == "")


@pytest.mark.parametrize("row", ["sasrec-bce", "coserec-bce"])
def test_the_figures_beside_both_files_are_the_same(row: str) -> None:
    for ours, theirs in recipes.SAME_EVENTS.items():
        here, there = (recipes.published_for(name, row, seen="zero") for name in (ours, theirs))
        assert here is not None and there is not None
        assert (here.values, here.source) == (there.values, there.source)


def test_what_ranks_or_draws_as_the_official_code_is_named() -> None:
    config = dataclasses.replace(OFFICIAL, reject="all", seen="zero")
    assert ticoserec.model_name("sasrec-bce", config) == "sasrec-bce+reject-all+seen-zero"
    assert ticoserec.model_name("popularity", config) == "popularity+seen-zero"


def test_files_without_times_have_no_row_that_augments_by_them() -> None:
    config = ticoserec.Config(dataset="coserec-Beauty")
    assert ticoserec.rows_of(config) == ("random", "popularity", "sasrec-bce", "coserec-bce")
    assert ticoserec.rows_of(ticoserec.Config())[-1] == "ticoserec-bce"
    with pytest.raises(ValueError, match="coserec-Beauty has no times, by which ticoserec-bce augments"):
        ticoserec.Config(dataset="coserec-Beauty", rows=("ticoserec-bce",))


def test_sasrec_has_the_settings_of_the_code_base_of_its_data() -> None:
    widths = [
        ticoserec.recipe_of(ticoserec.Config(dataset=name), "sasrec-bce").dim
        for name in ("Beauty", "coserec-Beauty")
    ]
    assert widths == [recipes.TICOSEREC["Beauty"].dim, recipes.COSEREC["coserec-Beauty"].dim] == [128, 64]
    assert ticoserec.recipe_of(ticoserec.Config(dataset="coserec-Beauty"), "sasrec-bce").weight == 0


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
def test_the_two_files_order_the_events_of_a_day_otherwise(
    name: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counts that stand in the reasons, and that CoSeRec's files sort the events of a day by item."""
    monkeypatch.setenv("JAXREC_DATA_DIR", str(data_dir))
    file = recipes.COSEREC_FILES[recipes.SAME_EVENTS[name]]
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
        counts = re.findall(r"([\d,]+) of ([\d,]+) users", recipes.OTHER_ORDER[name])
        assert counts == [(f"{equal:,}", f"{compared:,}")]
    if name == "Beauty":
        assert same_day == 76_867
