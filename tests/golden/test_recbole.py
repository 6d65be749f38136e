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

ACTIVATIONS = {
    "gelu": gelu,
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
}
Computed = tuple[Golden, dict[str, Array], dict[str, np.ndarray]]


def fields_of(config: dict[str, Any]) -> dict[str, Any]:
    """What the shapes of a SASRec do not tell; nothing for GRU4Rec."""
    if "hidden_act" not in config:
        return {}
    return {
        "num_heads": config["n_heads"],
        "activation": ACTIVATIONS[config["hidden_act"]],
        "norm_epsilon": config["layer_norm_eps"],
    }


@pytest.fixture(params=[*golden_files("sasrec_recbole"), *golden_files("gru4rec")], scope="module")
def computed(request: pytest.FixtureRequest) -> Computed:
    """The fixture, our outputs by name, and our gradients under PyTorch's names."""
    path: Path = request.param
    golden = read(path)
    config = golden.meta["config"]
    model, variables = s3rec.from_state_dict(golden.params, mask_rows=0, **fields_of(config))
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
    model, _ = s3rec.from_state_dict(golden.params, mask_rows=0, **fields_of(config))
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


@pytest.mark.parametrize("epsilon", [1e-12, 1e-2])
def test_the_epsilon_of_the_configuration_reaches_every_norm(epsilon: float) -> None:
    """LN(x) = (x - mean) / √(variance + ε) of an item's vector and position, with no layer behind it."""
    config = {"hidden_act": "sigmoid", "n_heads": 2, "layer_norm_eps": epsilon}
    model = SASRec(5, dim=4, num_layers=0, max_len=3, **fields_of(config))
    rng = np.random.default_rng(0)
    table, locations = (0.1 * rng.normal(size=shape).astype(np.float32) for shape in ((6, 4), (3, 4)))
    norm = {"scale": np.ones(4, np.float32), "bias": np.zeros(4, np.float32)}
    variables = {"params": {"item_embedding": table, "position_embedding": locations, "norm": norm}}
    x = (table[[1, 2, 3]] + locations).astype(np.float64)
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)
    ours = model.apply(variables, jnp.array([[1, 2, 3]]), train=False)[0]
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)
    block = model.clone(num_layers=1).bind(variables).layers[0]
    assert block.norm_epsilon == epsilon
    np.testing.assert_allclose(block.activation(np.float32(0.0)), 0.5)  # a sigmoid
