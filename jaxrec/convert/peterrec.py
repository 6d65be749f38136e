"""Weights of the authors' TensorFlow code of PeterRec (fajieyuan/sigir2020_peterrec) to ours and back.

Names are those of its variables. Its id 0 is padding in name only: nothing is masked, and its vector is read
and trained as any other. So all its ids are items here, and our batches hold them plus 1, as they do targets.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from jaxrec.convert.state_dict import Converted, Location, Locations, State, convert, count, shape
from jaxrec.nn.sequential.peterrec import PeterRec

LAYER = r"(nextitnet_residual_blockdecoder_layer_(\d+)_(\d+))/"  # its number and dilation
PATCHES = {"mp_1": 1, "mp_2": 2, "mp": 2}  # scope of a patch → the convolution it belongs to


def from_variables(state: State, *, parallel: bool, causal: bool = True, **fields: Any) -> Converted:
    """PeterRec with the patches that the file has, and a bias of each target if it has that.

    Slices of a patch (`cardinality`) stand side by side in one of ours, whose output has the sum of their
    biases: on the way back each has that sum, and for gradients the gradient of it, which is its own.

    Args:
      state: arrays by the names of the variables, with the head as softmax_w and softmax_b.
      parallel: True for blocks of `peter_2mp_parallel`, False for `peter_2mp_serial` and `peter_mp_serial`.
      causal: the code's setting of this name; neither is told by names.
      fields: others that shapes do not tell, such as max_len.

    Raises:
      ValueError: a parameter is missing, left over or of another shape than the others imply, or the encoder
        is not causal.
    """
    if not causal:
        raise ValueError("causal=False: the encoder that also reads later items is not here; use causal=True")
    layers = _layers(state)
    scopes = {scope for scope in PATCHES if any(key.startswith(f"{layers[0][0]}/{scope}/") for key in state)}
    if scopes not in (set(), {"mp"}, {"mp_1", "mp_2"}):
        raise ValueError(f"patches {', '.join(sorted(scopes))}: expected mp alone, or mp_1 and mp_2, or none")
    rows, dim = shape(state, "allitem_embeddings")
    locations: Locations = {
        "allitem_embeddings": Location(("params", "item_embedding"), padded=True),
        "softmax_w": Location(("params", "head"), padded=True),
    }
    if "softmax_b" in state:
        locations["softmax_b"] = Location(("params", "head_bias"), padded=True)
    for i, (layer, _) in enumerate(layers):
        locations |= _block(layer, f"layer_{i}")
        for scope in scopes:
            locations |= _patch(state, f"{layer}/{scope}", f"layer_{i}", f"patch_{PATCHES[scope]}")
    form: dict[str, Any] = {
        "dilations": tuple(dilation for _, dilation in layers),
        "kernel_size": shape(state, f"{layers[0][0]}/dilated_conv1/weight")[1],
        "parallel": parallel,
        "patched": bool(scopes),
        "both": scopes != {"mp"},
        "patch_dim": _width(state, f"{layers[0][0]}/{min(scopes)}") if scopes else None,
        "head_bias": "softmax_b" in state,
        "extra_rows": 0,
    }
    model = PeterRec(rows, shape(state, "softmax_w")[0], dim, **{**form, **fields})
    return convert(model, _summed(state), locations, np.zeros((1, 1), np.int32))


def _layers(state: State) -> list[tuple[str, int]]:
    """Scope and dilation of each block."""
    found = {int(hit[2]): (hit[1], int(hit[3])) for key in state if (hit := re.match(LAYER, key))}
    if not found or sorted(found) != list(range(len(found))):
        raise ValueError(f"{LAYER}: numbers {sorted(found)} in the names, expected 0, 1, … without a gap")
    return [found[i] for i in range(len(found))]


def _block(layer: str, ours: str) -> Locations:
    """Of two convolutions, weights [1, k, in, out], and their norms."""
    locations: Locations = {}
    for number in (1, 2):
        conv, norm = f"{layer}/dilated_conv{number}", f"{layer}/layer_norm{number}"
        locations |= {
            f"{conv}/weight": Location(("params", ours, f"conv_{number}", "kernel"), (None,)),
            f"{conv}/bias": Location(("params", ours, f"conv_{number}", "bias")),
            f"{norm}/gamma": Location(("params", ours, f"norm_{number}", "scale")),
            f"{norm}/beta": Location(("params", ours, f"norm_{number}", "bias")),
        }
    return locations


def _patch(state: State, scope: str, *path: str) -> Locations:
    """Of a patch of slices, weights [1, 1, in, out]."""
    locations, start, ours = Locations(), 0, ("params", *path)
    for j in range(_slices(state, scope)):
        down, up = f"{scope}/mp_conv1_down_{j}", f"{scope}/mp_conv1_up_{j}"
        part = slice(start, start + shape(state, f"{down}/bias")[0])
        locations |= {
            f"{down}/weight": Location((*ours, "down", "kernel"), (None, None, slice(None), part)),
            f"{down}/bias": Location((*ours, "down", "bias"), (part,)),
            f"{up}/weight": Location((*ours, "up", "kernel"), (None, None, part)),
            f"{up}/bias": Location((*ours, "up", "bias")),
        }
        start = part.stop
    return locations


def _slices(state: State, scope: str) -> int:
    return count(state, rf"{re.escape(scope)}/mp_conv1_down_(\d+)/")


def _width(state: State, scope: str) -> int:
    """Channels of a patch, over all its slices."""
    return sum(shape(state, f"{scope}/mp_conv1_down_{j}/bias")[0] for j in range(_slices(state, scope)))


def _summed(state: State) -> dict[str, np.ndarray]:
    """With the biases of a patch's outputs summed over its slices."""
    sums: dict[str, Any] = {}
    for key, value in state.items():
        if hit := re.fullmatch(r"(.*/mp_conv1_up_)\d+/bias", key):
            sums[hit[1]] = sums.get(hit[1], 0.0) + value
    return {key: sums.get(re.sub(r"\d+/bias$", "", key), value) for key, value in state.items()}
