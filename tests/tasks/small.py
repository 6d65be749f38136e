"""A small split and encoder for the tests of tasks and training, and what a loop would read from it."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.augment import operators as ops
from jaxrec.augment.views import View, plan_in_blocks
from jaxrec.data.events.batching import next_item_columns
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.events.split import Split, leave_one_out
from jaxrec.nn.layers.dropout import Dropout
from jaxrec.tasks.contrastive import Views
from jaxrec.types import Array, Task, Variables

NUM_ITEMS, MAX_LEN = 30, 6
LENGTHS = (3, 8, 1, 5, 12, 2, 4, 9, 7, 5, 6)  # 1, 2: in training only; 12: longer than the encoder reads


@functools.cache
def split() -> Split:
    """Random sequences with repeated items; the validation and test items, 21..30, are not in training."""
    rng = np.random.default_rng(0)
    rows = []
    for n in LENGTHS:
        row = rng.integers(1, 21, n)
        if n > 2:
            row[-2:] = rng.integers(21, 31, 2)
        rows.append(row.tolist())
    times = [np.cumsum(rng.integers(0, 1000, n)).tolist() for n in LENGTHS]
    return leave_one_out(Sequences.from_lists("small", rows, times, num_items=NUM_ITEMS), short="train")


def columns(**kwargs: Any) -> dict[str, np.ndarray]:
    """The resident columns; user 3 has no training event at all."""
    found = next_item_columns(split(), **kwargs)
    found["length"][3] = 0
    return found


def training_events(user: int) -> list[int]:
    """Items that training may read of a user."""
    return [] if user == 3 else split().sequences.user_items(user)[: split().train_length[user]].tolist()


class Averager(nn.Module):
    """The least an encoder can be, quick to compile: the mean of the events so far, through one layer."""

    dropout: float = 0.0
    max_len: int = MAX_LEN
    dim: int = 8

    @nn.compact
    def __call__(
        self,
        items: Array,
        *,
        positions: Array | None = None,
        segments: Array | None = None,
        rows: Array | None = None,
        train: bool,
    ) -> Array:
        length = items.shape[1]
        positions = jnp.arange(length) if positions is None else positions
        segments = jnp.ones_like(items) if segments is None else segments
        table = self.param("items", nn.initializers.normal(0.5), (NUM_ITEMS + 1, self.dim))
        places = self.param("places", nn.initializers.normal(0.5), (self.max_len, self.dim))
        visible = (segments[:, :, None] == segments[:, None, :]) & jnp.tri(length, dtype=bool)
        x = jnp.take(table, items, axis=0) + jnp.take(places, positions, axis=0)
        x = x + nn.tanh(nn.Dense(self.dim)((visible / visible.sum(-1, keepdims=True)) @ x))
        return Dropout(self.dropout)(x, train=train, rows=rows)

    def item_table(self) -> Array:
        return self.get_variable("params", "items")


def compiled(task: Task) -> Task:
    """The same functions as one program each: op by op every operation would be compiled for itself."""
    return Task(*map(jax.jit, task))


@functools.cache
def variables_of(model: Averager) -> Variables:
    """Parameters of a model, its bias drawn too."""
    items = np.ones((1, MAX_LEN), np.int32)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), items, train=False))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: 0.5 * rng.normal(size=leaf.shape).astype(np.float32), shapes)


def views(width: int) -> Views:
    """Random crops and masks."""
    view = View((ops.crop(0.6), ops.mask(0.4)), window=MAX_LEN)
    return Views(view, view, width)


def contrastive_columns(chosen: Views) -> dict[str, Any]:
    """The resident columns with what views read beside them; user 1 is left un-augmented."""
    found: dict[str, Any] = jax.tree.map(jnp.asarray, columns())
    length = jnp.maximum(found["length"] - 1, 0)
    return found | {
        "plan": jax.jit(lambda n: plan_in_blocks(chosen.first, None, n, width=chosen.width))(length),
        "similar": None,
        "unaugmented": jnp.arange(len(LENGTHS)) == 1,
    }
