"""Integers of several types are ids of one type: NumPy takes int64 and uint64 together to floats."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from jaxrec.data import vocab
from jaxrec.data.events.clusters import clusters_from_labels
from jaxrec.data.events.event_files import read_events
from jaxrec.data.events.interactions import Interactions, Sequences
from jaxrec.data.events.parallel_sessions import lane_columns
from jaxrec.data.events.sessions import Sessions
from jaxrec.data.sources.session_logs import arrays_from_lists
from jaxrec.data.tables.columns import Coded, Ragged
from jaxrec.data.tables.features import Category, Tags, encode, fit_encoders
from jaxrec.data.validation import as_integers

HASHES = np.array([2**60, 2**60 + 1, 2**60 + 2, 2**60 + 3])  # as floats these are one number
ALL = np.arange(4)


def as_coded(ids: np.ndarray) -> Coded:
    return Coded(np.arange(len(ids)), ids)


@pytest.mark.parametrize("form", [np.asarray, as_coded])
def test_a_shared_vocabulary_keeps_ids_of_two_types_apart(form: Callable[[np.ndarray], Any]) -> None:
    raw = {"item": form(HASHES), "seen": form(HASHES.astype(np.uint64))}
    encoders = fit_encoders((Category("item", vocabulary="v"), Category("seen", vocabulary="v")), raw, ALL)
    assert encoders.fields[0].vocab_size == 3 + 4
    for column in encode(encoders, raw).values():
        assert column.tolist() == [3, 4, 5, 6]


@pytest.mark.parametrize("dtype", [np.uint64, np.int64, object])
def test_later_rows_of_another_type_are_known(dtype: type) -> None:
    encoders = fit_encoders((Category("item"),), {"item": HASHES}, ALL)
    assert encode(encoders, {"item": HASHES.astype(dtype)})["item"].tolist() == [3, 4, 5, 6]
    ragged = {"item": Ragged(HASHES.astype(dtype), np.array([0, 2, 4], np.uint64))}
    tags = fit_encoders((Tags("item"),), {"item": Ragged(HASHES, np.array([0, 2, 4]))}, np.arange(2))
    assert encode(tags, ragged)["item"].tolist() == [[3, 4], [5, 6]]


def test_a_vocabulary_encodes_any_integers() -> None:
    vocabulary = vocab.build("item", HASHES)
    for values in (HASHES.astype(np.uint64), HASHES.tolist(), list(HASHES.astype(np.uint64))):
        assert vocabulary.encode(values).tolist() == [1, 2, 3, 4]
    assert vocab.Vocabulary("item", HASHES.astype(np.uint64)).encode(HASHES).tolist() == [1, 2, 3, 4]
    small = vocab.build("item", np.array([200, 3], np.uint8))
    assert small.encode(np.array([3, 200], np.int16)).tolist() == [2, 1]


@pytest.mark.parametrize("values", [np.array([1, 2**63], np.uint64), [1, 2**63], [-(2**63) - 1]])
def test_integers_beyond_int64_are_refused(values: Any) -> None:
    for read in (
        lambda: vocab.build("item", values),
        lambda: vocab.build("item", [1]).encode(values),
        lambda: as_integers(values, "item"),
        lambda: Sequences.from_lists("x", [values]),
        lambda: fit_encoders((Category("item"),), {"item": np.array(values)}, np.arange(1)),
    ):
        with pytest.raises(ValueError, match="item.*(beyond|of type)"):
            read()


def test_a_mark_of_missing_values_is_of_the_same_type() -> None:
    """2^60 + 1 is missing, and its neighbours, which are the same float, are not."""
    encoders = fit_encoders((Category("item", missing=(2**60 + 1,)),), {"item": HASHES}, ALL)
    assert encode(encoders, {"item": HASHES.astype(np.uint64)})["item"].tolist() == [3, 1, 4, 5]
    with pytest.raises(ValueError, match="item: missing: one of 1 integers is beyond 64 bits"):
        fit_encoders((Category("item", missing=(2**64,)),), {"item": HASHES}, ALL)
    with pytest.raises(ValueError, match="item: missing=.*is not of the column's type"):
        fit_encoders((Category("item", missing=(True,)),), {"item": HASHES}, ALL)


def test_text_is_not_looked_up_among_integers() -> None:
    encoders = fit_encoders((Category("item"),), {"item": HASHES}, ALL)
    with pytest.raises(
        ValueError, match="item: raw values of type <U19, those of the training rows were int64"
    ):
        encode(encoders, {"item": HASHES.astype(str)})


@pytest.mark.parametrize(
    "values", [["a", 1], [1, "a"], np.array(["a", 1], object), [1, None], [1, 2.0], [1, True]]
)
def test_ids_of_several_kinds_are_refused(values: Any) -> None:
    with pytest.raises(
        ValueError, match="item: raw ids mix text with other types, or integers with other types"
    ):
        vocab.build("item", values)


def test_masked_ids_are_refused() -> None:
    masked = np.ma.MaskedArray([1, 2], [False, True])
    with pytest.raises(ValueError, match="are masked"):
        vocab.build("item", masked)
    with pytest.raises(ValueError, match="are masked"):
        Sequences.from_lists("x", [masked])  # type: ignore[list-item]


@pytest.mark.parametrize("text", ["a\0b", "\0a"])
def test_nul_characters_in_numpy_text_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="item: .*has a NUL character"):
        vocab.build("item", np.array([text, "a"]))


def test_text_that_ends_in_nul_is_refused_before_numpy_cuts_it() -> None:
    for values in (["a\0", "a"], np.array(["a\0", "a"], object)):
        with pytest.raises(ValueError, match="has a NUL character"):
            vocab.build("item", values)


# Casts that would cut


@pytest.mark.parametrize(
    "row",
    [[1.5, 2.9], [1.0, 2.0], ["1", "2"], [True], [None], np.array([1.0]), np.array([True]), np.array(["1"])],
)
def test_from_rows_cuts_nothing(row: Any) -> None:
    with pytest.raises(ValueError, match="x: items of user 1: .*(is no integer|expected integers)"):
        Sequences.from_lists("x", [[1], row])
    with pytest.raises(ValueError, match="x: times of user 0: .*(is no integer|expected integers)"):
        Sequences.from_lists("x", [[1] * len(row)], [row])


def test_from_rows_takes_integers_of_every_kind() -> None:
    rows = [[1, 2], (np.int8(3),), np.array([4, 5], np.uint16), range(6, 8)]
    found = Sequences.from_lists("x", rows)  # type: ignore[arg-type]
    assert found.items.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert found.lengths.tolist() == [2, 1, 2, 2]
    assert Sequences.from_lists("x", np.array([[1, 2], [3, 4]])).lengths.tolist() == [2, 2]  # type: ignore[arg-type]


def session_arrays(**changed: Any) -> dict[str, np.ndarray]:
    given = {
        "train_items": np.array([5, 6]),
        "train_offsets": np.array([0, 2]),
        "test_items": np.array([5], np.int8),
        "test_offsets": np.array([0, 1]),
        "test_target": np.array([2**40]),
    }
    return given | changed


def test_sessions_are_not_cut_to_the_type_of_one_part() -> None:
    assert Sessions.from_arrays("s", **session_arrays()).train.item_ids.tolist() == [5, 6, 2**40]
    large = session_arrays(
        train_items=HASHES[:2], test_items=HASHES[2:3].astype(np.uint64), test_target=HASHES[3:]
    )
    assert Sessions.from_arrays("s", **large).train.item_ids.tolist() == HASHES.tolist()
    with pytest.raises(ValueError, match="s: test target: float64"):
        Sessions.from_arrays("s", **session_arrays(test_target=np.array([6.7])))
    falling = np.array([0, 2, 1, 2], np.uint64)  # unsigned differences would wrap and look like long rows
    with pytest.raises(ValueError, match="s: train offsets: must ascend"):
        Sessions.from_arrays("s", **session_arrays(train_offsets=falling))


def test_lists_of_sessions_hold_integers() -> None:
    for train, targets in (([[1, 2.5]], [1]), ([[1, 2]], [1.5]), ([["1", 2]], [1])):
        with pytest.raises(ValueError, match="made: .*is no integer"):
            arrays_from_lists(train, ([[1]], targets), "made")  # type: ignore[arg-type]


def test_lengths_labels_and_offsets_are_not_cut() -> None:
    with pytest.raises(ValueError, match="lengths: float64"):
        lane_columns(np.array([2.5, 3.0]), 2)
    assert clusters_from_labels(np.array([1, 0, 1], np.uint64)).of.tolist() == [2, 1, 0, 1]
    for offsets in (np.array([0.0, 2.0]), np.array([0, 3, 2], np.uint64)):
        with pytest.raises(ValueError, match="t: offsets"):
            fit_encoders((Tags("t"),), {"t": Ragged(np.array([1, 2]), offsets)}, np.arange(1))


def test_events_of_other_types_are_refused() -> None:
    for change in ([1, 2], np.array([1, 2])):
        with pytest.raises(ValueError, match="expected a NumPy array int32"):
            Interactions("x", change, change, None, None, np.arange(2), np.arange(2))  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [0, -1, 1.5, True])
def test_tags_keep_at_least_one_value(width: Any) -> None:
    tags = {"g": Ragged(np.array([1, 2]), np.array([0, 1, 2]))}
    with pytest.raises(ValueError, match=f"g: max_values={width}: must be at least 1, or None for all"):
        fit_encoders((Tags("g", max_values=width),), tags, np.arange(2))


@pytest.mark.parametrize("name", ["", " "])
def test_a_feature_has_a_name(name: str) -> None:
    with pytest.raises(ValueError, match="each needs a name"):
        fit_encoders((Category(name),), {name: ALL}, ALL)


@pytest.mark.parametrize("times", [np.array([2**64 - 1], np.uint64), [2**64 - 1]])
def test_a_time_beyond_64_bits_is_corrected_and_no_id(times: Any) -> None:
    with pytest.raises(ValueError, match=r"time.*beyond (int64|64 bits); correct it"):
        read_events({"user": [1], "item": [1], "time": times}, name="x")
