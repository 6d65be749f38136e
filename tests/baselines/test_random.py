"""Chance is chance, and hangs on the seed and the query."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxrec.baselines import random
from tests.baselines import small


def test_chance_is_chance_and_hangs_on_the_query() -> None:
    """Each query has an order of its own; of items it knows nothing."""
    data = small.session_data()
    found = small.scores(random(data), small.session_queries(data), data.columns)
    assert len({tuple(np.argsort(row)) for row in found}) > 1
    assert len(np.unique(found)) == found.size


def test_a_user_has_the_same_scores_in_every_batch_and_others_by_another_seed() -> None:
    baseline = random(small.sequence_data())
    queries, context = small.histories([[1], [2], [3]])
    found = small.scores(baseline, queries, context)
    back = {name: column[::-1] for name, column in queries.items()}
    np.testing.assert_array_equal(small.scores(baseline, back, context)[::-1], found)
    assert not np.isin(small.scores(baseline, queries, context, seed=1), found).any()


@pytest.mark.parametrize("split", [False, True])
def test_scores_are_products_of_normal_vectors_by_two_keys(split: bool) -> None:
    """The streams of stored results: users folded into the seed's key, or into the first of two of it."""
    events = small.events_of([[1, 2]])
    queries, context = small.histories([[1], [2]])
    key = jax.random.key(5)
    users, items = jax.random.split(key) if split else (key, jax.random.fold_in(key, 2**31))
    table = jax.random.normal(items, (small.NUM_ITEMS + 1, 32))
    vectors = [jax.random.normal(jax.random.fold_in(users, user), (32,)) for user in range(2)]
    baseline = random(events, keys=jax.random.split) if split else random(events)
    found = small.scores(baseline, queries, context, seed=5)
    np.testing.assert_allclose(found, (np.stack(vectors) @ table.T)[:, 1:], rtol=1e-5, atol=1e-5)


def test_a_dim_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="dim=0: must be at least 1"):
        random(small.events_of([[1]]), dim=0)
