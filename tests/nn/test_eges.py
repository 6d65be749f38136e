"""EGES: its mixture of embeddings, the gradients of the paper, and training on walks."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec import losses
from jaxrec.data.events.item_graph import item_graph
from jaxrec.data.events.training_events import TrainingEvents
from jaxrec.nn.retrieval.eges import EGES
from jaxrec.tasks import skip_gram
from tests.lowering import repeated_float_adds

SIDE = jnp.asarray([[0, 0], [1, 2], [3, 1], [2, 0], [1, 2]])  # items 1 and 4 alike, item 3 lacks a field
MODEL = EGES(4, side_sizes=(3, 2), dim=5)


def drawn(model: EGES, seed: int = 0) -> Any:
    """Parameters of a standard normal distribution, of padding too."""
    one = jnp.ones(1, jnp.int32)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), one, one[:, None], SIDE, train=False))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes)


def test_vectors_are_mixtures_by_the_items_own_weights() -> None:
    variables = drawn(MODEL)
    params = {name: np.asarray(value) for name, value in variables["params"].items()}
    found = MODEL.apply(variables, jnp.asarray([1, 3]), SIDE, method="merged")
    for vector, item, fields in ((found[0], 1, (1, 2)), (found[1], 3, (2, 0))):
        parts = [params["item_embedding"][item]]
        parts += [params[f"side_embedding_{s}"][field] for s, field in enumerate(fields) if field]
        weights = np.exp(params["weight"][item][: len(parts)])  # the field that is missing is the last one
        np.testing.assert_allclose(vector, weights @ parts / weights.sum(), rtol=1e-5, atol=1e-6)


def test_equal_weights_are_ges_and_no_fields_are_deep_walk() -> None:
    variables = drawn(MODEL)
    equal = {"params": variables["params"] | {"weight": jnp.zeros((5, 3))}}
    plain = {"params": {n: v for n, v in variables["params"].items() if n != "weight"}}
    ges = EGES(4, side_sizes=(3, 2), dim=5, weighted=False)
    item = jnp.arange(5)
    merged = MODEL.apply(equal, item, SIDE, method="merged")
    np.testing.assert_allclose(merged, ges.apply(plain, item, SIDE, method="merged"), rtol=1e-6)
    tables = {n: plain["params"][n] for n in ("item_embedding", "context_embedding")}
    scores = EGES(4, dim=5).apply({"params": tables}, item[1:2], item[None, 2:], train=False)
    expected = tables["item_embedding"][1] @ tables["context_embedding"][2:].T
    np.testing.assert_allclose(scores[0], expected, rtol=1e-5)


def test_gradients_are_those_of_the_paper() -> None:
    """Of one pair with label 1: section 3.3.2, equations 9 to 11."""
    variables = drawn(MODEL)
    params = variables["params"]

    def loss(variables: Any) -> Any:
        score = MODEL.apply(variables, jnp.asarray([1]), jnp.asarray([[2]]), SIDE, train=True)
        return losses.sigmoid_cross_entropy(score, jnp.ones((1, 1)))[0, 0]

    gradient = jax.grad(loss)(variables)["params"]
    parts = np.stack([params["item_embedding"][1], *(params[f"side_embedding_{s}"][s + 1] for s in (0, 1))])
    share = np.asarray(jax.nn.softmax(params["weight"][1]))
    hidden, other = share @ parts, np.asarray(params["context_embedding"][2])
    error = 1 / (1 + np.exp(-hidden @ other)) - 1
    np.testing.assert_allclose(gradient["context_embedding"][2], error * hidden, rtol=1e-4)
    np.testing.assert_allclose(gradient["item_embedding"][1], share[0] * error * other, rtol=1e-4)
    np.testing.assert_allclose(gradient["side_embedding_1"][2], share[2] * error * other, rtol=1e-4)
    of_weights = error * share * ((parts - hidden) @ other)
    np.testing.assert_allclose(gradient["weight"][1], of_weights, rtol=1e-4, atol=1e-6)
    assert not np.asarray(gradient["item_embedding"])[[0, 2, 3, 4]].any()


def test_a_cold_item_has_the_mean_of_its_side_information() -> None:
    variables = drawn(MODEL)
    seen = jnp.asarray([False, True, True, False, False])
    found: Any = MODEL.apply(variables, SIDE, seen, method="vectors")
    first, second = (np.asarray(variables["params"][f"side_embedding_{s}"]) for s in (0, 1))
    np.testing.assert_allclose(found[4], (first[1] + second[2]) / 2, rtol=1e-6)
    np.testing.assert_allclose(found[3], first[2], rtol=1e-6)
    assert not np.asarray(found[0]).any()
    merged: Any = MODEL.apply(variables, jnp.arange(5), SIDE, method="merged")
    np.testing.assert_array_equal(found[1:3], merged[1:3])
    plain = EGES(4, dim=5)
    cold = plain.apply(drawn(plain), None, seen, method="vectors")
    assert np.asarray(cold)[1:3].all() and not np.asarray(cold)[3:].any()


def test_walks_train_it_and_items_that_share_sessions_come_near() -> None:
    """Sessions of items 1 to 3 or of 4 to 6: a centre scores its own group's contexts higher."""
    rows = np.array([[1, 2, 3, 1, 3, 2], [4, 5, 6, 4, 6, 5]])
    events = TrainingEvents(np.repeat([0, 1], 6), rows.reshape(-1), 7)
    model = EGES(7, side_sizes=(2,), dim=4)
    side = np.array([0, 1, 1, 1, 2, 2, 2, 1])[:, None]
    columns = skip_gram.columns(item_graph(events), side=side)
    assert columns["walk_start"].tolist() == [1, 2, 3, 4, 5, 6]
    task = skip_gram.skip_gram(model, length=4, window=2, negatives=3)
    examples = {"example": jnp.arange(8) % 6, "mask": jnp.arange(8) < 6}
    variables = task.init(jax.random.key(1), task.prepare(jax.random.key(0), examples, columns))
    tx = optax.adam(0.05)

    @jax.jit
    def train(variables: Any, columns: Any) -> Any:
        def step(carry: Any, key: Any) -> Any:
            variables, state = carry
            batch = task.prepare(key, examples, columns)

            def loss(variables: Any) -> Any:
                return task.losses(variables, batch, key)[0]["skip_gram"]

            value, gradient = jax.value_and_grad(loss)(variables)
            change, state = tx.update(gradient, state)
            return (optax.apply_updates(variables, change), state), value

        keys = jax.random.split(jax.random.key(2), 100)
        (variables, _), values = jax.lax.scan(step, (variables, tx.init(variables)), keys)
        return variables, values

    assert repeated_float_adds(train.trace(variables, columns), "cuda") == []
    variables, values = train(variables, columns)
    assert values[-10:].mean() < 0.8 * values[:3].mean()
    item = jnp.arange(1, 7)
    scores = model.apply(variables, item, jnp.tile(item, (6, 1)), jnp.asarray(side), train=False)
    same = (np.arange(6)[:, None] < 3) == (np.arange(6) < 3)
    other = ~np.eye(6, dtype=bool)
    assert np.asarray(scores)[same & other].min() > np.asarray(scores)[~same].max()


