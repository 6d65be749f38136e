"""Weights of FuxiCTR's SIM, ETA, DCNv2, DeepFM, PNN and DLRM to ours; see `convert.fuxictr`.

Widths are read off names and shapes. SIM and ETA come as `Sequenced`, whose batch has the columns of the long
and the short history under their own names.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import combinations
from typing import Any

import flax.linen as nn
import numpy as np

from jaxrec.convert.fuxictr import TABLES, built, example, featured, named, normed, read_mlp, tables
from jaxrec.convert.fuxictr_ranking import blocks, read_block
from jaxrec.convert.parts import cut
from jaxrec.convert.state_dict import Converted, Location, Locations, State, convert, count, dense, shape
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.features import Categorical, FeatureEmbedding, Numeric
from jaxrec.nn.layers.id_columns import Sequenced
from jaxrec.nn.layers.interaction import CrossNetwork, CrossNetworkMix
from jaxrec.nn.layers.mlp import MLP, Activation
from jaxrec.nn.layers.target_attention import TargetAttention
from jaxrec.nn.ranking.dcn_v2 import DCNv2
from jaxrec.nn.ranking.deepfm import DeepFM
from jaxrec.nn.ranking.dlrm import DLRM
from jaxrec.nn.ranking.eta import ETA
from jaxrec.nn.ranking.pnn import PNN
from jaxrec.nn.ranking.sim import SIM

WEIGHTS = f"fm.lr_layer.{TABLES}"  # of DeepFM's first order
MASKED = -1e9  # FuxiCTR's score of masked slots


def sim(
    state: State,
    items: Sequence[str],
    *,
    num_heads: int = 1,
    numeric: Collection[str] = (),
    mlp: Callable[..., Any] = MLP,
    **fields: Any,
) -> Converted:
    """SIM, whose two stages share their tables and in whose search padding has a score of 0.

    Args:
      items: names of the features that describe an item; the first one's id 0 tells padding.
      fields: further ones of our `SIM`, such as k, which no shape tells.
    """
    dims, locations = read_mlp(state, "dnn", "tower/mlp", "tower/logit")
    locations |= read_mlp(state, "dnn_aux", "search_tower/mlp", "search_tower/logit")[1]
    path = ("params", "model", "search")
    locations |= {
        "W_a.weight": Location((*path, "target_kernel"), turned=True),
        "W_b.weight": Location((*path, "behaviour_kernel"), turned=True),
    }
    sizes = {
        "search_dim": shape(state, "W_a.weight")[0],
        "dims": dims,
        "mlp": built(mlp, state),
        "own_tables": False,
        "features_in_search": True,
        "padding_score": 0.0,
    }
    attentions = _attentions(state, locations, num_heads=num_heads)
    return _sequenced(SIM, state, items, locations, numeric, {**sizes, **attentions, **fields})


def eta(
    state: State,
    items: Sequence[str],
    *,
    num_heads: int = 1,
    use_scale: bool = True,
    numeric: Collection[str] = (),
    mlp: Callable[..., Any] = MLP,
    **fields: Any,
) -> Converted:
    """ETA with fixed rotations (`reuse_hash`). Arguments as of `sim`."""
    dims, locations = read_mlp(state, "dnn", "tower/mlp", "tower/logit")
    locations["random_rotations"] = Location(("constants", "model", "rotations"), (None,))
    sizes = {
        "num_bits": shape(state, "random_rotations")[-1],
        "dims": dims,
        "mlp": built(mlp, state),
    }
    attentions = _attentions(state, locations, num_heads=num_heads, scale=use_scale)
    return _sequenced(ETA, state, items, locations, numeric, {**sizes, **attentions, **fields})


def dcn_v2(
    state: State, *, numeric: Collection[str] = (), mlp: Callable[..., Any] = MLP, **fields: Any
) -> Converted:
    """DCNv2 of any structure, as `Featured`: the names tell which networks there are."""
    locations = dense("fc", ("model", "logit"))
    mlp = built(mlp, state)
    sizes: dict[str, Any] = {"mlp": mlp, "stacked_dims": (), "parallel_dims": ()}
    for name in ("stacked", "parallel"):
        if any(key.startswith(f"{name}_dnn.") for key in state):
            sizes[f"{name}_dims"], found = read_mlp(state, f"{name}_dnn", name)
            locations |= found
    if any(key.startswith("crossnet.U_list.") for key in state):
        sizes["cross"] = _mixture(state, locations)
    else:
        layers = count(state, r"crossnet\.cross_layers\.(\d+)\.")
        for i in range(layers):
            locations |= dense(f"crossnet.cross_layers.{i}", ("model", "cross", f"layer_{i}"))
        sizes["cross"] = CrossNetwork(layers)
    return featured(state, DCNv2(**{**sizes, **fields}), locations, numeric)


def deepfm(
    state: State, *, numeric: Collection[str] = (), mlp: Callable[..., Any] = MLP, **fields: Any
) -> Converted:
    """DeepFM. Its MLP and its machine, `fm.lr_layer`, have a bias each; ours is their sum, the MLP's."""
    columns, locations = tables(state, TABLES, "embedding", numeric)
    weights, found = tables(state, WEIGHTS, "weights", numeric)
    if weights != tuple(column._replace(dim=1) for column in columns):
        raise ValueError(f"{WEIGHTS}: columns {list(weights)}, but the vectors are those of {list(columns)}")
    dims, tower, learned = read_block(state, "mlp", "tower/mlp", "tower/logit", root=())
    bias = next(key for key, location in tower.items() if location.path[-2:] == ("logit", "bias"))
    state = {**state, bias: state[bias] + state["fm.lr_layer.bias"]}
    state.pop("fm.lr_layer.bias")
    mlp = Factory(mlp, batch_norm=normed(state, "mlp.mlp."), **named("activation", learned))
    model = DeepFM(columns, **{"dims": dims, "mlp": mlp, **fields})
    return convert(model, state, locations | found | tower, example(columns))


