"""Items divided into clusters: K-means, and the columns that in-cluster training and serving read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxrec.data.validation import as_integers

_BLOCK = 65_536  # vectors whose distances are held at a time


class Clusters(NamedTuple):
    """A division of the items into K clusters, every item in one and no cluster empty.

    of: cluster 0..K-1 of each id, int32 [vocab_size]; K, which is no cluster, for padding.
    members: the items cluster by cluster, ascending in each, int32 [num_items].
    start: offset of each cluster in `members`, and the end, int32 [K + 1].
    """

    of: np.ndarray
    members: np.ndarray
    start: np.ndarray

    @property
    def num_clusters(self) -> int:
        return len(self.start) - 1

    @property
    def sizes(self) -> np.ndarray:
        """Items of each cluster, int32 [K]."""
        return np.diff(self.start)


def clusters_from_labels(labels: np.ndarray) -> Clusters:
    """Clusters from the cluster 0..K-1 of each of the items 1..num_items, int [num_items].

    Raises:
      ValueError: there is no item, labels are not integers from 0 on, or a cluster has no item.
    """
    labels = np.asarray(labels)
    if labels.dtype.kind == "u":
        labels = as_integers(labels, "labels")
    if labels.ndim != 1 or labels.size == 0 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"labels: {labels.dtype} {list(labels.shape)}: expected the cluster of each item, a whole number"
        )
    if labels.min() < 0:
        raise ValueError(f"labels: {labels.min()} is negative: number the clusters from 0 on")
    sizes = np.bincount(labels)
    if (sizes == 0).any():
        raise ValueError(f"labels: cluster {int(sizes.argmin())} has no item: number the clusters 0..K-1")
    return Clusters(
        of=np.concatenate([[len(sizes)], labels]).astype(np.int32),
        members=(np.argsort(labels, kind="stable") + 1).astype(np.int32),
        start=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32),
    )


def one_cluster(num_items: int) -> Clusters:
    """All items in one cluster."""
    return clusters_from_labels(np.zeros(num_items, np.int32))


def cluster_examples(
    columns: Mapping[str, np.ndarray], clusters: Clusters, max_len: int
) -> dict[str, np.ndarray]:
    """Every pair (user, cluster) where a target of the user's training window is in the cluster.

    columns: of `batching.next_item_columns`. The window is that of next-item prediction: the last max_len
    training events that have a successor.

    Returns: example_user, example_cluster, int32 [E], ordered by user, then cluster.
    """
    length = np.asarray(columns["length"], np.int64)
    count = np.clip(length - 1, 0, max_len)  # targets of each user: the last `count` training events
    user = np.repeat(np.arange(len(length)), count)
    back = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    target = columns["items"][(columns["start"] + length - count)[user] + back]
    size = clusters.num_clusters
    pairs = np.unique(user * size + clusters.of[target])
    return {
        "example_user": (pairs // size).astype(np.int32),
        "example_cluster": (pairs % size).astype(np.int32),
    }


class KMeansResult(NamedTuple):
    """labels: cluster of each vector, int32 [N]; centres: means, float64 [K, D]; inertia: the sum of squared
    distances of the vectors from their centres, which K-means minimises."""

    labels: np.ndarray
    centres: np.ndarray
    inertia: float


def kmeans(
    vectors: np.ndarray, num_clusters: int, *, seed: int = 0, iterations: int = 300, restarts: int = 4
) -> KMeansResult:
    """The best of `restarts` runs of Lloyd's algorithm (IEEE Trans. Inf. Theory 1982) from k-means++ seeds.

    Deterministic given `seed`. A cluster that loses all its vectors takes over the vector farthest from its
    centre, so none is ever empty.

    Args:
      vectors: float [N, D]. For cosine distance give them unit length.
      iterations: at most this many in each run.
      restarts: number of runs, each from its own seeds (Arthur and Vassilvitskii, SODA 2007).

    Raises:
      ValueError: vectors are not finite, or there are fewer distinct vectors than clusters.
    """
    vectors = np.asarray(vectors, np.float64)
    if vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise ValueError(f"vectors: shape {list(vectors.shape)}: expected finite numbers [N, D]")
    for name, value in (("num_clusters", num_clusters), ("iterations", iterations), ("restarts", restarts)):
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    distinct = len(np.unique(vectors, axis=0))
    if distinct < num_clusters:
        raise ValueError(f"num_clusters={num_clusters}: there are only {distinct} distinct vectors")
    runs = []
    for restart in range(restarts):
        rng = np.random.default_rng([seed, restart])
        runs.append(_lloyd(vectors, _kmeans_plus_plus(vectors, num_clusters, rng), iterations))
    return min(runs, key=lambda run: run.inertia)


def _kmeans_plus_plus(vectors: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Vectors drawn one by one in proportion to the squared distance from those drawn before: [count, D]."""
    centres = vectors[rng.integers(len(vectors))][None]
    nearest = np.square(vectors - centres[0]).sum(axis=1)
    while len(centres) < count:
        drawn = vectors[rng.choice(len(vectors), p=nearest / nearest.sum())]
        centres = np.concatenate([centres, drawn[None]])
        nearest = np.minimum(nearest, np.square(vectors - drawn).sum(axis=1))
    return centres


def _lloyd(vectors: np.ndarray, centres: np.ndarray, iterations: int) -> KMeansResult:
    labels = np.full(len(vectors), -1)
    for _ in range(iterations):
        found, distance = _nearest_centres(vectors, centres)
        sizes = np.bincount(found, minlength=len(centres))
        for empty in np.flatnonzero(sizes == 0):
            far = int(np.where(sizes[found] > 1, distance, -1).argmax())
            sizes[found[far]] -= 1
            sizes[empty], found[far], distance[far] = 1, empty, 0
        if np.array_equal(found, labels):
            break
        labels = found
        sums = np.zeros_like(centres)
        np.add.at(sums, labels, vectors)
        centres = sums / sizes[:, None]
    return KMeansResult(labels.astype(np.int32), centres, float(np.square(vectors - centres[labels]).sum()))


def _nearest_centres(vectors: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest centre of each vector (ties: the first) and its squared distance, [N] each."""
    labels, distances = [], []
    for first in range(0, len(vectors), _BLOCK):
        block = vectors[first : first + _BLOCK]
        squared = (
            np.square(block).sum(axis=1)[:, None] - 2 * block @ centres.T + np.square(centres).sum(axis=1)
        )
        labels.append(squared.argmin(axis=1))
        distances.append(squared[np.arange(len(block)), labels[-1]])
    return np.concatenate(labels), np.concatenate(distances)
