"""Weights of Tenrec's PeterRec (yuangh-x/2022-NIPS-Tenrec) to ours and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import numpy as np

from jaxrec.convert.recbole_session import TABLE, two_layer_block
from jaxrec.convert.state_dict import Converted, Location, Locations, State, convert, count, shape
from jaxrec.nn.sequential.peterrec import PeterRec

PARALLEL = "ResidualBlock_b_2mp_parallel"
REPLACING = ("ResidualBlock_b_2mp_serial", "ResidualBlock_b_mp_serial")


def peterrec(state: State, *, dilations: Sequence[int], block: str = PARALLEL, **fields: Any) -> Converted:
    """PeterRec with parallel patches without a residual of their own, and a bias of each target.

    Padding is read; its targets are its items. A file without patches (`is_mp=False`) gives a model without.

    Args:
      state: arrays by PyTorch name.
      dilations: of each block, which shapes do not tell (its `dilations`, `block_num` times over).
      block: name of its class of blocks.
      fields: others that shapes do not tell, such as max_len.

    Raises:
      ValueError: a parameter is missing, left over or of another shape than the others imply, there is
        another number of blocks than of dilations, or the blocks are not of the parallel form.
    """
    if block in REPLACING:
        raise ValueError(
            f"block={block!r}: its patch reads what the convolution reads and takes its place, so that the "
            f"pre-trained convolution is lost; only {PARALLEL} is PeterRec's"
        )
    if block != PARALLEL:
        raise ValueError(f"block={block!r}: must be {PARALLEL}, the blocks of this PeterRec")
    rows, dim = shape(state, "item_embedding.weight")
    targets = shape(state, "final_layer.weight")[0]
    blocks = count(state, r"residual_blocks\.(\d+)\.")
    if blocks != len(dilations):
        raise ValueError(f"dilations={tuple(dilations)}: the file has {blocks} blocks, and each has one")
    locations = TABLE | {
        "final_layer.weight": Location(("params", "head")),
        "final_layer.bias": Location(("params", "head_bias")),
    }
    patched = any(".mp1." in key for key in state)
    for i in range(blocks):
        locations |= two_layer_block(i) | (_patches(i) if patched else {})
    form: dict[str, Any] = {
        "dim": dim,
        "dilations": tuple(dilations),
        "kernel_size": shape(state, "residual_blocks.0.conv1.weight")[-1],
        "parallel": True,
        "patched": patched,
        "patch_dim": shape(state, "residual_blocks.0.mp1.conv1.weight")[0] if patched else None,
        "patch_activation": nn.leaky_relu,
        "patch_residual": False,
        "head_bias": True,
        "skip_padding": False,
        "extra_rows": 0,
    }
    model = PeterRec(rows - 1, targets - 1, **{**form, **fields})
    return convert(model, state, locations, np.zeros((1, 1), np.int32))


def _patches(i: int) -> Locations:
    """Of the i-th block, weights [out, in, 1]."""
    locations: Locations = {}
    for number in (1, 2):
        for conv, name in (("conv1", "down"), ("conv2", "up")):
            key, path = (
                f"residual_blocks.{i}.mp{number}.{conv}",
                ("params", f"layer_{i}", f"patch_{number}", name),
            )
            locations[f"{key}.weight"] = Location((*path, "kernel"), (None,), turned=True)
            locations[f"{key}.bias"] = Location((*path, "bias"))
    return locations
