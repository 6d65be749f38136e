"""Losses of vectors with labels: pairs of a batch are positive where labels are equal, negative elsewhere.

Vectors z are [B, D], labels int [B], any numbers. `where` is True where an example is real, [B]; the others
are neither anchors nor candidates. With an axis name a batch is that of all devices: each has its examples as
anchors, those of all as candidates, and returns its share (see `jaxrec.losses`). An anchor without a positive
has no term.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrec.losses.reduce import MASKED, masked_mean
from jaxrec.losses.vectors import l2_normalise
from jaxrec.types import Array

ANCHORS_AT_ONCE = 16  # whose triplets are in memory together


def euclidean_distances(a: Array, b: Array) -> Array:
    """‖a_i - b_j‖, [A, D], [B, D] → [A, B]; of equal vectors it is 0, with a gradient of 0."""
    squares = jnp.sum((a[:, None].astype(jnp.float32) - b[None].astype(jnp.float32)) ** 2, axis=-1)
    apart = squares > 0
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, squares, 1.0)), 0.0)


def cosine_distances(a: Array, b: Array) -> Array:
    """1 - cos(a_i, b_j), [A, D], [B, D] → [A, B]."""
    return 1.0 - _cosines(a, b)


def siamese(
    z1: Array,
    z2: Array,
    same: Array,
    *,
    margin: float = 1.0,
    where: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """Contrastive loss of pairs, y D² + (1 - y) max(0, margin - D)² with D = ‖z1 - z2‖.

    (Hadsell, Chopra and LeCun, CVPR 2006, equation 4, without its factor 1/2.)

    Args:
      z1, z2: the two sides of each pair, [B, D]. same: y, 1 (or True) where they belong together, [B].
      margin: the distance from which on a pair that does not belong together costs nothing; at least 0.
      where: True where the pair is real, [B].

    >>> z1, z2 = jnp.array([[0.0], [0.0]]), jnp.array([[2.0], [0.25]])
    >>> float(siamese(z1, z2, jnp.array([1, 0])))  # (2² + (1 - 1/4)²) / 2
    2.28125
    """
    _check_margin(margin)
    distance = jax.vmap(lambda a, b: euclidean_distances(a[None], b[None])[0, 0])(z1, z2)
    apart = jnp.maximum(0.0, margin - distance) ** 2
    return masked_mean(jnp.where(same.astype(bool), distance**2, apart), where, axis_name)


def triplet(
    z: Array,
    labels: Array,
    *,
    margin: float = 0.2,
    distances: Callable[[Array, Array], Array] = cosine_distances,
    violated: bool = False,
    where: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """Triplet loss of every triplet of a batch, max(0, D(a, p) - D(a, n) + margin), averaged over triplets.

    (Schroff et al., CVPR 2015, section 3.1; "batch all" of Hermans et al., arXiv:1703.07737.) `hinge` has the
    scores of given triplets. Holds [16, B, B] terms at a time.

    Args:
      margin: in units of the distance; at least 0.
      distances: [A, D], [B, D] → [A, B], such as `euclidean_distances`; of cosines those of unit vectors.
      violated: True averages over the triplets whose term is above 0, which is another loss: its gradient
        does not fade as fewer triplets are violated.
    """
    _check_margin(margin)
    pairs = _pairs(z, labels, where, axis_name)
    apart = distances(z, pairs.candidates)

    @jax.checkpoint
    def of_anchor(anchor: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        distance, positive, negative = anchor
        terms = jnp.maximum(0.0, distance[:, None] - distance + margin)
        counted = positive[:, None] & negative
        counted = counted & (terms > 0) if violated else counted
        return jnp.sum(jnp.where(counted, terms, 0.0)), jnp.sum(counted, dtype=jnp.float32)

    sums, counts = jax.lax.map(
        of_anchor, (apart, pairs.positive, pairs.negative), batch_size=min(ANCHORS_AT_ONCE, z.shape[0])
    )
    count = jnp.sum(counts)
    count = count if axis_name is None else jax.lax.psum(count, axis_name)
    return jnp.sum(sums) / jnp.maximum(count, 1.0)


def supervised_nt_xent(
    z: Array,
    labels: Array,
    *,
    temperature: float = 0.1,
    where: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """NT-Xent with labels: each positive pair against the anchor's negatives, averaged over pairs.

    The other positives of an anchor are not in the denominator, as in pytorch-metric-learning; in `supcon`
    they are. Without a negative the loss is 0.
    """
    pairs, scores = _scored(z, labels, temperature, where, axis_name)
    rest = jax.nn.logsumexp(jnp.where(pairs.negative, scores, MASKED), axis=-1, keepdims=True)
    return masked_mean(jax.nn.softplus(rest - scores), pairs.positive, axis_name)


def supcon(
    z: Array,
    labels: Array,
    *,
    temperature: float = 0.1,
    where: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """Supervised contrastive loss: -1/|P| Σ_p log softmax over all other examples, averaged over anchors.

    (Khosla et al., NeurIPS 2020, arXiv:2004.11362, equation 2.) Scores are cosines divided by the
    temperature. The mean is over anchors with a positive.
    """
    pairs, scores = _scored(z, labels, temperature, where, axis_name)
    others = pairs.positive | pairs.negative
    mass = jax.nn.logsumexp(jnp.where(others, scores, MASKED), axis=-1, keepdims=True)
    number = jnp.sum(pairs.positive, axis=-1)
    terms = jnp.sum(jnp.where(pairs.positive, mass - scores, 0.0), axis=-1) / jnp.maximum(number, 1)
    return masked_mean(terms, number > 0, axis_name)


def circle(
    z: Array,
    labels: Array,
    *,
    margin: float = 0.25,
    gamma: float = 256.0,
    violated: bool = False,
    where: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """Circle loss of cosines s, pairs further from their optimum having larger weights; mean over anchors.

        log(1 + Σ_n exp(γ a_n (s_n - m)) Σ_p exp(-γ a_p (s_p - 1 + m)))
        a_n = max(0, s_n + m),  a_p = max(0, 1 + m - s_p)

    (Sun et al., CVPR 2020, arXiv:2002.10857, equation 6.) The weights a have no gradient. The mean is over
    anchors with a positive and a negative.

    Args:
      margin: m. gamma: γ, the scale; positive.
      violated: True averages over anchors whose loss is above 0 (for a large γ float32 rounds small ones to
        it), as pytorch-metric-learning does.
    """
    if not gamma > 0:
        raise ValueError(f"gamma={gamma}: must be positive")
    pairs = _pairs(z, labels, where, axis_name)
    s = _cosines(z, pairs.candidates)
    constant = jax.lax.stop_gradient(s)
    near = -gamma * jnp.maximum(0.0, 1.0 + margin - constant) * (s - (1.0 - margin))
    far = gamma * jnp.maximum(0.0, constant + margin) * (s - margin)
    sums = [
        jax.nn.logsumexp(jnp.where(mask, scores, MASKED), axis=-1)
        for mask, scores in ((pairs.positive, near), (pairs.negative, far))
    ]
    terms = jax.nn.softplus(sums[0] + sums[1])
    counted = jnp.any(pairs.positive, axis=-1) & jnp.any(pairs.negative, axis=-1)
    return masked_mean(terms, counted & (terms > 0) if violated else counted, axis_name)


def q_align(
    source: Array,
    target: Array,
    *,
    scale: float = 2.0,
    alignment: float = 0.5,
    uniformity: float = 0.75,
    where: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """Alignment of the two ends of each edge, and uniformity of either end on the sphere.

        α mean_i (t - t cos(u_i, v_i)) + β Σ_{e in u, v} mean_i log Σ_j exp(t cos(e_i, e_j) - t)

    (Zhu et al., CIKM 2022, doi:10.1145/3511808.3557704.) t - t cos is half of t times the squared distance of
    unit vectors; the sum over j has i itself, as in the authors' code.

    Args:
      source, target: u and v, the ends of each edge, [B, D]. scale: t. alignment, uniformity: α and β, by
        default those for BlogCatalog (with batches of 128).
    """
    if not scale > 0:
        raise ValueError(f"scale={scale}: must be positive")
    z = [l2_normalise(end.astype(jnp.float32)) for end in (source, target)]
    real = jnp.ones(source.shape[0], bool) if where is None else where.astype(bool)
    terms = alignment * scale * (1.0 - jnp.sum(z[0] * z[1], axis=-1))
    for end in z:
        every, known = _gathered((end, real), axis_name)
        near = jnp.where(known, scale * (end @ every.T) - scale, MASKED)
        terms = terms + uniformity * jax.nn.logsumexp(near, axis=-1)
    return masked_mean(terms, real, axis_name)


class _Pairs(NamedTuple):
    """Candidates of all devices [N, D]; which are positives and negatives of an anchor, bool [B, N]."""

    candidates: Array
    positive: Array
    negative: Array


def _gathered(arrays: tuple[Array, ...], axis_name: str | None) -> tuple[Array, ...]:
    if axis_name is None:
        return arrays
    return jax.lax.all_gather(arrays, axis_name, tiled=True)  # type: ignore[no-any-return]


def _pairs(z: Array, labels: Array, where: Array | None, axis_name: str | None) -> _Pairs:
    size, first = z.shape[0], jnp.int32(0)
    real = jnp.ones(size, bool) if where is None else where.astype(bool)
    candidates, all_labels, all_real = _gathered((z, labels, real), axis_name)
    if axis_name is not None:
        first = jax.lax.axis_index(axis_name) * size
    itself = jnp.arange(all_real.shape[0]) == first + jnp.arange(size)[:, None]
    both = real[:, None] & all_real
    same = labels[:, None] == all_labels
    return _Pairs(candidates, both & same & ~itself, both & ~same)


def _cosines(a: Array, b: Array) -> Array:
    return l2_normalise(a.astype(jnp.float32)) @ l2_normalise(b.astype(jnp.float32)).T


def _scored(
    z: Array, labels: Array, temperature: float, where: Array | None, axis_name: str | None
) -> tuple[_Pairs, Array]:
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: must be positive")
    pairs = _pairs(z, labels, where, axis_name)
    return pairs, _cosines(z, pairs.candidates) / temperature


def _check_margin(margin: float) -> None:
    if not margin >= 0:
        raise ValueError(f"margin={margin}: must be at least 0")
