"""Parses cells of files (ids, integers, decimal numbers, times), with one grammar for all readers.

Python's `int` and `float` accept more: underscores, plus signs, spaces, digits of other scripts and leading
zeros, so that two different ids of a file could become one number. Here only the digits 0-9 are accepted.
"""

from __future__ import annotations

import decimal
import re
from collections.abc import Collection

# What pandas, R, SQL and spreadsheets write for a missing value, in lower case.
_MARKS = (
    "nan -nan null (null) #null! none <na> na n/a #na #n/a nat \\n inf -inf +inf infinity -infinity "
    "+infinity 1.#ind 1.#qnan -1.#ind -1.#qnan"
)
MISSING_MARKS = frozenset(("", "#n/a n/a", *_MARKS.split()))
INTEGER = r"0|-?[1-9][0-9]*"
DECIMAL = r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
PLAIN_INTEGER = "digits 0-9 alone, no zeros in front, no plus sign, space or underscore"
SECONDS = "times are whole seconds since 1970-01-01 UTC"

_INTEGER, _DECIMAL = re.compile(INTEGER), re.compile(DECIMAL)
_NOT_FINITE = frozenset(("nan", "-nan", "inf", "-inf", "+inf", "infinity", "-infinity", "+infinity"))
_INVISIBLE = "\ufeff\u200b\u200c\u200d\u2060"  # invisible, but not removed by `str.strip`
_SHOWN = 60  # characters of a cell in an error message
_LONGEST_INTEGER = 20  # characters of an integer of 64 bits


class BadCell(ValueError):
    """A cell of the wrong form. The message does not name the file and line, which the reader adds."""


class IdCodes(dict[str, int]):
    """Numbers the ids of a column 0, 1, ... by first appearance: `codes[text]`. Each is checked once.

    feature: name used in errors, such as "item". real: see `check_id`.
    """

    def __init__(self, feature: str, real: Collection[str] | None = None) -> None:
        super().__init__()
        self.feature = feature
        self.real = real

    def __missing__(self, text: str) -> int:
        check_id(self.feature, text, self.real)
        self[text] = code = len(self)
        return code


def check_id(feature: str, text: str, real: Collection[str] | None = None) -> None:
    """Raises BadCell for text that cannot be an id: empty, a missing-value mark, spaces around it, a NUL.

    real: ids that look like a missing-value mark (`MISSING_MARKS`, in any case) but are real, such as the
    country "NA"; None if the reader has no such option.
    """
    if "\0" in text:
        raise BadCell(f"{feature} {quote(text)} has a NUL character; remove it")
    bare = text.strip()
    known = (real,) if isinstance(real, str) else real or ()
    if bare.lower() in MISSING_MARKS and (not bare or text not in known):
        name_it = (
            f", or, if it is a real id, name it in real_ids: {text!r} (--real-ids {text})"
            if bare and real is not None
            else ""
        )
        raise BadCell(f"{feature} is missing ({text!r}); fill it in or remove it{name_it}")
    if bare != text or bare[0] in _INVISIBLE or bare[-1] in _INVISIBLE:
        raise BadCell(f"{feature} {quote(text)} has spaces around it; remove them")


def parse_integer(text: str) -> int:
    """An integer of 64 bits; BadCell unless it matches `INTEGER`, OverflowError if it is too large."""
    if not _INTEGER.fullmatch(text):
        raise BadCell(f"{quote(text)} is not an integer ({PLAIN_INTEGER})")
    number = int(text) if len(text) <= _LONGEST_INTEGER else 2**63
    if not -(2**63) <= number < 2**63:
        raise OverflowError(f"{quote(text)} is not an integer of 64 bits")
    return number


def parse_kept_id(feature: str, text: str) -> int:
    """An id that is kept as it is: an integer of at least 1; BadCell otherwise."""
    try:
        number = _parse_integer_id(feature, text)
    except OverflowError:
        number = 0
    if number < 1:
        raise BadCell(
            f"{feature} {quote(text)} is outside 1..2^63-1; ids start at 1, 0 is padding: use ids='map'"
        )
    return number


def parse_kept_user(text: str) -> int:
    """The raw id of a user where item ids are kept: any integer, as users are numbered; BadCell otherwise."""
    try:
        return _parse_integer_id("user", text)
    except OverflowError as error:
        raise BadCell(f"user {error}; number the users anew, or use ids='map'") from None


def parse_seconds(feature: str, text: str) -> int:
    """A time in whole seconds, also written as a decimal number such as 20.0 or 1.4e9; BadCell otherwise."""
    if text.isascii() and text.isdigit() and len(text) < 19:
        return int(text)
    if text.lower() in _NOT_FINITE:
        whole = False
    elif not _DECIMAL.fullmatch(text):
        raise BadCell(f"{feature} {quote(text)} is missing or not a number; {SECONDS}: convert dates first")
    else:
        try:
            number = decimal.Decimal(text)
            whole = number.copy_abs() < 2**63 and number == number.to_integral_value()
        except decimal.InvalidOperation:  # an exponent of twenty digits
            whole = False
    if not whole:
        raise BadCell(
            f"{feature} {quote(text)} is not a whole number; {SECONDS}: round it or remove the line"
        )
    return int(number)


def parse_number(feature: str, text: str) -> float:
    """A decimal number; BadCell otherwise. NaN and infinity are left to the caller, which counts them."""
    if text.lower() not in _NOT_FINITE and not _DECIMAL.fullmatch(text):
        raise BadCell(f"{feature} {quote(text)} is not a number; fill it in or remove the line")
    return float(text)


def _parse_integer_id(feature: str, text: str) -> int:
    try:
        return parse_integer(text)
    except BadCell:
        raise BadCell(
            f"{feature} {quote(text)} is not an integer; ids='keep' needs integers ({PLAIN_INTEGER}), "
            "ids='map' takes any text"
        ) from None


def quote(text: str) -> str:
    """A cell as errors quote it, truncated if long."""
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}... ({len(text):,} characters)"
