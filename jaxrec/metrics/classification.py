"""Metrics of labelled impressions, from all scores (or logits) and binary labels of a set at once.

AUC and PR-AUC are not means over examples, so they need all scores together: [N] → []. All metrics run under
`jit`, use a few arrays of length N, and ignore examples that `where` does not mark.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.types import Array


def auc(scores: Array, labels: Array, *, where: Array | None = None) -> Array:
    """AUC, the area under the ROC curve: the share of (positive, negative) pairs in order, ties counting 1/2.

    NaN if one of the classes is absent, or any marked score is NaN: the AUC is not defined then.

    Args:
      scores: any monotone transform of the probability, [N].
      labels: 0 or 1, [N].
      where: True where the example is real, [N].

    >>> float(auc(jnp.array([0.1, 0.4, 0.4, 0.8]), jnp.array([0, 0, 1, 1])))  # (1 + 1/2 + 1 + 1) / 4
    0.875
    """
    group = jnp.zeros(scores.shape, jnp.int32)
    found = _auc_of_groups(scores, labels=labels, group=group, where=where_or_all(scores, where))
    return found.auc[0]


class GroupAuc(NamedTuple):
    """gauc: weighted mean of the AUCs of the groups that have both classes; num_groups: their number."""

    gauc: Array
    num_groups: Array


def gauc(
    scores: Array, labels: Array, group: Array, *, where: Array | None = None, weighted: bool = True
) -> GroupAuc:
    """Mean over users of each user's AUC, weighted by impressions (Zhou et al., KDD 2018, section 6.3).

    Users whose impressions all have the same label have no AUC and are left out; `num_groups` counts the
    others. NaN if there are none.

    Args:
      scores: [N]; labels: 0 or 1, [N]; where: True where the example is real, [N].
      group: id of the user, int32 [N], of any range.
      weighted: whether to weight users by their impressions, or all users equally.

    Raises ValueError where ids on the host do not fit 32 bits.
    """
    check_group(group)
    where = where_or_all(scores, where)
    found = _auc_of_groups(scores, labels=labels, group=jnp.asarray(group), where=where)
    used = found.both
    weight = jnp.where(used, found.size if weighted else 1, 0).astype(jnp.float32)
    share = weight / weight.sum()
    return GroupAuc(jnp.sum(jnp.where(used, found.auc * share, 0.0)) / share.sum(), used.sum())


def check_group(group: Any) -> None:
    """Raises ValueError for ids on the host that JAX would truncate to 32 bits, which would merge users."""
    if isinstance(group, np.ndarray) and group.dtype.itemsize > 4 and group.size:
        low, high = int(group.min()), int(group.max())
        if low < -(2**31) or high >= 2**31:
            raise ValueError(
                f"group: ids from {low} to {high} do not fit 32 bits; number them first, as with "
                "np.unique(group, return_inverse=True)[1]"
            )


def average_precision(scores: Array, labels: Array, *, where: Array | None = None) -> Array:
    """Average precision, the PR-AUC as a sum of steps: the mean precision at the scores of positives.

    Precision at a score counts all examples that score at least as high, so the order of ties does not
    matter. NaN if there is no positive, or any marked score is NaN.

    Args:
      scores: any monotone transform of the probability, [N].
      labels: 0 or 1, [N].
      where: True where the example is real, [N].

    >>> found = average_precision(jnp.array([0.9, 0.5, 0.5]), jnp.array([1, 0, 1]))
    >>> round(float(found), 4)  # (1/1 + 2/3) / 2
    0.8333
    """
    where = where_or_all(scores, where)
    unmarked, lowered, labels = jax.lax.sort(
        ((~where).astype(jnp.int32), -scores, (labels > 0.5).astype(jnp.int32)), num_keys=2
    )
    positive = labels * (1 - unmarked)
    tie = jnp.cumsum(run_starts(unmarked, lowered)) - 1
    last = jax.ops.segment_max(
        jnp.arange(scores.size), tie, num_segments=scores.size, indices_are_sorted=True
    )
    above = jnp.cumsum(positive)[last[tie]] / (1 + last[tie])  # precision at the end of each tie
    total = jnp.sum(positive)
    defined = (total > 0) & ~jnp.any(jnp.isnan(scores) & where)
    return jnp.where(defined, jnp.sum(jnp.where(positive > 0, above, 0.0)) / jnp.maximum(total, 1), jnp.nan)


class _GroupAucs(NamedTuple):
    auc: Array  # [N]: of the groups in ascending order, then padding
    size: Array
    both: Array


def _auc_of_groups(scores: Array, labels: Array, group: Array, where: Array) -> _GroupAucs:
    """AUC of each group by one sort. Entry i of the result is the i-th smallest group."""
    n = scores.shape[0]
    unmarked, group, scores, labels = jax.lax.sort(
        ((~where).astype(jnp.int32), group, scores, (labels > 0.5).astype(jnp.int32)), num_keys=3
    )
    marked = 1 - unmarked
    positive, negative = labels * marked, (1 - labels) * marked

    group_index = jnp.cumsum(run_starts(unmarked, group)) - 1
    tie_index = jnp.cumsum(run_starts(unmarked, group, scores)) - 1

    def total(values: Array, index: Array) -> Array:
        return jax.ops.segment_sum(values, index, num_segments=n, indices_are_sorted=True)

    positives, negatives = total(positive, group_index), total(negative, group_index)
    before_group = jnp.cumsum(negatives) - negatives
    ties = total(negative, tie_index)
    below = (jnp.cumsum(ties) - ties)[tie_index] - before_group[group_index]
    halves = jnp.where(positive > 0, 2 * below + ties[tie_index], 0)  # twice the pairs that a positive wins
    right = _exact_total(halves, lambda values: total(values, group_index))
    found = right / (2.0 * jnp.maximum(negatives, 1)) / jnp.maximum(positives, 1)
    both = (positives > 0) & (negatives > 0)
    broken = total((jnp.isnan(scores) & (marked > 0)).astype(jnp.int32), group_index) > 0
    size = total(marked, group_index)
    return _GroupAucs(jnp.where(both & ~broken, found, jnp.nan), size, both)


def _exact_total(values: Array, total: Callable[[Array], Array]) -> Array:
    """Sums of non-negative int32 as float32, rounded only once, at the end; sums may be far beyond 32 bits.

    A running sum in float32 has an error of 1e-4 over a million values. Here the digits are summed, with as
    many bits each as N of them can be added without overflow. total: sums uint32 [N] by group.
    """
    bits = 32 - values.shape[0].bit_length()
    digits = [(values.astype(jnp.uint32) >> shift) & (2**bits - 1) for shift in range(0, 32, bits)]
    sums = [total(digit).astype(jnp.float32) * 2.0 ** (bits * i) for i, digit in enumerate(digits)]
    return functools.reduce(jnp.add, sums)


def run_starts(*keys: Array) -> Array:
    """True where a run of equal sorted keys starts: [N] → bool [N]."""
    changes = jnp.zeros(keys[0].shape, bool).at[0].set(True)
    for key in keys:
        changes = changes.at[1:].set(changes[1:] | (key[1:] != key[:-1]))
    return changes


def log_loss(logits: Array, labels: Array, *, where: Array | None = None) -> Array:
    """Mean binary cross-entropy in nats, from logits: [N], [N] → []; NaN if no example is real."""
    return masked_mean(jax.nn.softplus(logits) - labels * logits, where)


def normalized_entropy(logits: Array, labels: Array, *, where: Array | None = None) -> Array:
    """Log loss divided by that of predicting the share of positives: [N], [N] → [].

    He et al., ADKDD 2014, section 2. NaN if there is one class only.

    >>> chance = jnp.full(4, -jnp.log(3.0))  # 1/4 is positive, which is predicted for all
    >>> round(float(normalized_entropy(chance, jnp.array([0, 1, 0, 0]))), 6)
    1.0
    """
    share = masked_mean(labels, where)
    entropy = -(share * jnp.log(share) + (1 - share) * jnp.log1p(-share))
    return jnp.where((share > 0) & (share < 1), log_loss(logits, labels, where=where) / entropy, jnp.nan)


def relative_improvement(auc_model: Array | float, auc_base: Array | float) -> Array:
    """RelaImpr in percent: (AUC - 0.5) / (AUC of the base - 0.5) - 1 (Zhou et al., KDD 2018, eq. 6).

    >>> round(float(relative_improvement(0.71, 0.70)), 2)
    5.0
    """
    return 100.0 * ((jnp.asarray(auc_model) - 0.5) / (jnp.asarray(auc_base) - 0.5) - 1.0)


def where_or_all(values: Array, where: Array | None) -> Array:
    return jnp.ones(values.shape, bool) if where is None else where


def masked_mean(values: Array, where: Array | None) -> Array:
    where = where_or_all(values, where)
    count = jnp.sum(where)
    return jnp.sum(jnp.where(where, values, 0.0)) / jnp.where(count > 0, count, jnp.nan)
