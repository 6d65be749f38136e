"""LibMTL's loss weightings: weights and gradients of UW, DWA, GradNorm, MGDA and PCGrad on a small network.

Its GradNorm has weights K softmax(θ): `softmax=True`. Its MGDA applies the weights to normalised gradients:
`rescale=True`. Its solver stops early, and for two tasks at 0.001 or 0.999, so combinations are compared, by
how much longer than the shortest one they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec.optim import gradient_balancing as balancing
from jaxrec.optim.loss_weighting import Descent, TaskLosses, Weighting, dwa, uncertainty
from jaxrec.types import Array
from tests.golden.fixtures import Golden, golden_files, read

SIZES = {
    "none": balancing.unnormalised,
    "l2": balancing.by_norm,
    "loss": balancing.by_loss,
    "loss+": balancing.by_loss_and_norm,
}


@pytest.fixture(params=golden_files("mtl_weighting"), scope="module")
def golden(request: pytest.FixtureRequest) -> Golden:
    return read(request.param)


def names_of(golden: Golden) -> list[str]:
    return [f"task{k:03d}" for k in range(len(golden.inputs["losses"]))]  # in alphabetical order


def variants(arrays: Mapping[str, np.ndarray], pattern: str) -> list[re.Match[str]]:
    """Names of arrays that fit the pattern; there is at least one."""
    found = [match for match in (re.fullmatch(pattern, name) for name in arrays) if match]
    assert found != []
    return found


def descend(golden: Golden, cases: Mapping[str, tuple[Weighting, Any, Any]]) -> dict[str, Descent]:
    """A step's gradient on the reference's network: shared linear layer, tanh, a linear head a task.

    cases: weightings with what they have learned and remember; compiled together.
    """
    params = {name: jnp.asarray(value) for name, value in golden.params.items()}
    x, y = golden.inputs["x"], golden.inputs["y"]
    shared = {name: params.pop(f"shared.{name}") for name in ("weight", "bias")}

    def losses(model: Any, probes: Any) -> tuple[dict[str, Array], dict[str, Any]]:
        hidden = jnp.tanh(x @ model["shared"]["weight"].T + model["shared"]["bias"])
        found = {}
        for k, name in enumerate(names_of(golden)):
            head = hidden @ model[f"heads.{k}.weight"][0] + model[f"heads.{k}.bias"]
            found[name] = jnp.mean((head - y[:, k]) ** 2)
        return found, {}

    def gradients(model: Any, given: dict[str, Any]) -> dict[str, Descent]:
        objective, key, found = TaskLosses(losses, dict), jax.random.key(0), {}
        for case, (weighting, _, _) in cases.items():
            learned, state = given[case]
            found[case] = weighting.gradient(objective, {"model": model, "weighting": learned}, state, key)
        return found

    return jax.jit(gradients)(
        {"shared": shared, **params}, {case: given[1:] for case, given in cases.items()}
    )


def of_shared(found: Descent) -> np.ndarray:
    gradient = found.gradient["model"]["shared"]
    return np.concatenate([np.ravel(gradient["weight"]), np.ravel(gradient["bias"])])


def weights_of(golden: Golden, found: Descent) -> np.ndarray:
    return np.array([float(found.logs[f"weight/{name}"]) for name in names_of(golden)])


def close(ours: Any, theirs: np.ndarray, what: str) -> None:
    atol = 1e-5 * max(1.0, float(np.abs(theirs).max()))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=atol, err_msg=what)


def test_losses_and_the_gradient_of_each_task(golden: Golden) -> None:
    names = names_of(golden)
    alone = balancing.pcgrad(["shared"])._replace(balance=lambda state, *_: (state, state))
    cases = descend(golden, {name: (alone, {}, jnp.eye(len(names))[k]) for k, name in enumerate(names)})
    for k, (name, found) in enumerate(cases.items()):
        close(found.logs[name], golden.inputs["losses"][k], name)
        close(of_shared(found), golden.inputs["grads"][k], name)
        close(found.logs[f"gradient_norm/{name}"], np.linalg.norm(golden.inputs["grads"][k]), name)


def test_uncertainty_weighting(golden: Golden) -> None:
    names = names_of(golden)
    given: dict[str, Any] = {}
    for match in variants(golden.inputs, r"(uw/.+)/loss_scale"):
        learned = dict(zip(names, jnp.asarray(golden.inputs[match[0]]), strict=True))
        given[match[1]] = uncertainty(regression=names), learned, {}
    for case, found in descend(golden, given).items():
        close(found.logs["loss"], golden.outputs[f"{case}/total"], case)
        close(weights_of(golden, found), golden.outputs[f"{case}/weights"], case)
        of_scale = [found.gradient["weighting"][name] for name in names]
        close(of_scale, golden.outputs[f"{case}/grad_loss_scale"], case)
        close(of_shared(found), golden.outputs[f"{case}/grad_shared"], case)


def test_dynamic_weight_average(golden: Golden) -> None:
    names, means = names_of(golden), golden.inputs["dwa/train_loss_buffer"].astype(np.float32)
    cases = {
        (int(m[1]), m[2]): golden.outputs[m[0]]
        for m in variants(golden.outputs, r"dwa/epoch(\d+)/T(.+)/weights")
    }
    for temperature in {t for _, t in cases}:
        method = dwa(names, steps_per_epoch=1, temperature=float(temperature))
        learned, state = method.init()
        for epoch in range(max(e for e, _ in cases) + 1):
            losses = dict(zip(names, jnp.asarray(means[:, epoch]), strict=True))
            _, state, weights = method.combine(learned, state, losses)
            if (epoch, temperature) in cases:
                close([weights[name] for name in names], cases[epoch, temperature], f"epoch {epoch}")


def test_gradnorm(golden: Golden) -> None:
    names = names_of(golden)
    start = dict(zip(names, golden.inputs["gradnorm/initial_losses"].tolist(), strict=True))
    free = jnp.asarray(golden.inputs["gradnorm/loss_scale"])
    given: dict[str, Any] = {}
    for match in variants(golden.outputs, r"(gradnorm/alpha(.+))/weights"):
        options: Any = {"alpha": float(match[2]), "start": start, "softmax": True, "tx": optax.sgd(1.0)}
        method = balancing.gradnorm(names, ["shared"], **options)
        given[match[1]] = method, {}, method.init()[1] | {"free": free}
    for case, found in descend(golden, given).items():
        close(weights_of(golden, found), golden.outputs[f"{case}/weights"], case)
        close(free - found.state["free"], golden.outputs[f"{case}/grad_loss_scale"], case)
        close(of_shared(found), golden.outputs[f"{case}/grad_shared"], case)


def compare_combinations(ours: np.ndarray, theirs: np.ndarray, scale: float, what: str) -> None:
    """Ours is the shortest point of a convex set and theirs another one: |g - g*|² <= |g|² - |g*|²."""
    excess = float(np.square(theirs, dtype=np.float64).sum() - np.square(ours, dtype=np.float64).sum())
    assert -1e-5 * scale <= excess <= 1e-2 * scale, what
    assert np.square(ours - theirs, dtype=np.float64).sum() <= excess + 1e-5 * scale, what


def test_mgda(golden: Golden) -> None:
    tags = [match[1] for match in variants(golden.outputs, r"mgda/(.+)/grad_shared")]
    methods = {tag: balancing.mgda(["shared"], normalisation=SIZES[tag], rescale=True) for tag in tags}
    norms = np.linalg.norm(golden.inputs["grads"], axis=1)
    for tag, found in descend(golden, {tag: (method, {}, {}) for tag, method in methods.items()}).items():
        sizes = np.asarray(SIZES[tag](jnp.asarray(golden.inputs["losses"]), jnp.asarray(norms)))
        weights = weights_of(golden, found) * sizes
        assert weights.min() >= 0
        assert weights.sum() == pytest.approx(1.0, abs=1e-5)
        scale = float(np.square(norms / sizes).mean())
        compare_combinations(of_shared(found), golden.outputs[f"mgda/{tag}/grad_shared"], scale, tag)


def test_the_shortest_combination(golden: Golden) -> None:
    solve = jax.jit(balancing.min_norm_weights)
    for match in variants(golden.inputs, r"minnorm/(\d+)/grads"):
        case, gradients = f"minnorm/{match[1]}", golden.inputs[match[0]].astype(np.float64)
        weights = np.asarray(solve(jnp.asarray(gradients @ gradients.T, jnp.float32)), np.float64)
        scale = float(np.square(gradients).sum(axis=1).mean())
        assert weights.min() >= 0
        assert weights.sum() == pytest.approx(1.0, abs=1e-6)
        length = float(np.square(weights @ gradients).sum())
        best = float(golden.outputs[f"{case}/norm2_optimum"])
        assert length == pytest.approx(best, rel=1e-5, abs=1e-6 * scale), case
        theirs = golden.outputs[f"{case}/weights"].astype(np.float64) @ gradients
        compare_combinations(weights @ gradients, theirs, scale, case)


def test_gradient_surgery_in_the_orders_given(golden: Golden) -> None:
    def balance(state: Any, losses: Any, gram: Array, key: Any) -> Any:
        return balancing.pcgrad_weights(gram, state), state

    method = balancing.pcgrad(["shared"])._replace(balance=balance)
    orders = {m[1]: golden.inputs[m[0]] for m in variants(golden.inputs, r"(pcgrad/\d+)/orders")}
    given: dict[str, Any] = {case: (method, {}, jnp.asarray(order)) for case, order in orders.items()}
    for case, found in descend(golden, given).items():
        close(weights_of(golden, found), golden.outputs[f"{case}/weights"], case)
        close(of_shared(found), golden.outputs[f"{case}/grad_shared"], case)
