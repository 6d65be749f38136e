"""Losses of observed items against sampled ones that have a margin, or a calibration for the sampling."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrec.losses.reduce import masked_mean
from jaxrec.types import Array


def hinge(
    pos: Array,
    neg: Array,
    *,
    margin: float = 1.0,
    violated: bool = False,
    accidental: Array | None = None,
    where: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """The hinge loss of triplets, max(0, margin - pos + neg), averaged over negatives and examples.

    With scores -D of a distance D it is the triplet loss, max(0, D⁺ - D⁻ + margin).

    Args:
      pos: scores of the observed items, [...]. neg: of sampled items, [..., N].
      margin: by how much an observed item has to win, in units of the score; at least 0.
      violated: True averages over the triplets of the batch whose term is above 0, which is another loss: its
        gradient does not fade as fewer triplets are violated.
      accidental: True where a sampled item is ignored, such as the observed one, [..., N].
      where: True where the positive is real, [...].

    >>> round(float(hinge(jnp.array([0.5]), jnp.array([[0.25, -2.0]]))), 4)  # (0.75 + 0) / 2
    0.375
    """
    _check("margin", margin)
    terms = jnp.maximum(0.0, margin - pos[..., None] + neg)
    real = jnp.ones(terms.shape, bool) if where is None else jnp.broadcast_to(where[..., None], terms.shape)
    real = real if accidental is None else real & ~accidental
    return masked_mean(terms, real & (terms > 0) if violated else real, axis_name)


def ccl(
    pos: Array,
    neg: Array,
    *,
    margin: float = 0.9,
    weight: float = 250.0,
    where: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """Cosine contrastive loss, 1 - pos + w / N Σ max(0, neg - margin).

    SimpleX (Mao et al., CIKM 2021, arXiv:2109.12613). Negatives below the margin have no part in it; the
    weight is large because few of many are above. The defaults are the authors' for Gowalla.

    Args:
      pos: cosines of the observed items, [...]. neg: of sampled items, [..., N].
      margin: m, in -1..1. weight: w, at least 0.
      where: True where the positive is real, [...].

    >>> round(float(ccl(jnp.array([0.25]), jnp.array([[0.75, -0.5]]), margin=0.5, weight=2.0)), 4)
    1.0
    """
    if not -1 <= margin <= 1:
        raise ValueError(f"margin={margin}: must be in -1..1, as cosines are")
    _check("weight", weight)
    pushed = jnp.mean(jnp.maximum(0.0, neg - margin), axis=-1)
    return masked_mean(1.0 - pos + weight * pushed, where, axis_name)


def gbce(
    pos: Array,
    neg: Array,
    *,
    num_items: int,
    calibration: float = 0.75,
    where: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """Generalised binary cross-entropy, -β log σ(pos) - Σ log(1 - σ(neg)), averaged over positives.

    gSASRec (Petrov and Macdonald, RecSys 2023, arXiv:2308.07192): with few negatives, binary cross-entropy
    makes the model overconfident, and β = 1 - t (1 - α) undoes that, where α = N / (num_items - 1) is the
    share of negatives that are sampled. The paper divides by N + 1 too.

    Args:
      pos: scores of the observed items, [...].
      neg: scores of items that are sampled uniformly, [..., N].
      num_items: items there are, at least 2.
      calibration: t, in 0..1. 0: `bce`; 1: sigmoids of scores are calibrated probabilities.
      where: True where the positive is real, [...].

    >>> same = gbce(jnp.array([2.0]), jnp.array([[1.0]]), num_items=5, calibration=0.0)
    >>> round(float(same), 4)  # softplus(-2) + softplus(1)
    1.4402
    """
    if not 0 <= calibration <= 1:
        raise ValueError(f"calibration={calibration}: must be in 0..1")
    if num_items < 2:
        raise ValueError(f"num_items={num_items}: must be at least 2, or there is no negative")
    sampled = min(1.0, neg.shape[-1] / (num_items - 1))
    beta = 1.0 - calibration * (1.0 - sampled)
    terms = beta * jax.nn.softplus(-pos) + jnp.sum(jax.nn.softplus(neg), axis=-1)
    return masked_mean(terms, where, axis_name)


def _check(name: str, value: float) -> None:
    if not value >= 0:
        raise ValueError(f"{name}={value}: must be at least 0")
