"""Ids that have no row in a table make a loss NaN, and its gradient, except where nothing is real."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses, sampling
from jaxrec.data.events.clusters import clusters_from_labels
from jaxrec.tasks import next_click as session
from jaxrec.tasks import objectives
from jaxrec.tasks.cluster_retrieval import in_cluster_softmax
from jaxrec.tasks.ctr import behaviours, lookup
from jaxrec.tasks.objectives import Objective
from jaxrec.types import SHARED

NUM_ITEMS, DIM = 5, 3
RNG = np.random.default_rng(0)
HIDDEN = jnp.asarray(RNG.normal(size=(2, 2, DIM)), jnp.float32)
TABLE = jnp.asarray(RNG.normal(size=(NUM_ITEMS + 1, DIM)), jnp.float32).at[0].set(0)
WRONG = (-1, -2, NUM_ITEMS + 1, 99, 2**31 - 1, -(2**31))
COUNTS = np.arange(NUM_ITEMS + 1)
CLUSTERS = clusters_from_labels(np.array([0, 0, 1, 1, 1]))

Loss = Callable[[Any, Any, Any, Any], Any]
DIRECT: Mapping[str, Loss] = {
    "softmax_cross_entropy": lambda h, t, y, where: losses.softmax_cross_entropy(
        h, t, y, where=where, block=2
    ),
    "sigmoid_softmax": lambda h, t, y, where: losses.sigmoid_softmax(h, t, y, where=where, block=2),
    "sampled_cosine_softmax": lambda h, t, y, where: losses.sampled_cosine_softmax(
        h, t, y, jnp.full((*y.shape, 2), 3), where=where
    ),
}
OBJECTIVES: Mapping[str, Objective] = {
    "sampled_bce": objectives.sampled(losses.bce, NUM_ITEMS, 1),
    "sampled_bpr": objectives.sampled(losses.bpr, NUM_ITEMS, 1, num_negatives=3),
    "full_softmax": objectives.full_softmax(block=2),
    "sampled_softmax": objectives.sampled_softmax(3, sampling.popularity_table(COUNTS, alpha=1.0)),
    "uniform_softmax": objectives.uniform_softmax(NUM_ITEMS, 3),
    "uniform_softmax_many": objectives.uniform_softmax(NUM_ITEMS, 1, shared=True),
    "sigmoid_softmax": session.sigmoid_softmax(),
    "in_cluster_softmax": in_cluster_softmax(CLUSTERS, 2),
    "shared_negatives": objectives.shared_negatives(
        losses.bpr_max, objectives.negatives(COUNTS, num_samples=3, alpha=0.5)
    ),
}
READ_ROWS = jax.jit(lookup)
READ_BATCH = jax.jit(lambda rows, shared: behaviours(rows, shared, 2))
CONTEXT = {
    "excluded": jnp.array([1]),
    "excluded_start": jnp.zeros(2, jnp.int32),
    "excluded_length": jnp.ones(2, jnp.int32),
}


@functools.cache
def direct(name: str) -> Callable[[Any, Any], Any]:
    """The loss and its gradients as a function of (targets, where), compiled once."""

    def found(targets: Any, where: Any) -> Any:
        return jax.value_and_grad(lambda h, t: DIRECT[name](h, t, targets, where), (0, 1))(HIDDEN, TABLE)

    return jax.jit(found)


@functools.cache
def by_batch(name: str) -> Callable[[Any, Any], Any]:
    """The loss of an objective and its gradients as a function of (targets, changed columns)."""
    objective = OBJECTIVES[name]

    def found(targets: Any, changed: Any) -> Any:
        context = objectives.with_tables(CONTEXT, objective)
        drawn = objective.draw(jax.random.key(0), jnp.zeros((2, 2), jnp.int32), context)
        batch = {**drawn, **changed, "targets": targets}
        return jax.value_and_grad(lambda h, t: objective.loss(h, t, batch, None), (0, 1))(HIDDEN, TABLE)

    return jax.jit(found)


def of_objective(name: str, targets: Any, **changed: Any) -> Any:
    """The loss and its gradients on a batch with targets [2, 2]."""
    return by_batch(name)(np.asarray(targets, np.int32), changed)


def is_nan(found: Any) -> bool:
    """Whether a loss and the gradient of the hidden states are NaN; if not, all gradients are finite."""
    finite = [bool(np.isfinite(leaf).all()) for leaf in jax.tree.leaves(found)]
    assert finite[0] == finite[1] and (not finite[0] or finite[2]), finite
    return not finite[0]


@pytest.mark.parametrize("wrong", [*WRONG, 0])
@pytest.mark.parametrize("name", DIRECT)
def test_a_loss_of_a_target_without_a_row_is_nan(name: str, wrong: int) -> None:
    def found(last: int, where: Any = None) -> Any:
        return direct(name)(np.array([[1, 2], [5, last]], np.int32), where)

    masked = np.array([[True, True], [True, False]])
    assert is_nan(found(wrong))
    assert not is_nan(found(5)) and not is_nan(found(wrong, masked))
    jax.tree.map(np.testing.assert_array_equal, found(wrong, masked), found(4, masked))


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_of_a_target_without_a_row_is_nan(name: str, wrong: int) -> None:
    assert is_nan(of_objective(name, [[1, 2], [5, wrong]]))
    assert not is_nan(of_objective(name, [[1, 2], [5, 0]]))


@pytest.mark.parametrize("wrong", [*WRONG, 0])
@pytest.mark.parametrize(
    "name, column, shape",
    [
        ("sampled_bce", "negatives", (2, 2)),
        ("sampled_bpr", "negatives", (2, 2, 3)),
        ("sampled_softmax", "samples", (2, 3)),
        ("uniform_softmax", "samples", (2, 2, 3)),
        ("uniform_softmax_many", "samples", (2, 1)),
        ("in_cluster_softmax", "samples", (2, 4)),
        ("shared_negatives", "samples", (2, 3)),
    ],
)
def test_an_objective_of_a_sample_without_a_row_is_nan(
    name: str, column: str, shape: tuple[int, ...], wrong: int
) -> None:
    usual = np.full(shape, 2, np.int32)
    drawn = np.where(np.arange(shape[-1]) == shape[-1] - 1, np.int32(wrong), usual)
    if name == "shared_negatives" and wrong == 0:
        return  # 0 is the target of an empty lane there, and no negative
    targets = np.array([[1, 1], [1, 1]])
    value = of_objective(name, targets, **{column: drawn})[0]
    assert jnp.isnan(value)
    assert jnp.isfinite(of_objective(name, targets, **{column: usual})[0])
    assert jnp.isfinite(of_objective(name, 0 * targets, **{column: drawn})[0])


def test_targets_past_the_items_are_none_where_the_table_has_more_rows() -> None:
    loss = jax.jit(lambda targets: losses.softmax_cross_entropy(HIDDEN, TABLE, targets, num_items=4))
    assert jnp.isnan(loss(jnp.array([[1, 2], [3, 5]])))
    assert jnp.isfinite(loss(jnp.array([[1, 2], [3, 4]])))
    smaller = objectives.sampled(losses.bce, NUM_ITEMS - 1, 1)
    batch = {"targets": jnp.array([[1, 2], [3, 5]]), "negatives": jnp.full((2, 2), 1)}
    assert jnp.isnan(jax.jit(lambda: smaller.loss(HIDDEN, TABLE, batch, None))())


@pytest.mark.parametrize("wrong", WRONG)
def test_a_cluster_objective_knows_the_items_that_were_divided(wrong: int) -> None:
    """Item 6 has a row in the table and no cluster; alone in its cluster nothing else would be asked."""
    table = jnp.concatenate([TABLE, TABLE[1:2]])
    targets = jnp.array([[3, 3], [3, 6 if wrong == 6 else wrong]])
    loss = jax.jit(lambda batch: OBJECTIVES["in_cluster_softmax"].loss(HIDDEN, table, batch, None))
    batch = {"samples": jnp.full((2, 4), 1), "targets": targets}
    assert jnp.isnan(loss({**batch, SHARED: {objectives.TABLES: jnp.asarray(CLUSTERS.of)}}))


@pytest.mark.parametrize("wrong", WRONG)
def test_log_probabilities_of_ids_outside_the_table_are_nan(wrong: int) -> None:
    table = sampling.popularity_table(COUNTS, alpha=1.0)
    found = jax.jit(sampling.log_prob)(table, jnp.array([0, 1, 5, wrong]))
    assert jnp.isnan(found).tolist() == [False, False, False, True]
    np.testing.assert_allclose(found[1:3], np.log([1 / 15, 5 / 15]), rtol=1e-6)


@pytest.mark.parametrize("wrong", WRONG)
def test_regularisation_of_an_id_without_a_row_is_nan(wrong: int) -> None:
    counts = jnp.ones(NUM_ITEMS + 1, jnp.int32)
    loss = jax.jit(lambda ids: losses.mini_batch_aware(TABLE, ids, counts))

    def found(last: int) -> Any:
        return loss(jnp.array([[1, 0], [3, last]]))

    assert jnp.isnan(found(wrong)) and jnp.isfinite(found(5)) and jnp.isfinite(found(0))


@pytest.mark.parametrize("wrong", WRONG)
def test_columns_of_an_id_without_a_row_name_an_id_of_no_table(wrong: int) -> None:
    ids = jnp.array([1, wrong])
    assert READ_ROWS(jnp.array([0, 7, 8]), ids).tolist() == [7, -1]
    assert np.isnan(READ_ROWS(jnp.array([[0.5], [0.25]]), ids)).tolist() == [[False], [True]]
    rows = {
        name: jnp.array([value]) for name, value in {"user": 1, "item": wrong, "start": 0, "end": 2}.items()
    }
    kinds = {"items": {"kind": jnp.array([0, 4, 5])}, "users": {"group": jnp.array([0, 3])}}
    shared = {"events": jnp.array([2, 1]), **kinds}
    batch = READ_BATCH(rows, shared)
    assert (batch["kind"].tolist(), batch["history_kind"].tolist()) == ([-1], [[5, 4]])
    assert READ_BATCH({**rows, "user": rows["item"]}, shared)["group"] == -1


@pytest.mark.parametrize("block", [0, -1])
@pytest.mark.parametrize(
    "loss",
    [losses.softmax_cross_entropy, losses.sigmoid_softmax, losses.not_to_recommend],
    ids=lambda f: f.__name__,
)
def test_a_block_of_no_item_is_refused(loss: Callable[..., Any], block: int) -> None:
    with pytest.raises(ValueError, match=f"block={block}: must be at least 1"):
        loss(HIDDEN, TABLE, jnp.ones((2, 2), jnp.int32), block=block)


@pytest.mark.parametrize("num_samples", [0, -1])
def test_a_softmax_over_the_target_alone_is_refused(num_samples: int) -> None:
    with pytest.raises(ValueError, match=f"num_samples={num_samples}: must be at least 1"):
        objectives.sampled_softmax(num_samples, sampling.popularity_table(COUNTS, alpha=1.0))
