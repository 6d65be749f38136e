"""Matrix factorisation with biases: the half-steps of NumPy, its invariants, and what is predicted."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from jaxrec.baselines import biased_mf
from jaxrec.data.events.ratings import Ratings

USERS, ITEMS, DIM, PENALTY = 7, 6, 2, 0.3
RNG = np.random.default_rng(0)
USER, ITEM = (part.astype(np.int32) + 1 for part in np.nonzero(RNG.random((USERS - 1, ITEMS - 1)) < 0.6))
VALUE = RNG.integers(1, 6, len(USER)).astype(np.float32)  # the last user and the last item have none
RATINGS = Ratings(USER, ITEM, VALUE, USERS, ITEMS)


def fitted(ratings: Ratings = RATINGS, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of users and items."""
    given: dict[str, Any] = {"dim": DIM, "regularisation": PENALTY, "epochs": 3, **options}
    variables = biased_mf(ratings, **given).variables
    return np.asarray(variables["users"]), np.asarray(variables["items"])


def objective(users: np.ndarray, items: np.ndarray) -> float:
    """The sum of the article: vectors are p, 1, μ + b of users and q, b, 1 of items."""
    error = VALUE - (users[USER] * items[ITEM]).sum(axis=1)
    bias = users[USER, -1] - VALUE.mean()
    squares = (users[USER, :-2] ** 2).sum(axis=1) + (items[ITEM, :-1] ** 2).sum(axis=1) + bias**2
    return float((error**2 + PENALTY * squares).sum())


def test_an_epoch_is_that_of_numpy() -> None:
    """Items after an epoch are the ridge regressions on the users' vectors, and users those before them."""
    users, items = fitted(epochs=3)
    for item in range(1, ITEMS):
        rated = np.equal(ITEM, item)
        features = np.c_[users[USER[rated], :-2], np.ones(rated.sum())]
        response = VALUE[rated] - users[USER[rated], -1]
        ridge = PENALTY * rated.sum() * np.eye(DIM + 1)
        wanted = np.linalg.solve(features.T @ features + ridge, features.T @ response)
        np.testing.assert_allclose(items[item, :-1], wanted, rtol=1e-3, atol=1e-4)
    before = fitted(epochs=2)[1]
    for user in range(1, USERS):
        rated = np.equal(USER, user)
        features = before[ITEM[rated]][:, [*range(DIM), -1]]
        response = VALUE[rated] - VALUE.mean() - before[ITEM[rated], -2]
        ridge = PENALTY * rated.sum() * np.eye(DIM + 1)
        wanted = np.linalg.solve(features.T @ features + ridge, features.T @ response)
        found = np.r_[users[user, :-2], users[user, -1] - VALUE.mean()]
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)


def test_a_fit_is_the_same_with_64_bits() -> None:
    """With 64 bits another start is drawn; without vectors there is none."""
    with jax.enable_x64(True):
        wide = fitted(dim=0), fitted()
    assert all(table.dtype == np.float32 for tables in wide for table in tables)
    for found, wanted in zip(wide[0], fitted(dim=0), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_epochs_lower_the_sum() -> None:
    sums = [objective(*fitted(epochs=epochs)) for epochs in (1, 2, 4, 16)]
    assert sums == sorted(sums, reverse=True)
    assert sums[0] > sums[-1]


def test_biases_alone_fit_sums_of_biases() -> None:
    of_users, of_items = np.arange(1.0, USERS + 1), np.array([0.0, 2, -1, 3, 1, 5])
    user, item = (part.reshape(-1) for part in np.meshgrid(np.arange(USERS), np.arange(ITEMS)))
    value = (of_users[user] + of_items[item]).astype(np.float32)
    ratings = Ratings(user.astype(np.int32) + 1, item.astype(np.int32) + 1, value, USERS, ITEMS)
    users, items = fitted(ratings, dim=0, regularisation=1e-7, epochs=50)
    np.testing.assert_allclose((users[ratings.user] * items[ratings.item]).sum(axis=1), value, atol=1e-4)
    assert biased_mf(ratings, dim=0).name == "biases"


def test_a_constant_moves_the_mean_alone() -> None:
    users, items = fitted()
    moved_users, moved_items = fitted(RATINGS._replace(value=VALUE + 10))
    np.testing.assert_allclose(moved_items, items, atol=1e-4)
    np.testing.assert_allclose(moved_users[1:] - users[1:], [[0] * (DIM + 1) + [10]] * USERS, atol=1e-4)


def test_what_has_no_rating_is_the_mean() -> None:
    users, items = fitted()
    np.testing.assert_allclose(users[USERS] @ items[ITEMS], VALUE.mean(), rtol=1e-6)
    np.testing.assert_allclose(users[USERS] @ items[1], VALUE.mean() + items[1, -2], rtol=1e-5)
    assert not users[0].any() and not items[0].any()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"dim": -1}, "dim=-1: must be at least 0"),
        ({"epochs": 0}, "epochs=0: must be at least 1"),
        ({"regularisation": 0.0}, "regularisation=0.0: must be above 0 and finite"),
        ({"stddev": float("nan")}, "stddev=nan: must be above 0 and finite"),
    ],
)
def test_wrong_settings_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        fitted(**options)
