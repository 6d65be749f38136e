"""RecBole's BPR and NeuMF: scores, losses and all gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.convert import recbole_pairs
from jaxrec.convert.state_dict import Converted, to_state
from jaxrec.types import Array, Variables
from tests.golden.compare import close_gradients, close_outputs
from tests.golden.fixtures import Golden, golden_files, read

Computed = tuple[Golden, dict[str, Array], dict[str, np.ndarray]]


def converted(golden: Golden) -> Converted:
    """Our module with the fixture's weights."""
    config = golden.meta["config"]
    if "mlp_hidden_size" in config:
        branches = {name: config[name] for name in ("mf_train", "mlp_train")}
        return recbole_pairs.neumf(golden.params, **branches)
    return recbole_pairs.bpr(golden.params)


@pytest.fixture(params=[*golden_files("bpr"), *golden_files("neumf")], scope="module")
def computed(request: pytest.FixtureRequest) -> Computed:
    """The fixture, our outputs by name, and our gradients under PyTorch's names."""
    path: Path = request.param
    golden = read(path)
    model, variables, locations = converted(golden)
    user, item, negative = (
        jnp.asarray(golden.inputs[name], jnp.int32) for name in ("user_id", "item_id", "neg_item_id")
    )

    def total(variables: Variables) -> tuple[Array, dict[str, Any]]:
        scores = model.apply(variables, user, jnp.stack([item, negative], axis=1), {}, train=False)
        pos, neg = scores[:, 0], scores[:, 1:]
        if "label" in golden.inputs:  # of item_id, as NeuMF learns from labelled pairs
            loss = losses.binary_cross_entropy(pos, jnp.asarray(golden.inputs["label"]))
            return loss, {"predict": jax.nn.sigmoid(pos), "loss": loss}
        loss = losses.bpr(pos, neg)
        return loss, {"predict": pos, "loss": loss}

    gradients, outputs = jax.jit(jax.grad(total, has_aux=True))(variables)
    return golden, outputs, to_state(gradients, locations)


def test_outputs_and_loss(computed: Computed) -> None:
    golden, outputs, _ = computed
    close_outputs(outputs, golden.outputs)


def test_all_gradients(computed: Computed) -> None:
    golden, _, gradients = computed
    close_gradients(gradients, golden.gradients)


def test_weights_come_back_as_they_were(computed: Computed) -> None:
    golden, *_ = computed
    model, variables, locations = converted(golden)
    config = golden.meta["config"]
    assert (model.num_users + 1, model.num_items + 1) == (config["n_users"], config["n_items"])
    for name, value in to_state(variables, locations).items():
        np.testing.assert_array_equal(value, golden.params[name], err_msg=name)


@pytest.mark.parametrize("path", golden_files("neumf"))
def test_a_branch_of_its_own_is_converted_too(path: Path) -> None:
    """From the file of the whole: the output layer is cut to the branch."""
    golden = read(path)
    config = golden.meta["config"]
    if not (config["mf_train"] and config["mlp_train"]):
        pytest.skip("the file is of one branch, which the other tests convert")
    width = config["mf_embedding_size"]
    kernel = golden.params["predict_layer.weight"]
    user, item = (jnp.asarray(golden.inputs[name], jnp.int32) for name in ("user_id", "item_id"))
    bias = golden.params["predict_layer.bias"]
    parts = []
    for branches, part in (
        ({"mlp_train": False}, kernel[:, :width]),
        ({"mf_train": False}, kernel[:, width:]),
    ):
        own = {**golden.params, "predict_layer.weight": part}
        model, variables, _ = recbole_pairs.neumf(own, **branches)
        parts.append(model.apply(variables, user, item[:, None], {}, train=False)[:, 0] - bias)
    expected = np.log(golden.outputs["predict"] / (1 - golden.outputs["predict"]))
    np.testing.assert_allclose(sum(parts) + bias, expected, rtol=1e-4, atol=1e-5)


def test_a_model_without_branches_is_refused() -> None:
    with pytest.raises(ValueError, match="both False"):
        recbole_pairs.neumf({}, mf_train=False, mlp_train=False)
