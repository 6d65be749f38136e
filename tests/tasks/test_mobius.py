"""MOBIUS: the crossed pairs of a batch, the draw of bad cases, the loss of three classes, and ranking."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.retrieval.mobius import Mobius, weighted_items
from jaxrec.nn.retrieval.two_tower import TwoTower
from jaxrec.optim.loss_weighting import static
from jaxrec.tasks import pairs
from jaxrec.tasks.mobius import (
    BAD,
    CLICKED,
    LABEL,
    cosine_relevance,
    draw_bad_cases,
    irrelevant_pairs,
    mobius,
)
from jaxrec.train.state import create
from jaxrec.train.step import make_step
from jaxrec.types import SHARED, Array, Task
from tests.lowering import repeated_float_adds
from tests.nn.drawn import applied
from tests.tasks import small_towers
from tests.tasks.small_pairs import NUM_ITEMS, NUM_USERS, PAIRS, examples

KEY = jax.random.key(0)
LINEAR_LAST = Factory(MLP, activate_last=False)
rng = np.random.default_rng(0)
CLICKS = (np.arange(len(PAIRS)) % 3 > 0).astype(np.float32)
RELEVANT = rng.random((NUM_USERS + 1, NUM_ITEMS + 1)).astype(np.float32)  # of each row and item


def model(classes: int = 3) -> Mobius:
    dims = (5, 2 * classes)
    towers = TwoTower(
        (small_towers.USER_ID, small_towers.KIND),
        (small_towers.ITEM_ID, small_towers.TEXT),
        dims,
        dims,
        LINEAR_LAST,
        cosine=False,
    )
    return Mobius(towers, classes, temperature=0.5)


def teacher(user: Array, item: Array, context: Any) -> Array:
    return context["relevance"][user][:, item]


@functools.cache
def context(clicked: bool = False) -> dict[str, Any]:
    found = {**small_towers.context(), LABEL: jnp.asarray(CLICKS), "relevance": jnp.asarray(RELEVANT)}
    if clicked:
        rows = [
            sorted(i for (u, i), c in zip(PAIRS, CLICKS, strict=True) if u == user and c) for user in range(6)
        ]
        length = np.array([len(row) for row in rows], np.int32)
        found |= {
            "clicked": jnp.array([i for row in rows for i in row], jnp.int32),
            "clicked_start": jnp.asarray(np.cumsum(length) - length),
            "clicked_length": jnp.asarray(length),
        }
    return found


ROWS = examples(0, 5, 9, 11, 2, 3, 1, 12, last=False)
TASK, PLAIN = mobius(model(), teacher, threshold=0.6, bad_cases=6), mobius(model(), None)


@functools.cache
def prepared() -> tuple[Any, Any]:
    batch = TASK.prepare(KEY, ROWS, context())
    return TASK.init(KEY, batch), batch


@functools.cache
def value_of(task: Task, gradient: bool = False) -> Any:
    """The loss of a task as one program of variables and batch."""

    def loss(variables: Any, batch: Any) -> Any:
        return task.losses(variables, batch, KEY)[0]["classes"]

    return jax.jit(jax.value_and_grad(loss) if gradient else loss)


ALLOWED = jax.jit(irrelevant_pairs, static_argnums=5)


# --- the draw --------------------------------------------------------------------------------------


def test_bad_cases_are_different_allowed_pairs() -> None:
    allowed = rng.random((4, 5)) < 0.4
    for number in (3, 20):
        found = draw_bad_cases(KEY, jnp.zeros((4, 5)), allowed, number)
        kept = [(int(r), int(c)) for r, c, real in zip(*found, strict=True) if real]
        assert len(kept) == min(number, allowed.sum()) == len(set(kept))
        assert all(allowed[pair] for pair in kept)
    none = draw_bad_cases(KEY, jnp.zeros((4, 5)), np.zeros((4, 5), bool), 2)
    assert not none.real.any()


@pytest.mark.parametrize("by_click", [True, False])
def test_one_is_drawn_with_the_probability_of_a_click(by_click: bool) -> None:
    p = np.array([[0.5, 0.1, 0.2], [0.05, 0.4, 0.9]])
    allowed = np.array([[1, 1, 1], [1, 1, 0]], bool)
    keys = jax.random.split(KEY, 20_000)
    draw = jax.jit(jax.vmap(lambda k: draw_bad_cases(k, jnp.log(p), allowed, 1, by_click=by_click)))
    found = draw(keys)
    share = np.bincount(np.asarray(found.row * 3 + found.column)[:, 0], minlength=6) / len(keys)
    weight = np.where(allowed, p if by_click else 1.0, 0.0).reshape(-1)
    np.testing.assert_allclose(share, weight / weight.sum(), atol=0.015)


@pytest.mark.parametrize("number", [0, 21])
def test_more_than_there_are_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match=rf"number={number}: must be in 1\.\.20"):
        draw_bad_cases(KEY, jnp.zeros((4, 5)), jnp.ones((4, 5), bool), number)


# --- which pairs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("everywhere", [False, True])
def test_pairs_are_the_cross_product_without_relevant_and_clicked_ones(everywhere: bool) -> None:
    _, batch = prepared()
    user, item, real = (np.asarray(batch[name]) for name in ("user", "item", "mask"))
    click = np.asarray(batch[LABEL])
    relevance = np.asarray(teacher(user, item, context()))
    found = np.asarray(
        ALLOWED(
            user,
            item,
            click,
            real,
            jnp.asarray(relevance),
            0.6,
            context() if everywhere is False else context(True),
        )
    )
    observed = {(u, i) for u, i, c, r in zip(user, item, click, real, strict=True) if c and r}
    if everywhere:
        observed |= {(u + 1, i) for (u, i), c in zip(PAIRS, CLICKS, strict=True) if c}
    wanted = {
        (u, i)
        for u in set(user[real])
        for i in set(item[real])
        if RELEVANT[u, i] <= np.float32(0.6) and (u, i) not in observed
    }
    pairs_found = [(user[b], item[c]) for b, c in np.argwhere(found)]
    assert len(pairs_found) == len(set(pairs_found)) and set(pairs_found) == wanted
    assert 0 < len(wanted) < len(set(user[real])) * len(set(item[real]))


def test_without_a_threshold_the_whole_cross_product_but_clicks() -> None:
    user, item = jnp.array([1, 2, 1, 3]), jnp.array([4, 4, 5, 6])
    click, real = jnp.array([1.0, 0.0, 0.0, 1.0]), jnp.array([True] * 4)
    found = irrelevant_pairs(user, item, click, real, jnp.zeros((4, 4)), 0.5, {})
    assert int(found.sum()) == 3 * 3 - 2  # |Q| · |A|, and two clicks


# --- the task --------------------------------------------------------------------------------------


def slow_loss(variables: Any, batch: Any, drawn: list[tuple[int, int]]) -> float:
    real = np.asarray(batch["mask"])
    user = [*np.asarray(batch["user"])[real], *(u for u, _ in drawn)]
    item = [*np.asarray(batch["item"])[real], *(i for _, i in drawn)]
    label = [*(np.asarray(batch[LABEL])[real] > 0).astype(int), *(BAD for _ in drawn)]
    logits: Any = applied(model(), variables, np.array(user), np.array(item), context(), train=False)
    log_prob = np.asarray(jax.nn.log_softmax(logits))
    return float(np.mean([-log_prob[i, y] for i, y in enumerate(label)]))


def drawn_of(variables: Any, batch: Any, number: int = 6) -> list[tuple[int, int]]:
    """The bad cases of a step, as the task draws them."""
    key = jax.random.split(KEY)[0]
    user, item = batch["user"], batch["item"]
    logits: Any = applied(model(), variables, user, item, context(), method="cross")
    allowed = ALLOWED(user, item, batch[LABEL], batch["mask"], teacher(user, item, context()), 0.6, context())
    found = draw_bad_cases(key, jax.nn.log_softmax(logits)[..., CLICKED], allowed, number)
    return [(int(user[r]), int(item[c])) for r, c, real in zip(*found, strict=True) if real]


def test_the_loss_is_that_of_impressions_and_bad_cases() -> None:
    variables, batch = prepared()
    drawn = drawn_of(variables, batch)
    assert len(drawn) == 6
    assert all(RELEVANT[u, i] <= 0.6 for u, i in drawn)
    np.testing.assert_allclose(
        value_of(TASK)(variables, batch), slow_loss(variables, batch, drawn), rtol=1e-5
    )


def test_a_teacher_that_finds_all_relevant_leaves_the_plain_student() -> None:
    variables, batch = prepared()
    all_relevant = mobius(model(), lambda u, i, c: jnp.ones((u.size, i.size)), threshold=0.6, bad_cases=6)
    plain, of_teacher = (value_of(task, gradient=True)(variables, batch) for task in (PLAIN, all_relevant))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), plain, of_teacher)
    np.testing.assert_allclose(plain[0], slow_loss(variables, batch, []), rtol=1e-5)


def test_what_is_padded_is_neither_trained_nor_crossed() -> None:
    variables, batch = prepared()
    other = {**batch, "user": batch["user"].at[-1].set(2), "item": batch["item"].at[-1].set(9)}
    for task in (TASK, PLAIN):
        a, b = (value_of(task)(variables, one) for one in (batch, other))
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("task", [PLAIN, TASK], ids=["plain", "mobius"])
def test_shares_of_devices_add_up(task: Task) -> None:
    variables, batch = prepared()
    shared = batch[SHARED]
    rest = {name: column for name, column in batch.items() if name != SHARED}
    halves = jax.tree.map(lambda x: x.reshape(2, len(x) // 2, *x.shape[1:]), rest)

    def share(part: Any) -> Any:
        return task.losses(variables, {**part, SHARED: shared}, KEY, "d")[0]["classes"]

    shares = jax.jit(jax.vmap(share, axis_name="d"))(halves)
    np.testing.assert_allclose(shares.sum(), value_of(task)(variables, batch), rtol=1e-5)
    odd = mobius(model(), teacher, bad_cases=3)
    with pytest.raises(ValueError, match="bad_cases=3: the number of devices, 2, must divide it"):
        jax.vmap(lambda part: odd.losses(variables, {**part, SHARED: shared}, KEY, "d"), axis_name="d")(
            halves
        )


def steps(task: Task, count: int) -> tuple[Any, Any, Any]:
    tx, weighting = optax.adam(0.05), static()
    step = jax.jit(make_step(task, tx, weighting))
    state = create(task, tx, weighting, KEY, ROWS, context())
    first: Any = None
    logs: Any = {}
    for _ in range(count):
        state, logs = step(state, ROWS, context())
        first = logs if first is None else first
    return state, first, logs


def test_training_lowers_the_loss_and_the_odds_of_bad_cases() -> None:
    state, first, last = steps(TASK, 25)
    assert last["loss"] < 0.8 * first["loss"]
    batch = prepared()[1]
    bad = np.array(drawn_of(state.variables, batch))
    asked = {**batch, "user": jnp.asarray(bad[:, 0]), "item": jnp.asarray(bad[:, 1])}
    of_bad = np.asarray(TASK.predict(state.variables, asked)).mean()
    clicked = np.asarray(batch[LABEL] > 0) & np.asarray(batch["mask"])
    assert of_bad < np.asarray(TASK.predict(state.variables, batch))[clicked].mean() - 1.0


def test_a_step_adds_no_repeated_ids_on_cuda() -> None:
    tx, weighting = optax.adam(0.05), static()
    state = create(TASK, tx, weighting, KEY, ROWS, context())
    traced = jax.jit(make_step(TASK, tx, weighting)).trace(state, ROWS, context())
    assert repeated_float_adds(traced, "cuda") == []


def test_predictions_are_log_odds_of_a_click() -> None:
    variables, batch = prepared()
    logits: Any = applied(model(), variables, batch["user"], batch["item"], context(), train=False)
    p = np.asarray(jax.nn.softmax(logits))
    np.testing.assert_allclose(p.sum(axis=1), 1.0, rtol=1e-6)
    odds = np.log(p[:, CLICKED] / (1 - p[:, CLICKED]))
    np.testing.assert_allclose(TASK.predict(variables, batch), odds, rtol=1e-4, atol=1e-5)


# --- the model -------------------------------------------------------------------------------------


def test_ads_are_found_by_the_cosine_of_the_click() -> None:
    variables, _ = prepared()
    users, items = applied(model(), variables, context(), method="vectors")
    user, item = jnp.arange(1, NUM_USERS + 1), jnp.arange(NUM_ITEMS + 1)
    logits: Any = applied(model(), variables, user, item, context(), method="cross")
    np.testing.assert_allclose(users[1:] @ items.T, logits[..., CLICKED], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(items[1:], axis=-1), 1.0, rtol=1e-5)
    assert pairs.has_vectors(model())  # type: ignore[arg-type]
    several: Any = applied(model(), variables, user, item[:NUM_USERS], context(), train=False)
    np.testing.assert_allclose(
        several, logits[jnp.arange(NUM_USERS), jnp.arange(NUM_USERS)], rtol=1e-4, atol=1e-5
    )


def test_a_weighted_cosine_is_a_product_of_scaled_vectors() -> None:
    queries, items = rng.normal(size=(4, 6)), rng.normal(size=(9, 6))
    weights = rng.random(9)
    scores = queries @ np.asarray(weighted_items(jnp.asarray(items), jnp.asarray(weights))).T
    lengths = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(items, axis=1)
    cosines = queries @ items.T / lengths * weights
    np.testing.assert_array_equal(np.argsort(-scores, axis=1), np.argsort(-cosines, axis=1))
    longer = 7.0 * queries @ np.asarray(weighted_items(jnp.asarray(items), jnp.asarray(weights))).T
    np.testing.assert_array_equal(np.argsort(-longer, axis=1), np.argsort(-scores, axis=1))


def test_a_teacher_of_frozen_vectors_is_their_cosine() -> None:
    columns = {"user_words": rng.normal(size=(3, 4)), "item_words": rng.normal(size=(5, 4))}
    columns["item_words"][2] = 0.0
    found = cosine_relevance("user_words", "item_words")(jnp.arange(3), jnp.arange(5), columns)
    product = columns["user_words"] @ columns["item_words"].T
    lengths = np.linalg.norm(columns["user_words"], axis=1)[:, None] * np.linalg.norm(
        columns["item_words"], axis=1
    )
    np.testing.assert_allclose(
        found, np.clip(product / np.maximum(lengths, 1e-12), 0, 1), rtol=1e-5, atol=1e-6
    )
    assert (found[:, 2] == 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": 4}, "num_classes=4, temperature=0.5: must be 2 or 3"),
        ({"temperature": 0.0}, "temperature=0.0: must be 2 or 3, and above 0"),
        (
            {"num_classes": 2, "towers": model().towers.clone(user_dims=(5,), item_dims=(5,))},
            "classes divide",
        ),
        ({"towers": model().towers.clone(cosine=True)}, "cosine=True; give both towers one width"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model().clone(**change)


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="bad_cases=0, bad_weight=1.0: must be at least 1"):
        mobius(model(), teacher, bad_cases=0)
    with pytest.raises(ValueError, match="bad_weight=0.0: must be at least 1, and positive"):
        mobius(model(), teacher, bad_weight=0.0)
    two = mobius(model(2), teacher, bad_cases=2)
    batch = two.prepare(KEY, ROWS, context())
    with pytest.raises(ValueError, match="2 classes: bad cases are a third one; take relevance=None"):
        two.losses(two.init(KEY, batch), batch, KEY)
    assert np.isfinite(value_of(mobius(model(2), None))(two.init(KEY, batch), batch))
