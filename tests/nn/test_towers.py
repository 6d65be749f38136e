"""What holds for every model of two towers, and what is special to some."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec import losses
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.features import Categorical, Numeric
from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.retrieval.dssm import dssm
from jaxrec.nn.retrieval.facebook_ebr import concatenated, facebook_ebr
from jaxrec.nn.retrieval.mv_dssm import MultiViewDSSM
from jaxrec.nn.retrieval.two_tower import Frozen, TwoTower
from jaxrec.nn.retrieval.youtube_dnn import WatchTimeRanker, expected_watch_time, with_powers, youtube_dnn
from jaxrec.optim.loss_weighting import static
from jaxrec.tasks import pairs
from jaxrec.tasks.two_tower import two_tower
from jaxrec.train.state import create
from jaxrec.train.step import make_step
from jaxrec.types import Array, Context
from tests.lowering import repeated_float_adds
from tests.nn.drawn import applied, drawn
from tests.tasks import small_pairs
from tests.tasks.small_pairs import NUM_ITEMS, NUM_USERS
from tests.tasks.small_towers import (
    HISTORY,
    HISTORY_TAGS,
    ITEM_ID,
    KIND,
    TAGS,
    TEXT,
    USER_ID,
    context,
)

DIMS: dict[str, Any] = {"user_dims": (5, 4), "item_dims": (6, 4), "temperature": 0.5, "max_history": 4}
LINEAR_LAST = Factory(MLP, activate_last=False)
MODELS: dict[str, Any] = {
    "ids": TwoTower((USER_ID,), (ITEM_ID,), **DIMS, mlp=LINEAR_LAST),
    "features": TwoTower((KIND,), (TAGS, TEXT), **DIMS),
    "all": TwoTower((USER_ID, KIND, HISTORY, HISTORY_TAGS), (ITEM_ID, TAGS, TEXT), **DIMS, id_dropout=0.3),
    "dssm": dssm((USER_ID, KIND), (TAGS, TEXT), dims=(5, 4)),
    "mv_dssm": MultiViewDSSM(
        (USER_ID, KIND),
        (ITEM_ID, TAGS, TEXT),
        views=(("item_id", "item_tags"), ("item_text",)),
        mlp=Factory(MLP, activation=nn.tanh),
        **DIMS,
    ),
    "youtube_dnn": youtube_dnn(NUM_ITEMS, (KIND,), dim=4, dims=(5, 3), max_history=4),
    "youtube_shared": youtube_dnn(NUM_ITEMS, dim=3, dims=(5, 3), shared=True, cosine=True, temperature=0.5),
    "facebook_ebr": facebook_ebr((USER_ID, HISTORY), (ITEM_ID, TAGS), dims=(4,)),
}
USER, ITEM = np.array([1, 3, 6, 4]), np.array([[2, 9, 2], [1, 1, 5], [7, 3, 8], [4, 6, 9]])
every_model = pytest.mark.parametrize("name", MODELS)
ALIKE = {"ids", "features", "dssm", "youtube_shared"}  # whose steps are compiled for another of their kind


@functools.cache
def variables(name: str) -> Any:
    """Drawn variables, whose rows of padding are 0."""

    def without_padding(path: Any, leaf: np.ndarray) -> np.ndarray:
        if path[-1].key.endswith("_embedding"):
            leaf[0] = 0.0
        return leaf

    found = drawn(MODELS[name], USER, ITEM, context(), train=False)
    return jax.tree_util.tree_map_with_path(without_padding, found)


def scores(name: str, user: Any = USER, item: Any = ITEM, columns: Any = None) -> np.ndarray:
    found = applied(MODELS[name], variables(name), user, item, columns or context(), train=False)
    return np.asarray(found)


def close(a: Any, b: Any) -> None:
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6)


# --- of all --------------------------------------------------------------------------------------------


@every_model
def test_scores_are_those_without_compilation_and_each_pair_is_for_itself(name: str) -> None:
    if name in ("all", "mv_dssm"):  # operation by operation is slow
        close(scores(name), MODELS[name].apply(variables(name), USER, ITEM, context(), train=False))
    order = np.array([2, 0, 3, 1])
    close(scores(name, USER[order], ITEM[order]), scores(name)[order])
    close(scores(name, USER, ITEM[:, ::-1].copy()), scores(name)[:, ::-1])
    assert scores(name).std() > 0.02


@every_model
def test_cosines_are_bounded_and_scale_free(name: str) -> None:
    model = MODELS[name]
    if model.cosine:
        assert (np.abs(scores(name)) <= (1 + 1e-5) / model.temperature).all()
        users = applied(model, variables(name), USER, context(), train=False, method="users")
        norms = np.linalg.norm(users, axis=1)  # of a ReLU's zeros the vector is zero
        close(norms[norms > 1e-6], np.ones((norms > 1e-6).sum()))


@every_model
def test_a_wider_column_and_another_order_of_values_change_nothing(name: str) -> None:
    tags = np.asarray(context()["item_tags"])
    wider = np.pad(tags[:, ::-1], ((0, 0), (2, 1)))
    close(scores(name, columns={**context(), "item_tags": jnp.asarray(wider)}), scores(name))


@every_model
def test_entities_without_any_value_have_finite_scores_and_gradients(name: str) -> None:
    empty = {
        key: jnp.zeros_like(column) if key.startswith(("user_", "item_")) and "view" not in key else column
        for key, column in context().items()
    }
    empty["length"] = jnp.zeros_like(empty["length"])

    def total(variables: Any) -> Array:
        return jnp.sum(jnp.sin(1.0 + MODELS[name].apply(variables, USER, ITEM, empty, train=False)))

    value, gradients = jax.jit(jax.value_and_grad(total))(variables(name))
    assert np.isfinite(value)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(leaf).all()
        if path[-1].key.endswith("_embedding"):
            assert not np.asarray(leaf).any()


@every_model
def test_gradients_are_finite_and_padding_has_none(name: str) -> None:
    def total(variables: Any) -> Array:
        found = MODELS[name].apply(variables, USER, ITEM, context(), train=False)
        return jnp.sum(jnp.sin(1.0 + found))

    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(total))(variables(name))):
        assert np.isfinite(leaf).all()
        if path[-1].key.endswith("_embedding"):
            assert not np.asarray(leaf[0]).any()
            assert np.asarray(leaf).any(), path


@every_model
def test_all_items_are_ranked_by_the_scores_of_pairs(name: str) -> None:
    found = pairs.finished(MODELS[name], variables(name), context())
    assert found["users"].shape[0] == NUM_USERS + 1
    users = np.array([0, 3, 5])
    queries = {"user": jnp.asarray(users), "length": jnp.zeros(3, jnp.int32)}
    ranked = pairs.FACTORS.query(found, queries, context()) @ pairs.FACTORS.items(found).T
    every = np.tile(np.arange(1, NUM_ITEMS + 1), (3, 1))
    close(np.asarray(ranked)[:, 1:], scores(name, users + 1, every))


@every_model
def test_penalised_rows_are_those_of_ids(name: str) -> None:
    model = MODELS[name]
    rows = applied(model, variables(name), USER, ITEM, method="penalised")
    ids = [f.name for f in (*model.user_fields, *model.item_fields) if f.name in ("user_id", "item_id")]
    assert [row.shape[:-1] for row in rows] == [
        USER.shape if name == "user_id" else ITEM.shape for name in ids
    ]


# --- in a step of training -----------------------------------------------------------------------------

SOME = small_pairs.examples(0, 3, 5, 6, 8, 9, 12, 1, last=False)


@functools.cache
def task(name: str) -> Any:
    if name == "mv_dssm":
        return two_tower(MODELS[name], negatives=4, same="item_view")
    if name == "facebook_ebr":
        return two_tower(
            MODELS[name], functools.partial(losses.hinge, margin=0.4), corrected=False, hardest=2
        )
    return two_tower(MODELS[name], negatives=4 if name in ("all", "youtube_dnn") else 0)


def step_of(name: str, axis: str | None, steps: int = 1) -> Any:
    """Steps on the same eight pairs, of which the last is masked: (state, context) → state, losses."""
    step = make_step(task(name), optax.flatten(optax.sgd(0.3)), static(), axis)

    def run(state: Any, context: Context) -> Any:
        def body(state: Any, _: None) -> Any:
            state, logs = step(state, SOME, context)
            return state, logs["loss"]

        return jax.lax.scan(body, state, None, length=steps)

    return run


@functools.cache
def start(name: str) -> Any:
    tx = optax.flatten(optax.sgd(0.3))
    return jax.jit(lambda c: create(task(name), tx, static(), jax.random.key(1), SOME, c))(context())


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ALIKE])
def test_twenty_steps_lower_the_loss_and_devices_change_nothing(name: str) -> None:
    one, found = jax.jit(step_of(name, None, steps=20))(start(name), context())
    found = np.asarray(found)
    assert found[-3:].mean() < found[:3].mean()
    spread = jax.vmap(step_of(name, "devices", steps=20), (None, None), axis_name="devices", axis_size=2)
    two, shared = jax.jit(spread)(start(name), context())
    np.testing.assert_allclose(shared[0], found, rtol=1e-4, atol=1e-5)
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(two.params), strict=True):
        np.testing.assert_allclose(b[1], a, rtol=1e-3, atol=1e-4)


@every_model
def test_no_step_adds_floats_by_repeated_ids_on_cuda(name: str) -> None:
    traced = jax.jit(step_of(name, None)).trace(start(name), context())
    assert repeated_float_adds(traced, "cuda") == []


# --- ids, histories, widths ----------------------------------------------------------------------------


def test_an_item_without_an_id_is_known_by_its_features_alone() -> None:
    """Items 8 and 9 have no pair: their own rows of the table change no score, others' do."""
    changed = jax.tree.map(np.copy, variables("all"))
    changed["params"]["embedding"]["item_id_embedding"][8:] += 5.0
    every = np.tile(np.arange(1, NUM_ITEMS + 1), (len(USER), 1))
    close(applied(MODELS["all"], changed, USER, every, context(), train=False), scores("all", USER, every))
    changed["params"]["embedding"]["item_id_embedding"][7] += 5.0
    assert not np.allclose(
        applied(MODELS["all"], changed, USER, every, context(), train=False)[:, 6],
        scores("all", USER, every)[:, 6],
    )


