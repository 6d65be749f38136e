"""Weights of FuxiCTR's SIM, ETA and DCNv2 (reczoo/FuxiCTR, model_zoo) to ours; see `convert.fuxictr`.

Widths are read off names and shapes. SIM and ETA come as `Sequenced`, whose batch has the columns of the long
and the short history under their own names.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from jaxrec.convert.fuxictr import TABLES, example, featured, mlp, normed, tables
from jaxrec.convert.places import Converted, Place, Places, State, convert, count, dense, shape
from jaxrec.nn.layers.behaviours import Sequenced
from jaxrec.nn.layers.features import Categorical, FeatureEmbedding
from jaxrec.nn.layers.interaction import CrossNetwork, CrossNetworkMix
from jaxrec.nn.layers.target_attention import TargetAttention
from jaxrec.nn.ranking.dcn_v2 import DCNv2
from jaxrec.nn.ranking.eta import ETA
from jaxrec.nn.ranking.sim import SIM

MASKED = -1e9  # FuxiCTR's score of masked slots


def sim(
    state: State, items: Sequence[str], *, num_heads: int = 1, numeric: Collection[str] = (), **fields: Any
) -> Converted:
    """SIM, whose two stages share their tables and in whose search padding has a score of 0.

    Args:
      items: names of the features that describe an item; the first one's id 0 tells padding.
      fields: further ones of our `SIM`, such as k, which no shape tells.
    """
    dims, places = mlp(state, "dnn", "tower/mlp", "tower/logit")
    places |= mlp(state, "dnn_aux", "search_tower/mlp", "search_tower/logit")[1]
    path = ("params", "model", "search")
    places |= {
        "W_a.weight": Place((*path, "target_kernel"), turned=True),
        "W_b.weight": Place((*path, "behaviour_kernel"), turned=True),
    }
    sizes = {
        "search_dim": shape(state, "W_a.weight")[0],
        "dims": dims,
        "batch_norm": normed(state),
        "own_tables": False,
        "features_in_search": True,
        "padding_score": 0.0,
    }
    attentions = _attentions(state, places, num_heads=num_heads)
    return _sequenced(SIM, state, items, places, numeric, {**sizes, **attentions, **fields})


def eta(
    state: State,
    items: Sequence[str],
    *,
    num_heads: int = 1,
    use_scale: bool = True,
    numeric: Collection[str] = (),
    **fields: Any,
) -> Converted:
    """ETA with fixed rotations (`reuse_hash`). Arguments as of `sim`."""
    dims, places = mlp(state, "dnn", "tower/mlp", "tower/logit")
    places["random_rotations"] = Place(("constants", "model", "rotations"), (None,))
    sizes = {
        "num_bits": shape(state, "random_rotations")[-1],
        "dims": dims,
        "batch_norm": normed(state),
    }
    attentions = _attentions(state, places, num_heads=num_heads, scale=use_scale)
    return _sequenced(ETA, state, items, places, numeric, {**sizes, **attentions, **fields})


def dcn_v2(state: State, *, numeric: Collection[str] = (), **fields: Any) -> Converted:
    """DCNv2 of any structure, as `Featured`: the names tell which networks there are."""
    places = dense("fc", ("model", "logit"))
    sizes: dict[str, Any] = {"batch_norm": normed(state), "stacked_dims": (), "parallel_dims": ()}
    for name in ("stacked", "parallel"):
        if any(key.startswith(f"{name}_dnn.") for key in state):
            sizes[f"{name}_dims"], found = mlp(state, f"{name}_dnn", name)
            places |= found
    if any(key.startswith("crossnet.U_list.") for key in state):
        sizes["cross"] = _mixture(state, places)
    else:
        layers = count(state, r"crossnet\.cross_layers\.(\d+)\.")
        for i in range(layers):
            places |= dense(f"crossnet.cross_layers.{i}", ("model", "cross", f"layer_{i}"))
        sizes["cross"] = CrossNetwork(layers)
    return featured(state, DCNv2(**{**sizes, **fields}), places, numeric)


# --- parts ------------------------------------------------------------------------------------------


def _mixture(state: State, places: Places) -> CrossNetworkMix:
    """The mixture of low-rank experts, which it adds to `places`."""
    path = ("params", "model", "cross")
    layers, experts = count(state, r"crossnet\.U_list\.(\d+)$"), count(state, r"crossnet\.gating\.(\d+)\.")
    for i in range(layers):
        for name in "UVC":
            places[f"crossnet.{name}_list.{i}"] = Place((*path, f"{name.lower()}_{i}"))
        places[f"crossnet.bias.{i}"] = Place((*path, f"bias_{i}"), (None,), turned=True)
    for k in range(experts):
        places[f"crossnet.gating.{k}.weight"] = Place((*path, "gate"), (k, None))
    return CrossNetworkMix(layers, experts, shape(state, "crossnet.U_list.0")[-1], share_gates=True)


def _attentions(state: State, places: Places, **options: Any) -> dict[str, Any]:
    """Both target attentions, which it adds to `places`."""
    kernels = {"W_q": "query", "W_k": "key", "W_v": "value", "W_o": "output"}
    found = {}
    for theirs, ours in {"short_attention": "short", "long_attention": "exact"}.items():
        for name, kernel in kernels.items():
            path = ("params", "model", ours, f"{kernel}_kernel")
            places[f"{theirs}.{name}.weight"] = Place(path, turned=True)
        dim = shape(state, f"{theirs}.W_q.weight")[0]
        found[ours] = TargetAttention(dim=dim, mask_value=MASKED, **options)
    return found


def _sequenced(
    model: Any,
    state: State,
    items: Sequence[str],
    places: Places,
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
        found[key] = Place(("params", "model", "items", f"{c.name}_embedding"))
    module = Sequenced(model(own, **fields), FeatureEmbedding(rest) if rest else None)
    batch = example(columns)
    batch |= {f"{h}_{c.name}": np.zeros((1, 1), np.int32) for h in model.histories for c in own}
    return convert(module, state, {**places, **found}, batch)
