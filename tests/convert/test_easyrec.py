"""TorchEasyRec's DBMTL: layers that a configuration may leave out, and what does not fit."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.convert import easyrec
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.mlp import MLP

TASKS, PARENTS = ("click", "buy"), ((), ("click",))
FEATURES = 5


def linear(key: str, num_inputs: int, dim: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(list(key.encode()))
    return {
        f"{key}.weight": rng.normal(size=(dim, num_inputs)).astype(np.float32),
        f"{key}.bias": rng.normal(size=dim).astype(np.float32),
    }


def state_dict(bottom: bool = True, tower: bool = True, experts: int = 0) -> dict[str, np.ndarray]:
    """Layers of one width each: bottom 4, experts 3, towers 6, relations 2."""
    state: dict[str, np.ndarray] = {}
    width = FEATURES
    if bottom:
        state |= linear("bottom_mlp.mlp.0.perceptron.0", width, 4)
        width = 4
    for i in range(experts):
        state |= linear(f"mmoe.expert_mlps.{i}.mlp.0.perceptron.0", width, 3)
    for i in range(len(TASKS) if experts else 0):
        state |= linear(f"mmoe.gate_finals.{i}", width, experts)
    width = 3 if experts else width
    for i, (task, names) in enumerate(zip(TASKS, PARENTS, strict=True)):
        if tower:
            state |= linear(f"task_mlps.{task}.mlp.0.perceptron.0", width, 6)
        relation = (6 if tower else width) + 2 * len(names)
        state |= linear(f"relation_mlps.{task}.mlp.0.perceptron.0", relation, 2)
        state |= linear(f"task_outputs.{i}", 2, 1)
    return state


@pytest.mark.parametrize("experts", [0, 2])
@pytest.mark.parametrize("tower", [True, False])
@pytest.mark.parametrize("bottom", [True, False])
def test_bottom_towers_and_experts_may_be_left_out(bottom: bool, tower: bool, experts: int) -> None:
    state = state_dict(bottom, tower, experts)
    model, variables, _ = easyrec.dbmtl(state, TASKS, PARENTS, mlp=Factory(MLP, activation=jnp.tanh))
    assert tuple(model.bottom_dims) == ((4,) if bottom else ())
    assert tuple(model.tower_dims) == ((6,) if tower else ())
    assert (model.num_experts, model.parents) == (experts, ((), (0,)))
    logits = model.apply(variables, np.ones((3, FEATURES), np.float32))
    assert logits.shape == (3, len(TASKS))
    assert len(set(np.asarray(logits)[0].tolist())) == len(TASKS)


def test_a_task_without_a_relation_layer_is_refused() -> None:
    state = {k: v for k, v in state_dict().items() if not k.startswith("relation_mlps.click.")}
    with pytest.raises(ValueError, match="relation_mlps.click: missing"):
        easyrec.dbmtl(state, TASKS, PARENTS)


@pytest.mark.parametrize(
    ("tasks", "parents", "message"),
    [
        (TASKS, ((), ("view",)), "view must be among the tasks"),
        (TASKS, ((),), "one sequence for each of the tasks"),
        (TASKS, (("buy",), ("click",)), "form a cycle"),
        (("click",), ((),), "not understood: relation_mlps.buy"),
    ],
)
def test_a_graph_that_does_not_fit_is_refused(tasks: Any, parents: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        easyrec.dbmtl(state_dict(), tasks, parents)


def test_towers_of_different_widths_are_refused() -> None:
    state = state_dict() | linear("task_mlps.click.mlp.0.perceptron.0", 4, 7)
    with pytest.raises(ValueError, match="but the other parameters imply"):
        easyrec.dbmtl(state, TASKS, PARENTS)