def test_a_dropped_id_is_an_unknown_one() -> None:
    """At rate 1, training is as if no user and no item had an id; evaluation keeps them."""
    model = TwoTower((USER_ID, KIND), (ITEM_ID, TAGS), **DIMS, id_dropout=1.0)
    found = drawn(model, USER, ITEM, context(), train=False)
    rngs = {"dropout": jax.random.key(0)}
    dropped = model.apply(found, USER, ITEM, context(), train=True, rngs=rngs, rows=np.arange(4))
    unknown = {**context(), "user_id": jnp.zeros(NUM_USERS + 1, jnp.int32)}
    unknown["item_id"] = jnp.zeros(NUM_ITEMS + 1, jnp.int32)
    close(dropped, model.apply(found, USER, ITEM, unknown, train=False))
    assert not np.allclose(dropped, model.apply(found, USER, ITEM, context(), train=False))


def test_noise_of_ids_derives_from_the_number_of_a_row() -> None:
    model = TwoTower((USER_ID,), (ITEM_ID,), **DIMS, id_dropout=0.5)
    found = drawn(model, USER, ITEM, context(), train=False)

    def noisy(user: Array, item: Array, rows: Array) -> Any:
        rngs = {"dropout": jax.random.key(2)}
        return model.apply(found, user, item, context(), rows=rows, train=True, rngs=rngs)

    run, rows = jax.jit(noisy), np.arange(4)
    whole = run(USER, ITEM, rows)
    close(run(USER[::-1].copy(), ITEM[::-1].copy(), rows[::-1].copy())[::-1], whole)


