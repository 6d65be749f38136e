"""Maps raw ids to 1..n and back; 0 is padding."""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Collection, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxrec.data.cells import BadCell, check_id, quote
from jaxrec.data.validation import as_integers, check_count

Order = Literal["appearance", "sorted"]
MAX_ARRAY_BYTES = 1 << 30  # of an array of text that a single long text makes this large


class CodedTexts(NamedTuple):
    """Raw ids as readers give them: event i has texts[codes[i]]. texts are distinct, and each occurs."""

    codes: np.ndarray
    texts: list[str]


@dataclasses.dataclass(frozen=True, eq=False)
class Vocabulary:
    """Numbers raw ids: id i has the raw id `raw[i - 1]`.

    feature: name used in errors, such as "item".
    raw: distinct raw ids, integers (kept as int64) or text, [n].

    >>> vocabulary = build("item", ["b", "a", "b"])
    >>> vocabulary.encode(["a", "b"]).tolist(), vocabulary.decode([1]).tolist()
    ([2, 1], ['b'])
    """

    feature: str
    raw: np.ndarray

    def __post_init__(self) -> None:
        if not isinstance(self.raw, np.ndarray):
            raise ValueError(f"{self.feature}: raw ids must be a NumPy array of integers or text")
        object.__setattr__(self, "raw", as_raw_ids(self.feature, self.raw))
        check_count(self.raw.size, f"{self.feature} ids")
        twice = _find_repeated(self.raw)
        if twice is not None:
            raise ValueError(f"{self.feature}: raw id {twice!r} occurs twice; ids must be distinct")

    @functools.cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self.raw, kind="stable")

    def __len__(self) -> int:
        return self.raw.size

    def encode(self, values: object) -> np.ndarray:
        """Maps raw ids [N] to int32 ids 1..n; ValueError names the first unknown one and counts them."""
        codes, found = factorise(self.feature, values)
        if found.size and is_text(found) != is_text(self.raw):
            raise ValueError(
                f"{self.feature}: raw ids of type {found.dtype} given, the vocabulary holds "
                f"{self.raw.dtype}; convert one to the other"
            )
        place = np.searchsorted(self.raw, found, sorter=self._order)
        index = self._order[np.minimum(place, self.raw.size - 1)]
        unknown = np.flatnonzero((self.raw[index] != found)[codes])
        if unknown.size:
            raise ValueError(
                f"{self.feature}: unknown raw id {found[codes[unknown[0]]].item()!r} at position "
                f"{unknown[0]} ({unknown.size:,} unknown of {codes.size:,}); build the vocabulary from all "
                "data, or remove these values first"
            )
        return (index + 1).astype(np.int32)[codes]

    def decode(self, ids: object) -> np.ndarray:
        """Maps ids 1..n to raw ids; ValueError for ids outside 1..n, including padding."""
        array = np.asarray(ids)
        if array.size and (array.dtype.kind not in "iu" or array.min() < 1 or array.max() > self.raw.size):
            bad = array if array.dtype.kind not in "iu" else array[(array < 1) | (array > self.raw.size)]
            raise ValueError(
                f"{self.feature}: id {bad.flat[0]} is outside 1..{self.raw.size:,} (0 is padding)"
            )
        return self.raw[array.astype(np.int64) - 1]


def build(feature: str, values: object, order: Order = "appearance") -> Vocabulary:
    """Numbers the distinct raw ids among `values` by first appearance, or sorted (text: by code point)."""
    return build_and_encode(feature, values, order)[0]


def build_and_encode(
    feature: str, values: object, order: Order = "appearance"
) -> tuple[Vocabulary, np.ndarray]:
    """The vocabulary that `build` makes of `values`, and their ids, int32 [N]."""
    if order not in ("appearance", "sorted"):
        raise ValueError(f"order={order!r}: must be 'appearance' or 'sorted'")
    codes, distinct = _factorise(feature, values)
    check_count(len(distinct), f"{feature} ids")
    ids = np.arange(1, len(distinct) + 1, dtype=np.int32)
    if order == "sorted":
        ascending = sorted(range(len(distinct)), key=distinct.__getitem__)
        ids[ascending] = ids.copy()
        distinct = [distinct[i] for i in ascending]
    return Vocabulary(feature, _as_array(feature, distinct)), ids[codes]


