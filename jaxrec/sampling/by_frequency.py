"""Draws of items by a distribution over them, and the log-probabilities that correct a loss for them."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.sampling.uniform_items import uniform
from jaxrec.types import Array, Key


class PopularityTable(NamedTuple):
    """A distribution over item ids, in units of 2⁻³²; every item that can be drawn has at least one unit.

    ids: int32 [m], the items that can be drawn; lower: uint32 [m], the first unit of each, ascending;
    log_prob: float32 [vocab_size], log(units / 2³²) by item id, -inf where the item is never drawn.
    """

    ids: Array
    lower: Array
    log_prob: Array


def popularity_table(counts: np.ndarray, *, alpha: float) -> PopularityTable:
    """The distribution p(item) ∝ count^alpha, on the host (alpha 0.75: Mikolov et al., NIPS 2013).

    Args:
      counts: how often each item occurs in the training data, [vocab_size]; entry 0 (padding) is ignored.
      alpha: 1 is the frequency itself; 0 is uniform over all items, those with count 0 included.

    Raises:
      ValueError: negative or non-finite counts or alpha, count^alpha beyond float64, or no item to draw.
    """
    known = checked_counts(counts, alpha)
    with np.errstate(over="ignore"):
        return table_of_weights(known**alpha)  # 0⁰ = 1


def log_uniform_table(counts: np.ndarray) -> PopularityTable:
    """The log-uniform (Zipfian) distribution by rank of frequency, on the host.

        Q(item of rank r) = log((r + 1) / r) / log(num_items + 1),  r = 1 the most frequent

    Of the samplers of TensorFlow, which takes ids for ranks: counts that fall with the id do so here.

    Args:
      counts: how often each item occurs in the training data, [vocab_size]; entry 0 (padding) is ignored.
        Equal counts rank by id. Items without a count are drawn too, as the last.

    Raises:
      ValueError: negative or non-finite counts, or no item.
    """
    known = checked_counts(counts)
    rank = np.empty(len(known))
    rank[np.argsort(-known, kind="stable")] = np.arange(1, len(known) + 1)
    return table_of_weights(np.log1p(1.0 / rank))


def checked_counts(counts: np.ndarray, alpha: float = 1.0) -> np.ndarray:
    """Counts of items 1..num_items, float64; ValueError if one, or alpha, is negative or not finite."""
    known = np.asarray(counts, np.float64)[1:]
    if not np.isfinite(known).all() or (known < 0).any() or not 0 <= alpha < math.inf:
        raise ValueError(f"counts must be finite and not negative, and alpha={alpha} in [0, inf)")
    return known


def table_of_weights(weights: np.ndarray) -> PopularityTable:
    """The distribution ∝ weights of items 1..num_items, [num_items]; ValueError if all are 0 or too large."""
    with np.errstate(over="ignore"):
        total = weights.sum()
    if not np.isfinite(total):
        raise ValueError("counts: count^alpha is beyond float64; take a smaller alpha or smaller counts")
    if total <= 0:
        raise ValueError("counts: no item occurs, so there is nothing to draw; use alpha=0 for uniform")
    ids = np.flatnonzero(weights) + 1
    parts = np.maximum(np.floor(weights[ids - 1] / weights.sum() * 2.0**32), 1.0).astype(np.int64)
    parts[parts.argmax()] += 2**32 - parts.sum()  # the remainder of rounding goes to the most popular item
    log_prob = np.full(len(weights) + 1, -np.inf, np.float32)
    log_prob[ids] = np.log(parts / 2.0**32)
    lower = (np.cumsum(parts) - parts).astype(np.uint32)
    return PopularityTable(jnp.asarray(ids, jnp.int32), jnp.asarray(lower), jnp.asarray(log_prob))


def popularity(key: Key, shape: tuple[int, ...], table: PopularityTable) -> tuple[Array, Array]:
    """Ids drawn from a `popularity_table` and their log-probability: both `shape`."""
    part = jax.random.bits(key, shape, jnp.uint32)
    ids = table.ids[jnp.searchsorted(table.lower, part, side="right") - 1]
    return ids, log_prob(table, ids)


def log_prob(table: PopularityTable, ids: Array) -> Array:
    """Log-probability of each id, [...]: -inf if never drawn, such as padding; NaN outside the table."""
    return table.log_prob.at[ids].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def first_occurrences(ids: Array) -> Array:
    """True where an id has not occurred before in its row, [..., N]."""
    same = ids[..., :, None] == ids[..., None, :]
    number = jnp.arange(ids.shape[-1])
    return ~jnp.any(same & (number[:, None] > number), axis=-1)


def log_expected_count(log_prob: Array, number: int, *, unique: bool = False) -> Array:
    """Log of how often an item is expected among `number` draws: [...] → [...].

    number · Q; where repeated draws count once (`unique`, see `first_occurrences`) 1 - (1 - Q)^number, exact
    for draws with replacement of which repeats are ignored. TensorFlow's `unique` draws until it has
    so many distinct items, and the number of its draws stands here. For `losses.sampled_softmax` and
    `losses.nce`; under the softmax a factor that all items share changes nothing.

    log_prob: log Q, at most 0; -inf stays -inf.

    Raises:
      ValueError: number is below 1.
    """
    if number < 1:
        raise ValueError(f"number={number}: must be at least 1")
    if not unique:
        return log_prob + math.log(number)
    missed = number * jnp.log1p(-jnp.exp(log_prob))  # log of the chance that no draw is the item
    return jnp.log(-jnp.expm1(missed))


def in_batch(ids: Array, table: PopularityTable) -> tuple[Array, Array]:
    """The items of a batch as each other's negatives, and their log-probabilities: int32 [B] → both [B].

    table: the frequency of items in training (`popularity_table` with alpha 1), by which they come into
    batches. A stream without known frequencies has `streaming_frequency`.
    """
    return ids, log_prob(table, ids)


def mixed(
    key: Key, ids: Array, number: int, table: PopularityTable, *, num_items: int
) -> tuple[Array, Array]:
    """The items of a batch and `number` uniform ones, with the log-probabilities of the mixture.

        Q*(j) = B / (B + number) f_j + number / (B + number) / num_items

    Mixed negative sampling (Yang et al., WWW 2020, doi:10.1145/3366424.3386195): items without feedback are
    negatives too. Uniform items may be those of the batch, which `losses.in_batch_softmax` leaves out by
    their ids.

    Args:
      ids: of the batch, int32 [B]; 0 is padding, does not count in B, and has a log-probability of 0.
      number: uniform items, drawn with replacement; 0 gives `in_batch`.
      table: f, the frequency of items in training. num_items: ids run from 1 to it.

    Returns:
      ids, int32 [B + number], those of the batch first, and log Q*, float32 [B + number].

    Raises:
      ValueError: number is negative, or num_items below 1.
    """
    if number < 0:
        raise ValueError(f"number={number}: must be at least 0")
    drawn, _ = uniform(key, (number,), num_items=num_items)
    every = jnp.concatenate([ids, drawn])
    batch = jnp.sum(ids != 0).astype(jnp.float32)
    chance = batch * jnp.exp(log_prob(table, every)) + number / num_items
    mixture = jnp.log(chance) - jnp.log(jnp.maximum(batch + number, 1.0))
    return every, jnp.where(every == 0, 0.0, mixture)
