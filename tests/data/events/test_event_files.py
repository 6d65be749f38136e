import gzip
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrec.data.events.event_files import read_csv, read_events, read_parquet

Write = Callable[[str, str | bytes], Path]
GOOD = "user,item,time,extra\nann,x,20,?\nbob,y,5,?\nann,z,10,?\n"


def test_a_table_becomes_sequences(write: Write) -> None:
    sequences = read_csv(write("events.csv", GOOD)).to_sequences()
    assert sequences.name == "events.csv"
    assert sequences.user_ids.tolist() == ["ann", "bob"]
    assert sequences.item_ids[sequences.user_items(0) - 1].tolist() == ["z", "x"]
    assert sequences.times is not None
    assert sequences.times.tolist() == [10, 20, 5]


@pytest.mark.parametrize(
    "name, content",
    [
        ("events.tsv", GOOD.replace(",", "\t").encode()),
        ("events.csv.gz", gzip.compress(GOOD.encode())),
        ("events.tsv.gz", gzip.compress(GOOD.replace(",", "\t").encode())),
        ("events.csv", b"\xef\xbb\xbf" + GOOD.encode()),
        ("events.csv", GOOD.replace("\n", "\r\n").encode()),
        ("events.csv", GOOD.replace("ann", '"ann"').encode()),
        ("events.csv", GOOD.replace("20", "20.0").encode()),
    ],
    ids=["tab", "packed", "packed-tab", "byte-order-mark", "crlf", "quoted", "whole-float-time"],
)
def test_forms_of_the_same_table(write: Write, name: str, content: bytes) -> None:
    found, want = read_csv(write(name, content)), read_csv(write("good.csv", GOOD))
    for column in ("user", "item", "time", "user_ids", "item_ids"):
        assert np.array_equal(getattr(found, column), getattr(want, column))


def test_columns_can_be_named(write: Write) -> None:
    path = write("r.csv", "uid;iid;ts;stars\n7;9;3;4.5\n")
    found = read_csv(path, user="uid", item="iid", time="ts", value="stars", delimiter=";")
    assert found.value is not None
    assert found.value.dtype == np.float32
    assert found.value.tolist() == [4.5]


def test_without_a_time_column_rows_are_in_time_order(write: Write) -> None:
    found = read_csv(write("r.csv", "user,item\na,x\na,y\n"), time=None)
    assert found.time is None
    assert found.to_sequences().items.tolist() == [1, 2]


def test_ids_can_be_kept(write: Write) -> None:
    sequences = read_csv(write("r.csv", "user,item,time\n30,5,1\n4,2,1\n"), ids="keep").to_sequences()
    assert sequences.num_items == 5
    assert sequences.user_ids.tolist() == [4, 30]
    assert sequences.items.tolist() == [2, 5]


def test_mapped_ids_can_be_sorted(write: Write) -> None:
    assert read_csv(write("r.csv", GOOD), order="sorted").item_ids.tolist() == ["x", "y", "z"]
    assert read_csv(write("r.csv", GOOD)).item_ids.tolist() == ["x", "y", "z"]
    assert read_csv(write("r.csv", "user,item,time\na,z,1\na,b,1\n")).item_ids.tolist() == ["z", "b"]


