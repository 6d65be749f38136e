"""Losses of watch times: logistic regression whose odds are the expected time, and quantiles.

Covington, Adams and Sargin, RecSys 2016, doi:10.1145/2959100.2959190, section 4.2; Zhan et al., KDD 2022,
arXiv:2206.06003.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrec.losses.reduce import masked_mean, weighted_mean
from jaxrec.types import Array


def watch_time(
    logit: Array,
    watched: Array,
    time: Array,
    *,
    exact: bool = False,
    by_weight: bool = False,
    where: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """T · y · softplus(-z) + (1 - y) · softplus(z), averaged over examples.

    A watched impression weighs its watch time T, another 1. Of impressions with equal features the best
    exp(z) is Σ T / (number not watched): the mean watch time of an impression, but for a factor of 1 over
    the share not watched. An impression that is watched for T = 0 weighs nothing.

    Args:
      logit: z, [...]. watched: y, 0 or 1, [...].
      time: T, at least 0, [...], in any unit; read where watched. Seconds make the loss large: take minutes,
        or cut off the longest.
      exact: counts every watched impression as one that was not, too, of weight 1: exp(z) is then Σ T / N.
      by_weight: divides by the sum of the weights in place of the number of examples.
      where: True where the example is real, [...]; the others are not read.

    >>> z, y, t = jnp.zeros(2), jnp.array([1.0, 0.0]), jnp.array([3.0, 7.0])
    >>> round(float(watch_time(z, y, t)), 4)  # (3 + 1) ln 2 / 2
    1.3863
    """
    if where is not None:
        logit, time = (jnp.where(where, column, 0.0) for column in (logit, time))
    seen = watched > 0
    weight = jnp.where(seen, time, 1.0)
    terms = jnp.where(seen, weight * jax.nn.softplus(-logit), jax.nn.softplus(logit))
    if exact:
        terms = terms + jnp.where(seen, jax.nn.softplus(logit), 0.0)
        weight = weight + seen
    if by_weight:
        mean = terms / jnp.where(weight > 0, weight, 1.0)
        return weighted_mean(mean, weight, where=where, axis_name=axis_name)
    return masked_mean(terms, where, axis_name)


def quantile_error(
    logit: Array, quantile: Array, *, where: Array | None = None, axis_name: str | None = None
) -> Array:
    """(σ(z) - t)² of a quantile t, averaged over examples: D2Q's loss (Zhan et al., KDD 2022, section 4).

    Args:
      logit: z, [...]. quantile: t, of the watch time within its group of durations, in 0..1, [...].
      where: True where the example is real, [...]; the others are not read.

    >>> float(quantile_error(jnp.zeros(2), jnp.array([0.0, 1.0])))
    0.25
    """
    if where is not None:
        logit, quantile = (jnp.where(where, column, 0.0) for column in (logit, quantile))
    return masked_mean((jax.nn.sigmoid(logit) - quantile) ** 2, where, axis_name)
