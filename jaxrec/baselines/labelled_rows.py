"""What methods without gradient descent read of labelled examples: columns of ids and numbers on the host.

Examples with a history of events also have, for each column of items, how many events share the target's
value, and how many events there are. A linear model or a tree can't find that in a list of ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.data.tables.click_histories import SHARED
from jaxrec.nn.layers.features import Categorical, Numeric
from jaxrec.protocols.impressions import Data
from jaxrec.types import HISTORY, Array, Batch

CHUNK = 8192  # examples whose histories are gathered at a time
MATCHES, EVENTS = "matches_", "events"  # names of the columns of a history
SAMPLED = "negative_"  # prefix of columns that training alone has


class Rows(NamedTuple):
    """N examples on the host.

    ids: {column: int32 [N], or [N, A] of several values, padded with 0}. sizes: {column: ids, that of 0
    counted}. numbers: {column: float32 [N]}. labels: {task: float32 [N]}. spaces: {task: bool [N]}, True for
    the examples that have this label.
    """

    ids: Mapping[str, np.ndarray]
    sizes: Mapping[str, int]
    numbers: Mapping[str, np.ndarray]
    labels: Mapping[str, np.ndarray]
    spaces: Mapping[str, np.ndarray]

    @property
    def num_rows(self) -> int:
        """N."""
        return len(next(iter(self.labels.values())))

    def take(self, examples: np.ndarray) -> Rows:
        """Some of the examples, by index or by a mask."""
        parts = (self.ids, self.numbers, self.labels, self.spaces)
        ids, numbers, labels, spaces = ({name: c[examples] for name, c in part.items()} for part in parts)
        return Rows(ids, self.sizes, numbers, labels, spaces)


class Parts(NamedTuple):
    """The examples of a split."""

    train: Rows
    validation: Rows
    test: Rows


def parts_of(data: Data, fields: Sequence[Categorical | Numeric]) -> Parts:
    """The columns `fields` of all parts of a split, whatever their names.

    Where the data have histories (`expand`), fields of events and of sampled items are left out, and counts
    of the events are read in their place.

    Raises:
      ValueError: a task is a regression, or a field is no column of the examples.
    """
    if data.regression:
        raise ValueError(
            f"{data.name}: tasks {list(data.regression)} are numbers: base rate, logistic regression and "
            "boosted trees are of labels 0 and 1; leave these rows out"
        )
    own = list(fields)
    if data.expand is not None:
        own = [field for field in fields if not field.name.startswith((HISTORY, SAMPLED))]
    train = {name: np.asarray(column) for name, column in data.columns.items() if name != SHARED}
    flat = [_flat(part) for part in (data.validation, data.test)]
    return Parts(*(_rows(data, own, columns) for columns in (train, *flat)))


def _flat(batches: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The real examples of batches [batches, B, …], in one column each."""
    real = np.asarray(batches["mask"]).reshape(-1)
    return {
        name: np.asarray(column).reshape(real.size, *np.shape(column)[2:])[real]
        for name, column in batches.items()
        if name != "mask"
    }


def _rows(data: Data, fields: Sequence[Categorical | Numeric], columns: dict[str, np.ndarray]) -> Rows:
    count = len(columns[f"label/{data.tasks[0]}"])
    found = columns if data.expand is None else _expanded(data, fields, columns)
    missing = [field.name for field in fields if field.name not in found]
    if missing:
        raise ValueError(f"{data.name}: fields {missing} are no columns, which are {sorted(found)}")
    ids = {f.name: found[f.name] for f in fields if isinstance(f, Categorical)}
    numbers = {f.name: found[f.name] for f in fields if isinstance(f, Numeric)}
    if data.expand is not None:
        numbers |= {name: c for name, c in found.items() if name == EVENTS or name.startswith(MATCHES)}
    return Rows(
        ids=ids,
        sizes={f.name: f.vocab_size for f in fields if isinstance(f, Categorical)},
        numbers=numbers,
        labels={task: columns[f"label/{task}"] for task in data.tasks},
        spaces={task: columns.get(f"space/{task}", np.ones(count, bool)) for task in data.tasks},
    )


def _expanded(
    data: Data, fields: Sequence[Categorical | Numeric], columns: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The columns that a model with histories reads of its target and user, and counts of its events."""
    names = [field.name for field in fields]
    expand: Any = data.expand

    @jax.jit
    def read(batch: Batch, context: Any) -> dict[str, Array]:
        whole = expand(batch, context)
        found = {name: whole[name] for name in names if name in whole}
        for name in names:
            if (history := whole.get(f"{HISTORY}{name}")) is not None:
                found[MATCHES + name] = jnp.log1p(_matches(whole[name], history))
        if (items := whole.get(f"{HISTORY}item")) is not None:
            found[EVENTS] = jnp.log1p(jnp.sum(items != 0, axis=1, dtype=jnp.float32))
        return found

    total = len(columns[f"label/{data.tasks[0]}"])
    chunks = []
    for first in range(0, total, CHUNK):
        batch = {name: column[first : first + CHUNK] for name, column in columns.items()}
        chunks.append({name: np.asarray(c) for name, c in read(batch, data.columns).items()})
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _matches(target: Array, history: Array) -> Array:
    """How many events share a value with the target: [B] and [B, L], or [B, A] and [B, L, A], → [B]."""
    if target.ndim == 1:
        return jnp.sum((history == target[:, None]) & (history != 0), axis=1, dtype=jnp.float32)
    same = (history[..., None] == target[:, None, None, :]) & (history[..., None] != 0)
    return jnp.sum(same.any(axis=(-2, -1)), axis=1, dtype=jnp.float32)
