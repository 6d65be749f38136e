"""Sub-network routing: nextrec's SNR-Trans, and the gates of Louizos et al.'s own code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.convert import nextrec
from jaxrec.convert.state_dict import Converted, to_state
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.multitask.snr import HardConcrete, hard_concrete
from jaxrec.types import Array
from tests.golden.activations import activation
from tests.golden.compare import close_gradients, close_outputs, read_by_heads
from tests.golden.fixtures import Golden, golden_files, read

State = dict[str, np.ndarray]


# --- routing ----------------------------------------------------------------------------------------


class Computed(NamedTuple):
    golden: Golden
    converted: Converted
    outputs: dict[str, Array]
    gradients: State


def source_name(name: str) -> str:
    """The source's name of a parameter of the fixture, whose layers are numbered from 1."""
    name = re.sub(r"^sub(\d+)\.", lambda found: f"expert_layers.{int(found[1]) - 1}.", name)
    name = re.sub(r"^gate(\d+)\.", lambda found: f"gates.{int(found[1]) - 1}.", name)
    return re.sub(r"^(towers\.\d+)\.", r"\1.mlp.0.", name)


def of_their_gates(gradients: State, state: State, beta: float) -> State:
    """Gradients of log α as those of what the source makes it of, alpha and u."""
    rest = {name: value for name, value in gradients.items() if not name.endswith(".log_alpha")}
    for layer in range(len(gradients) - len(rest)):
        names = [f"gates.{layer}.alpha", f"gates.{layer}.u"]
        inputs = {name: jnp.asarray(state[name]) for name in names}
        _, back = jax.vjp(lambda parts, i=layer: nextrec.log_alpha(parts, i, beta), inputs)
        (found,) = back(jnp.asarray(gradients[f"gates.{layer}.log_alpha"]))
        rest |= {name: np.asarray(value) for name, value in found.items()}
    return rest


def routed(model: Any, params: Any, layers: int, x: Array) -> Array:
    """What the first `layers` layers hand on, [B, sub-networks of the next layer or tasks, H]."""
    following = (*model.num_subnets, model.num_tasks)[layers]
    dims = model.dims[:layers]
    short = model.clone(num_tasks=following, num_subnets=model.num_subnets[:layers], dims=dims, tower_dims=())
    heads = {"kernel": jnp.zeros((following, dims[-1][-1], 1)), "bias": jnp.zeros((following, 1))}
    own = {k: v for k, v in params.items() if k != "towers" and int(k.rsplit("_", 1)[1]) < layers}
    return read_by_heads(lambda p: short.apply({"params": p}, x), {**own, "towers": {"logit": heads}})


@pytest.fixture(params=golden_files("snr_trans"), scope="module")
def computed(request: pytest.FixtureRequest) -> Computed:
    path: Path = request.param
    golden = read(path)
    config = golden.meta["config"]
    theirs = {source_name(name): value for name, value in golden.params.items()}
    converted = nextrec.snr_trans(
        theirs,
        beta=config["beta"],
        gamma=config["gamma"],
        zeta=config["zeta"],
        mlp=Factory(MLP, activation=activation(config.get("activation", "relu"))),
    )
    model, params = converted.module, converted.variables["params"]
    x, y = (jnp.asarray(golden.inputs[name]) for name in ("x", "y"))

    def total(params: Any) -> tuple[Array, dict[str, Array]]:
        logits, sown = model.apply({"params": params}, x, mutable=["intermediates"])
        loss = losses.binary_cross_entropy(logits, y)
        gates = sown["intermediates"]["gates"]
        return loss, {"logits": logits, "loss": loss} | {f"z{i}": z for i, z in enumerate(gates, 1)}

    gradients, outputs = jax.jit(jax.grad(total, has_aux=True))(params)
    outputs |= {f"routed{i}": routed(model, params, i, x) for i in range(1, len(model.num_subnets) + 1)}
    state = of_their_gates(to_state({"params": gradients}, converted.locations), theirs, config["beta"])
    names = {source_name(name): name for name in golden.params}
    return Computed(golden, converted, outputs, {names[name]: value for name, value in state.items()})


