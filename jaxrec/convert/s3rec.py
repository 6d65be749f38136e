"""Weights of the S3-Rec code family to our modules and back.

The encoders of S3-Rec, CoSeRec, TiCoSeRec, ICLRec, RepPad and RecBole (SASRec), and of TADA and RecBole
(GRU4Rec), differ in the names of their parameters only. Layers, widths and the longest input are read off
the shapes. What shapes do not tell are arguments: the number of heads, the rows at the end of the item table
that are no items (most of the family keeps one for a mask id it never uses, RecBole none), and fields such as
`mask_value`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxrec.convert import torch_file
from jaxrec.nn.sequential.gru4rec import GRU4Rec
from jaxrec.nn.sequential.sasrec import SASRec
from jaxrec.types import Variables

State = Mapping[str, np.ndarray]


class Names(NamedTuple):
    """What one code base calls its parameters."""

    items: str
    positions: str
    layers: str
    attention: str
    feed_forward: str


S3REC = Names(
    items="item_embeddings",
    positions="position_embeddings",
    layers="item_encoder.layer",
    attention="attention",
    feed_forward="intermediate",
)
RECBOLE = Names(
    items="item_embedding",
    positions="position_embedding",
    layers="trm_encoder.layer",
    attention="multi_head_attention",
    feed_forward="feed_forward",
)


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """A state_dict from an .npz file, or from a .pt or .pth file, which needs no PyTorch."""
    if not str(path).endswith(".npz"):
        return torch_file.load(path)
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def from_state_dict(
    state: State, *, num_heads: int = 2, mask_rows: int = 1, **fields: Any
) -> tuple[SASRec | GRU4Rec, Variables]:
    """A module and its variables from the weights of any member of the family.

    Args:
      state: arrays by PyTorch name.
      num_heads: attention heads, which no shape tells; ignored for GRU4Rec.
      mask_rows: rows at the end of the item table that are no items.
      fields: of the module, such as mask_value=-10000.0 (SASRec), skip_padding=False (GRU4Rec), dropout.

    Raises:
      ValueError: a parameter is missing, left over, of another shape than the others imply, or not finite.
    """
    for key, value in state.items():
        if not np.issubdtype(value.dtype, np.floating) or not np.isfinite(value).all():
            raise ValueError(f"{key}: {value.dtype} {value.shape} must hold finite floating-point weights")
    names = S3REC if f"{S3REC.items}.weight" in state else RECBOLE
    shape = _shape(state, f"{names.items}.weight", 2)
    num_items = shape[0] - 1 - mask_rows
    if mask_rows < 0 or num_items < 1:
        raise ValueError(
            f"mask_rows={mask_rows}: {names.items}.weight {shape} needs padding and at least one item"
        )
    sizes = {"num_items": num_items, "extra_rows": mask_rows, "dim": shape[1], **_gru_sizes(state)}
    module: SASRec | GRU4Rec
    if "hidden_dim" in sizes:
        module = GRU4Rec(**{**sizes, **fields})
        table = _gru_names(module, names)
    else:
        positions = _shape(state, f"{names.positions}.weight", 2)
        inner = _shape(state, f"{names.layers}.0.{names.feed_forward}.dense_1.weight", 2)
        sizes |= {
            "num_layers": _count(state, rf"{re.escape(names.layers)}\.(\d+)\."),
            "max_len": positions[0],
        }
        module = SASRec(**{**sizes, "inner_dim": inner[0], "num_heads": num_heads, **fields})
        table = _sasrec_names(module, names)
    return module, {"params": _fill(state, table)}


def to_state_dict(
    module: SASRec | GRU4Rec, variables: Variables, *, names: Names = S3REC
) -> dict[str, np.ndarray]:
    """The reverse of `from_state_dict`: arrays by the PyTorch names of one code base."""
    table = _sasrec_names(module, names) if isinstance(module, SASRec) else _gru_names(module, names)
    state = {}
    for key, (path, _) in table.items():
        value: Any = variables["params"]
        for part in path:
            value = value[part]
        state[key] = np.array(_turned(path, np.asarray(value)))
    return state


Table = dict[str, tuple[tuple[str, ...], tuple[int, ...]]]  # PyTorch name → (path in params, PyTorch shape)


def _sasrec_names(module: SASRec, names: Names) -> Table:
    dim, inner = module.dim, module.inner_dim
    table: Table = {
        f"{names.items}.weight": (("item_embedding",), (module.num_items + 1 + module.extra_rows, dim)),
        f"{names.positions}.weight": (("position_embedding",), (module.max_len, dim)),
        **_norm("LayerNorm", ("norm",), dim),
    }
    for i in range(module.num_layers):
        attention = f"{names.layers}.{i}.{names.attention}"
        for part in ("query", "key", "value"):
            table[f"{attention}.{part}.weight"] = ((f"layer_{i}", "attention", f"{part}_kernel"), (dim, dim))
            table[f"{attention}.{part}.bias"] = ((f"layer_{i}", "attention", f"{part}_bias"), (dim,))
        table |= _dense(f"{attention}.dense", (f"layer_{i}", "attention", "output"), dim, dim)
        table |= _norm(f"{attention}.LayerNorm", (f"layer_{i}", "attention_norm"), dim)
        feed_forward = f"{names.layers}.{i}.{names.feed_forward}"
        table |= _dense(f"{feed_forward}.dense_1", (f"layer_{i}", "inner"), dim, inner)
        table |= _dense(f"{feed_forward}.dense_2", (f"layer_{i}", "outer"), inner, dim)
        table |= _norm(f"{feed_forward}.LayerNorm", (f"layer_{i}", "inner_norm"), dim)
    return table


def _gru_names(module: GRU4Rec, names: Names) -> Table:
    width = 3 * module.hidden_dim
    table: Table = {
        f"{names.items}.weight": (
            ("item_embedding",),
            (module.num_items + 1 + module.extra_rows, module.dim),
        ),
        **_dense("dense", ("output",), module.hidden_dim, module.dim),
    }
    for i in range(module.num_layers):
        fan_in = module.dim if i == 0 else module.hidden_dim
        for torch, ours, size in (("ih", "input", fan_in), ("hh", "hidden", module.hidden_dim)):
            table[f"gru_layers.weight_{torch}_l{i}"] = ((f"layer_{i}", f"{ours}_kernel"), (width, size))
            if module.use_bias:
                table[f"gru_layers.bias_{torch}_l{i}"] = ((f"layer_{i}", f"{ours}_bias"), (width,))
    return table


def _gru_sizes(state: State) -> dict[str, Any]:
    """Sizes that only a GRU4Rec has, or nothing."""
    if "gru_layers.weight_hh_l0" not in state:
        return {}
    return {
        "hidden_dim": _shape(state, "gru_layers.weight_hh_l0", 2)[1],
        "num_layers": _count(state, r"gru_layers\.weight_hh_l(\d+)$"),
        "use_bias": "gru_layers.bias_hh_l0" in state,
    }


def _dense(key: str, path: tuple[str, ...], fan_in: int, fan_out: int) -> Table:
    return {
        f"{key}.weight": ((*path, "kernel"), (fan_out, fan_in)),
        f"{key}.bias": ((*path, "bias"), (fan_out,)),
    }


def _norm(key: str, path: tuple[str, ...], dim: int) -> Table:
    return {f"{key}.weight": ((*path, "scale"), (dim,)), f"{key}.bias": ((*path, "bias"), (dim,))}


def _count(state: State, pattern: str) -> int:
    """Number of layers: one more than the largest index that `pattern` finds in the names."""
    return 1 + max((int(found[1]) for key in state if (found := re.match(pattern, key))), default=-1)


def _shape(state: State, key: str, rank: int) -> tuple[int, ...]:
    if key not in state:
        raise ValueError(f"{key}: missing; the file has {', '.join(sorted(state)) or 'nothing'}")
    if state[key].ndim != rank:
        raise ValueError(f"{key}: shape {state[key].shape}, expected {rank} axes")
    return state[key].shape


def _turned(path: tuple[str, ...], value: np.ndarray) -> np.ndarray:
    """Kernels are [in, out] here and [out, in] in PyTorch; everything else is the same."""
    return value.T if path[-1].endswith("kernel") else value


def _fill(state: State, table: Table) -> dict[str, Any]:
    missing, unknown = sorted(set(table) - set(state)), sorted(set(state) - set(table))
    if missing or unknown:
        raise ValueError(
            f"missing: {', '.join(missing) or 'none'}; not understood: {', '.join(unknown) or 'none'}; "
            "a state_dict must hold exactly the parameters of one encoder"
        )
    params: dict[str, Any] = {}
    for key, (path, shape) in table.items():
        if state[key].shape != shape:
            raise ValueError(f"{key}: shape {state[key].shape}, but the other parameters imply {shape}")
        node = params
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = np.array(_turned(path, state[key]), np.float32)
    return params
