"""The training step with each weighting of losses and gradients, on one device and on two."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec import losses
from jaxrec.optim import gradient_balancing as balancing
from jaxrec.optim import loss_weighting
from jaxrec.optim.loss_weighting import Weighting
from jaxrec.optim.task_gradients import GradientBalancing
from jaxrec.tasks.multitask import multitask
from jaxrec.train import parallel
from jaxrec.train.epoch import shuffled
from jaxrec.train.evaluate import impression_metrics, make_scores
from jaxrec.train.fit import Fitted, Phase, Selection, fit
from jaxrec.train.state import create
from jaxrec.train.step import make_step
from jaxrec.types import Array, Evaluation, Protocol
from tests.tasks.labelled import BATCH, NUM_ROWS, TARGETS, Bottom, columns, rows

NAMES = ("click", "buy")
SHARED = ["bottom"]
METHODS: dict[str, Weighting] = {
    "random": loss_weighting.random_weights(),
    "uncertainty": loss_weighting.uncertainty(classification=NAMES),
    "gradnorm": balancing.gradnorm(NAMES, SHARED, start={"click": 0.7, "buy": 0.5}),
    "pcgrad": balancing.pcgrad(SHARED),
    "mgda_ub": balancing.mgda_ub(SHARED),
    "pe_ltr": balancing.pe_ltr(SHARED, {"click": 0.1, "buy": 0.2}),
}
SHARING = ("uncertainty", "pcgrad", "mgda_ub")  # each way to sum over devices
BALANCING = [name for name, method in METHODS.items() if isinstance(method, GradientBalancing)]
TX = optax.sgd(1.0)  # the first change of the parameters is the gradient
CONTEXT = columns()
STEPS = [
    rows(7, 3, 10, 1, 2),
    rows(*range(8)),
    rows(*(i for i in range(NUM_ROWS) if not CONTEXT["space/buy"][i])),
]
TRACED: list[str] = []


def counted(logits: Array, labels: Array, **kwargs: Any) -> Array:
    TRACED.append("click")
    return losses.binary_cross_entropy(logits, labels, **kwargs)


TASK = multitask(Bottom(), [TARGETS[0]._replace(loss=counted), TARGETS[1]])


class Run(NamedTuple):
    """Per method: parameters before and after the first step, logs of each step, the last state."""

    before: Any
    after: Any
    logs: list[dict[str, dict[str, float]]]
    last: Any
    traced: int


@functools.cache
def start() -> dict[str, Any]:
    """The state before the first step; all methods start from the same parameters."""
    made = jax.jit(lambda: create(TASK, TX, loss_weighting.static(), jax.random.key(3), STEPS[0], CONTEXT))()
    found = {}
    for name, method in METHODS.items():
        learned, remembered = method.init()
        params = {"model": made.params["model"], "weighting": learned}
        found[name] = made.replace(params=params, opt_state=TX.init(params), weighting=remembered)
    return found


@functools.cache
def run(num_devices: int) -> Run:
    """Three steps of every method in one program; the last has no row of the second task's space."""
    TRACED.clear()
    axis, names = parallel.axis_name(num_devices), METHODS if num_devices == 1 else SHARING
    steps = {name: make_step(TASK, TX, METHODS[name], axis) for name in names}

    def every(states: Any, some: Any, context: Any) -> Any:
        found = {name: step(states[name], some, context) for name, step in steps.items()}
        return {name: state for name, (state, _) in found.items()}, {
            name: logs for name, (_, logs) in found.items()
        }

    program = parallel.over_devices(every, num_devices, (0, 0, 0))
    states = {name: jax.tree.map(jnp.copy, start()[name]) for name in names}
    before = jax.tree.map(np.asarray, {name: state.params for name, state in states.items()})
    states, context, logs = (
        parallel.replicate(states, num_devices),
        parallel.replicate(CONTEXT, num_devices),
        [],
    )
    params = []
    for some in STEPS:
        states, scalars = program(states, parallel.replicate(some, num_devices), context)
        found = parallel.unreplicate(states, num_devices)
        params.append(jax.tree.map(np.asarray, {name: state.params for name, state in found.items()}))
        logs.append(
            {n: jax.tree.map(float, x) for n, x in parallel.unreplicate(scalars, num_devices).items()}
        )
    return Run(before, params[0], logs, found, len(TRACED))


@pytest.mark.parametrize("name", SHARING)
def test_two_devices_do_what_one_does(name: str) -> None:
    one, two = run(1), run(2)
    for step in range(len(STEPS)):
        assert two.logs[step][name] == pytest.approx(one.logs[step][name], rel=1e-4, abs=1e-5)
    ours, theirs = ((r.last[name].params, r.last[name].weighting) for r in (two, one))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, theirs)


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_without_rows_of_a_task_leaves_everything_finite(name: str) -> None:
    assert run(1).logs[2][name]["buy"] == 0.0
    state = run(1).last[name]
    for leaf in jax.tree.leaves((state.params, state.weighting, run(1).logs[2][name])):
        assert np.isfinite(leaf).all()


