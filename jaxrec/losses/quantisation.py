"""Losses of codes that a model learns of vectors."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrec.types import Array


def residual_quantisation(residuals: Array, chosen: Array, *, beta: float = 0.25) -> tuple[Array, Array]:
    """Codebook and commitment terms of L levels (van den Oord et al., NIPS 2017, arXiv:1711.00937, eq. 3; of
    residuals: Rajput et al., NeurIPS 2023, arXiv:2305.05065, section 3.1): [L, …, D] twice → […] twice.

    The first is Σ |sg[r] - e|² over the levels, whose gradient moves codes alone; the second is
    β Σ |r - sg[e]|², whose gradient moves vectors alone.

    residuals: what each level quantises. chosen: its codes' vectors.

    >>> [float(term) for term in residual_quantisation(jnp.array([[3.0]]), jnp.array([[1.0]]))]
    [4.0, 1.0]
    """

    def squared(a: Array, b: Array) -> Array:
        return jnp.sum((a - b) ** 2, axis=(0, -1))

    codebook = squared(jax.lax.stop_gradient(residuals), chosen)
    return codebook, beta * squared(residuals, jax.lax.stop_gradient(chosen))
