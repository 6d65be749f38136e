"""Ranking losses: observed items against sampled ones, or against all items."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxrec.losses.ids import nan_outside
from jaxrec.losses.reduce import MASKED, masked_mean
from jaxrec.losses.vectors import l2_normalise
from jaxrec.segments import rows_by_id
from jaxrec.types import Array


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
        jax.nn.softplus(-pos) + _reduce_negatives(jnp.sum, jax.nn.softplus(neg), pos), where, axis_name
    )


def bpr(
    pos: Array,
    neg: Array,
    *,
    accidental: Array | None = None,
    where: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """Bayesian personalised ranking, -log σ(pos - neg) (Rendle et al., UAI 2009, section 4.1).

    Args:
      pos: scores of the observed items, [...].
      neg: scores of sampled items, [...] for one per positive or [..., N], whose terms are averaged.
      accidental: True where a sampled item is ignored, such as the observed one, [..., N].
      where: True where the positive is real, [...].

    >>> round(float(bpr(jnp.array([2.0]), jnp.array([1.0]))), 4)
    0.3133
    """
    if accidental is not None:
        neg, kept = _mask_accidental(neg, accidental)
        return masked_mean(_mean_over_kept(jax.nn.softplus(neg - pos[..., None]), kept), where, axis_name)
    wide = pos[..., None] if neg.ndim > pos.ndim else pos
    return masked_mean(_reduce_negatives(jnp.mean, jax.nn.softplus(neg - wide), pos), where, axis_name)


def bpr_max(
    pos: Array,
    neg: Array,
    *,
    regularisation: float = 1.0,
    accidental: Array | None = None,
    where: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """BPR-max: BPR against the softmax-weighted negatives, -log Σ_j s_j σ(r - r_j) + λ Σ_j s_j r_j².

    s is the softmax of the negatives' scores r_j; gradients pass through it, as in the authors' code. GRU4Rec
    (Hidasi and Karatzoglou, CIKM 2018, arXiv:1706.03847). Their code adds 1e-24 inside the logarithm, which
    caps a term at 55 nats; this form is exact at any score.

    Args:
      pos: r, scores of the observed items, [...].
      neg: r_j, scores of sampled items, [..., N].
      regularisation: λ, which pulls the scores of negatives to 0; at least 0.
      accidental: True where a sampled item is ignored, such as the observed one, [..., N]. An example
        without a negative left has loss 0.
      where: True where the positive is real, [...].

    >>> round(float(bpr_max(jnp.array([2.0]), jnp.array([[1.0]]), regularisation=0.5)), 4)  # 0.3133 + 0.5
    0.8133
    """
    if not regularisation >= 0:
        raise ValueError(f"regularisation={regularisation}: must be at least 0")
    neg, kept = _mask_accidental(neg, accidental)
    log_weight, some = _log_softmax(neg, kept)
    won = jax.nn.logsumexp(log_weight + jax.nn.log_sigmoid(pos[..., None] - neg), axis=-1)
    large = jnp.sum(jnp.exp(log_weight) * neg**2, axis=-1)
    return masked_mean(jnp.where(some, regularisation * large - won, 0.0), where, axis_name)


def top1(
    pos: Array,
    neg: Array,
    *,
    accidental: Array | None = None,
    where: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """TOP1: mean over negatives of σ(r_j - r) + σ(r_j²), a relaxed rank and a regularisation of their scores.

    GRU4Rec (Hidasi et al., ICLR 2016, arXiv:1511.06939). The authors' code averages over the observed item
    too, which gives (N · loss + 1/2) / (N + 1). Arguments as of `bpr_max`.
    """
    neg, kept = _mask_accidental(neg, accidental)
    return masked_mean(_mean_over_kept(_top1_terms(pos, neg), kept), where, axis_name)


def top1_max(
    pos: Array,
    neg: Array,
    *,
    accidental: Array | None = None,
    where: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """TOP1-max: TOP1 over the softmax-weighted negatives, Σ_j s_j (σ(r_j - r) + σ(r_j²)).

    s is the softmax of the negatives' scores, through which gradients pass (arXiv:1706.03847).
    Arguments as of `bpr_max`.
    """
    neg, kept = _mask_accidental(neg, accidental)
    log_weight, _ = _log_softmax(neg, kept)
    terms = jnp.where(kept, jnp.exp(log_weight) * _top1_terms(pos, neg), 0.0)
    return masked_mean(jnp.sum(terms, axis=-1), where, axis_name)


def _top1_terms(pos: Array, neg: Array) -> Array:
    return jax.nn.sigmoid(neg - pos[..., None]) + jax.nn.sigmoid(neg**2)


def _mask_accidental(neg: Array, accidental: Array | None) -> tuple[Array, Array]:
    """Scores, 0 where ignored, and which ones are kept, both [..., N]."""
    kept = jnp.ones(neg.shape, bool) if accidental is None else ~jnp.broadcast_to(accidental, neg.shape)
    return jnp.where(kept, neg, 0.0), kept


def _mean_over_kept(values: Array, kept: Array) -> Array:
    """Mean over the kept negatives, 0 if there are none: [..., N] → [...]."""
    return jnp.sum(jnp.where(kept, values, 0.0), axis=-1) / jnp.maximum(jnp.sum(kept, axis=-1), 1)


def _log_softmax(neg: Array, kept: Array) -> tuple[Array, Array]:
    """Log-softmax over the kept negatives, [..., N], and whether there are any, [...]."""
    return jax.nn.log_softmax(jnp.where(kept, neg, MASKED), axis=-1), jnp.any(kept, axis=-1)


def _reduce_negatives(reduce_fn, values: Array, pos: Array) -> Array:  # type: ignore[no-untyped-def]
    return reduce_fn(values, axis=-1) if values.ndim > pos.ndim else values


def sampled_softmax(
    pos: Array,
    neg: Array,
    *,
    pos_log_prob: Array | None = None,
    neg_log_prob: Array | None = None,
    accidental: Array | None = None,
    where: Array | None = None,
    weight: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """Cross-entropy of the observed item against sampled ones: -s⁺ + log(exp s⁺ + Σ exp s⁻).

    With the sampler's log-probabilities both scores are corrected to s - log Q, for which the gradient
    converges to that of the full softmax (Bengio and Senécal, 2008). The correction lowers the score of items
    that are sampled often.

    Args:
      pos: scores of the observed items, [...].
      neg: scores of sampled items, [..., N].
      pos_log_prob: log Q of the observed items, [...]; None (with neg_log_prob None) means no correction. In
        place of Q may stand how often an item is expected in the sample (`sampling.log_expected_count`).
      neg_log_prob: log Q of the sampled items, [..., N].
      accidental: True where a sampled item is the observed one, [..., N]: it is ignored.
      where: True where the positive is real, [...].
      weight: of each positive, [...]; it does not enter the denominator.
    """
    if (pos_log_prob is None) != (neg_log_prob is None):
        raise ValueError("pos_log_prob and neg_log_prob go together: give both, or neither for no correction")
    if pos_log_prob is not None and neg_log_prob is not None:
        pos, neg = pos - pos_log_prob, neg - neg_log_prob
    if accidental is not None:
        neg = jnp.where(accidental, MASKED, neg)
    logits = jnp.concatenate([pos[..., None], neg], axis=-1)
    terms = jax.nn.logsumexp(logits, axis=-1) - pos
    return masked_mean(terms if weight is None else weight * terms, where, axis_name)


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
    sampler. A sample that is the target is ignored; one that is drawn twice counts twice.

    Args:
      hidden: output of the model at each position, of length 1 for cosines, [..., D].
      table: item vectors of any length, [V, D]; only those that are looked up are normalised.
      targets: ids of the observed items, [...]. negatives: ids of sampled items, [..., N]. An id outside
        1..V-1 makes the loss NaN.
      temperature: τ, which divides the scores; must be positive.
      where: True where the target is real, [...].
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: must be positive")
    ids = jnp.concatenate([targets[..., None], negatives], axis=-1)
    vectors = l2_normalise(rows_by_id(table, ids, clip=True).astype(jnp.float32), 1e-12)
    scores = jnp.einsum("...d,...nd->...n", hidden.astype(jnp.float32), vectors) / temperature
    real = None if where is None else where[..., None]
    scores = nan_outside(scores, ids, table.shape[0], where=real)
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

    Never materialises [tokens, items]: the backward pass recomputes each block of probabilities.

    Args:
      hidden: output of the model at each position, [..., D].
      table: item vectors, [V, D]; vector 0 is padding.
      targets: ids of the observed items, [...]; a real one outside 1..num_items makes the loss NaN.
      where: True where the target is real, [...].
      num_items: largest id that is a candidate (a mask id is not); None means V - 1.
      include_padding: True makes padding a candidate, as RecBole does.
      block: items per block.
    """
    if block < 1:
        raise ValueError(f"block={block}: must be at least 1")
    count = table.shape[0] if num_items is None else num_items + 1
    if not 2 <= count <= table.shape[0]:
        raise ValueError(
            f"num_items={num_items}: must lie in 1..{table.shape[0] - 1}, for {table.shape[0]} item vectors"
        )
    first = 0 if include_padding else 1
    flat = hidden.reshape(-1, hidden.shape[-1])
    lse = _blocked_logsumexp(flat, table[first:count], min(block, count - first))
    target_score = jnp.sum(hidden * rows_by_id(table, targets, clip=True), axis=-1, dtype=jnp.float32)
    target_score = nan_outside(target_score, targets, count, where=where)
    return masked_mean(lse.reshape(targets.shape) - target_score, where, axis_name)


