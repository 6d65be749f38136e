"""Weights of torch-rechub's two-tower models to ours: DSSM, FaceBookDSSM, YoutubeSBC and YoutubeDNN.

Features keep their names behind "user_" and "item_". A state_dict does not say which are whose: users' tables
come first, and as many of them as the user's first layer reads. Ids start at 0 and have no padding there: our
columns hold them plus 1; but the items of YoutubeDNN, whose 0 is padding in histories. Every layer has batch
norm. `fields` of `TwoTower` are what shapes do not tell, such as the temperature.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxrec.convert.rechub import read_mlp
from jaxrec.convert.state_dict import Converted, Location, Locations, State, convert, shape, tables
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.features import Categorical
from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.retrieval.two_tower import TwoTower

USER, ITEM = np.zeros(1, np.int32), np.zeros((1, 1), np.int32)
ITEMS = {"items": np.zeros(1, np.int32), "start": np.zeros(1, np.int32), "length": np.zeros(1, np.int32)}


def two_tower(state: State, *, mlp: Callable[..., Any] = MLP, **fields: Any) -> Converted:
    """Two towers without a history: DSSM, FaceBookDSSM and YoutubeSBC.

    Raises:
      ValueError: the user's first layer reads no whole number of tables, or all of them; a parameter is
        missing, left over or of another shape than the others imply.
    """
    columns, _ = tables(state, "embedding.embed_dict", ("embedding",))
    wanted = shape(state, "user_mlp.mlp.0.weight")[1]
    widths = np.cumsum([column.dim for column in columns])
    if wanted not in widths[:-1]:
        raise ValueError(
            f"user_mlp.mlp.0.weight: reads {wanted} numbers, but the first tables have "
            f"{widths.tolist()} together; the items need at least one of them"
        )
    count = int(np.flatnonzero(widths == wanted)[0]) + 1
    named = [
        (column, f"{'user' if number < count else 'item'}_{column.name}")
        for number, column in enumerate(columns)
    ]
    user_dims, locations = read_mlp(state, "user_mlp", ("user_tower",))
    item_dims, found = read_mlp(state, "item_mlp", ("item_tower",))
    locations |= found
    for column, name in named:
        locations |= _table(column.name, name, padded=True)
    ours = [column._replace(name=name) for column, name in named]
    given: dict[str, Any] = {"mlp": Factory(mlp, batch_norm=True), "temperature": 1.0, **fields}
    model = TwoTower(tuple(ours[:count]), tuple(ours[count:]), user_dims, item_dims, **given)
    return _converted(model, state, locations)


def youtube_dnn(state: State, *, mlp: Callable[..., Any] = MLP, **fields: Any) -> Converted:
    """YoutubeDNN: the last table is that of items, in the history too, and there is no tower of items.

    Raises:
      ValueError: a parameter is missing, left over or of another shape than the others imply.
    """
    columns, _ = tables(state, "embedding.embed_dict", ("embedding",))
    *users, items = columns
    dims, locations = read_mlp(state, "user_mlp", ("user_tower",))
    for column in users:
        locations |= _table(column.name, f"user_{column.name}", padded=True)
    table = f"item_{items.name}"
    locations |= _table(items.name, table, padded=False)
    size = items.vocab_size - 1  # its row 0 is padding already
    user_fields = [column._replace(name=f"user_{column.name}") for column in users]
    history = Categorical(f"history_{items.name}", size, items.dim, vocabulary=table)
    given: dict[str, Any] = {"mlp": Factory(mlp, batch_norm=True), **fields}
    classes = Categorical(table, size, items.dim)
    model = TwoTower((*user_fields, history), (classes,), dims, (), **given)
    return _converted(model, state, locations)


def _table(theirs: str, ours: str, *, padded: bool) -> Locations:
    path = ("params", "embedding", f"{ours}_embedding")
    return {f"embedding.embed_dict.{theirs}.weight": Location(path, padded=padded)}


def _converted(model: TwoTower, state: State, locations: Locations) -> Converted:
    names = [field.name for field in (*model.user_fields, *model.item_fields)]
    context = {name: np.zeros(1, np.int32) for name in names if not name.startswith("history_")}
    return convert(model, state, locations, USER, ITEM, {**ITEMS, **context}, train=False)
