"""Ratings for a user whom no training saw, from what is known of the user and a few ratings of theirs.

    cold = ColdUsers(task, variables, content)
    cold.rate({"gender": "F", "age": 25, …}, {1193: 5.0, 661: 3.0})       all items
    cold.recommend({"gender": "F", …}, {1193: 5.0, 661: 3.0}, k=10)       the best that are not rated

The task is one of `tasks.meta`: it adapts its decision layers to the given ratings and predicts those of the
items, in one program for up to twice as many ratings as were asked before.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrec.data.tables.rating_tasks import RatedContent
from jaxrec.serve.ids import Ids
from jaxrec.serve.queries import power_of_two
from jaxrec.tasks.meta import gather
from jaxrec.types import Array, Task, Variables


class Rated(NamedTuple):
    """Items by raw id, and their predicted ratings, in stars, float32 [I]."""

    items: np.ndarray
    rating: np.ndarray


class ColdUsers:
    """A trained model of content that answers for new users.

    task: of `tasks.meta.meta`. variables: of one seed, such as Fitted.variables without their leading axis.
    content: whose items are rated, and whose raw values users are described by.
    """

    def __init__(self, task: Task, variables: Variables, content: RatedContent) -> None:
        self.content = content
        self._variables = jax.device_put(dict(variables))
        self._items = jax.device_put(dict(content.items))

        def predict(variables: Variables, items: Any, users: Any, columns: Mapping[str, Array]) -> Array:
            return task.predict(variables, gather(columns, {"items": items, "users": users}))[0]

        self._predict = jax.jit(predict)

    def rate(
        self, user: Mapping[str, Any], ratings: Mapping[Any, float], *, items: Sequence[Any] | None = None
    ) -> Rated:
        """Predicted ratings of items.

        Args:
          user: {column: raw value}, a list of them for a column of sets; None is an unknown value, which
            the model reads as no value.
          ratings: {raw item id: stars}, at least one.
          items: raw ids; None: all, in the order of the content.

        Raises:
          ValueError: a column that is missing or unknown, an unknown value or item, no rating, or one that is
            not finite; a prediction that is not finite.
        """
        users = self.encode_user(user)
        known, stars = self._ratings(ratings)
        ids = np.arange(1, self.content.num_items + 1)
        asked = ids if items is None else self._known(list(items), "items")
        if not len(asked):
            raise ValueError("items=[]: give at least one, or None for all")
        width = power_of_two(len(known))
        pad = (width - len(known), 0)
        columns = {
            "user": np.ones(1, np.int32),
            "support": np.pad(known, pad)[None],
            "support_rating": np.pad(stars, pad)[None],
            "query": np.pad(asked, (power_of_two(len(asked)) - len(asked), 0)).astype(np.int32)[None],
        }
        columns["query_rating"] = np.zeros(columns["query"].shape, np.float32)
        predicted = np.asarray(self._predict(self._variables, self._items, users, columns))[-len(asked) :]
        if not np.isfinite(predicted).all():
            raise ValueError("a predicted rating is NaN or infinite: the parameters are damaged")
        return Rated(self.content.item_ids[asked - 1], predicted)

    def recommend(self, user: Mapping[str, Any], ratings: Mapping[Any, float], *, k: int = 10) -> Rated:
        """The k items of the highest predicted rating among those that the user has not rated.

        Of equal predictions the first item comes first. Fewer than k where there are no more.

        Raises:
          ValueError: k < 1; as `rate`.
        """
        if k < 1:
            raise ValueError(f"k={k}: must be at least 1")
        found = self.rate(user, ratings)
        rated = self._known(list(ratings), "ratings") - 1
        order = np.argsort(-found.rating, kind="stable")
        order = order[~np.isin(order, rated)][:k]
        return Rated(found.items[order], found.rating[order])

    def encode_user(self, user: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The content columns of one user behind the padding's row, [2(, A)]; raises as `rate`."""
        wanted = self.content.users
        for name in (*wanted, *user):
            if name not in user:
                raise ValueError(
                    f"user: column {name!r} is missing; give its value, or None if it is unknown"
                )
            if name not in wanted:
                raise ValueError(f"user: unknown column {name!r}; the content has {', '.join(wanted)}")
        found = {}
        for name, column in wanted.items():
            value = user[name]
            if column.ndim == 1:
                found[name] = np.array([0, self._value(name, value)], np.int32)
                continue
            values = [] if value is None else [self._value(name, one) for one in value]
            row = np.zeros((2, max(column.shape[1], len(values))), np.int32)
            row[1, row.shape[1] - len(values) :] = values
            found[name] = row
        return found

    def _value(self, name: str, value: Any) -> int:
        if value is None:
            return 0
        raw = self.content.values[name].tolist()
        if value not in raw:
            texts = [str(one) for one in raw]
            near = difflib.get_close_matches(str(value), texts, n=1, cutoff=0.0)
            raise ValueError(
                f"user: {name}={value!r}: unknown; the nearest of {len(raw):,} values is {near[0]!r}; give "
                "None where it is not known"
            )
        return raw.index(value) + 1

    def _ratings(self, ratings: Mapping[Any, float]) -> tuple[np.ndarray, np.ndarray]:
        if not ratings:
            raise ValueError("ratings={}: the user has none; give at least one item with its rating")
        for item, stars in ratings.items():
            if (
                isinstance(stars, bool)
                or not isinstance(stars, (int, float, np.number))
                or not math.isfinite(stars)
            ):
                raise ValueError(f"ratings: {stars!r} of item {item!r}: must be a finite number")
        return self._known(list(ratings), "ratings"), np.array(list(ratings.values()), np.float32)

    def _known(self, items: list[Any], where: str) -> np.ndarray:
        return Ids("item", self.content.item_ids).known(items, where)
