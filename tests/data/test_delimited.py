"""Rows of delimited text: delimiters of any length, byte order marks, long cells, damaged files."""

import csv
import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from jaxrec.data import delimited
from jaxrec.data.delimited import file_suffix, header_fault, read_header, read_records, resolve_delimiter

Write = Callable[[str, str | bytes], Path]


@pytest.mark.parametrize(
    "given, found", [(",", ","), ("\\t", "\t"), ("\t", "\t"), ("::", "::"), ("\\x01", "\x01"), ("|", "|")]
)
def test_a_delimiter_is_taken_as_it_is_typed(given: str, found: str) -> None:
    assert resolve_delimiter("a.csv", given) == found


@pytest.mark.parametrize("name, found", [("a.TSV", "\t"), ("a.tsv.GZ", "\t"), ("a.CSV", ","), ("a.dat", ",")])
def test_the_default_goes_by_the_suffix_in_any_case(name: str, found: str) -> None:
    assert resolve_delimiter(name, None) == found


@pytest.mark.parametrize("given", ["", '"', "\n", "a\r", "\0", "::\x1f"])
def test_what_can_not_separate_cells_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match="delimiter=.*must be one character or several"):
        resolve_delimiter("a.csv", given)


@pytest.mark.parametrize(
    "name, form", [("a.CSV.gz", ".csv"), ("b.Parquet", ".parquet"), ("c.x.TXT.GZ", ".txt"), ("d", "")]
)
def test_the_form_of_a_file_is_its_suffix_in_lower_case(name: str, form: str) -> None:
    assert file_suffix(name) == form


@pytest.mark.parametrize("by", [",", "::", "\t", "||", " ", "\x1f"])
def test_cells_are_those_of_csv_by_any_delimiter(write: Write, by: str) -> None:
    path = write("a.csv", by.join(("a", f'"b{by}c"', '"d""e"')) + "\r\n" + by.join("123") + "\n")
    assert list(read_records(path, by)) == [(1, ["a", f"b{by}c", 'd"e']), (2, ["1", "2", "3"])]


def test_a_stand_in_for_a_long_delimiter_in_the_text_is_refused(write: Write) -> None:
    with pytest.raises(ValueError, match=r"a.csv, line 2: has the character '\\x1f'"):
        list(read_records(write("a.csv", "a::b\nc\x1f::d\n"), "::"))


@pytest.mark.parametrize("packed", [False, True])
def test_a_byte_order_mark_is_no_text(write: Write, packed: bool) -> None:
    content = b"\xef\xbb\xbfa,b\n"
    path = write("a.csv.GZ" if packed else "a.csv", gzip.compress(content, mtime=0) if packed else content)
    assert list(read_records(path, ",")) == [(1, ["a", "b"])]


def test_long_cells_are_read_up_to_a_limit(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    before = csv.field_size_limit()
    path = write("a.csv", "a,b\n1," + "x" * 200_000 + "\n")
    assert len(list(read_records(path, ","))[1][1][1]) == 200_000
    monkeypatch.setattr(delimited, "MAX_CELL_LENGTH", 1000)
    with pytest.raises(ValueError, match=r"a.csv, line 2: a cell has more than 1,000 characters; shorten it"):
        list(read_records(path, ","))
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.csv", b"a\nb\n\xff\n", "a.csv, after line .: not UTF-8 text"),
        ("a.csv", "a,b\n".encode("utf-16"), "a.csv, after line 0: not UTF-8 text"),
        ("a.csv.gz", b"no gzip", "a.csv.gz: truncated or corrupt gzip file"),
        ("a.csv.gz", gzip.compress(b"a,b\n" * 999, mtime=0)[:-9], "a.csv.gz: truncated or corrupt gzip file"),
        ("a.csv", b'a,"b\nc', "a.csv, line 2: unexpected end of data; repair the quotes"),
    ],
)
def test_text_that_can_not_be_read_is_refused(write: Write, name: str, content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(read_records(write(name, content), ","))


@pytest.mark.parametrize(
    "content, message",
    [("", "the file is empty"), (" \n\n", "the file is empty"), ("\na,b\n", "line 1: is empty")],
)
def test_a_header_is_the_first_line(write: Write, content: str, message: str) -> None:
    path = write("a.csv", content)
    with pytest.raises(ValueError, match=message):
        read_header(path, read_records(path, ","))


@pytest.mark.parametrize(
    "header, message",
    [
        (["a", ""], "column 2 has no name ('')"),
        (["Unnamed: 0", "a"], "column 1 has no name"),
        (["a", "b", "a"], "2 columns are named 'a'"),
    ],
)
def test_columns_have_names_that_differ(header: list[str], message: str) -> None:
    assert message in (header_fault(header) or "")
    assert header_fault(["a", "b"]) is None
