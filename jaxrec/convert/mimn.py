"""The authors' MIMNCell (UIC-Paper/MIMN, script/mimn.py, TensorFlow 1) as our `InterestMemory`.

Names are those of TensorFlow, arrays [in, out]. Sizes are read off shapes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxrec.convert.parts import cut
from jaxrec.convert.state_dict import Converted, Location, Locations, State, convert, shape
from jaxrec.nn.layers.memory import InterestMemory

GRUS = {"controller/gru_cell": ("controller", "hidden"), "gru_cell": ("channel", "channel_hidden")}
HEADS, OUTPUT = "o2p/fully_connected", "o2o/fully_connected"
# The o2p layer gives, for the read head and then for the write head, a key, a strength, a gate that nothing
# reads, shifts and a sharpening; then what the write head erases and adds.
READ_KEY, READ_STRENGTH, WRITE_KEY, WRITE_STRENGTH, SHIFT, SHARPENING, ERASE, ADD = 0, 1, 5, 6, 8, 9, 10, 11
NEVER_READ = ("init/fully_connected_1/weights", "init/fully_connected_2/weights")  # weights before any event


def memory(state: State, *, max_shift: int = 1, **fields: Any) -> Converted:
    """`InterestMemory` in the form of the public code, whose initial memory is not trained.

    What nothing reads there, such as the gate of a head, has no location in ours and is left out.

    Args:
      state: of one cell with one read and one write head.
      max_shift: its shift_range. fields: sharpness and clip, its sharp_value and clip_value.
    """
    slots, dim = shape(state, "init/init_M")
    hidden = shape(state, "controller/gru_cell/candidate/bias")[0]
    shifts = shape(state, f"{HEADS}/weights")[0] > hidden
    induction = int("gru_cell/gates/kernel" in state)
    locations: Locations = {
        "init/init_M": Location(("params", "memory")),
        "init/key_M": Location(("params", "keys")),
        "init/fully_connected/weights": Location(("params", "read"), (None,)),
        f"{OUTPUT}/weights": Location(("params", "output_kernel")),
        f"{OUTPUT}/biases": Location(("params", "output_bias")),
        **_gru("controller/gru_cell", hidden),
        **(_gru("gru_cell", dim) if induction else {}),
        **_heads(dim, max_shift, shifts),
    }
    whole = parts(state, max_shift=max_shift)
    read = {k: v for k, v in whole.items() if k in locations or not _unused(k)}
    sizes = {
        "slots": slots,
        "hidden_dim": hidden,
        "induction": induction,
        "rebalance": "shift" if shifts else None,
        "strength": True,
        "key_memory": True,
        "reset_first": True,
        "gate_bias": 1.0,
        "max_shift": max_shift,
        "counted_twice": True,
        "clip": 20.0,
        "output_dim": shape(state, f"{OUTPUT}/biases")[0],
    }
    module = InterestMemory(**{**sizes, **fields})
    return convert(module, read, locations, np.zeros((1, 1, dim), np.float32), np.ones((1, 1), bool))


def parts(state: State, *, max_shift: int = 1) -> dict[str, np.ndarray]:
    """Weights, or gradients of them, cut into what stands in different arrays of ours; see `parts.cut`."""
    _, dim = shape(state, "init/key_M")
    found = dict(state)
    for name in GRUS:
        if f"{name}/gates/kernel" in state:
            hidden = shape(state, f"{name}/candidate/bias")[0]
            found = cut(found, f"{name}/gates/kernel", (2 * dim, hidden), (2 * hidden,))
            found = cut(found, f"{name}/candidate/kernel", (2 * dim, hidden), (hidden,))
    head = (dim, 1, 1, 2 * max_shift + 1, 1)
    rows = shape(state, f"{HEADS}/weights")[0]
    found = cut(found, f"{HEADS}/weights", (rows,), (*head, *head, dim, dim))
    return cut(found, f"{HEADS}/biases", (*head, *head, dim, dim))


def _gru(theirs: str, hidden: int) -> Locations:
    """Ours have reset, update and new side by side, and a kernel each for input and state."""
    of_input, of_state = GRUS[theirs]
    columns = {"gates": slice(0, 2 * hidden), "candidate": slice(2 * hidden, 3 * hidden)}
    locations: Locations = {}
    for name, these in columns.items():
        for i, ours in enumerate((of_input, of_state)):
            path = ("params", f"{ours}_kernel")
            locations[f"{theirs}/{name}/kernel[{i}][0]"] = Location(path, (slice(None), these))
        locations[f"{theirs}/{name}/bias"] = Location(("params", f"{of_input}_bias"), (these,))
    return locations


def _heads(dim: int, max_shift: int, shifts: bool) -> Locations:
    """Their blocks of `HEADS` that are read, in the order of our columns."""
    blocks = [
        (READ_KEY, dim),
        (WRITE_KEY, dim),
        (ERASE, dim),
        (ADD, dim),
        (READ_STRENGTH, 1),
        (WRITE_STRENGTH, 1),
    ]
    if shifts:
        blocks += [(SHIFT, 2 * max_shift + 1), (SHARPENING, 1)]
    # theirs are by 0, 1, … and then by … -2, -1 slots
    order = (*range(max_shift + 1, 2 * max_shift + 1), *range(max_shift + 1))
    locations: Locations = {}
    start = 0
    for block, width in blocks:
        these = slice(start, start + width)
        start += width
        taken = order if block == SHIFT else ()
        kernel, bias = ("params", "heads_kernel"), ("params", "heads_bias")
        locations[f"{HEADS}/weights[0][{block}]"] = Location(
            kernel, (slice(None), these), order=taken, axis=1
        )
        locations[f"{HEADS}/biases[{block}]"] = Location(bias, (these,), order=taken)
    return locations


def _unused(key: str) -> bool:
    """Whether nothing reads an array, or a block of `HEADS`, there."""
    return key in NEVER_READ or key.startswith(f"{HEADS}/")