def pnn(state: State, *, numeric: Collection[str] = (), **fields: Any) -> Converted:
    """PNN of inner products, with a weight for each pair.

    The first layer's kernel is two of ours; `parts.joined` makes them one again.
    """
    state = _without_masks(state)
    columns, locations = tables(state, TABLES, "embedding", numeric)
    dims, found, learned = read_block(state, "dnn", "tower/mlp", "tower/logit", root=())
    if not dims:
        raise ValueError("dnn: no hidden layer, but ours reads the products in its first one")
    locations |= {key: _product_layer(location) for key, location in found.items()}
    first, pairs = "dnn.mlp.0.weight", pair_order(range(len(columns)))
    state = cut(state, first, (dims[0],), (sum(c.dim or 1 for c in columns), len(pairs)))
    locations[f"{first}[0][0]"] = locations.pop(first)
    inner = ("params", "inner", "kernel")
    locations[f"{first}[0][1]"] = Location(inner, turned=True, order=pairs, axis=1)
    sizes = {"dims": dims, "batch_norm": normed(state, "dnn.mlp."), **named("activation", learned)}
    model = PNN(columns, **{**sizes, "factorised": False, **fields})
    return convert(model, state, locations, example(columns))


def dlrm(
    state: State,
    *,
    numeric: Sequence[str] = (),
    products: bool = True,
    bottom_activation: Activation = nn.relu,
    mlp: Callable[..., Any] = MLP,
    **fields: Any,
) -> Converted:
    """DLRM, whose bottom reads the columns `numeric`; products: whether interaction_op is "dot", not "cat".

    Its bottom's vector comes last where ours comes first. mlp: of the top; bottom_activation: of all layers
    of the bottom, whose last one has neither batch norm nor dropout.
    """
    state = _without_masks(state)
    columns, locations = tables(state, TABLES, "embedding", ())
    categories = tuple(column for column in columns if isinstance(column, Categorical))
    top_dims, top, learned = read_block(state, "top_mlp", "top", "logit", root=())
    sizes: dict[str, Any] = {"top_dims": top_dims, "bottom_dims": ()}
    if numeric:
        sizes["bottom_dims"], bottom, _ = read_block(state, "bottom_mlp", "bottom", root=())
        locations |= bottom
    mlp = Factory(mlp, batch_norm=normed(state, "top_mlp.mlp.") or normed(state, "bottom_mlp.mlp."))
    sizes |= {
        "mlp": Factory(mlp, **named("activation", learned)),
        "bottom_mlp": Factory(mlp, activation=bottom_activation, activate_last=False),
        "bottom_output_activation": bottom_activation,
    }
    numbers = tuple(Numeric(name) for name in numeric)
    count, dim = len(categories) + bool(numeric), categories[0].dim
    there = [*([len(categories)] if numeric else []), *range(len(categories))]  # where our vectors stand
    pairs = pair_order(there)
    if products:
        order = (*range(len(pairs), len(pairs) + dim * bool(numeric)), *pairs)
    else:
        order = blocks(there, [dim] * count)
    first = "top_mlp.mlp.0.weight"
    top[first] = top[first]._replace(order=order, axis=1)
    model = DLRM(numbers, categories, **{**sizes, "products": products, **fields})
    return convert(model, state, locations | top, example((*numbers, *categories)))


