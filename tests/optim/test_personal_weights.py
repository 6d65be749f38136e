"""Weights of objectives for each user: the closed form, what the reward rewards, and training with them."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec.nn.multitask.shared_bottom import SharedBottom
from jaxrec.nn.multitask.weight_actor import WeightActor
from jaxrec.optim.gradient_balancing import min_norm_weights
from jaxrec.optim.personal_weights import balanced_gram, pair_weights, personal_weights, squared_residual
from jaxrec.tasks.multitask import Target, multitask
from jaxrec.tasks.personalised import Chosen, by_actor, closed_form, conflicts, constant, personalised
from jaxrec.types import Array

RNG = np.random.default_rng(0)
GRADIENTS = RNG.normal(size=(50, 2, 5)).astype(np.float32)
GRAM = np.einsum("bkd,bjd->bkj", GRADIENTS, GRADIENTS)


# --- the closed form ---------------------------------------------------------------------------------


def test_no_weights_have_a_shorter_combination() -> None:
    best = squared_residual(pair_weights(GRAM), GRAM)
    for first in np.linspace(0, 1, 101):
        other = np.broadcast_to([first, 1 - first], (50, 2)).astype(np.float32)
        assert (best <= squared_residual(other, GRAM) + 1e-4).all()


def test_it_is_mgda_of_each_user() -> None:
    np.testing.assert_allclose(pair_weights(GRAM), jax.vmap(min_norm_weights)(GRAM), atol=1e-4)


@pytest.mark.parametrize(
    ("first", "second", "weight"),
    [
        ([1.0, 0.0], [-1.0, 0.0], 0.5),  # opposite
        ([1.0, 2.0], [1.0, 2.0], 0.5),  # equal
        ([0.0, 0.0], [0.0, 0.0], 0.5),
        ([1.0, 0.0], [0.0, 2.0], 0.8),  # orthogonal: |g₂|² / (|g₁|² + |g₂|²)
        ([1.0, 0.0], [3.0, 0.0], 1.0),  # the shorter of two in one direction
        ([0.0, 0.0], [3.0, 0.0], 1.0),
    ],
)
def test_known_pairs(first: list[float], second: list[float], weight: float) -> None:
    g = np.array([first, second])
    found = personal_weights(jnp.asarray(g @ g.T))
    np.testing.assert_allclose(found, [weight, 1 - weight], atol=1e-6)
    assert np.isfinite(jax.grad(lambda a: personal_weights(a)[0])(jnp.asarray(g @ g.T))).all()


def test_more_objectives_than_two_lie_in_the_simplex() -> None:
    g = RNG.normal(size=(4, 3, 5, 6)).astype(np.float32)
    gram = np.einsum("abkd,abjd->abkj", g, g)
    found = np.asarray(personal_weights(gram))
    assert found.shape == (4, 3, 5) and (found >= 0).all()
    np.testing.assert_allclose(found.sum(-1), 1.0, rtol=1e-5)


def test_gradients_of_zero_can_be_left_out() -> None:
    """Users with all three, with two, with one and with none of the labels."""
    there = np.array([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0]], np.float32)
    g = RNG.normal(size=(4, 3, 5)).astype(np.float32) * there[..., None]
    gram = np.einsum("bkd,bjd->bkj", g, g)
    found = jax.jit(lambda gram: personal_weights(gram, leave_out_zeros=True))(gram)
    np.testing.assert_array_equal(found[0], jax.jit(personal_weights)(gram)[0])
    first = np.clip((g[1, 2] - g[1, 0]) @ g[1, 2] / np.sum((g[1, 0] - g[1, 2]) ** 2), 0, 1)
    np.testing.assert_allclose(found[1:], [[first, 0, 1 - first], [0, 1, 0], [1 / 3] * 3], atol=1e-5)


# --- what the reward rewards -------------------------------------------------------------------------


def test_shrinking_every_gradient_raises_the_reward() -> None:
    """A loss of a tenth has the same optimum and weights, and ten times the reward."""
    weights = pair_weights(GRAM)
    small = 0.01 * GRAM
    np.testing.assert_allclose(pair_weights(small), weights, atol=1e-5)
    np.testing.assert_allclose(
        squared_residual(weights, small), 0.01 * squared_residual(weights, GRAM), rtol=1e-4
    )
    np.testing.assert_allclose(
        squared_residual(weights, balanced_gram(small)),
        squared_residual(weights, balanced_gram(GRAM)),
        rtol=1e-3,
        atol=1e-6,
    )


def test_shrinking_one_gradient_draws_all_weight_to_it() -> None:
    scale = np.array([0.05, 1.0], np.float32)
    shrunk = GRAM * scale[:, None] * scale
    assert pair_weights(shrunk)[:, 0].min() > 0.85
    same = pair_weights(balanced_gram(GRAM))
    np.testing.assert_allclose(pair_weights(balanced_gram(shrunk)), same, atol=1e-4)
    assert same[:, 0].min() < 0.3 and same[:, 0].max() > 0.7


def test_gradients_of_one_length_would_leave_no_choice() -> None:
    """The shortest combination of two of them is their middle, whatever the angle."""
    norms = np.sqrt(np.diagonal(GRAM, axis1=1, axis2=2))
    unit = GRAM / (norms[:, :, None] * norms[:, None, :])
    np.testing.assert_allclose(pair_weights(unit), 0.5, atol=1e-4)


def test_balanced_gradients_have_a_mean_square_of_one() -> None:
    found = np.diagonal(np.asarray(balanced_gram(GRAM)), axis1=1, axis2=2)
    np.testing.assert_allclose(found.mean(axis=0), 1.0, rtol=1e-4)
    none = GRAM * np.array([[1.0, 0.0], [0.0, 0.0]], np.float32)
    assert np.isfinite(balanced_gram(none)).all() and (balanced_gram(none)[:, 1] == 0).all()


def test_padding_and_devices_do_not_change_the_balance() -> None:
    expected = balanced_gram(jnp.asarray(GRAM))
    padded = jnp.concatenate([GRAM, 5.0 * GRAM[:14]])
    real = jnp.arange(64) < 50
    np.testing.assert_allclose(balanced_gram(padded, where=real)[:50], expected, rtol=1e-5)
    parts = padded.reshape(4, 16, 2, 2), real.reshape(4, 16)  # the last has two that are real

    def of_device(gram: Array, where: Array) -> Array:
        return balanced_gram(gram, where=where, axis_name="devices")

    found = jax.vmap(of_device, axis_name="devices")(*parts).reshape(64, 2, 2)
    np.testing.assert_allclose(found[:50], expected, rtol=1e-5)


# --- training ----------------------------------------------------------------------------------------

COUNT = 16
X = RNG.normal(size=(COUNT, 3)).astype(np.float32)
USER = np.arange(COUNT, dtype=np.int32) // 2
BATCH: dict[str, Any] = {
    "x": X,
    "user": USER,
    "label/a": (RNG.random(COUNT) < 0.5).astype(np.float32),
    "label/b": (RNG.random(COUNT) < 0.5).astype(np.float32),
    "mask": np.arange(COUNT) < 13,
}
MODEL: Any = SharedBottom(2, bottom_dims=(4,), tower_dims=())
TARGETS = [Target("a", 0, "label/a"), Target("b", 1, "label/b")]
read_x = lambda batch: batch["x"]  # noqa: E731


@pytest.fixture(scope="module")
def variables() -> Any:
    return multitask(MODEL, TARGETS, inputs=read_x).init(jax.random.key(0), BATCH)


def slopes(task: Any, variables: Any) -> Any:
    def total(params: Any) -> Array:
        found, _ = task.losses({**variables, "params": params}, BATCH, jax.random.key(1))
        return sum(found.values(), jnp.float32(0))

    return jax.jit(jax.grad(total))(variables["params"])


def test_constant_weights_are_a_static_weighting(variables: Any) -> None:
    weighted = personalised(MODEL, TARGETS, constant(0.25, 0.75), inputs=read_x)
    plain = multitask(MODEL, TARGETS, inputs=read_x)
    found, _ = weighted.losses(variables, BATCH, jax.random.key(1))
    expected, _ = plain.losses(variables, BATCH, jax.random.key(1))
    np.testing.assert_allclose(
        [found["a"], found["b"]], [0.25 * expected["a"], 0.75 * expected["b"]], rtol=1e-6
    )

    def total(params: Any) -> Array:
        losses, _ = plain.losses({**variables, "params": params}, BATCH, jax.random.key(1))
        return 0.25 * losses["a"] + 0.75 * losses["b"]

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        slopes(weighted, variables),
        jax.jit(jax.grad(total))(variables["params"]),
    )


@pytest.mark.parametrize("user", [None, "user"])
def test_inner_products_are_those_of_each_users_gradients(variables: Any, user: str | None) -> None:
    gram, outputs = jax.jit(conflicts(MODEL, TARGETS, inputs=read_x, user=user))(variables, BATCH)
    assert outputs.shape == (COUNT, 2) and gram.shape == (COUNT, 2, 2)
    params = variables["params"]
    heads = params["towers"]["logit"]["kernel"][:, :, 0]  # [K, D]: the logit is linear in z
    error = jax.nn.sigmoid(outputs) - np.stack([BATCH["label/a"], BATCH["label/b"]], axis=1)
    each = np.where(BATCH["mask"][:, None, None], error[:, :, None] * heads, 0.0)  # [B, K, D]
    if user:
        each = np.stack([each[u == USER].sum(axis=0) for u in USER])
    np.testing.assert_allclose(gram, np.einsum("bkd,bjd->bkj", each, each), rtol=2e-4, atol=1e-6)


def test_weights_have_no_gradient_and_masked_examples_none(variables: Any) -> None:
    def by_scale(scale: Array) -> Array:
        def choose(gram: Array, outputs: Any, **options: Any) -> Chosen:
            return Chosen(scale * personal_weights(gram))

        found, _ = personalised(MODEL, TARGETS, choose, inputs=read_x).losses(
            variables, BATCH, jax.random.key(1)
        )
        return sum(found.values(), jnp.float32(0))

    assert jax.grad(by_scale)(jnp.float32(1.0)) == 0
    changed = {**BATCH, "x": np.where(BATCH["mask"][:, None], X, 9.0).astype(np.float32)}
    task = personalised(MODEL, TARGETS, closed_form, inputs=read_x, user="user")
    a, b = (task.losses(variables, batch, jax.random.key(1))[0] for batch in (BATCH, changed))
    np.testing.assert_allclose([*a.values()], [*b.values()], rtol=1e-6)


def test_an_example_without_one_label_teaches_the_other(variables: Any) -> None:
    """The gradient of the label that is missing is 0: it must not get all the weight."""
    known = np.arange(COUNT) % 2 == 0
    batch = {**BATCH, "known": known, "label/b": np.where(known, BATCH["label/b"], np.nan)}
    targets = [TARGETS[0], TARGETS[1]._replace(space="known")]
    gram, outputs = conflicts(MODEL, targets, inputs=read_x)(variables, batch)
    weights = closed_form(gram, outputs, where=batch["mask"]).weights
    np.testing.assert_array_equal(weights[~known & batch["mask"]], np.array([[1.0, 0.0]] * 6))

    def reward(shift: Array) -> Array:
        weights = jax.nn.softmax(outputs + shift)
        return by_actor()(gram, {"weights": weights}, where=batch["mask"]).terms["actor"].sum()

    slope = jax.grad(reward)(jnp.zeros((COUNT, 2)))
    np.testing.assert_allclose(slope[~known], 0.0, atol=1e-5)
    assert (np.abs(slope[known & batch["mask"]]) > 1e-6).any()


@pytest.mark.parametrize("normalised", [False, True])
def test_the_number_of_devices_and_padding_change_no_loss(variables: Any, normalised: bool) -> None:
    def actor(gram: Array, outputs: Any, **options: Any) -> Chosen:
        return by_actor(normalised=normalised)(gram, {"weights": jax.nn.softmax(outputs)}, **options)

    for choose in (closed_form, actor):
        task = personalised(MODEL, TARGETS, choose, inputs=read_x)
        key = jax.random.key(1)
        whole, _ = task.losses(variables, BATCH, key)
        parts = jax.tree.map(lambda column: column.reshape(4, 4, *column.shape[1:]), BATCH)

        def of_device(batch: Any, task: Any = task, key: Any = key) -> Any:
            return task.losses(variables, batch, key, "devices")[0]

        shares = jax.vmap(of_device, axis_name="devices")(parts)
        short, _ = task.losses(variables, jax.tree.map(lambda column: column[:13], BATCH), key)
        for name, loss in whole.items():
            np.testing.assert_allclose(shares[name].sum(), loss, rtol=1e-5)
            np.testing.assert_allclose(short[name], loss, rtol=1e-5)


def test_a_model_without_a_mark_is_refused() -> None:
    class Plain(nn.Module):
        @nn.compact
        def __call__(self, x: Array, *, train: bool) -> Array:
            return nn.Dense(2)(x)

    task = personalised(Plain(), TARGETS, inputs=read_x)
    variables = jax.jit(task.init)(jax.random.key(0), BATCH)
    with pytest.raises(ValueError, match="marks no shared representation"):
        task.losses(variables, BATCH, jax.random.key(0))


# --- the actor ---------------------------------------------------------------------------------------


def train_actor(x: np.ndarray, gram: np.ndarray, *, normalised: bool) -> np.ndarray:
    """The weights [B, 2] of an actor after some steps on constant gradients."""
    actor = WeightActor(2, dims=(16,), least=0.0)
    choose, tx = by_actor(normalised=normalised), optax.adam(0.05)
    params = jax.jit(actor.init)(jax.random.key(0), x)

    def loss(params: Any) -> Array:
        return choose(gram, {"weights": actor.apply(params, x)}).terms["actor"].mean()

    def step(carry: Any, _: None) -> tuple[Any, None]:
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, length=400))((params, tx.init(params)))
    return np.asarray(actor.apply(params, x))


def test_the_actor_finds_the_closed_form_of_each_group() -> None:
    groups = np.eye(2, dtype=np.float32)  # two users with different conflicts
    g = np.array([[[1.0, 0.0], [0.0, 2.0]], [[1.0, 0.2], [-0.5, 0.1]]], np.float32)
    gram = np.einsum("bkd,bjd->bkj", g, g)
    best = np.asarray(pair_weights(gram))
    assert abs(best[0, 0] - best[1, 0]) > 0.3
    np.testing.assert_allclose(train_actor(groups, gram, normalised=False), best, atol=0.05)
    same = train_actor(np.ones((2, 2), np.float32), gram, normalised=False)  # of a constant state
    np.testing.assert_allclose(same, np.broadcast_to(pair_weights(gram.mean(axis=0)), (2, 2)), atol=0.05)


def test_the_papers_reward_is_gamed_by_a_smaller_gradient() -> None:
    """Scaling one loss down draws the weights to it, although nothing about the conflict has changed."""
    scale = np.array([0.05, 1.0], np.float32)
    x = np.eye(4, dtype=np.float32)
    gram, shrunk = GRAM[:4], (GRAM * scale[:, None] * scale)[:4]
    assert train_actor(x, shrunk, normalised=False)[:, 0].min() > 0.85
    fair = train_actor(x, gram, normalised=True)
    np.testing.assert_allclose(train_actor(x, shrunk, normalised=True), fair, atol=0.05)
    np.testing.assert_allclose(fair, pair_weights(balanced_gram(gram)), atol=0.05)


def test_an_actor_without_conflict_learns_nothing() -> None:
    equal = np.ones((3, 2, 2), np.float32)
    assert (train_actor(np.ones((3, 2), np.float32), equal, normalised=True) == 0.5).all()


def test_weights_of_the_actor_have_bounds() -> None:
    actor = WeightActor(3, dims=(4,), least=0.2)
    params = jax.jit(actor.init)(jax.random.key(0), X)
    np.testing.assert_allclose(actor.apply(params, X), 1 / 3, rtol=1e-6)
    moved = jax.tree.map(lambda leaf: leaf + RNG.normal(0, 9, leaf.shape).astype(np.float32), params)
    found = np.asarray(actor.apply(moved, X))
    assert found.min() >= 0.2 - 1e-6 and found.max() <= 0.6 + 1e-6
    np.testing.assert_allclose(found.sum(-1), 1.0, rtol=1e-5)
    with pytest.raises(ValueError, match=r"least=0\.4: 3 weights of sum 1"):
        WeightActor(3, least=0.4)
