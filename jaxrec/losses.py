"""Losses from scores (or vectors) to one scalar in nats. Plain functions, leading axes free.

Every loss takes `where`, True where an example is real, and `axis_name`. With an axis name (inside
`jax.pmap`, `jax.shard_map` or `jax.vmap(..., axis_name=...)`) it returns this device's share: the shares of
all devices add up to the loss of the global batch, whatever their number. With no real example it is 0.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrec.types import Array

_MASKED = -1e30  # a score no softmax can see; finite, so that no gradient becomes NaN


def masked_mean(values: Array, where: Array | None = None, axis_name: str | None = None) -> Array:
    """Mean of `values` over the entries that `where` marks, 0 if there are none: [...] → [].

    With an axis name: the sum over this device's entries divided by the number of entries on all devices.
    """
    where = jnp.ones(values.shape, bool) if where is None else jnp.broadcast_to(where, values.shape)
    total = jnp.sum(jnp.where(where, values, 0.0))
    count = jnp.sum(where, dtype=total.dtype)
    if axis_name is not None:
        count = jax.lax.psum(count, axis_name)
    return total / jnp.maximum(count, 1.0)


def bce(pos: Array, neg: Array, *, where: Array | None = None, axis_name: str | None = None) -> Array:
    """Binary cross-entropy with sampled negatives: -log σ(pos) - Σ log(1 - σ(neg)), averaged over positives.

    SASRec (Kang and McAuley, ICDM 2018, section III-F). The official code adds 1e-24 inside the logarithms,
    which caps a term at 55 nats; this form is exact at any score.

    Args:
      pos: scores of the observed items, [...].
      neg: scores of sampled items, [...] for one per positive or [..., N], whose terms are summed.
      where: True where the positive is real, [...].

    >>> round(float(bce(jnp.zeros(3), jnp.zeros(3))), 4)  # 2 ln 2
    1.3863
    """
    return masked_mean(
        jax.nn.softplus(-pos) + _over_negatives(jnp.sum, jax.nn.softplus(neg), pos), where, axis_name
    )


def bpr(pos: Array, neg: Array, *, where: Array | None = None, axis_name: str | None = None) -> Array:
    """Bayesian personalised ranking, -log σ(pos - neg) (Rendle et al., UAI 2009, section 4.1).

    Args:
      pos: scores of the observed items, [...].
      neg: scores of sampled items, [...] for one per positive or [..., N], whose terms are averaged.
      where: True where the positive is real, [...].

    >>> round(float(bpr(jnp.array([2.0]), jnp.array([1.0]))), 4)
    0.3133
    """
    wide = pos[..., None] if neg.ndim > pos.ndim else pos
    return masked_mean(_over_negatives(jnp.mean, jax.nn.softplus(neg - wide), pos), where, axis_name)


def _over_negatives(reduce_fn, values: Array, pos: Array) -> Array:  # type: ignore[no-untyped-def]
    return reduce_fn(values, axis=-1) if values.ndim > pos.ndim else values


def sampled_softmax(
    pos: Array,
    neg: Array,
    *,
    pos_log_prob: Array | None = None,
    neg_log_prob: Array | None = None,
    accidental: Array | None = None,
    where: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """Cross-entropy of the observed item against sampled ones: -s⁺ + log(exp s⁺ + Σ exp s⁻).

    With the log-probabilities of the sampler it is corrected for the proposal, s - log Q, in both places,
    which makes its gradient that of the full softmax in the limit (Bengio and Senécal, 2008). They go
    together: a frequent item is drawn often and its score is lowered for it (never raised).

    Args:
      pos: scores of the observed items, [...].
      neg: scores of sampled items, [..., N].
      pos_log_prob: log Q of the observed items, [...]; None (with neg_log_prob None) means no correction.
      neg_log_prob: log Q of the sampled items, [..., N].
      accidental: True where a sampled item is the observed one, [..., N]: it is left out.
      where: True where the positive is real, [...].
    """
    if (pos_log_prob is None) != (neg_log_prob is None):
        raise ValueError("pos_log_prob and neg_log_prob go together: give both, or neither for no correction")
    if pos_log_prob is not None and neg_log_prob is not None:
        pos, neg = pos - pos_log_prob, neg - neg_log_prob
    if accidental is not None:
        neg = jnp.where(accidental, _MASKED, neg)
    logits = jnp.concatenate([pos[..., None], neg], axis=-1)
    return masked_mean(jax.nn.logsumexp(logits, axis=-1) - pos, where, axis_name)


def sampled_cosine_softmax(
    hidden: Array,
    table: Array,
    targets: Array,
    negatives: Array,
    *,
    temperature: float = 0.05,
    where: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """Cross-entropy of the observed item against sampled ones, scored by h·e_j / (‖e_j‖ τ).

    The loss of HSTU's research code (Zhai et al., ICML 2024, arXiv:2402.17152), without a correction for the
    sampler. A sample that is the target is left out; one that comes twice counts twice.

    Args:
      hidden: what the model says at each position, of length 1 for cosines, [..., D].
      table: item vectors of any length, [V, D]; only rows that are read are normalised.
      targets: ids of the observed items, [...].
      negatives: ids of sampled items, [..., N].
      temperature: τ, which divides the scores; must be positive.
      where: True where the target is real, [...].
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: must be positive")
    ids = jnp.concatenate([targets[..., None], negatives], axis=-1)
    vectors = jnp.asarray(table)[ids].astype(jnp.float32)
    vectors = vectors * jax.lax.rsqrt(jnp.maximum(jnp.sum(vectors**2, axis=-1, keepdims=True), 1e-12))
    scores = jnp.einsum("...d,...nd->...n", hidden.astype(jnp.float32), vectors) / temperature
    return sampled_softmax(
        scores[..., 0],
        scores[..., 1:],
        accidental=negatives == targets[..., None],
        where=where,
        axis_name=axis_name,
    )