@pytest.mark.parametrize("with_target", [False, True])
def test_a_history_is_the_mean_of_the_last_items_and_not_of_the_target(with_target: bool) -> None:
    """Against NumPy; user 3 of six has no item, and user 5 has one alone."""
    model = MODELS["youtube_shared"].clone(user_dims=(), max_history=4, with_target=with_target)
    table = variables("youtube_shared")["params"]["embedding"]["item_id_embedding"]
    params = {"params": {"embedding": {"item_id_embedding": table}}}
    rows = np.arange(1, NUM_USERS + 1)
    target = np.array([4, 1, 6, 1, 2, 3])
    for train in (False, True):
        expected = np.zeros((NUM_USERS, 3))
        for user in range(NUM_USERS):
            data = context()
            items = np.asarray(data["items"])[int(data["start"][user]) :][: int(data["length"][user])][-4:]
            kept = [i for i in items if not train or with_target or i != target[user]]
            if kept:
                mean = table[kept].mean(axis=0)
                expected[user] = mean / np.linalg.norm(mean)
        found = model.apply(params, rows, context(), target=target, train=train, method="users")
        close(found, expected)


def test_a_history_of_frozen_vectors_and_of_numbers_is_their_mean() -> None:
    """Against NumPy; user 3 of six has no item, and user 5 has one alone, the target."""
    fields = (Frozen("history_text", 3), Numeric("history_price"))
    model = TwoTower(fields, (ITEM_ID,), (), (), cosine=False, temperature=1.0, max_history=4)
    params = {"params": {"embedding": {"item_id_embedding": np.zeros((NUM_ITEMS + 1, 4), np.float32)}}}
    price = np.arange(NUM_ITEMS + 1, dtype=np.float32) ** 2
    data = {**context(), "item_price": jnp.asarray(price)}
    text, rows = np.asarray(data["item_text"]), np.arange(1, NUM_USERS + 1)
    target = np.array([4, 1, 6, 1, 2, 3])
    for train in (False, True):
        expected = np.zeros((NUM_USERS, 4))
        for user in range(NUM_USERS):
            items = np.asarray(data["items"])[int(data["start"][user]) :][: int(data["length"][user])][-4:]
            if kept := [i for i in items if not train or i != target[user]]:
                expected[user] = [*text[kept].mean(axis=0), price[kept].mean()]
        found = model.apply(params, rows, data, target=target, train=train, method="users")
        close(found, expected)


