"""Every reader on files that are wrong in some way: the right result, or an error that names the file.

`tests.data.fuzz` holds the cases, and tries more of them as a program.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrec import __main__ as program
from jaxrec import data
from jaxrec.data import delimited, unpacking
from jaxrec.data.cells import quote
from tests.data import fuzz

pytest.importorskip("pyarrow")
TEXT = ("csv", "tsv", "jsonl", "csv.gz", "jsonl.gz")
NONE: list[str] = []
BOMB = 1 << 22  # bytes that a packed file of these tests holds


def faults(tmp_path: Path, reader: str, cases: list[tuple[str, str, bytes, bool | None]]) -> list[str]:
    """What is wrong with how a reader takes files: (name of the case, form, content, whether refused)."""
    found = []
    for number, (name, form, content, refused) in enumerate(cases):
        path = tmp_path / f"case{number}.{form}"
        path.write_bytes(content)
        wrong = fuzz.fault(reader, path, refused=refused)
        found += [] if wrong is None else [f"{name}: {wrong}"]
    return found


def test_random_changes(tmp_path: Path) -> None:
    assert fuzz.random_faults(tmp_path, cases=400, seed=0) == NONE


@pytest.mark.parametrize("reader", fuzz.TABLES)
def test_whole_files_are_read_in_every_form(tmp_path: Path, reader: str) -> None:
    rows = fuzz.READERS[reader].rows()
    assert faults(tmp_path, reader, [(f, f, fuzz.to_bytes(rows, f), False) for f in fuzz.FORMS]) == NONE


@pytest.mark.parametrize("reader", fuzz.TABLES)
@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl"])
def test_texts_of_wrong_encodings_and_ends(tmp_path: Path, reader: str, form: str) -> None:
    content = fuzz.to_bytes(fuzz.READERS[reader].rows(), form)
    cases = [(name, form, changed, refused) for name, changed, refused in fuzz.text_changes(content)]
    packed = [(name, f"{form}.gz", gzip.compress(changed), refused) for name, _, changed, refused in cases]
    whole = gzip.compress(content)
    cut = [("cut", f"{form}.gz", whole[:-9], True), ("no gzip", f"{form}.gz", content, True)]
    assert faults(tmp_path, reader, [*cases, *packed, *cut]) == NONE


@pytest.mark.parametrize("form", fuzz.FORMS)
def test_events_with_wrong_cells(tmp_path: Path, form: str) -> None:
    rows = fuzz.event_rows()
    nan, inf = float("nan"), float("inf")
    wrong: dict[str, list[Any]] = {
        "user": ["", "nan", " u1", "u1 ", None, "a\0b"],
        "item": ["", "NULL", "\ufeffi1"],
        "time": [10**13, -(10**12), 2**70, 1.5, nan, inf, "noon", None, True],
        "value": [nan, inf, 1e39, "much", None],
    }
    if form != "parquet":  # whose columns have one type
        wrong["item"].append("\ud800")
        typed = "jsonl" in form
        wrong["user"] += [1, 2.5, True, [1], {"a": 1}, 2**70] if typed else []
    cases = []
    for column, values in wrong.items():
        for name, changed in fuzz.cell_changes(rows, column, values):
            try:
                cases.append((name, form, fuzz.to_bytes(changed, form), True))
            except (ValueError, TypeError, OverflowError):  # a type that the form cannot hold
                continue
    text_ids = [row | {"user": str(n)} for n, row in enumerate(rows)]
    right = {
        "unsorted": rows[::-1],
        "rows twice": rows + rows,
        "one user": [row | {"user": "u"} for row in rows],
        "one item": [row | {"item": "i"} for row in rows],
        "one event": rows[:1],
        "ids below 0": [row | {"user": -n - 1, "item": 2**62 + n} for n, row in enumerate(rows)],
        "long ids": [row | {"item": "x" * 5000} for row in rows],
        "ids that look alike": [
            row | {"user": text} for row, text in zip(rows, ["1", "01", "1.0", "+1"] * 10, strict=True)
        ],
        "another column": [row | {"more": 3} for row in rows],
        "text ids": text_ids,
    }
    if form != "parquet":
        right["ends of lines in ids"] = [row | {"item": 'a\n"b", c'} for row in rows]
    cases += [(name, form, fuzz.to_bytes(changed, form), False) for name, changed in right.items()]
    without = [{key: value for key, value in row.items() if key != "item"} for row in rows]
    cases += [("no column", form, fuzz.to_bytes(without, form), True)]
    assert faults(tmp_path, "interactions", cases) == NONE


@pytest.mark.parametrize("form", fuzz.FORMS)
def test_labelled_rows_with_wrong_cells(tmp_path: Path, form: str) -> None:
    rows = fuzz.labelled_rows()
    wrong: dict[str, list[Any]] = {
        "click": [2, -1, 0.5, float("nan"), None],
        "price": [float("inf"), 1e39, "dear"],
        "city": ["a\0b"],
        "time": [1.5, None, "noon"],
    }
    cases = []
    for column, values in wrong.items():
        for name, changed in fuzz.cell_changes(rows, column, values):
            try:
                cases.append((name, form, fuzz.to_bytes(changed, form), True))
            except (ValueError, TypeError):
                continue
    for name, changed in {
        "one class": [row | {"click": 1} for row in rows],
        "the label as a number": [row | {"price": row["click"] * 2.0} for row in rows],
        "the label as a category": [row | {"city": "ab"[row["click"]]} for row in rows],
        "two rows": rows[:2],
    }.items():
        cases.append((name, form, fuzz.to_bytes(changed, form), True))
    assert faults(tmp_path, "labelled", cases) == NONE


def test_a_label_among_the_features_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(fuzz.to_bytes(fuzz.labelled_rows(), "csv"))
    with pytest.raises(ValueError, match=r"rows\.csv: click: is given two uses"):
        data.load_labelled(path, labels=["click"], categorical=["click", "city"])


@pytest.mark.parametrize("reader", ["features", "attributes", "vectors"])
@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_values_of_entities_with_wrong_rows(tmp_path: Path, reader: str, form: str) -> None:
    rows = fuzz.entity_rows()
    changes = {
        "no id": [rows[0] | {"item": None}, *rows[1:]],
        "an id twice": [*rows, rows[0]],
        "other ids": [row | {"item": f"other{n}"} for n, row in enumerate(rows)],
    }
    if reader == "vectors":
        changes |= {"infinite": [rows[0] | {"x": float("inf")}, *rows[1:]], "an item less": rows[1:]}
    cases = [(name, form, fuzz.to_bytes(changed, form), True) for name, changed in changes.items()]
    assert faults(tmp_path, reader, cases) == NONE


def test_delimiters_that_change_within_a_file(tmp_path: Path) -> None:
    content = fuzz.to_bytes(fuzz.event_rows(), "csv")
    head, *lines = content.splitlines(keepends=True)
    mixed = b"".join([head, *lines[:5], *(line.replace(b",", b";") for line in lines[5:])])
    cases = [("mixed", "csv", mixed, True), ("another", "csv", content.replace(b",", b";"), True)]
    assert faults(tmp_path, "interactions", cases) == NONE


def test_json_that_is_nested_or_long_without_end(tmp_path: Path) -> None:
    line = json.dumps(fuzz.event_rows()[0])
    deep = line.replace('"u0"', "[" * 200_000 + "]" * 200_000)
    digits = line.replace('"u0"', "1" * 10_000)
    cases = [(name, "jsonl", text.encode(), True) for name, text in (("deep", deep), ("digits", digits))]
    assert faults(tmp_path, "interactions", cases) == NONE


# --- archives ------------------------------------------------------------------------------------------


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits of what is unpacked that a test can exceed."""
    monkeypatch.setattr(unpacking, "LARGEST_UNPACKED", BOMB // 4)
    monkeypatch.setattr(delimited, "LONGEST_LINE", BOMB // 8)


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("reader", fuzz.TABLES)
@pytest.mark.parametrize("form", ["csv.gz", "jsonl.gz"])
def test_a_file_that_unpacks_to_much_more_than_its_size_is_refused(
    tmp_path: Path, reader: str, form: str
) -> None:
    content = fuzz.to_bytes(fuzz.READERS[reader].rows(), form.removesuffix(".gz"))
    head, line = content.splitlines(keepends=True)[:2]
    many = head + line * (BOMB // len(line))
    cases = [
        ("one line", form, gzip.compress(content + b"a" * BOMB), True),
        ("first line", form, gzip.compress(b"a" * BOMB), True),
        ("zeros", form, gzip.compress(bytes(BOMB)), True),
        ("lines", form, gzip.compress(many), True),
    ]
    assert faults(tmp_path, reader, cases) == NONE


@pytest.mark.usefixtures("small_limits")
def test_a_file_of_sequences_that_unpacks_to_much_more_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sequences.txt.gz"
    path.write_bytes(gzip.compress(b"1 2 3\n" + b"2 3 " * (BOMB // 4)))
    with pytest.raises(ValueError, match=r"sequences\.txt\.gz: unpacks to more than .* unpack it yourself"):
        data.load_events(path)


def test_archives_of_vectors_that_are_no_archives(tmp_path: Path) -> None:
    whole = io.BytesIO()
    np.savez_compressed(whole, item=np.array(fuzz.IDS), vectors=np.ones((len(fuzz.IDS), 3)))
    draw, content = random.Random(0), whole.getvalue()
    header = (
        np.lib.format.magic(1, 0)
        + b"\x76\x00"
        + (b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999,), }".ljust(117) + b"\n")
    )
    huge = io.BytesIO()
    with zipfile.ZipFile(huge, "w") as archive:
        archive.writestr("item.npy", header)
    contents = [huge.getvalue(), b"", b"PK", content[:-30], bytes(100)]
    contents += [fuzz.damaged(content, draw) for _ in range(200)]
    for number, changed in enumerate(contents):
        path = tmp_path / f"case{number}.npz"
        path.write_bytes(changed)
        assert fuzz.fault("archives", path, refused=None) is None, changed[:40]


def test_nothing_is_unpacked_into_folders() -> None:
    """Members of archives are read in memory, so their names cannot leave a folder."""
    root = Path(data.__file__).parents[1]
    for path in root.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert ".extractall(" not in text and "unpack_archive" not in text and ".extract(" not in text, path


# --- the command ---------------------------------------------------------------------------------------


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a test that begins to compile a program."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a model was made")

    monkeypatch.setattr("jaxrec.train.run.Run.__init__", refuse)


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_the_command_refuses_wrong_files_before_it_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    content = fuzz.to_bytes(fuzz.event_rows(), form)
    cases = [(name, changed) for name, changed, refused in fuzz.text_changes(content) if refused]
    rows = fuzz.event_rows()
    cases += [
        ("one user", fuzz.to_bytes([row | {"user": "u"} for row in rows[:2]], form)),
        ("late", fuzz.to_bytes([row | {"time": 10**13} for row in rows], form)),
    ]
    for number, (name, changed) in enumerate(cases):
        path = tmp_path / f"case{number}.{form}"
        path.write_bytes(changed)
        run = tmp_path / f"run{number}"
        code = program.main(["train", "sasrec", "--data", str(path), "--run", str(run), "--seeds", "0"])
        shown = capsys.readouterr().err
        assert code == 2 and path.name in shown and "Traceback" not in shown, (name, shown)
        assert not (run / "run.json").exists()


def test_errors_quote_long_cells_in_part() -> None:
    assert len(quote("x" * 10**6)) < 120