def softmax_cross_entropy(
    hidden: Array,
    table: Array,
    targets: Array,
    *,
    where: Array | None = None,
    num_items: int | None = None,
    include_padding: bool = False,
    block: int = 4096,
    axis_name: str | None = None,
) -> Array:
    """Cross-entropy over all items, -h·e_y + log Σ exp h·e_j, computed in blocks of items.

    Never holds [tokens, items]: the backward pass computes each block of probabilities again.

    Args:
      hidden: what the model says at each position, [..., D].
      table: item vectors, [V, D]; row 0 is padding.
      targets: ids of the observed items, [...].
      where: True where the target is real, [...].
      num_items: rows past it are no candidates (a mask id); None means every row is an item.
      include_padding: True keeps row 0 among the candidates, as RecBole does.
      block: items in a block.
    """
    count = table.shape[0] if num_items is None else num_items + 1
    if not 2 <= count <= table.shape[0]:
        raise ValueError(
            f"num_items={num_items}: the table has {table.shape[0]} rows, so 1..{table.shape[0] - 1}"
        )
    first = 0 if include_padding else 1
    flat = hidden.reshape(-1, hidden.shape[-1])
    lse = _blocked_logsumexp(flat, table[first:count], min(block, count - first))
    target_score = jnp.sum(hidden * table[targets], axis=-1, dtype=jnp.float32)
    return masked_mean(lse.reshape(targets.shape) - target_score, where, axis_name)


def _blocks(table: Array, size: int) -> tuple[Array, Array]:
    """Cuts [V, D] into [n, size, D] with a mask [n, size] of the rows that exist."""
    extra = -table.shape[0] % size
    real = jnp.arange(table.shape[0] + extra) < table.shape[0]
    return jnp.pad(table, ((0, extra), (0, 0))).reshape(-1, size, table.shape[1]), real.reshape(-1, size)


