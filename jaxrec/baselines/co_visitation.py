"""Co-visitation by distance: how near items stand to each other in the sequences of training."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np
from scipy.sparse import csr_matrix

from jaxrec import packing
from jaxrec.baselines.events import EventData, training_events
from jaxrec.baselines.matrix import BLOCK, check_neighbours, largest
from jaxrec.baselines.rows import blocks_of, sum_rows
from jaxrec.data.events.training_events import TrainingEvents
from jaxrec.types import Array, Baseline, Context, Scorer, Variables

Decay = Callable[[np.ndarray], np.ndarray]


def by_distance(distance: np.ndarray) -> np.ndarray:
    """1 / d, for d from 1."""
    return 1 / distance


def by_recency(events_after: np.ndarray) -> np.ndarray:
    """1 / (1 + r), for r from 0."""
    return 1 / (1 + events_after)


def co_visitation(
    data: EventData | TrainingEvents,
    *,
    window: int | None = None,
    decay: Decay = by_distance,
    forward: bool = True,
    backward: bool = True,
    history: int = 10,
    recency: Decay = by_recency,
    neighbours: int | None = None,
) -> Baseline:
    """score(u, j) = Σ over the last `history` events, i being the item of the event, of recency(r) c(i, j).

    r is the number of events after it. c(i, j) = Σ decay(d) over the pairs of an event of i and one of j that
    are d = 1 … window events apart in a sequence of training (None: in all of it), c(i, i) = 0. forward:
    pairs in which j comes after i count. backward: pairs in which it comes before i count. Of each i the
    `neighbours` largest c are kept (None: all), of equal ones those of the smaller ids.

    Raises:
      ValueError: window, history or neighbours is below 1, neither direction counts, or decay or recency
        gives a number that is negative or not finite.
    """
    for name, value in (("window", window), ("history", history)):
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    if not forward and not backward:
        raise ValueError("forward=False, backward=False: no pair would count; set one of them")
    check_neighbours(neighbours)
    weights = _values(recency, np.arange(history), "recency")
    after = count_by_distance(training_events(data), window, decay)
    counts = after * float(forward) + after.T.tocsr() * float(backward)
    variables = {**blocks_of(largest(counts.astype(np.float32), neighbours)), "recency": weights[::-1].copy()}
    return Baseline("co-visitation", Scorer(_scores), variables)


def count_by_distance(events: TrainingEvents, window: int | None, decay: Decay) -> csr_matrix:
    """Σ decay(d) over the pairs in which item j (column) comes d events after another item i (row)."""
    start = np.flatnonzero(np.diff(events.group, prepend=events.group[0] - 1))
    length = np.diff(np.append(start, len(events.group)))
    left = np.repeat(length, length) - (np.arange(len(events.group)) - np.repeat(start, length)) - 1
    longest = int(length.max()) - 1 if window is None else min(window, int(length.max()) - 1)
    value = _values(decay, np.arange(1, longest + 1), "decay")
    size = events.num_items + 1
    total = csr_matrix((size, size), dtype=np.float64)
    pairs: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    here, waiting = np.arange(len(events.group)), 0
    for distance in range(1, longest + 1):
        here = here[left[here] >= distance]
        row, col = events.item[here], events.item[here + distance]
        row, col = row[row != col], col[row != col]
        pairs.append((np.full(len(row), value[distance - 1], np.float64), row, col))
        waiting += len(row)
        if waiting > BLOCK or distance == longest:
            amount, row, col = (np.concatenate(part) for part in zip(*pairs, strict=True))
            total = total + csr_matrix((amount, (row, col)), shape=total.shape)
            pairs, waiting = [], 0
    return total


def _values(decay: Decay, at: np.ndarray, name: str) -> np.ndarray:
    value = np.broadcast_to(np.asarray(decay(at), np.float32), at.shape)
    if not (np.isfinite(value) & (value >= 0)).all():
        raise ValueError(
            f"{name}: gives {value.min()}..{value.max()}: must be 0 or more everywhere, and finite"
        )
    return value


def _scores(variables: Variables, queries: Mapping[str, Array], context: Context) -> Array:
    recency, items = jnp.asarray(variables["recency"]), jnp.asarray(context["items"])
    width, batch = recency.shape[0], queries["user"].shape[0]
    length = jnp.minimum(queries["length"], width)
    end = jnp.asarray(context["start"])[queries["user"]] + queries["length"]
    ids = packing.window(items, end, length, width)
    return sum_rows(
        variables,
        ids.reshape(-1),
        jnp.arange(batch) * width + width - length,
        length,
        num_columns=variables["first"].shape[0] - 1,
        factor=jnp.tile(recency, batch),
    )
