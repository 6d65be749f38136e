"""Adaptation to each user's ratings: what it leaves alone, what it changes, and a slow NumPy twin of it."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec.data.synthetic.rated_content import rated_content
from jaxrec.data.tables.rating_tasks import make_tasks
from jaxrec.nn.retrieval.melu import MeLU
from jaxrec.optim.loss_weighting import static
from jaxrec.recipes.melu import ROWS, Recipe, columns_of
from jaxrec.tasks.meta import Adaptation, adapt, gather, meta
from jaxrec.train.state import create
from jaxrec.train.step import make_step
from jaxrec.types import SHARED, Array, Batch, Task
from tests.lowering import repeated_float_adds

CONTENT = rated_content(num_users=16, num_items=30, num_ratings=12)
TASKS = make_tasks(CONTENT, "warm", num_query=3, least=5)
CONTEXT = {**TASKS.columns(), SHARED: CONTENT.content()}
EXAMPLES = {"example": jnp.arange(4), "mask": jnp.array([True, True, True, False])}
RECIPE = Recipe(dim=3, hidden_dims=(5,), gate_dim=3)
MODEL = MeLU(*columns_of(CONTENT), RECIPE.dim, RECIPE.hidden_dims)
TWO = Adaptation(2, 0.05)
KEY = jax.random.key(0)


@functools.cache
def batch() -> Batch:
    return meta(MODEL, TWO).prepare(KEY, EXAMPLES, CONTEXT)


@functools.cache
def variables() -> Any:
    return jax.jit(meta(MODEL, TWO).init)(KEY, batch())


@functools.cache
def compiled(adaptation: Adaptation) -> Any:
    """(params, batch) -> (loss, predictions), gradient."""
    task = meta(MODEL, adaptation)

    def loss(params: Any, batch: Batch) -> tuple[Array, Array]:
        value = task.losses({"params": params}, batch, KEY)[0]["squared_error"]
        return value, task.predict({"params": params}, batch)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def gradients(adaptation: Adaptation, given: Batch | None = None) -> tuple[float, Array, Any]:
    (value, predicted), gradient = compiled(adaptation)(variables()["params"], given or batch())
    return float(value), predicted, gradient


def decide(params: Any, x: Array) -> Any:
    return MODEL.apply({"params": params}, x, method="decide")


def embedded() -> Array:
    """Vectors of the first user's support, [S, F]."""
    vectors: Any = MODEL.apply(variables(), batch()["items"], batch()["users"], method="embed")
    return vectors[0, : TASKS.support.shape[1]]


def close(ours: Any, theirs: Any, *, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), ours, theirs)


