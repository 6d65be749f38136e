"""Attributes of items: numbered, read from files, and refused where they are wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrec.data.item_attributes import load_item_attributes, number_attributes

ITEMS = np.array(["a", "b", "c"])
LINES = "item,genre,maker\nb,drama|war,x\nz,opera,y\na,war|war,\n"


def test_values_are_numbered_within_an_attribute() -> None:
    found = number_attributes({"genre": [["war"], ["war", "drama"], []], "maker": [[], ["x"], []]})
    assert found.ids.dtype == np.int32
    assert found.ids.tolist() == [[[0, 0]] * 2, [[2, 0], [0, 0]], [[1, 2], [1, 0]], [[0, 0]] * 2]
    assert {name: values.tolist() for name, values in found.values.items()} == {
        "genre": ["drama", "war"],
        "maker": ["x"],
    }


@pytest.mark.parametrize("form", ["csv", "json", "mapping"])
def test_every_form_gives_the_same(form: str, tmp_path: Path) -> None:
    source: Any = tmp_path / "items.csv"
    source.write_text(LINES)
    if form == "mapping":
        rows = [line.split(",") for line in LINES.split()]
        source = {name: [row[at] or None for row in rows[1:]] for at, name in enumerate(rows[0])}
    if form == "json":
        source = tmp_path / "items.jsonl"
        source.write_text(
            '{"item": "b", "genre": "drama|war", "maker": "x"}\n'
            '{"item": "z", "genre": "opera", "maker": "y"}\n'
            '{"item": "a", "genre": "war", "maker": null}\n'
        )
    found = load_item_attributes(source, ITEMS)
    wanted = number_attributes({"genre": [["war"], ["war", "drama"], []], "maker": [[], ["x"], []]})
    np.testing.assert_array_equal(found.ids, wanted.ids)  # of z, which is no item, nothing is read
    whole = load_item_attributes(source, ITEMS, columns=("genre",), separator="")
    assert whole.ids.shape == (4, 1, 1)
    assert "drama|war" in whole.values["genre"]


def test_spaces_around_a_separator_are_no_part_of_a_value() -> None:
    found = load_item_attributes({"item": ["a", "b"], "genre": ["war | drama", "drama"]}, ["a", "b"])
    assert found.values["genre"].tolist() == ["drama", "war"]
    assert found.ids[1:, 0].tolist() == [[1, 2], [1, 0]]


@pytest.mark.parametrize(
    ("text", "options", "match"),
    [
        (
            "item,genre\na,war\na,drama\n",
            {},
            "line 3: item 'a' has a line before; give its values in one cell",
        ),
        ("item,genre\n,war\n", {}, "line 2: the item is missing"),
        ("item,genre\na,war,x\n", {}, "line 2: has 3 cells, the header has 2"),
        ("item\na\n", {}, "there is no column of attributes beside 'item'"),
        ("item,genre\na,\n", {}, "no item has a value of 'genre'"),
        ("item,genre\n", {}, "has a header line only"),
        ("sku,genre\na,war\n", {}, "there is no item column 'item'"),
        ("item,genre\na,war\n", {"columns": ("gender",)}, "there is no attributes column 'gender'"),
    ],
)
def test_a_wrong_file_is_refused(text: str, options: dict[str, Any], match: str, tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text(text)
    with pytest.raises(ValueError, match=match):
        load_item_attributes(tmp_path / "items.csv", ITEMS, **options)


def test_attributes_of_different_items_are_refused() -> None:
    with pytest.raises(ValueError, match="of different numbers of items"):
        number_attributes({"a": [["x"]], "b": [["x"], ["y"]]})
    with pytest.raises(ValueError, match="there is no attribute"):
        number_attributes({})
