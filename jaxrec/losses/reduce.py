"""Means over the real examples of all devices."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrec.types import Array

MASKED = -1e30  # a score of softmax weight 0; finite, so that no gradient becomes NaN


def masked_mean(values: Array, where: Array | None = None, axis_name: str | None = None) -> Array:
    """Mean of `values` over the entries that `where` marks, 0 if there are none: [...] → [].

    With an axis name: the sum over this device's entries divided by the number of entries on all devices.
    Values of half precision are added up, and counted, in float32.
    """
    values = _at_least_float32(values)
    where = jnp.ones(values.shape, bool) if where is None else jnp.broadcast_to(where, values.shape)
    total = jnp.sum(jnp.where(where, values, 0.0))
    count = jnp.sum(where, dtype=total.dtype)
    if axis_name is not None:
        count = jax.lax.psum(count, axis_name)
    return total / jnp.maximum(count, 1.0)


def fullness(where: Array, batch_size: int | None, axis_name: str | None = None) -> Array:
    """The number of real examples on all devices divided by `batch_size`, [...] → [].

    A mean over examples times it is their sum divided by `batch_size`, so that the last batch of an epoch,
    which has fewer, weighs less: the rule of codes that add losses up. None: 1, which leaves means as they
    are.

    Raises:
      ValueError: batch_size is below 1.
    """
    if batch_size is None:
        return jnp.float32(1.0)
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: must be at least 1")
    count = jnp.sum(where, dtype=jnp.float32)
    return (count if axis_name is None else jax.lax.psum(count, axis_name)) / batch_size


def weighted_mean(
    values: Array, weight: Array, *, where: Array | None = None, axis_name: str | None = None
) -> Array:
    """Σ w · l / Σ w over real examples, 0 if all weights are 0: [...] → [].

    With weights 1 / q of observed examples and 0 of others it is the self-normalised inverse propensity
    estimate (SNIPS), which lies between the least and the largest value; `inverse_propensity_risk` is IPS.

    Args:
      values: losses of examples, such as `sigmoid_cross_entropy`, [...]; ignored where the weight is 0.
      weight: at least 0, [...]. where: True where the example is real, [...].
    """
    values = _at_least_float32(values)
    weight = jnp.where(True if where is None else where, weight, 0.0).astype(values.dtype)
    total = jnp.sum(jnp.where(weight != 0, weight * jnp.where(weight != 0, values, 0.0), 0.0))
    mass = jnp.sum(weight)
    mass = mass if axis_name is None else jax.lax.psum(mass, axis_name)
    return total / jnp.where(mass > 0, mass, 1.0)


def _at_least_float32(values: Array) -> Array:
    values = jnp.asarray(values)
    return values.astype(jnp.promote_types(values.dtype, jnp.float32))
