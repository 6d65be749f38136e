"""Weights of RecBole's STAMP and NextItNet to our modules and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxrec.convert.state_dict import Converted, Location, Locations, State, convert, count, dense, shape
from jaxrec.nn.sequential.nextitnet import NextItNet
from jaxrec.nn.sequential.stamp import STAMP

ITEMS = np.zeros((1, 1), np.int32)
TABLE: Locations = {"item_embedding.weight": Location(("params", "item_embedding"))}


def stamp(state: State, **fields: Any) -> Converted:
    """STAMP; `fields` are those that shapes do not tell, such as max_len."""
    rows, dim = shape(state, "item_embedding.weight")
    locations = TABLE | {"b_a": Location(("params", "from_item", "bias"))}
    layers = {"w1": "from_item", "w2": "from_last", "w3": "from_mean", "w0": "weight"}
    for theirs, ours in layers.items():
        locations |= dense(theirs, (ours,), use_bias=False)
    locations |= dense("mlp_a", ("session",)) | dense("mlp_b", ("click",))
    return convert(STAMP(rows - 1, dim, **fields), state, locations, ITEMS)


def nextitnet(state: State, *, dilations: Sequence[int], **fields: Any) -> Converted:
    """NextItNet as RecBole builds it: tied tables, padding is read.

    Args:
      state: arrays by PyTorch name.
      dilations: of each block, which shapes do not tell (RecBole's `dilations`, `block_num` times over).
      fields: others that shapes do not tell, such as max_len.

    Raises:
      ValueError: a parameter is missing, left over or of another shape than the others imply, or there is
        another number of blocks than of dilations.
    """
    rows, dim = shape(state, "item_embedding.weight")
    blocks = count(state, r"residual_blocks\.(\d+)\.")
    if blocks != len(dilations):
        raise ValueError(f"dilations={tuple(dilations)}: the file has {blocks} blocks, and each has one")
    locations = TABLE | dense("final_layer", ("output",))
    for i in range(blocks):
        locations |= two_layer_block(i)
    form: dict[str, Any] = {
        "dim": dim,
        "dilations": tuple(dilations),
        "kernel_size": shape(state, "residual_blocks.0.conv1.weight")[-1],
        "tied": True,
        "skip_padding": False,
    }
    model = NextItNet(rows - 1, **{**form, **fields})
    return convert(model, state, locations, ITEMS)


def two_layer_block(i: int) -> Locations:
    """Of a NextItNet's i-th block of two convolutions, weights [out, in, 1, k]."""
    locations: Locations = {}
    for number in (1, 2):
        conv, norm = f"residual_blocks.{i}.conv{number}", f"residual_blocks.{i}.ln{number}"
        ours, scale = ("params", f"layer_{i}", f"conv_{number}"), ("params", f"layer_{i}", f"norm_{number}")
        locations |= {
            f"{conv}.weight": Location((*ours, "kernel"), (slice(None), None), turned=True),
            f"{conv}.bias": Location((*ours, "bias")),
            f"{norm}.weight": Location((*scale, "scale")),
            f"{norm}.bias": Location((*scale, "bias")),
        }
    return locations
