"""ItemCF, ETREC, P3alpha, RP3beta, Swing and co-visitation against their formulas, written out."""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings

from jaxrec.baselines import (
    co_visitation,
    etrec,
    item_cf,
    p3alpha,
    rp3beta,
    swing,
)
from jaxrec.baselines.matrix import interactions, last_events
from jaxrec.baselines.rp3beta import walk_weights
from jaxrec.baselines.similarity import asymmetric_cosine, jaccard
from jaxrec.baselines.swing import swing_weights
from tests.baselines import small
from tests.baselines.small import NUM_ITEMS
from tests.baselines.test_matrix_knn import ROWS, indicators, keep

HISTORIES = [[1, 4], [5], [], [2, 2, 7]]
Rows = list[list[int]]


def rows_of(baseline: Any) -> np.ndarray:
    """Scores after each item alone, which are its row of weights."""
    queries, context = small.histories([[item] for item in range(1, NUM_ITEMS + 1)])
    return small.scores(baseline, queries, context)


def pair_sums(rows: Rows, weight: Callable[[list[int]], float]) -> np.ndarray:
    """Σ weight(user) over the users that have both of two items; 0 on the diagonal."""
    found = np.zeros((NUM_ITEMS, NUM_ITEMS))
    for row in rows:
        for i, j in itertools.permutations(set(row), 2):
            found[i - 1, j - 1] += weight(sorted(set(row)))
    return found


def count(rows: Rows) -> np.ndarray:
    return np.maximum(indicators(rows).sum(axis=0), 1)


@pytest.mark.parametrize("neighbours", [2, None])
@pytest.mark.parametrize("iuf", [False, True])
def test_item_cf(iuf: bool, neighbours: int | None) -> None:
    both = pair_sums(ROWS, lambda row: 1 / np.log(1 + len(row)) if iuf else 1.0)
    n = count(ROWS)
    expected = both / (n[:, None] ** 0.7 * n**0.3) * both / (both + 0.5)
    options: Any = {"alpha": 0.3, "shrinkage": 0.5, "inverse_user_frequency": iuf}
    made = item_cf(small.events_of(ROWS), **options, neighbours=neighbours)
    np.testing.assert_allclose(rows_of(made), keep(expected, neighbours or NUM_ITEMS), rtol=1e-5)
    assert made.name == ("item-cf-iuf" if iuf else "item-cf")


def test_item_cf_reads_the_last_items_of_a_user() -> None:
    rows = [[1, 2, 3, 1], [4, 5, 6], [2]]
    capped = [[3, 1], [5, 6], [2]]
    found, expected = (
        rows_of(item_cf(small.events_of(of), max_items=number)) for of, number in ((rows, 2), (capped, None))
    )
    np.testing.assert_array_equal(found, expected)
    assert found.any()
    np.testing.assert_array_equal(last_events(small.events_of(rows), 2).item, [3, 1, 5, 6, 2])


def test_the_weight_of_a_user_of_everything_tends_to_nothing() -> None:
    def both(number: int) -> float:
        events = small.events_of([list(range(1, number + 1))], num_items=number)
        made = item_cf(events, max_items=None, inverse_user_frequency=True)
        return float(made.variables["weight"].max())

    assert 0.1 < both(1000) < both(10) < both(2) == pytest.approx(1 / np.log(3))


@pytest.mark.parametrize("user_weight", [False, True])
def test_etrec(user_weight: bool) -> None:
    """The user of a single item is left out, and so is that of four."""
    kept = [row for row in ROWS if 2 <= len(set(row)) <= 3]

    def weight(row: list[int]) -> float:
        return float(1 / np.log2(1 + len(row))) if user_weight else 1.0

    both, x = pair_sums(kept, weight), indicators(kept)
    alone = x.T @ np.array([weight(sorted(set(row))) for row in kept])
    norm = np.sqrt(np.outer(alone, alone))
    expected = np.divide(both, norm, out=np.zeros_like(both), where=norm > 0) ** 2
    found = rows_of(etrec(small.events_of(ROWS), user_weight=user_weight, power=2.0, max_items=3))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_etrec_with_asymmetric_cosine(alpha: float) -> None:
    """At α = 1 the share of the users of i that have j."""
    rows = [row for row in ROWS if len(set(row)) > 1]
    n = count(rows)
    similarity = functools.partial(asymmetric_cosine, alpha=alpha)
    found = rows_of(etrec(small.events_of(ROWS), similarity=similarity))
    np.testing.assert_allclose(
        found, pair_sums(rows, lambda row: 1.0) / (n[:, None] ** alpha * n ** (1 - alpha)), rtol=1e-5
    )


