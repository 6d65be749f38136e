"""What the area per user does not depend on: any increasing function of the scores, another one a user."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxrec import metrics

FUNCTIONS = (
    lambda s: 7.0 * s - 3.0,
    lambda s: np.exp(3.0 * s),
    lambda s: -1.0 / (s + 2.0),
    lambda s: s**3 + 100.0,
)
area = jax.jit(metrics.gauc, static_argnames="weighted")


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("seed", range(10))
def test_gauc_is_unchanged_by_an_increasing_function_of_each_user(seed: int, weighted: bool) -> None:
    """f_u(s) < f_u(t) where s < t and f_u(s) = f_u(t) where s = t, so each user's pairs keep their order."""
    rng = np.random.default_rng(seed)
    n = 60
    user, label = rng.integers(0, 5, n), rng.integers(0, 2, n)
    scores = (rng.integers(0, 8, n) / 8).astype(np.float32)  # with ties
    moved = np.select([user == u for u in range(4)], [f(scores) for f in FUNCTIONS], scores)
    where = rng.random(n) < 0.9
    ours, theirs = (
        area(s.astype(np.float32), label, user, where=where, weighted=weighted) for s in (moved, scores)
    )
    assert float(ours.gauc) == pytest.approx(float(theirs.gauc), rel=1e-6, nan_ok=True)
    assert ours.num_groups == theirs.num_groups


def test_the_area_over_all_rows_is_changed_by_such_a_function() -> None:
    """Two users in perfect order: GAUC is 1. All of one above all of the other: 3 of 4 pairs are in order."""
    scores, label, user = np.array([0.1, 0.9, 0.1, 0.9]), np.array([0, 1, 0, 1]), np.array([1, 1, 2, 2])
    moved = np.where(user == 2, scores + 10.0, scores)
    for given_scores, over_all in ((scores, 1.0), (moved, 0.75)):
        assert float(area(given_scores, label, user).gauc) == 1.0
        assert float(metrics.auc(given_scores, label)) == over_all


def test_a_function_that_turns_one_user_round_is_seen() -> None:
    """(1 + 1) / 2 before, (1 + 0) / 2 with the scores of the second user negated."""
    scores, label, user = np.array([0.1, 0.9, 0.1, 0.9]), np.array([0, 1, 0, 1]), np.array([1, 1, 2, 2])
    assert float(area(np.where(user == 2, -scores, scores), label, user).gauc) == 0.5
