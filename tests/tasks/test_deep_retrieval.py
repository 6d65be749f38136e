"""Losses of Deep Retrieval by their formulas, on any number of devices; learning of paths; what is found."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp

from jaxrec.index.paths import beam_search, codes_of, number_paths
from jaxrec.index.paths_learning import draw_paths, no_scores
from jaxrec.index.scored import Found
from jaxrec.nn.retrieval.deep_retrieval import DeepRetrieval
from jaxrec.tasks import deep_retrieval as task
from jaxrec.tasks import objectives
from tests.tasks import small

MODEL: Any = DeepRetrieval(
    small.NUM_ITEMS, draw_paths, 5, 4, num_codes=3, depth=2, paths_per_item=2, hidden_dims=(6,)
)
FULL = objectives.full_softmax(8)
CUTS = [(0, 1), (4, 9), (4, 1), (10, 3), (1, 5), (7, 2), (8, 4), (6, 1)]


@functools.cache
def columns() -> dict[str, Any]:
    return {name: jnp.asarray(column) for name, column in small.columns().items()}


def examples() -> dict[str, Any]:
    events = [int(columns()["start"][user]) + cut for user, cut in CUTS]
    return {"example": jnp.array(events, jnp.int32), "mask": jnp.arange(8) < 7}


@functools.cache
def prepared() -> Any:
    return jax.jit(task.deep_retrieval(MODEL, FULL).prepare)(jax.random.key(0), examples(), columns())


@functools.cache
def variables() -> Any:
    found = jax.jit(task.deep_retrieval(MODEL, FULL).init)(jax.random.key(0), prepared())
    return {**found, "params": jax.tree.map(lambda leaf: 3 * leaf, found["params"])}


@functools.cache
def users() -> jax.Array:
    found: jax.Array = MODEL.apply(variables(), prepared()["items"])
    return found


@functools.cache
def path_probabilities() -> np.ndarray:
    """Of all paths, [B, 9]."""
    every = jnp.broadcast_to(codes_of(jnp.arange(9), num_codes=3, depth=2), (8, 9, 2))
    return np.exp(MODEL.apply(variables(), users(), every, method="path_log_prob"))


def losses_of(axis: str | None = None) -> Any:
    made, batch, held = task.deep_retrieval(MODEL, FULL), prepared(), variables()

    def share(part: Any) -> Any:
        return made.losses(held, part, jax.random.key(1), axis)[0]

    if axis is None:
        return jax.jit(share)(batch)
    halves = jax.tree.map(lambda column: column.reshape(2, 4, *column.shape[1:]), batch)
    shares = jax.jit(jax.vmap(share, axis_name=axis))(halves)
    return jax.tree.map(lambda leaf: leaf.sum(), shares)


@pytest.mark.parametrize("axis", [None, "devices"])
def test_the_losses_are_those_of_all_paths_and_of_all_items(axis: str | None) -> None:
    batch, found = prepared(), losses_of(axis)
    own = np.asarray(variables()["paths"]["of_items"])[batch["targets"][:7]]
    each = logsumexp(np.log(np.take_along_axis(path_probabilities()[:7], own, axis=1)), axis=1)
    np.testing.assert_allclose(found["paths"], -each.mean(), rtol=1e-5)
    table = MODEL.apply(variables(), method="item_table")
    scores = log_softmax(np.asarray(users() @ table[1:].T), axis=1)
    softmax = scores[np.arange(7), np.asarray(batch["targets"])[:7] - 1]
    np.testing.assert_allclose(found["softmax"], -softmax.mean(), rtol=1e-5)


def test_a_matrix_gives_all_other_items_as_history() -> None:
    made = task.deep_retrieval(MODEL, FULL, history="others")
    batch = made.prepare(jax.random.key(0), examples(), columns())
    events = small.training_events(4)
    assert batch["items"][1].tolist() == (events[:9] + events[10:])[-4:]
    assert batch["targets"][1] == events[9]


def test_gradients_are_finite_and_reach_all_that_is_read() -> None:
    made, held, batch = task.deep_retrieval(MODEL, FULL), variables(), prepared()

    def total(params: Any) -> jax.Array:
        named = made.losses({**held, "params": params}, batch, jax.random.key(0))[0]
        return named["paths"] + named["softmax"]

    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(total))(held["params"])):
        assert jnp.isfinite(leaf).all() and (leaf != 0).any(), path


def test_a_model_with_other_state_is_refused() -> None:
    class Counting(DeepRetrieval):
        @nn.compact
        def __call__(self, items: Any, *, train: bool = False) -> Any:
            self.variable("counts", "n", jnp.zeros, ())
            return super().__call__(items, train=train)

    made = task.deep_retrieval(Counting(small.NUM_ITEMS, draw_paths, 5, 4, 3, 2), FULL)
    with pytest.raises(ValueError, match="the model holds counts, params, paths"):
        made.init(jax.random.key(0), prepared())


def test_scores_of_paths_are_sums_over_the_examples_of_an_item() -> None:
    steps = jax.tree.map(lambda column: column.reshape(2, 4), examples())
    found = jax.jit(functools.partial(task.observe_paths, MODEL, width=9, decay=1.0))(
        variables(), no_scores(small.NUM_ITEMS + 1, 9), steps, columns()
    )
    targets = np.asarray(prepared()["targets"])
    for item in set(targets[:7].tolist()):
        sums = path_probabilities()[:7][targets[:7] == item].sum(axis=0)
        np.testing.assert_allclose(found.scores[item][np.argsort(found.paths[item])], sums, rtol=1e-4)
    others = np.setdiff1d(np.arange(small.NUM_ITEMS + 1), targets[:7])
    assert (np.asarray(found.paths)[others] == -1).all()


def test_items_move_to_the_paths_of_their_examples() -> None:
    steps = jax.tree.map(lambda column: column[None], examples())
    known = task.observe_paths(
        MODEL, variables(), no_scores(small.NUM_ITEMS + 1, 9), steps, columns(), width=9, decay=1.0
    )
    counts = np.bincount(prepared()["targets"][:7], minlength=small.NUM_ITEMS + 1)
    choose = functools.partial(task.choose_paths, MODEL, sweeps=1, alpha=0.0, capacity=None)
    found = choose(variables(), known, counts)
    item = int(prepared()["targets"][0])
    assert found["paths"]["of_items"][item].tolist() == known.paths[item, :2].tolist()
    for name, leaf in found["params"].items():
        assert leaf is variables()["params"][name]


def test_what_a_search_finds_is_scored_and_nothing_else() -> None:
    queries = {
        "user": jnp.array([4, 7]), "length": jnp.array([5, 3]), "mask": jnp.array([True, True]),
    }  # fmt: skip
    x = task.users(MODEL, variables(), queries, columns())
    exact = (
        np.asarray(task.retriever(MODEL).query(variables(), queries, columns()))
        @ np.asarray(task.retriever(MODEL).items(variables())).T
    )
    whole = task.by_paths(MODEL, width=9, capacity=20).scores(variables(), queries, columns())
    np.testing.assert_allclose(whole[:, 1:], exact[:, 1:], rtol=1e-5, atol=1e-6)
    few = np.asarray(task.by_paths(MODEL, width=2, capacity=20).scores(variables(), queries, columns()))
    index = task.index_of(MODEL, variables(), capacity=20)
    assert int(index.overflow) == 0
    beam = beam_search(task.next_code_of(MODEL, variables()), x, num_codes=3, depth=2, width=2)
    own, chosen = np.asarray(variables()["paths"]["of_items"]), np.asarray(number_paths(beam.paths, 3))
    for row in range(2):
        on_beam = np.isin(own, chosen[row]).any(axis=1)
        np.testing.assert_allclose(few[row, on_beam], exact[row, on_beam], rtol=1e-5, atol=1e-6)
        assert (few[row, ~on_beam] == np.float32(task.UNFOUND)).all()


def test_scores_of_a_failed_search_are_no_numbers() -> None:
    found = Found(
        jnp.array([[3, 1, 0], [2, 0, 0]]),
        jnp.array([[2.0, 1.0, -jnp.inf], [5.0, -jnp.inf, -jnp.inf]]),
        jnp.array([2, 1]),
        jnp.array([True, False]),
    )
    scores = task.as_scores(found, 5)
    none = float(np.float32(task.UNFOUND))
    assert scores[0].tolist() == [none, 1.0, none, 2.0, none]
    assert jnp.isnan(scores[1]).all()
