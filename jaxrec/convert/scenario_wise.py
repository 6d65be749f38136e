"""Weights of Scenario-Wise-Rec's multi-domain models to ours: STAR and EPNet.

Sizes are read off the shapes; `fields` and `mlp` are what shapes do not tell, such as the activation. Its ids
start at 0 and have no padding: our batches hold them plus 1. Domains are numbered from 0 in both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxrec.convert.rechub import read_tower
from jaxrec.convert.state_dict import (
    Converted,
    Location,
    State,
    batch_norm,
    convert,
    count,
    dense,
    shape,
    tables,
)
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.features import Conditioned, FeatureEmbedding
from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.ranking.epnet import EPNet
from jaxrec.nn.ranking.star import STAR, Domain


def star(state: State, **fields: Any) -> Converted:
    """STAR in the form of this code base: statistics of the whole batch, and norm and ReLU on the output too.

    The batch names the domain in the column "domain_indicator".
    """
    num_domains = count(state, r"domain_specific_w\.(\d+)\.")
    num_layers = count(state, r"share_parm_w\.(\d+)$")
    columns, locations = tables(state, "embedding.embed_dict", ("embedding",))
    aux_dims, auxiliary = read_tower(state, "auxnet", ("model", "auxiliary"))
    locations |= auxiliary
    for key, name in (("gamma", "scale"), ("bias", "bias")):
        locations[f"dn_share_{key}"] = Location(("params", "model", "norm", f"shared_{name}"))
        for d in range(num_domains):
            locations[f"domain_specific_dn_{key}.{d}"] = Location(("params", "model", "norm", name), (d,))
    for i in range(num_layers):
        for key, name in (("w", "kernel"), ("b", "bias")):
            locations[f"share_parm_{key}.{i}"] = Location(("params", "model", f"layer_{i}", f"shared_{name}"))
            for d in range(num_domains):
                location = Location(("params", "model", f"layer_{i}", name), (d,))
                locations[f"domain_specific_{key}.{d}.{i}"] = location
        for d in range(num_domains):
            locations |= batch_norm(f"domain_specific_bn.{d}.{i}", ("model", f"norm_{i}"), d)
    dims = [shape(state, f"share_parm_b.{i}")[0] for i in range(num_layers - 1)]
    form = {"domain_dim": 0, "domain_statistics": False, "activate_output": True, "batch_norm": True}
    model = STAR(num_domains, dims, aux_dims, **{**form, **fields})
    batch = {name: np.zeros(1, np.int32) for name in (*(c.name for c in columns), "domain_indicator")}
    return convert(
        Conditioned(FeatureEmbedding(columns), Domain("domain_indicator"), model), state, locations, batch
    )


def epnet(state: State, *, mlp: Callable[..., Any] = MLP, **fields: Any) -> Converted:
    """EPNet. Its MLP has no hidden layers, since the source hands their widths to the wrong argument."""
    columns, locations = tables(state, "agn_embedding.embed_dict", ("embedding",))
    scene, found = tables(state, "sce_embedding.embed_dict", ("condition",))
    dims, head = read_tower(state, "mlp", ("model", "tower"))
    locations |= found | head
    for layer, name in ((0, "hidden"), (2, "gate")):
        locations |= dense(f"gatenu.network.{layer}", ("model", "gate", name))
    gate_dim = shape(state, "gatenu.network.0.weight")[0]
    model = EPNet(dims, gate_dim, mlp=Factory(mlp, batch_norm=bool(dims)), **fields)
    batch = {column.name: np.zeros(1, np.int32) for column in (*columns, *scene)}
    return convert(
        Conditioned(FeatureEmbedding(columns), FeatureEmbedding(scene), model), state, locations, batch
    )
