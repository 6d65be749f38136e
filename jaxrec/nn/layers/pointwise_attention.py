"""Pointwise aggregated attention with a bias by place and time.

Of HSTU (Zhai et al., ICML 2024, arXiv:2402.17152, section 3.1).
Each key is weighed by SiLU(q·k + bias) / N, whatever the other keys are: no softmax, no 1/√d. Weights need
not add up to one, so that how often something occurred is not lost, and a norm has to follow.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrec.nn.layers.chunked import over_queries
from jaxrec.segments import rows_by_id
from jaxrec.types import Array

NUM_BUCKETS = 128  # the largest bucket; the research code's table has one more entry
_LOG_STEP = 0.301  # natural logarithm of the ratio between the starts of two buckets


def time_bucket(gap: Array) -> Array:
    """Bucket of a time difference in seconds, ⌊ln max(|gap|, 1) / 0.301⌋ cut to 0..128: [...] → int32 [...].

    >>> time_bucket(jnp.array([0, 1, 2, -2, 86400])).tolist()
    [0, 0, 2, 2, 37]
    """
    log = jnp.log(jnp.maximum(jnp.abs(gap).astype(jnp.float32), 1.0))
    return jnp.clip(jnp.floor(log / _LOG_STEP), 0, NUM_BUCKETS).astype(jnp.int32)


def following(times: Array, segments: Array | None = None) -> Array:
    """The time in the slot after each one: [B, L] → [B, L]. The last slot of a row or segment has its own."""
    after = jnp.concatenate([times[:, 1:], times[:, -1:]], axis=1)
    if segments is None:
        return after
    goes_on = jnp.concatenate([segments[:, 1:], segments[:, -1:]], axis=1) == segments
    return jnp.where(goes_on, after, times)


def relative_bias(
    position: Array, time: Array | None, slots: Array, target_times: Array, times: Array
) -> Array:
    """The bias of each score by distance and by time between query and key: [B or 1, Q, L].

    position[N - 1 + j - i] + time[bucket(target_times_i - times_j)], query at slot i, key at slot j.

    Args:
      position: [2N - 1]; distances past its ends take the entry at the end.
      time: [buckets + 1]; None: only the distance counts.
      slots: of the queries, int32 [Q].
      target_times: of the event that each query predicts, in seconds, [B, Q].
      times: of the keys, in seconds, [B, L].
    """
    distance = jnp.arange(times.shape[1]) - slots[:, None]
    by_place = _entries(position, distance + position.size // 2)
    if time is None:
        return by_place[None]
    return by_place + _entries(time, time_bucket(target_times[:, :, None] - times[:, None, :]))


def _entries(table: Array, positions: Array) -> Array:
    return rows_by_id(table, positions, clip=True)


def pointwise_attention(
    query: Array,
    key: Array,
    value: Array,
    *,
    items: Array,
    segments: Array | None,
    divisor: float,
    bias: tuple[Array, Array | None] | None = None,
    times: Array | None = None,
    target_times: Array | None = None,
    block: int | None = None,
) -> Array:
    """Σ_j SiLU(q_i·k_j + b_ij) v_j / divisor over the keys that slot i may see: → [B, L, H, e].

    Visible are slots no later than i that hold an item and, in packed rows, belong to the same segment.
    Scores and the activation are float32. A bias must be finite: SiLU(-inf) is not a number.

    Args:
      query, key: [B, L, H, d]. value: [B, L, H, e].
      items: ids, 0 = nothing to see, [B, L]. segments: numbers of users that share a row, [B, L], or None.
      divisor: the same for all queries, however many keys they see.
      bias: tables by distance and, if not None, by time, see `relative_bias`; None for neither.
      times, target_times: seconds, [B, L], see `relative_bias`; without times all are equal.
      block: queries at a time, so that scores take [B, H, block, L]; None for all at once.
    """
    batch, length = items.shape
    slots = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (batch, length))
    group = jnp.ones_like(items) if segments is None else segments
    times = jnp.zeros_like(items) if times is None else times
    target_times = times if target_times is None else target_times

    def mix(query: Array, slots: Array, groups: Array, target_times: Array) -> Array:
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32)
        if bias is not None:
            scores = scores + relative_bias(*bias, slots[0], target_times, times)[:, None]
        visible = (jnp.arange(length) <= slots[:, :, None]) & (items != 0)[:, None]
        visible = visible & (groups[:, :, None] == group[:, None])
        weights = jnp.where(visible[:, None], jax.nn.silu(scores) / divisor, 0.0).astype(value.dtype)
        return jnp.einsum("bhqk,bkhe->bqhe", weights, value)

    return over_queries(mix, block, query, slots, group, target_times)
