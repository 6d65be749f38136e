"""Weights of HSTU's research code (meta-recsys/generative-recommenders) to our module and back."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxrec.convert.state_dict import Converted, Location, Locations, State, convert, count, dense, shape
from jaxrec.nn.sequential.hstu import HSTU

MASK = "_attn_mask"  # a buffer: which slots come no later than which
TABLE, SLOTS = "_embedding_module._item_emb.weight", "_input_features_preproc._pos_emb.weight"


def from_state_dict(state: State, *, num_heads: int, concat_ua: bool = False, **fields: Any) -> Converted:
    """HSTU with the weights of a state_dict, whose names may start with the `module.` of a parallel wrapper.

    Args:
      state: arrays by PyTorch name.
      num_heads, concat_ua: which shapes do not tell.
      fields: others of `HSTU`, such as activation, layer_norm_output, dropout, spare_slots.

    Raises:
      ValueError: a parameter is missing, left over, not finite, or of another shape than the others imply.
    """
    state = {key.removeprefix("module."): value for key, value in state.items()}
    state = {key: value for key, value in state.items() if key != MASK}
    rows, dim = shape(state, TABLE)
    slots = shape(state, SLOTS)[0]
    num_layers = count(state, r"_hstu\._attention_layers\.(\d+)\.")
    locations: Locations = {
        TABLE: Location(("params", "item_embedding")),
        SLOTS: Location(("params", "position_embedding")),
    }
    for i in range(num_layers):
        key, layer = f"_hstu._attention_layers.{i}", f"layer_{i}"
        locations |= {f"{key}._uvqk": Location(("params", layer, "uvqk", "kernel"))}
        locations |= dense(f"{key}._o", (layer, "output"))
        if f"{key}._rel_attn_bias._pos_w" in state:
            locations |= {
                f"{key}._rel_attn_bias._pos_w": Location(("params", layer, "position_bias")),
                f"{key}._rel_attn_bias._ts_w": Location(("params", layer, "time_bias")),
            }
    values = shape(state, "_hstu._attention_layers.0._o.weight")[1] // (3 if concat_ua else 1)
    keys = shape(state, "_hstu._attention_layers.0._uvqk")[1] // 2 - values
    if num_heads < 1 or values % num_heads or keys % num_heads or keys < 1:
        raise ValueError(
            f"num_heads={num_heads}, concat_ua={concat_ua}: do not go with values of width {values} and keys "
            f"of width {keys}; state how the model was built"
        )
    sizes = {
        "num_items": rows - 1 - fields.get("extra_rows", 0),
        "dim": dim,
        "num_layers": num_layers,
        "num_heads": num_heads,
        "key_dim": keys // num_heads,
        "value_dim": values // num_heads,
        "max_len": slots - fields.get("spare_slots", 0),
        "concat_ua": concat_ua,
        "relative_bias": any(key.endswith("._pos_w") for key in state),
    }
    return convert(HSTU(**{**sizes, **fields}), state, locations, np.zeros((1, 1), np.int32))
