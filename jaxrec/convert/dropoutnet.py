"""Weights of layer6ai-labs/DropoutNet's DeepCF (its PyTorch form) to DropoutNet and back."""

from __future__ import annotations

import numpy as np

from jaxrec.convert.state_dict import Converted, Locations, State, batch_norm, convert, count, dense, shape
from jaxrec.nn.retrieval.dropoutnet import DropoutNet

_SIDES = {"u": "user_tower", "v": "item_tower"}


def deep_cf(state: State, *, rank: int) -> Converted:
    """DropoutNet with the widths of the weights.

    rank: width of the factors, which stand before the content in what a tower reads.

    Raises:
      ValueError: a tower reads fewer columns than the rank; a parameter is missing, left over or of another
        shape than the others imply.
    """
    depth = count(state, r"u_layers\.(\d+)\.layer\.weight", least=0)
    locations: Locations = {}
    content: dict[str, np.ndarray | None] = {}
    for theirs, ours in _SIDES.items():
        first = f"{theirs}_layers.0" if depth else f"{theirs}_emb"
        _, width = shape(state, f"{first}.layer.weight" if depth else f"{first}.weight")
        if width < rank:
            raise ValueError(f"rank={rank}: {first} reads {width} columns; factors have at most those")
        content[theirs] = np.zeros((1, width - rank), np.float32) if width > rank else None
        locations |= dense(f"{theirs}_emb", (ours, "output"))
        for i in range(depth):
            locations |= dense(f"{theirs}_layers.{i}.layer", (ours, f"layer_{i}"))
            locations |= batch_norm(f"{theirs}_layers.{i}.bn", (ours, f"norm_{i}"))
    hidden = tuple(shape(state, f"u_layers.{i}.layer.weight")[0] for i in range(depth))
    model = DropoutNet(hidden, shape(state, "u_emb.weight")[0])
    factors = np.zeros((1, rank), np.float32)
    return convert(model, state, locations, factors, factors, content["u"], content["v"], train=False)
