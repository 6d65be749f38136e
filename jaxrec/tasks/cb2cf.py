"""Regression of a factor model's vectors of items on their content (CB2CF, arXiv:1611.00384).

An example is an item that has training events. Context columns: those of `data.events.factor_columns`, with
content, and user_gram (`columns`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from jaxrec import losses
from jaxrec.tasks.encoder import numbered, only_params
from jaxrec.types import SHARED, Array, Batch, Context, Key, Task, Variables


def columns(factors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`factor_columns` and user_gram [K, K]: the mean of u uᵀ over the users that have training events.

    Raises:
      ValueError: the items have no content.
    """
    if "item_content" not in factors:
        raise ValueError("item_content: there is none; give the content of items to `factor_columns`")
    users = factors["user_teacher"][factors["user_teacher"].any(axis=1)].astype(np.float64)
    return {**factors, "user_gram": (users.T @ users / max(len(users), 1)).astype(np.float32)}


def cb2cf(model: Any, *, loss: Literal["vectors", "scores"] = "vectors", damping: float = 0.0) -> Task:
    """The loss "vectors" or "scores"; predict gives vectors [B, K].

    Args:
      model: `nn.retrieval.cb2cf.CB2CF`, or another module of parameters that is called as it is.
      loss: of the difference d between an item's vector and what the model makes of its content. "vectors":
        the mean of its squares, as in irspack. "scores": dᵀ G d with the mean G of u uᵀ over users, which is
        the mean of the squared differences of all users' scores.
      damping: c of an item's weight n / (n + c) for its n training events, since the vector of a rare item is
        mostly regulariser; 0: items count alike.

    Raises:
      ValueError: another loss, or a damping that is negative or not finite.
    """
    if loss not in ("vectors", "scores"):
        raise ValueError(f"loss={loss!r}: must be 'vectors' or 'scores'")
    if not 0 <= damping < float("inf"):
        raise ValueError(f"damping={damping}: must be 0 or more, and finite")

    def prepare(key: Key, examples: Mapping[str, Array], context: Context) -> Batch:
        item = jnp.asarray(context["warm_items"])[examples["example"]]
        target, count = context["item_teacher"][item], context["item_count"][item]
        gram = context["user_gram"] if loss == "scores" else jnp.eye(target.shape[1]) / target.shape[1]
        return {
            "content": context["item_content"][item],
            "target": target,
            "weight": count / (count + damping),
            "mask": examples["mask"],
            "row": jnp.arange(item.shape[0], dtype=jnp.int32),
            SHARED: {"gram": gram},
        }

    def init(key: Key, batch: Batch) -> Variables:
        return only_params(model.init(key, batch["content"][:1], train=False), "cb2cf")

    def value(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        found = model.apply(
            variables,
            batch["content"],
            train=True,
            rngs={"dropout": key},
            **numbered(model, batch["row"]),
        )
        difference = found - batch["target"]
        errors = jnp.sum((difference @ batch[SHARED]["gram"]) * difference, axis=-1)
        mean = losses.weighted_mean(errors, batch["weight"], where=batch["mask"], axis_name=axis_name)
        return {loss: mean}, {}

    def predict(variables: Variables, batch: Batch) -> Array:
        return model.apply(variables, batch["content"], train=False)

    return Task(prepare, init, value, predict)
