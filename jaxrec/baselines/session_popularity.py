"""Session popularity: S-POP of Hidasi et al. (ICLR 2016, arXiv:1511.06939, section 4).

Recommends the most popular items of the session so far, so that the list changes as the session goes on;
global popularity decides between equal ones.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.baselines.events import EventData
from jaxrec.baselines.popularity import count_events
from jaxrec.data.events.training_events import TrainingEvents
from jaxrec.types import Array, Baseline, Context, Scorer, Variables


def session_popularity(data: EventData | TrainingEvents) -> Baseline:
    """score(s, i) = c_si + p_i: the clicks c_si of item i in session s so far, and 0 <= p_i < 1.

    p_i orders the items by their training events n_i, equal ones equal: the number of distinct n_j below n_i
    over the number of distinct n_j. Unlike a share of all events it tells neighbours in the order apart in
    float32, also when clicks are added to it.
    """
    _, order = np.unique(count_events(data), return_inverse=True)
    return Baseline(
        "session-popularity", Scorer(_scores), {"order": (order / (order.max() + 1)).astype(np.float32)}
    )


def _scores(variables: Variables, queries: Mapping[str, Array], context: Context) -> Array:
    items, length = jnp.asarray(context["items"]), queries["length"]
    end = context["start"][queries["user"]] + length
    user = jnp.arange(end.shape[0])

    def add_click(back: Array, scores: Array) -> Array:
        real = back < length
        click = jnp.where(real, items[jnp.where(real, end - 1 - back, 0)], 0)
        return scores.at[user, click].add(real.astype(scores.dtype), unique_indices=True)

    longest = jnp.minimum(length.max(), items.shape[0])
    popular = jnp.broadcast_to(variables["order"], (end.shape[0], len(variables["order"])))
    return jax.lax.fori_loop(0, longest, add_click, popular)
