"""The readers of an export on the command line: what is wrong is said in one line."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrec import serve
from jaxrec.data.own_tables import encode_rows
from jaxrec.data.tables.features import Buckets, Number, fit_encoders
from jaxrec.serve.export import describe_columns, export
from jaxrec.serve.readers import clicks, items, rows
from jaxrec.serve.run_folder import write
from tests.serve import small_runs
from tests.serve.label_runs import click_run, table_run

COLUMNS = ("age", "city", "size", "tags", "price")
pytest.importorskip("flatbuffers", reason="flatbuffers (extra `export`) is not installed")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("cheap", "'cheap' is not a finite number"),
        ("inf", "'inf' is not"),
        ([1.0], r"\[1.0\] is not"),
        (10**400, "10+ is not"),
        *((text, f"'{re.escape(text)}' is not") for text in ("1_0", " 1", "+1", "１", "0x1")),
    ],
)
def test_a_value_that_is_no_number_is_named_with_its_row(value: Any, message: str) -> None:
    column = {"column": "price", "name": "price", "kind": "number", "indicator": True}
    with pytest.raises(ValueError, match=rf"column 'price', row 3 \(the first is 1\): {message}"):
        rows.encode(column, ["1.5", "", value])
    with pytest.raises(ValueError, match="column 'price', row 2 .*: a number is missing"):
        rows.encode(column | {"indicator": False}, ["1.5", ""])


def test_numbers_are_rounded_to_float32_as_those_of_training() -> None:
    """Otherwise 0.3 is below the edge of its bucket, which is the float32 of a training row."""
    raw = {"x": np.array([0.1, 0.3, 0.7, 16777216.0], np.float32)}
    encoders = fit_encoders((Number("x"), Buckets("b", column="x", num_buckets=4)), raw, np.arange(4))
    expected = encode_rows(encoders, {"x": [0.1, 0.3, 0.7, 16777217.0]})
    for column in describe_columns(table_run()._replace(encoders=encoders)):
        for name, values in rows.encode(column, ["0.1", "0.3", "0.7", "16777217"]).items():
            np.testing.assert_array_equal(values, expected[name])
    with pytest.raises(ValueError, match="'1e39' is not a finite number"):
        rows.encode(column, ["1e39"])


@pytest.mark.parametrize("value", [3.0, np.float32(3), True, np.bool_(True), b"3"])
def test_a_category_is_text_or_a_whole_number(value: Any) -> None:
    """As text these would be "3.0", "True" and "b'3'", which training did not know."""
    column = {"column": "size", "name": "size", "kind": "category", "ids": {"": 1, "3": 4}}
    found = rows.encode(column, [3, "3", np.int16(3), None, "4"])
    np.testing.assert_array_equal(found["size"], [4, 4, 4, 1, 2])
    with pytest.raises(ValueError, match="categories are text or whole numbers"):
        rows.encode(column, [value])


@pytest.mark.parametrize("reader", [clicks, items])
@pytest.mark.parametrize("time", [1.5, 2.0, np.float32(2), True, "3"])
def test_times_of_a_history_are_whole_seconds(reader: Any, time: Any) -> None:
    reader.check_seconds([0, -3, np.int64(2**40)])
    with pytest.raises(ValueError, match="must be whole seconds since 1970"):
        reader.check_seconds([1, time])


def test_a_text_is_one_tag() -> None:
    column = {"column": "tags", "name": "tags", "kind": "tags", "width": 2, "all": False}
    found = rows.encode(column | {"ids": {"": 1, "xy": 3, "x": 4}}, ["xy", "", None, ["x", "xy"], []])
    np.testing.assert_array_equal(found["tags"], [[3, 0], [1, 0], [1, 0], [4, 3], [1, 0]])


# --- readers on the command line ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of each kind, and files of rows."""
    folder = tmp_path_factory.mktemp("exported")
    sasrec = small_runs.kept(small_runs.MODULES["sasrec"])
    made = {"sasrec": sasrec, "table": table_run(), "clicks": click_run()}
    made["items only"] = click_run(reads_users=False)
    for name, kept in made.items():
        write(folder / "runs" / name, kept)
        export(serve.load(folder / "runs" / name), folder / name)
    (folder / "rows.csv").write_text("age,city,size,tags,price\n20,Oslo,3,x,1.0\n,,4,y,cheap\n")
    (folder / "good.csv").write_text("age,city,size,tags,price\n20,Oslo,3,x,1.0\n", "utf-8-sig")
    (folder / "uneven.csv").write_text("age,city\n20\n")
    (folder / "header.csv").write_text("age,city\n")
    (folder / "twice.csv").write_text("age,city,age\n20,Oslo,30\n")
    (folder / "empty.csv").write_text("")
    return folder


