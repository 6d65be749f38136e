"""Walks follow edges in proportion to their counts; skip-gram's pairs are those of a loop."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.augment.random_walks import random_walks, skip_grams, walks_through_users
from jaxrec.data.events.graph import bipartite
from jaxrec.data.events.item_graph import degrees, item_graph
from jaxrec.data.events.training_events import TrainingEvents

# 1 → 2 three times, 1 → 3 once, 2 → 3 once; nothing follows 3, item 4 is met alone, 5 never
GROUP = np.array([0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 5, 5])
ITEM = np.array([1, 2, 1, 2, 1, 2, 3, 1, 3, 4, 2, 2])
GRAPH = item_graph(TrainingEvents(GROUP, ITEM, 5))


def test_edges_count_what_follows_in_a_session() -> None:
    assert GRAPH.target.tolist() == [2, 3, 3]
    assert GRAPH.upto.tolist() == [3, 4, 5]
    assert GRAPH.total.tolist() == [0, 4, 1, 0, 0, 0]
    assert GRAPH.before.tolist() == [0, 0, 4, 5, 5, 5]
    assert degrees(GRAPH).tolist() == [0, 4, 4, 2, 0, 0]


def test_a_long_pause_begins_a_session() -> None:
    events = TrainingEvents(np.zeros(4, int), np.array([1, 2, 3, 1]), 3)
    graph = item_graph(events, times=np.array([0, 3600, 7201, 7202]))
    assert graph.target.tolist() == [2, 1]
    assert graph.total.tolist() == [0, 1, 0, 1]


def test_walks_follow_edges_by_their_counts_and_end_at_sinks() -> None:
    start = jnp.asarray([1] * 4000 + [2, 3, 4, 5, 0])
    walks = np.asarray(random_walks(jax.random.key(0), GRAPH, start, length=4))
    assert {tuple(row) for row in walks[:4000]} == {(1, 2, 3, 0), (1, 3, 0, 0)}
    assert walks[4000:].tolist() == [[2, 3, 0, 0], [3, 0, 0, 0], [4, 0, 0, 0], [5, 0, 0, 0], [0] * 4]
    share = (walks[:4000, 1] == 2).mean()
    assert abs(share - 3 / 4) < 5 * np.sqrt(3 / 16 / 4000)  # five standard errors


def test_walks_through_users_take_each_edge_alike() -> None:
    """Item 1 is had by users 0 (with 2) and 1 (with 2 and 3): it leads to 1, 2, 3 by 1/4 + 1/6, …, 1/6."""
    events = TrainingEvents(np.array([0, 0, 1, 1, 1]), np.array([1, 2, 1, 2, 3]), 4)
    graph = bipartite(events, num_users=2)
    start = jnp.asarray([1] * 4000 + [4])
    walks = np.asarray(walks_through_users(jax.random.key(0), graph, start, length=3))
    assert walks[-1].tolist() == [4, 0, 0]  # nobody has it
    share = np.bincount(walks[:4000, 1], minlength=4)[1:] / 4000
    np.testing.assert_allclose(share, [5 / 12, 5 / 12, 1 / 6], atol=5 * np.sqrt(1 / 4 / 4000))
    assert walks[:4000].min() >= 1 and walks.max() <= 4


@pytest.mark.parametrize("window", [1, 2, 9])
def test_pairs_are_those_of_a_loop(window: int) -> None:
    walks = np.array([[4, 2, 7, 1, 5], [3, 6, 0, 0, 0], [8, 0, 0, 0, 0]])
    centre, context = skip_grams(jnp.asarray(walks), window=window)
    for row, found in zip(walks, zip(np.asarray(centre), np.asarray(context), strict=True), strict=True):
        real = [item for item in row if item]
        expected = [
            (a, b) for i, a in enumerate(real) for j, b in enumerate(real) if i != j and abs(i - j) <= window
        ]
        pairs = [(a, b) for a, b in zip(*found, strict=True) if a or b]
        assert pairs == expected


def test_what_cannot_be_walked_is_refused() -> None:
    with pytest.raises(ValueError, match="no item follows another one in a session"):
        item_graph(TrainingEvents(np.array([0, 0, 1]), np.array([1, 1, 2]), 3))
    events = TrainingEvents(np.array([0, 0]), np.array([1, 2]), 3)
    with pytest.raises(ValueError, match=r"times: shape \(3,\): must be one for each of 2 events"):
        item_graph(events, times=np.zeros(3))
    with pytest.raises(ValueError, match="gap=0: must be above 0 seconds"):
        item_graph(events, times=np.zeros(2), gap=0)
    with pytest.raises(ValueError, match="length=1: must be at least 2"):
        random_walks(jax.random.key(0), GRAPH, jnp.ones(1, jnp.int32), length=1)
    with pytest.raises(ValueError, match="window=0: must be at least 1"):
        skip_grams(jnp.ones((1, 3), jnp.int32), window=0)
    with pytest.raises(ValueError, match="length=1: must be at least 2"):
        walks_through_users(
            jax.random.key(0),
            bipartite(TrainingEvents(GROUP, ITEM, 5), num_users=6),
            jnp.ones(1, jnp.int32),
            length=1,
        )
