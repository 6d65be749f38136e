"""What one reader refuses, all refuse: missing ids, spaces, NUL; one long id costs its own length only.

Every form of one table (text, JSON lines, Parquet, arrays, data frames) gives the same events.
"""

import gzip
import json
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrec.data import (
    encode_rows,
    load_events,
    load_interactions,
    load_item_vectors,
    load_sessions,
    read_labelled,
    validation,
    vocab,
)
from jaxrec.data.events.event_files import read_csv, read_events, read_parquet
from jaxrec.data.events.interactions import Interactions
from jaxrec.data.events.sequence_files import read_sequences
from jaxrec.data.own_tables import Labelled
from jaxrec.report import results

Write = Callable[[str, str | bytes], Path]
Reader = Callable[..., Interactions]


class Frame:
    """A data frame of a library that is not known by name: it has the Arrow interface alone."""

    def __init__(self, table: Any) -> None:
        self.table = table

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.table.__arrow_c_stream__(requested_schema)


def json_lines(path: Path, columns: dict[str, list[Any]]) -> Path:
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def delimited(path: Path, columns: dict[str, list[Any]], by: str = ",") -> Path:
    cells = ([("" if cell is None else str(cell)) for cell in column] for column in columns.values())
    lines = [by.join(columns), *(by.join(row) for row in zip(*cells, strict=True))]
    text = "\n".join(lines) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def arrow(columns: dict[str, list[Any]]) -> Any:
    return pytest.importorskip("pyarrow", reason="needs the extra `parquet`").table(columns)


FORMS: dict[str, Callable[[Path, dict[str, list[Any]]], Any]] = {
    "csv": lambda folder, table: delimited(folder / "t.csv", table),
    "csv.gz": lambda folder, table: delimited(folder / "t.csv.gz", table),
    "tsv": lambda folder, table: delimited(folder / "t.tsv", table, "\t"),
    "jsonl": lambda folder, table: json_lines(folder / "t.jsonl", table),
    "json.gz": lambda folder, table: json_lines(folder / "t.json.gz", table),
    "parquet": lambda folder, table: parquet(folder, **table),
    "lists": lambda folder, table: table,
    "arrays": lambda folder, table: {name: np.array(column) for name, column in table.items()},
    "pyarrow": lambda folder, table: arrow(table),
    "record batch": lambda folder, table: arrow(table).to_batches()[0],
    "arrow stream": lambda folder, table: Frame(arrow(table)),
    "pandas": lambda folder, table: pytest.importorskip("pandas").DataFrame(table),
    "pandas, index": lambda folder, table: pytest.importorskip("pandas").DataFrame(
        table, index=[3] * len(next(iter(table.values())))
    ),
    "polars": lambda folder, table: pytest.importorskip("polars").DataFrame(table),
}
EVENTS: dict[str, list[Any]] = {
    "user": ["b", "a", "b", "c", "a", "a"],
    "item": ["x", "y", "z", "x", "x", "z"],
    "time": [30, 5, 10, 7, 20, 5],
    "stars": [1.5, 2.0, 5.0, 3.0, 1.0, 4.0],
}


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[dict[str, list[Any]]], Any]:
    """Brings a table into each form."""
    return lambda table: FORMS[request.param](tmp_path, table)


Form = Callable[[dict[str, list[Any]]], Any]


def test_every_form_of_a_table_gives_the_same_events(form: Form) -> None:
    found = load_interactions(form(EVENTS), value="stars", name="t")
    assert found.name == "t"
    assert found.user_ids[found.user - 1].tolist() == EVENTS["user"]
    assert found.user.tolist() == [1, 2, 1, 3, 2, 2]  # by first appearance
    assert found.item_ids[found.item - 1].tolist() == EVENTS["item"]
    assert found.time is not None and found.time.tolist() == EVENTS["time"]
    assert found.value is not None and found.value.tolist() == EVENTS["stars"]


