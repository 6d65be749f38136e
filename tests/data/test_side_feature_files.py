"""Features from one's own file: aligned to the numbers of the events, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrec.data.item_attributes import load_item_attributes
from jaxrec.data.side_feature_files import load_side_features

TABLE: dict[str, Any] = {
    "sku": ["b", "c", "a"],
    "brand": ["x", "", "w"],
    "tags": ["p|q", "q", ""],
    "year": [1990, 2000, 1990],
}


@pytest.mark.parametrize("form", ["mapping", "csv", "jsonl"])
def test_rows_are_in_the_order_of_the_ids(tmp_path: Path, form: str) -> None:
    source: Any = TABLE
    rows = [dict(zip(TABLE, row, strict=True)) for row in zip(*TABLE.values(), strict=True)]
    if form == "csv":
        source = tmp_path / "items.csv"
        lines = [",".join(map(str, row.values())) for row in rows]
        source.write_text("\n".join([",".join(TABLE), *lines]) + "\n")
    elif form == "jsonl":
        source = tmp_path / "items.jsonl"
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = load_side_features(source, ["a", "b"], entity="sku")
    assert found.columns["brand"].tolist() == [0, 1, 2]
    assert found.columns["year"].tolist() == [0, 1, 1]
    assert found.columns["tags"].tolist() == [[0, 0], [0, 0], [1, 2]]
    chosen = load_side_features(source, np.array(["c"]), entity="sku", columns=["tags"])
    assert (list(chosen.columns), chosen.num_entities) == (["tags"], 1)


def test_without_a_separator_a_cell_is_one_value() -> None:
    found = load_side_features(TABLE, ["a", "b", "c"], entity="sku", columns=["tags"], separator="")
    assert found.columns["tags"].tolist() == [0, 0, 1, 2]  # "p|q" and "q"


@pytest.mark.parametrize(
    "change, options, message",
    [
        ({"sku": ["a", "b", "a"]}, {}, "sku 'a' has a line before; give its values in one cell, as in 'a|b'"),
        ({"sku": ["a", None, "b"]}, {}, "the sku is missing"),
        ({"sku": ["a", " b", "c"]}, {}, "row 1: sku ' b' has spaces around it; remove them"),
        ({"sku": ["a", "b\u200b", "c"]}, {}, "row 1: sku .* has spaces around it"),
        ({"sku": ["a", "b\0", "c"]}, {}, "row 1: sku .* has a NUL character"),
        ({}, {"entity": "item"}, "there is no item column 'item' among .*; name its column of ids so"),
        ({}, {"columns": ["sku"]}, "there is no column of features beside 'sku'"),
        ({}, {"columns": ["colour"]}, "there is no features column 'colour' .*; name columns that are there"),
        (
            {"sku": [1, 2, 3]},
            {},
            "none of its 3 lines is of one of the 2 ids of sku: it has '1' and others, th",
        ),
        ({"year": [1.5, 2.0, 3.0]}, {}, "year"),
        ({"brand": ["", "x", ""]}, {}, "feature brand: no user or item has a value"),
    ],
)
def test_what_makes_no_sense_is_refused(
    change: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    given = {"ids": ["a", "b"], "entity": "sku", **options}
    with pytest.raises(ValueError, match=message):
        load_side_features({**TABLE, **change}, given.pop("ids"), **given)


def test_an_id_that_reads_like_a_missing_value_is_an_id_here() -> None:
    found = load_side_features({"land": ["b", "NA"], "size": ["s", "m"]}, ["NA", "b"], entity="land")
    assert found.columns["size"].tolist() == [0, 1, 2]


def test_an_item_without_a_row_has_no_feature() -> None:
    found = load_side_features(TABLE, ["a", "d", "b"], entity="sku", columns=["brand", "tags"])
    assert found.columns["brand"].tolist() == [0, 1, 0, 2] and found.empty().tolist() == [2]
    with pytest.raises(ValueError, match="number 2 has no value"):
        load_side_features(TABLE, ["a", "d", "b"], entity="sku", allow_empty=False)


def test_features_are_attributes_of_the_same_reader() -> None:
    """The ids of `load_item_attributes`, whatever the order of a cell's values."""
    table = {"item": ["b", "c", "a"], "brand": ["x", "", "w"], "tags": ["q|p", "q", ""]}
    found = load_side_features(table, ["a", "b", "d"], entity="item").as_ids()
    np.testing.assert_array_equal(found, load_item_attributes(table, ["a", "b", "d"]).ids)
    assert found.dtype == np.int32 and found.shape == (4, 2, 2)


def test_an_item_whose_cells_are_empty_is_refused_where_features_are_all_there_is() -> None:
    table = {"sku": ["a", "b"], "tags": ["p|q", ""]}
    assert load_side_features(table, ["a", "b"], entity="sku").empty().tolist() == [2]
    with pytest.raises(ValueError, match="number 2 has no value"):
        load_side_features(table, ["a", "b"], entity="sku", allow_empty=False)
