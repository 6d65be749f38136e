"""Weights of TorchEasyRec's TDM (tzrec/models/tdm.py) to our network and back."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import numpy as np

from jaxrec.convert.state_dict import Converted, Location, Locations, State, convert, count, dense, shape
from jaxrec.nn.layers.dice import PReLU
from jaxrec.nn.retrieval.tdm import NodeNetwork, WindowAttention

ENCODER, DEEP, OUTPUT = "multiwindow_din", "deep_mlp", "output_mlp"
SIZES = (f"{ENCODER}.windows_len", f"{ENCODER}.cumsum_windows_len")  # no weights


def tdm(state: State, **fields: Any) -> Converted:
    """TDM of vectors: windows whose attention ends in PReLU, and layers without batch norm.

    Its first window has the first slots, and its padding stands behind the events. Further features of the
    user are as many as the first layer says. fields: others of `NodeNetwork`; by default its layers end in
    ReLU.

    Raises:
      ValueError: as `convert`; the lengths of windows are missing.
    """
    shape(state, SIZES[0])
    windows = tuple(int(size) for size in state[SIZES[0]])
    weights = {name: value for name, value in state.items() if name not in SIZES}
    attention_dims, locations = _layers(weights, f"{ENCODER}.mlp", ("attention",))
    dims, deep = _layers(weights, DEEP, ())
    locations |= deep | dense(OUTPUT, ("logit",))
    locations |= dense(f"{ENCODER}.linear", ("attention", f"layer_{len(attention_dims)}"))
    locations[f"{ENCODER}.active.weight"] = Location(("params", "attention", "last", "alpha"))
    width = shape(weights, f"{ENCODER}.mlp.mlp.0.perceptron.0.weight")[1] // 3
    further = shape(weights, f"{DEEP}.mlp.0.perceptron.0.weight")[1] - (len(windows) + 1) * width
    model = NodeNetwork(
        windows,
        WindowAttention(windows, attention_dims, nn.relu, PReLU),
        **{
            "dims": dims,
            "activation": nn.relu,
            "batch_norm": False,
            "outputs": shape(weights, f"{OUTPUT}.weight")[0],
            **fields,
        },
    )
    slots = np.zeros((1, sum(windows), width), np.float32)
    inputs = (slots[:, :1], slots, np.zeros(slots.shape[:2], bool))
    other = {"other": np.zeros((1, further), np.float32)} if further else {}
    return convert(model, weights, locations, *inputs, **other)


def _layers(state: State, key: str, path: tuple[str, ...]) -> tuple[tuple[int, ...], Locations]:
    """Widths of the linear layers of an MLP, and where they stand, the first one in the module itself."""
    names = [f"{key}.mlp.{i}.perceptron.0" for i in range(count(state, rf"{key}\.mlp\.(\d+)\.perceptron"))]
    found: Locations = {}
    for i, name in enumerate(names):
        found |= dense(name, (*path, f"layer_{i}") if i else path)
    return tuple(shape(state, f"{name}.weight")[0] for name in names), found
