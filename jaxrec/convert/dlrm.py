"""Weights and bags of the authors' DLRM (facebookresearch/dlrm, dlrm_s_pytorch.py) to ours.

A batch has the numbers as the column "dense" [B, k] and the bags of table k as "bag_<k>", see `bag`.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from jaxrec.convert.state_dict import Converted, Location, Locations, State, convert, count, dense, shape
from jaxrec.nn.layers.features import Categorical, Numeric
from jaxrec.nn.ranking.dlrm import DLRM


def dlrm(state: State, *, itself: bool = False, products: bool = True, **fields: Any) -> Converted:
    """DLRM.

    itself: its arch_interaction_itself. products: whether its arch_interaction_op is "dot", not "cat".
    """
    bags: list[Categorical] = []
    locations: Locations = {}
    for k in range(count(state, r"emb_l\.(\d+)\.")):
        key, name = f"emb_l.{k}.weight", f"bag_{k}"
        rows, dim = shape(state, key)
        bags.append(Categorical(name, rows + 1, dim, average=False))
        locations[key] = Location(("params", "embedding", f"{name}_embedding"), padded=True)
    bottom, found = _layers(state, "bot_l")
    locations |= {
        key: location._replace(path=("params", "bottom", *location.path[1:]))
        for key, location in found.items()
    }
    top, found = _layers(state, "top_l")
    last = f"layer_{len(top) - 1}"
    for key, location in found.items():
        ours = ("logit",) if location.path[1] == last else ("top", location.path[1])
        locations[key] = location._replace(path=("params", *ours, location.path[-1]))
    sizes = {"bottom_dims": bottom, "top_dims": top[:-1], "itself": itself, "products": products}
    model = DLRM((Numeric("dense"),), tuple(bags), **{**sizes, **fields})
    batch = {bag.name: np.zeros((1, 1), np.int32) for bag in bags}
    numbers = np.zeros((1, shape(state, "bot_l.0.weight")[1]), np.float32)
    return convert(model, state, locations, {"dense": numbers, **batch})


def bag(indices: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Ids of several bags in one row, the first of each at `offsets`, to ids plus 1 with padding 0: [B, L].

    >>> bag(np.array([5, 0, 7]), np.array([0, 1, 1])).tolist()
    [[6, 0], [0, 0], [1, 8]]
    """
    parts = np.split(indices, offsets[1:])
    length = max(1, *(len(part) for part in parts))
    return np.stack([np.pad(part + 1, (0, length - len(part))) for part in parts]).astype(np.int32)


def _layers(state: State, name: str) -> tuple[tuple[int, ...], Locations]:
    """Widths and locations of the linear layers `name.<i>`; at the numbers between stand activations."""
    numbers = sorted(int(hit[1]) for key in state if (hit := re.fullmatch(rf"{name}\.(\d+)\.weight", key)))
    locations: Locations = {}
    for i, number in enumerate(numbers):
        locations |= dense(f"{name}.{number}", (f"layer_{i}",))
    return tuple(shape(state, f"{name}.{i}.weight")[0] for i in numbers), locations
