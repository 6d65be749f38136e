"""Contrastive losses of two views."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrec.losses.reduce import MASKED, masked_mean
from jaxrec.losses.vectors import l2_normalise
from jaxrec.types import Array


def nt_xent(
    z1: Array,
    z2: Array,
    *,
    temperature: float = 1.0,
    normalise: bool = True,
    where: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """Contrastive loss: each of 2B vectors has its other view as positive among the other 2B - 1.

    NT-Xent (Chen et al., ICML 2020, section 2.1), with cosine similarity. `normalise=False` uses plain dot
    products, as CoSeRec and TiCoSeRec do, on encoder outputs flattened to [B, L·D].

    Args:
      z1, z2: the two views of each example, [B, D]. With an axis name: this device's examples, compared with
        those of all devices.
      temperature: divides the similarities; must be positive.
      where: True where the example is real, [B]; the others are neither anchors nor candidates.
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: must be positive")
    z1, z2 = z1.astype(jnp.float32), z2.astype(jnp.float32)
    if normalise:
        z1, z2 = l2_normalise(z1), l2_normalise(z2)
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
        jnp.logaddexp(_masked_logsumexp(across, all_real), _masked_logsumexp(within, all_real & ~itself))
        - jnp.sum(jnp.where(itself, across, 0.0), axis=-1)
        for across, within in views
    ]
    return masked_mean(jnp.stack(losses), real, axis_name)


def _masked_logsumexp(scores: Array, where: Array) -> Array:
    return jax.nn.logsumexp(jnp.where(where, scores, MASKED), axis=-1)
