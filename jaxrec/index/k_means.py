"""k-means on the device: plain, and spherical, whose centres have length 1."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxrec.segments import sum_by_id
from jaxrec.types import Array

BLOCK = 4096  # points compared with all centres at a time


@functools.partial(jax.jit, static_argnames=("num_clusters", "rounds", "spherical"))
def k_means(points: Array, *, num_clusters: int, rounds: int, spherical: bool) -> Array:
    """Centres [C, D] of points [N, D] after some rounds of Lloyd's algorithm, begun at the first C points.

    spherical: a point belongs to the centre of the largest product, and a centre is the sum of its points
    scaled to length 1. A centre without points moves to one of the points that fit their centre worst.
    """

    def scaled(sums: Array, numbers: Array) -> Array:
        length = jnp.linalg.norm(sums, axis=1, keepdims=True) if spherical else numbers[:, None]
        return sums / jnp.where(length > 0, length, 1)

    def improve(_: int, centres: Array) -> Array:
        nearest, fit = assign(points, extended(centres, spherical), l2=not spherical)
        sums = sum_by_id(points, nearest, num_clusters)
        numbers = sum_by_id(jnp.ones(len(points)), nearest, num_clusters)
        worst = points[jax.lax.top_k(-fit, num_clusters)[1]]
        empty = numbers == 0
        moved = scaled(worst[jnp.cumsum(empty) - 1], jnp.ones(num_clusters))
        return jnp.where(empty[:, None], moved, scaled(sums, numbers))

    first = scaled(points[:num_clusters], jnp.ones(num_clusters))
    return jax.lax.fori_loop(0, rounds, improve, first)


def extended(centres: Array, spherical: bool) -> Array:
    """Centres with a last column, minus their squared length, for plain k-means."""
    if spherical:
        return centres
    return jnp.concatenate([centres, -jnp.sum(centres**2, axis=1, keepdims=True)], axis=1)


@functools.partial(jax.jit, static_argnames="l2")
def assign(points: Array, centres: Array, *, l2: bool) -> tuple[Array, Array]:
    """The nearest centre of each point and how well it fits, int32 [N] and [N], a block of points at a time.

    centres: as `extended` gives them. fit: the product, or with `l2` minus the squared distance. Of centres
    that are equally near it is the first.
    """
    number, width = points.shape
    size = min(BLOCK, number)
    padded = jnp.pad(points, ((0, -number % size), (0, 0))).reshape(-1, size, width)

    def nearest(block: Array) -> tuple[Array, Array]:
        if l2:
            products = 2 * jnp.matmul(block, centres[:, :-1].T, precision="highest") + centres[:, -1]
            products -= jnp.sum(block**2, axis=1, keepdims=True)
        else:
            products = jnp.matmul(block, centres.T, precision="highest")
        return products.argmax(axis=1).astype(jnp.int32), products.max(axis=1)

    chosen, fit = jax.lax.map(nearest, padded)
    return chosen.reshape(-1)[:number], fit.reshape(-1)[:number]
