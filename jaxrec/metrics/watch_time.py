"""Metrics of predicted watch times: pairs in order, over all or within users, and the mean absolute error.

Zhan et al., KDD 2022, arXiv:2206.06003, section 5. XAUC needs all predictions together: [N] → []. It runs
under `jit` in O(n log n) and with a few arrays of length N.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrec.metrics.classification import _exact_total, check_group, run_starts
from jaxrec.types import Array


def xauc(predicted: Array, watched: Array, *, where: Array | None = None) -> Array:
    """Share of the pairs of different watch times that the predictions order rightly.

    Ties of predictions count 1/2, and pairs of equal watch times are left out. With two values
    of the watch time it is the AUC. NaN if there is no pair, or a marked value is NaN.

    Args:
      predicted: any monotone transform of the predicted watch time, [N].
      watched: watch times, in any unit, [N].
      where: True where the example is real, [N].

    >>> round(float(xauc(jnp.array([1.0, 1.0, 3.0]), jnp.array([0.5, 2.0, 9.0]))), 4)  # (1/2 + 1 + 1) / 3
    0.8333
    """
    found = _pairs_in_order(predicted, watched, jnp.zeros(predicted.shape, jnp.int32), where)
    return found.share[0]


class GroupXauc(NamedTuple):
    """xgauc: weighted mean of the XAUCs of the groups that have a pair; num_groups: their number."""

    xgauc: Array
    num_groups: Array


def xgauc(predicted: Array, watched: Array, group: Array, *, where: Array | None = None) -> GroupXauc:
    """Mean over users of each user's XAUC, weighted by impressions.

    Users without two different watch times are left out; `num_groups` counts the others. NaN without any.

    Args:
      predicted, watched, where: as of `xauc`, [N].
      group: id of the user, int32 [N], of any range.

    Raises ValueError where ids on the host do not fit 32 bits.
    """
    check_group(group)
    found = _pairs_in_order(predicted, watched, jnp.asarray(group), where)
    weight = jnp.where(found.any_pair, found.size, 0).astype(jnp.float32)
    share = weight / weight.sum()
    total = jnp.sum(jnp.where(found.any_pair, found.share * share, 0.0)) / share.sum()
    return GroupXauc(total, found.any_pair.sum())


def mae(predicted: Array, watched: Array, *, where: Array | None = None) -> Array:
    """Mean absolute error, in the unit of the watch times: [N], [N] → []; NaN if no example is real.

    >>> float(mae(jnp.array([1.0, 5.0]), jnp.array([2.0, 2.0])))
    2.0
    """
    return jnp.mean(jnp.abs(predicted - watched), where=where)


class _Ordered(NamedTuple):
    share: Array  # [N]: of the groups in ascending order, then padding
    size: Array
    any_pair: Array


def _pairs_in_order(predicted: Array, watched: Array, group: Array, where: Array | None) -> _Ordered:
    """XAUC of each group. Entry i of the result is the i-th smallest group."""
    n = predicted.shape[0]
    where = jnp.ones(n, bool) if where is None else where
    broken = where & (jnp.isnan(predicted) | jnp.isnan(watched))
    unmarked = (~where).astype(jnp.int32)
    # With falling predictions among equal watch times, a pair of these is never one of rising predictions.
    first, of_group, watched, lowered, broken = jax.lax.sort(
        (unmarked, group, watched, -predicted, broken.astype(jnp.int32)), num_keys=4
    )
    starts = run_starts(first, of_group)
    number = jnp.cumsum(starts) - 1
    start = _first_of_run(starts)
    smaller = _first_of_run(run_starts(first, of_group, watched)) - start  # those of smaller watch time
    above = _rising_pairs(_dense_rank(-lowered), start, n)
    tied = _tied(first, of_group, -lowered, watched)

    def total(values: Array) -> Array:
        return jax.ops.segment_sum(values, number, num_segments=n, indices_are_sorted=True)

    marked = 1 - first
    pairs = _exact_total(smaller * marked, total)
    right = _exact_total((2 * above + tied) * marked, total) / 2.0
    bad = total(broken * marked) > 0
    any_pair = pairs > 0
    share = jnp.where(any_pair & ~bad, right / jnp.maximum(pairs, 1.0), jnp.nan)
    return _Ordered(share, total(marked), any_pair)


def _first_of_run(starts: Array) -> Array:
    """The index at which the run of each entry starts: bool [N] → int32 [N]."""
    return jax.lax.cummax(jnp.where(starts, jnp.arange(starts.shape[0], dtype=jnp.int32), 0))


def _dense_rank(values: Array) -> Array:
    """0 for the smallest value, the same number for equal ones: [N] → int32 [N]."""
    place = jnp.arange(values.shape[0], dtype=jnp.int32)
    ordered, origin = jax.lax.sort((values, place), num_keys=1)
    rank = (jnp.cumsum(run_starts(ordered)) - 1).astype(jnp.int32)
    return jnp.zeros_like(rank).at[origin].set(rank, unique_indices=True)


def _tied(first: Array, group: Array, predicted: Array, watched: Array) -> Array:
    """For each entry the entries of its group, prediction and a smaller watch time: int32 [N].

    In the order of the arguments, which is by group, so that sums over groups can use it.
    """
    ordered = jax.lax.sort((first, group, predicted, watched), num_keys=4)
    run = _first_of_run(run_starts(*ordered[:3]))
    return _first_of_run(run_starts(*ordered)) - run


def _rising_pairs(rank: Array, start: Array, n: int) -> Array:
    """For each entry the number of earlier ones of its group with a smaller rank; in another order within
    groups, int32 [N].

    Entries are parted by the bits of their ranks, the highest first, and keep their order: a one then counts
    the zeros before it in its part, whose higher bits are equal. rank: int32 [N]. start: where each entry's
    group begins; groups lie one after another.
    """
    place = jnp.arange(n, dtype=jnp.int32)
    is_last = jnp.append(start[1:] != start[:-1], True)
    end = jnp.flip(jax.lax.cummin(jnp.flip(jnp.where(is_last, place + 1, n))))
    bits = max(n - 1, 1).bit_length()

    def part(i: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
        rank, start, end, count = state
        one = (rank >> (bits - 1 - i)) & 1
        zeros = jnp.append(0, jnp.cumsum(1 - one)).astype(jnp.int32)
        before, of_part = zeros[:-1] - zeros[start], zeros[end] - zeros[start]
        count = count + one * before
        middle = start + of_part
        target = jnp.where(one > 0, middle + (place - start - before), start + before)
        parted = rank, jnp.where(one > 0, middle, start), jnp.where(one > 0, end, middle), count
        return tuple(jnp.zeros_like(x).at[target].set(x, unique_indices=True) for x in parted)

    return jax.lax.fori_loop(0, bits, part, (rank, start, end, jnp.zeros(n, jnp.int32)))[3]
