"""RecBole's SASRec and GRU4Rec: outputs, losses and gradients on right-padded input.

Our modules expect left padding, but a row as long as `max_len` has the same slots on either side, and the
state is read at the last real one. The padding row is a candidate of RecBole's softmax:
`include_padding=True`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.convert import s3rec
from jaxrec.nn.sequential.gru4rec import GRU4Rec
from jaxrec.nn.sequential.sasrec import SASRec, gelu
from jaxrec.types import Array, Variables
from tests.golden.fixtures import Golden, golden_files, read

ACTIVATIONS = {"gelu": gelu, "relu": jax.nn.relu, "swish": jax.nn.silu, "tanh": jnp.tanh}
Computed = tuple[Golden, dict[str, Array], dict[str, np.ndarray]]


@pytest.fixture(params=[*golden_files("sasrec_recbole"), *golden_files("gru4rec")], scope="module")
def computed(request: pytest.FixtureRequest) -> Computed:
    """The fixture, our outputs by name, and our gradients under PyTorch's names."""
    path: Path = request.param
    golden = read(path)
    config = golden.meta["config"]
    fields = {"activation": ACTIVATIONS[config["hidden_act"]]} if "hidden_act" in config else {}
    model, variables = s3rec.from_state_dict(
        golden.params, num_heads=config.get("n_heads", 1), mask_rows=0, **fields
    )
    items = jnp.asarray(golden.inputs["item_id_list"], jnp.int32)
    length, target, negative = (
        jnp.asarray(golden.inputs[name], jnp.int32) for name in ("item_length", "item_id", "neg_item_id")
    )
    rows = jnp.arange(len(items))
    apply: Any = model.apply

    def total(variables: Variables) -> tuple[Array, dict[str, Array]]:
        hidden = apply(variables, items, train=False)[rows, length - 1]
        table = apply(variables, method="item_table")
        scores = hidden @ table.T
        if config["loss_type"] == "BPR":
            loss = losses.bpr(scores[rows, target], scores[rows, negative])
        else:
            loss = losses.softmax_cross_entropy(hidden, table, target, include_padding=True)
        return loss, {
            "seq_output": hidden,
            "scores": scores,
            "predict": scores[rows, target],
            "loss": loss,
        }

    gradients, outputs = jax.jit(jax.grad(total, has_aux=True))(variables)
    return golden, outputs, s3rec.to_state_dict(model, gradients, names=s3rec.RECBOLE)


def test_outputs_and_loss(computed: Computed) -> None:
    golden, outputs, _ = computed
    assert set(outputs) == set(golden.outputs)
    for name, value in outputs.items():
        np.testing.assert_allclose(value, golden.outputs[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_all_gradients(computed: Computed) -> None:
    golden, _, gradients = computed
    assert set(gradients) == set(golden.gradients)
    for name, value in gradients.items():
        theirs = golden.gradients[name]
        atol = 1e-5 * max(1.0, float(np.abs(theirs).max()))
        np.testing.assert_allclose(value, theirs, rtol=1e-4, atol=atol, err_msg=name)


def test_sizes_are_those_of_the_configuration(computed: Computed) -> None:
    golden, *_ = computed
    config = golden.meta["config"]
    model, _ = s3rec.from_state_dict(golden.params, num_heads=config.get("n_heads", 1), mask_rows=0)
    assert model.num_items + 1 == config["n_items"]
    if isinstance(model, SASRec):
        assert (model.num_layers, model.dim, model.inner_dim, model.max_len) == tuple(
            config[name] for name in ("n_layers", "hidden_size", "inner_size", "max_len")
        )
    else:
        assert isinstance(model, GRU4Rec)
        assert (model.num_layers, model.dim, model.hidden_dim) == tuple(
            config[name] for name in ("num_layers", "embedding_size", "hidden_size")
        )
