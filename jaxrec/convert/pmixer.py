"""Weights of SASRec.pytorch (pmixer/SASRec.pytorch) to `SASRecOriginal` and back.

Its tables of items and positions have a row 0 for padding, which is zero; ours of positions has none. Its
position 1 is the first slot of a row: of rows shorter than its `maxlen`, give `positions=jnp.arange(length)`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxrec.convert.state_dict import (
    Converted,
    Location,
    Locations,
    State,
    convert,
    count,
    dense,
    shape,
    to_state,
)
from jaxrec.nn.sequential.sasrec_original import SASRecOriginal
from jaxrec.types import Variables

ITEMS, POSITIONS = "item_emb.weight", "pos_emb.weight"
PROJECTIONS = ("query", "key", "value")  # in the order in which the rows of in_proj have them


def from_state_dict(state: State, *, num_heads: int, norm_first: bool, **fields: Any) -> Converted:
    """SASRecOriginal in the form of this code base: an output projection, and padding is read.

    Args:
      state: arrays by PyTorch name.
      num_heads, norm_first: its settings of these names, which no shape tells.
      fields: others of the module, such as dropout.

    Raises:
      ValueError: a parameter is missing, left over or of another shape than the others imply, or the padding
        row of a table is not zero, which older versions of the code leave as drawn.
    """
    rows, dim = shape(state, ITEMS)
    for key in (ITEMS, POSITIONS):
        shape(state, key)
        if np.any(state[key][0]):
            raise ValueError(f"{key}: row 0 is padding and must be zero, as the code sets it before training")
    num_layers = count(state, r"attention_layers\.(\d+)\.", least=0)
    max_len = shape(state, POSITIONS)[0] - 1
    form: dict[str, Any] = {
        "dim": dim,
        "num_layers": num_layers,
        "num_heads": num_heads,
        "max_len": max_len,
        "norms": "first" if norm_first else "last",
        "output_projection": True,
        "skip_padding": False,
    }
    model = SASRecOriginal(rows - 1, **{**form, **fields})
    return convert(model, _split(state), _locations(num_layers), np.zeros((1, 1), np.int32), train=False)


def to_state_dict(variables: Variables, locations: Locations) -> dict[str, np.ndarray]:
    """Arrays by PyTorch name, of variables or of gradients of them; `locations` are those of `Converted`."""
    state = to_state(variables, locations)
    state[POSITIONS] = np.pad(state[POSITIONS], ((1, 0), (0, 0)))
    for i in range(count(state, r"attention_layers\.(\d+)\.", least=0)):
        for kind in ("weight", "bias"):
            parts = [state.pop(f"attention_layers.{i}.{part}.{kind}") for part in PROJECTIONS]
            state[f"attention_layers.{i}.in_proj_{kind}"] = np.concatenate(parts)
    return state


def _split(state: State) -> dict[str, np.ndarray]:
    """Arrays of which each stands in one of ours: the projections apart, positions without padding."""
    parts = {}
    for key, value in state.items():
        head, _, kind = key.rpartition(".in_proj_")
        if not head:
            parts[key] = value[1:] if key == POSITIONS else value
            continue
        if len(value) % 3:
            raise ValueError(f"{key}: shape {value.shape}, expected the rows of queries, keys and values")
        for part, rows in zip(PROJECTIONS, np.split(value, 3), strict=True):
            parts[f"{head}.{part}.{kind}"] = rows
    return parts


def _locations(num_layers: int) -> Locations:
    locations: Locations = {
        ITEMS: Location(("params", "item_embedding")),
        POSITIONS: Location(("params", "position_embedding")),
        **_norm("last_layernorm", "norm"),
    }
    for i in range(num_layers):
        layer = f"layer_{i}"
        for part in PROJECTIONS:
            locations |= dense(f"attention_layers.{i}.{part}", (layer, part))
        locations |= dense(f"attention_layers.{i}.out_proj", (layer, "output"))
        locations |= _norm(f"attention_layernorms.{i}", layer, "attention_norm")
        locations |= _norm(f"forward_layernorms.{i}", layer, "inner_norm")
        for theirs, ours in (("conv1", "inner"), ("conv2", "outer")):  # weights [out, in, 1]
            key, path = f"forward_layers.{i}.{theirs}", ("params", layer, ours)
            locations[f"{key}.weight"] = Location((*path, "kernel"), (None,), turned=True)
            locations[f"{key}.bias"] = Location((*path, "bias"))
    return locations


def _norm(key: str, *path: str) -> Locations:
    return {
        f"{key}.weight": Location(("params", *path, "scale")),
        f"{key}.bias": Location(("params", *path, "bias")),
    }
