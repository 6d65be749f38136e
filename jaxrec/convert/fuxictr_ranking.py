"""Weights of FuxiCTR's DIN, DIEN and Dice (reczoo/FuxiCTR, model_zoo) to ours.

Widths and the kind of attention and of the second GRU are read off names and shapes; `fields` are what they
do not tell, such as an activation without parameters. Batches hold the same ids, 0 = padding.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from jaxrec.convert.fuxictr import mlp, tables
from jaxrec.convert.places import Converted, Place, Places, State, convert, shape
from jaxrec.nn.layers.dice import Dice, PReLU
from jaxrec.nn.layers.features import Categorical, FeatureEmbedding, Numeric
from jaxrec.nn.layers.history import WithHistory
from jaxrec.nn.ranking.dien import DIEN
from jaxrec.nn.ranking.din import DIN

TABLES = "embedding_layer.embedding_layers"
DICE = functools.partial(Dice, epsilon=1e-9)  # the defaults of this code base
HISTORIES = {"item_id": "click_history", "cate_id": "cate_history"}
NEGATIVES = {"item_id": "neg_click_history", "cate_id": "neg_cate_history"}
Fields = tuple[Categorical | Numeric, ...]


def dice(state: State, **fields: Any) -> Converted:
    """The activation alone."""
    example = np.zeros((1, *shape(state, "alpha")), np.float32)
    return convert(DICE(**fields), state, _dice("", ()), example)


def din(
    state: State,
    *,
    histories: Mapping[str, str] = HISTORIES,
    numeric: Collection[str] = (),
    **fields: Any,
) -> Converted:
    """DIN, as `WithHistory` over ours. `histories`: the history column of each target column."""
    columns, state, places = shared_tables(state, TABLES, histories, {}, numeric)
    attention_dims, unit, learned = block(state, "attention_layers.0.attention_layer", "attention", "score")
    sizes: dict[str, Any] = {
        "attention_dims": attention_dims,
        "padded_statistics": True,
        **_named("attention_activation", learned),
    }
    widths = {column.name: column.dim or 1 for column in columns}
    ours = [name for name in widths if name not in histories.values()] + list(histories.values())
    tower, head = _tower(state, list(widths), ours, widths)
    module = with_history(columns, DIN(**{**sizes, **tower, **fields}), histories, {})
    return convert(module, state, places | unit | head, example(columns, histories, {}))


def dien(
    state: State,
    *,
    histories: Mapping[str, str] = HISTORIES,
    negatives: Mapping[str, str] = NEGATIVES,
    numeric: Collection[str] = (),
    **fields: Any,
) -> Converted:
    """DIEN without auxiliary network, as `WithHistory` over ours.

    A second GRU of PyTorch may be "gru", which has no attention here, or "aigru"; without weights, attention
    is "dot".
    """
    columns, state, places = shared_tables(state, TABLES, histories, negatives, numeric)
    places |= gru("extraction_modules.0", ("model", "extractor"))
    sizes: dict[str, Any] = {}
    cell = "evolving_modules.0.gru_cell"
    if f"{cell}.x2h.weight" in state:
        names = {
            "weight_ih": "x2h.weight",
            "weight_hh": "h2h.weight",
            "bias_ih": "x2h.bias",
            "bias_hh": "h2h.bias",
        }
        hidden = shape(state, f"{cell}.h2h.weight")[1]
        order = blocks([1, 0, 2], [hidden] * 3)  # theirs are update, reset, new
        found = gru(cell, ("model", "evolver"), suffix="", order=order)
        places |= {f"{cell}.{names[key.rsplit('.', 1)[1]]}": place for key, place in found.items()}
    else:
        places |= gru("evolving_modules.0", ("model", "evolver"))
        sizes["evolution"] = fields.get("evolution", "gru")
    if "attention_modules.0.W_kernel" in state:
        places["attention_modules.0.W_kernel"] = Place(("params", "model", "attention", "kernel"))
        sizes["attention"] = "bilinear"
    elif any(key.startswith("attention_modules.0.attn_mlp.") for key in state):
        dims, unit, learned = block(state, "attention_modules.0.attn_mlp", "attention", "score")
        places |= unit
        sizes |= {"attention": "unit", "attention_dims": dims}
        sizes |= _named("attention_activation", learned)
    else:
        sizes["attention"] = None if sizes.get("evolution") == "gru" else "dot"
    widths = {c.name: c.dim or 1 for c in columns if c.name not in (*histories.values(), *negatives.values())}
    width = sum(widths[name] for name in histories)
    extra = {"": width}  # the interest
    if shape(state, "dnn.mlp.0.weight")[1] > sum(widths.values()) + width:
        sizes["sum_pooling"] = True
        extra |= {"sum": width, "product": width}
    tower, head = _tower(state, [*extra, *widths], [*widths, *extra], widths | extra)
    module = with_history(columns, DIEN(**{**sizes, **tower, **fields}), histories, negatives)
    return convert(module, state, places | head, example(columns, histories, negatives))


# --- parts ------------------------------------------------------------------------------------------


def block(state: State, theirs: str, ours: str, last: str) -> tuple[tuple[int, ...], Places, Any]:
    """Widths and places of an MLP_Block, and its activation, None unless it has parameters."""
    start = f"{theirs}.mlp."
    dice = {
        key.removesuffix("alpha"): DICE for key in state if key.startswith(start) and key.endswith(".alpha")
    }
    vectors = [
        key.removesuffix("weight")
        for key, value in state.items()
        if key.startswith(start) and key.endswith(".weight") and value.ndim == 1
    ]
    prelu = {key: PReLU for key in vectors if f"{key}running_mean" not in state}
    rest = {key: value for key, value in state.items() if key.removesuffix("weight") not in prelu}
    dims, places = mlp(rest, theirs, ours, f"{ours.split('/')[0]}/{last}")
    found: dict[str, Any] = {**dice, **prelu}
    for i, key in enumerate(sorted(found, key=lambda key: int(key.removeprefix(start)[:-1]))):
        path = ("model", *ours.split("/"), f"activation_{i}")
        places |= {f"{key}weight": Place(("params", *path, "alpha"))} if key in prelu else _dice(key, path)
    return dims, places, next(iter(found.values()), None)


def _named(field: str, activation: Any) -> dict[str, Any]:
    return {} if activation is None else {field: activation}


def _tower(
    state: State, theirs: Sequence[str], ours: Sequence[str], widths: Mapping[str, int]
) -> tuple[dict[str, Any], Places]:
    """Fields and places of the MLP on top, whose input is put together in another order than ours."""
    dims, places, learned = block(state, "dnn", "tower/mlp", "logit")
    order = blocks([theirs.index(name) for name in ours], [widths[name] for name in theirs])
    first = "dnn.mlp.0.weight"
    places[first] = places[first]._replace(order=order, axis=1)
    normed = any(
        key.startswith("dnn.mlp.") and key.endswith(".running_mean") and ".bn." not in key for key in state
    )
    return {"dims": dims, "batch_norm": normed, **_named("activation", learned)}, places


def _dice(theirs: str, path: tuple[str, ...]) -> Places:
    return {
        f"{theirs}alpha": Place(("params", *path, "alpha")),
        f"{theirs}bn.running_mean": Place(("batch_stats", *path, "mean")),
        f"{theirs}bn.running_var": Place(("batch_stats", *path, "var")),
    }


def gru(theirs: str, path: tuple[str, ...], *, suffix: str = "_l0", order: tuple[int, ...] = ()) -> Places:
    """Of a torch GRU, or a cell with the same names, and our `GRU` or `AttentionGRU` at `path`."""
    names = {
        "weight_ih": "input_kernel",
        "weight_hh": "hidden_kernel",
        "bias_ih": "input_bias",
        "bias_hh": "hidden_bias",
    }
    return {
        f"{theirs}.{key}{suffix}": Place(("params", *path, name), turned=name.endswith("kernel"), order=order)
        for key, name in names.items()
    }


def blocks(order: Sequence[int], widths: Sequence[int]) -> tuple[int, ...]:
    """Numbers of the entries of an axis of blocks of these widths, the blocks taken in `order`."""
    starts = np.cumsum([0, *widths])
    return tuple(int(i) for b in order for i in range(starts[b], starts[b + 1]))


def shared_tables(
    state: State,
    theirs: str,
    histories: Mapping[str, str],
    negatives: Mapping[str, str],
    numeric: Collection[str],
) -> tuple[Fields, State, Places]:
    """Columns, the state without the copies of tables that columns share, and the places of tables.

    Raises:
      ValueError: a column has no table, or a history's table is not that of its target.
    """
    columns, places = tables(state, theirs, "embedding", numeric)
    kinds = {column.name: column.name for column in columns}
    for target, name in (*histories.items(), *negatives.items()):
        for wanted in (target, name):
            shape(state, f"{theirs}.{wanted}.weight")
        if not np.array_equal(state[f"{theirs}.{target}.weight"], state[f"{theirs}.{name}.weight"]):
            raise ValueError(f"{name}: its table is not that of {target}; name the target that it belongs to")
        kinds[name] = target
    state, places = dict(state), dict(places)
    for kind in set(kinds.values()):
        first, *copies = [name for name in kinds if kinds[name] == kind]
        place = places[f"{theirs}.{kind}.weight"]
        for name in (first, *copies):
            places.pop(f"{theirs}.{name}.weight")
        places[f"{theirs}.{first}.weight"] = place
        for name in copies:
            state.pop(f"{theirs}.{name}.weight")
    fields = tuple(
        column._replace(vocabulary=kinds[column.name]) if isinstance(column, Categorical) else column
        for column in columns
    )
    return fields, state, places


def with_history(
    columns: Fields, model: Any, histories: Mapping[str, str], negatives: Mapping[str, str]
) -> WithHistory:
    """A model of interest behind these columns."""
    others = [negatives[name] for name in histories if negatives]
    return WithHistory(
        FeatureEmbedding(columns), model, tuple(histories), tuple(histories.values()), tuple(others)
    )


def example(
    columns: Fields, histories: Mapping[str, str], negatives: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """A batch of one row, with no event and without negatives."""
    batch = {c.name: np.zeros(1, np.int32 if isinstance(c, Categorical) else np.float32) for c in columns}
    batch |= {name: np.zeros((1, 2), np.int32) for name in histories.values()}
    return {name: column for name, column in batch.items() if name not in negatives.values()}
