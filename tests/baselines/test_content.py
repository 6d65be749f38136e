"""Methods that read content: cosines to the history, and a linear map to vectors of a factor model."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from jaxrec.baselines import content_knn, content_ridge, ials, linear_prior
from jaxrec.baselines.als import Penalty, alternating
from jaxrec.baselines.als_layout import Pairs
from jaxrec.data.events.training_events import TrainingEvents
from jaxrec.optim.least_squares import Blocks, Exact
from tests.baselines.small import histories

RNG = np.random.default_rng(0)


def test_content_knn_sums_cosines_over_the_history() -> None:
    vectors = RNG.normal(size=(8, 3))
    vectors[[0, 4]] = 0
    made = content_knn(vectors)
    rows = [[1, 2, 2, 7], [], [4], [3, 4]]
    queries, context = histories(rows)
    model: Any = made.model
    scores = model.query(made.variables, queries, context) @ model.items(made.variables).T
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    expected = [sum((unit[i] @ unit.T for i in row), np.zeros(8)) for row in rows]
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("damping", [0.0, 2.0])
def test_the_ridge_map_is_the_least_squares_solution(damping: float) -> None:
    warm, count = np.arange(1, 21), RNG.integers(1, 9, 26).astype(np.float32)
    count[[0, *range(21, 26)]] = 0
    content, items = RNG.normal(size=(26, 4)), RNG.normal(size=(26, 3))
    items[count == 0] = 0
    factors: Any = {
        "item_content": content.astype(np.float32), "item_teacher": items.astype(np.float32),
        "user_teacher": np.ones((3, 3), np.float32), "warm_items": warm, "item_count": count,
    }  # fmt: skip
    found: Any = content_ridge(factors, regularisation=2.0, damping=damping).variables["items"]
    weight = np.sqrt(count[warm] / (count[warm] + damping))[:, None]
    rows = np.concatenate([content[warm], np.ones((20, 1))], axis=1)
    ridge = np.sqrt(2.0) * np.eye(5)[:4]  # none on the constant
    stacked = np.concatenate([weight * rows, ridge]), np.concatenate([weight * items[warm], np.zeros((4, 3))])
    solution = np.linalg.lstsq(*stacked, rcond=None)[0]
    expected = np.concatenate([content, np.ones((26, 1))], axis=1) @ solution
    np.testing.assert_allclose(found[21:], expected[21:], atol=1e-5)
    np.testing.assert_array_equal(found[warm], factors["item_teacher"][warm])
    assert not np.asarray(found)[0].any()


# --- a linear prior inside iALS ------------------------------------------------------------------------

USERS, ITEMS, DIM = 30, 16, 4
COLD = 14  # the first item without an event
PAIRS = np.unique(np.stack([RNG.integers(0, USERS, 250), RNG.integers(1, COLD, 250)], axis=1), axis=0)
EVENTS = TrainingEvents(PAIRS[:, 0], PAIRS[:, 1], ITEMS)
CONTENT = np.concatenate([np.zeros((1, 3)), RNG.normal(size=(ITEMS, 3))])
SETTINGS: Any = {"dim": DIM, "regularisation": 0.05, "alpha0": 0.2, "nu": 0.7, "seed": 3, "stddev": 0.5}


def tables(made: Any) -> tuple[np.ndarray, np.ndarray]:
    users, items = (np.asarray(made.variables[name], np.float64) for name in ("users", "items"))
    return users[1:], items[1:]


def ridges() -> tuple[np.ndarray, np.ndarray]:
    """λ of each user and of each item."""
    counts = [np.bincount(PAIRS[:, 0], minlength=USERS), np.bincount(PAIRS[:, 1] - 1, minlength=ITEMS)]
    others = ITEMS, USERS
    return tuple(0.05 * (n + 0.2 * m) ** 0.7 for n, m in zip(counts, others, strict=True))  # type: ignore[return-value]


def prior_loss(users: np.ndarray, items: np.ndarray, strength: float) -> float:
    """The loss at the best map for these vectors, by the formula."""
    warm, (of_users, of_items) = slice(0, COLD - 1), ridges()
    given, vectors, weight = CONTENT[1:][warm], items[warm], of_items[warm]
    matrix = np.linalg.solve(
        given.T @ (weight[:, None] * given) + strength * np.eye(3), given.T @ (weight[:, None] * vectors)
    )
    scores = users @ items[warm].T
    observed = scores[PAIRS[:, 0], PAIRS[:, 1] - 1]
    rest = weight @ np.sum((vectors - given @ matrix) ** 2, axis=1) + strength * np.sum(matrix**2)
    return float(
        np.sum((observed - 1) ** 2) + 0.2 * np.sum(scores**2) + of_users @ np.sum(users**2, axis=1) + rest
    )


def test_no_epoch_of_a_linear_prior_raises_the_loss() -> None:
    found = [
        prior_loss(
            *tables(linear_prior(EVENTS, CONTENT, prior_regularisation=0.5, epochs=n, **SETTINGS)), 0.5
        )
        for n in (1, 2, 4, 9)
    ]
    assert all(later <= before * (1 + 1e-5) for before, later in itertools.pairwise(found))


@pytest.mark.parametrize("number", [1, 9])
def test_an_item_is_solved_towards_its_prior(number: int) -> None:
    """Items of few pairs, in the space of these, and of many; and one without any, which is shrunk."""
    users, items = (RNG.normal(size=(n, DIM)).astype(np.float32) for n in (USERS, ITEMS))
    pairs = Pairs(np.arange(number), np.full(number, 4))
    penalty = Penalty(0.05, 0.2, 0.7)
    als = alternating(pairs, USERS, ITEMS, penalty=penalty, solver=Exact())
    means = RNG.normal(size=(ITEMS, DIM)).astype(np.float32)
    found = np.asarray(als.finish(als.toward(als.start(users, items), means))[1])[4]
    users[number:] = 0  # users without pairs have none
    ridge = 0.05 * (number + 0.2 * USERS) ** 0.7
    normal = users[:number].T @ users[:number] + 0.2 * users.T @ users + ridge * np.eye(DIM)
    expected = np.linalg.solve(normal, users[:number].sum(axis=0) + ridge * means[4])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    blocks = alternating(pairs, USERS, ITEMS, penalty=penalty, solver=Blocks(2))
    with pytest.raises(ValueError, match=r"solver=.*: must be Exact\(\)"):
        blocks.toward(blocks.start(users, items), means)


def test_without_content_the_prior_is_that_of_ials() -> None:
    ours = linear_prior(EVENTS, np.zeros((ITEMS + 1, 2)), epochs=3, **SETTINGS)
    theirs = ials(EVENTS, epochs=3, **SETTINGS)
    for a, b in zip(tables(ours), tables(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_a_new_item_has_the_vector_of_the_loss_without_pairs() -> None:
    made = linear_prior(EVENTS, CONTENT, prior_regularisation=1e-6, epochs=6, **SETTINGS)
    users, items = tables(made)
    (_, ridge), warm = ridges(), slice(0, COLD - 1)
    weight = ridge[warm, None]
    matrix = np.linalg.solve(
        CONTENT[1:][warm].T @ (weight * CONTENT[1:][warm]), CONTENT[1:][warm].T @ (weight * items[warm])
    )
    own = ridge[COLD - 1]
    expected = np.linalg.solve(
        0.2 * users.T @ users + own * np.eye(DIM), own * (CONTENT[COLD:] @ matrix).T
    ).T  # fmt: skip
    np.testing.assert_allclose(items[COLD - 1 :], expected, rtol=1e-3, atol=1e-4)
    assert not np.allclose(items[COLD - 1 :], CONTENT[COLD:] @ matrix, rtol=0.05)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: content_knn(np.ones(3)), r"vectors: shape \(3,\)"),
        (lambda: content_knn(np.ones((3, 2))), "row 0 is padding"),
        (lambda: content_knn(np.array([[0.0], [1.0], [np.nan]])), "that of item 2 is not finite"),
        (lambda: linear_prior(EVENTS, CONTENT[:3]), r"content: \[3, 3\], expected finite numbers \[17, fea"),
        (lambda: linear_prior(EVENTS, CONTENT, prior_regularisation=0.0), r"prior_regularisation=0\.0"),
        (lambda: linear_prior(EVENTS, CONTENT, epochs=0), "epochs=0: must be at least 1"),
        (lambda: content_ridge({}), "item_content: there is none"),
        (lambda: content_ridge({"item_content": np.ones((2, 1))}, regularisation=0.0), "regularisation=0.0"),
        (lambda: content_ridge({"item_content": np.ones((2, 1))}, damping=-1.0), "damping=-1.0"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