def test_etrec_reads_sets() -> None:
    """The order of a user's events and repeats do not matter, nor does the order of users."""
    mixed = [[5], [2, 5, 1, 3], [6, 4, 2, 1, 1], [5, 6, 6], [4, 3, 2], [3, 1, 2]]
    for similarity in (jaccard, asymmetric_cosine):
        np.testing.assert_array_equal(
            *(rows_of(etrec(small.events_of(rows), similarity=similarity)) for rows in (ROWS, mixed))
        )


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (0.7, 0.3)])
def test_rp3beta(alpha: float, beta: float) -> None:
    x = indicators(ROWS)
    n = count(ROWS)
    reached = ((x.T / n[:, None]) ** alpha) @ ((x / x.sum(axis=1, keepdims=True)) ** alpha) / n**beta
    np.fill_diagonal(reached, 0)
    found = rows_of(rp3beta(small.events_of(ROWS), alpha=alpha, beta=beta, neighbours=3))
    np.testing.assert_allclose(found, keep(reached, 3), rtol=1e-5)
    divided = rows_of(rp3beta(small.events_of(ROWS), alpha=alpha, beta=beta, neighbours=3, normalise=True))
    np.testing.assert_allclose(divided, found / np.maximum(found.sum(axis=1, keepdims=True), 1e-9), rtol=1e-5)
    if beta == 0:
        np.testing.assert_array_equal(
            rows_of(p3alpha(small.events_of(ROWS), alpha=alpha, neighbours=3)), found
        )


def test_rp3beta_cut_on_both_sides() -> None:
    rows = rows_of(rp3beta(small.events_of(ROWS), neighbours=2))
    cut = rows_of(rp3beta(small.events_of(ROWS), neighbours=2, cut_columns=True))
    np.testing.assert_array_equal(cut, keep(rows.T, 2).T)
    assert (cut != rows).any()


@settings(max_examples=30, deadline=None)
@given(small.GROUPS)
def test_a_walk_ends_somewhere(rows: Rows) -> None:
    """The probabilities of all items and of coming back add up to 1, for items that anybody has."""
    x = indicators(rows)
    away = walk_weights(
        scipy.sparse.csr_matrix(x.astype(np.float32)), alpha=1.0, beta=0.0, neighbours=None
    ).toarray()
    back = ((x / count(rows)) * (x / x.sum(axis=1, keepdims=True))).sum(axis=0)
    np.testing.assert_allclose(away.sum(axis=1) + back, (x.sum(axis=0) > 0).astype(float), atol=1e-6)


def swings(rows: Rows, alpha: float, weight: Callable[[int], float]) -> np.ndarray:
    """By the double loop over users."""
    found = np.zeros((NUM_ITEMS, NUM_ITEMS))
    for first, second in itertools.combinations([set(row) for row in rows], 2):
        value = weight(len(first)) * weight(len(second)) / (alpha + len(first & second) or 1)
        for i, j in itertools.permutations(first & second, 2):
            found[i - 1, j - 1] += value
    return found


@settings(max_examples=40, deadline=None)
@given(small.GROUPS)
def test_swing_equals_the_loop_over_pairs_of_users(rows: Rows) -> None:
    users = interactions(small.events_of(rows))
    found = swing_weights(users, alpha=0.7, power=0.3, offset=2.0).toarray()[1:, 1:]
    np.testing.assert_allclose(found, swings(rows, 0.7, lambda n: (2.0 + n) ** -0.3), rtol=1e-5)
    np.testing.assert_array_equal(found, found.T)


def test_swing_by_hand() -> None:
    """Users A and B share four items, C has two of these; items 1 = h, 2 = p, 3 = t, 4 = r."""
    rows = [[1, 2, 3, 4], [3, 4, 2, 1, 1], [1, 2]]
    found = rows_of(swing(small.events_of(rows), power=0.0))
    assert found[0, 1] == pytest.approx(1 / 5 + 1 / 3 + 1 / 3)
    np.testing.assert_allclose(found[0, 2:4], 1 / 5, rtol=1e-6)
    shared_more = [[1, 2, 3, 4, 5], [3, 4, 2, 1, 5], [1, 2]]
    assert rows_of(swing(small.events_of(shared_more), power=0.0))[0, 2] == pytest.approx(1 / 6)
    damped = rows_of(swing(small.events_of(rows), power=0.0, alpha=2.0))
    assert (damped <= found).all()


def test_swing_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    users = interactions(small.events_of(ROWS * 3))
    whole = swing_weights(users, alpha=1.0, power=0.5).toarray()
    monkeypatch.setattr(sys.modules[swing_weights.__module__], "BLOCK", 5)
    np.testing.assert_allclose(swing_weights(users, alpha=1.0, power=0.5).toarray(), whole, rtol=1e-6)