def call(folder: Path, words: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The exit code of `python reader.py WORDS`, in this process; None where it ends by itself."""
    monkeypatch.setattr(sys, "argv", [str(folder / "reader.py"), *words])
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        return end.code
    return None


@pytest.mark.parametrize(
    ("name", "words"), [("sasrec", []), ("table", []), ("table", ["a", "b"]), ("clicks", ["rows.csv"])]
)
def test_a_reader_says_how_it_is_called(
    exported: Path, name: str, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert call(exported / name, words, monkeypatch) == 2
    printed = capsys.readouterr()
    assert "python reader.py " in printed.err
    assert printed.out == ""
    assert call(exported / name, ["--help"], monkeypatch) == 0
    assert capsys.readouterr().out == printed.err


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("sasrec", ["i01,zz"], "items that the run does not know: zz"),
        ("table", ["rows.csv"], "column 'price', row 2 (the first is 1): 'cheap' is not a finite number"),
        ("table", ["uneven.csv"], "a line has more or fewer cells"),
        ("table", ["header.csv"], "header.csv: has no rows"),
        ("table", ["twice.csv"], "twice.csv: two columns have one name"),
        ("table", ["empty.csv"], "empty.csv: has no rows"),
        ("table", ["absent.csv"], "No such file"),
        ("clicks", ["rows.csv", "i01"], "ids that the run does not know: rows.csv"),
        ("clicks", ["i01", "i02"], "the model reads users"),
    ],
)
def test_a_mistake_is_one_line(
    exported: Path, name: str, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(exported)
    assert call(exported / name, words, monkeypatch) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.startswith(f"{sys.argv[0]}: error: ")
    assert printed.err.count("\n") == 1
    assert printed.out == ""


@pytest.mark.parametrize(
    ("name", "words"),
    [("sasrec", ["i01"]), ("table", ["good.csv"]), ("items only", ["i01", "i05"])],
)
def test_scores_that_are_no_numbers_are_refused(
    exported: Path, tmp_path: Path, name: str, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    damaged = shutil.copytree(exported / name, tmp_path / "damaged")
    with np.load(damaged / "weights.npz") as file:
        weights = {key: np.full_like(array, np.nan) for key, array in file.items()}
    np.savez(damaged / "weights.npz", allow_pickle=False, **weights)
    monkeypatch.chdir(exported)
    assert call(damaged, words, monkeypatch) == 2
    printed = capsys.readouterr()
    assert "are NaN or infinite: the training diverged" in printed.err
    assert printed.out == ""


def test_a_click_reader_answers_for_each_item(
    exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert call(exported / "items only", ["i01,i02", "i05", "i06"], monkeypatch) is None
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected = clicks.Reader(exported / "items only").score(["i05", "i06"], [["i01", "i02"]] * 2)["click"]
    assert [line["item"] for line in lines] == ["i05", "i06"]
    assert [line["click"] for line in lines] == expected.tolist()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (lambda of: of["sasrec"].recommend([]), "with a history at least"),
        (lambda of: of["sasrec"].recommend(["i01"]), "must be a list of items for each history"),
        (lambda of: of["sasrec"].recommend([["i01"]], times=[[1]], now=2), "the model reads no times"),
        (lambda of: of["sasrec"].recommend([["i01"]], actions=[[1]]), "the model reads no actions"),
        (lambda of: of["items only"].score([], []), "0 items, 0 histories: give a history for each item"),
        (lambda of: of["items only"].score(["i01"], []), "1 items, 0 histories"),
        (lambda of: of["items only"].score(["i01"], ["i02"]), "'i02': is one text; give a list"),
        (lambda of: of["items only"].score(["i01"], [[]], now=5), "now: the model reads none"),
        (lambda of: of["items only"].score(["i01"], [[]], users=["u1"]), "users: the model reads none"),
        (lambda of: of["table"].score(dict.fromkeys(COLUMNS, ())), "must be a list of values, one at least"),
        (lambda of: of["table"].score(dict.fromkeys(COLUMNS, "ab")), "must be a list of values"),
    ],
)
def test_what_a_reader_would_misread_is_refused(exported: Path, asked: Any, message: str) -> None:
    """A text in place of a list is a list of its characters."""
    kinds = {"sasrec": items, "items only": clicks, "table": rows}
    with pytest.raises(ValueError, match=message):
        asked({name: kind.Reader(exported / name) for name, kind in kinds.items()})
