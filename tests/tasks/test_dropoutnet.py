"""The regressions of DropoutNet and CB2CF: what a step draws and hides, its loss, and what they learn."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec.baselines import content_ridge
from jaxrec.data.events.factor_columns import factor_columns
from jaxrec.data.events.training_events import TrainingEvents
from jaxrec.nn.retrieval.cb2cf import CB2CF
from jaxrec.nn.retrieval.dropoutnet import DropoutNet
from jaxrec.optim.loss_weighting import static
from jaxrec.tasks import cb2cf, dropoutnet
from jaxrec.train.state import create
from jaxrec.train.step import make_step
from jaxrec.types import SHARED
from tests.lowering import repeated_float_adds

USERS, ITEMS, K = 12, 30, 4
WARM = 24  # items 25 to 30 are new
EXAMPLES = {"example": jnp.array([3, 0, 7, 11]), "mask": jnp.array([True, True, True, False])}


@functools.cache
def factors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(USERS), 6)
    item = np.concatenate([1 + rng.permutation(WARM) for _ in range(3)])
    content = rng.normal(size=(ITEMS + 1, 3)).astype(np.float32)
    content[0] = 0
    users = rng.normal(size=(USERS + 1, K)).astype(np.float32)
    items = (content @ rng.normal(size=(3, K)) + 0.3).astype(np.float32)
    users[0] = 0
    items[[0, *range(WARM + 1, ITEMS + 1)]] = 0
    kept = (item % 3 != 1) | (np.arange(72) < 24)  # so that items have one event or three
    events = TrainingEvents(group[kept], item[kept], ITEMS)
    return factor_columns(users, items, events, num_users=USERS, item_content=content)


@functools.cache
def context() -> dict[str, Any]:
    return jax.tree.map(jnp.asarray, cb2cf.columns(dropoutnet.columns(factors(), top=5)))


@functools.cache
def prepared(dropout: float, transform: float, key: int = 0) -> Any:
    task = dropoutnet.dropoutnet(None, pairs_per_user=8, dropout=dropout, transform=transform)
    return jax.jit(task.prepare)(jax.random.key(key), EXAMPLES, context())


@pytest.mark.parametrize(
    ("dropout", "transform"), [(0.0, 0.0), (0.3, 0.25), (0.5, 0.0), (1.0, 0.0), (0.0, 1.0)]
)
def test_exactly_so_many_rows_are_hidden_and_replaced(dropout: float, transform: float) -> None:
    batch, size = prepared(dropout, transform), 4 * 8
    user = np.repeat(np.asarray(EXAMPLES["example"]) + 1, 8)
    for side, table in (("user", "user_factors"), ("item", "item_factors")):
        hidden = ~np.asarray(batch[table]).any(axis=1)
        assert hidden.sum() == int(dropout * size)
        if side == "user":
            kept = (np.asarray(batch[table]) == factors()["user_factors"][user]).all(axis=1)
            means = (np.asarray(batch[table]) == factors()["user_means"][user]).all(axis=1)
            assert (kept.sum(), means.sum()) == (
                size - hidden.sum() - int(transform * size),
                int(transform * size),
            )
    assert np.asarray(batch["mask"]).tolist() == [True] * 24 + [False] * 8
    assert np.asarray(batch["item_content"]).all(axis=1).all()  # content is never hidden


def test_sides_are_hidden_apart_and_targets_are_the_teachers() -> None:
    batch = prepared(0.5, 0.0)
    hidden = [~np.asarray(batch[f"{side}_factors"]).any(axis=1) for side in ("user", "item")]
    both, neither = (hidden[0] & hidden[1]).sum(), (~hidden[0] & ~hidden[1]).sum()
    assert both and neither and both + neither < 32
    content = np.asarray(batch["item_content"])
    item = (factors()["item_content"] == content[:, None]).all(axis=2).argmax(axis=1)
    user = np.repeat(np.asarray(EXAMPLES["example"]) + 1, 8)
    expected = np.sum(factors()["user_teacher"][user] * factors()["item_teacher"][item], axis=1)
    scale = float(context()["score_scale"])
    np.testing.assert_allclose(batch["target"], scale * expected, rtol=1e-5, atol=1e-6)
    best = factors()["item_teacher"][np.asarray(context()["top_items"])]
    scores = np.einsum("uk,utk->ut", factors()["user_teacher"][1:], best)
    assert np.mean((scale * scores) ** 2) == pytest.approx(1.0, rel=1e-4)
    assert item.max() <= WARM  # no new item is drawn
    top = np.asarray(context()["top_items"])
    best = [item[n] in top[user[n] - 1] for n in range(32) if n % 8 < 4]
    assert all(best)  # of a user's 8 items the first 4 are its best ones


@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_all_hidden_depends_on_content_alone_and_masked_pairs_on_nothing(dropout: float) -> None:
    model = DropoutNet((5,), 3)
    task = dropoutnet.dropoutnet(model, pairs_per_user=8, dropout=dropout)
    batch = dict(prepared(dropout, 0.0))
    variables = jax.jit(task.init)(jax.random.key(1), batch)
    scores = task.predict(variables, batch)
    same_content = task.predict(variables, {**batch, "item_content": jnp.ones_like(batch["item_content"])})
    assert np.ptp(same_content) > 0.01 if dropout == 0 else np.ptp(same_content) < 1e-6
    expected = np.mean((np.asarray(scores) - np.asarray(batch["target"]))[:24] ** 2)
    linear = dropoutnet.dropoutnet(DropoutNet((), 3), pairs_per_user=8)
    plain = linear.init(jax.random.key(1), batch)
    found = linear.losses(plain, batch, jax.random.key(0))[0]["scores"]
    difference = np.asarray(linear.predict(plain, batch) - batch["target"])
    np.testing.assert_allclose(found, np.mean(difference[:24] ** 2), rtol=1e-5)
    assert np.isfinite(expected)
    changed = {**batch, "target": batch["target"].at[24:].set(99.0)}
    assert linear.losses(plain, changed, jax.random.key(0))[0]["scores"] == found


def steps(task: Any, axis: str | None, count: int, learning_rate: float = 0.01) -> tuple[Any, Any]:
    tx = optax.flatten(optax.adam(learning_rate))
    step = make_step(task, tx, static(), axis)

    def run(state: Any, context: Any) -> Any:
        def body(state: Any, _: None) -> Any:
            state, logs = step(state, EXAMPLES, context)
            return state, logs["loss"]

        return jax.lax.scan(body, state, None, length=count)

    return run, jax.jit(lambda key: create(task, tx, static(), key, EXAMPLES, context()))(jax.random.key(0))


def test_steps_lower_the_loss_and_devices_change_nothing() -> None:
    task = dropoutnet.dropoutnet(DropoutNet((6,), 4), pairs_per_user=8, dropout=0.25, transform=0.25)
    run, start = steps(task, None, 30)
    assert repeated_float_adds(jax.jit(run).trace(start, context()), "cuda") == []
    one, found = jax.jit(run)(start, context())
    assert np.mean(found[-5:]) < 0.7 * np.mean(found[:5])
    means = jax.tree.leaves(one.variables["batch_stats"])
    assert any(np.abs(leaf).max() > 1e-3 for leaf in means)
    spread = dropoutnet.dropoutnet(
        DropoutNet((6,), 4, axis_name="devices"), pairs_per_user=8, dropout=0.25, transform=0.25
    )
    run, start = steps(spread, "devices", 30)
    _, shared = jax.jit(jax.vmap(run, (None, None), axis_name="devices", axis_size=2))(start, context())
    np.testing.assert_allclose(shared[0], found, rtol=2e-3)


def test_a_linear_net_without_dropout_fits_the_teacher() -> None:
    """And so all its scores, those of pairs that no step has drawn too."""
    task = dropoutnet.dropoutnet(DropoutNet((), K + 1), pairs_per_user=8, dropout=0.0)
    run, start = steps(task, None, 800, 0.02)
    _, found = jax.jit(run)(start, context())
    assert found[-1] < 1e-3 * found[0]


@pytest.mark.parametrize("loss", ["vectors", "scores"])
@pytest.mark.parametrize("damping", [0.0, 3.0])
def test_the_loss_of_cb2cf_by_its_formula(loss: Any, damping: float) -> None:
    model = CB2CF(K, (3,))
    task = cb2cf.cb2cf(model, loss=loss, damping=damping)
    batch = dict(task.prepare(jax.random.key(0), EXAMPLES, context()))
    variables = jax.jit(task.init)(jax.random.key(1), batch)
    item = np.asarray(factors()["warm_items"])[np.asarray(EXAMPLES["example"])][:3]
    made = task.predict(variables, batch)[:3]
    difference = np.asarray(made) - factors()["item_teacher"][item]
    users = factors()["user_teacher"][1:]
    errors = (
        np.mean(difference**2, axis=1) if loss == "vectors" else np.mean((difference @ users.T) ** 2, axis=1)
    )
    count = factors()["item_count"][item]
    expected = np.average(errors, weights=count / (count + damping))
    found = task.losses(variables, batch, jax.random.key(0))[0]
    np.testing.assert_allclose(found[loss], expected, rtol=1e-5)
    changed = {**batch, "target": batch["target"].at[3].set(99.0)}
    np.testing.assert_allclose(
        task.losses(variables, changed, jax.random.key(0))[0][loss], expected, rtol=1e-5
    )
    assert SHARED in batch


def test_a_linear_cb2cf_is_the_ridge_map() -> None:
    """Content explains these vectors, so both give them, and a new item the same one."""
    task = cb2cf.cb2cf(CB2CF(K, ()))
    everything = {"example": jnp.arange(WARM), "mask": jnp.ones(WARM, bool)}
    batch = task.prepare(jax.random.key(0), everything, context())
    variables = jax.jit(task.init)(jax.random.key(1), batch)
    tx = optax.adam(0.05)

    def step(carry: Any, _: None) -> Any:
        variables, state = carry
        gradient = jax.grad(lambda v: task.losses(v, batch, jax.random.key(0))[0]["vectors"])(variables)
        change, state = tx.update(gradient, state)
        return (optax.apply_updates(variables, change), state), None

    (variables, _), _ = jax.jit(lambda v: jax.lax.scan(step, (v, tx.init(v)), None, length=600))(variables)
    items: Any = CB2CF(K, ()).apply(variables, context(), method="vectors")[1]
    closed: Any = content_ridge(factors(), regularisation=1e-6).variables["items"]
    np.testing.assert_allclose(items[1:], closed[1:], atol=1e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dropoutnet.dropoutnet(None, pairs_per_user=0), "pairs_per_user=0"),
        (lambda: dropoutnet.dropoutnet(None, dropout=1.5), "dropout=1.5"),
        (lambda: dropoutnet.dropoutnet(None, transform=-0.5), "transform=-0.5"),
        (lambda: dropoutnet.dropoutnet(None, random_share=2.0), "random_share=2.0"),
        (lambda: dropoutnet.dropoutnet(None, dropout=0.6, transform=0.6), "at most 1 together"),
        (lambda: dropoutnet.columns(factors(), top=0), "number=0"),
        (lambda: cb2cf.cb2cf(None, loss="cosine"), "loss='cosine'"),  # type: ignore[arg-type]
        (lambda: cb2cf.cb2cf(None, damping=-1.0), "damping=-1.0"),
        (lambda: cb2cf.columns({"user_teacher": np.ones((2, 2))}), "item_content: there is none"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