def test_masked_walks_change_nothing() -> None:
    events = TrainingEvents(np.zeros(4, int), np.array([1, 2, 3, 1]), 4)
    columns = skip_gram.columns(item_graph(events), side=np.asarray(SIDE))
    task = skip_gram.skip_gram(MODEL, length=3, window=1, negatives=2)
    examples = {"example": jnp.asarray([0, 1]), "mask": jnp.asarray([True, False])}
    batch = dict(task.prepare(jax.random.key(0), examples, columns))
    variables = drawn(MODEL)
    first = task.losses(variables, batch, jax.random.key(1))[0]["skip_gram"]
    changed = batch | {"item": batch["item"].at[1].set(4)}
    assert first == task.losses(variables, changed, jax.random.key(1))[0]["skip_gram"]
    alone = jax.tree.map(lambda leaf: leaf[:1], {n: batch[n] for n in ("centre", "item", "mask")})
    again = task.losses(variables, batch | alone, jax.random.key(1))[0]["skip_gram"]
    np.testing.assert_allclose(first, again, rtol=1e-6)
    assert task.predict(variables, batch).shape == batch["centre"].shape


def test_a_value_outside_its_field_gives_nan() -> None:
    """Of items that were met as of cold ones."""
    wrong = SIDE.at[1, 0].set(4).at[2, 1].set(-1)
    seen = jnp.asarray([True, False, True, True, False])
    found = np.asarray(MODEL.apply(drawn(MODEL), wrong, seen, method="vectors"))
    np.testing.assert_array_equal(np.isnan(found).any(axis=1), [False, True, True, False, False])


def test_wrong_sizes_are_refused() -> None:
    one = jnp.ones(1, jnp.int32)
    with pytest.raises(ValueError, match=r"side: shape \(4, 2\): must be \(5, 2\)"):
        MODEL.init(jax.random.key(0), one, one[:, None], SIDE[:4], train=False)
    with pytest.raises(ValueError, match=r"side: shape None: must be \(5, 2\)"):
        MODEL.init(jax.random.key(0), one, one[:, None], train=False)
    with pytest.raises(ValueError, match="dim=0: must be at least 1"):
        EGES(4, dim=0).init(jax.random.key(0), one, one[:, None], train=False)
    with pytest.raises(ValueError, match="negatives=0: must be at least 1"):
        skip_gram.skip_gram(MODEL, negatives=0)