HEAD = "user,item,time,value\n"


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "the file is empty"),
        ("\n \n", "the file is empty"),
        (HEAD, "there are no events; the file has a header line only"),
        ("user,item,value\na,x,1\n", r"no time column 'time' among 'user', 'item', 'value'.*time=None"),
        ("user,time,value\na,1,1\n", "no item column 'item'"),
        ("user, item,time,value\na,x,1,1\n", "no item column 'item' among 'user', ' item'"),
        ("a,x,1,1\nb,y,2,2\n", "no user column 'user' among 'a', 'x', '1', '1'"),
        ("user,item,time,value,item\na,x,1,1,y\n", "2 columns are named 'item'"),
        ("user;item;time;value\na;x;1;1\n", "give delimiter=';'"),
        (HEAD + "a,x,1,1\na,x,1\n", "line 3: has 3 cells, the header has 4"),
        (HEAD + "a,x,1,1,9\n", "line 2: has 5 cells"),
        (HEAD + "a,x,1,1\n\nb,x,1,1\n", "line 3: is empty"),
        (HEAD + ",x,1,1\n", r"line 2: user is missing \(''\)"),
        (HEAD + "a,x,1,1\nb,NaN,1,1\n", r"line 3: item is missing \('NaN'\)"),
        (HEAD + "a, x,1,1\n", "line 2: item ' x' has spaces around it"),
        (HEAD + "a,x,,1\n", "line 2: time '' is missing or not a number"),
        (
            HEAD + "a,x,2014-07-23,1\n",
            "line 2: time '2014-07-23' is missing or not a number; .*convert dates",
        ),
        (HEAD + "a,x,nan,1\n", "line 2: time 'nan' is not a whole number"),
        (HEAD + "a,x,inf,1\n", "line 2: time 'inf' is not a whole number"),
        (HEAD + "a,x,1.5,1\n", "line 2: time '1.5' is not a whole number"),
        (HEAD + "a,x,1e30,1\n", "line 2: time '1e30' is not a whole number"),
        (HEAD + "a,x,99999999999999999999,1\n", "line 2: time '9+' is not a whole number"),
        (HEAD + "a,x,1400000000000,1\n", "time: 1400000000000 .* looks like milliseconds"),
        (HEAD + "a,x,1,\n", "line 2: value '' is not a number"),
        (HEAD + "a,x,1,good\n", "line 2: value 'good' is not a number"),
        (HEAD + "a,x,1,nan\n", "value nan in event 0 .* is not a finite float32"),
        (HEAD + "a,x,1,1e39\n", r"value 1e\+39 in event 0"),
        (HEAD + '"a,x,1,1\n', "line 2: unexpected end of data"),
    ],
)
def test_a_bad_table_is_an_error_with_file_place_and_rule(write: Write, content: str, message: str) -> None:
    path = write("bad.csv", content)
    with pytest.raises(ValueError, match=message) as caught:
        read_csv(path, value="value")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "row, message",
    [
        ("a,1,1", "user 'a' is not an integer; ids='keep'"),
        ("1,x,1", "item 'x' is not an integer"),
        ("1,1.5,1", "item '1.5' is not an integer"),
        ("1,-3,1", r"item '-3' is outside 1..2\^63-1; ids start at 1"),
        ("1,0,1", "item '0' is outside"),
        ("1,9223372036854775808,1", "item '9223372036854775808' is outside"),
        ("1,2147483647,1", "the largest id is 2,147,483,647 but only 1 ids occur"),
    ],
)
def test_kept_ids_must_be_small_positive_integers(write: Write, row: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_csv(write("bad.csv", f"user,item,time\n{row}\n"), ids="keep")


def test_a_span_of_more_than_68_years_is_refused(write: Write) -> None:
    path = write("bad.csv", f"user,item,time\na,x,0\na,y,{2**31}\n")
    with pytest.raises(ValueError, match="user a span 2147483648 seconds, more than int32 holds"):
        read_csv(path).to_sequences()


def test_text_that_is_not_utf8_is_refused(write: Write) -> None:
    with pytest.raises(ValueError, match="not UTF-8 text"):
        read_csv(write("bad.csv", "user,item,time\ncafé,x,1\n".encode("latin-1")))


def test_a_truncated_archive_is_refused(write: Write) -> None:
    with pytest.raises(ValueError, match=r"bad\.csv\.gz: truncated or corrupt gzip file"):
        read_csv(write("bad.csv.gz", gzip.compress(GOOD.encode())[:-10]))


def test_an_unknown_treatment_of_ids_is_refused(write: Write) -> None:
    with pytest.raises(ValueError, match="ids='hash': must be 'map' or 'keep'"):
        read_csv(write("r.csv", GOOD), ids="hash")  # type: ignore[arg-type]


Parquet = Callable[..., Path]


@pytest.fixture
def parquet(tmp_path: Path) -> Parquet:
    """Writes columns (name=values) as a Parquet file."""
    pa = pytest.importorskip("pyarrow", reason="needs the extra `parquet`")
    import pyarrow.parquet as pq

    def writer(**columns: Any) -> Path:
        pq.write_table(pa.table(columns), tmp_path / "events.parquet")
        return tmp_path / "events.parquet"

    return writer


def test_a_parquet_table_equals_the_same_csv(parquet: Parquet, write: Write) -> None:
    path = parquet(user=["ann", "bob", "ann"], item=["x", "y", "z"], time=[20, 5, 10], extra=[None] * 3)
    found, want = read_parquet(path), read_csv(write("good.csv", GOOD))
    for column in ("user", "item", "time", "user_ids", "item_ids"):
        assert np.array_equal(getattr(found, column), getattr(want, column))


def test_parquet_categories_integers_and_values(parquet: Parquet) -> None:
    import pyarrow as pa

    users = pa.array(["b", "a", "b"]).dictionary_encode()
    found = read_parquet(
        parquet(user=users, item=[7, 5, 5], value=[1.5, 2.0, 3.0]), time=None, value="value", order="sorted"
    )
    assert found.user_ids.tolist() == ["a", "b"]
    assert found.item_ids.tolist() == [5, 7]
    assert found.value is not None
    assert found.value.tolist() == [1.5, 2.0, 3.0]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_parquet_timestamps_become_seconds(parquet: Parquet, unit: str) -> None:
    times = np.array(["2014-07-23T00:00:01", "1969-12-31T23:59:58"], f"datetime64[{unit}]")
    found = read_parquet(parquet(user=[1, 1], item=[1, 2], time=times))
    assert found.time is not None
    assert found.time.tolist() == [1406073601, -2]


@pytest.mark.parametrize("unit, per_step", [("10s", 10), ("500ms", 0.5), ("3000000us", 3)])
def test_steps_of_several_units_count_as_several(unit: str, per_step: float) -> None:
    found = read_events(
        {"user": [1, 1], "item": [1, 2], "time": np.array([-4, 6], f"datetime64[{unit}]")}, name="steps"
    )
    assert found.time is not None
    assert found.time.tolist() == [-4 * per_step, 6 * per_step]


@pytest.mark.parametrize(
    "columns, message",
    [
        (
            {"user": ["a", None], "item": ["x", "y"], "time": [1, 2]},
            r"row 1: user \(user\) is missing \(1 such",
        ),
        ({"user": [1, 2], "item": [1, 2], "time": [None, 2]}, "row 0: time"),
        (
            {"user": [1.0, 2.0], "item": [1, 2], "time": [1, 2]},
            "user .* is of type double, expected integers or text",
        ),
        ({"user": [True], "item": [1], "time": [1]}, "is of type bool"),
        ({"user": [1], "item": [1], "time": [1.5]}, r"row 0: time \(time\) 1.5 is not a whole number"),
        ({"user": [1], "item": [1], "time": np.array([1], np.float32)}, "time .* is of type float"),
        ({"user": [1], "item": [1], "time": ["2014-01-01"]}, "time .* is of type string"),
        (
            {"user": [1], "item": [1], "time": np.array([1500], "datetime64[ms]")},
            "row 0: .*fractions of a second",
        ),
        ({"user": [1], "item": [1], "time": [10**12]}, "looks like milliseconds"),
        ({"user": [1], "item": [1]}, "no time column 'time'"),
    ],
)
def test_a_bad_parquet_table_is_refused(parquet: Parquet, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_parquet(parquet(**columns))


def test_parquet_values_must_be_finite_numbers(parquet: Parquet) -> None:
    path = parquet(user=[1, 2], item=[1, 2], stars=[1.0, float("inf")], text=["a", "b"])
    with pytest.raises(ValueError, match="value inf in event 1"):
        read_parquet(path, time=None, value="stars")
    with pytest.raises(ValueError, match="expected numbers"):
        read_parquet(path, time=None, value="text")


def test_kept_parquet_ids_must_be_integers_from_one(parquet: Parquet) -> None:
    with pytest.raises(ValueError, match=r"expected integers \(ids='keep'\)"):
        read_parquet(parquet(user=[1], item=["x"]), time=None, ids="keep")
    with pytest.raises(ValueError, match=r"id -3 at position 0 is outside 1..4"):
        read_parquet(parquet(user=[1, 1], item=[-3, 4]), time=None, ids="keep")


def test_an_empty_parquet_table_is_refused(parquet: Parquet) -> None:
    import pyarrow as pa

    with pytest.raises(ValueError, match="there are no events"):
        read_parquet(parquet(user=pa.array([], pa.int64()), item=pa.array([], pa.int64())), time=None)


def test_a_truncated_parquet_file_is_refused(parquet: Parquet) -> None:
    path = parquet(user=[1], item=[1], time=[1])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"events\.parquet: not a readable Parquet file"):
        read_parquet(path)


def test_without_pyarrow_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxrec\[parquet\]'"):
        read_parquet("events.parquet")
