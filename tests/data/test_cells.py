"""The grammar of cells: what is an id, an integer, a time, a number, and what is none."""

from collections.abc import Callable

import pytest

from jaxrec.data.cells import (
    BadCell,
    IdCodes,
    check_id,
    parse_integer,
    parse_kept_id,
    parse_number,
    parse_seconds,
)

MARKS = [
    "",
    " ",
    "nan",
    "NaN",
    "null",
    "NULL",
    "None",
    "inf",
    "-inf",
    "<NA>",
    "NaT",
    "N/A",
    "n/a",
    "NA",
    "#N/A",
]


@pytest.mark.parametrize("text", [*MARKS, "\\N", "infinity"])
def test_a_mark_of_a_missing_value_is_no_id(text: str) -> None:
    with pytest.raises(BadCell, match="item is missing"):
        check_id("item", text)


@pytest.mark.parametrize("text", [" a", "a ", "a\t", "\xa0a", "a\ufeff", "\u200ba"])
def test_spaces_around_an_id_are_refused(text: str) -> None:
    with pytest.raises(BadCell, match="has spaces around it; remove them"):
        check_id("item", text)


@pytest.mark.parametrize("text", ["a\0", "\0a", "a\0b"])
def test_a_nul_character_is_refused(text: str) -> None:
    with pytest.raises(BadCell, match="has a NUL character"):
        check_id("item", text)


def test_an_id_that_reads_like_a_mark_is_taken_by_name_only() -> None:
    with pytest.raises(BadCell, match="if it is a real id, name it in real_ids: 'NA'"):
        check_id("country", "NA", real=())
    check_id("country", "NA", real=("NA",))
    check_id("country", "NA", real="NA")
    with pytest.raises(BadCell, match="is missing"):
        check_id("country", "na", real=("NA",))
    with pytest.raises(BadCell, match=r"is missing \(''\); fill it in or remove it$"):
        check_id("country", "", real=("",))


@pytest.mark.parametrize("text", ["a b", "a::b", "nanna", "0", "007", "1.5", "é", "-"])
def test_other_text_is_an_id(text: str) -> None:
    check_id("item", text)


def test_codes_number_texts_as_they_come_and_check_each_once() -> None:
    codes = IdCodes("item")
    assert [codes[text] for text in ("b", "a", "b", "c")] == [0, 1, 0, 2]
    assert list(codes) == ["b", "a", "c"]
    with pytest.raises(BadCell, match=r"item is missing \('nan'\)"):
        codes["nan"]


NOT_PLAIN = ["1_0", "007", "01", "+1", "１", "٣", " 1", "1 ", "1.0", "1e2", "0x1", "-0", "--1", "", "1\n"]


@pytest.mark.parametrize("text", NOT_PLAIN)
@pytest.mark.parametrize("read", [parse_integer, lambda text: parse_kept_id("item", text)])
def test_ids_are_written_plainly(text: str, read: Callable[[str], int]) -> None:
    with pytest.raises(BadCell, match="is not an integer.*digits 0-9 alone, no zeros in front"):
        read(text)


@pytest.mark.parametrize("text, value", [("0", 0), ("-5", -5), ("10", 10), (str(2**63 - 1), 2**63 - 1)])
def test_plain_integers_are_read(text: str, value: int) -> None:
    assert parse_integer(text) == value


@pytest.mark.parametrize("text", [str(2**63), str(-(2**63) - 1), "9" * 5000])
def test_integers_beyond_64_bits_are_refused(text: str) -> None:
    with pytest.raises(OverflowError, match="is not an integer of 64 bits"):
        parse_integer(text)
    with pytest.raises(BadCell, match=r"is outside 1..2\^63-1"):
        parse_kept_id("item", text)


@pytest.mark.parametrize(
    "text, value", [("20", 20), ("20.0", 20), ("-3", -3), ("1e3", 1000), ("1.5E1", 15), ("007", 7), ("0.", 0)]
)
def test_times_are_whole_decimal_numbers(text: str, value: int) -> None:
    assert parse_seconds("time", text) == value


@pytest.mark.parametrize("text", ["2_0", "1_000", "+5", " 5", "5 ", "１", "0x1", "", "-", "e5", "1e", "NA"])
def test_times_and_values_of_another_form_are_no_numbers(text: str) -> None:
    with pytest.raises(BadCell, match="is missing or not a number"):
        parse_seconds("time", text)
    with pytest.raises(BadCell, match="is not a number"):
        parse_number("value", text)


@pytest.mark.parametrize(
    "text",
    [
        *("1.5", "1e-3", "5.0000000000000000000001", "nan", "inf", "1e400", "9" * 5000, "1e999999999"),
        *(f"1e{'9' * 20}", f"-2e-{'9' * 20}"),  # beyond what `decimal` holds
    ],
)
def test_times_that_are_not_whole_seconds_are_refused(text: str) -> None:
    with pytest.raises(BadCell, match="is not a whole number"):
        parse_seconds("time", text)


@pytest.mark.parametrize("text, value", [("4.5", 4.5), (".5", 0.5), ("-1.5e-1", -0.15), ("5.", 5.0)])
def test_values_are_decimal_numbers(text: str, value: float) -> None:
    assert parse_number("value", text) == value
