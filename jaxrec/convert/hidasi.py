"""Weights of the authors' PyTorch code of GRU4Rec (hidasib/GRU4Rec_PyTorch_Official) to ours and back.

Its ids start at 0 and are all real: our batches hold them plus 1. All three forms of its input are known by
their names: the output's table (`constrained_embedding`), a table E, or one-hot (`embedding=0` without it).
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import numpy as np

from jaxrec.convert.state_dict import Converted, Location, Locations, State, convert, count, shape, to_state
from jaxrec.nn.sequential.gru4rec import GRU4Rec
from jaxrec.types import Variables

UPDATE = {"GE.Wx0.weight": 3, "GE.Bh0": 3, "GE.Wrz0": 2}  # gates that an array has, the update gate last


def from_state_dict(state: State, **fields: Any) -> Converted:
    """GRU4Rec without a projection and with a bias of each item's score.

    With one-hot inputs the one layer resets its state before the product (`reset_after=False`), and it has
    one bias where ours has two: the second is zero.

    Args:
      state: arrays by PyTorch name.
      fields: that shapes do not tell, such as dropout.

    Raises:
      ValueError: a parameter is missing, left over or of another shape than the others imply, or inputs are
        one-hot and there are several layers, which the code builds but cannot run.
    """
    rows, dim = shape(state, "Wy.weight")
    one_hot = any(key.startswith("GE.") for key in state)
    num_cells = count(state, r"G\.(\d+)\.", least=0 if one_hot else 1)
    locations: Locations = {
        "Wy.weight": Location(("params", "item_embedding"), padded=True),
        "By.weight": Location(("params", "output_bias"), (slice(None), None), padded=True),
    }
    inputs, widths = "tied", [shape(state, f"G.{i}.weight_hh")[1] for i in range(num_cells)]
    if one_hot and num_cells:
        raise ValueError(
            f"G.0: {num_cells} layers behind one of one-hot inputs, of which the code reads "
            "the wrong ones and fails: use a single layer, or give inputs a table (embedding)"
        )
    if one_hot:
        inputs, widths = "one_hot", [shape(state, "GE.Wh0")[0]]
        locations |= _one_hot_places(widths[0])
    elif "E.weight" in state:
        inputs = "own"
        locations["E.weight"] = Location(("params", "input_embedding"), padded=True)
    for i in range(num_cells):
        for theirs, ours in (("ih", "input"), ("hh", "hidden")):
            path = ("params", f"layer_{i}")
            locations[f"G.{i}.weight_{theirs}"] = Location((*path, f"{ours}_kernel"), turned=True)
            locations[f"G.{i}.bias_{theirs}"] = Location((*path, f"{ours}_bias"))
    form = {
        "inputs": inputs,
        "input_dim": shape(state, "E.weight")[1] if inputs == "own" else None,
        "use_bias": True,
        "reset_after": not one_hot,
        "projection": False,
        "item_bias": True,
        "embedding_init": nn.initializers.glorot_uniform(),
    }
    model = GRU4Rec(rows, dim, hidden_dims=tuple(widths), **{**form, **fields})
    return convert(model, _complemented(state), locations, np.zeros((1, 1), np.int32), train=False)


def to_state_dict(variables: Variables, locations: Locations) -> dict[str, np.ndarray]:
    """Arrays by PyTorch name, of variables or of gradients of them; `locations` are those of `Converted`."""
    return _complemented(to_state(variables, locations))


def _one_hot_places(width: int) -> Locations:
    """Of the layer of one-hot inputs, whose gates stand in the order new, reset, update."""
    order = (*range(width, 3 * width), *range(width))
    path = ("params", "layer_0")
    return {
        "GE.Wx0.weight": Location((*path, "input_kernel"), padded=True, order=order, axis=1),
        "GE.Wrz0": Location((*path, "hidden_kernel"), (slice(None), slice(2 * width))),
        "GE.Wh0": Location((*path, "hidden_kernel"), (slice(None), slice(2 * width, None))),
        "GE.Bh0": Location((*path, "input_bias"), order=order),
    }


def _complemented(state: State) -> dict[str, np.ndarray]:
    """With the update gate of a one-hot layer turned over, which is what is replaced there and kept here.

    σ(-x) = 1 - σ(x), so its weights change their sign; so do their gradients.
    """
    signed = dict(state)
    for key in UPDATE.keys() & state.keys():
        value, gates = np.array(state[key]), UPDATE[key]
        value[..., (gates - 1) * value.shape[-1] // gates :] *= -1
        signed[key] = value
    return signed
