"""Features of all users or of all items by number: what a model reads beside, or in place of, their ids."""

from __future__ import annotations

import dataclasses
import keyword
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxrec.data.vocab import build_and_encode

NO_COLUMNS: Mapping[str, Any] = {}


@dataclasses.dataclass(frozen=True, eq=False)
class SideFeatures:
    """Categories and frozen vectors of E users or items; row e is that of number e, and row 0 is padding.

    Users are numbered from 1 here, as in tables of users: user u of `Sequences`, counted from 0, has row
    u + 1.

    Fields:
      columns: {name: ids from 1, int32 [E + 1], or several of them [E + 1, W], padded with 0}. An id of 0 is
        a value that is not known, and one that is given twice counts twice. Row 0 is 0.
      sizes: {name: largest id}, of every column.
      vectors: {name: float32 [E + 1, D]}, such as of text, which are not trained. Row 0 is zero.
      allow_empty: False refuses an entity without any id and with zeros alone for vectors, of which a model
        without ids of entities knows nothing.

    Raises:
      ValueError: no feature; a name that is used twice or is not an identifier; columns of different lengths,
        of another rank or type; an id outside 0..size; a number that is not finite; a row 0 with a value; an
        entity without any value, unless allowed.
    """

    columns: Mapping[str, np.ndarray]
    sizes: Mapping[str, int]
    vectors: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    allow_empty: bool = False

    def __post_init__(self) -> None:
        columns = {name: np.asarray(column) for name, column in self.columns.items()}
        vectors = {name: np.asarray(vector) for name, vector in self.vectors.items()}
        _check_names(columns, vectors, self.sizes)
        lengths = {name: len(array) if array.ndim else 0 for name, array in {**columns, **vectors}.items()}
        first = next(iter(lengths))
        for name, length in lengths.items():
            if length != lengths[first]:
                raise ValueError(
                    f"feature {name}: {length:,} rows, but {first} has {lengths[first]:,}; there must be one "
                    "for every user or item, and one for padding in front"
                )
        if lengths[first] < 2:
            raise ValueError(f"feature {first}: {lengths[first]} rows; expected padding and at least one")
        for name, column in columns.items():
            columns[name] = _checked_ids(name, column, self.sizes[name])
        for name, vector in vectors.items():
            vectors[name] = _checked_vectors(name, vector)
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "vectors", vectors)
        object.__setattr__(self, "sizes", {name: int(self.sizes[name]) for name in columns})
        empty = self.empty()
        if empty.size and not self.allow_empty:
            raise ValueError(
                f"features: number {empty[0]} has no value ({empty.size:,} such of {self.num_entities:,}); "
                "give it one, or allow_empty=True for a model that also reads ids"
            )

    @property
    def num_entities(self) -> int:
        """E, users or items."""
        return len(next(iter({**self.columns, **self.vectors}.values()))) - 1

    @property
    def dims(self) -> dict[str, int]:
        """Widths of the vectors."""
        return {name: vector.shape[1] for name, vector in self.vectors.items()}

    def empty(self) -> np.ndarray:
        """Numbers of entities without any value, ascending."""
        known = np.zeros(self.num_entities + 1, bool)
        for array in (*self.columns.values(), *self.vectors.values()):
            known |= (array.reshape(len(array), -1) != 0).any(axis=1)
        return np.flatnonzero(~known[1:]) + 1

    def as_ids(self) -> np.ndarray:
        """The T columns of ids side by side, at most M of each entity, ascending: int32 [E + 1, T, M].

        As `item_attributes.ItemAttributes` has them; vectors are left out, and 0 is where there are fewer.

        Raises:
          ValueError: there is no column of ids.
        """
        if not self.columns:
            raise ValueError("features: there are vectors alone; give a column of ids")
        wide = [column.reshape(len(column), -1) for column in self.columns.values()]
        found = np.zeros((self.num_entities + 1, len(wide), max(ids.shape[1] for ids in wide)), np.int32)
        for at, ids in enumerate(wide):
            ordered = np.sort(np.where(ids == 0, np.iinfo(np.int32).max, ids), axis=1)
            found[:, at, : ids.shape[1]] = np.where(ordered == np.iinfo(np.int32).max, 0, ordered)
        return found

    def as_columns(self, prefix: str) -> dict[str, np.ndarray]:
        """All features as resident columns of a context: {prefix + name: array}, such as "item_genres"."""
        return {f"{prefix}{name}": array for name, array in {**self.columns, **self.vectors}.items()}