def test_every_form_of_a_table_gives_the_same_sequences(form: Form) -> None:
    found = load_events(form(EVENTS), name="t", k_core=2)
    assert found.user_ids.tolist() == ["b", "a"]
    assert [found.item_ids[found.user_items(u) - 1].tolist() for u in (0, 1)] == [["z", "x"], ["z", "x"]]
    assert found.times is not None and found.times.tolist() == [10, 30, 5, 20]


def test_every_form_of_a_table_gives_the_same_sessions(form: Form) -> None:
    found = load_sessions(form(EVENTS), session="user", test=0.5, short="leave out", name="t")
    assert (found.train.num_users, found.test.num_users) == (1, 1)


@pytest.mark.parametrize(
    "name, cell, message",
    [
        ("item", "", r"item is missing \(''\)"),
        ("item", " x", "item ' x' has spaces around it"),
        ("time", 1.5, "time.* '?1.5'? is not a whole number.*whole seconds since 1970.*round it"),
        ("time", 10**12, "looks like milliseconds"),
        ("stars", 1e39, r"value 1e\+39 in event 2 .* is not a finite float32"),
    ],
)
def test_every_form_refuses_the_same_cells(form: Form, name: str, cell: Any, message: str) -> None:
    table = EVENTS | {name: [*EVENTS[name][:2], cell, *EVENTS[name][3:]]}
    if name == "time":
        table["time"] = [float(x) if isinstance(cell, float) else x for x in table["time"]]
    with pytest.raises(ValueError, match=message) as caught:
        load_interactions(form(table), value="stars", name="t")
    assert (
        "data frame t" in str(caught.value)
        or f"{Path('t')}." in str(caught.value)
        or "p.parquet" in str(caught.value)
    )


def test_every_form_names_a_column_that_is_not_there(form: Form) -> None:
    with pytest.raises(
        ValueError, match="there is no user column 'uid' among 'user', 'item', 'time', 'stars'"
    ):
        load_events(form(EVENTS), user="uid", name="t")


def test_every_form_refuses_a_column_with_two_uses(form: Form) -> None:
    with pytest.raises(ValueError, match="'item' is given as user and item; a column has one use"):
        load_events(form(EVENTS), user="item", name="t")


def test_every_form_takes_times_written_as_whole_decimals(form: Form) -> None:
    table = EVENTS | {"time": [float(second) for second in EVENTS["time"]]}
    found = load_interactions(form(table), name="t")
    assert found.time is not None and found.time.tolist() == EVENTS["time"]


def test_every_form_keeps_items_and_numbers_users_of_any_integer(form: Form) -> None:
    """0 and -5 are users like others: only items are rows of a table that exists."""
    table = {"user": [0, -5, 0], "item": [2, 1, 3], "time": [1, 2, 3]}
    found = read_events(form(table), ids="keep", name="t")
    assert found.user_ids[found.user - 1].tolist() == [0, -5, 0]
    assert found.item.tolist() == [2, 1, 3] and found.ids_kept


def labelled_rows(count: int = 40) -> dict[str, list[Any]]:
    """Labels, categories of text and of integers with missing ones, numbers with missing ones, times."""
    rng = np.random.default_rng(0)

    def some(values: Sequence[Any]) -> list[Any]:
        return [values[i] for i in rng.integers(len(values), size=count)]

    return {
        "click": some([0, 1]),
        "buy": some([0, 1]),
        "city": some(["Oslo", "Rome", None, "Bonn"]),
        "shop": some([7, 12, 3]),
        "price": some([0.25, 1.5, None, -3.0, 2.75]),
        "ts": [int(t) for t in rng.permutation(count)],
    }


LABELLED: dict[str, Any] = {
    "labels": ["click", "buy"],
    "categorical": ["city", "shop"],
    "numeric": ["price"],
    "time": "ts",
    "split": "time",
}
NEW_ROWS: dict[str, list[Any]] = {
    "price": [9.5, None, 0.25],
    "shop": [3, 99, 12],
    "city": [None, "Rome", "Paris"],
    "more": ["a", "b", "c"],
}


@pytest.fixture(scope="module")
def from_csv(tmp_path_factory: pytest.TempPathFactory) -> Labelled:
    pytest.importorskip("pyarrow", reason="needs the extra `parquet`")
    return read_labelled(
        delimited(tmp_path_factory.mktemp("csv") / "t.csv", labelled_rows()), **LABELLED, name="t"
    )


