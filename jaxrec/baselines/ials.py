"""iALS: matrix factorisation of implicit feedback by alternating least squares (Hu et al., ICDM 2008).

In the form of Rendle et al., "Revisiting the Performance of iALS on Item Recommendation Benchmarks", RecSys
2022, arXiv:2110.14037, section 3: over all pairs S of a user and an item of the user's,

    Σ_S (w_u · h_i - 1)² + α₀ Σ_{all u, i} (w_u · h_i)² + Σ_u λ_u |w_u|² + Σ_i λ_i |h_i|²

with λ_u = λ (n_u + α₀ I)^ν for a user of n_u of the I items, and λ_i = λ (n_i + α₀ U)^ν in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.baselines.als import Penalty, alternating
from jaxrec.baselines.als_layout import Pairs
from jaxrec.baselines.events import EventData, training_events
from jaxrec.data.events.training_events import TrainingEvents
from jaxrec.optim.least_squares import Exact, Solver, solve_positive
from jaxrec.types import Array, Baseline, Context, Retriever, Variables

BLOCK = 64  # events of a history that are read at a time


def ials(
    data: EventData | TrainingEvents,
    *,
    dim: int = 64,
    regularisation: float = 0.003,
    alpha0: float = 0.1,
    nu: float = 1.0,
    epochs: int = 16,
    solver: Solver = Exact(),  # noqa: B008 - immutable
    stddev: float = 0.1,
    seed: int = 0,
    num_devices: int = 1,
    project: bool = False,
) -> Baseline:
    """score(u, i) = w_u · h_i. A repeated event counts once; a user or item without events has the vector 0.

    Of one's own `TrainingEvents`, queries number the groups from 0 in ascending order.

    Args:
      regularisation, alpha0, nu: λ, α₀, ν of the loss. The defaults are the authors' for MovieLens-20M.
      epochs: of users, then items.
      solver: `Exact`, `Blocks` (iALS++) or `ConjugateGradients` of `optim.least_squares`.
      stddev: vectors start from a normal distribution of this deviation over the square root of `dim`.
      seed: of the start.
      num_devices: over which both tables are split by rows; their number changes the result by rounding only.
      project: False: queries are answered by the trained vectors of users, users without training events by
        0. True: by the vector that minimises the loss for the query's input history, which exists for users
        who were not trained too; the loss is that of training, with λ_u of the history's length.

    Raises:
      ValueError: dim or epochs is below 1; regularisation, alpha0 or stddev is not above 0; nu is not a
        number; or there are not as many devices.
    """
    for name, whole in (("dim", dim), ("epochs", epochs)):
        if whole < 1:
            raise ValueError(f"{name}={whole}: must be at least 1")
    for name, number in (("regularisation", regularisation), ("alpha0", alpha0), ("stddev", stddev)):
        if not 0 < number < np.inf:
            raise ValueError(f"{name}={number}: must be above 0 and finite")
    if not np.isfinite(nu):
        raise ValueError(f"nu={nu}: must be a finite number")
    users, pairs, events = distinct_pairs(data)
    penalty = Penalty(regularisation, alpha0, nu)
    als = alternating(
        pairs, len(users), events.num_items, penalty=penalty, solver=solver, num_devices=num_devices
    )
    tables = als.start(*random_start(seed, len(users), events.num_items, dim, stddev))
    for _ in range(epochs):
        tables = als.sweep(tables)
    found, items = als.finish(tables)
    items = jnp.pad(items, ((1, 0), (0, 0)))
    if project:
        numbers = {name: jnp.float32(value) for name, value in penalty._asdict().items()}
        return Baseline("ials", PROJECTED, {"items": items, "gramian": items.T @ items, **numbers})
    table = by_number(data, users, np.asarray(found))
    return Baseline("ials", TRAINED, {"users": jnp.asarray(table), "items": items})


def distinct_pairs(data: EventData | TrainingEvents) -> tuple[np.ndarray, Pairs, TrainingEvents]:
    """Users with training events, ascending, and the pairs of these, each once, numbered from 0."""
    events = training_events(data)
    users, row = np.unique(events.group, return_inverse=True)
    pair = np.unique(row * np.int64(events.num_items) + (events.item - 1))
    return users, Pairs(pair // events.num_items, pair % events.num_items), events


def by_number(data: EventData | TrainingEvents, users: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Vectors of users with training events as a table of all, user 0 in row 1: [U + 1, D]."""
    index = np.arange(len(users)) if isinstance(data, TrainingEvents) else users
    table = np.zeros((index[-1] + 2, found.shape[1]), np.float32)
    table[index + 1] = found
    return table


