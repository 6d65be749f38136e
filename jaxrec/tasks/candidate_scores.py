"""Scores of some items of the table, which events share or which each event has for itself."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxrec import losses
from jaxrec.segments import TableByRows, pick, rows_by_id
from jaxrec.types import Array

PRODUCT_UP_TO = 32  # items a sample: with fewer, scores of all items are cheaper than reading vectors (CPU)
IN_CACHE = 2**18  # numbers of the vectors that are read at a time on a CPU, whose cache has room for them
AT_A_TIME = 2**26  # the same elsewhere, where they only have to fit in memory


def score_with_samples(hidden: Array, table: Array, targets: Array, samples: Array) -> tuple[Array, Array]:
    """Scores of the target [...] and of samples [N] that all share, [..., N].

    NaN where a sample, or a target other than 0, is no item of the table.
    """
    pos, count = jnp.einsum("...d,...d->...", hidden, rows_by_id(table, targets, clip=True)), table.shape[0]
    neg = losses.dot_products(hidden, rows_by_id(table, samples, clip=True))
    real = targets != 0
    return (
        losses.nan_outside(pos, targets, count, where=real),
        losses.nan_outside(neg, samples, count, where=real[..., None]),
    )


def score_each(
    hidden: Array, table: Array, targets: Array, samples: Array, *, known: int | None = None
) -> tuple[Array, Array]:
    """Scores of the target [...] and of the samples of each event [..., N].

    From the scores of all items where these are few: reading vectors costs far more than a product, above all
    in the backward pass, which adds the gradient of every vector read to the table. Of a sparse table vectors
    are read, all at once.

    known: ids from here on are none, and make their scores NaN; None: those past the table.
    """
    ids = jnp.concatenate([targets[..., None], samples], axis=-1)
    real = targets != 0
    if isinstance(table, TableByRows):
        scores = jnp.einsum("...d,...nd->...n", hidden, rows_by_id(table, ids, clip=True))
    elif table.shape[0] <= PRODUCT_UP_TO * ids.shape[-1]:
        near = jnp.clip(ids, 0, table.shape[0] - 1)  # so that the gradient of an id that is none is NaN too
        scores = pick(losses.dot_products(hidden, table), near)
    else:
        scores = read_scores(hidden, table, ids, real)
    known = table.shape[0] if known is None else known
    scores = losses.nan_outside(scores, ids, known, where=real[..., None])
    return scores[..., 0], scores[..., 1:]


def read_scores(hidden: Array, table: Array, ids: Array, real: Array) -> Array:
    """Products of [..., D] with the table's vectors of ids [..., N], the nearest row where there is none.

    Vectors are read for some events at a time, and read again in the backward pass, so that [..., N, D] is
    never in memory: with 256 samples an event it is far more than all else in a step.

    real: False where a product does not matter, [...]; there it may be 0.
    """
    return jax.lax.platform_dependent(
        *(hidden, table, ids, real),
        cpu=functools.partial(_some_at_a_time, numbers=IN_CACHE, skip=True),
        default=functools.partial(_some_at_a_time, numbers=AT_A_TIME),
    )


def _some_at_a_time(
    hidden: Array, table: Array, ids: Array, real: Array, *, numbers: int, skip: bool = False
) -> Array:
    """skip: branch where no event of a step is real, as in the empty ends of packed rows."""
    number, dim = ids.shape[-1], hidden.shape[-1]
    flat = hidden.reshape(-1, dim), ids.reshape(-1, number), real.reshape(-1)
    events = len(flat[0])

    def score(vectors: Array, ids: Array) -> Array:
        return jnp.einsum("ed,end->en", vectors, rows_by_id(table, ids, clip=True))

    @jax.checkpoint
    def step(part: tuple[Array, Array, Array]) -> Array:
        if not skip:
            return score(*part[:2])
        return jax.lax.cond(
            part[2].any(), score, lambda vectors, ids: jnp.zeros(ids.shape, vectors.dtype), *part[:2]
        )

    size = min(max(1, numbers // (number * dim)), events)
    steps = -(-events // size)
    spare = steps * size - events
    parts = tuple(
        jnp.pad(part, ((0, spare), *[(0, 0)] * (part.ndim - 1))).reshape(steps, size, *part.shape[1:])
        for part in flat
    )
    return jax.lax.map(step, parts).reshape(-1, number)[:events].reshape(ids.shape)
