"""Weights of FuxiCTR's DIN, DIEN, BST and Dice (reczoo/FuxiCTR, model_zoo) to ours.

Widths and the kind of attention and of the second GRU are read off names and shapes; `mlp`, a factory,
`attention` and other `fields` are what they do not tell, such as an activation without parameters. Batches
hold the same ids, 0 = padding.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from jaxrec.convert.fuxictr import (
    DICE,
    dice_locations,
    learned_activations,
    named,
    normed,
    read_mlp,
    tables,
)
from jaxrec.convert.parts import cut
from jaxrec.convert.state_dict import Converted, Location, Locations, State, convert, count, dense, shape
from jaxrec.nn.layers.activation_unit import ActivationUnit
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.features import Categorical, FeatureEmbedding, Numeric
from jaxrec.nn.layers.history import WithHistory
from jaxrec.nn.layers.id_columns import Sequenced
from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.ranking.bst import BST
from jaxrec.nn.ranking.dien import DIEN
from jaxrec.nn.ranking.din import DIN

TABLES = "embedding_layer.embedding_layers"
UNIT = ActivationUnit()
HISTORIES = {"item_id": "click_history", "cate_id": "cate_history"}
NEGATIVES = {"item_id": "neg_click_history", "cate_id": "neg_cate_history"}
Fields = tuple[Categorical | Numeric, ...]


def dice(state: State, **fields: Any) -> Converted:
    """The activation alone."""
    example = np.zeros((1, *shape(state, "alpha")), np.float32)
    return convert(DICE(**fields), state, dice_locations("", ()), example)


def din(
    state: State,
    *,
    histories: Mapping[str, str] = HISTORIES,
    numeric: Collection[str] = (),
    mlp: Callable[..., Any] = MLP,
    attention: ActivationUnit = UNIT,
    **fields: Any,
) -> Converted:
    """DIN, as `WithHistory` over ours. `histories`: the history column of each target column."""
    columns, state, locations = shared_tables(state, TABLES, histories, {}, numeric)
    attention_dims, unit, learned = read_block(
        state, "attention_layers.0.attention_layer", "attention", "attention/score"
    )
    attention = attention.clone(dims=attention_dims, padded_statistics=True, **named("activation", learned))
    widths = {column.name: column.dim or 1 for column in columns}
    ours = [name for name in widths if name not in histories.values()] + list(histories.values())
    tower, head = _tower(state, list(widths), ours, widths, mlp)
    module = with_history(columns, DIN(**{"attention": attention, **tower, **fields}), histories, {})
    return convert(module, state, locations | unit | head, example(columns, histories, {}))


def dien(
    state: State,
    *,
    histories: Mapping[str, str] = HISTORIES,
    negatives: Mapping[str, str] = NEGATIVES,
    numeric: Collection[str] = (),
    softmax: bool = True,
    mlp: Callable[..., Any] = MLP,
    attention: ActivationUnit = UNIT,
    **fields: Any,
) -> Converted:
    """DIEN without auxiliary network, as `WithHistory` over ours; softmax: of any kind of attention.

    A second GRU of PyTorch may be "gru", which has no attention here, or "aigru"; without weights, attention
    is "dot".
    """
    columns, state, locations = shared_tables(state, TABLES, histories, negatives, numeric)
    locations |= gru("extraction_modules.0", ("model", "extractor"))
    sizes: dict[str, Any] = {"softmax": softmax}
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
        locations |= {f"{cell}.{names[key.rsplit('.', 1)[1]]}": location for key, location in found.items()}
    else:
        locations |= gru("evolving_modules.0", ("model", "evolver"))
        sizes["evolution"] = fields.get("evolution", "gru")
    if "attention_modules.0.W_kernel" in state:
        locations["attention_modules.0.W_kernel"] = Location(("params", "model", "attention", "kernel"))
        sizes["attention"] = "bilinear"
    elif any(key.startswith("attention_modules.0.attn_mlp.") for key in state):
        dims, unit, learned = read_block(
            state, "attention_modules.0.attn_mlp", "attention", "attention/score"
        )
        locations |= unit
        sizes["attention"] = attention.clone(dims=dims, softmax=softmax, **named("activation", learned))
    else:
        sizes["attention"] = None if sizes.get("evolution") == "gru" else "dot"
    widths = {c.name: c.dim or 1 for c in columns if c.name not in (*histories.values(), *negatives.values())}
    width = sum(widths[name] for name in histories)
    extra = {"": width}  # the interest
    if shape(state, "dnn.mlp.0.weight")[1] > sum(widths.values()) + width:
        sizes["sum_pooling"] = True
        extra |= {"sum": width, "product": width}
    tower, head = _tower(state, [*extra, *widths], [*widths, *extra], widths | extra, mlp)
    module = with_history(columns, DIEN(**{**sizes, **tower, **fields}), histories, negatives)
    return convert(module, state, locations | head, example(columns, histories, negatives))


def bst(
    state: State,
    *,
    histories: Mapping[str, str] = HISTORIES,
    num_heads: int = 2,
    numeric: Collection[str] = (),
    mlp: Callable[..., Any] = MLP,
    **fields: Any,
) -> Converted:
    """BST of one history, as `Sequenced` over ours, whose history has the columns "history_<target>".

    Padding on the left. Projections of the attention are three arrays of ours each; `parts.joined` makes
    them one again. `fields` are those that no shape tells: pooling, causal and residual.

    Raises:
      ValueError: several histories, each with a transformer of its own, which ours is not made for.
    """
    encoders = count(state, r"transformer_encoders\.(\d+)\.", least=0)
    if encoders > 1:
        raise ValueError(f"{encoders} transformer_encoders: ours reads one history; train it with one pair")
    columns, state, locations = shared_tables(state, TABLES, histories, {}, numeric)
    for key, location in locations.items():
        if location.path[-1] in {f"{target}_embedding" for target in histories}:
            locations[key] = location._replace(path=("params", "model", "items", location.path[-1]))
    own = {c.name: Categorical(c.name, c.vocab_size, c.dim) for c in columns if isinstance(c, Categorical)}
    items = tuple(own[name] for name in histories)
    rest = tuple(c for c in columns if c.name not in (*histories, *histories.values()))

    state, found, encoder = _encoder(state, "transformer_encoders.0", sum(item.dim for item in items))
    dim = sum(item.dim for item in items) + (encoder["position_dim"] or 0)
    widths = {c.name: c.dim or 1 for c in columns if c.name not in histories.values()}
    pooled = shape(state, "dnn.mlp.0.weight")[1] - sum(widths.values())
    order = [c.name for c in rest] + list(histories)
    tower, head = _tower(state, [*widths, ""], [*order, ""], widths | {"": pooled}, mlp)
    sizes = {
        "age_dim": None,
        "num_heads": num_heads,
        "concatenate": pooled != dim,
        "norm_epsilon": 1e-5,
        "keep_padding": True,
        "target_in_tower": True,
    }
    model = BST(items, **{**encoder, **sizes, **tower, **fields})
    fixed = None if model.position_dim is None else state["transformer_encoders.0.position_emb"]
    tokens = pooled // dim if fixed is None else len(fixed)
    batch = example(columns, {}, histories)
    batch |= {f"history_{name}": np.zeros((1, tokens - 1), np.int32) for name in histories}
    module = Sequenced(model, FeatureEmbedding(rest) if rest else None)
    return convert(module, state, locations | found | head, batch)


# --- parts ------------------------------------------------------------------------------------------


def _encoder(state: State, theirs: str, dim: int) -> tuple[State, Locations, dict[str, Any]]:
    """The state with each projection apart, locations, and fields of a transformer of items of width dim."""
    locations: Locations = {}
    position = f"{theirs}.position_emb"
    blocks = count(state, rf"{re.escape(theirs)}\.transformer_blocks\.(\d+)\.", least=0)
    sizes: dict[str, Any] = {"num_blocks": blocks, "position_dim": None}
    if position in state:
        locations[position] = Location(("params", "model", "positions"))
        sizes["position_dim"] = shape(state, position)[1]
        dim += sizes["position_dim"]
    for i in range(blocks):
        state, found = _transformer(state, f"{theirs}.transformer_blocks.{i}", str(i), dim)
        locations |= found
    if blocks:
        first = f"{theirs}.transformer_blocks.0"
        sizes["inner_dim"] = shape(state, f"{first}.ffn.0.weight")[0]
        sizes["layer_norm"] = f"{first}.layer_norm1.weight" in state
    return state, locations, sizes


def _transformer(state: State, theirs: str, ours: str, dim: int) -> tuple[State, Locations]:
    """The state with the attention's projections apart, and the locations of a block."""
    attention = ("model", f"attention_{ours}")
    state = cut(state, f"{theirs}.attention.in_proj_weight", (dim, dim, dim), (dim,))
    state = cut(state, f"{theirs}.attention.in_proj_bias", (dim, dim, dim))
    locations = dense(f"{theirs}.attention.out_proj", (*attention, "output"))
    for i, name in enumerate(("query", "key", "value")):
        path = ("params", *attention)
        locations |= {
            f"{theirs}.attention.in_proj_weight[{i}][0]": Location((*path, f"{name}_kernel"), turned=True),
            f"{theirs}.attention.in_proj_bias[{i}]": Location((*path, f"{name}_bias")),
        }
    locations |= dense(f"{theirs}.ffn.0", ("model", f"inner_{ours}"))
    locations |= dense(f"{theirs}.ffn.2", ("model", f"outer_{ours}"))
    for norm, name in {"layer_norm1": f"norm_a_{ours}", "layer_norm2": f"norm_b_{ours}"}.items():
        if f"{theirs}.{norm}.weight" in state:
            locations[f"{theirs}.{norm}.weight"] = Location(("params", "model", name, "scale"))
            locations[f"{theirs}.{norm}.bias"] = Location(("params", "model", name, "bias"))
    return state, locations