def test_every_form_of_a_labelled_table_gives_what_its_csv_file_gives(form: Form, from_csv: Labelled) -> None:
    found = read_labelled(form(labelled_rows()), **LABELLED, name="t")
    for part in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(found.split, part), getattr(from_csv.split, part))
    mine, theirs = found.split.impressions, from_csv.split.impressions
    for name, column in theirs.columns.items():
        np.testing.assert_array_equal(mine.columns[name], column, err_msg=name)
        assert mine.columns[name].dtype == column.dtype
    for name, label in theirs.labels.items():
        np.testing.assert_array_equal(mine.labels[name], label)
    assert mine.time is not None and mine.time.tolist() == labelled_rows()["ts"]
    assert found.kinds == {
        "click": "label",
        "buy": "label",
        "city": "categorical",
        "shop": "categorical",
        "price": "numeric",
        "ts": "time",
    }
    assert {field.name: field.raw.tolist() for field in found.encoders.fields[:2]} == {
        "city": ["Bonn", "Oslo", "Rome"],
        "shop": ["12", "3", "7"],
    }


def test_new_rows_of_every_form_are_encoded_alike_and_in_their_order(form: Form, from_csv: Labelled) -> None:
    mean, deviation = from_csv.encoders.scales["price"]
    found = encode_rows(from_csv.encoders, form(NEW_ROWS), name="t")
    assert found["city"].tolist() == [1, 5, 2]  # missing, Rome, unknown
    assert found["shop"].tolist() == [4, 2, 3]
    np.testing.assert_allclose(found["price"], [(9.5 - mean) / deviation, 0, (0.25 - mean) / deviation], 1e-6)
    assert found["price_missing"].tolist() == [0, 1, 0]
    with pytest.raises(
        ValueError, match=r"(row 2|line [34]): city 'Paris' is a category that training .*\(1 such rows"
    ):
        encode_rows(from_csv.encoders, form(NEW_ROWS), name="t", unknown="error")


@pytest.mark.parametrize(
    "name, cell, message",
    [
        ("click", None, r"(row 2|line [34]): label click is missing \(1 such rows\); correct it"),
        ("click", 2, r"(row 2|line [34]): label click is 2, neither 0 nor 1 \(1 such"),
        ("price", 1e39, r"(row 2|line [34]): price 1e\+39 is not a finite float32|Row #4: no finite decimal"),
        ("price", "x", "price.*(is of type|Row #4: no finite decimal number: 'x'|cells before are of type)"),
        ("ts", None, "(row 2|line [34]): time.* is missing"),
        ("ts", 1.5, "(row 2|line [34]): time.*1.5.* is not a whole number"),
    ],
)
def test_every_form_refuses_the_same_cells_of_labelled_tables(
    form: Form, name: str, cell: Any, message: str
) -> None:
    table = labelled_rows()
    table[name][2] = cell
    if isinstance(cell, float):
        table[name] = [None if x is None else float(x) for x in table[name]]
    elif isinstance(cell, str):  # data frames have one type a column
        table[name] = [cell if x is cell else None if x is None else str(x) for x in table[name]]
    with pytest.raises(ValueError, match=message):
        read_labelled(form(table), **LABELLED, name="t")


def test_every_form_of_vectors_gives_the_same_array(form: Form) -> None:
    table = {"item": ["b", "unused", "a"], "x": [1.5, 9.0, -2.0], "y": [3, 9, 4]}
    found = load_item_vectors(form(table), ["a", "b"])
    assert found.dtype == np.float32
    assert found.tolist() == [[0, 0], [-2, 4], [1.5, 3]]


