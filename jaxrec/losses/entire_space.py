"""Losses of conversion funnels: a penalty on the order of steps, and risks corrected for selection bias."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrec.losses.reduce import masked_mean
from jaxrec.types import Array


def order_violation(logits: Array, *, where: Array | None = None, axis_name: str | None = None) -> Array:
    """By how much later steps are predicted as more probable than earlier ones: Σ_t max(p_t - p_(t-1), 0).

    AITM's behavioural expectation calibrator (Xi et al., KDD 2021, equations 11 to 13; its weight is 0.6). It
    is 0 if and only if probabilities never increase along the steps. The official code sums over the batch;
    this is the mean.

    Args:
      logits: marginal logit of each step, [..., T].
      where: True where the example is real, [...].

    >>> float(order_violation(jnp.array([[0.0, 100.0, 0.0]])))  # probabilities 0.5, 1, 0.5
    0.5
    """
    probs = jax.nn.sigmoid(logits)
    return masked_mean(jnp.sum(jax.nn.relu(jnp.diff(probs, axis=-1)), axis=-1), where, axis_name)


def product_divergence(
    click: Array,
    conversion: Array,
    order: Array,
    *,
    only_order: bool = False,
    where: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """How far p = P(click) P(order | click) is from q = P(order): KL(p‖q) + KL(q‖p), in nats.

    Of Bernoulli variables it is (p - q) (logit p - logit q): at least 0, and 0 where p = q. Meituan's ranker
    (technical blog of 2018-03-29) ties the heads of clicks and orders with a divergence whose formula and
    weight are not published; the symmetric form is ours. It is the soft form of ESMM, in which p = q by
    construction. A free P(order | click) can make p = q wherever q is at most P(click): it forces no more.

    Args:
      click, conversion, order: logits, [...].
      only_order: p gets no gradient, so that the head of orders follows the other two.
      where: True where the example is real, [...].

    >>> float(product_divergence(jnp.zeros(1), jnp.zeros(1), jnp.array([-jnp.log(3.0)])))  # 1/2 · 1/2 = 1/4
    0.0
    """
    real = jnp.ones(order.shape, bool) if where is None else jnp.broadcast_to(where, order.shape)
    click, conversion, order = (jnp.where(real, logit, 0.0) for logit in (click, conversion, order))
    both = -jnp.logaddexp(jnp.logaddexp(-click, -conversion), -(click + conversion))  # the logit of p
    both = jax.lax.stop_gradient(both) if only_order else both
    terms = (jax.nn.sigmoid(both) - jax.nn.sigmoid(order)) * (both - order)
    return masked_mean(terms, real, axis_name)


def clipped_propensity(logit: Array, *, minimum: float = 0.1, scale: Array | float = 1.0) -> Array:
    """The probability of being observed, max(σ(logit), minimum), without a gradient: [...] → [...].

    The weights of the risks below are thus at most 1 / minimum, and the risks do not train the propensity
    model (Wang et al., SIGIR 2022, appendix A).

    Args:
      logit: of being observed, [...].
      minimum: smallest propensity. The public codes clip the weights at 15, a minimum of 1/15.
      scale: factor on the probability before clipping. For their inverse propensity risk the public codes
        take the batch's share of clicks, by which the risk is divided, and clip at 15 times the batch size.
    """
    if not 0.0 < minimum <= 1.0:
        raise ValueError(
            f"minimum={minimum}: must be above 0 and at most 1, as 1 / minimum is the largest weight"
        )
    return jax.lax.stop_gradient(jnp.maximum(jax.nn.sigmoid(logit) * scale, minimum))


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
      errors: such as the `sigmoid_cross_entropy` of a conversion, [...]; used where `observed` only, but for
        finite gradients they must be finite elsewhere too: replace unknown labels by a number first.
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
    Used together with `imputation_risk`. Arguments as of `inverse_propensity_risk`; imputed: ê, [...].

    As in the public codes, this risk trains ê too: clipped propensities make the mean of o / q less than 1,
    which pulls ê, and with it the estimate, below the mean error. Without that gradient the risk would train
    the conversion model as inverse propensities do.
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
    """Squared difference of imputed and observed errors, in squared nats: mean of o · (e - ê)² / q.

    Args:
      errors, imputed, observed, propensity, where, axis_name: as of `doubly_robust_risk`.
      train_errors: False trains the imputed errors only; `errors` get no gradient. True, as in the public
        codes, trains the conversion model too, towards errors that are easy to impute.
    """
    squared = ((errors if train_errors else jax.lax.stop_gradient(errors)) - imputed) ** 2
    return inverse_propensity_risk(squared, observed, propensity, where=where, axis_name=axis_name)