def test_an_example_is_of_age_zero_once_a_model_is_trained() -> None:
    model = TwoTower((USER_ID, Numeric("example_age")), (ITEM_ID,), **DIMS)
    found = drawn(model, USER, ITEM, context(), train=False)
    ages = {age: model.apply(found, USER, context(), age=age, train=False, method="users") for age in (None,)}
    zero = model.apply(found, USER, context(), age=np.zeros(4, np.float32), train=False, method="users")
    old = model.apply(found, USER, context(), age=np.full(4, 9.0, np.float32), train=False, method="users")
    close(ages[None], zero)
    assert not np.allclose(zero, old)


def test_features_of_another_width_are_refused() -> None:
    wider = {**context(), "item_text": jnp.ones((NUM_ITEMS + 1, 7))}
    with pytest.raises(ValueError, match=r"feature item_text: \[10, 7\], but the model reads vectors of 3"):
        MODELS["features"].apply(variables("features"), USER, ITEM, wider, train=False)


def test_a_feature_that_is_not_there_or_is_no_id_is_refused() -> None:
    without = {name: column for name, column in context().items() if name != "item_tags"}
    with pytest.raises(ValueError, match="feature item_tags: not in the context, which has item_id"):
        MODELS["features"].apply(variables("features"), USER, ITEM, without, train=False)
    numbers = {**context(), "item_tags": jnp.ones((NUM_ITEMS + 1, 2))}
    with pytest.raises(ValueError, match="feature item_tags: float32, but the model reads ids"):
        MODELS["features"].apply(variables("features"), USER, ITEM, numbers, train=False)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"temperature": 0.0}, r"temperature=0\.0: must be positive"),
        ({"max_history": 0}, "max_history=0"),
        ({"user_fields": ()}, "user_fields=.*needs a feature"),
        ({"item_fields": (KIND,)}, "item_fields: 'user_kind' must start with 'item_'"),
        ({"user_fields": (TAGS,)}, "user_fields: 'item_tags' must start with 'user_' or 'history_'"),
    ],
)
def test_wrong_fields_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TwoTower(**{"user_fields": (USER_ID,), "item_fields": (ITEM_ID,), **fields})


def test_an_id_outside_its_table_gives_nan() -> None:
    small = TwoTower((USER_ID,), (Categorical("item_id", 5, 4),), **DIMS)
    found = drawn(small, USER, ITEM, context(), train=False)
    assert np.isnan(applied(small, found, USER, ITEM, context(), train=False)[2, 0])


def test_a_user_whom_the_context_does_not_have_has_no_history_of_another() -> None:
    user = np.array([1, NUM_USERS, NUM_USERS + 1, -1])
    found = scores("youtube_shared", user)
    assert np.isfinite(found[:2]).all() and np.isnan(found[2:]).all()


# --- views, ensembles, ranking by watch time -----------------------------------------------------------


