"""STAMP and NextItNet of RecBole, and torch-rechub's STAMP: outputs, losses and all gradients.

All are read at the last slot of a row. Where a row is padded on the right, our STAMP says there what its last
item says; RecBole's NextItNet too reads that slot, and what its blocks have made of padding.
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.convert import recbole_session
from jaxrec.convert import stamp as rechub_stamp
from jaxrec.convert.state_dict import Converted, to_state
from jaxrec.types import Array, Variables
from tests.golden.fixtures import Golden, golden_files, read

Computed = tuple[Golden, dict[str, Array], dict[str, np.ndarray]]


def converted(golden: Golden) -> Converted:
    """Our module with the fixture's weights, by the code base and model they come from."""
    config = golden.meta["config"]
    if "item_emb.weight" in golden.params:
        return rechub_stamp.from_state_dict(golden.params)
    if "dilations" in config:
        dilations = config["dilations"] * config["block_num"]
        return recbole_session.nextitnet(golden.params, dilations=dilations)
    return recbole_session.stamp(golden.params)


def norms(variables: Variables, weight: float) -> Array:
    """RecBole's regularisation of NextItNet: lengths, not squares, of all weights but biases."""
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    lengths = [jnp.sqrt(jnp.sum(leaf**2)) for path, leaf in leaves if path[-1].key != "bias"]
    return weight * jnp.stack(lengths).sum()


@pytest.fixture(params=[*golden_files("stamp"), *golden_files("nextitnet")], scope="module")
def computed(request: pytest.FixtureRequest) -> Computed:
    """The fixture, our outputs by name, and our gradients under PyTorch's names."""
    path: Path = request.param
    golden = read(path)
    config = golden.meta["config"]
    model, variables, locations = converted(golden)
    inputs = {name: jnp.asarray(value, jnp.int32) for name, value in golden.inputs.items()}
    items, target = inputs["hist" if "hist" in inputs else "item_id_list"], inputs["item_id"]
    rows = jnp.arange(len(items))

    def total(variables: Variables) -> tuple[Array, dict[str, Array]]:
        hidden = model.apply(variables, items)[:, -1]
        table = model.apply(variables, method="item_table")
        scores = hidden @ table.T
        if config.get("loss_type") == "BPR":
            loss = losses.bpr(scores[rows, target], scores[rows, inputs["neg_item_id"]])
        else:
            loss = losses.softmax_cross_entropy(hidden, table, target, include_padding=True)
        if config.get("reg_weight"):
            loss = loss + norms(variables, config["reg_weight"])
        outputs = {"scores": scores, "predict": scores[rows, target], "loss": loss}
        return loss, outputs | {"seq_output": hidden, "user": hidden}

    gradients, outputs = jax.jit(jax.grad(total, has_aux=True))(variables)
    return golden, outputs, to_state(gradients, locations)


def test_outputs_and_loss(computed: Computed) -> None:
    golden, outputs, _ = computed
    assert set(golden.outputs) <= set(outputs)
    for name, theirs in golden.outputs.items():
        np.testing.assert_allclose(outputs[name], theirs, rtol=1e-5, atol=1e-5, err_msg=name)


def test_all_gradients(computed: Computed) -> None:
    golden, _, gradients = computed
    assert set(gradients) == set(golden.gradients)
    for name, value in gradients.items():
        theirs = golden.gradients[name]
        atol = 1e-5 * max(1.0, float(np.abs(theirs).max()))
        np.testing.assert_allclose(value, theirs, rtol=1e-4, atol=atol, err_msg=name)


def test_sizes_are_those_of_the_configuration(computed: Computed) -> None:
    golden, *_ = computed
    config, (model, variables, locations) = golden.meta["config"], converted(golden)
    assert model.dim == config.get("embedding_size", config.get("embed_dim"))
    assert model.num_items + 1 == config.get("n_items", golden.outputs["scores"].shape[1])
    for name, value in to_state(variables, locations).items():  # and the way back
        np.testing.assert_array_equal(value, golden.params[name], err_msg=name)
    if "dilations" in config:
        with pytest.raises(ValueError, match="each has one"):
            recbole_session.nextitnet(golden.params, dilations=[*model.dilations, 1])
