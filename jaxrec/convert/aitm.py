"""Weights of adtalos/AITM-torch, a port of the official code for two tasks, to ours.

Features are concatenated in the order of their names. Its ids start at 0 and have no padding: our batches
hold them plus 1.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from jaxrec.convert.state_dict import Converted, State, convert, dense, shape, tables
from jaxrec.nn.layers.features import Featured, FeatureEmbedding
from jaxrec.nn.multitask.aitm import AITM


def from_state_dict(state: State, **fields: Any) -> Converted:
    """AITM of click and conversion; `fields` are those that shapes do not tell, such as `mlp`."""
    columns, locations = tables(state, "embedding_dict", ("embedding",))
    columns = tuple(sorted(columns, key=lambda column: column.name))
    dims: list[int] = []
    for task, name in enumerate(("click", "conversion")):
        found = [re.fullmatch(rf"{name}_tower\.layer\.(\d+)\.weight", key) for key in state]
        layers = sorted(int(match[1]) for match in found if match)
        dims = [shape(state, f"{name}_tower.layer.{layer}.weight")[0] for layer in layers]
        for i, layer in enumerate(layers):
            locations |= dense(f"{name}_tower.layer.{layer}", ("model", "towers", f"layer_{i}"), task)
        locations |= dense(f"{name}_layer.0", ("model", "heads", "logit"), task)
    locations |= dense("info_layer.0", ("model", "transfers", "info", "layer_0"), 0)
    for theirs, ours in (("q", "query"), ("k", "key"), ("v", "value")):
        locations |= dense(f"attention_layer.{theirs}_layer", ("model", "transfers", ours), 0, use_bias=False)
    batch = {column.name: np.zeros(1, np.int32) for column in columns}
    return convert(Featured(FeatureEmbedding(columns), AITM(2, dims, **fields)), state, locations, batch)
