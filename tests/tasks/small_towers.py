"""A small interaction matrix with features of users and items, for the tests of two towers."""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxrec.data.events.side_features import SideFeatures, tower_columns
from jaxrec.nn.layers.features import Categorical
from jaxrec.nn.retrieval.two_tower import Frozen
from tests.tasks import small_pairs
from tests.tasks.small_pairs import NUM_ITEMS, NUM_USERS

WIDTH = 3  # of the vectors of text
USERS = SideFeatures(
    {"kind": np.array([0, 1, 2, 0, 1, 2, 2])}, {"kind": 2}, allow_empty=True
)  # user row 3 has no value
ITEMS = SideFeatures(
    {"tags": np.array([[0, 0], [1, 0], [2, 3], [4, 1], [0, 0], [3, 0], [2, 0], [1, 2], [4, 0], [2, 4]])},
    {"tags": 4},
    {
        "text": np.concatenate(
            [np.zeros((1, WIDTH)), np.random.default_rng(0).normal(size=(NUM_ITEMS, WIDTH))]
        )
    },
)
VIEW = np.array([0, 1, 2, 1, 2, 1, 2, 1, 2, 1], np.int32)

USER_ID = Categorical("user_id", NUM_USERS + 1, 4)
ITEM_ID = Categorical("item_id", NUM_ITEMS + 1, 4)
KIND = Categorical("user_kind", 3, 2)
TAGS = Categorical("item_tags", 5, 3)
TEXT = Frozen("item_text", WIDTH)
HISTORY = Categorical("history_id", NUM_ITEMS + 1, 4, vocabulary="item_id")
HISTORY_TAGS = Categorical("history_tags", 5, 3, vocabulary="item_tags")


@functools.cache
def columns() -> dict[str, np.ndarray]:
    """What two towers read, on the host."""
    data = small_pairs.data().columns
    found = tower_columns(
        data["pair_user"],
        data["pair_item"],
        num_users=NUM_USERS,
        num_items=NUM_ITEMS,
        users=USERS,
        items=ITEMS,
    )
    return {**data, **found, "item_view": VIEW}


@functools.cache
def context() -> dict[str, Any]:
    """The resident columns."""
    return {name: jnp.asarray(column) for name, column in columns().items()}
