"""Losses of clicks, dislikes and items shown in vain: by formula, and what is drawn for a step."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.nn.retrieval.mf import MF
from jaxrec.tasks import pairs
from jaxrec.tasks.feedback_pairs import feedback_pairs
from tests.nn.drawn import drawn
from tests.tasks import small_pairs
from tests.tasks.small_pairs import NUM_ITEMS, NUM_USERS, PAIRS

MODEL = MF(NUM_USERS, NUM_ITEMS, 3)
TASK = feedback_pairs(MODEL, sampler=pairs.uniform(NUM_ITEMS), negatives=2)
DISLIKED = {1: (2, 8), 4: (6,)}  # by user, from 0
SHOWN = {0: (7,), 4: (1, 9, 3)}
SOME = tuple(range(len(PAIRS)))


def context() -> dict[str, Any]:
    found = dict(small_pairs.context())
    for name, lists in (("disliked", DISLIKED), ("shown", SHOWN)):
        length = np.array([len(lists.get(user, ())) for user in range(NUM_USERS)], np.int32)
        items = [item for user in range(NUM_USERS) for item in lists.get(user, ())]
        found |= {name: jnp.array(items), f"{name}_length": jnp.asarray(length)}
        found[f"{name}_start"] = jnp.asarray(np.cumsum(length) - length)
    return found


@functools.cache
def batch(seed: int = 0) -> dict[str, Any]:
    prepare = jax.jit(TASK.prepare)
    return dict(prepare(jax.random.key(seed), small_pairs.examples(*SOME, last=False), context()))


def test_an_item_of_each_list_is_drawn_for_every_pair() -> None:
    met: dict[str, set[tuple[int, int]]] = {"disliked": set(), "shown": set()}
    for seed in range(20):
        for name, seen in met.items():
            drawn_items = np.asarray(batch(seed)[name]).tolist()
            seen |= {(user, item) for (user, _), item in zip(PAIRS, drawn_items, strict=True)}
    users = {user for user, _ in PAIRS}
    for name, lists in (("disliked", DISLIKED), ("shown", SHOWN)):
        assert met[name] == {(user, item) for user in users for item in lists.get(user, (0,))}


def test_losses_are_those_of_the_formula() -> None:
    made = batch()
    variables = drawn(MODEL, np.array([1]), np.array([[1]]), {}, train=False)
    found, _ = jax.jit(TASK.losses)(variables, made, jax.random.key(1))
    users, items = (np.asarray(variables["params"][f"{side}_embedding"]) for side in ("user", "item"))

    def softplus(user: Any, item: Any, sign: float = 1.0) -> Any:
        return np.logaddexp(0, sign * np.sum(users[user] * items[item], axis=-1))

    user, real = np.asarray(made["user"]), np.asarray(made["mask"])
    clicked = softplus(user, np.asarray(made["item"]), -1.0)
    clicked += softplus(user[:, None], np.asarray(made["negatives"])).sum(axis=1)
    expected = {"clicked": clicked}
    for name in ("disliked", "shown"):
        item = np.asarray(made[name])
        expected[name] = np.where(item > 0, softplus(user, item), 0.0)
    assert not real[-1] and set(found) == set(expected)
    for name, each in expected.items():
        np.testing.assert_allclose(found[name], each[real].mean(), rtol=1e-5)


def test_devices_share_a_loss() -> None:
    variables = drawn(MODEL, np.array([1]), np.array([[1]]), {}, train=False)
    made = {name: column for name, column in batch().items() if name != "shared"}

    def one(part: Any) -> Any:
        return TASK.losses(variables, {**part, "shared": {}}, jax.random.key(1), "devices")[0]

    size = len(PAIRS) // 2
    even = jax.tree.map(lambda x: x[: 2 * size].reshape(2, size, *x.shape[1:]), made)
    whole, _ = TASK.losses(
        variables, {**jax.tree.map(lambda x: x[: 2 * size], made), "shared": {}}, jax.random.key(1)
    )
    parts = jax.vmap(one, axis_name="devices")(even)
    for name, value in whole.items():
        np.testing.assert_allclose(np.sum(parts[name]), value, rtol=1e-5)


def test_no_negative_is_refused() -> None:
    with pytest.raises(ValueError, match="negatives=0: must be at least 1"):
        feedback_pairs(MODEL, sampler=pairs.uniform(NUM_ITEMS), negatives=0)
