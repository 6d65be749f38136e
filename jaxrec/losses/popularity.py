"""Popularity bias: weights of observed pairs, and losses that take popularity apart from what items are.

Inverse propensities of items: Yang et al., RecSys 2018, doi:10.1145/3240323.3240355, section 3.2. The losses
are those of CDAN (Chen et al., SIGIR 2022, doi:10.1145/3477495.3531952), whose formulas we know from its
abstract and notes: their forms here are ours.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrec.losses.reduce import masked_mean
from jaxrec.losses.vectors import l2_normalise
from jaxrec.types import Array

MOST_FOR_MEDIAN = 128  # members whose distances the median is taken of
SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the median distance, for the kernels of `mean_discrepancy`


def inverse_popularity(counts: Array, *, power: float = 0.5, maximum: float | None = None) -> Array:
    """Weights of items that undo their exposure, of mean 1 over the observed pairs: [V] → [V].

    The propensity of an item is (count / largest count)^power, its weight 1 over that. An item without a
    count has the weight 0.

    Args:
      counts: observed pairs of each item, [V].
      power: 0 gives each pair the weight 1, 1 each item the same total weight.
      maximum: cuts off 1 / propensity, before the weights are scaled to the mean of 1; None: no cut.

    >>> inverse_popularity(jnp.array([0.0, 4.0, 1.0]), power=1.0).tolist()  # 4 · 0.625 = 1 · 2.5
    [0.0, 0.625, 2.5]
    """
    if not power >= 0:
        raise ValueError(f"power={power}: must be at least 0")
    if maximum is not None and not maximum >= 1:
        raise ValueError(f"maximum={maximum}: must be at least 1, the weight of the most popular item")
    seen = counts > 0
    propensity = (jnp.where(seen, counts, 1.0) / jnp.maximum(counts.max(), 1.0)) ** power
    weight = jnp.where(seen, 1.0 / propensity, 0.0)
    weight = weight if maximum is None else jnp.minimum(weight, maximum)
    return weight * counts.sum() / jnp.maximum((weight * counts).sum(), 1e-30)


def squared_cosine(a: Array, b: Array, *, where: Array | None = None, axis_name: str | None = None) -> Array:
    """Mean of cos(a, b)², 0 if and only if each pair is orthogonal: [..., D], [..., D] → []."""
    cosine = jnp.sum(l2_normalise(a) * l2_normalise(b), axis=-1)
    return masked_mean(jnp.square(cosine), where, axis_name)


def direction_distance(
    a: Array, b: Array, *, where: Array | None = None, axis_name: str | None = None
) -> Array:
    """Mean squared distance of directions, ‖a/|a| - b/|b|‖² = 2 - 2 cos(a, b): [..., D], [..., D] → []."""
    return masked_mean(jnp.sum(jnp.square(l2_normalise(a) - l2_normalise(b)), axis=-1), where, axis_name)


def mean_discrepancy(
    x: Array,
    y: Array,
    *,
    where_x: Array | None = None,
    where_y: Array | None = None,
    unbiased: bool = False,
    most: int | None = None,
    axis_name: str | None = None,
) -> Array:
    """Squared maximum mean discrepancy of two samples, by a sum of Gaussian kernels: [N, D], [M, D] → [].

    k(a, b) = Σ_q exp(-‖a - b‖² / 2 s_q²), where s_q is the median distance of all pairs of the two samples
    (of every n-th member, if there are more than 128), without a gradient, times `SCALES` (Gretton et al.,
    JMLR 2012). 0 where a sample has no real member.

    Args:
      x, y: the samples; for a one-sided alignment stop the gradient of one of them.
      where_x, where_y: True where the member is real, [N], [M].
      unbiased: leaves out each member's kernel with itself: unbiased, but may be negative.
      most: compares the first so many members of each sample alone, which must be in random order; None: all.
      axis_name: the samples are those of all devices, whose shares add up.
    """
    real_x = jnp.ones(x.shape[0], bool) if where_x is None else where_x
    real_y = jnp.ones(y.shape[0], bool) if where_y is None else where_y
    if axis_name is not None:
        x, y, real_x, real_y = jax.lax.all_gather((x, y, real_x, real_y), axis_name, tiled=True)
    x, y, real_x, real_y = (array[:most] for array in (x, y, real_x, real_y))
    both, real = jnp.concatenate([x, y]), jnp.concatenate([real_x, real_y])
    squares = jnp.maximum(
        jnp.sum(both**2, axis=-1)[:, None] + jnp.sum(both**2, axis=-1) - 2 * both @ both.T, 0.0
    )
    apart = ~jnp.eye(both.shape[0], dtype=bool)
    pairs = real[:, None] & real & apart
    every = -(-both.shape[0] // MOST_FOR_MEDIAN)
    some = jnp.where(pairs, squares, jnp.nan)[::every, ::every]  # the whole would cost more than all kernels
    median = jnp.nanmedian(some)
    width = jax.lax.stop_gradient(jnp.where(median > 0, median, 1.0))
    kernel = sum(jnp.exp(-squares / (2 * width * scale**2)) for scale in SCALES)
    in_x = jnp.concatenate([real_x, jnp.zeros_like(real_y)])
    counted = apart | (not unbiased)

    def mean(a: Array, b: Array) -> Array:
        members = a[:, None] & b & counted
        return jnp.sum(jnp.where(members, kernel, 0.0)) / jnp.maximum(jnp.sum(members), 1)

    in_y = real & ~in_x
    found = mean(in_x, in_x) + mean(in_y, in_y) - 2 * mean(in_x, in_y)
    found = jnp.where(in_x.any() & in_y.any(), found, 0.0)
    return found if axis_name is None else found / jax.lax.axis_size(axis_name)
