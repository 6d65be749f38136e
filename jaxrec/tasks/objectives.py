"""Objectives: how hidden states are scored against next items, for `tasks.next_item` and its kin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp

from jaxrec import losses, sampling
from jaxrec.types import Array, Batch, Context, Key

PRODUCT_UP_TO = 32  # items a sample: with fewer, scores of all items are cheaper than reading vectors (CPU)


class Objective(NamedTuple):
    """How hidden states are scored against targets.

    draw(key, users, context) -> extra columns of the batch, where users are [R, L] indices of users;
    loss(hidden [R, L, D], table [V, D], batch, axis_name) -> this device's share of the loss. Targets are 0
    where there is none. Any other that is no item of the table, or a sample that is none, makes it NaN.
    """

    draw: Callable[[Key, Array, Context], Mapping[str, Array]]
    loss: Callable[..., Array]


def sampled_bce(num_items: int, excluded_width: int) -> Objective:
    """Binary cross-entropy with one negative an event, uniform over the items a user has not used.

    num_items: largest item id; excluded_width: most distinct items of any user.

    Raises:
      ValueError: a user has used every item, so there is no negative.
    """
    if excluded_width >= num_items:
        raise ValueError(
            f"excluded_width={excluded_width}: a user has used all {num_items} items, so there is no "
            "negative to draw; use a loss without sampled negatives or leave the user out"
        )

    def draw(key: Key, users: Array, context: Context) -> Mapping[str, Array]:
        negatives, _ = sampling.uniform_excluding_flat(
            key,
            num_items=num_items,
            excluded=context["excluded"],
            start=context["excluded_start"][users],
            count=context["excluded_length"][users],
            width=excluded_width,
        )
        return {"negatives": negatives}

    def loss(hidden: Array, table: Array, batch: Batch, axis_name: str | None) -> Array:
        ids, real = jnp.stack([batch["targets"], batch["negatives"]], -1), batch["targets"] != 0
        scores = jnp.einsum("...d,...kd->...k", hidden, table[ids])
        known = min(num_items + 1, table.shape[0])
        scores = losses.nan_outside(scores, ids, known, where=real[..., None])
        return losses.bce(scores[..., 0], scores[..., 1], where=real, axis_name=axis_name)

    return Objective(draw, loss)


def full_softmax(block: int = 4096) -> Objective:
    """Cross-entropy over all items, computed in blocks of items."""

    def loss(hidden: Array, table: Array, batch: Batch, axis_name: str | None) -> Array:
        where = batch["targets"] != 0
        return losses.softmax_cross_entropy(
            hidden, table, batch["targets"], where=where, block=block, axis_name=axis_name
        )

    return Objective(lambda key, users, context: {}, loss)


def sampled_softmax(num_samples: int, table: sampling.PopularityTable) -> Objective:
    """Cross-entropy over the target and `num_samples` items that the whole batch shares.

    table: the distribution samples are drawn from; scores are corrected by its log-probabilities (logQ),
    and a sample that is the target is left out.
    """

    def draw(key: Key, users: Array, context: Context) -> Mapping[str, Array]:
        samples, _ = sampling.popularity(key, (num_samples,), table)
        return {"samples": jnp.broadcast_to(samples, (users.shape[0], num_samples))}

    def loss(hidden: Array, items: Array, batch: Batch, axis_name: str | None) -> Array:
        samples, targets = batch["samples"][0], batch["targets"]
        real = targets != 0
        pos, neg = target_and_shared(hidden, items, targets, samples)
        return losses.sampled_softmax(
            pos,
            neg,
            pos_log_prob=jnp.where(
                real, sampling.log_prob(table, targets), 0
            ),  # padding is never drawn: log 0
            neg_log_prob=sampling.log_prob(table, samples),
            accidental=samples == targets[..., None],
            where=real,
            axis_name=axis_name,
        )

    return Objective(draw, loss)


def uniform_softmax(
    num_items: int, num_samples: int, *, temperature: float = 0.05, shared: bool = False
) -> Objective:
    """Cross-entropy over the target and `num_samples` uniform samples, scores divided by a temperature.

    The objective of HSTU's research code (Zhai et al., ICML 2024, arXiv:2402.17152): samples of each event
    from all items, without correction; one that is the target is left out. Scores are those of the model, so
    they are cosines where it gives hidden states and a table of length 1 (`HSTU`, `Cosine`).

    num_items: largest item id. shared: one set of samples for the whole batch, which is cheaper.

    Raises:
      ValueError: num_samples is below 1, or the temperature is not positive.
    """
    if num_samples < 1 or not temperature > 0:
        raise ValueError(f"num_samples={num_samples}, temperature={temperature}: must be positive")

    def draw(key: Key, users: Array, context: Context) -> Mapping[str, Array]:
        shape = (num_samples,) if shared else (*users.shape, num_samples)
        samples, _ = sampling.uniform(key, shape, num_items=num_items)
        return {"samples": jnp.broadcast_to(samples, (users.shape[0], *samples.shape)) if shared else samples}

    def loss(hidden: Array, table: Array, batch: Batch, axis_name: str | None) -> Array:
        targets, samples = batch["targets"], batch["samples"]
        if shared:
            samples = samples[0]
            pos, neg = target_and_shared(hidden, table, targets, samples)
        else:
            pos, neg = _picked(hidden, table, targets, samples)
        return losses.sampled_softmax(
            pos / temperature,
            neg / temperature,
            accidental=samples == targets[..., None],
            where=targets != 0,
            axis_name=axis_name,
        )

    return Objective(draw, loss)


def target_and_shared(hidden: Array, table: Array, targets: Array, samples: Array) -> tuple[Array, Array]:
    """Scores of the target [...] and of samples [N] that all share, [..., N].

    NaN where a sample, or a target other than 0, is no item of the table.
    """
    pos, count = jnp.einsum("...d,...d->...", hidden, table[targets]), table.shape[0]
    neg = losses.dot_products(hidden, table[samples])
    real = targets != 0
    return (
        losses.nan_outside(pos, targets, count, where=real),
        losses.nan_outside(neg, samples, count, where=real[..., None]),
    )


def _picked(hidden: Array, table: Array, targets: Array, samples: Array) -> tuple[Array, Array]:
    """Scores of the target [...] and of each sample [..., N].

    From the scores of all items where these are few: reading vectors costs far more than a product, above all
    in the backward pass, which adds the gradient of every vector read to the table.
    """
    ids = jnp.concatenate([targets[..., None], samples], axis=-1)
    if table.shape[0] <= PRODUCT_UP_TO * ids.shape[-1]:
        scores = jnp.take_along_axis(losses.dot_products(hidden, table), ids, axis=-1)
    else:
        scores = jnp.einsum("...d,...nd->...n", hidden, table[ids])
    scores = losses.nan_outside(scores, ids, table.shape[0], where=(targets != 0)[..., None])
    return scores[..., 0], scores[..., 1:]
