"""What a user's events say of the user: one of T classes, read at an id of its own behind the events.

PeterRec's way (Yuan et al., SIGIR 2020, arXiv:2001.04253): the token [CLS] ends the input, and the encoder's
output there is scored against a table with a row for each class. The encoder is one of `next_item`, whose
`item_table()` holds the classes, padding first: [T + 1, D].

Context columns (`data.batching.labelled_columns`): items [N], start [U], length [U] and label [U], class
1..T, any other makes the loss NaN. Examples: example [B], a user each, and mask [B].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from jaxrec import losses, packing
from jaxrec.tasks.encoder import Encoder, check_keywords, numbered, only_params, refuse_times
from jaxrec.tasks.next_item import item_table
from jaxrec.types import Array, Batch, Context, Key, Task, Variables


def profile(model: Encoder, *, token: int) -> Task:
    """The task of naming a user's class; predict gives logits [B, T].

    token: the id behind the events, which no item has (num_items + 1 where `extra_rows` makes room for it).

    Raises:
      ValueError: the encoder reads times, of which the token has none; it does not take `train`, or has no
        table. When variables are made: it has some other than parameters.
    """
    refuse_times(model, "profile")
    check_keywords(model, "train")

    def prepare(key: Key, examples: Mapping[str, Array], context: Context) -> Batch:
        user, mask = examples["example"], examples["mask"]
        return described_users(user, mask, context, token=token, max_len=model.max_len)

    def init(key: Key, batch: Batch) -> Variables:
        return only_params(model.init(key, batch["items"][:1], train=False), "profile")

    def at_token(variables: Variables, batch: Batch, key: Key | None) -> Array:
        noise: dict[str, Any] = {"train": False} if key is None else {"train": True, "rngs": {"dropout": key}}
        if key is not None:
            noise |= numbered(model, batch["row"])
        return model.apply(variables, batch["items"], **noise)[:, -1]

    def loss(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        hidden, table = at_token(variables, batch, key), item_table(model, variables)
        value = losses.softmax_cross_entropy(
            hidden, table, batch["label"], where=batch["mask"], axis_name=axis_name
        )
        return {"profile": value}, {}

    def predict(variables: Variables, batch: Batch) -> Array:
        return at_token(variables, batch, None) @ item_table(model, variables)[1:].T

    return Task(prepare, init, loss, predict)


def described_users(user: Array, mask: Array, context: Context, *, token: int, max_len: int) -> Batch:
    """The batch of users [B]: the last max_len - 1 events and the token, right-aligned [B, max_len]; labels.

    mask: False where there is no user, [B]. Evaluation reads the same of its queries. A user without an event
    is the token alone.
    """
    length = jnp.where(mask, context["length"][user], 0)
    return {
        "items": with_token(
            context["items"], context["start"][user] + length, length, token=token, max_len=max_len
        ),
        "label": jnp.where(mask, context["label"][user], 0),
        "mask": mask,
        "row": jnp.arange(user.shape[0], dtype=jnp.int32),
    }


def with_token(items: Array, end: Array, length: Array, *, token: int, max_len: int) -> Array:
    """The last max_len - 1 of the `length` events before `end` [B] and the token, right-aligned [B, max_len].

    items: of all users, end to end, [N].
    """
    events = packing.window(items, end, length, max_len - 1)
    return jnp.concatenate([events, jnp.full((end.shape[0], 1), token, events.dtype)], axis=1)
