"""Weights of DeepCTR-Torch's DIEN (shenweichen/DeepCTR-Torch), with auxiliary loss or without, to ours.

Widths and batch norm are read off names and shapes; `fields` are what they do not tell: the activations (of
`mlp` and `attention`), and the second GRU, since "agru" and "augru" have the same names, and "gru" and
"aigru" too. Batches hold the same ids in the same columns, 0 = padding.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn

from jaxrec.convert.fuxictr import tables
from jaxrec.convert.fuxictr_ranking import blocks, example, gru, with_history
from jaxrec.convert.state_dict import (
    Converted,
    Locations,
    State,
    batch_norm,
    convert,
    count,
    dense,
    shape,
)
from jaxrec.nn.layers.activation_unit import ActivationUnit
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.features import Categorical
from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.ranking.dien import DIEN

TABLES = "embedding_dict"
UNIT = ActivationUnit(activation=nn.sigmoid, softmax=True)  # the default of this code base, but its widths


def dien(
    state: State,
    *,
    kinds: Sequence[str] = ("item_id", "cate_id"),
    mlp: Callable[..., Any] = MLP,
    attention: ActivationUnit = UNIT,
    **fields: Any,
) -> Converted:
    """DIEN, as `WithHistory` over ours.

    Events have the columns "hist_<kind>" and, with a network of the auxiliary loss, "neg_hist_<kind>". Its
    AUGRU has one bias for both products; ours are two, which start equal and have gradients that add up to
    its.

    attention: with another activation than that of the source's default, sigmoid, or without softmax.
    """
    columns, locations = tables(state, TABLES, "embedding", ())
    widths = {column.name: column.dim or 1 for column in columns}
    histories, negatives = ({kind: f"{start}{kind}" for kind in kinds} for start in ("hist_", "neg_hist_"))
    network = "interest_extractor.auxiliary_net"
    if not any(key.startswith(f"{network}.") for key in state):
        negatives = {}
    for names in (histories, negatives):
        for kind, name in names.items():
            vocab_size, dim = shape(state, f"{TABLES}.{kind}.weight")
            columns += (Categorical(name, vocab_size, dim, vocabulary=kind),)

    locations |= gru("interest_extractor.gru", ("model", "extractor"))
    evolver = "interest_evolution.interest_evolution"
    in_cell = f"{evolver}.rnn.weight_ih" in state
    locations |= gru(
        f"{evolver}.rnn" if in_cell else evolver, ("model", "evolver"), suffix="" if in_cell else "_l0"
    )
    unit = "interest_evolution.attention.local_att"
    attention_dims, found = _linears(state, f"{unit}.dnn", ("model", "attention"))
    locations |= found | dense(f"{unit}.dense", ("model", "attention", "score"))
    sizes: dict[str, Any] = {"evolution": "augru" if in_cell else "gru"}
    if negatives:
        aux_dims, found = _linears(state, network, ("model", "auxiliary", "network", "mlp"))
        last = f"{network}.linears.{len(aux_dims) - 1}"
        locations |= {key: location for key, location in found.items() if not key.startswith(f"{last}.")}
        locations |= dense(last, ("model", "auxiliary", "network", "logit"))
        sizes["aux_dims"] = aux_dims[:-1]

    dims, found = _linears(state, "dnn", ("model", "tower", "mlp"))
    order = blocks(
        [1, 0], [sum(widths[kind] for kind in kinds), sum(widths.values())]
    )  # theirs: interest first
    found["dnn.linears.0.weight"] = found["dnn.linears.0.weight"]._replace(order=order, axis=1)
    head = dense("linear", ("model", "tower", "logit"))
    locations |= found | {"linear.weight": head["linear.weight"], "out.bias": head["linear.bias"]}
    norms = "dnn.bn.0.running_mean" in state
    for i in range(len(dims) * norms):
        locations |= batch_norm(f"dnn.bn.{i}", ("model", "tower", "mlp", f"norm_{i}"))
    sizes |= {
        "dims": dims,
        "attention": attention.clone(dims=attention_dims),
        "mlp": Factory(mlp, batch_norm=norms),
    }
    module = with_history(columns, DIEN(**{**sizes, **fields}), histories, negatives)
    batch = example(columns, histories, {})
    batch |= {name: batch[histories[kind]] for kind, name in negatives.items()}
    return convert(module, state, locations, batch)


def _linears(state: State, theirs: str, path: tuple[str, ...]) -> tuple[tuple[int, ...], Locations]:
    """Widths and locations of linear layers numbered from 0."""
    number = count(state, rf"{re.escape(theirs)}\.linears\.(\d+)\.")
    locations: Locations = {}
    for i in range(number):
        locations |= dense(f"{theirs}.linears.{i}", (*path, f"layer_{i}"))
    return tuple(shape(state, f"{theirs}.linears.{i}.weight")[0] for i in range(number)), locations
