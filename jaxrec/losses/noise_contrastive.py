"""Observed items against noise, each pair for itself."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrec.losses.reduce import masked_mean
from jaxrec.types import Array


def nce(
    pos: Array,
    neg: Array,
    *,
    pos_log_count: Array | None = None,
    neg_log_count: Array | None = None,
    accidental: Array | None = None,
    where: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """Noise-contrastive estimation, -log σ(s⁺ - log c⁺) - Σ log(1 - σ(s⁻ - log c⁻)), averaged over positives.

    c is how often an item is expected among an example's noise: N Q(item) for N draws from Q. At the optimum
    scores are log-probabilities of items, normalised by themselves (Gutmann and Hyvärinen, AISTATS 2010;
    Mnih and Teh, ICML 2012). Without counts it is negative sampling (Mikolov et al., NIPS 2013, equation 4),
    whose optimum is the pointwise mutual information minus log N; `bce` is that without `accidental`.

    Args:
      pos: scores of the observed items, [...]. neg: of the noise, [..., N].
      pos_log_count, neg_log_count: log c of either, [...] and [..., N] (`sampling.log_expected_count`); None:
        no correction.
      accidental: True where noise is ignored, [..., N]; noise that is the observed item is usually kept.
      where: True where the positive is real, [...].

    Raises:
      ValueError: one count is given without the other.
    """
    if (pos_log_count is None) != (neg_log_count is None):
        raise ValueError("pos_log_count and neg_log_count go together: give both, or neither")
    if pos_log_count is not None and neg_log_count is not None:
        pos, neg = pos - pos_log_count, neg - neg_log_count
    noise = jax.nn.softplus(neg)
    noise = noise if accidental is None else jnp.where(accidental, 0.0, noise)
    return masked_mean(jax.nn.softplus(-pos) + jnp.sum(noise, axis=-1), where, axis_name)
