"""The loss printed in STAMP's paper, for the next click of a session."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrec.losses.ids import nan_outside
from jaxrec.losses.reduce import masked_mean
from jaxrec.segments import rows_by_id
from jaxrec.types import Array


def sigmoid_softmax(
    hidden: Array,
    table: Array,
    targets: Array,
    *,
    where: Array | None = None,
    block: int = 4096,
    axis_name: str | None = None,
) -> Array:
    """Binary cross-entropy of every item, of a softmax of sigmoids: STAMP's objective as printed.

        ŷ = softmax(σ(z)),  loss = -log ŷ_target - Σ_{j ≠ target} log(1 - ŷ_j),  z_j = h·e_j

    (Liu et al., KDD 2018, equations 5 and 6.) A sigmoid lies in (0, 1), so no ŷ of V items exceeds
    e / (e + V - 1) and the first term stays above log(1 + (V - 1) / e). The authors' code uses
    `softmax_cross_entropy` of z. Computed in blocks of items: [examples, items] is never materialised.

    Args:
      hidden: output of the model, [..., D].
      table: item vectors, [V + 1, D]; vector 0 is padding and not a candidate.
      targets: ids of the observed items, [...]; a real one outside 1..V makes the loss NaN.
      where: True where the target is real, [...].
      block: items per block.

    Raises ValueError for fewer than two items: then ŷ is 1 whatever the scores.
    """
    if table.shape[0] < 3:
        raise ValueError(f"table: {table.shape[0] - 1} items besides padding: at least 2 are needed")
    if block < 1:
        raise ValueError(f"block={block}: must be at least 1")
    flat = hidden.reshape(-1, hidden.shape[-1])
    size = min(block, table.shape[0] - 1)
    extra = (1 - table.shape[0]) % size
    blocks = jnp.pad(table[1:], ((0, extra), (0, 0))).reshape(-1, size, table.shape[1])
    real = (jnp.arange(table.shape[0] - 1 + extra) < table.shape[0] - 1).reshape(-1, size)

    def bounded(vectors: Array) -> Array:
        return jax.nn.sigmoid(jnp.matmul(flat, vectors.T, preferred_element_type=jnp.float32))

    @jax.checkpoint
    def add_mass(total: Array, block: tuple[Array, Array]) -> tuple[Array, None]:
        return total + jnp.where(block[1], jnp.exp(bounded(block[0])), 0.0).sum(axis=-1), None

    start = flat[:, 0].astype(jnp.float32) * 0.0  # so that it varies over the mesh axes of the rest
    log_mass = jnp.log(jax.lax.scan(add_mass, start, (blocks, real))[0])

    @jax.checkpoint
    def add_rest(total: Array, block: tuple[Array, Array]) -> tuple[Array, None]:
        rest = jnp.log1p(-jnp.exp(bounded(block[0]) - log_mass[:, None]))
        return total + jnp.where(block[1], rest, 0.0).sum(axis=-1), None

    rest = jax.lax.scan(add_rest, start, (blocks, real))[0]
    own = jnp.sum(hidden * rows_by_id(table, targets, clip=True), axis=-1, dtype=jnp.float32)
    own = nan_outside(own, targets, table.shape[0], where=where)
    log_prob = jax.nn.sigmoid(own) - log_mass.reshape(targets.shape)
    loss = jnp.log1p(-jnp.exp(log_prob)) - log_prob - rest.reshape(targets.shape)
    return masked_mean(loss, where, axis_name)
