"""SINE of RecBole and of torch-rechub: outputs, losses and all gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.convert import recbole_sine, rechub_interests
from jaxrec.convert.state_dict import Converted, to_state
from jaxrec.segments import rows_by_id
from jaxrec.types import Array
from tests.golden.compare import close_gradients, close_outputs
from tests.golden.fixtures import Golden, golden_files, read


class Computed(NamedTuple):
    golden: Golden
    converted: Converted
    outputs: dict[str, Array]
    gradients: dict[str, np.ndarray]


def computed(golden: Golden, converted: Converted, loss: Any) -> Computed:
    """In float64: next to a saturated softmax, float32 gradients of torch-rechub's form lose four digits."""
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), converted.variables)
        gradients, outputs = jax.jit(jax.grad(loss, has_aux=True))(exact)
    return Computed(golden, converted, outputs, to_state(gradients, converted.locations))


def of_recbole(golden: Golden) -> Computed:
    config = golden.meta["config"]
    fields = {"temperature": config["tau_ratio"], "penalty": config["reg_loss_ratio"]}
    sizes = {"max_len": config["max_len"], "norm_epsilon": config["layer_norm_eps"]}
    found = recbole_sine.from_state_dict(golden.params, **fields, **sizes)
    model = found.module
    ids = {name: jnp.asarray(value, jnp.int32) for name, value in golden.inputs.items()}

    def loss(variables: Any) -> tuple[Array, dict[str, Array]]:
        hidden = model.apply(variables, ids["item_id_list"], train=False).vectors[:, 0]
        table = model.apply(variables, method="item_table")
        scores = hidden @ table.T
        pos = scores[jnp.arange(len(scores)), ids["item_id"]]
        if config["loss_type"] == "BPR":
            value = losses.bpr(pos, scores[jnp.arange(len(scores)), ids["neg_item_id"]])
        else:
            value = losses.softmax_cross_entropy(hidden, table, ids["item_id"], include_padding=True)
        if config["loss_type"] == "NLL":
            value = value + model.apply(variables, method="penalties")["prototypes"]
        return value, {"seq_output": hidden, "scores": scores, "predict": pos, "loss": value}

    return computed(golden, found, loss)


def of_rechub(golden: Golden) -> Computed:
    found = rechub_interests.sine(golden.params, temperature=golden.meta["config"]["temperature"])
    model = found.module
    ids = {name: jnp.asarray(value, jnp.int32) for name, value in golden.inputs.items()}

    def loss(variables: Any) -> tuple[Array, dict[str, Array]]:
        user = model.apply(variables, ids["hist"], train=False).vectors[:, 0]
        items = jnp.concatenate([ids["item_id"][:, None], ids["neg"]], axis=1)
        table = model.apply(variables, method="item_table")
        scores = jnp.einsum("bd,bnd->bn", user, rows_by_id(table, items))
        value = losses.sampled_softmax(scores[:, 0], scores[:, 1:])
        return value, {"user": user, "scores": scores, "loss": value}

    return computed(golden, found, loss)


@pytest.fixture(params=golden_files("sine"), scope="module")
def each(request: pytest.FixtureRequest) -> Computed:
    path: Path = request.param
    golden = read(path)
    return (of_recbole if "C.weight" in golden.params else of_rechub)(golden)


def test_outputs_and_loss(each: Computed) -> None:
    close_outputs(each.outputs, each.golden.outputs)


def test_all_gradients(each: Computed) -> None:
    close_gradients(each.gradients, each.golden.gradients)


def test_weights_come_back_as_they_were(each: Computed) -> None:
    back = to_state(each.converted.variables, each.converted.locations)
    assert set(back) == set(each.golden.params)
    for name, value in back.items():
        np.testing.assert_array_equal(value, each.golden.params[name])


def test_sizes_are_those_of_the_configuration(each: Computed) -> None:
    config, model = each.golden.meta["config"], each.converted.module
    theirs = [
        config.get("prototype_size", config.get("concepts")),
        config.get("interest_size", config.get("intentions")),
        config.get("embedding_size", config.get("embed_dim")),
        config["max_len"],
    ]
    assert [model.num_prototypes, model.num_interests, model.dim, model.max_len] == theirs
