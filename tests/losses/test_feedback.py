"""Losses of explicit feedback: by formula, their invariants, at the edges, on several devices."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from tests.programs import run

rng = np.random.default_rng(0)
USERS = rng.normal(size=(4, 3)).astype(np.float32)
LIKED, DISLIKED = (rng.normal(size=(4, n, 3)).astype(np.float32) for n in (3, 2))
LIKED_WHERE = np.array([[1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0]], bool)
DISLIKED_WHERE = np.array([[1, 1], [0, 1], [0, 1], [0, 0]], bool)
WHERE = np.array([1, 1, 1, 0], bool)
LISTS = {"liked_where": LIKED_WHERE, "disliked_where": DISLIKED_WHERE}
Loss = Callable[..., Any]
LOSSES: dict[str, Loss] = {"pair": losses.feedback_pair, "margins": losses.feedback_margins}
every_loss = pytest.mark.parametrize("name", LOSSES)


def cosine(u: np.ndarray, vectors: np.ndarray) -> float:
    mean = vectors.astype(np.float64).mean(axis=0)
    return float(u @ mean / np.linalg.norm(u) / np.linalg.norm(mean))


def slow(name: str) -> float:
    terms = []
    for user in np.flatnonzero(WHERE):
        near, far = (
            cosine(USERS[user], vectors[user][where[user]]) if where[user].any() else None
            for vectors, where in ((LIKED, LIKED_WHERE), (DISLIKED, DISLIKED_WHERE))
        )
        if name == "pair" and near is not None and far is not None:
            terms.append(np.log1p(np.exp((far - near) / 0.2)))
        elif name == "margins" and (near is not None or far is not None):
            pulled = 0.0 if near is None else max(0, 0.8 - near)
            terms.append(pulled + (0.0 if far is None else max(0, far - 0.2)))
    return float(np.mean(terms))


@every_loss
def test_the_loss_is_that_of_the_formula(name: str) -> None:
    found = run(LOSSES[name], USERS, LIKED, DISLIKED, where=WHERE, **LISTS)
    np.testing.assert_allclose(found, slow(name), rtol=1e-5)


@every_loss
def test_users_without_a_list_have_no_gradient_and_masked_items_have_none(name: str) -> None:
    loss = jax.jit(jax.grad(functools.partial(LOSSES[name], **LISTS), (0, 1, 2)))
    users, liked, disliked = map(np.asarray, loss(USERS, LIKED, DISLIKED))
    assert all(np.isfinite(g).all() for g in (users, liked, disliked))
    assert not users[3].any() and users[0].any()
    assert not liked[~LIKED_WHERE].any() and not disliked[~DISLIKED_WHERE].any()


@every_loss
def test_masked_items_and_their_order_change_nothing(name: str) -> None:
    padded = np.where(LIKED_WHERE[..., None], LIKED, np.nan)[:, ::-1]
    found = run(
        LOSSES[name], USERS, padded, DISLIKED, liked_where=LIKED_WHERE[:, ::-1], disliked_where=DISLIKED_WHERE
    )
    np.testing.assert_allclose(found, run(LOSSES[name], USERS, LIKED, DISLIKED, **LISTS), rtol=1e-6)


@every_loss
def test_the_length_of_a_users_vector_does_not_matter(name: str) -> None:
    loss = LOSSES[name]
    plain = run(loss, USERS, LIKED, DISLIKED, **LISTS)
    np.testing.assert_allclose(run(loss, 2 * USERS, LIKED, DISLIKED, **LISTS), plain, rtol=1e-5)


def test_exchanged_lists_differ_by_the_difference_of_cosines() -> None:
    user, every = USERS[:1], np.ones((1, 2), bool)
    options = {"liked_where": every, "disliked_where": every}
    one = run(losses.feedback_pair, user, LIKED[:1, :2], DISLIKED[:1], **options)
    other = run(losses.feedback_pair, user, DISLIKED[:1], LIKED[:1, :2], **options)
    x = cosine(user[0], LIKED[0, :2]) - cosine(user[0], DISLIKED[0])
    np.testing.assert_allclose(one - other, -x / 0.2, rtol=1e-5)


@every_loss
def test_nothing_real_costs_nothing(name: str) -> None:
    for options in ({"where": np.zeros(4, bool), **LISTS}, {k: np.zeros_like(v) for k, v in LISTS.items()}):
        loss = functools.partial(LOSSES[name], **options)
        value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(USERS, LIKED, DISLIKED)
        assert value == 0.0 and not any(np.asarray(g).any() for g in gradients)


@every_loss
def test_shares_of_devices_add_up(name: str) -> None:
    parts = [a.reshape(2, 2, *a.shape[1:]) for a in (USERS, LIKED, DISLIKED, LIKED_WHERE, DISLIKED_WHERE)]
    shares = jax.vmap(
        lambda u, p, n, a, b: LOSSES[name](u, p, n, liked_where=a, disliked_where=b, axis_name="devices"),
        axis_name="devices",
    )
    found = jax.jit(shares)(*parts).sum()
    np.testing.assert_allclose(found, run(LOSSES[name], USERS, LIKED, DISLIKED, **LISTS), rtol=1e-6)


@every_loss
def test_extreme_and_zero_vectors_stay_finite(name: str) -> None:
    loss = jax.jit(jax.value_and_grad(functools.partial(LOSSES[name], **LISTS)))
    for users in (1e4 * USERS, 0 * USERS):
        value, gradient = loss(users, 1e4 * LIKED, 0 * DISLIKED)
        assert np.isfinite(value) and np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("pair", {"temperature": 0.0}, r"temperature=0\.0: must be positive"),
        ("margins", {"liked_margin": 1.5}, r"liked_margin=1\.5: must be in -1\.\.1"),
        ("margins", {"disliked_margin": -2.0}, r"disliked_margin=-2\.0"),
    ],
)
def test_numbers_out_of_range_are_refused(name: str, options: dict[str, float], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        LOSSES[name](USERS, LIKED, DISLIKED, **LISTS, **options)


# --- rejected items against all others --------------------------------------------------------------

TABLE = rng.normal(size=(8, 3)).astype(np.float32)
ITEMS = np.array([3, 7, 1, 0], np.int32)
REJECT = functools.partial(losses.not_to_recommend, block=3)


def probabilities(users: np.ndarray) -> np.ndarray:
    scores = users.astype(np.float64) @ TABLE[1:].T
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    return (p / p.sum(axis=1, keepdims=True))[np.arange(4), ITEMS - 1]


@pytest.mark.parametrize("block", [1, 3, 100])
def test_rejected_items_are_less_probable(block: int) -> None:
    weight = np.float32([1.0, 10.0, 0.5, 1.0])
    found = run(losses.not_to_recommend, USERS, TABLE, ITEMS, where=WHERE, weight=weight, block=block)
    expected = (-weight * np.log(1 - probabilities(USERS)))[WHERE].mean()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_gradient_by_the_own_score_is_the_probability() -> None:
    """A unit change of the item's score alone: through a last dimension that only this item has."""
    users = np.concatenate([USERS[:1], [[1.0]]], axis=1).astype(np.float32)
    table = np.concatenate([TABLE, (np.arange(8) == 3)[:, None] * 0.5], axis=1).astype(np.float32)
    grad = jax.jit(jax.grad(lambda t: REJECT(users, t, ITEMS[:1])))(table)
    scores = table[1:] @ users[0]
    p = np.exp(scores[2]) / np.exp(scores).sum()
    np.testing.assert_allclose(grad[3, 3], p, rtol=1e-5)


