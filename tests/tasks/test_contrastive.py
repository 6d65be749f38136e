"""The contrastive task's views and losses against NumPy, in the flat and in both pooled forms."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from jaxrec.packing import Packing
from jaxrec.tasks import contrastive
from jaxrec.tasks.next_item import encode
from jaxrec.types import Array, Batch, Key, Variables
from tests.nn.drawn import applied
from tests.tasks.small import (
    MAX_LEN,
    Averager,
    compiled,
    contrastive_columns,
    training_events,
    variables_of,
    views,
)

WIDTH = 9  # longest training input
USERS, MASK = np.array([4, 7, 1, 0, 8, 9], np.int32), np.array([True] * 5 + [False])
ROWS = {"example": USERS, "mask": MASK}
PACKED = Packing(8, 8)
MODEL = Averager()
VIEWS = views(WIDTH)


@functools.cache
def context() -> dict[str, Any]:
    return contrastive_columns(VIEWS)


draw = jax.jit(functools.partial(contrastive.draw_views, VIEWS))
ENCODE = jax.jit(lambda variables, batch: encode(MODEL, variables, batch, None))
TASKS = {
    "mean": compiled(contrastive.pooled(MODEL, VIEWS, packed=PACKED, temperature=0.7)),
    "last": compiled(
        contrastive.pooled(MODEL, VIEWS, packed=PACKED, pool=contrastive.last_event, name="views")
    ),
    "flat": compiled(contrastive.flat(MODEL, VIEWS, temperature=0.5)),
}
PREPARE = {name: task.prepare for name, task in TASKS.items()}


def twin(first: np.ndarray, second: np.ndarray, temperature: float) -> float:
    """NT-Xent of plain dot products, by hand."""
    z = np.concatenate([first, second]).astype(np.float64)
    scores = z @ z.T / temperature
    np.fill_diagonal(scores, -np.inf)
    partner = np.roll(np.arange(len(z)), len(first))
    return float(np.mean(logsumexp(scores, axis=1) - scores[np.arange(len(z)), partner]))


def padded_alone(variables: Variables, items: Array, length: Array) -> np.ndarray:
    """Hidden states of right-aligned rows, one view a row, from events alone."""
    slots = np.arange(MAX_LEN)
    real = slots >= MAX_LEN - np.asarray(length)[:, None]
    batch = {
        "items": items,
        "positions": np.broadcast_to(slots, items.shape),
        "segments": np.where(real, 1 + np.arange(len(items))[:, None], 0),
    }
    return np.asarray(ENCODE(variables, batch))


def test_views_of_users_left_alone_are_their_training_inputs() -> None:
    found = context() | {"unaugmented": jnp.ones_like(context()["unaugmented"])}
    pair = draw(jax.random.key(0), ROWS, found)
    for items, lengths in zip(np.asarray(pair.items), np.asarray(pair.length), strict=True):
        for index, user in enumerate(USERS):
            expected = training_events(user)[:-1][-MAX_LEN:] if MASK[index] else []
            assert lengths[index] == len(expected)
            assert items[index].tolist() == [0] * (MAX_LEN - len(expected)) + expected


def test_two_views_of_a_user_are_drawn_independently() -> None:
    pair = draw(jax.random.key(0), ROWS, context())
    assert (np.asarray(pair.items[0, :2]) != np.asarray(pair.items[1, :2])).any()
    again = draw(jax.random.key(1), ROWS, context())
    assert (np.asarray(pair.items) != np.asarray(again.items)).any()


def test_flat_loss_compares_all_hidden_states_of_the_padded_form() -> None:
    variables = variables_of(MODEL)
    batch = PREPARE["flat"](jax.random.key(2), ROWS, context())
    losses, updates = TASKS["flat"].losses(variables, batch, jax.random.key(0))
    pair = draw(jax.random.key(2), ROWS, context())
    hidden = [
        np.asarray(applied(MODEL, variables, items, train=False))[MASK].reshape(5, -1) for items in pair.items
    ]
    assert updates == {}
    assert float(losses["contrastive"]) == pytest.approx(twin(hidden[0], hidden[1], 0.5), rel=1e-4)


@pytest.mark.parametrize("pool", ["mean", "last"])
def test_pooled_vectors_are_those_of_each_view_alone(pool: str) -> None:
    variables = variables_of(MODEL)
    pooled = TASKS[pool].predict(variables, PREPARE[pool](jax.random.key(3), ROWS, context()))
    # the first attempt at drawing views, which fits
    pair = draw(jax.random.fold_in(jax.random.key(3), 0), ROWS, context())
    for got, items, lengths in zip(pooled, pair.items, pair.length, strict=True):
        hidden = padded_alone(variables, items, lengths)
        got, ids, expected = np.asarray(got), np.asarray(items), np.zeros(got.shape)
        for index in np.flatnonzero(MASK):
            events = hidden[index, MAX_LEN - int(lengths[index]) :]
            kept = events[-1:] if pool == "last" else events[ids[index, MAX_LEN - len(events) :] > 0]
            expected[index] = kept.mean(axis=0) if len(kept) else 0
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_weights_of_a_view_add_up_to_one_whatever_the_pool() -> None:
    def quarter(items: Array, event: Array, length: Array) -> Array:
        return jnp.where(items > 0, 0.25 / (1 + event), 0)

    task = contrastive.pooled(MODEL, VIEWS, packed=PACKED, pool=quarter)
    batch = jax.jit(task.prepare)(jax.random.key(3), ROWS, context())
    total = np.zeros(2 * len(USERS) + 1)
    np.add.at(total, np.asarray(batch["segments"]), np.asarray(batch["weight"]))
    segments, real = np.asarray(batch["segments"]).ravel(), np.asarray(batch["items"]).ravel() > 0
    num_items = np.bincount(segments, real, minlength=len(total))
    np.testing.assert_allclose(total[1:], num_items[1:] > 0, rtol=1e-5)
    assert (total[1:] > 0).sum() > 5


@pytest.mark.parametrize(
    ("pool", "name", "temperature"), [("mean", "contrastive", 0.7), ("last", "views", 1.0)]
)
def test_pooled_loss_is_nt_xent_of_the_real_users(pool: str, name: str, temperature: float) -> None:
    variables = variables_of(MODEL)
    batch = PREPARE[pool](jax.random.key(3), ROWS, context())
    first, second = map(np.asarray, TASKS[pool].predict(variables, batch))
    loss = TASKS[pool].losses(variables, batch, jax.random.key(0))[0]
    assert {*loss} == {name}
    assert float(loss[name]) == pytest.approx(twin(first[MASK], second[MASK], temperature), rel=1e-5)


@pytest.mark.parametrize("form", ["flat", "mean"])
def test_masked_users_change_neither_loss_nor_gradient(form: str) -> None:
    def run(variables: Variables, batch: Batch) -> Array:
        return TASKS[form].losses(variables, batch, jax.random.key(0))[0]["contrastive"]

    compiled = jax.jit(jax.value_and_grad(run))
    others = {**ROWS, "example": np.where(MASK, USERS, 2).astype(np.int32)}
    loss, gradient = compiled(variables_of(MODEL), PREPARE[form](jax.random.key(4), ROWS, context()))
    other, other_gradient = compiled(variables_of(MODEL), PREPARE[form](jax.random.key(4), others, context()))
    assert float(loss) == float(other)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(other_gradient), strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_array_equal(a, b)


class Wild:
    """A view whose length is drawn: all events or a single one for the whole batch."""

    def __init__(self, share: float) -> None:
        self.share = share

    def apply(
        self, key: Key, plan: Any, items: Array, length: Array, similar: Any, *, end: Array, **_: Any
    ) -> tuple[Array, Array]:
        length = jnp.minimum(length, jnp.where(jax.random.uniform(key) < self.share, MAX_LEN, 1))
        slots = jnp.arange(MAX_LEN)
        real = slots >= MAX_LEN - length[:, None]
        return jnp.where(real, items[jnp.where(real, end[:, None] - MAX_LEN + slots, 0)], 0), length


def wild(share: float, seed: int) -> tuple[np.ndarray, float]:
    """Lengths of the views that a step got into two rows, and its loss."""
    view: Any = Wild(share)
    task = compiled(contrastive.pooled(MODEL, contrastive.Views(view, view, WIDTH), packed=Packing(2, 8)))
    batch = task.prepare(jax.random.key(seed), ROWS, context())
    loss = task.losses(variables_of(MODEL), batch, jax.random.key(0))[0]["contrastive"]
    return np.bincount(np.asarray(batch["segments"]).ravel(), minlength=13)[1:], float(loss)


def test_views_that_do_not_fit_are_drawn_again() -> None:
    view: Any = Wild(0.8)
    drawn = contrastive.Views(view, view, WIDTH)
    draw = jax.jit(functools.partial(contrastive.draw_views, drawn))
    first = draw(jax.random.fold_in(jax.random.key(0), 0), ROWS, context())
    assert int(first.length.sum()) > 16  # does not fit
    lengths, loss = wild(0.8, 0)
    assert lengths.tolist() == [1, 1, 1, 0, 1, 0] * 2
    assert np.isfinite(loss)


def test_views_that_never_fit_make_the_loss_nan() -> None:
    assert np.isnan(wild(1.0, 0)[1])
