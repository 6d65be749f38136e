"""Validates ids and times on the host, once: array libraries clamp or wrap bad ids silently."""

from __future__ import annotations

import re

import numpy as np

MAX_ITEMS = 2**31 - 2  # vocab_size = num_items + 1 has to fit int32
MAX_SECONDS = 10**11  # the year 5138: anything larger is a finer unit than seconds
MAX_SPAN = 2**31 - 1  # times are rebased per user to int32 seconds
_PART = r"[A-Za-z0-9][A-Za-z0-9_+@-]*(?:\.[A-Za-z0-9_+@-]+)*"  # of a name; can name a file of results
_NAME = re.compile(f"{_PART}(?:/{_PART})*")
_LONGEST_NAME = 200


def check_name(name: str) -> None:
    """Raises ValueError for a data set name that cannot name a folder of results, before any training.

    A slash separates the source from the set, as in movielens/ml-100k.
    """
    if not isinstance(name, str) or len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
        raise ValueError(
            f"data set name {name!r}: cannot name a file; use letters, digits and - _ + @ . (at most "
            f"{_LONGEST_NAME}): give the reader another name=..., or rename the file"
        )


def as_integers(values: object, where: str) -> np.ndarray:
    """Integers of any type, or an empty list, as int64 [N].

    Raises ValueError for fractions, text, booleans and all else that a cast would silently convert, for
    another rank, and for integers beyond int64.
    """
    if isinstance(values, (list, tuple)):
        for position, value in enumerate(values):
            if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
                raise ValueError(
                    f"{where}: {value!r} at position {position} is no integer; correct or convert it"
                )
        try:
            return np.array([int(value) for value in values], np.int64)
        except OverflowError:
            raise ValueError(f"{where}: one of {len(values):,} integers is beyond 64 bits") from None
    if isinstance(values, np.ma.MaskedArray) and np.ma.getmaskarray(values).any():
        raise ValueError(f"{where}: some values are masked; fill them in or remove them")
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(f"{where}: {array.dtype}{list(array.shape)}, expected integers of rank 1")
    if array.size and array.dtype.kind == "u" and array.max() > np.iinfo(np.int64).max:
        raise ValueError(
            f"{where}: {array.max()} is 2^63 or more, beyond int64; correct it, or number the ids anew"
        )
    return array.astype(np.int64, copy=False)


def check_count(count: int, what: str) -> None:
    """Raises ValueError unless 1 <= count <= 2^31 - 2, so that ids and the vocabulary size fit int32."""
    if count < 1:
        raise ValueError(f"{what}: there are none; at least one is needed")
    if count > MAX_ITEMS:
        raise ValueError(f"{what}: {count:,} are more than the {MAX_ITEMS:,} that int32 ids can number")


def check_dtype(array: np.ndarray, dtype: type, where: str, ndim: int = 1) -> None:
    """Raises ValueError unless the array is of exactly this dtype and rank."""
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != ndim:
        found = f"{array.dtype}{list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ValueError(
            f"{where}: {found}, expected a NumPy array {np.dtype(dtype)} of rank {ndim}; "
            f"check the range, then convert with .astype(np.{np.dtype(dtype)})"
        )


def check_ids(ids: np.ndarray, count: int, where: str) -> None:
    """Raises ValueError unless all ids are int32 within 1..count (0 is padding)."""
    check_dtype(ids, np.int32, where)
    bad = np.flatnonzero((ids < 1) | (ids > count))
    if bad.size:
        raise ValueError(
            f"{where}: {ids[bad[0]]} at position {bad[0]} ({bad.size:,} such values) is outside "
            f"1..{count:,}; ids start at 1, 0 is padding: map raw ids with jaxrec.data.vocab"
        )


def check_seconds(times: np.ndarray, where: str) -> None:
    """Raises ValueError unless times are plausible int64 seconds since 1970."""
    check_dtype(times, np.int64, where)
    bad = np.flatnonzero((times > MAX_SECONDS) | (times < -MAX_SECONDS))
    if bad.size:
        raise ValueError(
            f"{where}: {times[bad[0]]} at position {bad[0]} ({bad.size:,} such values) is beyond 1e11 and so "
            "looks like milliseconds, microseconds or nanoseconds; times are seconds since 1970: "
            "divide by 1,000 (1,000,000; 1,000,000,000)"
        )


def as_int32_ids(ids: np.ndarray, count: int, where: str) -> np.ndarray:
    """Integer ids as int32, after checking that they lie in 1..count: a plain cast wraps silently."""
    ids = as_integers(ids, where)
    bad = np.flatnonzero((ids < 1) | (ids > count))
    if bad.size:
        raise ValueError(
            f"{where}: id {ids[bad[0]]} at position {bad[0]} is outside 1..{count:,} (0 is padding)"
        )
    return ids.astype(np.int32)


def count_kept_items(item: np.ndarray, where: str) -> int:
    """Number of items if raw ids are kept: the largest id.

    Raises ValueError if fewer than 1 % of the ids up to it occur.
    """
    present = np.unique(item)
    if present[-1] > 100 * present.size:
        raise ValueError(
            f"{where}: the largest id is {present[-1]:,} but only {present.size:,} ids occur; kept ids "
            "need an item table with an entry for every id up to the largest: map them to 1..n"
        )
    return max(int(present[-1]), 1)  # if no id is positive, `check_ids` raises