def encode_features(
    columns: Mapping[str, Sequence[Any] | np.ndarray],
    *,
    several: Mapping[str, Sequence[Sequence[Any]]] = NO_COLUMNS,
    vectors: Mapping[str, np.ndarray] = NO_COLUMNS,
    missing: Sequence[Any] = ("",),
    allow_empty: bool = False,
) -> SideFeatures:
    """Features from raw values, which are numbered in sorted order.

    Args:
      columns: {name: integers or text, one for each of E users or items}.
      several: {name: E lists of them, which may be empty}; a value that a list repeats counts once.
      vectors: {name: float [E, D]}.
      missing: values that mean that none is known.
      allow_empty: see `SideFeatures`.

    Raises:
      ValueError: as `SideFeatures`; a value is neither an integer nor text; a column without any value.

    >>> found = encode_features({"gender": ["f", "m", ""]}, several={"tags": [["b"], [], ["a", "b"]]},
    ...                         allow_empty=True)
    >>> found.columns["gender"].tolist(), found.columns["tags"].tolist()
    ([0, 1, 2, 0], [[0, 0], [2, 0], [0, 0], [1, 2]])
    """
    lists: dict[str, list[list[Any]]] = {}
    for name, column in columns.items():
        lists[name] = [[value] for value in np.asarray(column).tolist()]
    for name, rows in several.items():
        lists[name] = [list(row) for row in rows]
    encoded: dict[str, np.ndarray] = {}
    sizes: dict[str, int] = {}
    for name, rows in lists.items():
        kept = [list(dict.fromkeys(value for value in row if value not in missing)) for row in rows]
        flat = [value for row in kept for value in row]
        if not flat:
            raise ValueError(f"feature {name}: no user or item has a value; leave it out")
        vocabulary, ids = build_and_encode(name, flat, "sorted")
        count = np.array([len(row) for row in kept], np.int64)
        width = int(count.max())
        table = np.zeros((len(rows) + 1, width), np.int32)
        table[1:][np.arange(width) < count[:, None]] = ids
        encoded[name] = table[:, 0] if name in columns else table
        sizes[name] = len(vocabulary)
    padded = {name: np.pad(np.asarray(vector), ((1, 0), (0, 0))) for name, vector in vectors.items()}
    return SideFeatures(encoded, sizes, padded, allow_empty)


def tower_columns(
    pair_user: np.ndarray,
    pair_item: np.ndarray,
    *,
    num_users: int,
    num_items: int,
    users: SideFeatures | None = None,
    items: SideFeatures | None = None,
) -> dict[str, np.ndarray]:
    """Resident columns of all users and items, row 0 for padding, which models of two towers read.

    user_id [U + 1], item_id [I + 1]: a number, or 0 for a user or an item without a pair, whose own vector
    would stay what it was drawn as. item_log_frequency [I + 1]: log of the share of pairs with the item, -inf
    for one without. And the features, under "user_" and "item_" before their names.

    Args:
      pair_user, pair_item: users, from 0, and items, from 1, of the pairs of training, [P].

    Raises:
      ValueError: there is no pair, or one of a user or an item that there is not; features of another number
        of users or items, or one named like a column.
    """
    if len(pair_user) != len(pair_item) or not len(pair_user):
        raise ValueError(
            f"pairs: {len(pair_user):,} users and {len(pair_item):,} items; as many, at least one"
        )
    columns: dict[str, np.ndarray] = {}
    sides = (("user", np.asarray(pair_user) + 1, num_users, users), ("item", pair_item, num_items, items))
    for side, numbers, count, features in sides:
        if numbers.min() < 1 or numbers.max() > count:
            raise ValueError(
                f"pairs: {side}s {numbers.min()}..{numbers.max()} as rows, but there are {count:,}"
            )
        known = np.zeros(count + 1, bool)
        known[numbers] = True
        columns[f"{side}_id"] = np.where(known, np.arange(count + 1), 0).astype(np.int32)
        if features is None:
            continue
        if features.num_entities != count:
            raise ValueError(
                f"features of {side}s: {features.num_entities:,}, but there are {count:,}; give each its "
                "row, in the order of their numbers"
            )
        added = features.as_columns(f"{side}_")
        for name in ("id", "log_frequency"):
            if f"{side}_{name}" in added:
                raise ValueError(f"feature {name}: is the name of a column that is there already; rename it")
        columns |= added
    share = np.bincount(np.asarray(pair_item), minlength=num_items + 1) / len(pair_item)
    with np.errstate(divide="ignore"):
        columns["item_log_frequency"] = np.log(share).astype(np.float32)
    return columns


