"""HSTU's research code: outputs of each layer, bias, loss and all gradients, on right-padded input.

Its loss reads the outputs of all slots but the last against the ids one slot later. The samples are given for
the real slots alone, row after row; a row's last event has no target and takes no part.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.convert import hstu
from jaxrec.convert.state_dict import to_state
from jaxrec.nn.layers.pointwise_attention import following, relative_bias, time_bucket
from jaxrec.nn.sequential.hstu import Layer, identity
from jaxrec.types import Array, Variables
from tests.golden.fixtures import Golden, golden_files, read

ACTIVATIONS = {"silu": jax.nn.silu, "none": identity}
POST = {"l2_norm": False, "layer_norm": True}  # the research code's post-processors
Computed = tuple[Golden, dict[str, Array], dict[str, np.ndarray]]


@pytest.fixture(params=golden_files("hstu"), scope="module")
def computed(request: pytest.FixtureRequest) -> Computed:
    """The fixture, our outputs by name, and our gradients under PyTorch's names."""
    path: Path = request.param
    golden = read(path)
    config = golden.meta["config"]
    model, variables, locations = hstu.from_state_dict(
        golden.params,
        num_heads=config["heads"],
        concat_ua=config["concat_ua"],
        activation=ACTIVATIONS[config["linear_activation"]],
        layer_norm_output=POST[config["post"]],
        spare_slots=config["max_output_len"],
    )
    inputs = [golden.inputs[name].astype(np.int32) for name in ("past_ids", "timestamps")]
    lengths = golden.inputs["past_lengths"]
    real = np.arange(inputs[0].shape[1]) < lengths[:, None]
    offsets = golden.inputs["sampled_offsets"]
    negatives = np.zeros((len(real), real.shape[1] - 1, offsets.shape[1]), np.int32)
    negatives[real[:, :-1]] = offsets + 1

    def total(variables: Variables, items: Array, times: Array) -> tuple[Array, dict[str, Any]]:
        hidden, seen = model.apply(
            variables, items, times=times, capture_intermediates=lambda module, _: isinstance(module, Layer)
        )
        table = model.apply(variables, method="item_table")
        current = hidden[jnp.arange(len(items)), lengths - 1]
        loss = losses.sampled_cosine_softmax(
            hidden[:, :-1],
            variables["params"]["item_embedding"],
            items[:, 1:],
            negatives,
            temperature=config["temperature"],
            where=(items[:, 1:] != 0) & real[:, :-1],
        )
        layers = seen["intermediates"]
        jagged = {f"jagged_layer{i}": layers[f"layer_{i}"]["__call__"][0] for i in range(model.num_layers)}
        target_times, first = following(times), variables["params"]["layer_0"]
        slots = jnp.arange(items.shape[1])
        bias = relative_bias(first["position_bias"], first["time_bias"], slots, target_times, times)
        return loss, jagged | {
            "encoded": hidden,
            "current": current,
            "scores": current @ table.T,
            "loss": loss,
            "time_bucket": time_bucket(target_times[:, :, None] - times[:, None, :]),
            "rel_attn_bias_layer0": bias,
        }

    gradients, outputs = jax.jit(jax.grad(total, has_aux=True))(variables, *inputs)
    outputs |= {name: value[real] for name, value in outputs.items() if name.startswith("jagged")}
    return golden, outputs, to_state(gradients, locations)


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
    state = {f"module.{name}": value for name, value in golden.params.items()}  # of a parallel wrapper
    options = {"concat_ua": config["concat_ua"]}
    model = hstu.from_state_dict(state, num_heads=config["heads"], **options).module
    assert model.max_len == config["max_sequence_len"] + config["max_output_len"]
    assert (model.num_items, model.num_layers, model.dim, model.key_dim, model.value_dim) == tuple(
        config[name] for name in ("num_items", "blocks", "dim", "dqk", "dv")
    )
    with pytest.raises(ValueError, match="do not go with"):
        hstu.from_state_dict(state, num_heads=config["heads"] * config["dqk"] * config["dv"] + 1, **options)
