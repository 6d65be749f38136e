"""Raw columns, which `features` encodes as model inputs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxrec.data.validation import as_integers
from jaxrec.data.vocab import as_raw_ids, factorise, is_text


class Coded(NamedTuple):
    """A column with the value values[codes[i]] in row i, missing where the code is -1. values: distinct."""

    codes: np.ndarray
    values: np.ndarray


class Ragged(NamedTuple):
    """A column of any number of values per row: values[offsets[i] : offsets[i + 1]] in row i."""

    values: np.ndarray | Coded
    offsets: np.ndarray


RawColumn = np.ndarray | Coded | Ragged  # an array holds one number or text per row


def column_length(column: RawColumn) -> int:
    if isinstance(column, Ragged):
        return len(column.offsets) - 1
    return len(column.codes if isinstance(column, Coded) else column)


def as_coded(name: str, column: RawColumn, missing: tuple[int | str, ...] = ()) -> Coded:
    """A column of one integer or text per row as codes, -1 where the value is in `missing` or is empty text.

    Raises ValueError naming the feature for other columns and for codes out of range.
    """
    if isinstance(column, Ragged):
        raise ValueError(f"{name}: the raw column has several values per row; use Tags")
    if isinstance(column, Coded):
        values = as_raw_ids(name, column.values)
        if column.codes.dtype.kind not in "iu" or (
            column.codes.size and (column.codes.min() < -1 or column.codes.max() >= len(values))
        ):
            raise ValueError(f"{name}: codes must be integers within -1..{len(values) - 1}, -1 for missing")
        if np.unique(values).size != values.size:
            raise ValueError(f"{name}: values of coded columns must be distinct; merge the equal ones")
        codes = column.codes.astype(np.int64)
    else:
        codes, values = factorise(name, column)
        order = np.argsort(values, kind="stable")
        codes, values = np.argsort(order)[codes], values[order]
    text = is_text(values)
    if any(isinstance(value, str) != text or isinstance(value, bool) for value in missing):
        raise ValueError(f"{name}: missing={missing} is not of the column's type {values.dtype}")
    marks = np.array([*missing, ""]) if text else as_integers(list(missing), f"{name}: missing")
    absent = np.append(np.isin(values, marks), True)
    return Coded(np.where(absent[codes], -1, codes), values)


def as_coded_lists(
    name: str, column: RawColumn, missing: tuple[int | str, ...] = ()
) -> tuple[Coded, np.ndarray]:
    """Concatenated coded values of a ragged column, and how many each row has; errors as `as_coded`."""
    if not isinstance(column, Ragged):
        raise ValueError(f"{name}: the raw column has one value per row; use Category, or make it Ragged")
    values = as_coded(name, column.values, missing)
    offsets = as_integers(column.offsets, f"{name}: offsets")
    lengths = np.diff(offsets)
    if not offsets.size or offsets[0] != 0 or offsets[-1] != len(values.codes) or (lengths < 0).any():
        raise ValueError(f"{name}: offsets must ascend from 0 to {len(values.codes)}, the number of values")
    return values, lengths