@pytest.mark.parametrize("text", ['{"user": "a", "item": null, "time": 2}', '{"user": "a", "time": 2}'])
def test_a_field_that_a_line_of_json_lacks_is_missing(write: Write, text: str) -> None:
    path = write("e.jsonl", '{"user": "a", "item": "x", "time": 1}\n' + text + "\n")
    with pytest.raises(ValueError, match=r"e.jsonl, line 2: item \(item\) is missing \(1 such lines\)"):
        load_events(path)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "e.jsonl: the file is empty"),
        ('{"user": 1}\n\n', "line 2: is empty; remove it"),
        ("[1, 2]\n", r"line 1: '\[1, 2\]' is not a JSON object; write one on each line"),
        ("{", "line 1: is not a JSON object .*on each line"),
        ('{"user": 1, "user": 2}\n', "line 1: .*a field occurs twice"),
        ('{"user": NaN}\n', "line 1: .*NaN is not JSON; a missing value is null"),
        (
            '{"user": 1, "item": 1, "time": 1}\n{"user": "a", "item": 1, "time": 1}\n',
            "line 2: user 'a' is of ",
        ),
        ('{"user": true, "item": 1, "time": 1}\n', r"user \(user\) is of type bool"),
        ('{"user": 1.0, "item": 1, "time": 1}\n', r"user \(user\) is of type float, expected integers or"),
        ('{"user": 1, "item": [1], "time": 1}\n', r"item \(item\) is of type list"),
        ('{"user": 1, "item": 1, "time": "5"}\n', r"time \(time\) is of type text; expected integers"),
        (
            '{"user": 1, "item": 9223372036854775808, "time": 1}\n',
            "line 1: item 9223372036854775808 is beyond",
        ),
        ('{"user": 1, "item": 1, "time": true}\n', r"time \(time\) is of type bool"),
    ],
)
def test_bad_json_lines_are_errors_with_line_and_rule(write: Write, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load_events(write("e.jsonl", text))
    assert "e.jsonl" in str(caught.value)


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"user": [1, 2], "item": [1.0, 2.0]}, r"data frame e: item \(item\) is of type float"),
        ({"user": [1, 2], "item": [1.0, np.nan]}, r"data frame e, row 1: item \(item\) is missing"),
        (
            {"user": [1, None], "item": [1, 2]},
            r"data frame e, row 1: user \(user\) is missing \(1 such rows\)",
        ),
        ({"user": [1, 2], "item": [1, "2"]}, r"data frame e, row 1: item '2' is of type text, cells before"),
        ({"user": np.ma.array([1, 2], mask=[0, 1]), "item": [1, 2]}, "row 1: user .* is missing"),
        ({"user": np.ones((2, 2, 2)), "item": [1, 2]}, "user has rank 3"),
        ({"user": [1, 2, 3], "item": [1, 2]}, "columns of different lengths, {'user': 3, 'item': 2}"),
        ({"user": [], "item": []}, "data frame e: there are no events"),
        ({"user": [1], "item": [b"x"]}, r"item \(item\) is of type bytes"),
    ],
)
def test_bad_columns_of_arrays_are_errors_with_row_and_rule(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_events(columns, time=None, name="e")


def test_times_of_arrays_may_be_timestamps() -> None:
    times = np.array(["2014-07-23T00:00:01", "1969-12-31T23:59:58"], "datetime64[ms]")
    found = load_interactions({"user": [1, 1], "item": [1, 2], "time": times}, name="e")
    assert found.time is not None and found.time.tolist() == [1406073601, -2]
    for bad, message in (
        (times + 5, "row 0: time .* has fractions"),
        (np.array(["NaT"] * 2, "M8[s]"), "missing"),
    ):
        with pytest.raises(ValueError, match=message):
            load_interactions({"user": [1, 1], "item": [1, 2], "time": bad}, name="e")


def test_times_that_float32_has_rounded_are_refused() -> None:
    times = np.array([1_400_000_001, 1_400_000_002], np.float32)  # both 1,400,000,000
    with pytest.raises(ValueError, match=r"time \(time\) is of type float32; expected integers"):
        load_events({"user": [1, 1], "item": [1, 2], "time": times}, name="e")


def test_a_data_frame_needs_a_name_and_a_file_its_ending(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name=None: a data frame has no name of its own; give name="):
        load_events(EVENTS)
    with pytest.raises(ValueError, match=r"ends in '.xls'; expected CSV .*JSON lines.* or Parquet"):
        load_events(tmp_path / "events.xls")
    with pytest.raises(ValueError, match="compressed inside; unpack the file"):
        load_events(tmp_path / "events.parquet.gz")
    with pytest.raises(ValueError, match="int is neither a path, a mapping of columns nor a data frame"):
        load_events(5, name="e")
    pd = pytest.importorskip("pandas")
    with pytest.raises(ValueError, match="Series is neither a path"):
        load_events(pd.Series([1, 2]), name="e")
    with pytest.raises(ValueError, match="data frame e: item: .*too large"):
        load_events(pd.DataFrame(EVENTS).assign(item=pd.Series([2**70] * 6, dtype=object)), name="e")
    with pytest.raises(ValueError, match="delimiter=';': is for CSV files, not for a data frame"):
        load_events(EVENTS, delimiter=";", name="e")
    with pytest.raises(FileNotFoundError):
        load_events(tmp_path / "events.jsonl")


def test_text_files_take_what_their_errors_recommend(write: Write) -> None:
    path = write("my events.dat", "NA::x::1\nb::x::2\n")
    found = load_events(path, name="mine", delimiter="::", columns=("user", "item", "time"), real_ids=("NA",))
    assert (found.name, found.user_ids.tolist()) == ("mine", ["NA", "b"])


def test_frames_of_pandas_know_missing_values_zones_and_categories() -> None:
    pd = pytest.importorskip("pandas")
    times = (
        pd.to_datetime([1_400_000_000, 1_400_000_060], unit="s").tz_localize("UTC").tz_convert("Asia/Tokyo")
    )
    frame = pd.DataFrame({"user": pd.Categorical([7, 5]), "item": pd.array([1, 2], "Int64"), "time": times})
    found = load_interactions(frame, name="e")
    assert (found.user_ids.tolist(), found.item_ids.tolist()) == ([7, 5], [1, 2])
    assert found.time is not None and found.time.tolist() == [1_400_000_000, 1_400_000_060]
    for column in (pd.array([1, None], "Int64"), [1, None], pd.Categorical(["a", None]), ["a", None]):
        with pytest.raises(ValueError, match=r"data frame e, row 1: item \(item\) is missing"):
            load_events(frame.assign(item=column), name="e")
    with pytest.raises(ValueError, match="data frame e: item: .*write all its cells as one type"):
        load_events(frame.assign(item=pd.Series([1, "b"], dtype=object)), name="e")
    twice = pd.DataFrame([[1, 2, 3]], columns=["user", "item", "item"])
    with pytest.raises(ValueError, match="2 columns are named 'item'"):
        load_events(twice, time=None, name="e")


def test_frames_of_polars_know_missing_values_and_zones() -> None:
    pl = pytest.importorskip("polars")
    times = pl.Series([1_400_000_000_000, 1_400_000_060_000]).cast(pl.Datetime("ms", "UTC"))
    frame = pl.DataFrame({"user": pl.Series(["b", "a"], dtype=pl.Categorical), "item": [1, 2], "time": times})
    found = load_interactions(frame, name="e")
    assert found.user_ids.tolist() == ["b", "a"]
    assert found.time is not None and found.time.tolist() == [1_400_000_000, 1_400_000_060]
    with pytest.raises(ValueError, match=r"data frame e, row 1: item \(item\) is missing"):
        load_events(frame.with_columns(item=pl.Series([1, None])), name="e")
    with pytest.raises(ValueError, match="LazyFrame is neither .*collect a lazy one"):
        load_events(frame.lazy(), name="e")


@pytest.fixture(params=["csv", "jsonl", "parquet", "parquet-dictionary", "list", "array", "mapping", "frame"])
def read(request: pytest.FixtureRequest, tmp_path: Path) -> Reader:
    """Reads one item id an event, by each way that events come in."""

    def reader(items: Sequence[str], **options: Any) -> Interactions:
        users, times = ["u"] * len(items), list(range(len(items)))
        if request.param == "csv":
            rows = "".join(f'u,"{item}",{time}\n' for item, time in zip(items, times, strict=True))
            (tmp_path / "e.csv").write_text("user,item,time\n" + rows, newline="")
            return read_csv(tmp_path / "e.csv", **options)
        if request.param in ("list", "array"):
            column = items if request.param == "list" else np.array(items, object)
            return Interactions.from_raw("e", users, column, np.array(times), **options)
        table = {"user": users, "item": list(items), "time": times}
        if request.param == "jsonl":
            return read_events(json_lines(tmp_path / "e.jsonl", table), **options)
        if request.param == "mapping":
            return read_events(table, **{"name": "e", **options})
        pa = pytest.importorskip("pyarrow", reason="needs the extra `parquet`")
        import pyarrow.parquet as pq

        if request.param == "frame":
            return read_events(Frame(pa.table(table)), **{"name": "e", **options})
        column = pa.array(items)
        if request.param == "parquet-dictionary":
            column = column.dictionary_encode()
        pq.write_table(pa.table({"user": users, "item": column, "time": times}), tmp_path / "e.parquet")
        return read_parquet(tmp_path / "e.parquet", **options)

    return reader


@pytest.mark.parametrize("mark", ["", "nan", "None", "NULL", "<NA>", "NaT", "N/A", "\\N", "NA", "inf"])
def test_marks_of_missing_ids_are_refused_alike(read: Reader, mark: str) -> None:
    with pytest.raises(ValueError, match="item is missing"):
        read(["a", mark])


@pytest.mark.parametrize(
    "text, rule", [(" a", "spaces around it"), ("a\t", "spaces"), ("a\0", "NUL character")]
)
def test_spaces_and_nul_characters_are_refused_alike(read: Reader, text: str, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        read(["a", text])


def test_an_id_that_reads_like_a_mark_is_taken_by_name(read: Reader) -> None:
    assert read(["NA", "b", "NA"], real_ids=("NA",)).item_ids.tolist() == ["NA", "b"]
    with pytest.raises(ValueError, match=r"item is missing \('nan'\)"):
        read(["NA", "nan"], real_ids=("NA",))


@pytest.mark.parametrize(
    "order, want", [("appearance", ["b", "a", "01", "1"]), ("sorted", ["01", "1", "a", "b"])]
)
def test_texts_are_numbered_alike(read: Reader, order: str, want: list[str]) -> None:
    found = read(["b", "a", "b", "01", "1"], order=order)
    assert found.item_ids.tolist() == want
    assert found.item_ids[found.item - 1].tolist() == ["b", "a", "b", "01", "1"]


def test_one_long_id_costs_its_own_length(read: Reader) -> None:
    """20,000 events of 100 items, one of 5,000 characters: in fixed width every event would take 20 kB."""
    items = [f"i{i % 100}" for i in range(20_000)]
    items[5] = "x" * 5_000
    tracemalloc.start()
    found = read(items)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.num_items == 101
    assert peak < 20_000 * 5_000 * 4 / 10


def test_an_id_that_would_make_all_others_huge_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocab, "MAX_ARRAY_BYTES", 4 * 100 * 100)
    ids = [f"i{i}" for i in range(100)]
    assert len(vocab.build("item", [*ids, "x" * 90])) == 101
    with pytest.raises(
        ValueError, match=r"item: 'xxx.*\(200 characters\) is far longer than the other 101 ids"
    ):
        vocab.build("item", [*ids, "x" * 200])
    assert len(vocab.build("item", ["x" * 200 + i for i in ids])) == 100  # all of them long: none is wasted


def parquet(folder: Path, **columns: Any) -> Path:
    pa = pytest.importorskip("pyarrow", reason="needs the extra `parquet`")
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), folder / "p.parquet")
    return folder / "p.parquet"