def test_every_method_traces_the_losses_once() -> None:
    assert run(1).traced == len(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_losses_are_logged_raw_and_with_their_weights(name: str) -> None:
    logs, first = run(1).logs[0][name], run(1).logs[0]["random"]
    wanted = {"loss", *NAMES, *(f"weight/{n}" for n in NAMES)}
    if name in BALANCING:
        wanted |= {*(f"gradient_norm/{n}" for n in NAMES), "cosine/buy:click"}
    assert set(logs) == wanted
    assert {n: logs[n] for n in NAMES} == pytest.approx({n: first[n] for n in NAMES})
    if name != "uncertainty":
        total = sum(logs[f"weight/{n}"] * logs[n] for n in NAMES)
        assert logs["loss"] == pytest.approx(total, rel=1e-5)


# --- against the gradients of single tasks ---


@functools.cache
def of_tasks() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Each task's gradient in the first step, of all parameters and of the shared representation [B · D]."""
    batch = TASK.prepare(jax.random.key(0), STEPS[0], CONTEXT)
    params = run(1).before["random"]["model"]
    zeros = {"shared": jnp.zeros((BATCH, Bottom().dim))}

    def loss(name: str, params: Any, probe: Any) -> Any:
        variables = {"params": params, "perturbations": probe}
        return TASK.losses(variables, batch, jax.random.key(0))[0][name]

    @jax.jit
    def all_of(params: Any) -> Any:
        return {
            name: jax.grad(functools.partial(loss, name), argnums=(0, 1))(params, zeros) for name in NAMES
        }

    found = jax.tree.map(np.asarray, all_of(params))
    return {n: g for n, (g, _) in found.items()}, {
        n: probe["shared"].ravel() for n, (_, probe) in found.items()
    }


def flat(gradient: Any) -> np.ndarray:
    return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(gradient["bottom"])])


def expected_weights(name: str) -> dict[str, float]:
    gradients, of_representation = of_tasks()
    compared = {n: of_representation[n] if name == "mgda_ub" else flat(gradients[n]) for n in NAMES}
    click, buy = compared["click"], compared["buy"]
    if name == "mgda_ub":
        share = float(np.clip((buy - click) @ buy / np.square(click - buy).sum(), 0, 1))
        return {"click": share, "buy": 1 - share}
    if name == "pcgrad":
        inner = min(click @ buy, 0.0)
        return {"click": 1 - inner / (click @ click), "buy": 1 - inner / (buy @ buy)}
    if name == "pe_ltr":  # the point of |w g1 + (1 - w) g2| where it is least, within the bounds
        share = float(np.clip((buy - click) @ buy / np.square(click - buy).sum(), 0.1, 0.8))
        return {"click": share, "buy": 1 - share}
    return dict.fromkeys(NAMES, 1.0)  # gradnorm's first step


@pytest.mark.parametrize("name", BALANCING)
def test_shared_parameters_get_the_weighted_gradients_of_tasks(name: str) -> None:
    gradients, of_representation = of_tasks()
    weights, logs = expected_weights(name), run(1).logs[0][name]
    assert {n: logs[f"weight/{n}"] for n in NAMES} == pytest.approx(weights, rel=1e-4)
    compared = {n: of_representation[n] if name == "mgda_ub" else flat(gradients[n]) for n in NAMES}
    norms = {n: float(np.linalg.norm(g)) for n, g in compared.items()}
    assert {n: logs[f"gradient_norm/{n}"] for n in NAMES} == pytest.approx(norms, rel=1e-4)
    cosine = compared["click"] @ compared["buy"] / (norms["click"] * norms["buy"])
    assert logs["cosine/buy:click"] == pytest.approx(float(cosine), rel=1e-4, abs=1e-6)
    on_losses = name in ("gradnorm", "pe_ltr")  # weights of losses, which heads feel too
    before, after = run(1).before[name]["model"], run(1).after[name]["model"]
    for part in ("bottom", "heads"):
        used = weights if part == "bottom" or on_losses else dict.fromkeys(NAMES, 1.0)
        for leaf in before[part]:
            change = sum(used[n] * gradients[n][part][leaf] for n in NAMES)
            moved = before[part][leaf] - after[part][leaf]
            np.testing.assert_allclose(moved, change, rtol=1e-4, atol=1e-6)
            assert np.abs(change).max() > 1e-3


