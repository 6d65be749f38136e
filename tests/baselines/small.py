"""Small data for the baselines: sessions, sequences, and histories of any length."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from hypothesis import strategies as st

from jaxrec.baselines import TrainingEvents
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.events.sessions import Sessions, split_sessions
from jaxrec.data.events.split import leave_one_out
from jaxrec.data.sources.session_logs import arrays_from_lists
from jaxrec.protocols import next_item, sessions
from jaxrec.types import Baseline, Retriever

TRAIN = [[1, 2, 1], [2, 3], [1, 2, 4], [3, 4, 3, 2], [5, 1], [2, 1], [6, 2]]
TEST = [([2, 4, 2], 4), ([2, 4], 2), ([2], 4), ([7], 1), ([5, 6], 7)]  # 7 is in no training session
NUM_ITEMS = 7


@functools.cache
def session_data() -> sessions.Data:
    lists = arrays_from_lists(TRAIN, ([prefix for prefix, _ in TEST], [target for _, target in TEST]), "made")
    return sessions.resident(split_sessions(Sessions.from_arrays("made", **lists), share=0.2))


@functools.cache
def sequence_data() -> next_item.Data:
    """Users whose last two items are for validation and test; one of them comes back to an item."""
    rows = [[1, 2, 3, 1], [2, 3, 4, 5, 6], [6, 5, 1], [1, 2, 4, 7, 3], [3, 1, 2, 5]]
    return next_item.resident(leave_one_out(Sequences.from_lists("made", rows)))


def training_rows(events: TrainingEvents) -> list[list[int]]:
    """The items of each group."""
    pairs = zip(events.group.tolist(), events.item.tolist(), strict=True)
    return [[item for _, item in group] for _, group in itertools.groupby(pairs, key=lambda pair: pair[0])]


def events_of(rows: Sequence[Sequence[int]], num_items: int = NUM_ITEMS) -> TrainingEvents:
    group = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    return TrainingEvents(group, np.concatenate(rows).astype(int), num_items)


def histories(
    rows: Sequence[Sequence[int]], events: int = 0
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A batch of queries, one a history, and the columns that hold these, filled up to `events` events."""
    lengths = np.array([len(row) for row in rows], np.int32)
    items = np.concatenate([np.zeros(0), *rows]).astype(np.int32)
    context = {
        "items": np.pad(items, (0, max(events - len(items), 0)), constant_values=1),
        "start": (np.cumsum(lengths) - lengths).astype(np.int32),
    }
    return {"user": np.arange(len(rows), dtype=np.int32), "length": lengths}, context


@functools.partial(jax.jit, static_argnums=0)
def _scores(model: Any, variables: Any, queries: Any, context: Any) -> Any:
    if isinstance(model, Retriever):
        return model.query(variables, queries, context) @ model.items(variables).T
    return model.scores(variables, queries, context)


def scores(
    baseline: Baseline,
    queries: Mapping[str, np.ndarray],
    context: Mapping[str, np.ndarray],
    seed: int = 0,
    padding: bool = False,
) -> np.ndarray:
    """Scores of items 1..V for a batch of queries, [B, V]; with padding of ids 0..V."""
    variables = {name: array[0] for name, array in baseline.for_seeds([seed]).items()}
    found = np.asarray(_scores(baseline.model, variables, dict(queries), dict(context)))
    return found if padding else found[:, 1:]


def session_queries(data: sessions.Data) -> dict[str, np.ndarray]:
    """All test queries of sessions in one batch without padding."""
    return {name: column.reshape(-1) for name, column in data.split.batched("test", len(TEST)).items()}


ITEM = st.integers(1, NUM_ITEMS)
GROUPS = st.lists(st.lists(ITEM, min_size=1, max_size=6), min_size=1, max_size=8)
HISTORIES = st.lists(st.lists(ITEM, max_size=5), min_size=1, max_size=4)


def scores_after(baseline: Baseline, rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Scores of items 1..V after each history, in shapes that are the same for all of `HISTORIES`."""
    padded = [*rows, *[[]] * (4 - len(rows))]
    queries, context = histories(padded, events=24)
    return scores(baseline, queries, context)[: len(rows)]