def test_unsigned_parquet_integers_do_not_wrap(tmp_path: Path) -> None:
    small, large = np.array([7, 5], np.uint64), np.array([2**64 - 1, 1], np.uint64)
    found = read_parquet(parquet(tmp_path, user=small, item=small, time=small))
    assert found.item_ids.tolist() == [7, 5]
    assert found.time is not None and found.time.tolist() == [7, 5]
    for name in ("item", "time"):
        path = parquet(tmp_path, **{"user": small, "item": small, "time": small} | {name: large})
        with pytest.raises(ValueError, match=rf"{name} \({name}\): 18446744073709551615 is 2\^63 or more"):
            read_parquet(path)


@pytest.mark.parametrize("items", [[1.0, 2.0], [1.0, float("nan")], [None, "a"], [None, 1]])
def test_parquet_ids_that_are_floats_or_nothing_are_refused(tmp_path: Path, items: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"item \(item\) is (of type double|missing)"):
        read_parquet(parquet(tmp_path, user=[1, 2], item=items), time=None)


def test_parquet_columns_that_are_not_read_do_not_matter(tmp_path: Path) -> None:
    path = parquet(tmp_path, user=[1], item=[2], other=[[{"a": 1}]])
    assert read_parquet(path, time=None).num_items == 1


def test_a_table_without_a_header_line_names_its_columns(write: Write) -> None:
    path = write("ratings.dat", "1::1193::5::978300760\n2::661::3::978302109\n")
    found = read_csv(path, delimiter="::", columns=("user", "item", "stars", "time"), value="stars")
    assert found.item_ids.tolist() == ["1193", "661"]
    assert found.value is not None and found.value.tolist() == [5, 3]
    with pytest.raises(ValueError, match=r"line 1: has 4 cells, the header has 3"):
        read_csv(path, delimiter="::", columns=("user", "item", "time"))


