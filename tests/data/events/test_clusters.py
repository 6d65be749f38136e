"""K-means against its fixed point and scikit-learn; clusters and their training examples against loops."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from sklearn.cluster import KMeans

from jaxrec.data.events import clusters as module
from jaxrec.data.events.clusters import cluster_examples, clusters_from_labels, kmeans, one_cluster

LABELS = np.array([2, 0, 1, 0, 2, 2])


def blobs(count: int, each: int, dim: int = 3, spread: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """Points around the corners of a cube, and the corner of each."""
    rng = np.random.default_rng(0)
    corners = np.array(list(itertools.product([0.0, 1.0], repeat=dim)))[:count]
    label = rng.permutation(np.repeat(np.arange(count), each))
    return corners[label] + spread * rng.normal(size=(count * each, dim)), label


def test_a_division_by_hand() -> None:
    found = clusters_from_labels(LABELS)
    assert found.of.tolist() == [3, 2, 0, 1, 0, 2, 2]  # padding is in none of the three
    assert found.members.tolist() == [2, 4, 3, 1, 5, 6]
    assert found.start.tolist() == [0, 2, 3, 6]
    assert (found.num_clusters, found.sizes.tolist()) == (3, [2, 1, 3])
    assert {array.dtype for array in found} == {np.dtype(np.int32)}


def test_one_cluster_of_all_items() -> None:
    found = one_cluster(4)
    assert (found.of.tolist(), found.members.tolist(), found.start.tolist()) == (
        [1, 0, 0, 0, 0],
        [1, 2, 3, 4],
        [0, 4],
    )


@pytest.mark.parametrize(
    "labels, message",
    [
        ([], "expected the cluster of each item"),
        ([[0, 1]], "expected the cluster of each item"),
        ([0.0, 1.0], "float64"),
        ([0, -1], "-1 is negative"),
        ([0, 2], "cluster 1 has no item"),
    ],
)
def test_labels_that_are_no_division_are_refused(labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        clusters_from_labels(np.array(labels))


@pytest.mark.parametrize("max_len", [1, 3, 50])
def test_examples_are_the_pairs_of_users_and_clusters_of_their_targets(max_len: int) -> None:
    rng = np.random.default_rng(1)
    length = np.array([0, 1, 2, 9, 4, 30])  # two users without a target
    held_out = 2  # events behind the training ones
    start = np.cumsum(length + held_out) - (length + held_out)
    items = rng.integers(1, 7, (length + held_out).sum())
    columns = {"items": items.astype(np.int32), "start": start, "length": length}
    division = clusters_from_labels(LABELS)
    expected = []
    for user, (a, n) in enumerate(zip(start, length, strict=True)):
        targets = items[a + 1 : a + n][-max_len:] if n > 1 else []
        expected += [(user, k) for k in sorted({int(LABELS[item - 1]) for item in targets})]
    found = cluster_examples(columns, division, max_len)
    pairs = list(zip(found["example_user"].tolist(), found["example_cluster"].tolist(), strict=True))
    assert pairs == expected


def test_separated_groups_are_found() -> None:
    vectors, label = blobs(6, 30)
    found = kmeans(vectors, 6)
    for group in range(6):
        assert len(np.unique(found.labels[label == group])) == 1
    assert len(np.unique(found.labels)) == 6


@pytest.mark.parametrize("seed", range(5))
def test_each_first_centre_is_far_from_the_others(seed: int) -> None:
    """Of k-means++: a vector of a group that has a centre is as good as never drawn."""
    vectors, label = blobs(6, 30, spread=0.001)
    centres = module._kmeans_plus_plus(vectors, 6, np.random.default_rng(seed))
    nearest = np.square(vectors[:, None] - centres).sum(-1).argmin(1)
    assert all(len(np.unique(nearest[label == group])) == 1 for group in range(6))
    assert len(np.unique(nearest)) == 6


def test_labels_are_the_nearest_means() -> None:
    vectors = np.random.default_rng(2).normal(size=(200, 4))
    found = kmeans(vectors, 7, seed=3)
    distance = np.square(vectors[:, None] - found.centres).sum(-1)
    np.testing.assert_array_equal(found.labels, distance.argmin(1))
    for k in range(7):
        np.testing.assert_allclose(found.centres[k], vectors[found.labels == k].mean(0), rtol=1e-12)
    assert found.inertia == pytest.approx(distance.min(1).sum())


def test_as_good_as_scikit_learn() -> None:
    vectors = np.random.default_rng(3).normal(size=(300, 5))
    theirs = KMeans(8, n_init=4, random_state=0).fit(vectors).inertia_
    assert kmeans(vectors, 8).inertia < 1.03 * theirs


def test_hangs_on_the_seed_alone_and_not_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(4).normal(size=(150, 3))
    first, other = (kmeans(vectors, 9, seed=seed, restarts=1) for seed in (0, 1))
    monkeypatch.setattr(module, "_BLOCK", 64)
    np.testing.assert_array_equal(kmeans(vectors, 9, seed=0, restarts=1).labels, first.labels)
    assert (first.labels != other.labels).any()


def test_a_cluster_that_loses_all_its_vectors_takes_the_farthest_one() -> None:
    """The third centre is nobody's nearest: it gets 9, the vector farthest from its centre."""
    vectors = np.array([[0.0], [1.0], [4.0], [5.0], [9.0]])
    found = module._lloyd(vectors, np.array([[0.5], [4.5], [100.0]]), iterations=20)
    assert found.labels.tolist() == [0, 0, 1, 1, 2]
    assert found.centres.ravel().tolist() == [0.5, 4.5, 9.0]
    assert found.inertia == 4 * 0.5**2


@pytest.mark.parametrize("copies", [1, 5])
def test_as_many_clusters_as_distinct_vectors(copies: int) -> None:
    vectors = np.repeat(np.arange(4.0)[:, None], copies, axis=0)
    found = kmeans(vectors, 4)
    assert found.inertia == 0
    assert np.bincount(found.labels).tolist() == [copies] * 4


@pytest.mark.parametrize(
    "change, message",
    [
        ({"num_clusters": 0}, "num_clusters=0: must be at least 1"),
        ({"num_clusters": 4}, "num_clusters=4: there are only 3 distinct vectors"),
        ({"iterations": 0}, "iterations=0"),
        ({"restarts": 0}, "restarts=0"),
        ({"vectors": np.array([[np.nan]])}, "finite"),
        ({"vectors": np.zeros(3)}, r"expected finite numbers \[N, D\]"),
    ],
)
def test_what_cannot_be_clustered_is_refused(change: dict[str, Any], message: str) -> None:
    given = {"vectors": np.array([[0.0], [1.0], [2.0], [2.0]]), "num_clusters": 2} | change
    with pytest.raises(ValueError, match=message):
        kmeans(**given)
