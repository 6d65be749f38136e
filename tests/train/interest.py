"""A small click model over a history, whose item table may be sharded."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrec import losses
from jaxrec.nn.layers.embedding import lookup
from jaxrec.train.epoch import Plan, shuffled
from jaxrec.train.exchange import Exchange, bucketed, gathered
from jaxrec.train.sharded import Table
from jaxrec.types import Array, Batch, Context, Key, Task, Variables

NUM_ITEMS, DIM, EXAMPLES, BATCH, LENGTH, CAPACITY = 50, 4, 40, 8, 5, 40


class Interest(nn.Module):
    """A click on an item after a history: attention by product with the target, then two layers."""

    num_items: int

    @nn.compact
    def __call__(self, item: Array, history: Array) -> Array:
        table = self.param("item_embedding", nn.initializers.normal(0.1), (self.num_items + 1, DIM))
        target, events = lookup(table, item), lookup(table, history)
        weights = nn.softmax(jnp.where(history > 0, jnp.einsum("bd,bld->bl", target, events), -1e9))
        interest = jnp.einsum("bl,bld->bd", jnp.where(history > 0, weights, 0.0), events)
        hidden = nn.relu(nn.Dense(8)(jnp.concatenate([target, interest, target * interest], axis=-1)))
        return nn.Dense(1)(hidden)[:, 0]


def clicks(num_items: int) -> Task:
    """The task of the model built for so many ids. The key draws a negative for each example."""
    model = Interest(num_items)

    def prepare(key: Key, examples: Mapping[str, Array], context: Context) -> Batch:
        at = examples["example"]
        drawn = jax.random.randint(key, at.shape, 1, NUM_ITEMS + 1)
        return {
            "item": context["item"][at], "negative": drawn, "history": context["history"][at],
            "mask": examples["mask"],
        }  # fmt: skip

    def init(key: Key, batch: Batch) -> Variables:
        return model.init(key, batch["item"], batch["history"])

    def loss(variables: Variables, batch: Batch, key: Key, axis_name: str | None = None) -> tuple[Any, Any]:
        scores = [model.apply(variables, batch[side], batch["history"]) for side in ("item", "negative")]
        return {"bpr": losses.bpr(*scores, where=batch["mask"], axis_name=axis_name)}, {}

    def predict(variables: Variables, batch: Batch) -> Any:
        return model.apply(variables, batch["item"], batch["history"])

    return Task(prepare, init, loss, predict)


@functools.cache
def context() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    history = rng.integers(1, NUM_ITEMS + 1, (EXAMPLES, LENGTH)).astype(np.int32)
    history[np.arange(LENGTH) < rng.integers(0, LENGTH, (EXAMPLES, 1))] = 0
    return {"item": rng.integers(1, 10, EXAMPLES).astype(np.int32), "history": history}


def plan() -> Plan:
    return shuffled(EXAMPLES - 3, BATCH)  # a masked tail


def table(exchange: Exchange | None = None, tx: Any = None, **kwargs: Any) -> dict[str, Table]:
    settings: dict[str, Any] = {"capacity": CAPACITY, "blocks": 4, **kwargs}
    tx = optax.adagrad(0.1) if tx is None else tx
    columns = ("item", "negative", "history")
    return {
        "item_embedding": Table(
            columns, NUM_ITEMS + 1, DIM, tx=tx, exchange=exchange or gathered(), **settings
        )
    }


DENSE = optax.adam(0.01)
EXCHANGES: dict[str, Exchange] = {"gathered": gathered(), "bucketed": bucketed(CAPACITY)}
