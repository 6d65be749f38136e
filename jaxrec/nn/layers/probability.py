"""Probabilities that are products or mixtures of others, as logits, so that one BCE-with-logits fits all.

Written with odds, nothing is clipped, and values and gradients of products are finite at logits of 30 as of
3000 and more, until float32 itself ends.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxrec.types import Array


def product_logit(*logits: Array) -> Array:
    """The logit of a product of probabilities, σ(a)·σ(b)·…: [...] each → [...].

    From 1/p - 1 = e⁻ᵃ + e⁻ᵇ + e⁻ᵃ⁻ᵇ for p = σ(a)·σ(b).

    >>> round(float(product_logit(jnp.log(3.0), jnp.array(0.0))), 4)  # 3/4 · 1/2 = 3/8: ln(3/5)
    -0.5108
    """
    return functools.reduce(_pair, logits)


def _pair(a: Array, b: Array) -> Array:
    return -jnp.logaddexp(jnp.logaddexp(-a, -b), -(a + b))


def mixture_logit(gate: Array, a: Array, b: Array) -> Array:
    """The logit of σ(gate)·σ(a) + (1 - σ(gate))·σ(b): [...] each → [...].

    >>> round(float(mixture_logit(jnp.array(0.0), jnp.array(2.0), jnp.array(-2.0))), 6)
    0.0
    """
    log_sigmoid = jax.nn.log_sigmoid
    odds_for = jnp.logaddexp(gate + log_sigmoid(a), log_sigmoid(b))
    return odds_for - jnp.logaddexp(gate + log_sigmoid(-a), log_sigmoid(-b))
