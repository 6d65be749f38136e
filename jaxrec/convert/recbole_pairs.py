"""Weights of RecBole's BPR and NeuMF to our modules and back. Row 0 of its tables is padding, as of ours."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from jaxrec.convert.state_dict import (
    Converted,
    Location,
    Locations,
    State,
    convert,
    dense,
    shape,
)
from jaxrec.nn.retrieval.mf import MF
from jaxrec.nn.retrieval.ncf import GMF, MLPPairs, NeuMF

LAYER = r"mlp_layers\.mlp_layers\.(\d+)\.weight"  # of one layer of NeuMF's MLP
USER, ITEM = np.ones(1, np.int32), np.ones((1, 1), np.int32)


def table(theirs: str, *ours: str) -> Locations:
    """Of an embedding table."""
    return {f"{theirs}.weight": Location(("params", *ours))}


def bpr(state: State, **fields: Any) -> Converted:
    """Matrix factorisation without biases.

    Raises:
      ValueError: a parameter is missing, left over or of another shape than the others imply.
    """
    users, dim = shape(state, "user_embedding.weight")
    items, _ = shape(state, "item_embedding.weight")
    locations = table("user_embedding", "user_embedding") | table("item_embedding", "item_embedding")
    return convert(MF(users - 1, items - 1, dim, **fields), state, locations, USER, ITEM, {}, train=False)


def neumf(state: State, *, mf_train: bool = True, mlp_train: bool = True, **fields: Any) -> Converted:
    """NeuMF; with `mf_train` or `mlp_train` off (RecBole's names) the branch that is left, MLPPairs or GMF.

    A file of one branch has the tables of the other all the same, which are left out. RecBole drops out what
    each layer reads, as ours does.

    Args:
      state: arrays by PyTorch name.
      fields: those that shapes do not tell, such as dropout.

    Raises:
      ValueError: both branches are off, or a parameter is missing, left over or of another shape than the
        others imply.
    """
    if not (mf_train or mlp_train):
        raise ValueError("mf_train, mlp_train: both False; a model has at least one of the branches")
    users, dim = shape(state, "user_mf_embedding.weight")
    items, mlp_dim = (
        shape(state, "item_mlp_embedding.weight")[0],
        shape(state, "user_mlp_embedding.weight")[1],
    )
    numbers = sorted(int(found[1]) for key in state if (found := re.fullmatch(LAYER, key)))
    widths = tuple(shape(state, f"mlp_layers.mlp_layers.{i}.weight")[0] for i in numbers)
    both = mf_train and mlp_train
    locations = dense("predict_layer", ("output",))
    if mf_train:
        inside = ("gmf",) if both else ()
        locations |= _tables("mf", inside)
    if mlp_train:
        inside = ("mlp",) if both else ()
        locations |= _tables("mlp", inside)
        for ours, theirs in enumerate(numbers):
            locations |= dense(f"mlp_layers.mlp_layers.{theirs}", (*inside, f"layer_{ours}"))
    sizes: dict[str, Any] = {"num_users": users - 1, "num_items": items - 1}
    model: Any
    if both:
        model = NeuMF(**sizes, dim=dim, mlp_dim=mlp_dim, hidden_dims=widths, **fields)
    elif mf_train:
        model = GMF(**sizes, dim=dim, **fields)
    else:
        model = MLPPairs(**sizes, dim=mlp_dim, hidden_dims=widths, **fields)
    off: tuple[str, ...] = () if mf_train else ("user_mf_", "item_mf_")
    off += () if mlp_train else ("user_mlp_", "item_mlp_", "mlp_layers.")
    kept = {key: value for key, value in state.items() if not key.startswith(off)}
    return convert(model, kept, locations, USER, ITEM, {}, train=False)


def _tables(branch: str, inside: tuple[str, ...]) -> Locations:
    """Of a branch's tables of users and items."""
    sides = ("user", "item")
    found: Locations = {}
    for side in sides:
        found |= table(f"{side}_{branch}_embedding", *inside, f"{side}_embedding")
    return found