class JoinedViews(NamedTuple):
    """Items of several views, numbered one view after the other, and their pairs.

    items: features of all of them, under "<view>_<name>", 0 for items of other views. view [I + 1]: the view
    of each item, from 1. first: {view: number of its first item}. pair_user, pair_item [P]: all pairs.
    """

    items: SideFeatures
    view: np.ndarray
    first: Mapping[str, int]
    pair_user: np.ndarray
    pair_item: np.ndarray


def join_views(
    views: Mapping[str, SideFeatures], pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> JoinedViews:
    """Puts the items of views together, such as apps and news, for `nn.retrieval.mv_dssm`.

    Args:
      views: features of the items of each view, numbered from 1 within it.
      pairs: users, from 0, and items of the pairs of each view, [P_v] each.

    Raises:
      ValueError: no view, or pairs of others; a view without a pair, whose tower would stay untrained; a pair
        with an item that its view does not have.
    """
    if not views or set(views) != set(pairs):
        raise ValueError(f"views: {sorted(views)}, but pairs of {sorted(pairs)}; give both for every view")
    total = sum(features.num_entities for features in views.values())
    columns: dict[str, np.ndarray] = {}
    vectors: dict[str, np.ndarray] = {}
    sizes: dict[str, int] = {}
    view, first = np.zeros(total + 1, np.int32), {}
    users, items, start = [], [], 1
    for number, (name, features) in enumerate(views.items(), 1):
        user, item = (np.asarray(column) for column in pairs[name])
        if not len(item):
            raise ValueError(f"view {name}: has no pair, so that nothing trains its tower; leave it out")
        if item.min() < 1 or item.max() > features.num_entities:
            raise ValueError(
                f"view {name}: pairs with items {item.min()}..{item.max()}, but it has "
                f"{features.num_entities:,}; number them from 1"
            )
        first[name], end = start, start + features.num_entities
        view[start:end] = number
        for found, whole in ((features.columns, columns), (features.vectors, vectors)):
            for feature, column in found.items():
                whole[f"{name}_{feature}"] = np.zeros((total + 1, *column.shape[1:]), column.dtype)
                whole[f"{name}_{feature}"][start:end] = column[1:]
        sizes |= {f"{name}_{feature}": size for feature, size in features.sizes.items()}
        users.append(user)
        items.append(item + start - 1)
        start = end
    joined = SideFeatures(columns, sizes, vectors, any(features.allow_empty for features in views.values()))
    return JoinedViews(
        joined,
        view,
        first,
        np.concatenate(users).astype(np.int32),
        np.concatenate(items).astype(np.int32),
    )


def _check_names(columns: Mapping[str, Any], vectors: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
    """Raises ValueError for no feature, unusable names, and sizes that are not those of the columns."""
    names = [*columns, *vectors]
    if not names:
        raise ValueError("features: none given; a column or a vector at least")
    for name in names:
        if not name.isidentifier() or keyword.iskeyword(name):
            raise ValueError(
                f"feature {name!r}: must be letters, digits and '_', as it names parameters; rename it"
            )
    if both := sorted(set(columns) & set(vectors)):
        raise ValueError(f"feature {both[0]}: is a column and a vector; rename one")
    if set(sizes) != set(columns):
        wrong = sorted(set(sizes) ^ set(columns))
        raise ValueError(f"sizes: {', '.join(wrong)} in one of sizes and columns alone; give both")


def _checked_ids(name: str, column: np.ndarray, size: int) -> np.ndarray:
    if column.ndim not in (1, 2) or column.dtype.kind not in "iu" or 0 in column.shape:
        raise ValueError(
            f"feature {name}: {column.dtype}{list(column.shape)}, expected integers [E + 1] or [E + 1, W]"
        )
    if size < 1:
        raise ValueError(f"feature {name}: size {size} must be at least 1")
    if column.min() < 0 or column.max() > size:
        raise ValueError(
            f"feature {name}: ids {column.min()}..{column.max()}, but its size allows 0..{size}; number its "
            "values from 1"
        )
    if column[0].any():
        raise ValueError(f"feature {name}: row 0 is {column[0].tolist()}, but it is padding; put 0 in front")
    return column.astype(np.int32)


def _checked_vectors(name: str, vector: np.ndarray) -> np.ndarray:
    if vector.ndim != 2 or vector.dtype.kind not in "fiu" or 0 in vector.shape:
        raise ValueError(f"feature {name}: {vector.dtype}{list(vector.shape)}, expected numbers [E + 1, D]")
    with np.errstate(over="ignore"):
        found = vector.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if bad.size:
        raise ValueError(
            f"feature {name}: the vector of number {bad[0]} is not finite ({bad.size:,} such); fill it in"
        )
    if found[0].any():
        raise ValueError(f"feature {name}: the vector of row 0 is not zero, but it is padding; put 0 there")
    return found
