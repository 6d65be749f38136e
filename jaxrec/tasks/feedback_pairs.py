"""Pairs that were clicked, against sampled items and those that their user disliked or left unclicked.

The loss of DFN (Xie et al., IJCAI 2020, doi:10.24963/ijcai.2020/349, section 3.4) for a model of pairs, see
`jaxrec.tasks.pairs`. The paper's examples are impressions; here an example is an observed pair, and a step
draws for it sampled items and, of its user's lists, one that was shown and one that was disliked. Sampled
items are ours: without them a model never meets most of what it has to rank.

Context columns: those of `tasks.pairs`, and two lists of items of each user (`data.events.feedback_lists`):
disliked [N] with disliked_start, disliked_length [U], and shown alike.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxrec import losses
from jaxrec.tasks.encoder import numbered, only_params
from jaxrec.tasks.pairs import PairModel, Sampler, drawn_pairs
from jaxrec.types import SHARED, Array, Batch, Context, Key, Task, Variables

LISTS = ("disliked", "shown")


def feedback_pairs(model: PairModel, *, sampler: Sampler, negatives: int = 4) -> Task:
    """Binary cross-entropy in three losses, so that each can be weighted; predict gives logits [B].

    "clicked": of the observed pair, as 1, and the sampled ones, as 0, summed. "shown" and "disliked": of an
    item drawn from the user's list, as 0; a pair whose user has none adds 0. Each is a mean over pairs.

    Raises:
      ValueError: negatives is below 1. When variables are made: the model has some other than parameters.
    """
    if negatives < 1:
        raise ValueError(f"negatives={negatives}: must be at least 1")

    def prepare(key: Key, examples: Mapping[str, Array], context: Context) -> Batch:
        sampled, *of_lists = jax.random.split(key, 1 + len(LISTS))
        batch = drawn_pairs(sampled, examples, context, sampler=sampler, negatives=negatives)
        user = batch["user"] - 1
        drawn = {name: _one_of(key, name, user, context) for name, key in zip(LISTS, of_lists, strict=True)}
        return {**batch, **drawn}

    def init(key: Key, batch: Batch) -> Variables:
        user, item = batch["user"][:1], batch["item"][:1, None]
        return only_params(model.init(key, user, item, batch[SHARED], train=False), "feedback_pairs")

    def value(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        further = jnp.stack([batch[name] for name in LISTS], axis=1)
        item = jnp.concatenate([batch["item"][:, None], batch["negatives"], further], axis=1)
        logits = model.apply(
            variables,
            batch["user"],
            item,
            batch[SHARED],
            train=True,
            rngs={"dropout": key},
            **numbered(model, batch["row"]),
        )
        where, count = batch["mask"], 1 + negatives
        found = {"clicked": losses.bce(logits[:, 0], logits[:, 1:count], where=where, axis_name=axis_name)}
        for place, name in enumerate(LISTS, count):
            each = jnp.where(batch[name] > 0, jax.nn.softplus(logits[:, place]), 0.0)
            found[name] = losses.masked_mean(each, where, axis_name)
        return found, {}

    def predict(variables: Variables, batch: Batch) -> Array:
        logits = model.apply(variables, batch["user"], batch["item"][:, None], batch[SHARED], train=False)
        return logits[:, 0]

    return Task(prepare, init, value, predict)


def _one_of(key: Key, name: str, user: Array, context: Context) -> Array:
    """An item of a list of each user, from 0, uniformly; 0 for a user who has none: [B]."""
    length = context[f"{name}_length"][user]
    place = jax.random.randint(key, user.shape, 0, jnp.maximum(length, 1))
    index = context[f"{name}_start"][user] + place
    return jnp.where(length > 0, context[name][jnp.where(length > 0, index, 0)], 0)
