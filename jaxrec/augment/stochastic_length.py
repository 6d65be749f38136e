"""Stochastic length: most long histories are reduced to a sample of their events.

From HSTU (Zhai et al., ICML 2024, arXiv:2402.17152, section 3.2), since attention is quadratic in the length.

With α in (1, 2] and a length N, a history of n events is kept whole if n ≤ N^(α/2). A longer one is kept
whole with probability N^α / n²; otherwise ⌊N^(α/2)⌋ of its events are sampled, in their order. The expected
squared length is at most 2 N^α.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.types import Array, Key


def stochastic_length(
    key: Key, real: Array, *, max_len: int, alpha: float, weights: Array | None = None
) -> Array:
    """Which events are kept: bool [B, L].

    Args:
      real: True where there is an event, [B, L].
      max_len: N. alpha: α, above 1 and at most 2, which keeps histories of up to N events whole.
      weights: events are sampled without replacement in proportion to these, at least 0, [B, L], for example
        larger ones for recent events; those of weight 0 come last. None: uniformly.
    """
    if max_len < 1 or not 1.0 < alpha <= 2.0:
        raise ValueError(f"max_len={max_len}, alpha={alpha}: must be at least 1, and above 1 and at most 2")
    whole_key, event_key = jax.random.split(key)
    count = real.sum(axis=1)
    whole_up_to = max_len ** (alpha / 2.0)
    chance = whole_up_to**2 / jnp.maximum(count, 1).astype(jnp.float32) ** 2
    whole = (count <= whole_up_to) | (jax.random.uniform(whole_key, count.shape) < chance)
    score = jax.random.gumbel(event_key, real.shape)
    if weights is not None:
        score = score + jnp.log(jnp.maximum(weights, 1e-30))
    order = jnp.argsort(jnp.where(real, -score, jnp.inf), axis=1)
    rank = jnp.argsort(order, axis=1)
    return real & (whole[:, None] | (rank < int(whole_up_to + 1e-6)))


def shortened_lengths(
    rng: np.random.Generator, lengths: np.ndarray, *, max_len: int, alpha: float
) -> np.ndarray:
    """Simulated lengths of histories after `stochastic_length`, [B] → [B], on the host, to plan packing."""
    whole_up_to = max_len ** (alpha / 2)
    chance = whole_up_to**2 / np.maximum(lengths, 1) ** 2
    whole = (lengths <= whole_up_to) | (rng.random(lengths.size) < chance)
    return np.where(whole, lengths, int(whole_up_to + 1e-6))


def right_align(kept: Array, width: int) -> tuple[Array, Array]:
    """Index into L and mask, [B, width], that right-align the kept events; only the last `width` remain.

    Gather with `jnp.take_along_axis(column, index, axis=1)`.
    """
    order = jnp.argsort(kept, axis=1, stable=True).astype(jnp.int32)  # the kept ones last, each in order
    index = jnp.pad(order, ((0, 0), (max(width - kept.shape[1], 0), 0)))[:, -width:]
    return index, jnp.arange(width) >= width - kept.sum(axis=1, keepdims=True)
