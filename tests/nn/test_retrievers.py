"""What holds for every model that scores pairs of a user and an item (`jaxrec.tasks.pairs.PairModel`)."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec.data.events.graph import bipartite
from jaxrec.nn.retrieval.lightgcn import LightGCN
from jaxrec.nn.retrieval.mf import MF
from jaxrec.nn.retrieval.ngcf import NGCF
from jaxrec.optim.loss_weighting import static
from jaxrec.tasks import pairs
from jaxrec.train.state import create
from jaxrec.train.step import make_step
from jaxrec.types import Array, Context, Retriever, Variables
from tests.lowering import repeated_float_adds
from tests.nn.drawn import applied, drawn
from tests.tasks import small_pairs
from tests.tasks.small_pairs import MOST, NUM_ITEMS, NUM_USERS

SMALL: dict[str, Any] = {"num_users": NUM_USERS, "num_items": NUM_ITEMS, "dim": 4}
MODELS: dict[str, Any] = {
    "lightgcn": LightGCN(**SMALL),
    "lightgcn_dropout": LightGCN(**SMALL, num_layers=2, edge_dropout=0.2),
    "mf": MF(**SMALL),
    "mf_biases": MF(**SMALL, item_bias=True, user_bias=True),
    "mf_cosine": MF(**SMALL, cosine=True),
    "ngcf": NGCF(**SMALL, hidden_dims=(3, 5), node_dropout=0.1, message_dropout=0.1),
}
TABLES = ("user_embedding", "item_embedding")  # the endings of the names of tables of users and items
# Models that read rows of others than the user and the item: graphs.
SPREADING = {"lightgcn", "lightgcn_dropout", "ngcf"}
USER, ITEM = np.array([1, 3, 6, 4]), np.array([[2, 9, 2], [1, 1, 5], [7, 3, 8], [4, 6, 9]])
LABELLED = {"mf_biases"}  # trained on labelled pairs, as biases of users matter there alone
every_model = pytest.mark.parametrize("name", MODELS)


@functools.cache
def context() -> dict[str, Any]:
    """The columns that the models read."""
    graph = bipartite(small_pairs.events(), num_users=NUM_USERS)
    return {**small_pairs.context(), "graph": jax.tree.map(jnp.asarray, graph)}


@functools.cache
def variables(name: str) -> Any:
    """Drawn variables, whose rows of padding are 0."""
    found = drawn(MODELS[name], USER, ITEM, context(), train=False)
    return jax.tree_util.tree_map_with_path(_without_padding, found)


def _without_padding(path: Any, leaf: np.ndarray) -> np.ndarray:
    if path[-1].key.endswith(TABLES):
        leaf[0] = 0.0
    return leaf


def scores(name: str, user: Any = USER, item: Any = ITEM) -> np.ndarray:
    found = applied(MODELS[name], variables(name), user, item, context(), train=False)
    return np.asarray(found)


def close(a: Any, b: Any) -> None:
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6)


@every_model
def test_scores_are_those_without_compilation(name: str) -> None:
    eager = MODELS[name].apply(variables(name), USER, ITEM, context(), train=False)
    assert eager.shape == ITEM.shape
    close(scores(name), eager)


@every_model
def test_a_pair_is_scored_for_itself(name: str) -> None:
    order = np.array([2, 0, 3, 1])
    close(scores(name, USER[order], ITEM[order]), scores(name)[order])
    close(scores(name, USER, ITEM[:, ::-1]), scores(name)[:, ::-1])
    one = scores(name, USER[:1], ITEM[:1, :1])
    close(one[0, 0], scores(name)[0, 0])
    assert scores(name).std() > 0.05


@every_model
def test_padding_rows_start_at_zero(name: str) -> None:
    init = jax.jit(functools.partial(MODELS[name].init, train=False))(
        jax.random.key(0), USER, ITEM, context()
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(init):
        if path[-1].key.endswith(TABLES):
            assert (leaf[0] == 0.0).all()
            assert (leaf[1:] != 0.0).all()
            assert leaf.shape[0] in (NUM_USERS + 1, NUM_ITEMS + 1)


@every_model
def test_gradients_are_finite_and_where_they_belong(name: str) -> None:
    """Padding sends none, and only the rows that a batch reads have one."""
    user, item = np.array([0, 2, 5]), np.array([[1, 0], [5, 4], [0, 4]])

    def total(variables: Variables) -> Array:
        found = MODELS[name].apply(variables, user, item, context(), train=False)
        return jnp.sum(jnp.sin(1.0 + found))

    read = {NUM_USERS + 1: [2, 5], NUM_ITEMS + 1: [1, 4, 5]}
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(total))(variables(name))):
        leaf = np.asarray(leaf)
        assert np.isfinite(leaf).all()
        assert leaf.any()
        if path[-1].key.endswith(TABLES):
            assert not leaf[0].any()
            if name not in SPREADING:
                rows = np.flatnonzero(np.abs(leaf).sum(axis=-1))
                assert set(rows) <= set(read[len(leaf)])


@every_model
def test_all_items_are_ranked_by_the_scores_of_pairs(name: str) -> None:
    """Up to a constant of each user, which ranks nothing: by vectors, or by scores of all items."""
    model, found = pairs.ranking(MODELS[name], variables(name), context())
    users = np.array([0, 3, 5])
    queries = {"user": jnp.asarray(users), "length": jnp.zeros(3, jnp.int32)}
    if isinstance(model, Retriever):
        assert found["users"].shape[0] == NUM_USERS + 1
        ranked = model.query(found, queries, context()) @ model.items(found).T
    else:
        ranked = model.scores(found, queries, context())
    assert ranked.shape == (3, NUM_ITEMS + 1)
    every = np.tile(np.arange(1, NUM_ITEMS + 1), (3, 1))
    difference = np.asarray(ranked)[:, 1:] - scores(name, users + 1, every)
    close(difference, np.broadcast_to(difference[:, :1], difference.shape))


@every_model
def test_penalised_rows_are_those_of_the_pairs(name: str) -> None:
    rows = applied(MODELS[name], variables(name), USER, ITEM, method="penalised")
    assert {row.ndim for row in rows} <= {2, 3, 4}
    for row in rows:
        assert row.shape[: min(row.ndim - 1, 2)] in ((4,), (4, 3))
    swapped = applied(MODELS[name], variables(name), USER[::-1].copy(), ITEM[::-1].copy(), method="penalised")
    for row, other in zip(rows, swapped, strict=True):
        close(row, other[::-1])


@every_model
@pytest.mark.parametrize("field", ["num_users", "num_items", "dim"])
def test_sizes_below_one_are_refused(name: str, field: str) -> None:
    model = MODELS[name]
    if field not in {f.name for f in model.__dataclass_fields__.values()}:
        pytest.skip(f"{name} has no {field}")
    with pytest.raises(ValueError, match=f"{field}=0"):
        jax.eval_shape(
            lambda: model.clone(**{field: 0}).init(jax.random.key(0), USER, ITEM, context(), train=False)
        )


# --- in a step of training -----------------------------------------------------------------------------


class Trained(NamedTuple):
    start: Any
    step: Any
    losses: list[float]


@functools.cache
def task(name: str) -> Any:
    make = pairs.pointwise if name in LABELLED else pairs.pairwise
    sampler = pairs.unseen(NUM_ITEMS, MOST)
    return make(MODELS[name], sampler=sampler, negatives=2, l2=0.01)


def step_of(name: str, axis: str | None, steps: int = 1) -> Any:
    """Steps on the same eight pairs, of which the last is masked: (state, context) → state, losses."""
    step = make_step(task(name), optax.flatten(optax.adam(0.05)), static(), axis)
    some = small_pairs.examples(0, 3, 5, 6, 8, 9, 13, 1, last=False)

    def run(state: Any, context: Context) -> Any:
        def body(state: Any, _: None) -> Any:
            state, logs = step(state, some, context)
            return state, logs["loss"]

        return jax.lax.scan(body, state, None, length=steps)

    return run


@functools.cache
def start(name: str) -> Any:
    some = small_pairs.examples(0, 3, 5, 6, 8, 9, 13, 1, last=False)
    tx = optax.flatten(optax.adam(0.05))
    return jax.jit(lambda c: create(task(name), tx, static(), jax.random.key(1), some, c))(context())


@every_model
def test_steps_lower_the_loss_and_devices_change_nothing(name: str) -> None:
    one, found = jax.jit(step_of(name, None, steps=12))(start(name), context())
    found = np.asarray(found)
    assert found[-3:].mean() < found[:3].mean()
    spread = jax.vmap(step_of(name, "devices", steps=12), (None, None), axis_name="devices", axis_size=2)
    two, shared = jax.jit(spread)(start(name), context())
    np.testing.assert_allclose(shared[0], found, rtol=1e-4)
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(two.params), strict=True):
        np.testing.assert_allclose(b[1], a, rtol=1e-3, atol=1e-4)
        if a.ndim == 2 and a.shape[0] in (NUM_USERS + 1, NUM_ITEMS + 1):
            assert not np.asarray(a[0]).any()


@every_model
def test_no_step_adds_floats_by_repeated_ids_on_cuda(name: str) -> None:
    traced = jax.jit(step_of(name, None)).trace(start(name), context())
    assert repeated_float_adds(traced, "cuda") == []
