"""Weights of MeLU's own code (hoyeoplee/MeLU, MeLU.py and embeddings.py) to ours, and its rows of columns.

The source reads one row of integers a rating: a number from 0 for each single value, and indicators for each
set of values, in the order of `COLUMNS`. Ours reads ids from 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxrec.convert.state_dict import Converted, Location, Locations, State, convert, dense, shape
from jaxrec.nn.layers.content import Column
from jaxrec.nn.retrieval.melu import MeLU

ITEMS = {"rate": False, "genre": True, "director": True, "actor": True}  # whether several values
USERS = {"gender": False, "age": False, "occupation": False, "area": False}


def melu(state: State) -> Converted:
    """The rating model, under the source's "model."; sizes are read off the shapes.

    Raises:
      ValueError: as `convert.state_dict.convert`; tables of different widths.
    """
    locations: Locations = {}
    columns: dict[str, tuple[Column, ...]] = {}
    dims = set()
    for side, names in (("item", ITEMS), ("user", USERS)):
        found = []
        for name, several in names.items():
            key = f"model.{side}_emb.embedding_{name}.weight"
            size = shape(state, key)
            number, dim = size[::-1] if several else size
            dims.add(dim)
            found.append(Column(name, number, several))
            path = ("params", f"{side}_content", f"{name}_embedding")
            locations[key] = Location(path, turned=several, padded=True)
        columns[side] = tuple(found)
    if len(dims) > 1:
        raise ValueError(f"embedding widths {sorted(dims)}: must be one and the same for all columns")
    locations |= dense("model.fc1", ("layer_0",)) | dense("model.fc2", ("layer_1",))
    locations |= dense("model.linear_out", ("out",))
    widths = tuple(shape(state, f"model.fc{i}.weight")[0] for i in (1, 2))
    module = MeLU(columns["item"], columns["user"], dims.pop(), widths)
    empty = tuple(
        {c.name: np.zeros((1, 1) if c.several else lead, np.int32) for c in columns[side]}
        for side, lead in (("item", (1,)), ("user", ()))
    )
    return convert(module, state, locations, *empty)


def split_rows(module: MeLU, rows: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Columns of items [N] (sets [N, A]) and of the user [] in the source's rows [N, R].

    Raises:
      ValueError: the rows have another width than the model's columns together, or are of several users.
    """
    width = sum(c.num_values if c.several else 1 for c in (*module.items, *module.users))
    if rows.ndim != 2 or rows.shape[1] != width:
        raise ValueError(f"rows of shape {rows.shape}: must be [N, {width}]")
    at = 0
    found: list[dict[str, np.ndarray]] = []
    for columns in (module.items, module.users):
        part = {}
        for column in columns:
            if column.several:
                part[column.name] = _sets(rows[:, at : at + column.num_values])
                at += column.num_values
            else:
                part[column.name] = rows[:, at].astype(np.int32) + 1
                at += 1
        found.append(part)
    items, users = found
    if any((column != column[:1]).any() for column in users.values()):
        raise ValueError("rows of several users: give those of each apart")
    return items, {name: column[0] for name, column in users.items()}


def _sets(indicators: np.ndarray) -> np.ndarray:
    """Indicators [N, V] as ids 1..V, right-aligned with 0 in front, [N, A]."""
    ids: Sequence[np.ndarray] = [np.flatnonzero(row) + 1 for row in indicators]
    most = max((len(row) for row in ids), default=0) or 1
    return np.array([[0] * (most - len(row)) + row.tolist() for row in ids], np.int32).reshape(-1, most)
