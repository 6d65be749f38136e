"""Chance: every user has an order of the items of its own, which knows nothing of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax

from jaxrec.baselines.events import EventData, training_events
from jaxrec.data.events.training_events import TrainingEvents
from jaxrec.types import Array, Baseline, Context, Key, Retriever, Variables


def fold_keys(key: Key) -> tuple[Key, Key]:
    """The key itself, into which users are folded, and one that no user's number gives."""
    return key, jax.random.fold_in(key, 2**31)


def random(
    data: EventData | TrainingEvents, *, dim: int = 32, keys: Callable[[Key], Any] = fold_keys
) -> Baseline:
    """score(u, i) = q_u · v_i, where q_u and v_i are `dim` numbers of a standard normal distribution.

    keys: the two keys, of the queries and of the items, that are made of a seed's key. `jax.random.split` is
    the other way, by which the stored results of click sessions were drawn.

    Raises:
      ValueError: dim is below 1.
    """
    if dim < 1:
        raise ValueError(f"dim={dim}: must be at least 1")
    size = training_events(data).num_items + 1

    def query(variables: Variables, queries: Mapping[str, Array], context: Context) -> Array:
        key, _ = keys(variables["key"])
        of_user = jax.vmap(lambda user: jax.random.fold_in(key, user))(queries["user"])
        return jax.vmap(lambda k: jax.random.normal(k, (dim,)))(of_user)

    def items(variables: Variables) -> Array:
        _, key = keys(variables["key"])
        return jax.random.normal(key, (size, dim))

    return Baseline("random", Retriever(query, items), {})
