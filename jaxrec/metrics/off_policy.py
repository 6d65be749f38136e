"""The value of a policy from the logs of another one: estimates of the mean reward, with standard errors.

The value of a policy is the mean reward of what it would show. Rows of a log are what another policy showed,
with the reward and the probability with which it was shown (its propensity). The target policy's probability
over the propensity is the weight of a row. All estimates are over the last axis and run under `jit`.

Inverse propensities: Horvitz and Thompson, JASA 1952; self-normalised: Swaminathan and Joachims, NIPS 2015;
doubly robust: Dudik, Langford and Li, ICML 2011, arXiv:1103.4601. The standard errors are those of
independent rows.
"""

from __future__ import annotations

import statistics
from typing import NamedTuple

import jax.numpy as jnp

from jaxrec.types import Array


class Estimate(NamedTuple):
    """value: of the policy, [...]; error: its standard error, [...]; NaN of fewer than two rows."""

    value: Array
    error: Array

    def interval(self, level: float = 0.95) -> tuple[Array, Array]:
        """The ends of the normal interval.

        >>> low, high = Estimate(jnp.array(1.0), jnp.array(0.1)).interval()
        >>> round(float(low), 3), round(float(high), 3)
        (0.804, 1.196)
        """
        if not 0 < level < 1:
            raise ValueError(f"level={level}: must lie between 0 and 1")
        z = statistics.NormalDist().inv_cdf(0.5 + level / 2)
        return self.value - z * self.error, self.value + z * self.error


def importance_weights(target: Array, logged: Array, *, maximum: float | None = None) -> Array:
    """The target policy's probability of what was shown over the logging policy's: [...], [...] → [...].

    Their mean is 1 in expectation if the logging policy can show whatever the target policy shows.

    Args:
      target: probability under the policy to value, in 0..1; logged: propensity, above 0.
      maximum: cuts the weights off, which lowers the variance and biases every estimate; None: no cut.

    A propensity that is not above 0, or a probability outside 0..1, gives NaN.

    >>> importance_weights(jnp.array([0.5, 0.0]), jnp.array([0.25, 0.5])).tolist()
    [2.0, 0.0]
    """
    if maximum is not None and not maximum > 0:
        raise ValueError(f"maximum={maximum}: must be positive")
    known = (logged > 0) & (logged <= 1) & (target >= 0) & (target <= 1)
    weight = jnp.where(known, target / jnp.where(logged > 0, logged, 1.0), jnp.nan)
    return weight if maximum is None else jnp.minimum(weight, maximum)


def ips(reward: Array, weight: Array, *, where: Array | None = None) -> Estimate:
    """Inverse propensities: the mean of weight · reward, [..., N] each → [...].

    Unbiased with true propensities. It is not invariant: rewards that are all larger by c give an estimate
    larger by c · the mean weight.

    Args:
      reward: of each row. weight: see `importance_weights`. where: True where the row is real.
    """
    return _mean(weight * reward, where)


def snips(reward: Array, weight: Array, *, where: Array | None = None) -> Estimate:
    """Self-normalised: Σ weight · reward / Σ weight, between the least and the largest reward.

    Biased by about 1 / N, and often of far smaller variance than `ips`; rewards that are all larger by c give
    an estimate larger by c. The error is that of the linear approximation. NaN where all weights are 0.
    """
    real = _real(weight, where)
    weight = jnp.where(real, weight, 0.0)
    mass = weight.sum(axis=-1)
    value = jnp.where(real, weight * reward, 0.0).sum(axis=-1) / mass
    squares = jnp.where(real, weight * (reward - value[..., None]), 0.0) ** 2
    number = real.sum(axis=-1)
    correction = jnp.where(number > 1, number / jnp.maximum(number - 1, 1), jnp.nan)
    return Estimate(value, jnp.sqrt(correction * squares.sum(axis=-1)) / mass)


def direct(expected: Array, *, where: Array | None = None) -> Estimate:
    """The mean of what a model of the reward expects of the policy: as good as the model, [..., N] → [...].

    The error is that of the contexts alone; it knows nothing of the model's.

    Args:
      expected: Σ over actions of the policy's probability · the predicted reward, for each row's context.
    """
    return _mean(expected, where)


def doubly_robust(
    reward: Array, weight: Array, predicted: Array, expected: Array, *, where: Array | None = None
) -> Estimate:
    """What a model expects, corrected by its errors on what was shown: mean of E + weight · (reward - r̂).

    Unbiased if the propensities are true, whatever the model, or if the model is, whatever the propensities;
    the model must not have been fitted to the rows that it is used for. A model of zeros gives `ips`.

    Args:
      predicted: r̂, the model's reward of what was shown, [..., N]. expected: as of `direct`.
    """
    return _mean(expected + weight * (reward - predicted), where)


def effective_size(weight: Array, *, where: Array | None = None) -> Array:
    """(Σ weight)² / Σ weight²: of how many equally weighted rows the logs are worth, [..., N] → [...].

    Kish, Survey Sampling, 1965. NaN where all weights are 0.

    >>> float(effective_size(jnp.array([1.0, 1.0, 0.0])))
    2.0
    """
    weight = jnp.where(_real(weight, where), weight, 0.0)
    return weight.sum(axis=-1) ** 2 / (weight**2).sum(axis=-1)


def _real(values: Array, where: Array | None) -> Array:
    return jnp.ones(values.shape, bool) if where is None else jnp.broadcast_to(where, values.shape)


def _mean(values: Array, where: Array | None) -> Estimate:
    """The mean of real values and its standard error, from the sample variance."""
    real = _real(values, where)
    number = real.sum(axis=-1)
    mean = jnp.where(real, values, 0.0).sum(axis=-1) / jnp.where(number > 0, number, jnp.nan)
    squares = jnp.where(real, values - mean[..., None], 0.0) ** 2
    variance = squares.sum(axis=-1) / jnp.where(number > 1, number - 1, jnp.nan)
    return Estimate(mean, jnp.sqrt(variance / number))
