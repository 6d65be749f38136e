"""Frozen vectors of items: aligned to the vocabulary, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrec.data import load_item_vectors

VECTORS = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])
RAW = ["b", "c", "a"]
WANTED = [[0, 0, 0], [7, 8, 9], [1, 2, 3]]  # padding, a, b


@pytest.fixture
def matrix(tmp_path: Path) -> Path:
    np.save(tmp_path / "v.npy", VECTORS)
    return tmp_path / "v.npy"


@pytest.mark.parametrize("form", ["list", "text", "npy"])
def test_a_matrix_has_its_ids_beside_it(matrix: Path, form: str) -> None:
    ids: Any = RAW
    if form == "text":
        ids = matrix.with_suffix(".txt")
        ids.write_text("b\r\nc\na\n")
    elif form == "npy":
        ids = matrix.with_name("ids.npy")
        np.save(ids, np.array(RAW))
    assert load_item_vectors(matrix, ["a", "b"], ids=ids).tolist() == WANTED


def test_an_archive_has_its_ids_in_it(tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", sku=np.array(RAW), vectors=VECTORS)
    assert load_item_vectors(tmp_path / "v.npz", ["a", "b"], item="sku").tolist() == WANTED


def test_one_column_of_lists_is_a_vector(tmp_path: Path) -> None:
    lists = VECTORS.tolist()
    assert load_item_vectors({"item": RAW, "vector": lists}, ["a", "b"]).tolist() == WANTED
    path = tmp_path / "v.jsonl"
    path.write_text("".join(json.dumps({"item": i, "v": v}) + "\n" for i, v in zip(RAW, lists, strict=True)))
    assert load_item_vectors(path, ["a", "b"]).tolist() == WANTED
    pa = pytest.importorskip("pyarrow", reason="needs the extra `parquet`")
    import pyarrow.parquet as pq

    for kind in (pa.list_(pa.float32()), pa.list_(pa.float32(), 3), pa.large_list(pa.float64())):
        pq.write_table(pa.table({"item": RAW, "v": pa.array(lists, kind)}), tmp_path / "v.parquet")
        assert load_item_vectors(tmp_path / "v.parquet", ["a", "b"]).tolist() == WANTED


def test_columns_can_be_chosen_and_integers_are_the_text_they_are_written_as() -> None:
    table = {"item": ["3", "12"], "x": [1.0, 2.0], "y": [3.0, 4.0], "name": ["p", "q"]}
    found = load_item_vectors(table, np.array([12, 3]), columns=["y", "x"])
    assert found.tolist() == [[0, 0], [4, 2], [3, 1]]


@pytest.mark.parametrize(
    "table, message",
    [
        ({"item": ["a", "a", "b"]}, "item 'a' has two vectors, in rows 0 and 1"),
        ({"item": ["a", "c", "d"]}, "1 of 2 items have no vector, such as 'b'; add them"),
        ({"item": ["a", None, "b"]}, "row 1: the item is missing"),
        ({"x": [1.0, 2.0, np.nan]}, r"item 'b' has nan in dimension 0 \(1 such items\)"),
        ({"x": [np.inf, 2.0, 1.0]}, r"item 'a' has inf in dimension 0"),
        ({"x": [1e39, 2.0, 1.0]}, r"item 'a' has 1e\+39 in dimension 0 .*not a finite float32"),
        ({"x": ["p", "q", "r"]}, r"columns \(x\) is of type text, expected numbers"),
        ({"x": [[1.0], [1.0, 2.0], [1.0]]}, "row 1: the vector of item 'c' has 2 numbers, that of 'a' 1"),
        ({"x": [[1.0], [], [1.0]]}, "row 1: the vector of item 'c' has 0 numbers, that of 'a' 1"),
        ({"x": [[], [], []]}, "row 0: the vector of item 'a' has 0 numbers"),
        ({"x": [None, [1.0], [1.0]]}, r"item 'a' has nan in dimension 0 \(1 such items\): missing"),
        ({"x": [[10**400], [1.0], [1.0]]}, "row 0: x has an integer too large for a float"),
        ({"x": [10**400, 1.5, 1.0]}, "row 0: x has an integer too large for a float"),
        ({"x": [[1.0], [1.0], [None]]}, "item 'b' has nan in dimension 0"),
    ],
)
def test_bad_vectors_are_named_by_item(table: dict[str, Any], message: str) -> None:
    given = {"item": ["a", "c", "b"], "x": [1.0, 2.0, 3.0]} | table
    with pytest.raises(ValueError, match=message):
        load_item_vectors(given, ["a", "b"])


def test_vectors_of_other_items_are_not_read() -> None:
    for vectors in ([1.0, np.nan], [[1.0], None], [np.array([1.0]), np.array([np.inf])]):
        assert load_item_vectors({"item": ["a", "c"], "x": vectors}, ["a"]).tolist() == [[0], [1]]


def test_bad_files_are_named(matrix: Path) -> None:
    with pytest.raises(ValueError, match="v.npy: has no ids; give ids="):
        load_item_vectors(matrix, ["a"])
    with pytest.raises(ValueError, match="v.npy: 3 rows for 2 ids"):
        load_item_vectors(matrix, ["a"], ids=["a", "b"])
    with pytest.raises(ValueError, match="ids: are for a .npy file"):
        load_item_vectors({"item": ["a"], "x": [1]}, ["a"], ids=["a"])
    with pytest.raises(ValueError, match="no column of numbers beside 'item'"):
        load_item_vectors({"item": ["a"]}, ["a"])
    for content, message in ((b"", "No data left|EOF"), (b"no array", "pickle")):
        matrix.write_bytes(content)
        with pytest.raises(ValueError, match=f"v.npy: not a readable .npy file .*({message})"):
            load_item_vectors(matrix, ["a"], ids=["a"])
        archive = matrix.with_suffix(".npz")
        archive.write_bytes(content)
        with pytest.raises(ValueError, match="v.npz: not a readable .npz file"):
            load_item_vectors(archive, ["a"])
    np.save(matrix, VECTORS[0])
    with pytest.raises(ValueError, match=r"v.npy: float64\[3\], expected numbers \[items, dimensions\]"):
        load_item_vectors(matrix, ["a"], ids=["a"])
    np.savez(archive, a=np.array([object()]))
    with pytest.raises(ValueError, match="not a readable .npz file .*Object arrays"):
        load_item_vectors(archive, ["a"])
    archive.rename(matrix)
    with pytest.raises(ValueError, match="v.npy: is a .npz archive; name it so"):
        load_item_vectors(matrix, ["a"], ids=["a"])
