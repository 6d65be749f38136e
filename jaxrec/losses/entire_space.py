"""Losses of conversion funnels: order of steps, and risks corrected for selection."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrec.losses.reduce import masked_mean
from jaxrec.types import Array


def order_violation(logits: Array, *, where: Array | None = None, axis_name: str | None = None) -> Array:
    """By how much a later step is held more probable than the one before: Σ_t max(p_t - p_(t-1), 0).

    AITM's behavioural expectation calibrator (Xi et al., KDD 2021, equations 11 to 13; its weight is 0.6). It
    is 0 where probabilities never rise along the steps, and only there. The official code sums over the
    batch, this is the mean.

    Args:
      logits: of each step, given none before it, [..., T].
      where: True where the example is real, [...].

    >>> float(order_violation(jnp.array([[0.0, 100.0, 0.0]])))  # probabilities 0.5, 1, 0.5
    0.5
    """
    probs = jax.nn.sigmoid(logits)
    return masked_mean(jnp.sum(jax.nn.relu(jnp.diff(probs, axis=-1)), axis=-1), where, axis_name)


def clipped_propensity(logit: Array, *, floor: float = 0.1, scale: Array | float = 1.0) -> Array:
    """The probability of being observed, σ(logit) but at least `floor`, without a gradient: [...] → [...].

    A propensity weighs the risks below by at most 1 / floor, and they do not train the model it comes from
    (Wang et al., SIGIR 2022, appendix A).

    Args:
      logit: of being observed, [...].
      floor: what it is raised to where it is below. The public codes cut the weights at 15, a floor of 1/15.
      scale: factor on the probability before that. For their risk of inverse propensities the public codes
        take the batch's share of clicks, by which the risk is divided, and cut at 15 times the batch size.
    """
    if not 0.0 < floor <= 1.0:
        raise ValueError(f"floor={floor}: must be above 0 and at most 1, as 1 / floor is the largest weight")
    return jax.lax.stop_gradient(jnp.maximum(jax.nn.sigmoid(logit) * scale, floor))


def inverse_propensity_risk(
    errors: Array,
    observed: Array,
    propensity: Array,
    *,
    where: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """Mean error over all examples, estimated from the observed ones: mean of o · e / q.

    Unbiased if q is the true probability of being observed (ESCM²-IPS: Wang et al., SIGIR 2022).

    Args:
      errors: such as the `sigmoid_cross_entropy` of a conversion, [...]; read where `observed` only. For
        finite gradients they must be finite elsewhere too: give unknown labels a number before.
      observed: whether the label is known (there was a click), [...].
      propensity: probability of being observed, [...], see `clipped_propensity`.
      where: True where the example is real, [...].
    """
    weighted = jnp.where(observed, errors, 0.0) / propensity
    return masked_mean(weighted, where, axis_name)


def doubly_robust_risk(
    errors: Array,
    imputed: Array,
    observed: Array,
    propensity: Array,
    *,
    where: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """Mean error over all examples, from imputed ones corrected where observed: mean of ê + o · (e - ê) / q.

    Unbiased if the propensity or the imputed error is right (ESCM²-DR: Wang et al., SIGIR 2022).
    Goes together with `imputation_risk`. Arguments as of `inverse_propensity_risk`; imputed: [...].

    As in the public codes, ê is trained by this risk too: under a propensity cut off from below, which makes
    the mean of o / q less than 1, it is pulled below the mean error, and the estimate with it. Without that
    gradient the risk would train the conversion model as inverse propensities do.
    """
    weighted = imputed + jnp.where(observed, errors - imputed, 0.0) / propensity
    return masked_mean(weighted, where, axis_name)


def imputation_risk(
    errors: Array,
    imputed: Array,
    observed: Array,
    propensity: Array,
    *,
    train_errors: bool = False,
    where: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """How far imputed errors are from observed ones, in squared nats: mean of o · (e - ê)² / q.

    Args:
      errors, imputed, observed, propensity, where, axis_name: as of `doubly_robust_risk`.
      train_errors: False trains the imputed errors only; no gradient reaches `errors`. True, as in the public
        codes, trains the conversion model too, towards errors that are easy to impute.
    """
    squared = ((errors if train_errors else jax.lax.stop_gradient(errors)) - imputed) ** 2
    return inverse_propensity_risk(squared, observed, propensity, where=where, axis_name=axis_name)