@jax.custom_vjp
def dot_products(hidden: Array, vectors: Array) -> Array:
    """Scores of every vector: [..., D], [N, D] → [..., N].

    Has its own gradient: on CPU the one that JAX derives for `vectors` transposes the far larger gradient of
    the scores.
    """
    return hidden @ vectors.T


def _dot_products_fwd(hidden: Array, vectors: Array) -> tuple[Array, tuple[Array, Array]]:
    return dot_products(hidden, vectors), (hidden, vectors)


def _dot_products_bwd(saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    hidden, vectors = saved
    flat = cotangent.reshape(-1, cotangent.shape[-1])
    transposed = jax.lax.optimization_barrier(hidden.reshape(-1, hidden.shape[-1]).T @ flat)  # [D, N]
    return (cotangent @ vectors).astype(hidden.dtype), transposed.T.astype(vectors.dtype)


dot_products.defvjp(_dot_products_fwd, _dot_products_bwd)


def _split_blocks(table: Array, size: int) -> tuple[Array, Array]:
    """Splits [V, D] into blocks [n, size, D], padded, with a mask [n, size] of the real entries."""
    extra = -table.shape[0] % size
    real = jnp.arange(table.shape[0] + extra) < table.shape[0]
    return jnp.pad(table, ((0, extra), (0, 0))).reshape(-1, size, table.shape[1]), real.reshape(-1, size)


def _block_scores(hidden: Array, block: Array, real: Array) -> Array:
    return jnp.where(real, jnp.matmul(hidden, block.T, preferred_element_type=jnp.float32), MASKED)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _blocked_logsumexp(hidden: Array, table: Array, size: int) -> Array:
    """log Σ_j exp(hidden · table_j): [T, D], [V, D] → [T] in float32, with [T, size] in memory at a time."""

    def add_block(carry: tuple[Array, Array], block: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        top, total = carry
        scores = _block_scores(hidden, *block)
        new_top = jnp.maximum(top, scores.max(axis=-1))
        return (
            new_top,
            total * jnp.exp(top - new_top) + jnp.exp(scores - new_top[:, None]).sum(axis=-1),
        ), None

    # the start depends on `hidden` so that it varies over the same mesh axes as the rest of the carry
    start = hidden[:, 0].astype(jnp.float32) * 0.0
    (top, total), _ = jax.lax.scan(add_block, (start + MASKED, start), _split_blocks(table, size))
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
        probs = jnp.exp(_block_scores(hidden, *block) - lse[:, None]) * cotangent[:, None]
        grad_block = jnp.matmul(hidden.T, probs, preferred_element_type=jnp.float32)  # [D, size]
        return grad_hidden + jnp.matmul(probs, block[0], preferred_element_type=jnp.float32), grad_block

    # transposed here: in the block, on CPU, it would be probs that are transposed
    grad_hidden, grad_blocks = jax.lax.scan(
        add_block, hidden.astype(jnp.float32) * 0.0, _split_blocks(table, size)
    )
    grad_table = grad_blocks.swapaxes(1, 2).reshape(-1, table.shape[1])[: table.shape[0]]
    return grad_hidden.astype(hidden.dtype), grad_table.astype(table.dtype)


_blocked_logsumexp.defvjp(_blocked_logsumexp_fwd, _blocked_logsumexp_bwd)
