"""DGL's PinSage: projection, convolutions over sampled blocks, scores, hinge loss and all gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import losses
from jaxrec.convert import dgl
from jaxrec.convert.state_dict import Converted, to_state
from jaxrec.types import Array, Variables
from tests.golden.compare import close_gradients, close_outputs
from tests.golden.fixtures import Golden, golden_files, read


class Computed(NamedTuple):
    golden: Golden
    ours: Converted
    outputs: dict[str, Any]
    gradients: dict[str, np.ndarray]


def block(inputs: dict[str, np.ndarray], layer: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours and weights of the rows that a layer makes, from its list of edges."""
    source, target, weight = (inputs[f"layer{layer}/{name}"] for name in ("src", "dst", "weight"))
    width = np.bincount(target, minlength=rows).max(initial=1)
    neighbours, weights = np.zeros((rows, width), np.int32), np.zeros((rows, width), np.float32)
    for row in range(rows):
        own = target == row
        neighbours[row, : own.sum()], weights[row, : own.sum()] = source[own], weight[own]
    return neighbours, weights


def features_of(golden: Golden) -> np.ndarray | None:
    """Features of the items: "feature", or of several layers "feature/<layer>" and the like, side by side."""
    inputs, layers = golden.inputs, dgl.feature_layers(golden.params)
    if not layers or "feature" in inputs:
        return inputs.get("feature")
    named = {name: [f"feature/{name}", f"feature_{name}", name] for name in layers}
    parts = [next(inputs[key] for key in keys if key in inputs) for keys in named.values()]
    return np.concatenate(parts, axis=1)


def compute(golden: Golden) -> Computed:
    """Our outputs and gradients for a fixture."""
    inputs, config = golden.inputs, golden.meta["config"]
    ours = dgl.pinsage(golden.params)
    sizes = config["nodes_per_layer"]
    blocks = [block(inputs, layer, rows) for layer, rows in enumerate(sizes[1:])]
    ids = jnp.asarray(inputs["node"] + 1, jnp.int32)
    features = features_of(golden)
    heads, tails, negatives = (inputs[name] for name in ("heads", "tails", "negatives"))

    def total(variables: Variables) -> tuple[Array, dict[str, Any]]:
        bound = ours.module.bind(variables)
        first = rows = bound.project(ids, features)
        outputs = {"projection": first}
        for layer, (convolve, each) in enumerate(zip(bound.layers, blocks, strict=True)):
            rows = outputs[f"layer{layer}"] = convolve(rows, *each)
        found = outputs["representation"] = bound.convolved(ids, features, blocks)
        bias = variables["params"]["item_bias"][ids[: len(found)]]

        def scores(other: np.ndarray) -> Array:
            dots = jnp.sum(found[heads] * found[other], axis=1, keepdims=True)
            return dots + bias[heads] + bias[other]

        pos, neg = scores(tails), scores(negatives)
        margin = float(config["margin"])
        hinge = jnp.maximum(0, neg - pos + margin)
        loss = losses.hinge(pos[:, 0], neg, margin=margin)
        return loss, {**outputs, "pos_score": pos, "neg_score": neg, "hinge": hinge, "loss": loss}

    gradients, outputs = jax.jit(jax.grad(total, has_aux=True))(ours.variables)
    return Computed(golden, ours, outputs, to_state(gradients, ours.locations))


@pytest.fixture(params=golden_files("pinsage"), scope="module")
def computed(request: pytest.FixtureRequest) -> Computed:
    path: Path = request.param
    return compute(read(path))


def test_vectors_scores_and_loss(computed: Computed) -> None:
    close_outputs(computed.outputs, computed.golden.outputs)


def test_all_gradients(computed: Computed) -> None:
    close_gradients(computed.gradients, computed.golden.gradients)


def test_weights_come_back_as_they_were(computed: Computed) -> None:
    found = to_state(computed.ours.variables, computed.ours.locations)
    assert set(found) == set(computed.golden.params)
    for name, value in found.items():
        np.testing.assert_array_equal(value, computed.golden.params[name], err_msg=name)