def random_start(seed: int, num_users: int, num_items: int, dim: int, stddev: float) -> tuple[Array, Array]:
    """Vectors of users [U, D] and items [I, D], N(0, stddev² / D)."""
    of_users, of_items = jax.random.split(jax.random.key(seed))
    scale = stddev / np.sqrt(dim)
    users, items = (
        jax.random.normal(of_users, (num_users, dim)),
        jax.random.normal(of_items, (num_items, dim)),
    )
    return scale * users, scale * items


def confidence_pairs(user: np.ndarray, item: np.ndarray, count: np.ndarray, alpha: float) -> Pairs:
    """Pairs whose loss is α count (w · h - 1)² where other pairs have (w · h)²: the form of `implicit`.

    For `alternating` with `Penalty(regularisation, alpha0=1.0, nu=0.0)`. user, item: each pair once, 0-based.
    Where α count is not above 1, solvers must not be `dual`.
    """
    confidence = (alpha * np.asarray(count)).astype(np.float32)
    return Pairs(user, item, response=confidence, weight=confidence - 1)


def project(variables: Variables, queries: Mapping[str, Array], context: Context) -> Array:
    """The vector that minimises the loss for each query's history, [B, D]; repeated items count once."""
    items, length = variables["items"], queries["length"]
    batch, (vocab, dim) = length.shape[0], items.shape
    start = context["start"][queries["user"]]
    earlier = jnp.tril(jnp.ones((BLOCK, BLOCK), bool), -1)

    def read(block: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
        normal, right, number, seen = state
        place = block * BLOCK + jnp.arange(BLOCK)
        real = place < length[:, None]
        ids = jnp.where(real, context["items"].at[start[:, None] + place].get(mode="clip"), 0)
        again = ((ids[:, :, None] == ids[:, None]) & earlier).any(2)
        again = again | jnp.take_along_axis(seen, ids, axis=1)
        new = real & ~again
        rows = jnp.where(new[..., None], items[ids], 0)
        normal = normal + jnp.einsum("bld,ble->bde", rows, rows)
        seen = seen.at[jnp.arange(batch)[:, None], ids].set(True)
        return normal, right + rows.sum(1), number + new.sum(1, dtype=jnp.int32), seen

    state = (
        jnp.zeros((batch, dim, dim), items.dtype),
        jnp.zeros((batch, dim), items.dtype),
        jnp.zeros(batch, jnp.int32),
        jnp.zeros((batch, vocab), bool),
    )
    blocks = (length.max(initial=0) + BLOCK - 1) // BLOCK
    normal, right, number, _ = jax.lax.fori_loop(0, blocks, read, state)
    penalty = Penalty(variables["regularisation"], variables["alpha0"], variables["nu"])
    ridge = penalty.ridge(number.astype(jnp.float32), vocab - 1)
    matrix = (
        normal
        + penalty.alpha0 * variables["gramian"]
        + ridge[:, None, None] * jnp.eye(dim, dtype=items.dtype)
    )
    return solve_positive(matrix, right)


def _trained(variables: Variables, queries: Mapping[str, Array], context: Context) -> Array:
    users = variables["users"]
    return users.at[queries["user"] + 1].get(mode="fill", fill_value=0)


def _items(variables: Variables) -> Array:
    return jnp.asarray(variables["items"])


TRAINED = Retriever(_trained, _items)
PROJECTED = Retriever(project, _items)
