"""A few pairs of users and items for the tests of tasks and models, and the columns that a loop reads."""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxrec.data.events.pairs import pair_columns
from jaxrec.data.events.training_events import TrainingEvents

NUM_USERS, NUM_ITEMS = 6, 9
# User 3 has no event, user 1 has one item twice, and no training event is of item 8 or 9.
TRAINING = ((1, 4, 2), (5, 3, 5), (7, 1, 2, 3, 4, 6), (), (2,), (6, 7))
PAIRS = sorted((user, item) for user, items in enumerate(TRAINING) for item in set(items))
MOST = max(len(set(items)) for items in TRAINING)


def events() -> TrainingEvents:
    user = [u for u, items in enumerate(TRAINING) for _ in items]
    return TrainingEvents(np.array(user), np.array([i for items in TRAINING for i in items]), NUM_ITEMS)


@functools.cache
def context() -> dict[str, Any]:
    """The resident columns: pairs, and the events with the training part of each user."""
    length = np.array([len(items) for items in TRAINING], np.int32)
    columns = {
        **pair_columns(events(), num_users=NUM_USERS),
        "items": events().item,
        "start": (np.cumsum(length) - length).astype(np.int32),
        "length": length,
    }
    return {name: jnp.asarray(column) for name, column in columns.items()}


def examples(*numbers: int, last: bool = True) -> dict[str, Any]:
    """The pairs of these numbers; `last` False masks the last one, as in the tail of an epoch."""
    mask = np.ones(len(numbers), bool)
    mask[-1] = last
    return {"example": jnp.array(numbers), "mask": jnp.asarray(mask)}
