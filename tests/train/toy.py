"""The smallest task that a training loop can run: matrix factorisation with negatives and noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrec import losses
from jaxrec.index.rank import make_rank
from jaxrec.train.epoch import Plan, shuffled
from jaxrec.train.evaluate import ranking_metrics
from jaxrec.train.fit import Fitted, Phase, Selection, fit
from jaxrec.types import Array, Batch, Context, Evaluation, Key, Protocol, Retriever, Task, Variables

NUM_USERS, NUM_ITEMS, BATCH = 10, 12, 4
METRIC = "ndcg@5"


def factors(
    calls: list[str] | None = None, *, scale: float = 1.0, name: str = "bce", noise: float = 0.1
) -> Task:
    """One positive a user, against a random negative; the noise of an example depends on its row number.

    calls: grows by one entry each time the losses are traced. scale: multiplies the loss.
    """

    def prepare(key: Key, examples: Mapping[str, Array], context: Context) -> Batch:
        user = examples["example"]
        negatives = jax.random.randint(key, user.shape, 1, NUM_ITEMS + 1)
        row = jnp.arange(len(user))
        return {
            "user": user, "positive": context["positive"][user], "negative": negatives, "row": row,
            "mask": examples["mask"],
        }  # fmt: skip

    def init(key: Key, batch: Batch) -> Variables:
        users, items = jax.random.split(key)
        return {
            "params": {
                "users": 0.3 * jax.random.normal(users, (NUM_USERS, 4)),
                "items": 0.3 * jax.random.normal(items, (NUM_ITEMS + 1, 4)),
            }
        }

    def loss(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        if calls is not None:
            calls.append(name)
        params = variables["params"]
        keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(batch["row"])
        query = params["users"][batch["user"]]
        query = query + noise * jax.vmap(lambda k: jax.random.normal(k, (4,)))(keys)
        scores = [(query * params["items"][batch[side]]).sum(-1) for side in ("positive", "negative")]
        value = losses.bce(*scores, where=batch["mask"], axis_name=axis_name)
        return {name: scale * value}, {}

    return Task(prepare, init, loss, lambda variables, batch: variables["params"]["users"][batch["user"]])


RETRIEVER = Retriever(
    query=lambda variables, queries, context: variables["params"]["users"][queries["user"]],
    items=lambda variables: variables["params"]["items"],
)


def context() -> dict[str, np.ndarray]:
    """Two items a user, of which the second is the positive."""
    rng = np.random.default_rng(0)
    items = np.concatenate([rng.choice(NUM_ITEMS, 2, replace=False) + 1 for _ in range(NUM_USERS)])
    items = items.astype(np.int32)
    return {"items": items, "start": 2 * np.arange(NUM_USERS, dtype=np.int32), "positive": items[1::2].copy()}


def plan(**kwargs: Any) -> Plan:
    return shuffled(NUM_USERS, BATCH, **kwargs)


def queries(batches: int = 4, size: int = 3) -> dict[str, np.ndarray]:
    """Every user asked for their positive, with a padded tail."""
    columns = {
        "user": np.arange(NUM_USERS, dtype=np.int32),
        "length": np.ones(NUM_USERS, np.int32),
        "target": context()["positive"],
        "mask": np.ones(NUM_USERS, bool),
    }
    pad = batches * size - NUM_USERS
    return {name: np.pad(column, (0, pad)).reshape(batches, size) for name, column in columns.items()}


def evaluation(retriever: Retriever = RETRIEVER, **kwargs: Any) -> Evaluation:
    """Ranks every user's positive among all items. kwargs: parts of it to replace."""
    rank = make_rank(retriever, Protocol(), num_items=NUM_ITEMS, history=2)
    return Evaluation(rank, queries(), ranking_metrics((1, 5)), Protocol())._replace(**kwargs)


def selection(asked: Evaluation | None = None, **kwargs: Any) -> Selection:
    return Selection(asked or evaluation(), **{"metric": METRIC, **kwargs})


def phases(*epochs: int, task: Task | None = None) -> list[Phase]:
    """A phase for each number of epochs, the tasks of which differ in the size of their loss."""
    return [Phase(f"p{i}", task or factors(scale=1.0 + i), n) for i, n in enumerate(epochs)]


def run(workdir: Path, *, epochs: Sequence[int] = (3,), task: Task | None = None, **kwargs: Any) -> Fitted:
    """`fit` with small defaults."""
    settings: dict[str, Any] = {
        "tx": optax.adam(0.05), "plan": plan(), "context": context(), "selection": selection(),
        "seeds": (0,), "workdir": workdir, "description": {"model": "factors"}, "progress": False,
    }  # fmt: skip
    return fit(phases(*epochs, task=task), **{**settings, **kwargs})


def same_bits(a: Any, b: Any) -> None:
    """Raises if two trees differ in structure or in a bit."""
    structures: list[Any] = [jax.tree.structure(a), jax.tree.structure(b)]
    assert structures[0] == structures[1]
    for path, x in jax.tree_util.tree_flatten_with_path(a)[0]:
        y = dict(jax.tree_util.tree_flatten_with_path(b)[0])[path]
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y), err_msg=jax.tree_util.keystr(path))


def without_times(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A history apart from what a clock says."""
    return [{k: v for k, v in entry.items() if not k.endswith("seconds")} for entry in history]