def read_block(
    state: State, theirs: str, ours: str, last: str = "", *, root: tuple[str, ...] = ("model",)
) -> tuple[tuple[int, ...], Locations, Any]:
    """Widths, locations and activation (None: one without parameters) of an MLP_Block, see `read_mlp`."""
    dims, locations = read_mlp(state, theirs, ours, last, root=root)
    return dims, locations, next(iter(learned_activations(state, f"{theirs}.mlp.").values()), None)


def _tower(
    state: State,
    theirs: Sequence[str],
    ours: Sequence[str],
    widths: Mapping[str, int],
    mlp: Callable[..., Any],
) -> tuple[dict[str, Any], Locations]:
    """Fields and locations of the MLP on top, whose input is put together in another order than ours."""
    dims, locations, learned = read_block(state, "dnn", "tower/mlp", "tower/logit")
    order = blocks([theirs.index(name) for name in ours], [widths[name] for name in theirs])
    first = "dnn.mlp.0.weight"
    locations[first] = locations[first]._replace(order=order, axis=1)
    mlp = Factory(mlp, batch_norm=normed(state, "dnn.mlp."), **named("activation", learned))
    return {"dims": dims, "mlp": mlp}, locations


def gru(theirs: str, path: tuple[str, ...], *, suffix: str = "_l0", order: tuple[int, ...] = ()) -> Locations:
    """Of a torch GRU, or a cell with the same names, and our `GRU` or `AttentionGRU` at `path`."""
    names = {
        "weight_ih": "input_kernel",
        "weight_hh": "hidden_kernel",
        "bias_ih": "input_bias",
        "bias_hh": "hidden_bias",
    }
    return {
        f"{theirs}.{key}{suffix}": Location(
            ("params", *path, name), turned=name.endswith("kernel"), order=order
        )
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
) -> tuple[Fields, State, Locations]:
    """Columns, the state without the copies of tables that columns share, and the locations of tables.

    Raises:
      ValueError: a column has no table, or a history's table is not that of its target.
    """
    columns, locations = tables(state, theirs, "embedding", numeric)
    kinds = {column.name: column.name for column in columns}
    for target, name in (*histories.items(), *negatives.items()):
        for wanted in (target, name):
            shape(state, f"{theirs}.{wanted}.weight")
        if not np.array_equal(state[f"{theirs}.{target}.weight"], state[f"{theirs}.{name}.weight"]):
            raise ValueError(f"{name}: its table is not that of {target}; name the target that it belongs to")
        kinds[name] = target
    state, locations = dict(state), dict(locations)
    for kind in set(kinds.values()):
        first, *copies = [name for name in kinds if kinds[name] == kind]
        location = locations[f"{theirs}.{kind}.weight"]
        for name in (first, *copies):
            locations.pop(f"{theirs}.{name}.weight")
        locations[f"{theirs}.{first}.weight"] = location
        for name in copies:
            state.pop(f"{theirs}.{name}.weight")
    fields = tuple(
        column._replace(vocabulary=kinds[column.name]) if isinstance(column, Categorical) else column
        for column in columns
    )
    return fields, state, locations


def with_history(
    columns: Fields, model: Any, histories: Mapping[str, str], negatives: Mapping[str, str]
) -> WithHistory:
    """A model of interest behind these columns."""
    others = [negatives[name] for name in histories if negatives]
    return WithHistory(
        FeatureEmbedding(columns),
        model,
        targets=tuple(histories),
        histories=tuple(histories.values()),
        negatives=tuple(others),
    )


def example(
    columns: Fields, histories: Mapping[str, str], negatives: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """A batch of one row, with no event and without negatives."""
    batch = {c.name: np.zeros(1, np.int32 if isinstance(c, Categorical) else np.float32) for c in columns}
    batch |= {name: np.zeros((1, 2), np.int32) for name in histories.values()}
    return {name: column for name, column in batch.items() if name not in negatives.values()}
