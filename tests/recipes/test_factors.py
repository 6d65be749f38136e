"""Recipes of models of pairs: each makes a step on a small matrix, by the optimiser that it says."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from jaxrec.optim.loss_weighting import static
from jaxrec.recipes import factors, ncf
from jaxrec.train.state import create
from jaxrec.train.step import make_step
from tests.tasks import small_pairs

MODELS = {**factors.MODELS, **ncf.MODELS}
SMALL: dict[str, Any] = {"dim": 4, "factors": 2, "batch_size": 8, "negatives": 3, "neighbours": 2}


def small(name: str, **changes: Any) -> Any:
    """A recipe at small sizes."""
    fields = {field.name for field in dataclasses.fields(MODELS[name].recipe)}
    given = {key: value for key, value in {**SMALL, **changes}.items() if key in fields}
    return MODELS[name].recipe(**given)


def step(name: str, recipe: Any) -> tuple[Any, Any, Any, Any]:
    """The state before and after the first step of an epoch, its logs and its examples."""
    entry, data = MODELS[name], small_pairs.data()
    module = entry.module(data, recipe)
    task, tx = entry.task(module, data, recipe), entry.optimiser(recipe)
    context = {**small_pairs.context(), **entry.columns(data, recipe)}
    drawn, _ = entry.plan(data, recipe).draw(jax.random.key(1), context)
    examples = jax.tree.map(lambda column: column[0], drawn)
    state = create(task, tx, static(), jax.random.key(0), examples, context)
    after, logs = jax.jit(make_step(task, tx, static()))(state, examples, context)
    return state, after, logs, examples


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.long
def test_a_step_moves_every_table(name: str) -> None:
    before, after, logs, _ = step(name, small(name))
    assert np.isfinite(logs["loss"])
    old, new = (dict(jax.tree_util.tree_leaves_with_path(s.params["model"])) for s in (before, after))
    for path, leaf in old.items():
        if path[-1].key.endswith("embedding"):
            assert not np.array_equal(leaf, new[path])
            assert not np.asarray(new[path][0]).any()


def test_steps_of_mf_descend_on_the_sum_over_pairs() -> None:
    """The global bias moves by the learning rate times a sum over two observed pairs and their negatives."""
    recipe = small("mf", batch_size=8, learning_rate=0.5, l2=0.0)
    assert ncf.observed(recipe) == 2
    _, after, _, examples = step("mf", recipe)
    assert examples["example"].shape == (2,)
    bias = float(after.params["model"]["bias"][0])
    start = 0.5 * (2 * 0.5 - 6 * 0.5)  # all scores are about 0, so each sigmoid is about a half
    np.testing.assert_allclose(bias, start, rtol=0.1)


def test_a_pair_counts_the_whole_batch_of_labelled_ones() -> None:
    assert ncf.observed(ncf.Recipe()) == 51  # of 256 labelled pairs with four negatives each
    assert ncf.observed(ncf.MFRecipe(batch_size=1)) == 1


def test_a_width_without_vectors_is_refused() -> None:
    with pytest.raises(ValueError, match="dim=1: must be at least 2"):
        ncf.biased_mf(small_pairs.data(), ncf.MFRecipe(dim=1))