# --- parts ------------------------------------------------------------------------------------------


def pair_order(there: Sequence[int]) -> tuple[int, ...]:
    """For our pairs i > j, row by row of the lower triangle, their numbers row by row of the upper one.

    there: the numbers of our vectors in the other code base.

    >>> pair_order([0, 1, 2, 3])
    (0, 1, 3, 2, 4, 5)
    """
    size = len(there)
    upper = {pair: number for number, pair in enumerate(combinations(range(size), 2))}
    pairs = [sorted((there[i], there[j])) for i in range(size) for j in range(i)]
    return tuple(upper[i, j] for i, j in pairs)


def _without_masks(state: State) -> State:
    """A state without the constants that FuxiCTR's products keep as parameters."""
    return {key: value for key, value in state.items() if not key.endswith(".triu_mask")}


def _product_layer(location: Location) -> Location:
    """A location of an MLP that stands at tower/mlp in our PNN, whose first layer stands before the tower."""
    if "mlp" not in location.path:
        return location
    collection, *_, layer, leaf = location.path
    kind, number = layer.rsplit("_", 1)
    if int(number):
        return location._replace(path=(collection, "tower", "mlp", f"{kind}_{int(number) - 1}", leaf))
    first = {"layer": "linear"}.get(kind, kind)
    return location._replace(path=(collection, first, leaf))


def _mixture(state: State, locations: Locations) -> CrossNetworkMix:
    """The mixture of low-rank experts, which it adds to `locations`."""
    path = ("params", "model", "cross")
    layers, experts = count(state, r"crossnet\.U_list\.(\d+)$"), count(state, r"crossnet\.gating\.(\d+)\.")
    for i in range(layers):
        for name in "UVC":
            locations[f"crossnet.{name}_list.{i}"] = Location((*path, f"{name.lower()}_{i}"))
        locations[f"crossnet.bias.{i}"] = Location((*path, f"bias_{i}"), (None,), turned=True)
    for k in range(experts):
        locations[f"crossnet.gating.{k}.weight"] = Location((*path, "gate"), (k, None))
    return CrossNetworkMix(layers, experts, shape(state, "crossnet.U_list.0")[-1], share_gates=True)


def _attentions(state: State, locations: Locations, **options: Any) -> dict[str, Any]:
    """Both target attentions, which it adds to `locations`."""
    kernels = {"W_q": "query", "W_k": "key", "W_v": "value", "W_o": "output"}
    found = {}
    for theirs, ours in {"short_attention": "short", "long_attention": "exact"}.items():
        for name, kernel in kernels.items():
            path = ("params", "model", ours, f"{kernel}_kernel")
            locations[f"{theirs}.{name}.weight"] = Location(path, turned=True)
        dim = shape(state, f"{theirs}.W_q.weight")[0]
        found[ours] = TargetAttention(dim=dim, mask_value=MASKED, **options)
    return found


def _sequenced(
    model: Any,
    state: State,
    items: Sequence[str],
    locations: Locations,
    numeric: Collection[str],
    fields: dict[str, Any],
) -> Converted:
    """A model behind the tables: those of `items` are its own, the others those of its features."""
    columns, found = tables(state, TABLES, "embedding", numeric)
    own = tuple(c for c in columns if isinstance(c, Categorical) and c.name in items)
    if {c.name for c in own} != set(items):
        raise ValueError(f"items={list(items)}: tables are there of {[c.name for c in columns]}")
    rest = tuple(c for c in columns if c not in own)
    for c in own:
        key = f"{TABLES}.{c.name}.weight"
        found[key] = Location(("params", "model", "items", f"{c.name}_embedding"))
    module = Sequenced(model(own, **fields), FeatureEmbedding(rest) if rest else None)
    batch = example(columns)
    batch |= {f"{h}_{c.name}": np.zeros((1, 1), np.int32) for h in model.histories for c in own}
    return convert(module, state, {**locations, **found}, batch)
