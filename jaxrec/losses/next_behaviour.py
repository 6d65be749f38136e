"""Auxiliary losses and regularisation of click models with behaviour histories."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrec.losses.ids import nan_outside
from jaxrec.losses.ranking import bce
from jaxrec.losses.reduce import masked_mean
from jaxrec.segments import rows_by_id
from jaxrec.types import Array


def next_behaviour(
    pos: Array,
    neg: Array,
    *,
    where: Array,
    examples: Array | None = None,
    per_step: bool = False,
    axis_name: str | None = None,
) -> Array:
    """DIEN's auxiliary loss: each state discriminates the next event from a sampled one.

    (Zhou et al., AAAI 2019.)

        1/N Σ_examples Σ_steps -log σ(pos) - log(1 - σ(neg))

    2 ln 2 per step where the scores are 0, and 0 without any step, as for histories of one event.

    Args:
      pos, neg: logits of the next event and of the sampled one, [B, T]; DIEN's "next" and "negative".
      where: True where the step is real, [B, T]; DIEN's "steps".
      examples: True where the example is real, [B]; N is their number. None means all.
      per_step: True takes the mean over real steps, so that long histories do not dominate the other loss;
        the public code takes the mean over all slots, padding counting as 0.
    """
    examples = jnp.ones(pos.shape[0], bool) if examples is None else examples
    where = where & examples[:, None]
    if per_step:
        return bce(pos, neg, where=where, axis_name=axis_name)
    terms = jnp.where(where, jax.nn.softplus(-pos) + jax.nn.softplus(neg), 0.0)
    return masked_mean(terms.sum(axis=-1), examples, axis_name)


def mini_batch_aware(table: Array, ids: Array, counts: Array, *, axis_name: str | None = None) -> Array:
    """Mini-batch aware regularisation, ½ Σ ‖w_j‖² / n_j over the distinct ids j of a batch.

    DIN (Zhou et al., KDD 2018, section 5.2, λ = 0.01). The gradient is w_j / n_j, exactly 0 for other ids: an
    id that occurs in n_j batches of an epoch is decayed by w_j in total, however frequent it is. The paper
    leaves the ½ to λ.

    Args:
      table: [V, D].
      ids: all ids that the batch looks up, [...], 0 for padding; an id outside the table makes the loss NaN.
      counts: number of training examples with each id, [V]; 0 counts as 1.
    """
    flat = ids.reshape(-1)
    times = jnp.zeros(table.shape[0], jnp.int32).at[flat].add(1)
    if axis_name is not None:
        times = jax.lax.psum(times, axis_name)
    each = jnp.maximum(counts, 1).astype(jnp.float32)
    weights = (1.0 / (jnp.maximum(times, 1) * each)).astype(table.dtype)  # their product overflows int32
    squares = jnp.sum(rows_by_id(table, flat, clip=True) ** 2, axis=-1)
    squares = nan_outside(squares, flat, table.shape[0], where=flat != 0)
    return 0.5 * jnp.sum(jnp.where(flat != 0, weights[flat] * squares, 0.0))


def memory_utilisation(usage: Array, *, where: Array | None = None, axis_name: str | None = None) -> Array:
    """Memory utilisation regularisation of MIMN (Pi et al., KDD 2019, section 3.3).

        mean over examples of Σ_i (g_i - mean_j g_j)²

    0 if all slots are written to equally. Its weight λ is 0.001 / slots² / batch size in the public code.

    Args:
      usage: g, how much has been written to each slot, in events or in shares of all events, [B, M].
      where: True where the example is real, [B].
    """
    uneven = usage - usage.mean(axis=-1, keepdims=True)
    return masked_mean(jnp.sum(uneven**2, axis=-1), where, axis_name)
