"""Weights of FuxiCTR's ShareBottom, MMoE, PLE, PPNet and APG block (reczoo/FuxiCTR, model_zoo) to ours.

Numbers of tasks, experts and levels and all widths are read off names and shapes, and so are activations with
parameters, PReLU and Dice; `mlp`, a factory, and other `fields` are what they do not tell, such as dropout or
another activation. A feature of numbers has a vector that its value multiplies, which looks like a table:
`numeric` names them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection
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
)
from jaxrec.nn.layers.dice import Dice, PReLU
from jaxrec.nn.layers.experts import Gate
from jaxrec.nn.layers.factory import Factory
from jaxrec.nn.layers.features import Categorical, Conditioned, Featured, FeatureEmbedding, Numeric
from jaxrec.nn.layers.mlp import MLP
from jaxrec.nn.multitask.mmoe import MMoE
from jaxrec.nn.multitask.ple import PLE
from jaxrec.nn.multitask.shared_bottom import SharedBottom
from jaxrec.nn.ranking.apg import APG
from jaxrec.nn.ranking.ppnet import PersonalisedTower, PPNet

TABLES = "embedding_layer.embedding_layer.embedding_layers"
PRIORS = "gate_embed_layer.embedding_layer.embedding_layers"
FACTORS = {"U": "u", "V": "v", "U_l": "u_left", "U_r": "u_right", "V_l": "v_left", "V_r": "v_right"}
DICE = functools.partial(Dice, epsilon=1e-9)  # the defaults of this code base
Dims = tuple[int, ...]


def share_bottom(
    state: State, *, numeric: Collection[str] = (), mlp: Callable[..., Any] = MLP, **fields: Any
) -> Converted:
    """ShareBottom, as `Featured` over our `SharedBottom`."""
    dims, locations = read_mlp(state, "bottom", "bottom")
    sizes: dict[str, Any] = {"bottom_dims": dims, **towers(state, locations)}
    model = SharedBottom(**{**sizes, "mlp": built(mlp, state), **fields})
    return featured(state, model, locations, numeric)


def mmoe(
    state: State, *, numeric: Collection[str] = (), mlp: Callable[..., Any] = MLP, **fields: Any
) -> Converted:
    """MMoE, as `Featured` over ours."""
    locations: Locations = {}
    gate_dims = read_bank(state, locations, r"mmoe_layer.gate.{}", "gate/hidden", "gate/logits")
    mlp = built(mlp, state)
    sizes = {
        "num_experts": count(state, r"mmoe_layer\.experts\.(\d+)\."),
        "expert_dims": read_bank(state, locations, r"mmoe_layer.experts.{}", "experts"),
        "gate": Factory(Gate, dims=gate_dims, mlp=mlp),
        "mlp": mlp,
    }
    return featured(state, MMoE(**{**sizes, **towers(state, locations), **fields}), locations, numeric)


def ple(
    state: State, *, numeric: Collection[str] = (), mlp: Callable[..., Any] = MLP, **fields: Any
) -> Converted:
    """PLE with `shared_gate_over_all=False`, which is FuxiCTR's; of one level it is CGC.

    The shared gate of the last level reaches no output there. We have none, and its weights are left out.
    """
    locations: Locations = {}
    num_tasks, levels = count(state, r"tower\.(\d+)\."), count(state, r"cgc_layers\.(\d+)\.")
    unused = f"cgc_layers.{levels - 1}.gate.{num_tasks}."
    state = {key: value for key, value in state.items() if not key.startswith(unused)}
    expert_dims: list[Dims] = []
    gate_dims: Dims = ()
    for i in range(levels):
        theirs, ours = f"cgc_layers.{i}", f"level_{i}"
        expert_dims.append(read_bank(state, locations, f"{theirs}.shared_experts.{{}}", f"{ours}/shared"))
        for task in range(num_tasks):
            gate = f"{theirs}.gate.{task}"
            gate_dims, found = read_mlp(state, gate, f"{ours}/gate/hidden", f"{ours}/gate/logits", task)
            locations |= found
            read_bank(
                state,
                locations,
                f"{theirs}.specific_experts.{task}.{{}}",
                f"{ours}/specific",
                "",
                task,
                least=0,
            )
        if i + 1 < levels:
            gate = f"{theirs}.gate.{num_tasks}"
            locations |= read_mlp(state, gate, f"{ours}/shared_gate/hidden", f"{ours}/shared_gate/logits")[1]
    mlp = built(mlp, state)
    sizes = {
        "num_shared": count(state, r"cgc_layers\.0\.shared_experts\.(\d+)\."),
        "num_specific": count(state, r"cgc_layers\.0\.specific_experts\.0\.(\d+)\.", least=0),
        "expert_dims": tuple(expert_dims),
        "gate": Factory(Gate, dims=gate_dims, mlp=mlp),
        "mlp": mlp,
        "shared_gate_over_all": False,
    }
    return featured(state, PLE(**{**sizes, **towers(state, locations), **fields}), locations, numeric)


def ppnet(
    state: State,
    *,
    numeric: Collection[str] = (),
    tower: Callable[..., Any] = PersonalisedTower,
    **fields: Any,
) -> Converted:
    """PPNet, as `Conditioned`: its gates read the features and, from tables of their own, the priors."""
    locations: Locations = {}
    dims: list[int] = []
    gate_dims: list[int] = []
    learned: Any = None
    for i in range(count(state, r"ppn\.gate_layers\.(\d+)\.")):
        layer, gate = f"ppn.mlp_layers.{i}", f"ppn.gate_layers.{i}.gate"
        dims.append(shape(state, f"{layer}.0.weight")[0])
        gate_dims.append(shape(state, f"{gate}.0.weight")[0])
        locations |= dense(f"{layer}.0", ("model", "towers", f"layer_{i}"), 0)
        if f"{layer}.1.running_mean" in state:
            locations |= batch_norm(f"{layer}.1", ("model", "towers", f"norm_{i}"), 0)
        for key, learned in learned_activations(state, f"{layer}.").items():
            locations |= activation_locations(learned, key, ("model", "towers", f"activation_{i}"), 0)
        locations |= dense(f"{gate}.0", ("model", "towers", f"gate_{i}", "hidden"), 0)
        locations |= dense(f"{gate}.2", ("model", "towers", f"gate_{i}", "gate"), 0)
    locations |= dense(f"ppn.mlp_layers.{len(dims)}", ("model", "towers", "logit"), 0)
    sizes = {
        "dims": tuple(dims),
        "gate_dim": None if gate_dims == dims else gate_dims[0],
        "tower": Factory(tower, batch_norm=normed(state), **named("activation", learned)),
    }
    columns, found = tables(state, TABLES, "embedding", numeric)
    priors, more = tables(state, PRIORS, "condition", numeric)
    module = Conditioned(FeatureEmbedding(columns), FeatureEmbedding(priors), PPNet(**{**sizes, **fields}))
    return convert(module, state, locations | found | more, example(columns))


def apg(state: State, **fields: Any) -> Converted:
    """The APG block, as our `APG`. It is called with a condition, or without one if trained "self-wise".

    Widths are read from the last layer back: where weights are generated whole, no shape alone tells them.
    Without a last linear layer either (no `output_dim`), the field `dims` has to say them.
    """
    shape(state, "dense_layers.linear_1.hypernet.mlp.0.weight")
    head = state.get("dense_layers.out_proj.weight")
    use_bias = head is None or "dense_layers.out_proj.bias" in state
    generated = use_bias and "dense_layers.linear_1.bias" not in state
    locations = {} if head is None else dense("dense_layers.out_proj", ("logits",), use_bias=use_bias)
    width = [0, *fields.get("dims", ())][-1] if head is None else head.shape[1]
    activation: Any = None
    layers: list[tuple[int, int | None, int | None, int]] = []  # width, rank, inner width, condition
    hyper_dims: Dims = ()
    for i in reversed(range(1, count(state, r"dense_layers\.linear_(\d+)\."))):
        theirs, ours = f"dense_layers.linear_{i}", f"layer_{i - 1}"
        factors = {f"{theirs}.{name}": name for name in FACTORS if f"{theirs}.{name}" in state}
        locations |= {key: Location(("params", ours, FACTORS[name])) for key, name in factors.items()}
        hyper_dims, found = read_mlp(
            state, f"{theirs}.hypernet", f"{ours}/hyper_hidden", f"{ours}/hyper", root=()
        )
        locations |= found
        if use_bias and not generated:
            locations[f"{theirs}.bias"] = Location(("params", ours, "bias"), (None,))
        if f"dense_layers.bn_{i}.running_mean" in state:
            locations |= batch_norm(f"dense_layers.bn_{i}", (f"norm_{i - 1}",))
        act, path = f"dense_layers.act_{i}.", (f"activation_{i - 1}",)
        if f"{act}alpha" in state or f"{act}weight" in state:
            activation = DICE if f"{act}alpha" in state else PReLU
            locations |= activation_locations(activation, act, path)

        condition = shape(state, f"{theirs}.hypernet.mlp.0.weight")[1]
        outer = [shape(state, name) for name in factors]
        width = outer[-1][1] if outer else width
        if not width:
            raise ValueError(
                f"{theirs}: without V and out_proj no shape tells the width of the layer; give dims"
            )
        rank = outer[len(outer) // 2][0] if outer else None
        layers.insert(0, (width, rank, outer[0][1] if len(outer) == 4 else None, condition))
        made = shape(state, next(iter(found)))[0]  # of the last layer, which stands first
        width = outer[0][0] if outer else made // width - int(generated)
    dims, ranks, inner_dims, conditions = zip(*layers, strict=True)
    sizes = {
        "dims": dims,
        "num_tasks": None if head is None else head.shape[0],
        "rank": ranks,
        "inner_dim": inner_dims,
        "generate_bias": generated,
        "use_bias": use_bias,
        "hyper_dims": hyper_dims,
        "batch_norm": normed(state),
        **named("activation", activation),
    }
    inputs = [np.zeros((1, width), np.float32)]
    if conditions != (width, *dims[:-1]):
        inputs.append(np.zeros((1, conditions[0]), np.float32))
    return convert(APG(**{**sizes, **fields}), state, locations, *inputs)


# --- parts ------------------------------------------------------------------------------------------


def featured(state: State, model: Any, locations: Locations, numeric: Collection[str]) -> Converted:
    """A model behind its features, in the order of the state_dict."""
    columns, found = tables(state, TABLES, "embedding", numeric)
    return convert(Featured(FeatureEmbedding(columns), model), state, locations | found, example(columns))


def built(mlp: Callable[..., Any], state: State) -> Factory:
    """What builds all MLPs, with their norm and the one activation with parameters that they have, if any."""
    learned = next(iter(learned_activations(state, "").values()), None)
    return Factory(mlp, batch_norm=normed(state), **named("activation", learned))


def named(field: str, activation: Any) -> dict[str, Any]:
    """A field that says which activation there is, if it has parameters."""
    return {} if activation is None else {field: activation}


def towers(state: State, locations: Locations) -> dict[str, Any]:
    """Number and widths of the towers, which it adds to `locations`."""
    return {
        "num_tasks": count(state, r"tower\.(\d+)\."),
        "tower_dims": read_bank(state, locations, "tower.{}", "towers/mlp", "towers/logit"),
    }


def read_bank(
    state: State, locations: Locations, theirs: str, ours: str, last: str = "", *member: int, least: int = 1
) -> Dims:
    """Adds the MLPs `theirs`, numbered from 0 at its braces, to `locations`; their widths."""
    dims: Dims = ()
    for i in range(count(state, re.escape(theirs).replace(r"\{\}", r"(\d+)") + r"\.", least=least)):
        dims, found = read_mlp(state, theirs.format(i), ours, last, *member, i)
        locations |= found
    return dims


def read_mlp(
    state: State, theirs: str, ours: str, last: str = "", *member: int, root: tuple[str, ...] = ("model",)
) -> tuple[Dims, Locations]:
    """Widths and locations of an MLP_Block: linear, batch norm, activation and dropout numbered in a row.

    With `last` its last linear layer stands there instead, and its width does not count.
    """
    start = f"{theirs}.mlp."
    learned = learned_activations(state, start)
    numbers = sorted(
        int(found[1])
        for key in state
        if (found := re.fullmatch(rf"{re.escape(start)}(\d+)\.weight", key))
        and key.removesuffix("weight") not in learned
    )
    linear = [i for i in numbers if len(shape(state, f"{theirs}.mlp.{i}.weight")) == 2]
    norms = [i for i in numbers if i not in linear]
    if not linear:
        shape(state, f"{theirs}.mlp.0.weight")  # says that it is missing
    locations: Locations = {}
    if last:
        locations |= dense(f"{theirs}.mlp.{linear.pop()}", (*root, *last.split("/")), *member)
    for i, number in enumerate(linear):
        locations |= dense(f"{theirs}.mlp.{number}", (*root, *ours.split("/"), f"layer_{i}"), *member)
    for i, number in enumerate(norms):
        locations |= batch_norm(f"{theirs}.mlp.{number}", (*root, *ours.split("/"), f"norm_{i}"), *member)
    for i, (key, made) in enumerate(learned.items()):
        path = (*root, *ours.split("/"), f"activation_{i}")
        locations |= activation_locations(made, key, path, *member)
    return tuple(shape(state, f"{theirs}.mlp.{i}.weight")[0] for i in linear), locations


def learned_activations(state: State, start: str) -> dict[str, Any]:
    """Activations with parameters, of MLP_Blocks, or a layer of PPNet, whose keys begin so: {key up to a dot:
    which}, in order."""
    found: dict[str, Any] = {}
    for key, value in state.items():
        stem, _, name = key.rpartition(".")
        if not (key.startswith(start) and re.search(r"\.mlp(_layers\.\d+)?\.\d+$", stem)):
            continue
        if name == "alpha":
            found[f"{stem}."] = DICE
        elif name == "weight" and value.ndim == 1 and f"{stem}.running_mean" not in state:
            found[f"{stem}."] = PReLU
    return dict(sorted(found.items(), key=lambda entry: int(entry[0][:-1].rpartition(".")[2])))


def activation_locations(made: Any, theirs: str, path: tuple[str, ...], *member: int) -> Locations:
    """Of one of `learned_activations`."""
    return (dice_locations if made is DICE else prelu_locations)(theirs, path, *member)


def prelu_locations(theirs: str, path: tuple[str, ...], *member: int) -> Locations:
    """Of a torch PReLU of one slope a channel."""
    return {f"{theirs}weight": Location(("params", *path, "alpha"), member)}


def dice_locations(theirs: str, path: tuple[str, ...], *member: int) -> Locations:
    """Of a Dice."""
    return {
        f"{theirs}alpha": Location(("params", *path, "alpha"), member),
        f"{theirs}bn.running_mean": Location(("batch_stats", *path, "mean"), member),
        f"{theirs}bn.running_var": Location(("batch_stats", *path, "var"), member),
    }


def tables(
    state: State, theirs: str, ours: str, numeric: Collection[str]
) -> tuple[tuple[Categorical | Numeric, ...], Locations]:
    """Columns and locations of their tables, row 0 of which is the padding as in ours."""
    columns: list[Categorical | Numeric] = []
    locations: Locations = {}
    for key in state:
        if found := re.fullmatch(rf"{re.escape(theirs)}\.(.+)\.weight", key):
            name, (size, *dim) = found[1], shape(state, key)
            if len(dim) != 1:
                raise ValueError(f"{key}: shape {shape(state, key)}, expected two axes")
            number = name in numeric
            columns.append(Numeric(name, size) if number else Categorical(name, size, dim[0]))
            path = ("params", ours, f"{name}_{'kernel' if number else 'embedding'}")
            locations[key] = Location(path, turned=number)
    return tuple(columns), locations


def example(columns: tuple[Categorical | Numeric, ...]) -> dict[str, np.ndarray]:
    """A batch of one row."""
    return {
        field.name: np.zeros(1, np.int32 if isinstance(field, Categorical) else np.float32)
        for field in columns
    }


def normed(state: State, start: str = "") -> bool:
    """Whether there is batch norm below keys that begin so, beside that of Dice."""
    norms = (key for key in state if key.startswith(start) and key.endswith(".running_mean"))
    return any(".bn." not in key for key in norms)
