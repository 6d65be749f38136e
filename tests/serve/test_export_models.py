"""Every model of the recipes as a program for any number of examples, on all platforms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export as jax_export

from jaxrec import baselines
from jaxrec.recipes import hstu, interaction, interest, multitask, sasrec, scenarios, search, stamp
from jaxrec.serve.programs import BATCH, PLATFORMS, Program, item_program, trace, variables_of, weights_of
from jaxrec.tasks import interests, next_item
from tests.nn.drawn import drawn
from tests.serve.recipe_models import (
    MODELS,
    NUM_ITEMS,
    L,
    MultiInterest,
    Other,
    Sequence,
    columns_of,
    functions_left_out,
    name_of,
)

RNG = np.random.default_rng(0)
K = 5
HISTORIES = np.array([[4, 9, 2, 0, 0, 0, 0, 0], [3, 1, 4, 1, 5, 9, 2, 6], [7, 0, 0, 0, 0, 0, 0, 0]], np.int32)
COMPILED = (  # one of each family
    sasrec.post_norm, hstu.hstu, stamp.stamp, interaction.dlrm, interaction.can_din, interest.dien,
    search.eta, multitask.ple, scenarios.star,
)  # fmt: skip


def test_the_table_has_every_model_of_the_recipes() -> None:
    assert functions_left_out() == set()


def program_and_inputs(
    model: Sequence | MultiInterest | Other,
) -> tuple[Program, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The program of a model, its weights and inputs."""
    if not isinstance(model, Other):
        variables = drawn(model.module, jnp.ones((1, L), jnp.int32), train=False)
        timed = isinstance(model, Sequence) and next_item.reads_times(model.module)
        task = next_item if isinstance(model, Sequence) else interests
        program = item_program(task.retriever(model.module), num_items=NUM_ITEMS, k=K, timed=timed)
        inputs = {"histories": HISTORIES, "excluded": HISTORIES[:, :2]}
        if timed:
            inputs |= {"times": np.where(HISTORIES, np.arange(8, dtype=np.int32) * 9, 0)}
            inputs |= {"now": np.array([40, 80, 5], np.int32)}
        return program, weights_of(variables), inputs
    columns = columns_of(model, RNG)

    def call(weights: Any, inputs: Any) -> Any:
        return apply(model, variables_of(weights), inputs)

    arguments = (columns,) if model.as_batch else tuple(columns.values())
    variables = drawn(model.module, *arguments, train=False)
    specs = {
        name: jax.ShapeDtypeStruct((BATCH, *shape), columns[name].dtype)
        for name, shape in model.columns.items()
    }
    variables.pop("perturbations", None)  # places for gradients of one number of examples
    return Program(call, specs), weights_of(variables), columns


def apply(model: Other, variables: Any, columns: Any) -> Any:
    if model.as_batch:
        return model.module.apply(variables, columns, train=False)
    return model.module.apply(variables, *(columns[name] for name in model.columns), train=False)


@pytest.mark.parametrize("build", MODELS, ids=name_of)
def test_a_model_is_traced_for_any_number_of_examples(build: Callable[..., Any]) -> None:
    program, weights, _ = program_and_inputs(MODELS[build])
    traced = trace(program, weights)
    assert traced.platforms == PLATFORMS
    first = jax.tree.leaves(traced.out_avals)[0]
    assert str(first.shape[0]) == "b"


@pytest.mark.parametrize("name", ["popularity", "session_popularity", "item_knn", "markov"])
def test_a_baseline_is_traced_for_any_number_of_examples(name: str) -> None:
    events = baselines.TrainingEvents(np.repeat([0, 1], 4), np.arange(1, 9), NUM_ITEMS)
    made = getattr(baselines, name)(events)
    program = item_program(made.model, num_items=NUM_ITEMS, k=K)
    traced = trace(program, weights_of(made.variables))
    assert [str(aval.shape) for aval in traced.out_avals] == ["(b, 5)", "(b, 5)"]


@pytest.mark.slow
@pytest.mark.parametrize("build", COMPILED, ids=name_of)
def test_a_program_gives_what_the_model_gives(build: Callable[..., Any]) -> None:
    model = MODELS[build]
    program, weights, inputs = program_and_inputs(model)
    exported = jax_export.deserialize(trace(program, weights).serialize())
    found = jax.device_get(jax.jit(exported.call)(weights, inputs))
    if isinstance(model, Other):
        expected = jax.jit(lambda v, x: apply(model, v, x))(variables_of(weights), inputs)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), found, expected)
        return
    scores = by_hand(model.module, variables_of(weights), inputs)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :K]
    np.testing.assert_array_equal(found["items"], order + 1)
    np.testing.assert_allclose(
        found["scores"], np.take_along_axis(scores, order, axis=1), rtol=1e-6, atol=1e-6
    )


def by_hand(module: Any, variables: Any, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Scores of items 1..V of right-aligned windows [B, V], -inf of excluded ones."""
    items = np.zeros((len(HISTORIES), L), np.int32)
    times, targets = np.zeros_like(items), np.zeros_like(items)
    for row, history in enumerate(HISTORIES):
        read = np.flatnonzero(history)[-L:]
        items[row, L - len(read) :] = history[read]
        if "times" in inputs:
            when = np.append(inputs["times"][row, read], inputs["now"][row])
            times[row, L - len(read) :], targets[row, L - len(read) :] = when[:-1], when[1:]
    columns = {"times": times, "target_times": targets} if "times" in inputs else {}

    def scores_of(variables: Any) -> Any:
        hidden = module.apply(variables, items, **columns, train=False)[:, -1]
        return hidden @ module.apply(variables, method="item_table")[1:].T

    scores = np.array(jax.jit(scores_of)(variables))
    for row, excluded in enumerate(inputs["excluded"]):
        scores[row, excluded[excluded > 0] - 1] = -np.inf
    return scores