def python_twin(adaptation: Adaptation) -> tuple[float, list[np.ndarray]]:
    """The loss and the queries' predictions of one hidden layer: by user and step, gradients by hand."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables()["params"])
    x = np.asarray(MODEL.apply(variables(), batch()["items"], batch()["users"], method="embed"), np.float64)
    losses, predictions = [], []
    for user in range(3):  # the fourth is masked
        w, b = params["layer_0"]["kernel"].copy(), params["layer_0"]["bias"].copy()
        v, c = params["out"]["kernel"][:, 0].copy(), params["out"]["bias"][0]
        support, query = (np.asarray(batch()[part][user]) for part in ("support", "query"))
        of_support, of_query = x[user][: len(support)][support], x[user][len(support) :][query]
        ys, rating = (
            np.asarray(batch()[f"{part}_rating"][user], np.float64) for part in ("support", "query")
        )
        for _ in range(adaptation.steps):
            xs = of_support
            hidden = np.maximum(xs @ w + b, 0)
            error = 2 * (hidden @ v + c - ys[support]) / support.sum()
            back = error[:, None] * v * (hidden > 0)
            rate = adaptation.learning_rate
            w, b, v, c = (
                w - rate * xs.T @ back,
                b - rate * back.sum(0),
                v - rate * hidden.T @ error,
                c - rate * error.sum(),
            )
        predicted = np.maximum(of_query @ w + b, 0) @ v + c
        losses.append(np.mean((predicted - rating[query]) ** 2))
        predictions.append(predicted)
    return float(np.mean(losses)), predictions


def test_loss_and_predictions_are_those_of_a_slow_twin() -> None:
    value, predicted, _ = gradients(TWO)
    expected, queries = python_twin(TWO)
    assert value == pytest.approx(expected, rel=1e-5)
    for user, of_user in enumerate(queries):
        np.testing.assert_allclose(predicted[user][batch()["query"][user]], of_user, rtol=1e-4)
    unadapted, _ = python_twin(Adaptation(0))
    assert abs(value - unadapted) > 1e-3 * unadapted


class Smooth(MeLU):
    """Without kinks, at which the adapted loss jumps."""

    def decide(self, x: Array) -> Array:
        return self.out(jnp.tanh(self.layer[0](x)))[..., 0]


def test_gradients_of_second_order_are_finite_differences() -> None:
    model = Smooth(MODEL.items, MODEL.users, MODEL.dim, MODEL.dims)
    task = meta(model, Adaptation(2, 0.1))

    @jax.jit
    def loss(params: Any) -> Array:
        return task.losses({"params": params}, batch(), KEY)[0]["squared_error"]

    params, rng = variables()["params"], np.random.default_rng(0)
    direction = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), params)
    gradient = jax.grad(loss)(params)
    slope = sum(jax.tree.leaves(jax.tree.map(lambda a, b: float(jnp.vdot(a, b)), gradient, direction)))
    low, high = (
        float(loss(jax.tree.map(lambda p, d, by=by: p + by * d, params, direction))) for by in (-2e-3, 2e-3)
    )
    assert slope == pytest.approx((high - low) / 4e-3, rel=1e-2)


def test_first_order_gives_the_same_loss_and_another_gradient() -> None:
    value, _, gradient = gradients(TWO)
    first_value, _, first = gradients(TWO._replace(first_order=True))
    assert value == pytest.approx(first_value, rel=1e-6)
    differs = jax.tree.map(lambda a, b: not np.allclose(a, b, rtol=1e-3), gradient, first)
    assert any(jax.tree.leaves(differs))


def test_no_step_and_no_rate_are_joint_training() -> None:
    joint = gradients(Adaptation(0))
    for nothing in (Adaptation(2, 0.0), Adaptation(0, 0.05)):
        close(gradients(nothing), joint)


def test_adaptation_changes_decision_layers_alone_and_lowers_their_loss() -> None:
    x = embedded()
    rating, support = batch()["support_rating"][0], batch()["support"][0]
    run = jax.jit(
        functools.partial(adapt, decide, adaptation=Adaptation(30, 0.01), local=MODEL.decision_layers)
    )
    own, values = run(variables()["params"], x, rating, support)
    assert (np.diff(values) < 0).all()
    for name, part in variables()["params"].items():
        same = [
            np.array_equal(a, b)
            for a, b in zip(jax.tree.leaves(part), jax.tree.leaves(own[name]), strict=True)
        ]
        assert all(same) if name in ("item_content", "user_content") else not any(same), name


def test_some_decision_layers_can_be_local() -> None:
    x = embedded()
    own, _ = adapt(
        decide,
        variables()["params"],
        x,
        batch()["support_rating"][0],
        batch()["support"][0],
        TWO,
        local=("out",),
    )
    close(own["layer_0"], variables()["params"]["layer_0"], rtol=0, atol=0)
    assert not np.array_equal(own["out"]["bias"], variables()["params"]["out"]["bias"])
    assert Adaptation(1, 0.1, local=("out",)).checked(MODEL) == ("out",)


def with_tasks(**changes: np.ndarray) -> Batch:
    tasks: dict[str, Any] = {name: column[:4] for name, column in TASKS.columns().items()}
    return {**gather({**tasks, **changes}, CONTENT.content()), "mask": EXAMPLES["mask"]}


def test_the_order_of_a_set_changes_nothing() -> None:
    turned = with_tasks(
        support=TASKS.support[:4, ::-1], support_rating=TASKS.support_rating[:4, ::-1],
        query=TASKS.query[:4, ::-1], query_rating=TASKS.query_rating[:4, ::-1],
    )  # fmt: skip
    value, _, gradient = gradients(TWO)
    turned_value, _, turned_gradient = gradients(TWO, turned)
    assert value == pytest.approx(turned_value, rel=1e-5)
    close(gradient, turned_gradient, rtol=1e-3, atol=1e-5)


def test_padding_masked_users_and_their_ratings_change_nothing() -> None:
    wild: dict[str, Any] = dict(with_tasks())
    for part in ("support", "query"):
        real = wild[part] & wild["mask"][:, None]
        wild[f"{part}_rating"] = jnp.where(real, wild[f"{part}_rating"], 1e6)
    wild["items"] = {name: column.at[3].set(0) for name, column in wild["items"].items()}
    value, _, gradient = gradients(TWO)
    other, _, other_gradient = gradients(TWO, wild)
    assert value == pytest.approx(other, rel=1e-6)
    close(gradient, other_gradient)


def test_all_masked_users_give_no_loss_and_no_gradient() -> None:
    value, _, gradient = gradients(TWO, {**batch(), "mask": jnp.zeros(4, bool)})
    assert value == 0.0
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(gradient))


def test_without_support_the_model_answers_unadapted() -> None:
    nothing = with_tasks(support=np.zeros_like(TASKS.support[:4]), support_rating=TASKS.support_rating[:4])
    _, predicted, gradient = gradients(TWO, nothing)
    _, unadapted, _ = gradients(Adaptation(0))
    real = np.asarray(nothing["query"])
    np.testing.assert_allclose(np.asarray(predicted)[real], np.asarray(unadapted)[real], rtol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert (np.asarray(nothing["users"]["support_mean"]) == 0).all()


def test_shares_of_devices_add_up() -> None:
    task = meta(MODEL, TWO)
    halves = jax.tree.map(lambda leaf: leaf.reshape(2, 2, *leaf.shape[1:]), batch())
    losses = jax.vmap(
        lambda part: task.losses(variables(), part, KEY, "devices")[0]["squared_error"], axis_name="devices"
    )
    shares = jax.jit(losses)(halves)
    value, _, _ = gradients(TWO)
    assert float(shares.sum()) == pytest.approx(value, rel=1e-5)
    assert float(shares[0]) != pytest.approx(value, rel=1e-2)


def test_the_padding_row_has_no_gradient() -> None:
    _, _, gradient = gradients(TWO)
    for part in ("item_content", "user_content"):
        for name, table in gradient[part].items():
            assert (np.asarray(table)[0] == 0).all(), name
            assert np.abs(table).sum() > 0, name


def test_support_statistics_are_those_of_the_support() -> None:
    real = TASKS.support[:4] != 0
    np.testing.assert_array_equal(batch()["users"]["support_count"], real.sum(1))
    mean = [TASKS.support_rating[i][real[i]].mean() for i in range(4)]
    np.testing.assert_allclose(batch()["users"]["support_mean"], mean, rtol=1e-6)


def test_an_id_outside_the_content_is_nan() -> None:
    bad = TASKS.query[:4].copy()
    bad[0, -1] = CONTENT.num_items + 1
    _, predicted, _ = gradients(TWO, with_tasks(query=bad))
    assert np.isnan(predicted[0, -1]) and np.isfinite(predicted[1:3]).all()


@functools.cache
def fifteen_steps(row: str) -> tuple[float, float]:
    """The loss at the first and the last of some steps of a row's task."""
    _, task = ROWS[row].task(CONTENT, RECIPE)
    tx = optax.adam(0.05)
    state = jax.jit(lambda key: create(task, tx, static(), key, EXAMPLES, CONTEXT))(KEY)
    step = make_step(task, tx, static())
    _, logs = jax.jit(lambda s: jax.lax.scan(lambda s, _: step(s, EXAMPLES, CONTEXT), s, None, length=15))(
        state
    )
    return float(logs["loss"][0]), float(logs["loss"][-1])