def extend(vocabulary: Vocabulary, values: object) -> Vocabulary:
    """The vocabulary, with the raw ids among `values` that it lacks behind its own, by first appearance.

    No id changes, so rows of tables that belong to ids stay where they are.

    >>> extend(build("item", ["b", "a"]), ["c", "a", "0", "c"]).raw.tolist()
    ['b', 'a', 'c', '0']
    """
    found = factorise(vocabulary.feature, values)[1]
    if found.size and is_text(found) != is_text(vocabulary.raw):
        raise ValueError(
            f"{vocabulary.feature}: raw ids of type {found.dtype} given, the vocabulary holds "
            f"{vocabulary.raw.dtype}; convert one to the other"
        )
    new = found[~np.isin(found, vocabulary.raw)]
    return Vocabulary(vocabulary.feature, np.concatenate([vocabulary.raw, new])) if new.size else vocabulary


def check_extends(feature: str, before: np.ndarray, now: np.ndarray) -> None:
    """Raises ValueError unless the raw ids `now` begin with those of `before`, in their order."""
    old, new = ([str(raw) for raw in ids.tolist()] for ids in (before, now))
    if new[: len(old)] == old:
        return
    there = set(new)
    lost = [raw for raw in old if raw not in there]
    if lost:
        raise ValueError(
            f"{feature}: {len(lost):,} of {len(old):,} raw ids are lost, such as {lost[0]!r}; a vocabulary "
            "only grows: keep all ids that it had"
        )
    at = next(at for at, (a, b) in enumerate(zip(old, new, strict=False)) if a != b)
    raise ValueError(
        f"{feature}: id {at + 1} was {old[at]!r} and is {new[at]!r}; ids stay as they were, and new ones "
        "come behind them (vocab.extend)"
    )


def factorise(feature: str, values: object) -> tuple[np.ndarray, np.ndarray]:
    """Codes 0..n-1 of raw values by first appearance, int64 [N], and the distinct values, [n].

    values: integers or text as `as_raw_ids` takes them, or `CodedTexts`.
    """
    codes, distinct = _factorise(feature, values)
    return codes, _as_array(feature, distinct)


def check_raw_ids(vocabulary: Vocabulary, ids: np.ndarray, real: Collection[str] = ()) -> None:
    """Raises ValueError for a raw id that is not a valid id (`cells.check_id`), naming its event."""
    if not is_text(vocabulary.raw):
        return
    for code, text in enumerate(vocabulary.raw.tolist(), 1):
        try:
            check_id(vocabulary.feature, text, real)
        except BadCell as error:
            raise ValueError(f"{error} (event {int((ids == code).argmax())})") from None


def as_raw_ids(feature: str, values: object) -> np.ndarray:
    """The values as an array of int64 or text of rank 1; ValueError for anything else, such as floats.

    Integers of all types become int64: NumPy promotes int64 and uint64 to floats, in which different ids
    above 2^53 are equal.
    """
    if isinstance(values, np.ma.MaskedArray) and np.ma.getmaskarray(values).any():
        raise ValueError(f"{feature}: some raw ids are masked; fill them in or remove them")
    listed = _as_list(values)
    if isinstance(listed, np.ndarray):
        if listed.ndim == 1 and listed.dtype.kind == "U":
            return _check_nul(feature, listed)
        if listed.ndim == 1 and (listed.dtype.kind in "iu" or not listed.size):
            return as_integers(listed if listed.size else listed.astype(np.int64), f"{feature}: raw ids")
        raise ValueError(
            f"{feature}: raw ids of type {listed.dtype} and rank {listed.ndim}; expected a list of integers "
            "or of text (floating-point ids usually come from a column with missing values)"
        )
    if _all_text(listed):
        return text_array(feature, listed)
    kinds = {type(value) for value in listed}
    if all(issubclass(kind, int | np.integer) and kind is not bool for kind in kinds):
        return as_integers(listed, f"{feature}: raw ids")
    names = ", ".join(sorted(kind.__name__ for kind in kinds))
    if any(issubclass(kind, str) for kind in kinds) or len(kinds) > 1:
        raise ValueError(
            f"{feature}: raw ids mix text with other types, or integers with other types ({names}); convert "
            "all to text or all to integers, and fill in missing ones"
        )
    raise ValueError(
        f"{feature}: raw ids of type {_type_of(listed)} and rank 1; expected a list of integers or of text "
        "(floating-point ids usually come from a column with missing values)"
    )


