"""Ratings for users whom no training saw: those of the task, and what is refused."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.data.synthetic.rated_content import rated_content
from jaxrec.data.tables.rating_tasks import make_tasks
from jaxrec.recipes.melu import ROWS, Recipe
from jaxrec.serve.cold_users import ColdUsers
from jaxrec.tasks.meta import gather
from jaxrec.types import SHARED

CONTENT = rated_content(num_users=20, num_items=24, num_ratings=12)
TASKS = make_tasks(CONTENT, "user-cold", num_query=2, least=4)
_, TASK = ROWS["melu-5"].task(CONTENT, Recipe(dim=3, hidden_dims=(4,), local_learning_rate=0.05))


@functools.cache
def variables() -> Any:
    context = {**TASKS.columns(), SHARED: CONTENT.content()}
    examples = {"example": jnp.arange(1), "mask": jnp.ones(1, bool)}
    init = jax.jit(lambda key: TASK.init(key, TASK.prepare(key, examples, context)))
    return init(jax.random.key(0))


@functools.cache
def cold() -> ColdUsers:
    return ColdUsers(TASK, variables(), CONTENT)


def described(task: int) -> tuple[dict[str, Any], dict[int, float]]:
    """A user of the tasks as raw values, and the support as raw ids with their ratings."""
    user = TASKS.user[task]
    values = {name: CONTENT.values[name][column[user] - 1].item() for name, column in CONTENT.users.items()}
    real = TASKS.support[task] != 0
    items = CONTENT.item_ids[TASKS.support[task][real] - 1].tolist()
    return values, dict(zip(items, TASKS.support_rating[task][real].tolist(), strict=True))


@pytest.mark.parametrize("task", [0, 1])
def test_ratings_are_those_of_the_task(task: int) -> None:
    user, given = described(task)
    asked = CONTENT.item_ids[TASKS.query[task] - 1].tolist()
    found = cold().rate(user, given, items=asked)
    batch = gather(TASKS.pick(np.array([task]), "").columns(), CONTENT.content())
    assert found.items.tolist() == asked
    np.testing.assert_allclose(found.rating, TASK.predict(variables(), batch)[0], rtol=1e-5)
    whole = cold().rate(user, given)
    assert whole.items.tolist() == CONTENT.item_ids.tolist()
    np.testing.assert_allclose(whole.rating[TASKS.query[task] - 1], found.rating, rtol=1e-5)


def test_ratings_change_what_is_predicted() -> None:
    user, given = described(0)
    kinder = {item: stars + 2 for item, stars in given.items()}
    assert (cold().rate(user, kinder).rating > cold().rate(user, given).rating).mean() > 0.5


def test_the_best_items_that_are_not_rated() -> None:
    user, given = described(0)
    found, whole = cold().recommend(user, given, k=5), cold().rate(user, given)
    left = [
        (-stars, item)
        for item, stars in zip(whole.items.tolist(), whole.rating.tolist(), strict=True)
        if item not in given
    ]
    assert found.items.tolist() == [item for _, item in sorted(left)[:5]]
    assert len(cold().recommend(user, given, k=100).items) == CONTENT.num_items - len(given)


def test_an_unknown_value_is_read_as_none() -> None:
    user, given = described(0)
    assert cold().encode_user({**user, "place": None})["place"].tolist() == [0, 0]
    assert np.isfinite(cold().rate({**user, "place": None}, given).rating).all()


def test_sets_of_users_are_lists() -> None:
    users = {
        **CONTENT.users,
        "likes": np.concatenate([np.zeros((1, 2), np.int32), np.ones((20, 2), np.int32)]),
    }
    values = {**CONTENT.values, "likes": np.array(["a", "b", "c"])}
    other = ColdUsers(TASK, variables(), dataclasses.replace(CONTENT, users=users, values=values))
    row = other.encode_user({"group": 1, "place": "place 2", "likes": ["b", "c", "a"]})
    assert row["likes"].tolist() == [[0, 0, 0], [2, 3, 1]]
    assert other.encode_user({"group": 1, "place": None, "likes": None})["likes"].tolist() == [[0, 0], [0, 0]]


USER, GIVEN = described(0)


@pytest.mark.parametrize(
    ("user", "given", "items", "match"),
    [
        (USER, {}, None, "ratings={}: the user has none; give at least one item"),
        (USER, {1: float("nan")}, None, "nan of item 1: must be a finite number"),
        (USER, {1: "good"}, None, "'good' of item 1"),
        (USER, {99: 3.0}, None, "ratings: the run has no item 99"),
        (USER, GIVEN, [99], "items: the run has no item 99"),
        (USER, GIVEN, [], r"items=\[\]: give at least one"),
        ({"group": 1}, GIVEN, None, "column 'place' is missing; give its value, or None"),
        ({**USER, "sex": "F"}, GIVEN, None, "unknown column 'sex'; the content has group, place"),
        (
            {**USER, "place": "place 9"},
            GIVEN,
            None,
            "place='place 9': unknown; the nearest of 8 values is 'place",
        ),
    ],
)
def test_bad_questions_are_refused(user: Any, given: Any, items: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        cold().rate(user, given, items=items)


def test_damaged_parameters_and_lists_without_items_are_refused() -> None:
    damaged = jax.tree.map(lambda leaf: leaf * jnp.nan, variables())
    with pytest.raises(ValueError, match="a predicted rating is NaN or infinite"):
        ColdUsers(TASK, damaged, CONTENT).rate(USER, GIVEN)
    with pytest.raises(ValueError, match="k=0: must be at least 1"):
        cold().recommend(USER, GIVEN, k=0)
