"""TorchEasyRec's DBMTL, with hard sharing and with experts: outputs, loss and all gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.convert import easyrec
from jaxrec.convert.state_dict import Converted, to_state
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.mlp import MLP
from jaxrec.types import Array
from tests.golden.activations import activation
from tests.golden.compare import close_gradients, close_outputs
from tests.golden.fixtures import Golden, golden_files, read


class Computed(NamedTuple):
    golden: Golden
    converted: Converted
    outputs: dict[str, Array]
    gradients: dict[str, np.ndarray]


@pytest.fixture(params=golden_files("dbmtl"), scope="module")
def computed(request: pytest.FixtureRequest) -> Computed:
    path: Path = request.param
    golden = read(path)
    config = golden.meta["config"]
    mlp = Factory(MLP, activation=activation(config["activation"]))
    converted = easyrec.dbmtl(golden.params, config["tasks"], config["parents"], mlp=mlp)
    x, y = (jnp.asarray(golden.inputs[name]) for name in ("x", "y"))

    def total(params: Any) -> tuple[Array, dict[str, Array]]:
        logits = converted.module.apply({"params": params}, x)
        loss = losses.binary_cross_entropy(logits, y) * y.shape[1]  # the source's: a sum over tasks
        return loss, {"logits": logits, "loss": loss}

    gradients, outputs = jax.jit(jax.grad(total, has_aux=True))(converted.variables["params"])
    return Computed(golden, converted, outputs, to_state({"params": gradients}, converted.locations))


def test_outputs_and_loss(computed: Computed) -> None:
    close_outputs(computed.outputs, computed.golden.outputs)


def test_all_gradients(computed: Computed) -> None:
    close_gradients(computed.gradients, computed.golden.gradients)


def test_weights_come_back_as_they_were(computed: Computed) -> None:
    state = to_state(computed.converted.variables, computed.converted.locations)
    assert set(state) == set(computed.golden.params)
    for name, value in state.items():
        np.testing.assert_array_equal(value, computed.golden.params[name], err_msg=name)


def test_sizes_are_those_of_the_configuration(computed: Computed) -> None:
    config, model = computed.golden.meta["config"], computed.converted.module
    theirs = [config[name] or [] for name in ("bottom", "tower", "relation")]
    assert [list(dims) for dims in (model.bottom_dims, model.tower_dims, model.relation_dims)] == theirs
    assert model.num_experts == config["num_expert"]
    if model.num_experts:
        assert list(model.expert_dims) == config["expert"]


@pytest.mark.parametrize("path", golden_files("dbmtl"))
def test_parameters_that_do_not_fit_are_refused(path: Path) -> None:
    golden = read(path)
    state, config = golden.params, golden.meta["config"]
    tasks, parents = config["tasks"], config["parents"]
    norm = {"bottom_mlp.mlp.0.perceptron.1.weight": np.ones(1, np.float32)}
    with pytest.raises(ValueError, match="not understood: bottom_mlp.mlp.0.perceptron.1.weight"):
        easyrec.dbmtl({**state, **norm}, tasks, parents)
    with pytest.raises(ValueError, match="stranger must be among the tasks"):
        easyrec.dbmtl(state, tasks, [["stranger"], *parents[1:]])
    with pytest.raises(ValueError, match="one sequence for each of the tasks"):
        easyrec.dbmtl(state, tasks, parents[1:])
