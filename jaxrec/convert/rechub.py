"""Weights of torch-rechub's multi-task models to ours: ESMM, AITM and PLE.

Sizes are read off the shapes; `mlp`, a factory, and other `fields` are what shapes do not tell, such as the
activation or dropout. Every hidden layer of this code base has batch norm, the gates of PLE too. Its ids
start at 0 and have no padding: our batches hold them plus 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxrec.convert.state_dict import (
    Converted,
    Location,
    Locations,
    State,
    batch_norm,
    convert,
    count,
    dense,
    shape,
    tables,
)
from jaxrec.nn.layers.experts import Gate
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.features import Featured, FeatureEmbedding
from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.multitask.aitm import AITM
from jaxrec.nn.multitask.esmm import ESMM
from jaxrec.nn.multitask.ple import PLE

MODEL = ("model",)


def esmm(state: State, *, mlp: Callable[..., Any] = MLP, **fields: Any) -> Converted:
    """ESMM. The reference gives [conversion, click, both] in this order, ours gives them by name."""
    dims, locations = read_tower(state, "tower_ctr", (*MODEL, "towers"), 0)
    locations |= read_tower(state, "tower_cvr", (*MODEL, "towers"), 1)[1]
    return _featured(state, ESMM(dims, mlp=Factory(mlp, batch_norm=True), **fields), locations)


def aitm(state: State, *, mlp: Callable[..., Any] = MLP, **fields: Any) -> Converted:
    """AITM of any number of tasks. Its heads have hidden layers, and it has no calibrator."""
    locations: Locations = {}
    num_tasks = count(state, r"bottoms\.(\d+)\.")
    dims: tuple[int, ...] = ()
    head_dims: tuple[int, ...] = ()
    for i in range(num_tasks):
        dims, found = read_mlp(state, f"bottoms.{i}", (*MODEL, "towers"), i)
        head_dims, head = read_tower(state, f"towers.{i}", (*MODEL, "heads"), i)
        locations |= found | head
    for i in range(num_tasks - 1):
        locations |= read_mlp(state, f"info_gates.{i}", (*MODEL, "transfers", "info"), i)[1]
        for theirs, ours in (("q", "query"), ("k", "key"), ("v", "value")):
            locations |= dense(f"aits.{i}.{theirs}_layer", (*MODEL, "transfers", ours), i, use_bias=False)
    factories = {"mlp": Factory(mlp, batch_norm=True), "transfer_mlp": Factory(MLP, batch_norm=True)}
    return _featured(state, AITM(num_tasks, dims, head_dims, **{**factories, **fields}), locations)


def ple(state: State, *, mlp: Callable[..., Any] = MLP, **fields: Any) -> Converted:
    """PLE, whose shared gates see all experts, as in the paper."""
    locations: Locations = {}
    num_tasks, num_levels = count(state, r"towers\.(\d+)\."), count(state, r"cgc_layers\.(\d+)\.")
    specific = count(state, r"cgc_layers\.0\.experts_specific\.(\d+)\.", least=0)
    num_shared = count(state, r"cgc_layers\.0\.experts_shared\.(\d+)\.", least=0)
    if specific % num_tasks:
        raise ValueError(
            f"{specific} specific experts: must be the same number for each of {num_tasks} tasks"
        )
    num_specific = specific // num_tasks
    expert_dims: list[tuple[int, ...]] = []
    tower_dims: tuple[int, ...] = ()
    for i in range(num_levels):
        level, path = f"cgc_layers.{i}", (*MODEL, f"level_{i}")
        dims: tuple[int, ...] = ()
        for j in range(specific):
            dims, found = read_mlp(
                state, f"{level}.experts_specific.{j}", (*path, "specific"), *divmod(j, num_specific)
            )
            locations |= found
        for j in range(num_shared):
            dims, found = read_mlp(state, f"{level}.experts_shared.{j}", (*path, "shared"), j)
            locations |= found
        expert_dims.append(dims)
        for j in range(num_tasks):
            locations |= _gate(f"{level}.gates_specific.{j}", (*path, "gate"), j)
        if i + 1 < num_levels:
            locations |= _gate(f"{level}.gate_shared", (*path, "shared_gate"))
    for i in range(num_tasks):
        tower_dims, found = read_tower(state, f"towers.{i}", (*MODEL, "towers"), i)
        locations |= found
    sizes: dict[str, Any] = {
        "num_tasks": num_tasks,
        "num_specific": num_specific,
        "num_shared": num_shared,
        "expert_dims": tuple(expert_dims),
        "tower_dims": tower_dims,
        "gate": Factory(Gate, logits_batch_norm=True),
        "mlp": Factory(mlp, batch_norm=True),
    }
    return _featured(state, PLE(**{**sizes, **fields}), locations)


def read_mlp(
    state: State, key: str, path: tuple[str, ...], *member: int
) -> tuple[tuple[int, ...], Locations]:
    """Of a stack of (linear, batch norm, activation, dropout), and its widths.

    An activation with one parameter, such as a slope, is a layer with `alpha` [1] here.
    """
    locations: Locations = {}
    dims: list[int] = []
    while f"{key}.mlp.{4 * len(dims) + 1}.running_mean" in state:
        i = len(dims)
        dims.append(shape(state, f"{key}.mlp.{4 * i}.weight")[0])
        locations |= dense(f"{key}.mlp.{4 * i}", (*path, f"layer_{i}"), *member)
        locations |= batch_norm(f"{key}.mlp.{4 * i + 1}", (*path, f"norm_{i}"), *member)
        for name in ("weight", "alpha"):  # of PReLU and of Dice
            if f"{key}.mlp.{4 * i + 2}.{name}" in state:
                alpha = ("params", *path, f"activation_{i}", "alpha")
                locations[f"{key}.mlp.{4 * i + 2}.{name}"] = Location(alpha, member)
    return tuple(dims), locations


def read_tower(
    state: State, key: str, path: tuple[str, ...], *member: int
) -> tuple[tuple[int, ...], Locations]:
    """Of such a stack with a linear layer to one logit behind it, and the widths of the stack."""
    dims, locations = read_mlp(state, key, (*path, "mlp"), *member)
    return dims, locations | dense(f"{key}.mlp.{4 * len(dims)}", (*path, "logit"), *member)


def _gate(key: str, path: tuple[str, ...], *member: int) -> Locations:
    return dense(f"{key}.mlp.0", (*path, "logits"), *member) | batch_norm(
        f"{key}.mlp.1", (*path, "norm"), *member
    )


def _featured(state: State, model: Any, locations: Locations) -> Converted:
    columns, found = tables(state, "embedding.embed_dict", ("embedding",))
    batch = {column.name: np.zeros(1, np.int32) for column in columns}
    return convert(Featured(FeatureEmbedding(columns), model), state, locations | found, batch)
