"""Matrix factorisation with biases, of explicit ratings.

Koren, Bell and Volinsky, IEEE Computer 42(8), 2009, doi:10.1109/MC.2009.263, equations 4 and 5. Fitted by
alternating least squares, one of the two ways that the article names.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.baselines.als_layout import Bucket, Pairs, lay_out
from jaxrec.data.events.ratings import Ratings
from jaxrec.optim.least_squares import Basis, Exact, Rows, after
from jaxrec.tasks.pairs import FACTORS
from jaxrec.types import Array, Baseline


def biased_mf(
    ratings: Ratings,
    *,
    dim: int = 64,
    regularisation: float = 0.1,
    epochs: int = 20,
    stddev: float = 0.1,
    seed: int = 0,
) -> Baseline:
    """score(u, i) = μ + b_u + b_i + p_u · q_i, the expected rating; it may lie outside their range.

    μ is the mean of these ratings, and is not learned. The others minimise

        Σ (r_ui - μ - b_u - b_i - p_u · q_i)² + λ (|p_u|² + |q_i|² + b_u² + b_i²)

    over the ratings, so that a user or an item is penalised once for each of its ratings. A half-step solves
    all users' vectors and biases together, given the items', or the other way round, and never raises the
    sum. A user or an item without ratings has the vector and the bias 0.

    The variables are vectors whose product is the score: "users" [U + 1, D + 2] of p_u, 1, μ + b_u, and
    "items" [I + 1, D + 2] of q_i, b_i, 1; row 0 is 0.

    Args:
      dim: D; 0: biases alone.
      regularisation: λ. The article gives no number.
      epochs: of users, then items.
      stddev: vectors of items start from a normal distribution of this deviation.
      seed: of the start.

    Raises:
      ValueError: dim is negative, epochs is below 1, or regularisation or stddev is not above 0.
    """
    if dim < 0:
        raise ValueError(f"dim={dim}: must be at least 0")
    if epochs < 1:
        raise ValueError(f"epochs={epochs}: must be at least 1")
    for name, number in (("regularisation", regularisation), ("stddev", stddev)):
        if not 0 < number < np.inf:
            raise ValueError(f"{name}={number}: must be above 0 and finite")
    mean = float(ratings.value.mean(dtype=np.float64))
    response = (ratings.value - mean).astype(np.float32)
    pairs = Pairs(ratings.user - 1, ratings.item - 1, response)
    sides = lay_out(pairs, ratings.num_users, ratings.num_items, 1)
    drawn = stddev * jax.random.normal(jax.random.key(seed), (ratings.num_items, dim))
    start = np.zeros((ratings.num_users, dim + 1)), np.pad(drawn, ((0, 0), (0, 1)))
    tables = [jnp.asarray(side.stored(table)) for side, table in zip(sides, start, strict=True)]
    buckets = [jax.tree.map(jnp.asarray, side.buckets) for side in sides]
    users, items = _fit(*tables, *buckets, jnp.float32(regularisation), epochs)
    users, items = (table[side.place] for table, side in zip((users, items), sides, strict=True))
    ones = [jnp.ones((len(table), 1), table.dtype) for table in (users, items)]
    of_users = jnp.concatenate([users[:, :-1], ones[0], mean + users[:, -1:]], axis=1)
    of_items = jnp.concatenate([items, ones[1]], axis=1)
    variables = {"users": jnp.pad(of_users, ((1, 0), (0, 0))), "items": jnp.pad(of_items, ((1, 0), (0, 0)))}
    return Baseline("biased-mf" if dim else "biases", FACTORS, variables)


@jax.jit
def _fit(
    users: Array, items: Array, of_users: list[Bucket], of_items: list[Bucket], penalty: Array, epochs: Array
) -> tuple[Array, Array]:
    """Stored tables of vectors and, last, biases, after epochs of both half-steps."""

    def sweep(_: Array, tables: tuple[Array, Array]) -> tuple[Array, Array]:
        users = _half_step(tables[0], tables[1], of_users, penalty)
        return users, _half_step(tables[1], users, of_items, penalty)

    return jax.lax.fori_loop(0, epochs, sweep, (users, items))


def _half_step(own: Array, other: Array, buckets: list[Bucket], penalty: Array) -> Array:
    """Renews all rows of a table, [P, D + 1]: what the other table's biases leave of ratings, by its vectors
    and 1."""
    features = other.at[:, -1].set(1.0)
    width, dtype = own.shape[1], own.dtype
    basis = Basis(jnp.eye(width, dtype=dtype), jnp.zeros(width, dtype))

    def solve(chunk: tuple[Bucket, Array]) -> Array:
        bucket, ridge = chunk
        bias, pairs = (
            table.at[bucket.place].get(mode="fill", fill_value=0, wrap_negative_indices=False)
            for table in (other[:, -1], features)
        )
        before = jnp.zeros((len(ridge), width), dtype)
        rows = Rows(pairs, jnp.asarray(bucket.response) - bias, None, ridge, before)
        return Exact().solve(rows, basis, 0.0)

    solved = list[Array]()
    for bucket in buckets:
        ridge = after(solved, penalty * jnp.maximum(bucket.number, 1))
        solved.append(jax.lax.map(solve, (bucket, ridge)).reshape(-1, width))
    return jnp.concatenate(solved)
