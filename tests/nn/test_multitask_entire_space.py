"""Models whose tasks follow from one another: products of probabilities, chains and graphs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.nn.layers.dropout import counter_bits
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.multitask.aitm import AITM
from jaxrec.nn.multitask.dbmtl import DBMTL, in_order
from jaxrec.nn.multitask.escm2 import ESCM2
from jaxrec.nn.multitask.esm2 import ESM2
from jaxrec.nn.multitask.esmm import ESMM
from jaxrec.nn.multitask.nmtr import NMTR
from tests.nn.drawn import drawn

rng = np.random.default_rng(1)
X = rng.normal(size=(5, 4)).astype(np.float32)
PAIRS = rng.normal(size=(5, 2, 3)).astype(np.float32)  # user and item vectors
PARENTS = ((2, 1), (), (1,))  # task 1 first, then 2, then 0
SMOOTH = Factory(MLP, activation=nn.leaky_relu, dropout=0.5, bits=counter_bits)  # no unit is dead
MODELS: dict[str, Any] = {
    "esmm": ESMM((3,), mlp=SMOOTH),
    "esm2": ESM2((3,), mlp=SMOOTH),
    "escm2": ESCM2(impute=True, num_experts=2, expert_dims=(4,), tower_dims=(3,), mlp=SMOOTH),
    "aitm": AITM(3, (4,), mlp=SMOOTH, transfer_mlp=SMOOTH),
    "nmtr": NMTR(3, mlp_dims=(4,), mlp=SMOOTH),
    "dbmtl": DBMTL(
        PARENTS,
        bottom_dims=(),
        num_experts=2,
        expert_dims=(4,),
        tower_dims=(3,),
        relation_dims=(2,),
        mlp=SMOOTH,
    ),
}
every_model = pytest.mark.parametrize("name", MODELS)


class Run(NamedTuple):
    params: Any
    outputs: Any
    grads: Any  # of each output's sum over rows (by name, or number in front), for params and for x
    sown: Any
    again: Callable[[Any], Any]  # the same three for other parameters


@pytest.fixture(scope="module")
def runs() -> dict[str, Run]:
    return {name: run(model, PAIRS if name == "nmtr" else X) for name, model in MODELS.items()}


def run(model: Any, x: np.ndarray) -> Run:
    def sums(params: Any, x: Any) -> Any:
        outputs, state = model.apply({"params": params}, x, mutable=["intermediates"])
        return jax.tree.map(lambda out: out.sum(axis=0), outputs), (outputs, state.get("intermediates", {}))

    @jax.jit
    def everything(params: Any) -> Any:
        grads, (outputs, sown) = jax.jacrev(sums, argnums=(0, 1), has_aux=True)(params, x)
        return outputs, grads, sown

    def again(params: Any) -> Any:
        return jax.tree.map(np.asarray, everything(params))

    params = drawn(model, x)["params"]
    outputs, grads, sown = again(params)
    return Run(params, outputs, grads, sown, again)


def apply(model: Any, params: Any, x: np.ndarray) -> np.ndarray:
    return np.asarray(jax.jit(lambda params: model.apply({"params": params}, x))(params))


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def logit(p: Any) -> Any:
    return np.log(p) - np.log1p(-p)


def close(ours: Any, theirs: Any) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def dense(params: Any, x: np.ndarray, *member: int) -> np.ndarray:
    return x @ params["kernel"][member] + params["bias"][member]


def mlp(params: Any, x: np.ndarray, *member: int) -> np.ndarray:
    for i in range(len(params)):
        x = dense(params[f"layer_{i}"], x, *member)
        x = np.where(x > 0, x, 0.01 * x)
    return x


def tower(params: Any, x: np.ndarray, *member: int) -> np.ndarray:
    return dense(params["logit"], mlp(params.get("mlp", {}), x, *member), *member)[:, 0]


def softmax(x: np.ndarray) -> np.ndarray:
    x = np.exp(x)
    return x / x.sum(axis=-1, keepdims=True)


def reached(grads: Any) -> list[bool]:
    """Which members of a bank get any gradient."""
    leaves = jax.tree.leaves(grads)
    sizes = [np.abs(leaf).reshape(leaf.shape[0], -1).max(axis=1) for leaf in leaves]
    return (np.stack(sizes).max(axis=0) > 0).tolist()


# --- every model -----------------------------------------------------------------------------------


@every_model
def test_outputs_are_one_number_a_row_and_task_and_finite(runs: dict[str, Run], name: str) -> None:
    outputs = runs[name].outputs
    shapes = {out.shape for out in outputs.values()} if isinstance(outputs, dict) else outputs.shape
    num_tasks = {"aitm": 3, "nmtr": 3, "dbmtl": 3}.get(name)
    assert shapes == ({(5,)} if num_tasks is None else (5, num_tasks))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((outputs, runs[name].grads)))


def test_dropout_acts_in_training_only_and_differs_between_towers() -> None:
    model = MODELS["esmm"]
    same = jax.tree.map(lambda leaf: np.stack([leaf[0]] * 2), drawn(model, X)["params"])
    train = jax.jit(lambda p: model.apply({"params": p}, X, train=True, rngs={"dropout": jax.random.key(2)}))
    outputs = train(same)
    assert not np.allclose(outputs["ctr"], outputs["cvr"])
    assert not np.allclose(outputs["ctr"], tower(same["towers"], X, 0))


def test_dropout_differs_between_steps_of_a_chain() -> None:
    """All steps alike, own representations zero, passed ones constant but for dropout: so weights show it."""
    model = AITM(3, (4,), mlp=SMOOTH, transfer_mlp=Factory(MLP, dropout=0.5, bits=counter_bits))
    params = jax.tree.map(lambda leaf: np.stack([leaf[0]] * len(leaf)), drawn(model, X)["params"])
    for node in (params["towers"]["layer_0"], params["transfers"]["info"]["layer_0"]):
        node["kernel"][...] = 0.0
    params["towers"]["layer_0"]["bias"][...] = 0.0

    @jax.jit
    def weights(params: Any, key: Any) -> Any:
        run = functools.partial(model.apply, train=True, mutable=["intermediates"])
        return run({"params": params}, X, rngs={"dropout": key})[1]["intermediates"]["transfer"][0]

    steps = np.asarray(weights(params, jax.random.key(2)))[..., 0].T  # [T - 1, B]
    assert not np.allclose(steps[0], steps[1])
    assert len(np.unique(steps[0])) > 1  # nor are rows alike


# --- the entire space ------------------------------------------------------------------------------


def test_esmm_equals_its_formula(runs: dict[str, Run]) -> None:
    params, outputs = runs["esmm"].params["towers"], runs["esmm"].outputs
    close(outputs["ctr"], tower(params, X, 0))
    close(outputs["cvr"], tower(params, X, 1))
    close(sigmoid(outputs["ctcvr"]), sigmoid(outputs["ctr"]) * sigmoid(outputs["cvr"]))
    assert (outputs["ctcvr"] <= np.minimum(outputs["ctr"], outputs["cvr"])).all()


def test_esmm_gradients_reach_both_factors_of_the_product(runs: dict[str, Run]) -> None:
    towers = {name: grads["towers"] for name, (grads, _) in runs["esmm"].grads.items()}
    assert reached(towers["ctr"]) == [True, False]
    assert reached(towers["cvr"]) == [False, True]
    assert reached(towers["ctcvr"]) == [True, True]


def test_esm2_equals_its_formulas(runs: dict[str, Run]) -> None:
    params, outputs = runs["esm2"].params["towers"], runs["esm2"].outputs
    click, action, after, otherwise = (sigmoid(tower(params, X, i)) for i in range(4))
    buy = otherwise * (1 - action) + action * after
    expected = {
        "ctr": click,
        "avr": action,
        "cvr_after_action": after,
        "cvr_otherwise": otherwise,
        "cvr": buy,
        "ctavr": click * action,
        "ctcvr": click * buy,
    }
    assert set(outputs) == set(expected)
    for name, prob in expected.items():
        close(sigmoid(outputs[name]), prob)


def test_esm2_losses_reach_the_towers_they_are_made_of(runs: dict[str, Run]) -> None:
    towers = {name: reached(grads["towers"]) for name, (grads, _) in runs["esm2"].grads.items()}
    assert towers["ctr"] == [True, False, False, False]
    assert towers["ctavr"] == [True, True, False, False]
    assert towers["ctcvr"] == [True, True, True, True]


def test_escm2_equals_slow_numpy(runs: dict[str, Run]) -> None:
    params, outputs = runs["escm2"].params, runs["escm2"].outputs
    experts = np.stack([mlp(params["experts"], X, i) for i in range(2)], axis=1)
    towers = []
    for i in range(3):
        gates = softmax(dense(params["gate"]["logits"], X, i))
        close(runs["escm2"].sown["gates"][0][:, i], gates)
        towers.append(tower(params["towers"], np.einsum("be,bed->bd", gates, experts), i))
    close(outputs["ctr"], towers[0])
    close(outputs["cvr"], towers[1])
    close(sigmoid(outputs["ctcvr"]), sigmoid(towers[0]) * sigmoid(towers[1]))
    close(outputs["imputed_error"], np.log1p(np.exp(towers[2])))


def test_without_imputation_escm2_has_the_outputs_of_esmm() -> None:
    model = ESCM2(num_experts=2, expert_dims=(4,), tower_dims=(3,))
    outputs = jax.eval_shape(lambda x: model.apply(drawn(model, x), x), X)
    assert set(outputs) == {"ctr", "cvr", "ctcvr"}


def test_the_counterfactual_risk_does_not_train_the_click_tower(runs: dict[str, Run]) -> None:
    towers = {name: reached(grads["towers"]) for name, (grads, _) in runs["escm2"].grads.items()}
    assert (towers["cvr"], towers["imputed_error"]) == ([False, True, False], [False, False, True])

    def risk(outputs: Any) -> Any:
        errors = losses.sigmoid_cross_entropy(outputs["cvr"], jnp.zeros(5))
        clicked = np.array([1, 0, 1, 0, 0], bool)
        parts = (errors, outputs["imputed_error"], clicked, losses.clipped_propensity(outputs["ctr"]))
        return losses.doubly_robust_risk(*parts) + losses.imputation_risk(*parts)

    grads = jax.jit(jax.grad(risk))(runs["escm2"].outputs)
    assert {name for name, grad in grads.items() if np.abs(grad).max() > 0} == {"cvr", "imputed_error"}


# --- the chain -------------------------------------------------------------------------------------


def test_aitm_equals_slow_numpy(runs: dict[str, Run]) -> None:
    params = runs["aitm"].params
    states = [mlp(params["towers"], X, t) for t in range(3)]
    for t in (1, 2):
        step = params["transfers"]
        passed = mlp(step["info"], states[t - 1], t - 1)  # from the state after the transfer, not the tower
        pair = np.stack([passed, states[t]], axis=1)
        value, query, key = (pair @ step[name]["kernel"][t - 1] for name in ("value", "query", "key"))
        weights = softmax((query * key).sum(axis=-1) / np.sqrt(4))
        states[t] = np.einsum("bu,bud->bd", weights, value)
        close(runs["aitm"].sown["transfer"][0][:, t - 1], weights)
    close(runs["aitm"].outputs, np.stack([tower(params["heads"], states[t], t) for t in range(3)], axis=1))


def test_aitm_tasks_hear_from_those_before_them_only(runs: dict[str, Run]) -> None:
    grads = runs["aitm"].grads[0]
    towers = [reached(jax.tree.map(lambda leaf, t=t: leaf[t], grads["towers"])) for t in range(3)]
    assert towers == [[True, False, False], [True, True, False], [True, True, True]]
    transfers = [reached(jax.tree.map(lambda leaf, t=t: leaf[t], grads["transfers"])) for t in range(3)]
    assert transfers == [[False, False], [True, False], [True, True]]


def test_aitm_without_queries_weighs_both_alike(runs: dict[str, Run]) -> None:
    params = jax.tree.map(np.copy, runs["aitm"].params)
    params["transfers"]["query"]["kernel"][...] = 0.0
    _, _, sown = runs["aitm"].again(params)
    np.testing.assert_array_equal(sown["transfer"][0], np.full((5, 2, 2), 0.5))


def test_aitm_of_one_task_is_a_tower() -> None:
    model = AITM(1, (4,), mlp=Factory(MLP, activation=nn.leaky_relu))
    params = drawn(model, X)["params"]
    assert set(params) == {"towers", "heads"}
    expected = tower(params["heads"], mlp(params["towers"], X, 0), 0)
    close(apply(model, params, X)[:, 0], expected)


def test_aitm_needs_a_width_to_transfer() -> None:
    with pytest.raises(ValueError, match=r"tower_dims=\(\)"):
        AITM(2, ())


# --- the cascade -----------------------------------------------------------------------------------


def nmtr_scores(params: Any) -> np.ndarray:
    """What each behaviour adds by itself, [B, R]."""
    product, joined = PAIRS[:, 0] * PAIRS[:, 1], PAIRS.reshape(5, -1)
    parts = [np.concatenate([product, mlp(params["mlps"], joined, r)], axis=1) for r in range(3)]
    return np.stack([tower(params["heads"], part, r) for r, part in enumerate(parts)], axis=1)


def test_nmtr_adds_up_logits(runs: dict[str, Run]) -> None:
    close(runs["nmtr"].outputs, np.cumsum(nmtr_scores(runs["nmtr"].params), axis=1))


def test_nmtr_adds_up_probabilities_if_asked_to(runs: dict[str, Run]) -> None:
    params = runs["nmtr"].params
    first, second, third = nmtr_scores(params).T
    expected = [first, second + sigmoid(first), third + sigmoid(second + sigmoid(first))]
    model = MODELS["nmtr"].clone(pass_probability=True)
    close(apply(model, params, PAIRS), np.stack(expected, axis=1))


def test_nmtr_behaviours_hear_from_those_before_them_only(runs: dict[str, Run]) -> None:
    grads, of_x = runs["nmtr"].grads
    heads = [reached(jax.tree.map(lambda leaf, r=r: leaf[r], grads["heads"])) for r in range(3)]
    assert heads == [[True, False, False], [True, True, False], [True, True, True]]
    assert (np.abs(of_x).max(axis=(1, 3)) > 0).all()  # [R, B, 2, D]: user and item hear from all


def test_nmtr_of_one_behaviour_without_mlp_is_a_factorisation() -> None:
    model = NMTR(1, mlp_dims=())
    params = drawn(model, PAIRS)["params"]
    close(apply(model, params, PAIRS)[:, 0], tower(params["heads"], PAIRS[:, 0] * PAIRS[:, 1], 0))


def test_nmtr_refuses_what_it_cannot_score() -> None:
    with pytest.raises(ValueError, match="nothing is left to score with"):
        NMTR(2, product=False, mlp_dims=())
    with pytest.raises(ValueError, match=r"expected \[B, 2, D\]"):
        NMTR(2).init(jax.random.key(0), X)


# --- the graph -------------------------------------------------------------------------------------


def dbmtl_by_hand(params: Any, parents: Any) -> np.ndarray:
    bottom = mlp(params.get("bottom", {}), X)
    inputs = [bottom] * len(parents)
    if "experts" in params:
        experts = np.stack([mlp(params["experts"], bottom, i) for i in range(2)], axis=1)
        gates = [softmax(dense(params["gate"]["logits"], bottom, t)) for t in range(len(parents))]
        inputs = [np.einsum("be,bed->bd", gate, experts) for gate in gates]
    relations: dict[int, np.ndarray] = {}
    for task in in_order(parents):
        own = mlp(params["towers"], inputs[task], task)
        read = np.concatenate([own, *(relations[p] for p in parents[task])], axis=1)
        relations[task] = mlp(params[f"relation_{task}"], read)
    return np.stack([tower(params["heads"], relations[t], t) for t in range(len(parents))], axis=1)


def test_dbmtl_equals_slow_numpy(runs: dict[str, Run]) -> None:
    close(runs["dbmtl"].outputs, dbmtl_by_hand(runs["dbmtl"].params, PARENTS))


def test_dbmtl_losses_reach_ancestors_only(runs: dict[str, Run]) -> None:
    grads = runs["dbmtl"].grads[0]["towers"]
    towers = [reached(jax.tree.map(lambda leaf, t=t: leaf[t], grads)) for t in range(3)]
    assert towers == [[True, True, True], [False, True, False], [False, True, True]]


def test_dbmtl_without_edges_and_experts_is_a_shared_bottom() -> None:
    model = DBMTL(
        ((), ()),
        bottom_dims=(5,),
        tower_dims=(3,),
        relation_dims=(2,),
        mlp=Factory(MLP, activation=nn.leaky_relu),
    )
    params = drawn(model, X)["params"]
    bottom = mlp(params["bottom"], X)
    hidden = [mlp(params[f"relation_{t}"], mlp(params["towers"], bottom, t)) for t in range(2)]
    expected = [tower(params["heads"], hidden[t], t) for t in range(2)]
    close(apply(model, params, X), np.stack(expected, axis=1))


def test_the_order_in_which_tasks_are_declared_does_not_matter(runs: dict[str, Run]) -> None:
    new = np.array([1, 2, 0])  # task t is declared as new[t]
    old = np.argsort(new)
    parents = tuple(tuple(int(new[p]) for p in PARENTS[t]) for t in old)
    params = dict(runs["dbmtl"].params)
    moved = {f"relation_{new[t]}": params[f"relation_{t}"] for t in range(3)}
    moved |= {
        name: jax.tree.map(lambda leaf: leaf[old], params[name]) for name in ("gate", "towers", "heads")
    }
    model = MODELS["dbmtl"].clone(parents=parents)
    close(apply(model, params | moved, X), runs["dbmtl"].outputs[:, old])


@pytest.mark.parametrize(
    ("parents", "message"),
    [
        (((1,), (0,)), "form a cycle"),
        (((0,),), "form a cycle"),
        (((), (2,)), "parents of task 1: 2 is no task"),
        ((), r"parents=\(\)"),
    ],
)
def test_dbmtl_refuses_what_is_no_acyclic_graph(parents: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DBMTL(parents)


def test_dbmtl_needs_a_relation_layer() -> None:
    with pytest.raises(ValueError, match=r"relation_dims=\(\)"):
        DBMTL(((), (0,)), relation_dims=())
