"""Dynamic routing of events to interests (Sabour et al., NIPS 2017, arXiv:1710.09829, section 2)."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from jaxrec.nn.layers.interests import HIDDEN
from jaxrec.types import Array

Over = Literal["interests", "positions"]


def squash(z: Array) -> Array:
    """Vectors of the same direction and a length below 1, |z|² / (1 + |z|²), [..., D]; zero stays zero."""
    square = jnp.sum(z * z, axis=-1, keepdims=True)
    return z * square / (1.0 + square) * jax.lax.rsqrt(square + 1e-9)


def route(
    transformed: Array,
    logits: Array,
    mask: Array,
    *,
    iterations: int,
    over: Over = "interests",
    active: Array | None = None,
) -> Array:
    """Interests u_j = squash(Σ_i w_ij h_ij) with w the softmax of b, and b_ij += h_ij·u_j between iterations.

    Gradients flow through the last iteration alone, whose weights count as constants. Shape names: B batch,
    L slots, K interests, D dim.

    Args:
      transformed: h, [B, L, K, D]; [B, L, D] where it is the same for all interests.
      logits: b at the start, [B, L, K] or what can be broadcast to it.
      mask: True where there is an event, [B, L]; others have weight 0, after the softmax.
      iterations: at least 1.
      over: "interests": each event shares its weight 1 among the interests. "positions": each interest
        shares its weight among the slots, padding among them, which then takes part of it: as torch-rechub
        has it, to compare with it.
      active: True for interests that take part, [B, K]; None: all.

    Returns: [B, K, D], 0 where inactive.

    Raises:
      ValueError: iterations is below 1, or `over` has another value.
    """
    if iterations < 1:
        raise ValueError(f"iterations={iterations}: must be at least 1")
    if over not in ("interests", "positions"):
        raise ValueError(f"over={over!r}: must be 'interests' or 'positions'")
    head = "blkd" if transformed.ndim == 4 else "bld"
    shown = mask[..., None] if active is None else mask[..., None] & active[:, None]

    def interests(b: Array, h: Array) -> Array:
        b = b if active is None else jnp.where(active[:, None], b, HIDDEN)
        weights = jax.nn.softmax(b, axis=-1 if over == "interests" else 1)
        weights = jnp.where(shown, weights, 0.0).astype(h.dtype)
        return squash(jnp.einsum(f"blk,{head}->bkd", weights, h))

    fixed = jax.lax.stop_gradient(transformed)
    # The start depends on h so that it varies over the same mesh axes as what is added to it.
    varying = fixed[..., 0] if fixed.ndim == 4 else fixed[..., :1]
    start = jax.lax.stop_gradient(logits) + 0.0 * varying.astype(jnp.float32)

    def step(_: Array, b: Array) -> Array:
        return b + jnp.einsum(f"{head},bkd->blk", fixed, interests(b, fixed)).astype(b.dtype)

    return interests(jax.lax.fori_loop(0, iterations - 1, step, start), transformed)
