"""Weights of nextrec's POSO and SNR-Trans (PyPI nextrec, nextrec/models/multitask) to ours.

Sizes are read off the shapes; `fields` are what shapes do not tell, such as the activation. The models read
one vector an example: the embeddings of the source stand before them, and its layers must have no norm.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxrec.convert.state_dict import Converted, Location, Locations, State, convert, count, dense, shape
from jaxrec.nn.multitask.snr import SNR
from jaxrec.nn.ranking.poso import PersonalMLP, PersonalMMoE
from jaxrec.types import Array


def poso_mlp(state: State, **fields: Any) -> Converted:
    """The stack of gated layers, POSOMLP. The source has one activation for layers and gates.

    `fields`: activation and gate_activation, factor (the source's scale_factor) and dropout.
    """
    locations: Locations = {}
    dims = [shape(state, f"layers.{i}.linear.weight")[0] for i in range(count(state, r"layers\.(\d+)\."))]
    use_bias = "layers.0.linear.bias" in state
    for i in range(len(dims)):
        locations |= dense(f"layers.{i}.linear", (f"layer_{i}",), use_bias=use_bias)
        locations |= _gate(f"layers.{i}.gate", (f"gate_{i}",))
    gate_dim = shape(state, "layers.0.gate.fc1.weight")[0]
    inputs = (shape(state, "layers.0.linear.weight")[1], shape(state, "layers.0.gate.fc1.weight")[1])
    return _convert(PersonalMLP(dims, gate_dim, use_bias=use_bias, **fields), state, locations, *inputs)


def poso_mmoe(state: State, **fields: Any) -> Converted:
    """POSOMMoE under "mmoe." with the towers behind it; each expert has a gate for every unit of its output.

    `fields`: gate_activation, factor (the source's scale_factor) and mlp, of experts and towers.
    """
    locations: Locations = {}
    expert_dims: tuple[int, ...] = ()
    tower_dims: tuple[int, ...] = ()
    num_experts, num_tasks = count(state, r"mmoe\.experts\.(\d+)\."), count(state, r"towers\.(\d+)\.")
    for i in range(num_experts):
        expert_dims, found = read_mlp(state, f"mmoe.experts.{i}", ("experts",), i)
        locations |= found | _gate(f"mmoe.expert_pc_gates.{i}", ("personal_gate",), i)
    for i in range(num_tasks):
        tower_dims, found = read_tower(state, f"towers.{i}", ("towers",), i)
        locations |= found | dense(f"mmoe.gates.{i}", ("gate", "logits"), i)
    gate_dim, code = shape(state, "mmoe.expert_pc_gates.0.fc1.weight")
    sizes: dict[str, Any] = {
        "num_tasks": num_tasks,
        "num_experts": num_experts,
        "expert_dims": expert_dims,
        "tower_dims": tower_dims,
        "gate_dim": gate_dim,
        "unit_gates": True,
    }
    model = PersonalMMoE(**{**sizes, **fields})
    return _convert(model, state, locations, shape(state, "mmoe.gates.0.weight")[1], code)


def snr_trans(state: State, *, beta: float = 0.9, **fields: Any) -> Converted:
    """SNR-Trans whose gates serve as those of the source do; locations are those of `routed(state)`.

    `fields`: gamma and zeta (the source's epsilon) and mlp. In training the gates differ: the
    source draws none.
    """
    state = routed(state, beta)
    locations: Locations = {}
    dims: list[tuple[int, ...]] = []
    tower_dims: tuple[int, ...] = ()
    num_layers, num_tasks = count(state, r"gates\.(\d+)\."), count(state, r"towers\.(\d+)\.")
    subnets = [count(state, rf"expert_layers\.{i}\.(\d+)\.") for i in range(num_layers)]
    for i in range(num_layers):
        widths: tuple[int, ...] = ()
        for j in range(subnets[i]):
            widths, found = read_mlp(state, f"expert_layers.{i}.{j}", (f"subnets_{i}",), j)
            locations |= found
        dims.append(widths)
        locations[f"gates.{i}.log_alpha"] = Location(("params", f"edges_{i}", "log_alpha"))
        locations[f"gates.{i}.trans_matrix"] = Location(("params", f"transforms_{i}"))
    for i in range(num_tasks):
        tower_dims, found = read_tower(state, f"towers.{i}", ("towers",), i)
        locations |= found
    sizes: dict[str, Any] = {"num_subnets": subnets, "dims": dims, "tower_dims": tower_dims, "beta": beta}
    model = SNR(num_tasks, **{**sizes, **fields})
    return _convert(model, state, locations, shape(state, "expert_layers.0.0.mlp.0.weight")[1])


def routed(state: State, beta: float = 0.9) -> dict[str, np.ndarray]:
    """The state_dict with log_alpha, one a gate, in place of alpha, one a layer, and u, one a gate."""
    rest = {k: v for k, v in state.items() if not (k.startswith("gates.") and k.endswith((".alpha", ".u")))}
    gates = {
        f"gates.{i}.log_alpha": np.asarray(log_alpha(state, i, beta))
        for i in range(count(state, r"gates\.(\d+)\."))
    }
    return rest | gates


def log_alpha(state: Mapping[str, Any], layer: int, beta: float = 0.9) -> Array:
    """The log α with which our gates serve as those of a layer of the source, [following, n].

    There u is a parameter, not noise, and the temperature divides log alpha only, which is as the paper is
    typeset: σ(log u - log(1 - u) + log alpha / β), stretched and clipped, in training too.
    """
    u, alpha = jnp.asarray(state[f"gates.{layer}.u"]), jnp.asarray(state[f"gates.{layer}.alpha"])
    return jnp.log(u) - jnp.log(1.0 - u) + jnp.log(alpha) / beta


# --- parts ------------------------------------------------------------------------------------------


def read_mlp(
    state: State, key: str, path: tuple[str, ...], *member: int
) -> tuple[tuple[int, ...], Locations]:
    """Of a stack of (linear, activation, dropout), and its widths."""
    locations: Locations = {}
    dims: list[int] = []
    while (layer := f"{key}.mlp.{3 * len(dims)}") + ".weight" in state:
        locations |= dense(layer, (*path, f"layer_{len(dims)}"), *member)
        dims.append(shape(state, f"{layer}.weight")[0])
    return tuple(dims), locations


def read_tower(
    state: State, key: str, path: tuple[str, ...], *member: int
) -> tuple[tuple[int, ...], Locations]:
    """Of such a stack whose last linear layer gives the logit, and the widths of those before it."""
    dims, locations = read_mlp(state, key, (*path, "mlp"), *member)
    if not dims:
        raise ValueError(f"{key}.mlp.0.weight: missing; the file has {', '.join(sorted(state))}")
    last = f"{key}.mlp.{3 * len(dims) - 3}"
    return dims[:-1], locations | dense(last, (*path, "logit"), *member)


def _gate(key: str, path: tuple[str, ...], *member: int) -> Locations:
    return dense(f"{key}.fc1", (*path, "hidden"), *member) | dense(f"{key}.fc2", (*path, "gate"), *member)


def _convert(model: Any, state: State, locations: Locations, *num_features: int) -> Converted:
    return convert(model, state, locations, *(np.zeros((1, n), np.float32) for n in num_features))
