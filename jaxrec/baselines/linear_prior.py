"""iALS whose items have a linear prior from their content, which items without events are known by.

Feature-aware iALS, as irspack has it, with features of items: the loss of `ials` with Σ_i λ_i |h_i - Bᵀ g_i|²
in place of Σ_i λ_i |h_i|², plus λ_B |B|², over the items that have training events.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import scipy.linalg

from jaxrec.baselines.als import Penalty, alternating
from jaxrec.baselines.events import EventData
from jaxrec.baselines.ials import TRAINED, by_number, distinct_pairs, random_start
from jaxrec.data.events.training_events import TrainingEvents
from jaxrec.optim.least_squares import Exact
from jaxrec.types import Baseline


def linear_prior(
    data: EventData | TrainingEvents,
    content: np.ndarray,
    *,
    dim: int = 64,
    regularisation: float = 0.003,
    alpha0: float = 0.1,
    nu: float = 1.0,
    prior_regularisation: float = 1.0,
    epochs: int = 16,
    stddev: float = 0.1,
    seed: int = 0,
) -> Baseline:
    """score(u, i) = w_u · h_i; an item without events has the vector that minimises the loss without pairs.

    That is λ₀ (α₀ Wᵀ W + λ₀)⁻¹ Bᵀ g with λ₀ = λ (α₀ U)^ν: the prior's mean, shrunk where users have scores.
    An epoch renews users, items and the map B, each exactly, so that none raises the loss.

    Args:
      content: g of each item, [I + 1, F], row 0 padding. A constant column, if it is to have one, is of it.
      prior_regularisation: λ_B. Others: as of `ials`; B starts at 0.

    Raises:
      ValueError: content of another number of items, or not finite; a number is out of range.
    """
    for name, value in (
        ("regularisation", regularisation),
        ("alpha0", alpha0),
        ("prior_regularisation", prior_regularisation),
        ("stddev", stddev),
    ):
        if not 0 < value < np.inf:
            raise ValueError(f"{name}={value}: must be above 0 and finite")
    if dim < 1 or epochs < 1:
        raise ValueError(f"dim={dim}, epochs={epochs}: must be at least 1")
    users, pairs, events = distinct_pairs(data)
    given = np.asarray(content, np.float64)
    if given.ndim != 2 or len(given) != events.num_items + 1 or not np.isfinite(given).all():
        raise ValueError(
            f"content: {list(given.shape)}, expected finite numbers [{events.num_items + 1}, features], one "
            "row for each item and one for padding in front"
        )
    penalty = Penalty(regularisation, alpha0, nu)
    als = alternating(pairs, len(users), events.num_items, penalty=penalty, solver=Exact())
    tables = als.start(*random_start(seed, len(users), events.num_items, dim, stddev))
    count = np.bincount(pairs.item, minlength=events.num_items)
    ridge = penalty.ridge(count.astype(np.float64), len(users))
    warm, given = count > 0, given[1:]
    matrix = np.zeros((given.shape[1], dim))
    for _ in range(epochs):
        tables = als.half(tables, True)
        tables = als.toward(tables, (given @ matrix).astype(np.float32))
        items = np.asarray(als.finish(tables)[1], np.float64)
        matrix = fitted_map(given[warm], items[warm], ridge[warm], prior_regularisation)
    found = [np.asarray(table, np.float64) for table in als.finish(tables)]
    vectors = np.where(warm[:, None], found[1], shrunk(given @ matrix, found[0], penalty))
    vectors = np.pad(vectors, ((1, 0), (0, 0))).astype(np.float32)
    table = by_number(data, users, found[0])
    return Baseline("linear_prior", TRAINED, {"users": jnp.asarray(table), "items": jnp.asarray(vectors)})


def fitted_map(
    content: np.ndarray, items: np.ndarray, ridge: np.ndarray, regularisation: float
) -> np.ndarray:
    """B that minimises Σ_i λ_i |h_i - Bᵀ g_i|² + λ_B |B|²: [F, D]."""
    weighted = ridge[:, None] * content
    normal = content.T @ weighted + regularisation * np.eye(content.shape[1])
    found: np.ndarray = scipy.linalg.solve(normal, weighted.T @ items, assume_a="pos")
    return found


def shrunk(means: np.ndarray, users: np.ndarray, penalty: Penalty) -> np.ndarray:
    """Vectors of items without pairs, whose priors have these means, [I, D]."""
    ridge = penalty.ridge(0.0, len(users))
    normal = penalty.alpha0 * users.T @ users + ridge * np.eye(users.shape[1])
    found: np.ndarray = scipy.linalg.solve(normal, ridge * means.T, assume_a="pos").T
    return found