def test_a_certain_item_and_an_impossible_one_stay_finite() -> None:
    value_and_grad = jax.jit(jax.value_and_grad(REJECT, (0, 1)))
    for scale in (1e4, -1e4):
        users = np.float32(scale) * TABLE[ITEMS]
        value, gradients = value_and_grad(users, TABLE, ITEMS, where=WHERE)
        scores = users.astype(np.float64) @ TABLE.T
        own = scores[np.arange(4), ITEMS]
        scores[np.arange(4), ITEMS] = scores[:, 0] = -np.inf
        np.testing.assert_allclose(value, np.maximum(0, own - scores.max(axis=1))[WHERE].mean(), rtol=1e-3)
        assert all(np.isfinite(g).all() for g in gradients)


def test_without_a_rejected_item_it_costs_nothing() -> None:
    loss = functools.partial(REJECT, where=np.zeros(4, bool))
    value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1)))(USERS, TABLE, ITEMS)
    assert value == 0.0 and not any(np.asarray(g).any() for g in gradients)


def test_padding_of_the_table_has_no_gradient() -> None:
    gradient = jax.jit(jax.grad(functools.partial(REJECT, where=WHERE), 1))(USERS, TABLE, ITEMS)
    assert not np.asarray(gradient)[0].any() and np.asarray(gradient)[1:].all()


@pytest.mark.parametrize("wrong", [0, -1, 8])
def test_a_rejected_item_outside_the_table_makes_the_loss_nan(wrong: int) -> None:
    items = np.array([3, wrong, 1, 0], np.int32)
    assert np.isnan(run(losses.not_to_recommend, USERS, TABLE, items, where=WHERE))


def test_one_item_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 are needed"):
        losses.not_to_recommend(USERS, jnp.asarray(TABLE[:2]), jnp.asarray(ITEMS))
