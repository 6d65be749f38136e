"""EASE: a linear autoencoder without hidden layer in closed form (Steck, WWW 2019, arXiv:1905.03375)."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse import csr_matrix

from jaxrec.baselines.events import EventData, training_events
from jaxrec.baselines.inverse import PANEL, inverse_gram
from jaxrec.baselines.matrix import interactions
from jaxrec.data.events.training_events import TrainingEvents
from jaxrec.types import Array, Baseline, Context, Scorer, Variables

RESIDUAL = 1e-2  # of a column of the inverse, above which the factorisation is refused


def ease(
    data: EventData | TrainingEvents, *, regularisation: float = 250.0, max_gib: float = 8.0
) -> Baseline:
    """score(u, j) = Σ over the items i of the history of B_ij (sections 3.1 and 3.2).

    B = argmin |X - X B|² + λ |B|² with a diagonal of 0, X being the interactions of 0 and 1: B_ij =
    -P_ij / P_jj, P = (XᵀX + λ I)^-1. The matrix is dense, 4 (V + 1)² bytes, and made by Cholesky's
    factorisation in float32 in at most twice its memory, see `inverse_gram`.

    regularisation: λ. max_gib: bound of the matrix's GiB.

    Raises:
      ValueError: λ is not a positive number, the matrix needs more than max_gib, or λ is too small for
        float32: the factorisation fails, or P has an error, |(XᵀX + λ I) P - I| above `RESIDUAL` in one of
        the columns that are checked.
    """
    return Baseline(
        "ease",
        Scorer(_scores),
        {"weights": ease_weights(interactions(training_events(data)), regularisation, max_gib)},
    )


def ease_weights(users: csr_matrix, regularisation: float, max_gib: float = 8.0) -> np.ndarray:
    """B of `ease`, float32 [M, M], for interactions float32 [N, M]; columns without any have weights 0."""
    if not 0 < regularisation < np.inf:
        raise ValueError(f"regularisation={regularisation}: must be a positive number")
    size = users.shape[1]
    gib = 4 * size**2 / 2**30
    if gib > max_gib:
        raise ValueError(
            f"max_gib={max_gib}: EASE of {size:,} items is a dense matrix of {gib:,.1f} GiB; raise it "
            "if the memory holds twice that, keep fewer items, or take SLIM, which is sparse"
        )
    inverse = inverse_gram(users, regularisation)
    check_inverse(users, regularisation, inverse)
    diagonal = np.diagonal(inverse).copy()
    for start in range(0, size, PANEL):
        inverse[start : start + PANEL] /= -diagonal
    np.fill_diagonal(inverse, 0.0)
    return inverse


def check_inverse(users: csr_matrix, regularisation: float, inverse: np.ndarray, columns: int = 32) -> None:
    """Raises ValueError where columns of the inverse are wrong: those of the most users, and some of all."""
    count = np.asarray(users.sum(axis=0)).reshape(-1)
    some = np.linspace(0, len(count) - 1, min(columns, len(count))).astype(int)
    chosen = np.unique(np.concatenate([some, np.argsort(count)[-columns:]]))
    part = inverse[:, chosen].astype(np.float64)
    product = users.T @ (users @ part) + regularisation * part
    product[chosen, np.arange(len(chosen))] -= 1.0
    if not (error := np.abs(product).max()) <= RESIDUAL:
        raise ValueError(
            f"regularisation={regularisation}: the inverse in float32 has an error of {error:.2g}; raise it"
        )


def _scores(variables: Variables, queries: Mapping[str, Array], context: Context) -> Array:
    weights, items = variables["weights"], jnp.asarray(context["items"])
    start, length = jnp.asarray(context["start"])[queries["user"]], queries["length"]

    def add_event(place: Array, scores: Array) -> Array:
        real = place < length
        return scores + weights[jnp.where(real, items[jnp.where(real, start + place, 0)], 0)]

    longest = jnp.minimum(length.max(), items.shape[0])
    zeros = jnp.zeros((start.shape[0], weights.shape[0]), weights.dtype)
    return jax.lax.fori_loop(0, longest, add_event, zeros)