def test_gradnorm_moves_its_weights_apart_from_the_parameters() -> None:
    first, second = (run(1).logs[step]["gradnorm"] for step in (0, 1))
    weights = np.array([second[f"weight/{n}"] for n in ("buy", "click")])
    assert weights.sum() == pytest.approx(2.0, rel=1e-5)
    norms = jnp.array([first[f"gradient_norm/{n}"] for n in ("buy", "click")])
    values = jnp.array([first[n] for n in ("buy", "click")])
    change = balancing.gradnorm_gradient(jnp.ones(2), norms, values, jnp.array([0.5, 0.7]), alpha=1.5)
    free = 1.0 - 0.025 * np.asarray(change)
    np.testing.assert_allclose(weights, 2 * free / free.sum(), rtol=1e-5)
    assert run(1).last["gradnorm"].params["weighting"] == {}


def test_uncertainty_is_trained_with_the_parameters() -> None:
    logs = run(1).logs[0]["uncertainty"]
    after = run(1).after["uncertainty"]["weighting"]
    assert {n: float(after[n]) for n in NAMES} == pytest.approx({n: logs[n] - 0.5 for n in NAMES}, rel=1e-5)


def test_uncertainty_does_not_decay_under_a_mask() -> None:
    params = {"model": {"w": jnp.ones(2)}, "weighting": {"a": jnp.float32(3.0)}}
    tx = optax.adamw(0.1, weight_decay=0.5, mask={"model": True, "weighting": False})
    change, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    assert float(change["weighting"]["a"]) == 0.0
    assert (change["model"]["w"] < 0).all()


# --- what goes wrong ---


def step_once(method: Any, task: Any = TASK) -> Any:
    state = jax.eval_shape(lambda: create(task, TX, method, jax.random.key(0), STEPS[0], CONTEXT))
    return jax.eval_shape(make_step(task, TX, method), state, STEPS[0], CONTEXT)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (
            balancing.pcgrad(["bottom", "trunk"]),
            r"shared parameters \['trunk'\]: match none of \['bottom/bias', ",
        ),
        (balancing.pcgrad(["bot"]), r"shared parameters \['bot'\]"),
        (balancing.pcgrad([]), r"shared parameters \[\]"),
        (balancing.mgda(lambda path: False), r"shared parameters \['\(a predicate\)'\]"),
        (balancing.mgda(SHARED).with_fixed({"l2": 1.0}), r"fixed weights for \['l2'\]"),
        (balancing.pe_ltr(SHARED, {"click": 0.1}), r"loss weights for \['click'\]"),
    ],
)
def test_what_a_method_is_told_must_fit_the_task(method: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        step_once(method)


def test_a_representation_must_be_marked() -> None:
    class Unmarked(Bottom):
        def perturb(self, name: str, value: Any, collection: str = "perturbations") -> Any:
            return value

    with pytest.raises(ValueError, match=r'self\.perturb\("shared", z\)'):
        step_once(balancing.mgda_ub(SHARED), multitask(Unmarked(), TARGETS))


def test_a_state_of_another_weighting_is_an_error() -> None:
    state = jax.eval_shape(lambda: create(TASK, TX, METHODS["random"], jax.random.key(0), STEPS[0], CONTEXT))
    with pytest.raises(ValueError, match="give all phases of a run the same one"):
        jax.eval_shape(make_step(TASK, TX, METHODS["uncertainty"]), state, STEPS[0], CONTEXT)


def test_the_representation_is_no_part_of_the_state() -> None:
    batch = jax.eval_shape(TASK.prepare, jax.random.key(0), STEPS[0], CONTEXT)
    assert "perturbations" in jax.eval_shape(TASK.init, jax.random.key(0), batch)
    assert run(1).last["mgda_ub"].collections == {}


# --- a run ---


def test_a_run_logs_every_scalar_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    queries = TASK.prepare(jax.random.key(0), rows(*range(BATCH)), CONTEXT)
    queries = {name: np.asarray(column)[None] for name, column in queries.items()}

    asked = Evaluation(
        make_scores(TASK.predict), queries, impression_metrics(["click"]), Protocol(candidates="impressions")
    )

    def train(folder: str, stop_after: int | None = None) -> Fitted:
        return fit(
            [Phase("both", TASK, 2, METHODS["gradnorm"])],
            TX,
            shuffled(NUM_ROWS, BATCH),
            CONTEXT,
            Selection(asked, "auc/click"),
            seeds=(0,),
            workdir=tmp_path / folder,
            description={},
            progress=False,
            stop_after=stop_after,
        )

    whole = train("whole")
    train("parts", stop_after=1)
    resumed = train("parts")
    scalars = set(run(1).logs[0]["gradnorm"])
    for ours, theirs in zip(resumed.history, whole.history, strict=True):
        assert scalars <= set(ours)
        assert {name: ours[name] for name in scalars} == {name: theirs[name] for name in scalars}
        assert np.isfinite([ours[name] for name in scalars]).all()
    assert len(whole.history) == 2
    assert whole.history[1]["weight/buy"] != [1.0]
