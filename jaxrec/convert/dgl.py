"""Weights of DGL's PinSage example to our module and back: its ids start at 0, padding is its last row."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxrec.convert.recbole_pairs import ITEM, USER
from jaxrec.convert.state_dict import Converted, Location, Locations, State, convert, dense, shape
from jaxrec.data.events.neighbourhoods import Neighbourhoods
from jaxrec.nn.retrieval.pinsage import PinSage


def pinsage(state: State, **fields: Any) -> Converted:
    """PinSage with biases of items, without layers behind the convolutions.

    Features are side by side, in the order of their layers, of which each is linear.

    Raises:
      ValueError: a parameter is missing, left over or of another shape than the others imply.
    """
    rows, dim = shape(state, "id.weight")
    order = (rows - 1, *range(rows - 1))
    locations: Locations = {
        "id.weight": Location(("params", "item_embedding"), order=order),
        "bias": Location(("params", "item_bias"), padded=True),
    }
    layers = 0
    while f"convs.{layers}.Q.weight" in state:
        locations |= dense(f"convs.{layers}.Q", (f"layers_{layers}", "neighbour"))
        locations |= dense(f"convs.{layers}.W", (f"layers_{layers}", "own"))
        layers += 1
    others = feature_layers(state)
    widths = tuple(shape(state, f"{name}.weight")[1] for name in others)
    for number, name in enumerate(others):
        locations |= dense(name, ("feature" if len(others) == 1 else f"feature_{number}",))
    hidden = shape(state, "convs.0.Q.weight")[0]
    width: Any = widths if len(widths) > 1 else sum(widths)
    model = PinSage(rows - 1, dim, hidden, layers, feature_dim=width, head=False, item_bias=True, **fields)
    none = np.zeros((rows, 1))
    context = {
        "neighbours": Neighbourhoods(none.astype(np.int32), none.astype(np.float32)),
        "features": jnp.zeros((rows, sum(widths))),
    }
    return convert(model, state, locations, USER, ITEM, context, train=False)


def feature_layers(state: State) -> list[str]:
    """Names of the layers of features, in the order of the state_dict."""
    names = (key.split(".")[0] for key in state if "." in key)
    return [name for name in dict.fromkeys(names) if name not in ("id", "convs")]
