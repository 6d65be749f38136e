"""Losses of labelled examples, and weights of examples and classes."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrec.losses.ids import nan_outside
from jaxrec.losses.reduce import MASKED, masked_mean
from jaxrec.types import Array


def sigmoid_cross_entropy(logits: Array, labels: Array) -> Array:
    """-y log σ(s) - (1 - y) log(1 - σ(s)) of each example, for labels y in [0, 1]: [...] → [...]."""
    return labels * jax.nn.softplus(-logits) + (1.0 - labels) * jax.nn.softplus(logits)


def smooth_labels(labels: Array, smoothing: float, towards: float = 0.5) -> Array:
    """(1 - ε) y + ε · towards, [...] → [...] (Szegedy et al., CVPR 2016, section 7).

    towards: 1/2 as in Keras; 1/C for one-hot labels of C classes; the label's base rate, the only value that
    keeps the mean of a rare event (1/2 and ε = 0.1 turn a rate of 1 % into 5.9 %); 0 or 1 smooths one class
    only.
    """
    if not (0.0 <= smoothing < 1.0 and 0.0 <= towards <= 1.0):
        raise ValueError(f"smoothing={smoothing}, towards={towards}: must be in [0, 1) and [0, 1]")
    return labels if smoothing == 0.0 else (1.0 - smoothing) * labels + smoothing * towards


def binary_cross_entropy(
    logits: Array,
    labels: Array,
    *,
    where: Array | None = None,
    weight: Array | None = None,
    smoothing: float = 0.0,
    towards: float = 0.5,
    axis_name: str | None = None,
) -> Array:
    """Mean cross-entropy of labels in [0, 1]: Σ w · l / (number of real examples).

    Args:
      logits, labels: [...]; not read where the example is not real or its weight is 0.
      where: True where the example is real, [...].
      weight: of each example, [...]; it does not enter the denominator (see `weighted_mean`). Positives of
        weight a multiply the learned odds by a: subtract log a from the logit to undo it.
      smoothing, towards: see `smooth_labels`.

    >>> round(float(binary_cross_entropy(jnp.zeros(2), jnp.array([0.0, 1.0]))), 4)  # ln 2
    0.6931
    """

    def loss(logits: Array, labels: Array) -> Array:
        return sigmoid_cross_entropy(logits, smooth_labels(labels, smoothing, towards))

    return _supervised(loss, logits, labels, where, weight, axis_name)


def categorical_cross_entropy(
    logits: Array,
    labels: Array,
    *,
    smoothing: float = 0.0,
    where: Array | None = None,
    weight: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """Mean of -Σ_c y_c log softmax(s)_c of exclusive classes, with y smoothed towards 1/C.

    The true class has y = 1 - ε + ε / C, every other one ε / C (Szegedy et al., CVPR 2016, section 7; some
    codes spread ε over the C - 1 others). The loss is at least the entropy of y.

    Args:
      logits: [..., C]. labels: classes 0..C-1, int [...]; a real one outside makes the loss NaN.
      smoothing: ε, at least 0 and below 1.
      where, weight: see `binary_cross_entropy`.

    >>> round(float(categorical_cross_entropy(jnp.zeros((1, 4)), jnp.array([2]), smoothing=0.1)), 4)  # ln 4
    1.3863
    """
    classes = logits.shape[-1]
    real = jnp.ones(labels.shape, bool) if where is None else jnp.broadcast_to(where, labels.shape)
    used = real if weight is None else real & (weight != 0)
    own = (jnp.arange(classes) == labels[..., None]).astype(jnp.float32)
    target = smooth_labels(own, smoothing, 1.0 / classes)
    log_prob = jax.nn.log_softmax(jnp.where(used[..., None], logits.astype(jnp.float32), 0.0), axis=-1)
    terms = nan_outside(-jnp.sum(target * log_prob, axis=-1), labels + 1, classes + 1, where=used)
    if weight is not None:
        terms = terms * jnp.where(used, weight, 0.0)
    return masked_mean(jnp.where(used, terms, 0.0), real, axis_name)


def focal(
    logits: Array,
    labels: Array,
    *,
    gamma: float = 2.0,
    alpha: float | None = 0.25,
    where: Array | None = None,
    weight: Array | None = None,
    smoothing: float = 0.0,
    towards: float = 0.5,
    axis_name: str | None = None,
) -> Array:
    """Focal loss, cross-entropy with smaller weights of easy examples: -α (1 - p)^γ log p.

    (Lin et al., ICCV 2017, arXiv:1708.02002, equation 5.) p is the predicted probability of the label. The
    predictions are not calibrated: the best constant prediction is not the base rate. The gradient passes
    through the factor (1 - p)^γ, which smoothing does not change.

    Args:
      labels: 0 or 1, [...].
      gamma: 0 gives the cross-entropy. alpha: weight of label 1, that of label 0 is 1 - alpha; None: both are
        1.
      other arguments: see `binary_cross_entropy`.

    >>> round(float(focal(jnp.zeros(1), jnp.ones(1))), 4)  # 0.25 · (1/2)² · ln 2
    0.0433
    """
    if gamma < 0 or (alpha is not None and not 0.0 <= alpha <= 1.0):
        raise ValueError(f"gamma={gamma}, alpha={alpha}: must be at least 0, and None or in [0, 1]")

    def loss(logits: Array, labels: Array) -> Array:
        wrong = jnp.exp(gamma * jax.nn.log_sigmoid(jnp.where(labels > 0.5, -logits, logits)))  # (1 - p)^γ
        balance = 1.0 if alpha is None else jnp.where(labels > 0.5, alpha, 1.0 - alpha)
        return balance * wrong * sigmoid_cross_entropy(logits, smooth_labels(labels, smoothing, towards))

    return _supervised(loss, logits, labels, where, weight, axis_name)


def softmax_focal(
    logits: Array,
    labels: Array,
    *,
    gamma: float = 2.0,
    alpha: Array | None = None,
    where: Array | None = None,
    weight: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """Focal loss of several classes, -α (1 - p)^γ log p with p the softmax probability of the label.

    The form for exclusive classes of `focal`. 1 - p is the mass of the other classes, so that neither factor
    loses its gradient where p rounds to 1.

    Args:
      logits: [..., C]. labels: classes 0..C-1, int [...]; a real one outside makes the loss NaN.
      gamma: 0 gives the cross-entropy. alpha: weight of each class, [C] (see `class_weights`); None: all 1.
      where, weight: see `binary_cross_entropy`.

    >>> round(float(softmax_focal(jnp.zeros((1, 4)), jnp.array([2]))), 4)  # (3/4)² · ln 4
    0.7798
    """
    if gamma < 0:
        raise ValueError(f"gamma={gamma}: must be at least 0")
    classes = logits.shape[-1]
    real = jnp.ones(labels.shape, bool) if where is None else jnp.broadcast_to(where, labels.shape)
    used = real if weight is None else real & (weight != 0)
    own = jnp.arange(classes) == labels[..., None]
    logits = jnp.where(used[..., None], logits.astype(jnp.float32), 0.0)
    score = jnp.sum(jnp.where(own, logits, 0.0), axis=-1)
    rest = jax.nn.logsumexp(jnp.where(own, MASKED, logits), axis=-1)
    log_wrong = jax.nn.log_sigmoid(rest - score)  # log(1 - p)
    terms = jnp.exp(gamma * log_wrong) * jax.nn.softplus(rest - score)
    if alpha is not None:
        terms = terms * jnp.sum(jnp.where(own, alpha, 0.0), axis=-1)
    terms = nan_outside(terms, labels + 1, classes + 1, where=used)
    terms = terms if weight is None else terms * jnp.where(used, weight, 0.0)
    return masked_mean(terms, real, axis_name)


def squared_error(
    predictions: Array,
    labels: Array,
    *,
    where: Array | None = None,
    weight: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """Mean of (prediction - label)². Arguments: see `binary_cross_entropy`.

    >>> float(squared_error(jnp.array([1.0, 5.0]), jnp.array([3.0, 5.0])))
    2.0
    """
    return _supervised(lambda p, y: (p - y) ** 2, predictions, labels, where, weight, axis_name)


def _supervised(
    loss: Callable[[Array, Array], Array],
    predictions: Array,
    labels: Array,
    where: Array | None,
    weight: Array | None,
    axis_name: str | None,
) -> Array:
    """Mean of a loss over real examples; padding and examples of weight 0 have no gradient."""
    real = jnp.ones(predictions.shape, bool) if where is None else jnp.broadcast_to(where, predictions.shape)
    used = real if weight is None else real & (weight != 0)
    values = loss(jnp.where(used, predictions, 0.0), jnp.where(used, labels, 0.0))
    values = values if weight is None else values * jnp.where(used, weight, 0.0)
    return masked_mean(jnp.where(used, values, 0.0), real, axis_name)


def hardest(
    values: Array, ratio: float, *, where: Array | None = None, axis_name: str | None = None
) -> Array:
    """Selects the largest losses, ratio · n of n real examples rounded up: [...] → bool [...].

    Online hard example mining (Shrivastava et al., CVPR 2016): `masked_mean(values, hardest(values, 0.25))`.
    With an axis name, n counts the examples of all devices. Equal losses are all selected, or none of them.
    """
    if not 0.0 < ratio <= 1.0:
        raise ValueError(f"ratio={ratio}: must be above 0 and at most 1, which keeps every example")
    real = jnp.ones(values.shape, bool) if where is None else jnp.broadcast_to(where, values.shape)
    values = jax.lax.stop_gradient(jnp.where(real, values, -jnp.inf))
    everywhere, count = values.reshape(-1), jnp.sum(real)
    if axis_name is not None:
        everywhere = jax.lax.all_gather(everywhere, axis_name, tiled=True)
        count = jax.lax.psum(count, axis_name)
    kept = count if ratio == 1.0 else jnp.ceil(ratio * (1.0 - 1e-6) * count).astype(jnp.int32)
    return real & (values >= -jnp.sort(-everywhere)[jnp.maximum(kept - 1, 0)])


def class_weights(counts: Array, *, beta: float | None = None) -> Array:
    """Weights that compensate for unequal class sizes, from the number of examples of each class: [C] → [C].

    N / (C · n), with mean 1 over examples; with beta, (1 - beta) / (1 - betaⁿ), the inverse of the
    effective number of examples (Cui et al., CVPR 2019). A class without examples has weight 0.
    """
    if beta is not None and not 0.0 <= beta < 1.0:
        raise ValueError(f"beta={beta}: must be in [0, 1), or None for inverse counts")
    counts = jnp.asarray(counts, jnp.float32)
    some = jnp.maximum(counts, 1.0)
    if beta is None:
        weights = jnp.sum(counts) / (counts.size * some)
    elif beta == 0.0:
        weights = jnp.ones_like(some)
    else:  # 1 - βⁿ without cancellation where β is near 1
        weights = (1.0 - beta) / -jnp.expm1(some * math.log(beta))
    return jnp.where(counts > 0, weights, 0.0)


def f_beta_weights(
    logits: Array,
    labels: Array,
    *,
    beta: float = 1.0,
    where: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """Weights 1 of positives and tp / (β² P + N - tn) of negatives, [...] → [...], without a gradient.

    The ratio of the derivatives of F-beta by a true negative and by a true positive: P and N count the
    labels, tp and tn are the sums of σ(s) over positives and of 1 - σ(s) over negatives. Departs from
    EasyRec, which sums σ(s) over all examples, whatever their label, and differentiates the weights.
    """
    real = jnp.ones(logits.shape, bool) if where is None else jnp.broadcast_to(where, logits.shape)
    positive, negative, probs = real & (labels > 0.5), real & (labels <= 0.5), jax.nn.sigmoid(logits)
    sums = jnp.stack(
        [
            jnp.sum(jnp.where(positive, probs, 0.0)),
            jnp.sum(jnp.where(negative, probs, 0.0)),
            jnp.sum(positive, dtype=probs.dtype),
        ]
    )
    true_positives, false_positives, positives = sums if axis_name is None else jax.lax.psum(sums, axis_name)
    bottom = beta**2 * positives + false_positives  # N - tn are the false positives
    ratio = true_positives / jnp.where(bottom > 0, bottom, 1.0)
    return jax.lax.stop_gradient(jnp.where(negative, ratio, jnp.where(positive, 1.0, 0.0)))
