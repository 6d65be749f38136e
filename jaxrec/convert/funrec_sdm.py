"""Weights of fun-rec's SDM (Keras) to our `SessionAndPast`; its embedding tables are given as they are."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxrec.convert.state_dict import Converted, Location, Locations, State, convert, shape
from jaxrec.nn.retrieval.sdm import SessionAndPast

TABLE = "embedding/{}/embeddings"  # of a feature
LAYERS = {
    "dense": "profile",
    "dense_1": "input",
    "dense_2": "past",
    "short_term_attention/query": "query",
    "short_term_attention/key": "key",
    "short_term_attention/value": "value",
    "short_term_attention/attention_output": "output",
}


def from_state(state: State, **fields: Any) -> Converted:
    """The module and its weights. `fields` are those that shapes do not tell."""
    locations: Locations = {
        f"{theirs}/{name}": Location(("params", ours, name))
        for theirs, ours in LAYERS.items()
        for name in ("kernel", "bias")
    }
    for theirs, ours in (("layer_normalization", "query_norm"), ("layer_normalization_1", "norm")):
        locations[f"{theirs}/gamma"] = Location(("params", ours, "scale"))
        locations[f"{theirs}/beta"] = Location(("params", ours, "bias"))
    for theirs, ours in (("kernel", "input_kernel"), ("recurrent_kernel", "hidden_kernel"), ("bias", "bias")):
        locations[f"lstm/lstm_cell/{theirs}"] = Location(("params", "lstm_0", ours))
    for number, ours in enumerate(("gate_user", "gate_session", "gate_past"), 1):
        locations[f"gated_fusion/W{number}"] = Location(("params", ours, "kernel"))
    locations["gated_fusion/bias"] = Location(("params", "gate_past", "bias"))
    _, heads, width = shape(state, "short_term_attention/query/kernel")
    (dim,) = shape(state, "dense/bias")
    form: dict[str, Any] = {
        "dim": dim,
        "num_heads": heads,
        "head_dim": width,
        "dropout": 0.0,
        "input_layer": True,
        "query_norm": True,
        "masked": False,
        "norm_epsilon": 1e-3,
    }
    profile, inputs, past = (shape(state, f"{name}/kernel")[0] for name in ("dense", "dense_1", "dense_2"))
    some = np.zeros((1, 1, dim), np.float32)
    given = (
        np.zeros((1, profile), np.float32),
        np.zeros((1, 1, inputs), np.float32),
        (some,) * (past // dim),
        np.ones((1, 1), bool),
        np.ones((1, 1), bool),
    )
    weights = {name: value for name, value in state.items() if not name.startswith("embedding/")}
    return convert(SessionAndPast(**{**form, **fields}), weights, locations, *given, train=False)
