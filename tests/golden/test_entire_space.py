"""ESMM, AITM and PLE of torch-rechub, AITM of adtalos, STAR and EPNet of Scenario-Wise-Rec."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.convert import aitm, rechub, scenario_wise
from jaxrec.convert.state_dict import Converted, to_state
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.mlp import MLP
from jaxrec.types import Array, Variables
from tests.golden import activations
from tests.golden.activations import WITH_PARAMETERS
from tests.golden.fixtures import Golden, golden_files, read

FIXTURES = [
    *golden_files("esmm"),
    *golden_files("aitm"),
    *golden_files("ple_all_experts"),
    *golden_files("star"),
    *golden_files("epnet"),
]
Outputs = dict[str, Array]


class Computed(NamedTuple):
    golden: Golden
    converted: Converted
    outputs: Outputs
    gradients: dict[str, np.ndarray]
    state: dict[str, np.ndarray]  # running statistics after the step, under PyTorch's names


def esmm_outputs(logits: dict[str, Array], y: np.ndarray) -> tuple[Array, Outputs]:
    loss = losses.binary_cross_entropy(logits["ctr"], y[:, 0]) + losses.binary_cross_entropy(
        logits["ctcvr"], y[:, 0] * y[:, 1]
    )
    return loss, {"pred": nn.sigmoid(jnp.stack([logits["cvr"], logits["ctr"], logits["ctcvr"]], axis=1))}


def task_outputs(logits: Array, y: np.ndarray) -> tuple[Array, Outputs]:
    return losses.binary_cross_entropy(logits, y) * y.shape[1], {"pred": nn.sigmoid(logits)}


def calibrated_outputs(weight: float) -> Callable[[Array, np.ndarray], tuple[Array, Outputs]]:
    """The source sums the violations over the batch."""

    def outputs(logits: Array, y: np.ndarray) -> tuple[Array, Outputs]:
        loss = losses.binary_cross_entropy(logits, y) * 2 + weight * len(y) * losses.order_violation(logits)
        click, conversion = nn.sigmoid(logits).T
        return loss, {"click": click, "conversion": conversion}

    return outputs


def domain_outputs(logit: Array, label: np.ndarray) -> tuple[Array, Outputs]:
    return losses.binary_cross_entropy(logit, label), {"pred": nn.sigmoid(logit)}


def build(name: str, golden: Golden) -> tuple[Converted, Callable[..., tuple[Array, Outputs]], str]:
    """Our model with the fixture's weights, the fixture's loss and outputs, and what it calls the labels."""
    config, state = golden.meta["config"], golden.params
    fields: dict[str, Any] = {}
    if "activation" in config:
        activation = config["activation"]
        fields["activation"] = WITH_PARAMETERS.get(activation.lower()) or activations.activation(activation)
    mlp = Factory(MLP, **fields)
    if "adtalos" in golden.meta["source"]["repo"]:
        return aitm.from_state_dict(state), calibrated_outputs(config["constraint_weight"]), "y"
    if name.startswith("esmm"):
        return rechub.esmm(state, mlp=mlp), esmm_outputs, "y"
    if name.startswith("aitm"):
        return rechub.aitm(state, mlp=mlp), task_outputs, "y"
    if name.startswith("ple"):
        return rechub.ple(state, mlp=mlp), task_outputs, "y"
    if name.startswith("star"):
        return scenario_wise.star(state, **fields), domain_outputs, "label"
    return scenario_wise.epnet(state, mlp=mlp), domain_outputs, "label"


@pytest.fixture(params=FIXTURES, scope="module")
def computed(request: pytest.FixtureRequest) -> Computed:
    path: Path = request.param
    golden = read(path)
    converted, outputs_of, label = build(path.stem, golden)
    module, variables, locations = converted
    batch = {
        name: jnp.asarray(column + (name != "domain_indicator"), jnp.int32)  # their ids start at 0
        for name, column in golden.inputs.items()
        if name != label
    }
    train = golden.meta["mode"] == "train"
    rest = {name: value for name, value in variables.items() if name != "params"}

    def total(params: Variables) -> tuple[Array, tuple[Outputs, Variables]]:
        values = {"params": params, **rest}
        logits, updates = module.apply(values, batch, train=train, mutable=["batch_stats"])
        loss, outputs = outputs_of(logits, golden.inputs[label])
        return loss, (outputs | {"loss": loss}, updates)

    gradients, (outputs, updates) = jax.jit(jax.grad(total, has_aux=True))(variables["params"])
    return Computed(
        golden, converted, outputs, to_state({"params": gradients}, locations), to_state(updates, locations)
    )


def test_outputs_and_loss(computed: Computed) -> None:
    theirs = {name: value for name, value in computed.golden.outputs.items() if "/" not in name}
    assert set(computed.outputs) == set(theirs)
    for name, value in computed.outputs.items():
        np.testing.assert_allclose(value, theirs[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_all_gradients(computed: Computed) -> None:
    assert set(computed.golden.gradients) <= set(computed.gradients)
    for name, value in computed.gradients.items():
        theirs = computed.golden.gradients.get(name, np.zeros_like(value))
        atol = 1e-5 * max(1.0, float(np.abs(theirs).max()))
        np.testing.assert_allclose(value, theirs, rtol=1e-4, atol=atol, err_msg=name)


def test_running_statistics_after_the_step(computed: Computed) -> None:
    """PyTorch moves the running variance towards the unbiased variance of the batch, Flax to the biased."""
    golden = computed.golden
    after = {k.removeprefix("state_after/"): v for k, v in golden.outputs.items() if "/" in k}
    if golden.meta["mode"] != "train":
        for key, value in computed.state.items():
            np.testing.assert_array_equal(value, golden.params[key])
        return
    rows = len(next(iter(golden.inputs.values())))
    assert computed.state.keys() <= after.keys()
    for key, value in computed.state.items():
        step = value - 0.9 * golden.params[key]
        step = step * rows / (rows - 1) if key.endswith("running_var") else step
        np.testing.assert_allclose(
            0.9 * golden.params[key] + step, after[key], rtol=1e-5, atol=1e-5, err_msg=key
        )


def test_weights_come_back_as_they_were(computed: Computed) -> None:
    state = to_state(computed.converted.variables, computed.converted.locations)
    theirs = {k: v for k, v in computed.golden.params.items() if not k.endswith("num_batches_tracked")}
    assert set(state) == set(theirs)
    for key, value in state.items():
        np.testing.assert_array_equal(value, theirs[key])


@pytest.mark.parametrize("path", golden_files("epnet"))
def test_parameters_that_do_not_fit_are_refused(path: Path) -> None:
    state = read(path).params
    bias = "gatenu.network.2.bias"
    for changed, message in [
        (state | {"stranger": np.zeros(1, np.float32)}, "not understood: stranger"),
        ({name: value for name, value in state.items() if name != bias}, f"missing: {bias}"),
        (state | {bias: np.zeros(3, np.float32)}, rf"{bias}: shape \(3,\), but the other parameters imply"),
        (state | {bias: np.full_like(state[bias], np.nan)}, f"{bias}: .* must hold finite"),
        ({}, "no such table"),
    ]:
        with pytest.raises(ValueError, match=message):
            scenario_wise.epnet(changed)
    with pytest.raises(ValueError, match="bottoms.*found in no name"):
        rechub.aitm(state)