def test_one_view_is_dssm() -> None:
    fields: dict[str, Any] = {"user_dims": (4,), "item_dims": (4,), "mlp": Factory(MLP, activation=nn.tanh)}
    view = MultiViewDSSM((KIND,), (TAGS,), **fields, temperature=0.1, views=(("item_tags",),))
    found = drawn(view, USER, ITEM, context(), train=False)
    params = dict(found["params"])
    params["item_tower"] = params.pop("view_towers_0")
    one = {**context(), "item_view": jnp.ones(NUM_ITEMS + 1, jnp.int32)}
    alone = dssm((KIND,), (TAGS,), dims=(4,), smoothing=10.0)
    close(
        applied(view, found, USER, ITEM, one, train=False),
        applied(alone, {"params": params}, USER, ITEM, context(), train=False),
    )


def test_a_view_is_not_trained_by_items_of_others() -> None:
    """Items 1, 3, 5 are of view 1: the tower of view 2 has a gradient of exactly 0."""
    item = np.array([[1, 3], [5, 3]])

    def total(params: Any) -> Array:
        return jnp.sum(jnp.sin(MODELS["mv_dssm"].apply(params, USER[:2], item, context(), train=False)))

    gradients = jax.jit(jax.grad(total))(variables("mv_dssm"))["params"]
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(gradients["view_towers_1"]))
    assert any(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradients["view_towers_0"]))


def test_views_without_features_or_with_unknown_ones_are_refused() -> None:
    for views, message in (((), "views=()"), (((),), "view 1 reads"), ((("item_x",),), "view 1 reads")):
        with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
            MultiViewDSSM((KIND,), (TAGS,), views=views)
    outside = {**context(), "item_view": context()["item_view"] + 1}
    found = applied(MODELS["mv_dssm"], variables("mv_dssm"), USER, ITEM, outside, train=False)
    assert np.isnan(found[0, 0])  # item 2 would be of view 3


def test_an_ensemble_scores_the_weighted_sum_of_cosines() -> None:
    """And the cosine of the whole is that sum over |a| √n."""
    rng = np.random.default_rng(3)
    members = [(rng.normal(size=(5, dim)), rng.normal(size=(7, dim))) for dim in (3, 4, 2)]
    weights = (0.5, 2.0, 0.0)
    users, items = concatenated([(jnp.asarray(u), jnp.asarray(i)) for u, i in members], weights)
    expected = np.zeros((5, 7))
    for (u, i), weight in zip(members, weights, strict=True):
        norms = np.linalg.norm(u, axis=1)[:, None] * np.linalg.norm(i, axis=1)
        expected += weight * (u @ i.T) / norms
    close(users @ items.T, expected)
    whole = (users @ items.T) / np.linalg.norm(users, axis=1)[:, None] / np.linalg.norm(items, axis=1)
    close(whole, expected / (np.linalg.norm(weights) * np.sqrt(3)))


def test_a_wrong_ensemble_is_refused() -> None:
    one = (jnp.ones((2, 3)), jnp.ones((2, 3)))
    for members, weights in (([], ()), ([one], (1.0, 2.0)), ([one], (0.0,)), ([one, one], (1.0, -1.0))):
        with pytest.raises(ValueError, match="weights"):
            concatenated(members, weights)


def test_youtube_dnn_refuses_a_shared_table_of_two_widths() -> None:
    with pytest.raises(ValueError, match=r"dims=\(5, 3\), dim=4"):
        youtube_dnn(NUM_ITEMS, dim=4, dims=(5, 3), shared=True)
    with pytest.raises(ValueError, match="a layer at least"):
        youtube_dnn(NUM_ITEMS, dim=4, dims=())
    with pytest.raises(ValueError, match=r"smoothing=0\.0"):
        dssm((USER_ID,), (ITEM_ID,), smoothing=0.0)


def test_powers_and_the_ranker() -> None:
    x = np.array([[0.0, 0.25], [1.0, 0.5]], np.float32)
    close(with_powers(jnp.asarray(x)), np.concatenate([x, x**2, np.sqrt(x)], axis=1))
    assert np.isfinite(jax.grad(lambda x: with_powers(x).sum())(jnp.asarray(x))).all()
    ranker = WatchTimeRanker((4, 3))
    found = drawn(ranker, x)
    logit = applied(ranker, found, x)
    assert logit.shape == (2,)
    close(expected_watch_time(logit), np.exp(logit))