def _scores(hidden: Array, block: Array, real: Array) -> Array:
    return jnp.where(real, jnp.matmul(hidden, block.T, preferred_element_type=jnp.float32), _MASKED)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _blocked_logsumexp(hidden: Array, table: Array, size: int) -> Array:
    """log Σ_j exp(hidden · table_j): [T, D], [V, D] → [T] in float32, holding [T, size] at a time."""

    def add_block(carry: tuple[Array, Array], block: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        top, total = carry
        scores = _scores(hidden, *block)
        new_top = jnp.maximum(top, scores.max(axis=-1))
        return (
            new_top,
            total * jnp.exp(top - new_top) + jnp.exp(scores - new_top[:, None]).sum(axis=-1),
        ), None

    # the start depends on `hidden` so that it varies over the same mesh axes as the rest of the carry
    start = hidden[:, 0].astype(jnp.float32) * 0.0
    (top, total), _ = jax.lax.scan(add_block, (start + _MASKED, start), _blocks(table, size))
    return top + jnp.log(total)


def _blocked_logsumexp_fwd(
    hidden: Array, table: Array, size: int
) -> tuple[Array, tuple[Array, Array, Array]]:
    lse = _blocked_logsumexp(hidden, table, size)
    return lse, (hidden, table, lse)


def _blocked_logsumexp_bwd(
    size: int, saved: tuple[Array, Array, Array], cotangent: Array
) -> tuple[Array, Array]:
    hidden, table, lse = saved

    def add_block(grad_hidden: Array, block: tuple[Array, Array]) -> tuple[Array, Array]:
        probs = jnp.exp(_scores(hidden, *block) - lse[:, None]) * cotangent[:, None]
        grad_block = jnp.matmul(probs.T, hidden, preferred_element_type=jnp.float32)
        return grad_hidden + jnp.matmul(probs, block[0], preferred_element_type=jnp.float32), grad_block

    grad_hidden, grad_blocks = jax.lax.scan(add_block, hidden.astype(jnp.float32) * 0.0, _blocks(table, size))
    grad_table = grad_blocks.reshape(-1, table.shape[1])[: table.shape[0]]
    return grad_hidden.astype(hidden.dtype), grad_table.astype(table.dtype)


_blocked_logsumexp.defvjp(_blocked_logsumexp_fwd, _blocked_logsumexp_bwd)


def nt_xent(
    z1: Array,
    z2: Array,
    *,
    temperature: float = 1.0,
    normalise: bool = True,
    where: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """Contrastive loss of two views: each of 2B vectors must find its partner among the other 2B - 1.

    NT-Xent (Chen et al., ICML 2020, section 2.1), with cosine similarity. `normalise=False` uses plain dot
    products, as CoSeRec and TiCoSeRec do, on encoder outputs flattened to [B, L·D].

    Args:
      z1, z2: the two views of each example, [B, D]. With an axis name: this device's examples, compared
        with those of all devices.
      temperature: divides the similarities; must be positive.
      where: True where the example is real, [B]; the others are neither anchors nor candidates.
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: must be positive")
    z1, z2 = z1.astype(jnp.float32), z2.astype(jnp.float32)
    if normalise:
        z1, z2 = _unit(z1), _unit(z2)
    batch = z1.shape[0]
    real = jnp.ones(batch, bool) if where is None else where.astype(bool)
    all1, all2, all_real, first = z1, z2, real, jnp.zeros((), jnp.int32)
    if axis_name is not None:
        all1, all2, all_real = jax.lax.all_gather((z1, z2, real), axis_name, tiled=True)
        first = jax.lax.axis_index(axis_name) * batch
    itself = jnp.arange(all_real.shape[0]) == first + jnp.arange(batch)[:, None]  # [b, B]

    cross = z1 @ all2.T / temperature  # [b, B]
    cross_back = cross.T if axis_name is None else z2 @ all1.T / temperature
    views = (cross, z1 @ all1.T / temperature), (cross_back, z2 @ all2.T / temperature)
    losses = [
        jnp.logaddexp(_lse(across, all_real), _lse(within, all_real & ~itself))
        - jnp.sum(jnp.where(itself, across, 0.0), axis=-1)
        for across, within in views
    ]
    return masked_mean(jnp.stack(losses), real, axis_name)


def _lse(scores: Array, where: Array) -> Array:
    return jax.nn.logsumexp(jnp.where(where, scores, _MASKED), axis=-1)


def _unit(z: Array) -> Array:
    """Vectors of length 1, [..., D]; the zero vector stays zero, with a finite gradient."""
    return z * jax.lax.rsqrt(jnp.maximum(jnp.sum(z * z, axis=-1, keepdims=True), 1e-24))


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


def clipped_propensity(logit: Array, *, floor: float = 0.1) -> Array:
    """The probability of being observed, σ(logit) but at least `floor`, without a gradient: [...] → [...].

    A propensity weighs the risks below by at most 1 / floor, and they do not train the model it comes from
    (Wang et al., SIGIR 2022, appendix A).
    """
    if not 0.0 < floor <= 1.0:
        raise ValueError(f"floor={floor}: must be above 0 and at most 1, as 1 / floor is the largest weight")
    return jax.lax.stop_gradient(jnp.maximum(jax.nn.sigmoid(logit), floor))


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
      errors: such as the `sigmoid_cross_entropy` of a conversion, [...]; read where `observed` only.
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
    """
    weighted = imputed + jnp.where(observed, errors - imputed, 0.0) / propensity
    return masked_mean(weighted, where, axis_name)


def imputation_risk(
    errors: Array,
    imputed: Array,
    observed: Array,
    propensity: Array,
    *,
    where: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """How far imputed errors are from observed ones, in squared nats: mean of o · (e - ê)² / q.

    Trains the imputed errors only: no gradient reaches `errors`. Arguments as of `doubly_robust_risk`.
    """
    squared = (jax.lax.stop_gradient(errors) - imputed) ** 2
    return inverse_propensity_risk(squared, observed, propensity, where=where, axis_name=axis_name)


def sigmoid_cross_entropy(logits: Array, labels: Array) -> Array:
    """-y log σ(s) - (1 - y) log(1 - σ(s)) of each example, for labels y in [0, 1]: [...] → [...]."""
    return labels * jax.nn.softplus(-logits) + (1.0 - labels) * jax.nn.softplus(logits)


def smooth_labels(labels: Array, smoothing: float, towards: float = 0.5) -> Array:
    """(1 - ε) y + ε · towards, [...] → [...] (Szegedy et al., CVPR 2016, section 7).

    towards: 1/2 as in Keras; 1/C for one-hot labels of C classes; the label's base rate, which alone keeps
    the mean of a rare event (1/2 and ε = 0.1 make 5.9 % of 1 %); 0 or 1 to smooth one class only.
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
    """Cross-entropy that counts easy examples less: -α (1 - p)^γ log p (Lin et al., ICCV 2017).

    p is the probability given to the label. What is learned is no probability: a constant prediction is best
    away from the base rate. The gradient passes through the factor, which smoothing does not change.

    Args:
      labels: 0 or 1, [...].
      gamma: 0 gives the cross-entropy. alpha: weight of label 1, that of 0 is 1 - alpha; None weighs both 1.
      other arguments: as of `binary_cross_entropy`.
    """
    if gamma < 0 or (alpha is not None and not 0.0 <= alpha <= 1.0):
        raise ValueError(f"gamma={gamma}, alpha={alpha}: must be at least 0, and None or in [0, 1]")

    def loss(logits: Array, labels: Array) -> Array:
        wrong = jnp.exp(gamma * jax.nn.log_sigmoid(jnp.where(labels > 0.5, -logits, logits)))  # (1 - p)^γ
        balance = 1.0 if alpha is None else jnp.where(labels > 0.5, alpha, 1.0 - alpha)
        return balance * wrong * sigmoid_cross_entropy(logits, smooth_labels(labels, smoothing, towards))

    return _supervised(loss, logits, labels, where, weight, axis_name)


def squared_error(
    predictions: Array,
    labels: Array,
    *,
    where: Array | None = None,
    weight: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """Mean of (prediction - label)². Arguments as of `binary_cross_entropy`.

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
    """Mean of a loss over real examples; the others, and those of weight 0, reach no gradient."""
    real = jnp.ones(predictions.shape, bool) if where is None else jnp.broadcast_to(where, predictions.shape)
    used = real if weight is None else real & (weight != 0)
    values = loss(jnp.where(used, predictions, 0.0), jnp.where(used, labels, 0.0))
    values = values if weight is None else values * jnp.where(used, weight, 0.0)
    return masked_mean(jnp.where(used, values, 0.0), real, axis_name)


def weighted_mean(
    values: Array, weight: Array, *, where: Array | None = None, axis_name: str | None = None
) -> Array:
    """Σ w · l / Σ w over real examples, 0 if no weight is left: [...] → [].

    With weights 1 / q of observed examples and 0 of others it is the self-normalised estimate by inverse
    propensities (SNIPS), between the least and the largest value; `inverse_propensity_risk` is IPS.

    Args:
      values: losses of examples, such as `sigmoid_cross_entropy`, [...]; not read where the weight is 0.
      weight: at least 0, [...]. where: True where the example is real, [...].
    """
    weight = jnp.where(True if where is None else where, weight, 0.0)
    total = jnp.sum(jnp.where(weight != 0, weight * jnp.where(weight != 0, values, 0.0), 0.0))
    mass = jnp.sum(weight)
    mass = mass if axis_name is None else jax.lax.psum(mass, axis_name)
    return total / jnp.where(mass > 0, mass, 1.0)


def hardest(
    values: Array, ratio: float, *, where: Array | None = None, axis_name: str | None = None
) -> Array:
    """Marks the largest losses, ratio · n of n real examples rounded up: [...] → bool [...].

    Online hard example mining (Shrivastava et al., CVPR 2016): `masked_mean(values, hardest(values, 0.25))`.
    With an axis name n counts those of all devices. Of equal losses all are marked or none.
    """
    if not 0.0 < ratio <= 1.0:
        raise ValueError(f"ratio={ratio}: must be above 0 and at most 1, which keeps every example")
    real = jnp.ones(values.shape, bool) if where is None else jnp.broadcast_to(where, values.shape)
    values = jax.lax.stop_gradient(jnp.where(real, values, -jnp.inf))
    everywhere, count = values.reshape(-1), jnp.sum(real)
    if axis_name is not None:
        everywhere = jax.lax.all_gather(everywhere, axis_name, tiled=True)
        count = jax.lax.psum(count, axis_name)
    kept = jnp.ceil(ratio * (1.0 - 1e-6) * count).astype(jnp.int32)
    return real & (values >= -jnp.sort(-everywhere)[jnp.maximum(kept - 1, 0)])


def class_weights(counts: Array, *, beta: float | None = None) -> Array:
    """Weights that make up for unequal classes, from the number of examples of each: [C] → [C].

    N / (C · n), whose mean over examples is 1; with beta (1 - beta) / (1 - betaⁿ), the inverse of the
    effective number of examples (Cui et al., CVPR 2019). A class without examples has weight 0.
    """
    if beta is not None and not 0.0 <= beta < 1.0:
        raise ValueError(f"beta={beta}: must be in [0, 1), or None for inverse counts")
    counts = jnp.asarray(counts, jnp.float32)
    some = jnp.maximum(counts, 1.0)
    if beta is None:
        weights = jnp.sum(counts) / (counts.size * some)
    else:
        weights = (1.0 - beta) / (1.0 - jnp.power(beta, some))
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

    What F-beta gains from a true negative, by what it gains from a true positive: P and N count the labels,
    tp and tn are the sums of σ(s) over positives and of 1 - σ(s) over negatives. Departs from EasyRec, which
    sums σ(s) over all examples, whatever their label, and differentiates the weights.
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


def next_behaviour(
    pos: Array,
    neg: Array,
    *,
    where: Array,
    rows: Array | None = None,
    per_step: bool = False,
    axis_name: str | None = None,
) -> Array:
    """DIEN's auxiliary loss: each state must tell the next event from a sampled one (Zhou et al., AAAI 2019).

        1/N Σ_examples Σ_steps -log σ(pos) - log(1 - σ(neg))

    2 ln 2 a step where the scores are 0, and 0 without any step, as for histories of one event.

    Args:
      pos, neg: logits of the next event and of the sampled one, [B, T]; DIEN's "next" and "negative".
      where: True where the step is real, [B, T]; DIEN's "steps".
      rows: True where the example is real, [B]; N counts these. None means all.
      per_step: True takes the mean over real steps, so that long histories do not outweigh the other loss;
        the public code takes that over all slots, padding counted as 0.
    """
    rows = jnp.ones(pos.shape[0], bool) if rows is None else rows
    where = where & rows[:, None]
    if per_step:
        return bce(pos, neg, where=where, axis_name=axis_name)
    terms = jnp.where(where, jax.nn.softplus(-pos) + jax.nn.softplus(neg), 0.0)
    return masked_mean(terms.sum(axis=-1), rows, axis_name)


def mini_batch_aware(table: Array, ids: Array, counts: Array, *, axis_name: str | None = None) -> Array:
    """Regularisation of the vectors that a batch reads: ½ Σ ‖w_j‖² / n_j over the distinct ids j in it.

    DIN's (Zhou et al., KDD 2018, section 5.2, λ = 0.01). The gradient is w_j / n_j, exactly 0 for other ids:
    an id that is read in n_j batches of an epoch is pulled by w_j in all, however frequent it is. The ½ is
    what the paper leaves to λ.

    Args:
      table: [V, D].
      ids: all that the batch reads from the table, [...], with 0 where there is none.
      counts: how many examples of the training set hold each id, [V]; 0 counts as 1.
    """
    flat = ids.reshape(-1)
    times = jnp.zeros(table.shape[0], jnp.int32).at[flat].add(1)
    if axis_name is not None:
        times = jax.lax.psum(times, axis_name)
    weights = 1.0 / jnp.maximum(times * jnp.maximum(counts, 1), 1).astype(table.dtype)
    squares = jnp.sum(jnp.asarray(table)[flat] ** 2, axis=-1)
    return 0.5 * jnp.sum(jnp.where(flat != 0, weights[flat] * squares, 0.0))
