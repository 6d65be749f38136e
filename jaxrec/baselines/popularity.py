"""Popularity: POP of Hidasi et al. (ICLR 2016, arXiv:1511.06939, section 4). No model should do worse."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from jaxrec.baselines.events import EventData, training_events
from jaxrec.data.events.training_events import TrainingEvents
from jaxrec.types import Array, Baseline, Context, Retriever, Variables


def popularity(data: EventData | TrainingEvents) -> Baseline:
    """score(i) = n_i, the number of training events of item i (of sessions: its training clicks)."""
    return Baseline("popularity", Retriever(_query, _items), {"count": count_events(data).astype(np.float32)})


def count_events(data: EventData | TrainingEvents) -> np.ndarray:
    """Training events of each item, int [V + 1]."""
    events = training_events(data)
    return np.bincount(events.item, minlength=events.num_items + 1)


def _query(variables: Variables, queries: Mapping[str, Array], context: Context) -> Array:
    return jnp.ones((queries["user"].shape[0], 1))


def _items(variables: Variables) -> Array:
    return jnp.asarray(variables["count"])[:, None]
