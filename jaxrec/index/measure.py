"""How near two vectors are: inner product, cosine, or Euclidean distance, each as one matrix product."""

from __future__ import annotations

from typing import Any, Literal, get_args

import jax.numpy as jnp
import numpy as np

from jaxrec.types import Array

Metric = Literal["inner", "cosine", "l2"]


def check_table(table: Any, metric: str, *, dim: int | None = None) -> np.ndarray:
    """The table as float32 [V, D]; ValueError where it is none of at least one item, or not finite."""
    if metric not in get_args(Metric):
        raise ValueError(f"metric={metric!r}: must be 'inner', 'cosine' or 'l2'")
    array = np.asarray(table, np.float32)
    if array.ndim != 2 or len(array) < 2 or array.shape[1] < 1:
        raise ValueError(f"a table of shape {array.shape}: must be [V, D], row 0 for padding, then the items")
    if dim is not None and array.shape[1] != dim:
        raise ValueError(f"vectors of width {array.shape[1]}: the index has width {dim}")
    bad = np.flatnonzero(~np.isfinite(array[1:]).all(axis=1))
    if bad.size:
        raise ValueError(f"{bad.size} vectors are not finite, the first that of item {bad[0] + 1}")
    return array


def centre_of(vectors: np.ndarray, metric: Metric) -> np.ndarray:
    """What is subtracted from all vectors [N, D] for distances: their mean, [D]; 0 for other metrics.

    It is rounded to a power of two below the vectors' deviation, so that differences of whole numbers stay
    exact.
    """
    if metric != "l2":
        return np.zeros(vectors.shape[1], np.float32)
    mean, deviation = (
        vectors.mean(axis=0, dtype=np.float64),
        float(vectors.std(axis=0, dtype=np.float64).max()),
    )
    step = 2.0 ** np.floor(np.log2(deviation)) if deviation > 0 else 1.0
    return (step * np.round(mean / step)).astype(np.float32)


def prepare_items(vectors: Array, centre: Array, metric: Metric) -> Array:
    """Vectors [N, D] in the form [N, D'] whose products with prepared queries order items by the metric.

    "inner": as they are. "cosine": of length 1; 0 stays 0. "l2": with the centre subtracted, so that squares
    stay small, and a last column, minus the squared length.
    """
    if metric == "cosine":
        return _normalise(vectors)
    if metric == "l2":
        vectors = vectors - centre
        return jnp.concatenate([vectors, -jnp.sum(vectors**2, axis=1, keepdims=True)], axis=1)
    return vectors


def prepare_queries(queries: Array, centre: Array, metric: Metric) -> Array:
    """Queries [B, D] for products with prepared items, [B, D']; "l2": [2 (q - centre), 1]."""
    if metric == "cosine":
        return _normalise(queries)
    if metric == "l2":
        return jnp.concatenate([2 * (queries - centre), jnp.ones((len(queries), 1))], axis=1)
    return queries


def score_rows(query: Array, rows: Array, metric: Metric) -> Array:
    """The metric of a prepared query [D'] and prepared items [..., D'], [...]: a sum over dimensions."""
    if metric == "l2":
        return -jnp.sum((query[:-1] / 2 - rows[..., :-1]) ** 2, axis=-1)
    return jnp.sum(query * rows, axis=-1)


def _normalise(vectors: Array) -> Array:
    """Of length 1, rows [N, D]; a row of zeros stays as it is."""
    scale = jnp.abs(vectors).max(axis=1, keepdims=True)  # squares of very small and large numbers are finite
    scaled = vectors / jnp.where(scale > 0, scale, 1)
    length = jnp.linalg.norm(scaled, axis=1, keepdims=True)
    return scaled / jnp.where(length > 0, length, 1)
