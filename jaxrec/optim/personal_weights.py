"""Weights of objectives for each user, from the gradients of their losses: MGDA in closed form.

Source: Xie et al., WWW 2021 ("Personalized Approximate Pareto-Efficient Recommendation", PAPERec), whose
actor learns such weights by the reward -|Σ wₖ gₖ|, 0 at a Pareto-stationary point. For two objectives the
weights of the highest reward have a closed form (Désidéri, 2012; Sener and Koltun, NeurIPS 2018), which no
actor can surpass.

The reward alone is no preference and can be gamed: it grows where gradients shrink, and prefers the objective
with the smaller one. `balanced_gram` takes the scale of each objective out. Gradients of length 1 would not
do: the shortest combination of two of them always has equal weights.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrec.optim.gradient_balancing import min_norm_weights
from jaxrec.optim.task_gradients import safe_divisor
from jaxrec.types import Array


def personal_weights(gram: Array, *, leave_out_zeros: bool = False) -> Array:
    """The weights of the shortest convex combination of each user's gradients: [..., K, K] → [..., K].

    Args:
      gram: inner products of a user's K gradients. Of two it is the closed form; gradients that are equal, or
        all 0, have equal weights.
      leave_out_zeros: a gradient of 0, such as that of an objective of which the user has no label, gets no
        weight, unless all are 0. False: it gets all of it, so that the user's other losses teach nothing.

    >>> personal_weights(jnp.array([[1.0, 0.0], [0.0, 4.0]])).tolist()  # orthogonal: w₁ ∝ |g₂|²
    [0.800000011920929, 0.19999998807907104]
    """
    if leave_out_zeros:
        count = gram.shape[-1]
        there = jnp.diagonal(gram, axis1=-2, axis2=-1) > 0
        first = jnp.argmax(there, axis=-1, keepdims=True)  # stands for those that are left out, too
        number = jnp.where(there | ~there.any(axis=-1, keepdims=True), jnp.arange(count), first)
        gram = jnp.take_along_axis(gram, number[..., None], axis=-2)
        gram = jnp.take_along_axis(gram, number[..., None, :], axis=-1)
        found = personal_weights(gram)
        return jnp.sum(jnp.where(number[..., None] == jnp.arange(count), found[..., None], 0.0), axis=-2)
    if gram.shape[-1] == 2:
        return pair_weights(gram)
    flat = gram.reshape(-1, *gram.shape[-2:])
    return jax.vmap(min_norm_weights)(flat).reshape(gram.shape[:-1])


def pair_weights(gram: Array) -> Array:
    """w₁ = clip((g₂ - g₁)·g₂ / |g₁ - g₂|², 0, 1) and 1 - w₁: [..., 2, 2] → [..., 2]."""
    one, both, two = gram[..., 0, 0], gram[..., 0, 1], gram[..., 1, 1]
    apart = one - 2.0 * both + two
    far = apart > 1e-12 * (one + two)  # else the gradients are equal, up to rounding
    first = jnp.where(far, (two - both) / jnp.where(far, apart, 1.0), 0.5)
    first = jnp.clip(first, 0.0, 1.0)
    return jnp.stack([first, 1.0 - first], axis=-1)


def balanced_gram(gram: Array, *, where: Array | None = None, axis_name: str | None = None) -> Array:
    """The inner products after each objective's gradients are divided by their root mean square over users.

    [B, K, K] → [B, K, K]. No objective is preferred for the scale of its loss; users still differ. Of an
    objective whose gradients are all 0 they stay so.

    where: True for the users whose gradients count, [B]. axis_name: the mean is over those of all devices.
    """
    squares = jnp.diagonal(gram, axis1=-2, axis2=-1)
    real = jnp.ones(squares.shape[:1], bool) if where is None else where
    total = jnp.sum(jnp.where(real[:, None], squares, 0.0), axis=0)
    count = jnp.sum(real, dtype=total.dtype)
    if axis_name is not None:
        total, count = jax.lax.psum((total, count), axis_name)
    sizes = jnp.sqrt(safe_divisor(total / jnp.maximum(count, 1.0)))
    return gram / jnp.outer(sizes, sizes)


def squared_residual(weights: Array, gram: Array) -> Array:
    """|Σ wₖ gₖ|², 0 at a Pareto-stationary point: [..., K] and [..., K, K] → [...].

    Minus its root is PAPERec's reward; minus the square has the same maximum and a gradient at 0.
    """
    return jnp.maximum(jnp.einsum("...k,...kj,...j->...", weights, gram, weights), 0.0)