def test_a_text_with_another_delimiter_says_which(write: Write) -> None:
    for by in ("::", ";", "\t"):
        with pytest.raises(ValueError, match=f"is one column; give delimiter={by!r}".replace("\\", r"\\")):
            read_csv(write("e.csv", by.join(("user", "item", "time")) + "\n"))


@pytest.mark.parametrize("cell", ["1_0", "007", "+1", "１", " 1", "1.0"])
def test_distinct_ids_do_not_become_one_number(write: Write, cell: str) -> None:
    with pytest.raises(ValueError, match=r"e.csv, line 3: item .*is not an integer; ids='keep'"):
        read_csv(write("e.csv", f"user,item,time\n1,1,1\n1,{cell},2\n"), ids="keep")
    with pytest.raises(ValueError, match=r"e.csv, line 2: user .*is not an integer"):
        read_csv(write("e.csv", f"user,item,time\n{cell},1,1\n"), ids="keep")


@pytest.mark.parametrize("cell", ["1_0", "007", "+1", "１", "1.0", "-0", "1-2", "5-"])
@pytest.mark.parametrize("line", ["{} 2 3", "1 2 {}"])
def test_lines_take_plain_integers_only(write: Write, cell: str, line: str) -> None:
    with pytest.raises(
        ValueError, match=r"e.txt, line 2: .* is not an integer of 64 bits; .*digits 0-9 alone"
    ):
        read_sequences(write("e.txt", "8 1 2\n" + line.format(cell) + "\n"))


def test_lines_may_begin_with_a_byte_order_mark_and_end_in_any_case(write: Write) -> None:
    assert read_sequences(write("e.TXT", b"\xef\xbb\xbf7 1 2\n")).user_ids.tolist() == [7]


def test_a_name_that_can_not_name_a_file_is_refused(write: Write) -> None:
    events, lines = write("my data.csv", "user,item,time\na,x,1\n"), write("my lines.txt", "1 2 3\n")
    for read_it in (lambda **o: read_csv(events, **o), lambda **o: read_sequences(lines, **o)):
        with pytest.raises(ValueError, match=r"data set name 'my .*': cannot name a file; .*another name="):
            read_it()
        assert read_it(name="mine").name == "mine"


@pytest.mark.parametrize("name", ["", ".hidden", "a/", "/a", "../a", "a b", "a=1", "a" * 201, "é"])
def test_a_name_of_a_data_set_can_name_a_folder(name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a file"):
        Interactions.from_raw(name, [1], [2])
    assert Interactions.from_raw("movielens/ml-1m_x+y@2.csv", [1], [2]).num_items == 1


def test_names_are_those_that_results_can_be_stored_under() -> None:
    assert results.FILE_NAME.pattern == validation._PART