@pytest.mark.parametrize("row", ["melu-1", "no-adaptation", "wide-deep", "poso-mean"])
def test_training_lowers_the_loss(row: str) -> None:
    first, last = fifteen_steps(row)
    assert last < 0.6 * first


def test_a_step_adds_no_floats_where_ids_repeat() -> None:
    task: Task = meta(MODEL, TWO)

    def loss(params: Any) -> Array:
        return task.losses({"params": params}, batch(), KEY)[0]["squared_error"]

    assert repeated_float_adds(jax.jit(jax.grad(loss)).trace(variables()["params"]), "cuda") == []


@pytest.mark.parametrize(
    ("adaptation", "match"),
    [
        (Adaptation(-1), "steps=-1: must be 0 or more"),
        (Adaptation(1, float("nan")), "learning_rate=nan: must be 0 or more, and finite"),
        (Adaptation(1, -0.1), r"learning_rate=-0\.1"),
        (Adaptation(local=("item_content",)), "some of the decision layers layer_0, out; embeddings are not"),
        (Adaptation(local=()), "steps=0 adapts nothing"),
    ],
)
def test_bad_adaptations_are_refused(adaptation: Adaptation, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        meta(MODEL, adaptation)


def test_a_loss_of_the_support_needs_no_adaptation() -> None:
    with pytest.raises(ValueError, match="loss_of='all', steps=2: goes with steps=0"):
        meta(MODEL, TWO, loss_of="all")
    bad: Any = "support"
    with pytest.raises(ValueError, match="loss_of='support': must be 'query' or 'all'"):
        meta(MODEL, Adaptation(0), loss_of=bad)
