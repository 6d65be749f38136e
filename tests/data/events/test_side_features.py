"""Features of users and items by number: what is kept, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jaxrec.data.events.side_features import SideFeatures, encode_features, join_views, tower_columns

GOOD: dict[str, Any] = {
    "columns": {"kind": np.array([0, 2, 1, 2]), "tags": np.array([[0, 0], [1, 3], [0, 0], [2, 0]])},
    "sizes": {"kind": 2, "tags": 3},
    "vectors": {"text": np.array([[0.0, 0.0], [1.0, 2.0], [0.5, 0.5], [0.0, 0.0]])},
}


def test_columns_are_int32_vectors_float32_and_named_by_a_prefix() -> None:
    found = SideFeatures(**GOOD)
    columns = found.as_columns("item_")
    assert sorted(columns) == ["item_kind", "item_tags", "item_text"]
    assert [columns[name].dtype for name in sorted(columns)] == [np.int32, np.int32, np.float32]
    assert (found.num_entities, found.dims) == (3, {"text": 2})
    for name, array in {**GOOD["columns"], **GOOD["vectors"]}.items():
        np.testing.assert_array_equal(columns[f"item_{name}"], array)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"columns": {}, "sizes": {}, "vectors": {}}, "none given"),
        ({"columns": {"kind": np.array([0, 3, 1, 1])}, "sizes": {"kind": 2}}, r"ids 0\.\.3, but its size"),
        ({"columns": {"kind": np.array([0, -1, 1, 1])}, "sizes": {"kind": 2}}, r"ids -1\.\.1"),
        ({"columns": {"kind": np.array([1, 1, 1, 1])}, "sizes": {"kind": 2}}, "row 0 is 1"),
        ({"columns": {"kind": np.array([0, 1])}, "sizes": {"kind": 2}}, "4 rows, but kind has 2"),
        ({"columns": {"kind": np.zeros((4, 1, 1), int)}, "sizes": {"kind": 2}}, r"int64\[4, 1, 1\]"),
        ({"columns": {"kind": np.zeros(4)}, "sizes": {"kind": 2}}, "float64.*expected integers"),
        ({"columns": {"kind": np.zeros(4, int)}, "sizes": {"kind": 0}}, "size 0 must be at least 1"),
        ({"sizes": {"kind": 2}}, "tags in one of sizes and columns alone"),
        ({"columns": {"a b": np.zeros(4, int)}, "sizes": {"a b": 2}}, "'a b'.*rename it"),
        ({"columns": {"text": np.zeros(4, int)}, "sizes": {"text": 2}}, "text: is a column and a vector"),
        ({"vectors": {"text": np.array([[0.0], [1.0], [np.nan], [1.0]])}}, "vector of number 2 is not"),
        ({"vectors": {"text": np.array([[0.0], [1.0], [1e39], [1.0]])}}, "vector of number 2 is not"),
        ({"vectors": {"text": np.ones((4, 2))}}, "row 0 is not zero"),
        ({"vectors": {"text": np.zeros(4)}}, r"float64\[4\], expected numbers"),
        ({"vectors": {"text": np.zeros((3, 2))}}, "3 rows, but kind has 4"),
        ({"columns": {"kind": np.zeros(1, int)}, "sizes": {"kind": 1}, "vectors": {}}, "1 rows; expected"),
    ],
)
def test_wrong_features_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SideFeatures(**{**GOOD, **change})


def test_an_item_without_any_value_is_refused_unless_it_is_allowed() -> None:
    empty = {"columns": {"kind": np.array([0, 1, 0])}, "sizes": {"kind": 1}}
    with pytest.raises(ValueError, match="number 2 has no value .1 such of 2.; give it one"):
        SideFeatures(**empty)
    assert SideFeatures(**empty, allow_empty=True).empty().tolist() == [2]
    assert SideFeatures(**empty, vectors={"text": np.array([[0], [0], [1]])}).empty().tolist() == []


def test_raw_values_are_numbered_in_sorted_order() -> None:
    found = encode_features(
        {"year": [1999, 0, 1950], "gender": ["m", "f", "f"]},
        several={"tags": [["z", "a", "z"], [], ["b"]]},
        vectors={"text": np.ones((3, 2))},
        missing=("", 0),
    )
    assert found.columns["year"].tolist() == [0, 2, 0, 1]
    assert found.columns["gender"].tolist() == [0, 2, 1, 1]
    assert found.columns["tags"].tolist() == [[0, 0], [3, 1], [0, 0], [2, 0]]
    assert found.sizes == {"year": 2, "gender": 2, "tags": 3}
    assert found.vectors["text"].tolist() == [[0, 0], [1, 1], [1, 1], [1, 1]]


def test_a_column_without_a_value_is_refused() -> None:
    with pytest.raises(ValueError, match="feature tags: no user or item has a value; leave it out"):
        encode_features({"gender": ["m"]}, several={"tags": [[]]})


PAIRS: dict[str, Any] = {"pair_user": np.array([0, 2, 2]), "pair_item": np.array([1, 3, 1])}


def test_columns_of_towers_know_who_was_trained_on() -> None:
    features = SideFeatures({"kind": np.array([0, 2, 1, 2])}, {"kind": 2})
    found = tower_columns(**PAIRS, num_users=3, num_items=3, users=features, items=features)
    assert found["user_id"].tolist() == [0, 1, 0, 3]
    assert found["item_id"].tolist() == [0, 1, 0, 3]
    assert found["user_kind"].tolist() == found["item_kind"].tolist() == [0, 2, 1, 2]
    np.testing.assert_allclose(np.exp(found["item_log_frequency"]), [0, 2 / 3, 0, 1 / 3], rtol=1e-6)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"pair_user": np.array([], int), "pair_item": np.array([], int)}, "0 users and 0 items"),
        ({"num_users": 2}, r"users 1\.\.3 as rows, but there are 2"),
        ({"num_items": 2}, r"items 1\.\.3 as rows"),
        ({"items": SideFeatures({"kind": np.array([0, 1])}, {"kind": 1})}, "of items: 1, but there are 3"),
        ({"users": SideFeatures({"id": np.array([0, 1, 1, 1])}, {"id": 1})}, "feature id: is the name"),
    ],
)
def test_wrong_columns_of_towers_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tower_columns(**{**PAIRS, "num_users": 3, "num_items": 3, **change})


VIEWS = {
    "apps": SideFeatures({"kind": np.array([0, 1, 2])}, {"kind": 2}),
    "news": SideFeatures(
        {"tags": np.array([[0, 0], [1, 2]])}, {"tags": 2}, {"text": np.array([[0.0], [3.0]])}
    ),
}
VIEW_PAIRS = {"apps": (np.array([0, 1]), np.array([2, 1])), "news": (np.array([1]), np.array([1]))}


def test_views_are_numbered_one_after_the_other() -> None:
    found = join_views(VIEWS, VIEW_PAIRS)
    assert found.view.tolist() == [0, 1, 1, 2]
    assert found.first == {"apps": 1, "news": 3}
    assert (found.pair_user.tolist(), found.pair_item.tolist()) == ([0, 1, 1], [2, 1, 3])
    assert found.items.columns["apps_kind"].tolist() == [0, 1, 2, 0]
    assert found.items.columns["news_tags"].tolist() == [[0, 0], [0, 0], [0, 0], [1, 2]]
    assert found.items.vectors["news_text"].tolist() == [[0], [0], [0], [3]]


def test_views_without_pairs_or_with_items_of_others_are_refused() -> None:
    none = (np.zeros(0, int), np.zeros(0, int))
    for pairs, message in (
        ({**VIEW_PAIRS, "news": none}, "view news: has no pair"),
        ({**VIEW_PAIRS, "news": (np.array([0]), np.array([2]))}, r"view news: pairs with items 2\.\.2, but"),
        ({"apps": VIEW_PAIRS["apps"]}, r"views: \['apps', 'news'\], but pairs of \['apps'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            join_views(VIEWS, pairs)
