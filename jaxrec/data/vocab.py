"""Raw ids to 1..n and back; 0 stays free for padding."""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal

import numpy as np

from jaxrec.data.checks import check_count

Order = Literal["appearance", "sorted"]


@dataclasses.dataclass(frozen=True, eq=False)
class Vocabulary:
    """Numbers raw ids: id i has the raw id `raw[i - 1]`.

    feature: name used in errors, such as "item".
    raw: distinct raw ids, integers or text, [n].

    >>> vocabulary = build("item", ["b", "a", "b"])
    >>> vocabulary.encode(["a", "b"]).tolist(), vocabulary.decode([1]).tolist()
    ([2, 1], ['b'])
    """

    feature: str
    raw: np.ndarray

    def __post_init__(self) -> None:
        if as_raw(self.feature, self.raw) is not self.raw:
            raise ValueError(f"{self.feature}: raw ids must be a NumPy array of integers or text")
        check_count(self.raw.size, f"{self.feature} ids")
        ordered = self.raw[self._order]
        twice = np.flatnonzero(ordered[1:] == ordered[:-1])
        if twice.size:
            raise ValueError(
                f"{self.feature}: raw id {ordered[twice[0]].item()!r} stands twice; ids must be distinct"
            )

    @functools.cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self.raw, kind="stable")

    def __len__(self) -> int:
        return self.raw.size

    def encode(self, values: object) -> np.ndarray:
        """Maps raw ids [N] to int32 ids 1..n; ValueError names the first unknown one and their number."""
        found = as_raw(self.feature, values)
        if found.size and _is_text(found) != _is_text(self.raw):
            raise ValueError(
                f"{self.feature}: raw ids of type {found.dtype} given, the vocabulary holds "
                f"{self.raw.dtype}; convert one to the other"
            )
        place = np.searchsorted(self.raw, found, sorter=self._order)
        rows = self._order[np.minimum(place, self.raw.size - 1)]
        unknown = np.flatnonzero(self.raw[rows] != found)
        if unknown.size:
            raise ValueError(
                f"{self.feature}: unknown raw id {found[unknown[0]].item()!r} at position {unknown[0]} "
                f"({unknown.size:,} unknown of {found.size:,}); build the vocabulary from all data, "
                "or take these rows out first"
            )
        return (rows + 1).astype(np.int32)

    def decode(self, ids: object) -> np.ndarray:
        """Maps ids 1..n back to raw ids; ValueError for ids outside 1..n, padding included."""
        array = np.asarray(ids)
        if array.size and (array.dtype.kind not in "iu" or array.min() < 1 or array.max() > self.raw.size):
            bad = array if array.dtype.kind not in "iu" else array[(array < 1) | (array > self.raw.size)]
            raise ValueError(
                f"{self.feature}: id {bad.flat[0]} is outside 1..{self.raw.size:,} (0 is padding)"
            )
        return self.raw[array.astype(np.int64) - 1]


def build(feature: str, values: object, order: Order = "appearance") -> Vocabulary:
    """Numbers the distinct raw ids among `values` by first appearance, or sorted (text: by code point)."""
    found = as_raw(feature, values)
    distinct, first = np.unique(found, return_index=True)
    if order == "appearance":
        distinct = distinct[np.argsort(first, kind="stable")]
    elif order != "sorted":
        raise ValueError(f"order={order!r}: must be 'appearance' or 'sorted'")
    return Vocabulary(feature, distinct)


def as_raw(feature: str, values: object) -> np.ndarray:
    """The values as an array of integers or text of rank 1; ValueError for anything else, such as floats."""
    array = np.asarray(values)
    if array.dtype.kind == "O" and all(isinstance(v, str) for v in array.flat):
        array = array.astype(str)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iuU"):
        raise ValueError(
            f"{feature}: raw ids of type {array.dtype} and rank {array.ndim}; expected a list of integers or "
            "of text (floating-point ids usually come from a column with missing values)"
        )
    if (
        array.size
        and isinstance(values, (list, tuple))
        and _is_text(array)
        and not all(isinstance(v, str) for v in values)
    ):
        raise ValueError(f"{feature}: raw ids mix text with other types; make them all text or all integers")
    return array


def _is_text(array: np.ndarray) -> bool:
    return array.dtype.kind == "U"
