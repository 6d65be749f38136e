"""A small interaction matrix for the tests of models of pairs, and the columns that a loop reads."""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxrec.data.events.held_out import HeldOut, from_parts
from jaxrec.data.events.training_events import TrainingEvents
from jaxrec.protocols import retrieval

NUM_USERS, NUM_ITEMS = 6, 9
# User 3 has no training item, and no user has a training item 8 or 9.
TRAINING = ((1, 4, 2), (5, 3), (7, 1, 2, 3, 4, 6), (), (2,), (6, 7))
TEST = ((9, 3), (1,), (), (5,), (8,), ())
PAIRS = sorted((user, item) for user, items in enumerate(TRAINING) for item in items)
MOST = max(len(items) for items in TRAINING)


@functools.cache
def split() -> HeldOut:
    columns = [
        (
            np.array([user for user, items in enumerate(rows) for _ in items], np.int64),
            np.array([item for items in rows for item in items], np.int64),
        )
        for rows in (TRAINING, ((),) * NUM_USERS, TEST)
    ]
    return from_parts(
        "small",
        tuple(columns),
        num_items=NUM_ITEMS,
        rule="by hand",
        user_ids=np.arange(NUM_USERS),
        item_ids=np.arange(NUM_ITEMS),
    )


@functools.cache
def data() -> retrieval.Data:
    return retrieval.resident(split())


def events() -> TrainingEvents:
    return split().training_events()


@functools.cache
def context() -> dict[str, Any]:
    """The resident columns."""
    return {name: jnp.asarray(column) for name, column in data().columns.items()}


def examples(*numbers: int, last: bool = True) -> dict[str, Any]:
    """The pairs of these numbers; `last` False masks the last one, as in the tail of an epoch."""
    mask = np.ones(len(numbers), bool)
    mask[-1] = last
    return {"example": jnp.array(numbers), "mask": jnp.asarray(mask)}
