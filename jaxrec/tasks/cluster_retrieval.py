"""Retrieval as one task a cluster of items (Zhang et al., arXiv:2302.02657): training.

Every event of a user's training window predicts the one after it among the items of that one's cluster. A
model with prompts reads the whole window once for each cluster that holds some of its targets, and predicts
those; over an epoch each event predicts once, as in next-item prediction. A second loss teaches which
cluster the next item belongs to. Serving is in `tasks.cluster_serving`.

The model is a sequence encoder (`tasks.next_item`) whose `__call__` also takes `clusters` [B, L], with a
method `intent(items, *, positions, segments, rows, train) -> logits [B, L, K]`.

Context columns in addition to those of `tasks.next_item`: cluster [V + 1], that of each id (`Clusters.of`),
and for a model with prompts example_user and example_cluster [E] of `data.events.clusters.cluster_examples`.
A step then draws such examples, not users.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxrec import losses
from jaxrec.data.events.clusters import Clusters
from jaxrec.packing import Packing
from jaxrec.segments import pick
from jaxrec.tasks.candidate_scores import score_with_samples
from jaxrec.tasks.encoder import Encoder, check_encoder, layout_columns, numbered
from jaxrec.tasks.next_item import item_table, next_item
from jaxrec.tasks.objectives import TABLES, Objective, tables_of
from jaxrec.types import SHARED, Array, Batch, Context, Key, Task, Variables

INTENT = 1  # folded into the key of a step's losses: the dropout of the intent model


def in_cluster_softmax(clusters: Clusters, num_samples: int) -> Objective:
    """Cross-entropy of the target against sampled items of its own cluster: all negatives are hard ones.

    Each step draws `num_samples` items of every cluster, uniformly and with replacement, which the whole
    batch shares. A sample that is the target is left out, and so is an event whose cluster gave no other item
    (as where the target is alone in it). Within a cluster the log-probability of a draw is one constant,
    which no softmax sees: there is nothing to correct for. With one cluster this is sampled softmax over all
    items.

    All K * num_samples products are formed and those of other clusters masked: one matrix product, in place
    of a gather of table rows for each event; right for tens of clusters.

    Its `tables` are the clusters.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples={num_samples}: must be at least 1")
    count = clusters.num_clusters

    def draw(key: Key, users: Array, context: Context) -> Mapping[str, Any]:
        known = tables_of(context)
        start, sizes = known.start[:-1, None], jnp.diff(known.start)[:, None]
        place = jax.random.randint(key, (count, num_samples), 0, sizes)
        samples = known.members[start + place].reshape(-1)
        every = jnp.broadcast_to(samples, (users.shape[0], samples.size))
        return {"samples": every, SHARED: {TABLES: known.of}}

    def loss(hidden: Array, table: Array, batch: Batch, axis_name: str | None) -> Array:
        samples, targets, cluster_of = batch["samples"][0], batch["targets"], batch[SHARED][TABLES]
        pos, neg = score_with_samples(hidden, table, targets, samples)
        known = min(cluster_of.shape[0], table.shape[0])
        negative = (cluster_of[samples] == cluster_of[targets][..., None]) & (samples != targets[..., None])
        negative = negative | ~losses.is_item(samples, known)  # NaN, which is to be seen
        unknown = (targets != 0) & ~losses.is_item(targets, known)
        return losses.sampled_softmax(
            jnp.where(unknown, jnp.nan, pos),
            neg,
            accidental=~negative,
            where=(targets != 0) & (negative.any(axis=-1) | unknown),
            axis_name=axis_name,
        )

    text = "sampled softmax" if count == 1 else "in-cluster sampled softmax"
    return Objective(draw, loss, "ssm", text, jax.tree.map(jnp.asarray, clusters))


def cluster_retrieval(
    model: Encoder,
    objective: Objective,
    *,
    packed: Packing | None = None,
    prompted: bool = True,
) -> Task:
    """The tasks of all clusters: losses "next_item", by the objective, and "intent", over the clusters.

    objective: `in_cluster_softmax`, or any other of `tasks.next_item`.
    packed: packed rows that examples share; None pads each to `model.max_len`.
    prompted: False trains without prompts, which needs one pass a user: an example is then a user.

    Raises:
      ValueError: the encoder, or its intent, does not keep to the contract (`check_encoder`).
    """
    plain = next_item(model, objective, packed=packed)
    check_encoder(model, packed, method="intent")

    def prepare(key: Key, examples: Mapping[str, Array], context: Context) -> Batch:
        cluster_of, example = context["cluster"], examples["example"]
        if prompted:
            examples = {**examples, "example": context["example_user"][example]}
        batch = plain.prepare(key, examples, context)
        batch = {**batch, SHARED: {**batch.get(SHARED, {}), "cluster": cluster_of}}
        if not prompted:
            return batch
        cluster = at_slots(context["example_cluster"][example], batch["segments"])
        own = (cluster_of[batch["targets"]] == cluster) | ~losses.is_item(
            batch["targets"], cluster_of.shape[0]
        )
        return {**batch, "targets": jnp.where(own, batch["targets"], 0), "clusters": cluster}

    def loss(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        hidden = encode(model, variables, batch, key)
        found = objective.loss(hidden, item_table(model, variables), batch, axis_name)
        logits = intent_logits(model, variables, batch, jax.random.fold_in(key, INTENT))
        targets, real, cluster_of = batch["targets"], batch["targets"] != 0, batch[SHARED]["cluster"]
        label = jnp.where(real, cluster_of[targets], 0)
        surprise = -pick(jax.nn.log_softmax(logits), label[..., None])[..., 0]
        surprise = losses.nan_outside(surprise, targets, cluster_of.shape[0], where=real)
        surprise = losses.nan_outside(surprise, label + 1, logits.shape[-1] + 1)
        return {"next_item": found, "intent": losses.masked_mean(surprise, real, axis_name)}, {}

    def predict(variables: Variables, batch: Batch) -> Array:
        return encode(model, variables, batch, None)

    return Task(prepare, plain.init, loss, predict)


def at_slots(values: Array, segments: Array) -> Array:
    """The value of each slot's sequence, [B] → [R, L]; on padding that of the first one."""
    return values[jnp.maximum(segments - 1, 0)]


def encode(model: Encoder, variables: Variables, batch: Batch, key: Key | None) -> Array:
    """Hidden states [R, L, D], under the prompts of `batch["clusters"]` if there. key None: no dropout."""
    clusters = {"clusters": batch["clusters"]} if "clusters" in batch else {}
    return _apply(model, variables, batch, key, None, clusters)


def intent_logits(model: Encoder, variables: Variables, batch: Batch, key: Key | None) -> Array:
    """Logits of the next item's cluster at each slot, [R, L, K]. key None: no dropout."""
    return _apply(model, variables, batch, key, "intent", {})


def _apply(
    model: Encoder,
    variables: Variables,
    batch: Batch,
    key: Key | None,
    method: str | None,
    more: Mapping[str, Array],
) -> Array:
    own = method or "__call__"
    columns = {**layout_columns(model, batch, own), **more}
    if key is None:
        return model.apply(variables, batch["items"], **columns, train=False, method=method)
    rngs = {"dropout": key}
    columns |= numbered(model, batch["row"], own)
    return model.apply(variables, batch["items"], **columns, train=True, rngs=rngs, method=method)
