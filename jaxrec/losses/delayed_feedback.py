"""Losses of conversions that arrive late: an example without one yet may still become a positive.

Two kinds of data. A snapshot has each click once, with the time since. A stream has a click when it happens,
as a negative, and once more, as a positive, when its conversion arrives: of true probability p the share of
positives among its examples is p / (1 + p), which the losses mend, or the prediction
(`fake_negative_calibrated`).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrec.losses.labels import sigmoid_cross_entropy
from jaxrec.losses.reduce import masked_mean
from jaxrec.types import Array

NEAREST = 1e-6  # how near to 1 `fake_negative_calibrated` brings a probability
LARGEST = 80.0  # of a log rate as a factor of time: e^80 is still a number in float32


def delayed_feedback(
    logits: Array,
    log_rate: Array,
    *,
    converted: Array,
    delay: Array,
    elapsed: Array,
    where: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """Mean negative log likelihood of a snapshot in nats (Chapelle, KDD 2014, section 4).

    A click converts with p = σ(logit), after a delay of the exponential distribution of rate λ. Seen:
    -log p - log λ + λ d of a conversion after d; -log(1 - p + p e^(-λ e)) of none after e, computed as
    softplus(s) - softplus(s - λ e), which is 0 with a zero gradient at e = 0 and -log(1 - p) for e → ∞.

    Args:
      logits: [...]. log_rate: of λ, per unit of time, [...].
      converted: 1 where a conversion was seen, [...]. delay: from click to conversion, read where there is
        one, [...]. elapsed: from click to now, read where there is none, [...]. Both in one unit.
      where: True where the example is real, [...]; the others are not read.
    """
    if where is not None:
        logits, log_rate, delay, elapsed = (
            jnp.where(where, column, 0.0) for column in (logits, log_rate, delay, elapsed)
        )
    each = delayed_feedback_of_each(logits, log_rate, converted=converted, delay=delay, elapsed=elapsed)
    return masked_mean(each, where, axis_name)


def delayed_feedback_of_each(
    logits: Array, log_rate: Array, *, converted: Array, delay: Array, elapsed: Array
) -> Array:
    """`delayed_feedback` of each example, [...]."""
    seen = converted > 0.5
    time = jnp.where(seen, delay, elapsed)
    # Beyond LARGEST nothing changes for a negative or a delay of 0, where ∞ · 0 would be NaN.
    log_factor = jnp.where(seen & (time > 0), log_rate, jnp.minimum(log_rate, LARGEST))
    waited = jnp.exp(log_factor) * time
    positive = jax.nn.softplus(-logits) - log_rate + waited
    negative = jax.nn.softplus(logits) - jax.nn.softplus(logits - waited)
    return jnp.where(seen, positive, negative)


def fake_negative_weighted(
    logits: Array, labels: Array, *, where: Array | None = None, axis_name: str | None = None
) -> Array:
    """Weighted cross-entropy of a stream whose fixed point is p (FNW: Ktena et al., RecSys 2019).

    With p the prediction, through whose weights no gradient passes: (1 + p) for positives and
    (1 - p)(1 + p) for negatives, [...] → []. where: True where the example is real; the others are not read.
    """
    if where is not None:
        logits, labels = (jnp.where(where, column, 0.0) for column in (logits, labels))
    prob = jax.lax.stop_gradient(jax.nn.sigmoid(logits))
    weight = (1.0 + prob) * jnp.where(labels > 0.5, 1.0, 1.0 - prob)
    return masked_mean(weight * sigmoid_cross_entropy(logits, labels), where, axis_name)


def fake_negative_calibrated(logits: Array) -> Array:
    """The logit of p = b / (1 - b) from that of b, learned from a stream without weights: [...] → [...].

    (FNC: Ktena et al., RecSys 2019.) Where b is 1/2 or more p is 1, for which 1 - 1e-6 stands.

    >>> round(float(jax.nn.sigmoid(fake_negative_calibrated(jnp.log(0.25)))), 6)  # b = 1/5, p = 1/4
    0.25
    """
    log_prob = jnp.minimum(logits, -NEAREST)
    return log_prob - jnp.log(-jnp.expm1(log_prob))


def observation_weights(labels: Array, observed: Array, negative: Array) -> Array:
    """Weights of a snapshot's examples for `binary_cross_entropy` (FSIW: Yasui et al., WWW 2020).

    1 / P(observed by now | converted) for conversions and P(no conversion | none observed) for others; both
    are predicted from features and elapsed time by models that learned them before, and get no gradient.

    labels: 1 where a conversion was seen, [...]. observed, negative: logits of the two, [...].
    """
    weight = jnp.where(labels > 0.5, 1.0 + jnp.exp(-observed), jax.nn.sigmoid(negative))
    return jax.lax.stop_gradient(weight)


def elapsed_time_weights(labels: Array, delayed: Array, negative: Array) -> Array:
    """Weights of a stream in which a click waits before it is an example (ES-DFM: Yang et al., AAAI 2021).

    With d = P(conversion after the wait) and r = P(no conversion | none in the wait): 1 + d for positives,
    in the wait or after, and (1 + d) r for negatives. No gradient passes.

    labels: of the stream's examples, [...]. delayed, negative: logits of d and r, of models that learned them
    before, [...].
    """
    weight = (1.0 + jax.nn.sigmoid(delayed)) * jnp.where(labels > 0.5, 1.0, jax.nn.sigmoid(negative))
    return jax.lax.stop_gradient(weight)