def test_swing_leaves_out_users_by_their_number_of_items() -> None:
    found = rows_of(swing(small.events_of([*ROWS, [1, 2, 3], [5]]), min_items=2, max_items=3))
    expected = swings([row for row in [*ROWS, [1, 2, 3]] if 2 <= len(set(row)) <= 3], 1.0, lambda n: n**-0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found.any()


def co_visits(rows: Rows, window: int, forward: bool, backward: bool) -> np.ndarray:
    found = np.zeros((NUM_ITEMS, NUM_ITEMS))
    for row in rows:
        for p, q in itertools.combinations(range(len(row)), 2):
            if row[p] != row[q] and q - p <= window:
                found[row[p] - 1, row[q] - 1] += forward / (q - p)
                found[row[q] - 1, row[p] - 1] += backward / (q - p)
    return found


@settings(max_examples=40, deadline=None)
@given(small.GROUPS, small.HISTORIES)
def test_co_visitation(rows: Rows, histories: Rows) -> None:
    """The last three events of a history, weighted 1, 1/2 and 1/3."""
    baseline = co_visitation(small.events_of(rows), history=3)
    counts = co_visits(rows, 99, True, True)
    for history, row in zip(histories, small.scores_after(baseline, histories), strict=True):
        recent = list(enumerate(reversed(history)))[:3]
        expected = sum((counts[item - 1] / (1 + r) for r, item in recent), np.zeros(NUM_ITEMS))
        np.testing.assert_allclose(row, expected, rtol=1e-5)


@pytest.mark.parametrize(("forward", "backward"), [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("window", [1, 2])
def test_window_and_direction_of_co_visitation(window: int, forward: bool, backward: bool) -> None:
    found = rows_of(co_visitation(small.events_of(ROWS), window=window, forward=forward, backward=backward))
    np.testing.assert_allclose(found, co_visits(ROWS, window, forward, backward), rtol=1e-6)
    kept = co_visitation(small.events_of(ROWS), window=window, neighbours=1)
    np.testing.assert_allclose(rows_of(kept), keep(co_visits(ROWS, window, True, True), 1), rtol=1e-6)


def test_co_visitation_with_weights_of_its_own() -> None:
    baseline = co_visitation(
        small.events_of([[1, 2, 3]]), decay=lambda d: 0.5**d, recency=lambda r: 0.1**r, backward=False
    )
    (found,) = small.scores_after(baseline, [[2, 1]])
    np.testing.assert_allclose(found, [0, 0.5, 0.25 + 0.05, 0, 0, 0, 0], rtol=1e-6)


def test_co_visitation_counts_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = rows_of(co_visitation(small.events_of(ROWS)))
    monkeypatch.setattr(sys.modules[co_visitation.__module__], "BLOCK", 3)
    np.testing.assert_allclose(rows_of(co_visitation(small.events_of(ROWS))), whole, rtol=1e-6)


@pytest.mark.parametrize("make", [item_cf, etrec, p3alpha, rp3beta, swing, co_visitation])
def test_scores_are_sums_over_the_history(make: Any) -> None:
    """Item 7, which is in no training sequence, neither scores nor is scored."""
    baseline = make(small.events_of(ROWS))
    alone, found = rows_of(baseline), small.scores_after(baseline, HISTORIES)
    first = [1.0, 1.0] if make is not co_visitation else [1.0, 0.5]
    np.testing.assert_allclose(found[0], first[0] * alone[3] + first[1] * alone[0], rtol=1e-5)
    np.testing.assert_array_equal(found[1], alone[4])
    np.testing.assert_array_equal(found[2], np.zeros(NUM_ITEMS))
    assert not found[:, 6].any()
    assert found[0].any()


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        *((make, {"neighbours": 0}, "neighbours=0: must be at least 1")
          for make in (item_cf, etrec, p3alpha, rp3beta, swing, co_visitation)),
        (item_cf, {"alpha": 1.1}, "alpha=1.1: must lie in 0..1"),
        (item_cf, {"alpha": float("nan")}, "alpha=nan: must lie in 0..1"),
        (item_cf, {"shrinkage": -1.0}, "shrinkage=-1.0: must be 0 or more"),
        (item_cf, {"max_items": 0}, "max_items=0: must be at least 1"),
        (etrec, {"power": 0.0}, "power=0.0: must be a positive number"),
        (etrec, {"min_items": 0}, "min_items=0: must be at least 1"),
        (etrec, {"max_items": 1}, "max_items=1: must be at least min_items=2"),
        (etrec, {"min_items": 9}, "min_items=9, max_items=500: no user has as many items; widen them"),
        (rp3beta, {"alpha": 0.0}, "alpha=0.0: must be a positive number"),
        (rp3beta, {"beta": float("nan")}, "beta=nan: must be a number"),
        (swing, {"alpha": -1.0}, "alpha=-1.0: must be 0 or more"),
        (swing, {"power": float("nan")}, "power=nan: must be 0 or more"),
        (co_visitation, {"window": 0}, "window=0: must be at least 1"),
        (co_visitation, {"history": 0}, "history=0: must be at least 1"),
        (co_visitation, {"forward": False, "backward": False}, "no pair would count"),
        (co_visitation, {"decay": lambda d: -1.0 * d}, "decay: gives -.*: must be 0 or more everywhere"),
        (co_visitation, {"recency": lambda r: r / np.float64(0.0)}, "recency: gives .*: must be 0 or more"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:(divide|invalid)")
def test_wrong_settings_are_refused(make: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(small.events_of(ROWS), **settings)