def text_array(feature: str, texts: Sequence[str]) -> np.ndarray:
    """Distinct texts as an array, whose entries all take the memory of the longest.

    Raises ValueError for a NUL character, which NumPy would strip from the end, and for a text so much longer
    than the others that it alone would make the array larger than 1 GiB.
    """
    bad = next((text for text in texts if "\0" in text), None)
    if bad is not None:
        raise ValueError(f"{feature}: {quote(bad)} has a NUL character; remove it")
    lengths = [len(text) for text in texts]
    longest = max(lengths, default=0)
    if 4 * longest * len(texts) > MAX_ARRAY_BYTES and longest * len(texts) > 16 * sum(lengths):
        raise ValueError(
            f"{feature}: {quote(texts[lengths.index(longest)])} is far longer than the other {len(texts):,} "
            "ids, each of which would take as much memory; shorten it, or check whether it is an id"
        )
    return np.array(texts, str)


def is_text(array: np.ndarray) -> bool:
    return array.dtype.kind == "U"


def _factorise(feature: str, values: object) -> tuple[np.ndarray, list[Any]]:
    """As `factorise`, but the distinct values as a list: a long text then takes memory only once."""
    if isinstance(values, CodedTexts):
        used, first, place = np.unique(values.codes, return_index=True, return_inverse=True)
        order = np.argsort(first, kind="stable")
        return np.argsort(order)[place], [values.texts[i] for i in used[order].tolist()]
    values = _as_list(values)
    if not _all_text(values):
        array = as_raw_ids(feature, values)
        if not is_text(array):
            distinct, first, place = np.unique(array, return_index=True, return_inverse=True)
            order = np.argsort(first, kind="stable")
            return np.argsort(order)[place], distinct[order].tolist()
        values = array.tolist()
    table: dict[str, int] = {}
    codes = [table.setdefault(text, len(table)) for text in values]  # type: ignore[attr-defined]
    return np.array(codes, np.int64), list(table)


def _as_array(feature: str, distinct: list[Any]) -> np.ndarray:
    if distinct and isinstance(distinct[0], str):
        return text_array(feature, distinct)
    return np.array(distinct, np.int64)


def _find_repeated(raw: np.ndarray) -> object:
    """A value that occurs twice, None if all are distinct."""
    if is_text(raw):
        found = collections.Counter(raw.tolist())
        return (
            next((text for text, count in found.items() if count > 1), None)
            if len(found) < raw.size
            else None
        )
    ordered = np.sort(raw)
    twice = np.flatnonzero(ordered[1:] == ordered[:-1])
    return ordered[twice[0]].item() if twice.size else None


def _as_list(values: object) -> np.ndarray | Sequence[Any]:
    """Values as a list, or as an array of numbers or fixed-width text."""
    if isinstance(values, (list, tuple, np.ma.MaskedArray)):
        return values
    array = np.asarray(values)
    return array.tolist() if array.ndim == 1 and array.dtype.kind in "OT" else array


def _all_text(values: object) -> bool:
    """Whether values are a non-empty list of text only."""
    return isinstance(values, (list, tuple)) and bool(values) and all(isinstance(v, str) for v in values)


def _check_nul(feature: str, array: np.ndarray) -> np.ndarray:
    """The array of text; ValueError for a NUL character within a text (NumPy strips those at its end)."""
    width = array.dtype.itemsize // 4
    if width > 1 and array.size:
        characters = np.ascontiguousarray(array).view(np.uint32).reshape(array.size, width)
        bad = ((characters[:, :-1] == 0) & (characters[:, 1:] != 0)).any(axis=1)
        if bad.any():
            text = array[int(bad.argmax())].item()
            raise ValueError(f"{feature}: {quote(text)} has a NUL character; remove it")
    return array


def _type_of(values: Sequence[object]) -> object:
    return type(values[0]).__name__ if np.ndim(values[0]) else np.asarray(values).dtype  # type: ignore[arg-type]