def test_gates_routes_logits_and_loss(computed: Computed) -> None:
    close_outputs(computed.outputs, computed.golden.outputs)


def test_all_gradients_those_of_the_gates_too(computed: Computed) -> None:
    close_gradients(computed.gradients, computed.golden.gradients)


def test_sizes_are_those_of_the_configuration(computed: Computed) -> None:
    config, model = computed.golden.meta["config"], computed.converted.module
    assert list(model.num_subnets) == config["subnets"]
    assert {width for dims in model.dims for width in dims} == {config["width"]}
    assert model.num_tasks == config["tasks"]
    assert (model.beta, model.gamma, model.zeta) == (config["beta"], config["gamma"], config["zeta"])


def test_weights_come_back_as_they_were(computed: Computed) -> None:
    state = to_state(computed.converted.variables, computed.converted.locations)
    theirs = {source_name(name): value for name, value in computed.golden.params.items()}
    assert {name for name in state if name in theirs} == {
        name for name in theirs if not name.endswith((".alpha", ".u"))
    }
    for name in set(state) & set(theirs):
        np.testing.assert_array_equal(state[name], theirs[name], err_msg=name)


@pytest.mark.parametrize("path", golden_files("snr_trans"))
def test_parameters_that_do_not_fit_are_refused(path: Path) -> None:
    state = {source_name(name): value for name, value in read(path).params.items()}
    with pytest.raises(ValueError, match="gates.0.log_alpha: .* must hold finite"):
        nextrec.snr_trans({**state, "gates.0.alpha": -state["gates.0.alpha"]})
    with pytest.raises(ValueError, match="not understood: expert_layers.0.0.mlp.1.weight"):
        nextrec.snr_trans({**state, "expert_layers.0.0.mlp.1.weight": np.ones(6, np.float32)})


# --- gates ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", golden_files("hard_concrete"))
def test_hard_concrete_gates_and_penalty(path: Path) -> None:
    """A layer whose inputs are gated: Σ_j P_j Σ_k (λ₂/2 W_jk² + λ₀) is its penalty, with P_j ours."""
    golden = read(path)
    config = golden.meta["config"]
    stretch = {"beta": config["temperature"], "gamma": config["gamma"], "zeta": config["zeta"]}
    x, weights, uniform = (jnp.asarray(golden.inputs[name]) for name in ("x", "w", "uniform"))
    module: Any = HardConcrete((config["inputs"],), **stretch)

    def total(params: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        gates = {"params": {"log_alpha": params["qz_loga"]}}
        z_train = hard_concrete(params["qz_loga"], uniform, **stretch)
        z_eval = module.apply(gates)
        probability = module.apply(gates, method="open_probability")
        bias = params.get("bias", jnp.zeros(config["outputs"]))
        of_weights = jnp.sum(config["weight_decay"] / 2 * params["weights"] ** 2 + config["lamba"], axis=1)
        penalty = jnp.sum(probability * of_weights) + config["weight_decay"] / 2 * jnp.sum(bias**2)
        y_train = (x * z_train) @ params["weights"] + bias
        outputs = {
            "z_train": z_train,
            "z_eval": z_eval,
            "open_probability": probability,
            "y_train": y_train,
            "y_eval": (x * z_eval) @ params["weights"] + bias,
            "penalty": penalty,
            "loss": jnp.sum(y_train * weights) + 0.1 * penalty,
        }
        return outputs["loss"], outputs

    params = {name: jnp.asarray(value) for name, value in golden.params.items()}
    gradients, outputs = jax.jit(jax.grad(total, has_aux=True))(params)
    close_outputs(outputs, golden.outputs)
    close_gradients({k: np.asarray(v) for k, v in gradients.items()}, golden.gradients)
