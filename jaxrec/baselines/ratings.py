"""Ratings predicted without gradient descent: means, and biases of users and items.

    prediction = μ + b_item + b_user, each bias a mean of residuals that is shrunk towards zero

(Koren, TiiS/KDD 2008, section 2.1, as decoupled means.) Biases of items come from the training ratings, that
of a user from the user's support, so that new users have one; what is unknown has the bias 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from jaxrec.data.tables.rating_tasks import UserTasks

Predict = Callable[[UserTasks, UserTasks, int], np.ndarray]  # (training, tasks, items) -> [T, Q]


def mean_rating(train: UserTasks, tasks: UserTasks, num_items: int) -> np.ndarray:
    """The mean training rating, whoever rates what: [T, Q]."""
    return np.full(tasks.query.shape, _ratings(train)[1].mean(), np.float32)


def user_mean(train: UserTasks, tasks: UserTasks, num_items: int) -> np.ndarray:
    """The mean of the user's support: [T, Q]."""
    real = tasks.support != 0
    mean = (tasks.support_rating * real).sum(1, dtype=np.float64) / real.sum(1)
    return np.broadcast_to(mean[:, None], tasks.query.shape).astype(np.float32)


def item_mean(train: UserTasks, tasks: UserTasks, num_items: int) -> np.ndarray:
    """The mean training rating of the item, and of all where it has none: [T, Q]."""
    return biases(train, tasks, num_items, item_shrinkage=0.0, users=False)


def biases(
    train: UserTasks,
    tasks: UserTasks,
    num_items: int,
    *,
    item_shrinkage: float = 5.0,
    user_shrinkage: float = 5.0,
    users: bool = True,
) -> np.ndarray:
    """The mean, the item's bias and the user's: [T, Q].

    item_shrinkage, user_shrinkage: ratings of the mean that are counted in with each item's and user's.
    users: False leaves the users' biases out.

    Raises:
      ValueError: a shrinkage that is negative.
    """
    for name, value in (("item_shrinkage", item_shrinkage), ("user_shrinkage", user_shrinkage)):
        if not value >= 0:
            raise ValueError(f"{name}={value}: must be 0 or more")
    item, rating = _ratings(train)
    mean = rating.mean()
    count = np.bincount(item, minlength=num_items + 1)
    total = np.bincount(item, rating - mean, minlength=num_items + 1)
    of_item = np.divide(total, count + item_shrinkage, out=np.zeros(num_items + 1), where=count > 0)
    found = mean + of_item[tasks.query]
    if users:
        real = tasks.support != 0
        residual = np.where(real, tasks.support_rating - mean - of_item[tasks.support], 0.0)
        found = found + (residual.sum(1) / (real.sum(1) + user_shrinkage))[:, None]
    return np.asarray(found, np.float32)


def _ratings(tasks: UserTasks) -> tuple[np.ndarray, np.ndarray]:
    """Items and ratings of all support and query sets."""
    item = np.concatenate([tasks.support.ravel(), tasks.query.ravel()])
    rating = np.concatenate([tasks.support_rating.ravel(), tasks.query_rating.ravel()]).astype(np.float64)
    return item[item != 0], rating[item != 0]


RATINGS: Mapping[str, Predict] = {
    "mean-rating": mean_rating,
    "user-mean": user_mean,
    "item-mean": item_mean,
    "biases": biases,
}
