"""Vectors of a trained factor model and content, as the columns that models of new users and items read."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from scipy.sparse import csr_matrix

from jaxrec.data.events.training_events import TrainingEvents

LIMIT, TINY = 5.0, 1e-10  # of standardised factors: those beyond are clipped, those below are 0
USERS_AT_ONCE = 512


def factor_columns(
    users: Any,
    items: Any,
    events: TrainingEvents,
    *,
    num_users: int,
    item_content: np.ndarray | None = None,
    user_content: np.ndarray | None = None,
    empty: Literal["refuse", "keep"] = "refuse",
) -> dict[str, np.ndarray]:
    """Columns of factors, for U users and I items of which row 0 is padding, all float32.

    user_teacher [U + 1, K], item_teacher [I + 1, K]: the factors, 0 for who has no training event.
    user_factors, item_factors: the same, standardised: each column less its mean, over its deviation, among
    those who have training events, clipped to ±5; 0 for the others, as in the authors' code of DropoutNet.
    user_means, item_means: the mean of the factors of a user's items, and of an item's users, standardised as
    user_factors and item_factors are, a repeated event counting once; 0 for who has no training event.
    item_content [I + 1, F], user_content [U + 1, G]: as given, where they are.
    warm_items int32 [W]: items that have training events. item_count [I + 1]: training events of each item.

    Args:
      users: factors of users, user u (from 0) in row u + 1, [up to U + 1, K]; rows that are missing are 0.
      items: factors of items, [I + 1, K].
      events: of training, groups are numbers of users from 0.
      empty: what to do about a new item whose content is 0 in every entry, so that nothing tells it from
        others such: "refuse", or "keep" it all the same.

    Raises:
      ValueError: factors or content of other sizes, or not finite; factors of an item without training event
        that are not 0, so that the factor model has read what it may not; a new item without content.
    """
    size = num_users + 1
    of_users, of_items = _table("users", users, None), _table("items", items, events.num_items + 1)
    if of_users.shape[1] != of_items.shape[1] or len(of_users) > size:
        raise ValueError(
            f"users {of_users.shape}, items {of_items.shape}: must be [{size}, K] and "
            f"[{events.num_items + 1}, K], of one factor model"
        )
    of_users = np.pad(of_users, ((0, size - len(of_users)), (0, 0)))
    warm = np.zeros(events.num_items + 1, bool)
    warm[events.item] = True
    known = np.zeros(size, bool)
    known[events.group + 1] = True
    for name, table, trained in (("user", of_users, known), ("item", of_items, warm)):
        wrong = np.flatnonzero(table.any(axis=1) & ~trained)
        if wrong.size:
            raise ValueError(
                f"{name}s: row {wrong[0]} has no training event but factors that are not 0 ({wrong.size:,} "
                "such): the factor model has read others; fit it to the training events alone"
            )
    found = {
        "user_teacher": of_users,
        "item_teacher": of_items,
        "user_factors": _standardised(of_users, of_users, known),
        "item_factors": _standardised(of_items, of_items, warm),
        "user_means": _standardised(_means(events.group + 1, events.item, of_items, size), of_users, known),
        "item_means": _standardised(
            _means(events.item, events.group + 1, of_users, len(of_items)), of_items, warm
        ),
        "warm_items": np.flatnonzero(warm).astype(np.int32),
        "item_count": np.bincount(events.item, minlength=len(of_items)).astype(np.float32),
    }
    if item_content is not None:
        found["item_content"] = check_content("item_content", item_content, len(of_items))
        bare = np.flatnonzero(~warm[1:] & ~found["item_content"][1:].any(axis=1)) + 1
        if bare.size and empty == "refuse":
            raise ValueError(
                f"item_content: item {bare[0]} has neither training events nor content ({bare.size:,} such "
                'items), so nothing tells it from others; give it content, leave it out, or empty="keep"'
            )
    if user_content is not None:
        found["user_content"] = check_content("user_content", user_content, size)
    return found


def check_content(name: str, content: Any, rows: int, width: int | None = None) -> np.ndarray:
    """Content as float32 [rows, width].

    Raises:
      ValueError: it has another shape (width None: any width), or an entry that is not a finite float32.
    """
    with np.errstate(over="ignore"):
        found = np.asarray(content).astype(np.float32)
    if found.ndim != 2 or len(found) != rows or not found.shape[1] or width not in (None, found.shape[1]):
        wanted = "width" if width is None else width
        raise ValueError(
            f"{name}: shape {found.shape}: must be [{rows}, {wanted}], a vector of one width for each row, "
            "padding first"
        )
    bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if bad.size:
        raise ValueError(
            f"{name}: row {bad[0]} has an entry that is not finite ({bad.size:,} such rows); fill it in, or "
            "give the row 0 where nothing is known"
        )
    return found


def best_items(columns: dict[str, np.ndarray], number: int) -> np.ndarray:
    """The `number` items of training of the largest products of factors for each user: int32 [U, number].

    They stand in no order. If there are fewer items, all are.

    Raises:
      ValueError: number is below 1.
    """
    if number < 1:
        raise ValueError(f"number={number}: must be at least 1")
    warm = columns["warm_items"]
    users, items = columns["user_teacher"][1:], columns["item_teacher"][warm]
    number = min(number, len(warm))
    found = np.empty((len(users), number), np.int32)
    for start in range(0, len(users), USERS_AT_ONCE):
        scores = users[start : start + USERS_AT_ONCE] @ items.T
        place = np.argpartition(-scores, number - 1, axis=1)[:, :number]
        found[start : start + USERS_AT_ONCE] = warm[place]
    return found


def _table(name: str, table: Any, rows: int | None) -> np.ndarray:
    found = np.asarray(table, np.float32)
    if found.ndim != 2 or not found.size or (rows is not None and len(found) != rows):
        raise ValueError(f"{name}: shape {found.shape}: must be [{rows or 'rows'}, K], padding first")
    if not np.isfinite(found).all():
        raise ValueError(f"{name}: factors are not finite; the factor model diverged")
    if found[0].any():
        raise ValueError(f"{name}: row 0 is padding and must be 0")
    return found


def _means(row: np.ndarray, other: np.ndarray, table: np.ndarray, size: int) -> np.ndarray:
    """The mean of the other side's distinct factors in each row, [size, K]; 0 for rows without events."""
    matrix = csr_matrix((np.ones(len(row)), (row, other)), shape=(size, len(table)))
    matrix.data[:] = 1.0  # a pair of several events counts once
    number = np.asarray(matrix.sum(axis=1))
    return np.asarray(matrix @ table / np.maximum(number, 1))


def _standardised(table: np.ndarray, like: np.ndarray, known: np.ndarray) -> np.ndarray:
    """By the mean and deviation of the known rows of another table; 0 in rows that are not known."""
    mean, deviation = like[known].mean(axis=0), like[known].std(axis=0)
    found = np.clip((table - mean) / np.where(deviation > 0, deviation, 1.0), -LIMIT, LIMIT)
    found = np.where(known[:, None] & (np.abs(found) > TINY), found, 0.0)
    return np.asarray(found, np.float32)
