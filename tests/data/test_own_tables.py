"""A user's own labelled rows: split and encoded, and new rows encoded as those were."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrec.data import encode_rows, load_labelled
from jaxrec.data.tables.columns import Ragged
from jaxrec.data.tables.features import Buckets, Category, Number, Tags, encode, fit_encoders
from tests.data.test_own_files import write

pytest.importorskip("pyarrow", reason="needs the extra `parquet`")


def labelled(path: Path, count: int = 60) -> Path:
    rng = np.random.default_rng(0)
    rows = [
        f"{rng.integers(2)},{rng.integers(2)},{'xyz'[rng.integers(3)]},{rng.random():.3f},{i}"
        for i in range(count)
    ]
    return write(path, "click,buy,city,price,ts", *rows)


def test_labelled_rows_are_split_and_encoded(tmp_path: Path) -> None:
    path = labelled(tmp_path / "t.csv")
    split = load_labelled(path, labels=["click", "buy"], categorical=["city"], numeric=["price"])
    assert split.impressions.tasks == ("click", "buy")
    assert [len(part) for part in (split.train, split.validation, split.test)] == [48, 6, 6]
    price = split.impressions.columns["price"][split.train]
    assert price.mean() == pytest.approx(0, abs=1e-5)  # by training rows


def test_a_split_by_time_tests_on_the_last_rows(tmp_path: Path) -> None:
    path = labelled(tmp_path / "t.csv")
    split = load_labelled(path, labels=["click"], categorical=["city"], time="ts", split="time")
    assert split.test.tolist() == list(range(54, 60))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": []}, "name at least one label"),
        ({"labels": ["click"], "categorical": []}, "one label and one feature"),
        ({"labels": ["click"], "categorical": ["click"]}, "click: is given two uses"),
        ({"labels": ["click"], "split": "time"}, "split='time' needs the column of times"),
        ({"labels": ["nope"]}, "nope"),
    ],
)
def test_what_a_table_lacks_is_named(arguments: dict[str, object], message: str, tmp_path: Path) -> None:
    given: dict[str, object] = {"categorical": ["city"], **arguments}
    with pytest.raises(ValueError, match=message):
        load_labelled(labelled(tmp_path / "t.csv"), **given)  # type: ignore[arg-type]


RAW: dict[str, Any] = {
    "shop": np.array([7, 12, 7]),
    "town": np.array(["a", "b", "none"]),
    "price": np.array([1.0, 2.0, 4.0]),
}
ENCODERS = fit_encoders(
    (
        Category("shop"),
        Category("city", column="town", missing=("none",)),
        Number("price"),
        Buckets("b", "price"),
    ),
    RAW,
    np.arange(3),
)


def test_rows_of_a_file_are_encoded_as_raw_columns_are(tmp_path: Path) -> None:
    """Encoders fitted on integers, with a column of another name and a mark of missing values."""
    path = write(tmp_path / "r.csv", "price,town,shop", "1,a,7", "2,b,12", "4,none,7")
    for unknown in ("map", "error"):
        found = encode_rows(ENCODERS, path, unknown=unknown)  # type: ignore[arg-type]
        for name, column in encode(ENCODERS, RAW).items():
            np.testing.assert_array_equal(found[name], column)
    assert found["city"].tolist() == [3, 4, 1]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["price,town", "1,a"],
            "no categorical column 'shop' among 'price', 'town'; the model was trained with",
        ),
        (
            ["price,town,shop", "1,a,7", "1,a,x1"],
            "line 3: shop 'x1' is not an integer .*; it was integers in tr",
        ),
        (["price,town,shop", ",a,7"], r"price: missing \(NaN\) at row 0"),
        (["price,town,shop", "one,a,7"], "r.csv: price, .*Row #2: no finite decimal number: 'one'"),
        (["price,town,shop"], "r.csv: there are no rows"),
    ],
)
def test_rows_that_can_not_be_encoded_are_named(lines: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        encode_rows(ENCODERS, write(tmp_path / "r.csv", *lines))


def test_a_column_of_categories_that_are_numbers_too_is_refused() -> None:
    encoders = fit_encoders((Category("shop"), Buckets("b", "shop")), RAW, np.arange(3))
    with pytest.raises(ValueError, match="shop: is read as categories and as numbers"):
        encode_rows(encoders, {"shop": [7, 12]})


def test_cells_of_several_values_are_refused() -> None:
    tags = Ragged(np.array(["a", "b"]), np.array([0, 2]))
    with pytest.raises(ValueError, match="genres: has several values per cell"):
        encode_rows(fit_encoders((Tags("genres"),), {"genres": tags}, np.array([0])), {"genres": ["a"]})
    with pytest.raises(ValueError, match="unknown='drop': must be 'map' or 'error'"):
        encode_rows(ENCODERS, {}, unknown="drop")  # type: ignore[arg-type]


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    path = write(tmp_path / "r.csv", "price,town,shop", "1,a,7")
    for source in (path, tmp_path / "r.parquet"):
        with pytest.raises(ImportError, match=r"r\..*needs pyarrow; pip install 'jaxrec\[parquet\]'"):
            encode_rows(ENCODERS, source)
    rows = {"price": [1.0], "town": ["a"], "shop": [7]}
    assert encode_rows(ENCODERS, rows)["shop"].tolist() == [3]
