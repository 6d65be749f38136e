"""nextrec's POSO(MLP) and POSO(MMoE): outputs, loss and all gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.convert import nextrec
from jaxrec.convert.state_dict import Converted, Locations, to_state
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.mlp import MLP
from jaxrec.types import Array
from tests.golden.activations import activation
from tests.golden.compare import close_gradients, close_outputs, read_by_heads
from tests.golden.fixtures import Golden, golden_files, read

State = dict[str, np.ndarray]


class LinearGate(nn.Module):
    """The source's gate of a task with `gate_use_softmax` off."""

    num_experts: int

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        return nn.Dense(self.num_experts, name="logits")(x)


class Computed(NamedTuple):
    golden: Golden
    mlp: Converted
    mmoe: Converted
    outputs: dict[str, Array]
    gradients: State
    params: State


def parts(state: State) -> tuple[State, State, State]:
    """The gated stack, its head, and the mixture with towers, which are linear, under the source's names."""
    stack = {k.removeprefix("mlp."): v for k, v in state.items() if k.startswith("mlp.")}
    head = {k: v for k, v in state.items() if k.startswith("head.")}
    mixture = {k: v for k, v in state.items() if k.startswith("mmoe.")}
    for key, value in state.items():
        if key.startswith("towers."):
            task, name = key.split(".")[1:]
            mixture[f"towers.{task}.mlp.0.{name}"] = value
    return stack, head, mixture


def whole(params: Any, mlp: Locations, mmoe: Locations) -> State:
    """The way back, to the fixture's names."""
    stack = {f"mlp.{k}": v for k, v in to_state({"params": params["mlp"]}, mlp).items()}
    mixture = to_state({"params": params["mmoe"]}, mmoe)
    return {
        **stack,
        **{name: np.asarray(value) for name, value in params["head"].items()},
        **{k.replace(".mlp.0.", ".") if k.startswith("towers.") else k: v for k, v in mixture.items()},
    }


def compute(golden: Golden) -> Computed:
    """Our outputs and gradients for a fixture."""
    config = golden.meta["config"]
    function = activation(config["activation"])
    fields = {"gate_activation": function, "factor": config["factor"]}
    stack, head, mixture = parts(golden.params)
    mlp = nextrec.poso_mlp(stack, activation=function, **fields)
    gate = {} if config.get("gate_use_softmax", True) else {"gate": LinearGate}
    mmoe = nextrec.poso_mmoe(mixture, mlp=Factory(MLP, activation=function), **gate, **fields)
    x, code, y = (jnp.asarray(golden.inputs[name]) for name in ("x", "code", "y"))

    def total(params: Any) -> tuple[Array, dict[str, Array]]:
        hidden, sown = mlp.module.apply({"params": params["mlp"]}, x, code, mutable=["intermediates"])
        first = hidden @ params["head"]["head.weight"].T + params["head"]["head.bias"]
        logits = jnp.concatenate([first, mmoe.module.apply({"params": params["mmoe"]}, x, code)], axis=1)
        loss = losses.binary_cross_entropy(logits, y)
        gate = sown["intermediates"]["gates"][0]
        return loss, {"mlp_hidden": hidden, "gate0": gate, "logits": logits, "loss": loss}

    params = {"mlp": mlp.variables["params"], "mmoe": mmoe.variables["params"], "head": head}
    gradients, outputs = jax.jit(jax.grad(total, has_aux=True))(params)
    outputs["mmoe_hidden"] = read_by_heads(
        lambda p: mmoe.module.apply({"params": p}, x, code), mmoe.variables["params"]
    )
    locations = mlp.locations, mmoe.locations
    return Computed(golden, mlp, mmoe, outputs, whole(gradients, *locations), whole(params, *locations))


@pytest.fixture(params=golden_files("poso"), scope="module")
def computed(request: pytest.FixtureRequest) -> Computed:
    path: Path = request.param
    return compute(read(path))


def test_outputs_and_loss(computed: Computed) -> None:
    close_outputs(computed.outputs, computed.golden.outputs)


def test_all_gradients(computed: Computed) -> None:
    close_gradients(computed.gradients, computed.golden.gradients)


def test_weights_come_back_as_they_were(computed: Computed) -> None:
    assert set(computed.params) == set(computed.golden.params)
    for name, value in computed.params.items():
        np.testing.assert_array_equal(value, computed.golden.params[name], err_msg=name)


def test_sizes_are_those_of_the_configuration(computed: Computed) -> None:
    config, mlp, mmoe = computed.golden.meta["config"], computed.mlp.module, computed.mmoe.module
    assert list(mlp.dims) == list(mmoe.expert_dims) == config["hidden"]
    assert mlp.gate_dim == mmoe.gate_dim == config["gate_hidden"]
    assert (mmoe.num_experts, mmoe.num_tasks) == (config["num_experts"], config["tasks"])
    assert tuple(mmoe.tower_dims) == ()


@pytest.mark.parametrize("path", golden_files("poso"))
def test_parameters_that_do_not_fit_are_refused(path: Path) -> None:
    stack, _, mixture = parts(read(path).params)
    with pytest.raises(ValueError, match="not understood: layers.0.act.weight"):
        nextrec.poso_mlp({**stack, "layers.0.act.weight": np.ones(1, np.float32)})
    with pytest.raises(ValueError, match=r"towers\.0\.mlp\.0\.weight: missing"):
        nextrec.poso_mmoe({k: v for k, v in mixture.items() if k != "towers.0.mlp.0.weight"})
