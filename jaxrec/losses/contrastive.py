"""Contrastive losses of two views."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrec.losses.in_batch import in_batch_softmax
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


def info_nce(
    z1: Array,
    z2: Array,
    *,
    temperature: float = 0.1,
    symmetric: bool = False,
    normalise: bool = True,
    ids: Array | None = None,
    where: Array | None = None,
    axis_name: str | None = None,
) -> Array:
    """Contrastive loss of two views: each z1 has its z2 as positive among the z2 of the batch (InfoNCE).

    (van den Oord et al., arXiv:1807.03748, equation 4.) N negatives of equal scores give ln(N + 1). `nt_xent`
    has the vectors of the same view as negatives too.

    Args:
      z1, z2: [B, D]. With an axis name: this device's examples, compared with those of all devices.
      temperature: divides the similarities; must be positive.
      symmetric: True takes the mean of this direction and of z2 among z1 (Radford et al., ICML 2021).
      normalise: cosines; False: plain products.
      ids: examples of one id are no negatives of each other, [B]; None: all are.
      where: True where the example is real, [B]; the others are neither anchors nor candidates.
    """
    if normalise:
        z1, z2 = l2_normalise(z1.astype(jnp.float32)), l2_normalise(z2.astype(jnp.float32))

    def one_way(anchors: Array, candidates: Array) -> Array:
        return in_batch_softmax(
            anchors, candidates, temperature=temperature, ids=ids, where=where, axis_name=axis_name
        )

    return 0.5 * (one_way(z1, z2) + one_way(z2, z1)) if symmetric else one_way(z1, z2)


def _masked_logsumexp(scores: Array, where: Array) -> Array:
    return jax.nn.logsumexp(jnp.where(where, scores, MASKED), axis=-1)
