"""Whether predicted probabilities are the observed ones: ratio, error by bins and fields, parts of log loss.

As in `classification`, from all logits and labels of a set at once, under `jit`, by the examples that `where`
marks.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import xlogy

from jaxrec.metrics.classification import log_loss, masked_mean, run_starts, where_or_all
from jaxrec.segments import sum_by_id
from jaxrec.types import Array

NEAREST = 1e-7  # a bin's mean prediction is read as no nearer to 0 and 1 where a log loss is taken of it


def calibration_ratio(logits: Array, labels: Array, *, where: Array | None = None) -> Array:
    """Mean predicted probability divided by the share of positives, 1 if calibrated: [N], [N] → [].

    Infinite if there is no positive, NaN if no example is real.
    """
    return masked_mean(jax.nn.sigmoid(logits), where) / masked_mean(labels, where)


class Reliability(NamedTuple):
    """Per bin of probabilities: mean prediction, share of positives, number of examples; 0 if empty."""

    predicted: Array
    observed: Array
    num_examples: Array


def reliability(
    logits: Array,
    labels: Array,
    *,
    num_bins: int = 10,
    equal_mass: bool = False,
    where: Array | None = None,
) -> Reliability:
    """The reliability curve, [N], [N] → [num_bins] each: bin b holds probabilities from b / num_bins on.

    equal_mass: bins of ⌈N / num_bins⌉ examples each in the order of their logits instead; the last may have
    fewer. Equal logits are in one bin, so bins may be larger, and others empty.

    Raises:
      ValueError: num_bins < 1.
    """
    if num_bins < 1:
        raise ValueError(f"num_bins={num_bins}: must be at least 1")
    real = where_or_all(logits, where)
    if equal_mass:
        unmarked, logits, labels = jax.lax.sort(
            ((~real).astype(jnp.int32), logits, labels.astype(jnp.float32)), num_keys=2
        )
        place = jnp.arange(logits.size)
        first = jax.lax.cummax(jnp.where(run_starts(unmarked, logits), place, 0))
        real = unmarked == 0
        bins = first // jnp.maximum(-(-real.sum() // num_bins), 1)
        prob = jax.nn.sigmoid(logits)
    else:
        prob = jax.nn.sigmoid(logits)
        bins = jnp.clip((prob * num_bins).astype(jnp.int32), 0, num_bins - 1)

    def total(values: Array) -> Array:
        def bin_total(b: Array) -> Array:  # a sum over all examples rounds far less than a running one
            return jnp.sum(jnp.where(real & (bins == b), values, 0.0))

        return jax.lax.map(bin_total, jnp.arange(num_bins))

    count = total(jnp.ones_like(prob))
    safe = jnp.maximum(count, 1.0)
    return Reliability(total(prob) / safe, total(labels.astype(jnp.float32)) / safe, count)


def expected_calibration_error(
    logits: Array,
    labels: Array,
    *,
    num_bins: int = 10,
    equal_mass: bool = False,
    where: Array | None = None,
) -> Array:
    """Mean over examples of |predicted - observed| in their bin (Guo et al., ICML 2017, eq. 3).

    equal_mass: bins of as many examples each, see `reliability`: where events are rare nearly all examples
    are in the first bin of equal width. NaN if no example is real.
    """
    curve = reliability(logits, labels, num_bins=num_bins, equal_mass=equal_mass, where=where)
    count = curve.num_examples.sum()
    gaps = jnp.abs(curve.predicted - curve.observed) * curve.num_examples
    return jnp.sum(gaps) / jnp.where(count > 0, count, jnp.nan)


def field_calibration_error(
    logits: Array, labels: Array, field: Array, *, where: Array | None = None
) -> Array:
    """Mean over examples of |predicted - observed| within their value of a field: [N] each → [].

    Σ over values of |Σ (p - y)| / N (Pan et al., "Field-aware calibration", WWW 2020). It is large for few
    examples a value even where probabilities are true, by the noise of the labels.

    field: int32 [N], of any range, such as items. NaN if no example is real.
    """
    real = where_or_all(logits, where)
    gap = jnp.where(real, jax.nn.sigmoid(logits) - labels, 0.0)
    unmarked, field, gap = jax.lax.sort(((~real).astype(jnp.int32), field, gap), num_keys=2)
    number = jnp.cumsum(run_starts(unmarked, field)) - 1
    count = real.sum()
    return jnp.sum(jnp.abs(sum_by_id(gap, number, logits.size))) / jnp.where(count > 0, count, jnp.nan)


class LogLossParts(NamedTuple):
    """Log loss = uncertainty - resolution + miscalibration + within, in nats.

    uncertainty: of the share of positives, which no model changes. resolution: what the bins know of the
    labels, at most that. miscalibration: what a function of the prediction could mend. within: the rest,
    as predictions of a bin differ.
    """

    uncertainty: Array
    resolution: Array
    miscalibration: Array
    within: Array


def log_loss_parts(
    logits: Array, labels: Array, *, num_bins: int = 20, where: Array | None = None
) -> LogLossParts:
    """Log loss in the parts of Murphy's decomposition (Bröcker, 2009), over bins of as many examples each.

    With n_k examples, shares of positives o_k and mean predictions p_k in bin k and the share o of all:
    uncertainty H(o), resolution Σ n_k / N KL(o_k ‖ o), miscalibration Σ n_k / N KL(o_k ‖ p_k).
    """
    curve = reliability(logits, labels, num_bins=num_bins, equal_mass=True, where=where)
    share = curve.num_examples / jnp.maximum(curve.num_examples.sum(), 1)
    base = jnp.clip(jnp.sum(share * curve.observed), 0.0, 1.0)  # which rounding may leave
    uncertainty = -_expected(base, base)
    observed = jnp.where(share > 0, curve.observed, base)  # an empty bin tells nothing
    resolution = jnp.sum(share * (_expected(observed, observed) - _expected(observed, base)))
    predicted = jnp.clip(curve.predicted, NEAREST, 1 - NEAREST)
    worse = _expected(curve.observed, curve.observed) - _expected(curve.observed, predicted)
    miscalibration = jnp.sum(share * worse)
    whole = log_loss(logits, labels, where=where)
    return LogLossParts(
        uncertainty, resolution, miscalibration, whole - (uncertainty - resolution + miscalibration)
    )


def _expected(observed: Array, predicted: Array) -> Array:
    """The expected log likelihood of a prediction: o log p + (1 - o) log(1 - p)."""
    return xlogy(observed, predicted) + xlogy(1 - observed, 1 - predicted)
