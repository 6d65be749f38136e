"""The interface of a sequence encoder, and the check that a module keeps to it.

A module that mixes the users of a packed row, or that reads the event it has to predict, trains without an
error and scores too high. So tasks run every encoder on a few synthetic events before training.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from jaxrec.packing import Packing
from jaxrec.tasks.multitask import FIXED
from jaxrec.types import Array, Batch, Key, Variables

LAYOUT = ("positions", "segments")  # columns: the position of each event, and which user it is of
LENGTHS = (4, 3, 2)  # events of the synthetic users, if they fit into a row


class Encoder(Protocol):
    """A sequence encoder as the tasks use it: a Linen module with `max_len`, `init`, `apply` and

    __call__(items [B, L], *, positions [B, L], segments [B, L], train: bool) -> hidden states [B, L, D]
        items: ids in order of time, 0 is padding. No output may depend on a later event. The keywords may
        have defaults (`next_click` and `profile` pass `train` alone). Of the others, those that the method
        takes are passed:
          segments: numbers of the users that share a packed row, 0 on padding; no output may depend on
            another user's events. Only an encoder that takes them can be packed (`can_be_packed`); others
            get a row for each user.
          positions: the slot that an event would have in a right-aligned row of max_len.
          rows [B]: index of each row in the whole batch, in training. Dropout has to derive from it (as in
            `nn.layers.dropout`), or else it depends on the number of devices.
          at [Q]: slots, numbered row after row, whose states alone are wanted, in evaluation: [Q, D]. An
            encoder that does not take it computes all.
          times, target_times [B, L]: seconds of each event and of the next one, if its `reads_times` is true.
    item_table() -> [vocab_size, D]: row i for item i, padding first; a score is a product with a row.

    Its only variables are parameters: those that a batch updates, such as batch statistics, are refused,
    since they would depend on how users are packed. `check_encoder` checks all of this.
    """

    @property
    def max_len(self) -> int: ...
    @property
    def init(self) -> Callable[..., Any]: ...
    @property
    def apply(self) -> Callable[..., Any]: ...
    @property
    def item_table(self) -> Callable[..., Any]: ...


def reads_times(model: Encoder) -> bool:
    """Whether an encoder reads when events happened: its `reads_times`, False where it has none.

    For one that wraps another (`nn.sequential.cosine.Cosine`), the attribute of its `encoder`.
    """
    if hasattr(model, "encoder"):
        return reads_times(model.encoder)
    return bool(getattr(model, "reads_times", False))


def refuse_times(model: Encoder, task: str) -> None:
    """Raises ValueError for an encoder that reads times, in a task that does not provide them."""
    if reads_times(model):
        raise ValueError(
            f"{task}: the encoder reads times, which this task does not provide, so that all would count as "
            "equal; use an encoder without times, such as HSTU with time_bias=False"
        )


def takes(model: Any, name: str, method: str = "__call__") -> bool:
    """Whether a module's method takes a keyword; a method with **keywords passes it to its `encoder`."""
    function = getattr(type(model), method, None)
    if function is None:
        return True
    found = inspect.signature(function).parameters
    if name in found or not any(p.kind is p.VAR_KEYWORD for p in found.values()):
        return name in found
    return takes(model.encoder, name, method) if hasattr(model, "encoder") else True


def numbered(model: Any, rows: Array, method: str = "__call__") -> dict[str, Array]:
    """{"rows": rows} for a module that takes the keyword, else {}."""
    return {"rows": rows} if takes(model, "rows", method) else {}


def can_be_packed(model: Any, method: str = "__call__") -> bool:
    """Whether users may share rows: the encoder takes `segments`, which separate them, and reads no padding.

    If not, give each user a separate row: packed=None of tasks and retrievers.
    """
    return takes(model, "segments", method) and not reads_padding(model)


def reads_padding(model: Any) -> bool:
    """Whether the encoder reads the padding before a user's events, which packed rows do not have.

    It says so with a field `skip_padding` that is False.
    """
    if hasattr(model, "encoder"):
        return reads_padding(model.encoder)
    return not getattr(model, "skip_padding", True)


def layout_columns(model: Any, batch: Batch, method: str = "__call__") -> dict[str, Array]:
    """The positions and segments of a batch for a module that takes them."""
    return {name: batch[name] for name in LAYOUT if name in batch and takes(model, name, method)}


def refuse_packed(model: Any, packed: Packing | None, method: str = "__call__") -> None:
    """Raises ValueError for packed rows and an encoder that cannot separate the users of a row."""
    if packed is not None and reads_padding(model):
        raise ValueError(
            f"{type(model).__name__}: skip_padding=False reads padding, which packed rows do not have; give "
            "each user a separate row (packed=None for the task and for its retriever), or skip_padding=True"
        )
    if packed is not None and not can_be_packed(model, method):
        raise ValueError(
            f"{type(model).__name__}: its {method} has no segments, so it can't separate the users that "
            "share a packed row; give each user a separate row (packed=None for the task and for its "
            "retriever), or add the keyword `segments` [B, L] and read it"
        )


def only_params(variables: Variables, task: str) -> Variables:
    """The variables of an encoder. Raises ValueError if it has any that are not parameters."""
    others = sorted(set(variables) - set(FIXED))
    if others:
        raise ValueError(
            f"{task}: the encoder keeps {', '.join(others)} in addition to its parameters, which this task "
            "does not update; normalise each event by itself (nn.LayerNorm), not over batches (nn.BatchNorm)"
        )
    return variables


# --- checking an encoder -------------------------------------------------------------------------------


class Probe(NamedTuple):
    """A few users' events in two layouts.

    padded, packed: columns of a batch; packed is None where two users do not fit into a row. at: row and slot
    of every event in each of the two, in the same order. last: whether an event is its user's last, bool [n].
    """

    padded: dict[str, np.ndarray]
    packed: dict[str, np.ndarray] | None
    at: tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
    last: np.ndarray


def synthetic_probe(max_len: int, width: int | None, num_items: int, num_actions: int = 1) -> Probe:
    """Synthetic users in one row of `width` slots, and each in a separate row. width None: the latter alone.

    The layouts are those of `packing.spread` and `packing.padded`, made on the host.
    """
    room = max_len if width is None else width
    count = min(len(LENGTHS), room)
    sizes = np.full(count, room // count) + (np.arange(count) < room % count)
    lengths = np.minimum(np.minimum(sizes, LENGTHS[:count]), max_len)
    user = np.repeat(np.arange(count), lengths)
    number = np.arange(len(user))
    event = number - (np.cumsum(lengths) - lengths)[user]
    events = {
        "items": 1 + number % num_items,
        "actions": 1 + number % num_actions,
        "times": 1000 * number + 7 * number**2,
        "target_times": 1000 * (number + 1) + 7 * (number + 1) ** 2,
        "positions": max_len - lengths[user] + event,
        "segments": user + 1,
    }

    def laid_out(rows: int, slots: int, at: tuple[np.ndarray, np.ndarray]) -> dict[str, np.ndarray]:
        found = {name: np.zeros((rows, slots), np.int32) for name in events}
        for name, column in events.items():
            found[name][at] = column
        return found

    alone, shared = (user, events["positions"]), (np.zeros_like(user), number)
    padded = laid_out(count, max_len, alone)
    padded["positions"] = np.broadcast_to(np.arange(max_len, dtype=np.int32), (count, max_len))
    packed = None if width is None or count < 2 else laid_out(1, width, shared)
    return Probe(padded, packed, (alone, shared), event == lengths[user] - 1)


def with_changed_ends(probe: Probe, num: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The padded rows twice, the second time with another id at each user's last event.

    num: {column that changes: its largest id}.
    """
    row, slot = (index[probe.last] for index in probe.at[0])
    batch = {name: np.concatenate([column, column]) for name, column in probe.padded.items()}
    row = row + len(probe.padded["items"])
    for name, count in num.items():
        batch[name][row, slot] = 1 + batch[name][row, slot] % count
    return batch


def probe_outputs(
    name: str,
    init: Callable[[Key], Variables],
    run: Callable[[Variables, Batch], Any],
    batches: Mapping[str, Batch],
) -> tuple[dict[str, Any], float]:
    """Outputs of a module for each batch, and the relative difference that rounding may cause.

    Parameters are drawn at random, so that those which start at 0 take effect too; if the outputs are not
    finite (a parameter may have to be positive), the initial parameters are used.

    Raises:
      ValueError: with the initial parameters, too, an output is NaN or infinite.
    """

    def all_of(variables: Variables) -> dict[str, Any]:
        return {name: run(variables, batch) for name, batch in batches.items()}

    def real(found: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs on the host, 0 on padding."""
        there = {name: (batch["segments"] > 0)[..., None] for name, batch in batches.items()}
        return {
            name: jax.tree.map(lambda leaf, t=there[name]: np.where(t, np.asarray(leaf, np.float64), 0), tree)
            for name, tree in found.items()
        }

    def finite(found: Any) -> bool:
        return all(bool(np.isfinite(leaf).all()) for leaf in jax.tree.leaves(found))

    key, rng = jax.random.key(0), np.random.default_rng(0)
    drawn = jax.tree.map(functools.partial(_drawn, rng), jax.eval_shape(init, key))
    with jax.default_matmul_precision("highest"):
        lowered = jax.jit(all_of).lower(
            drawn
        )  # not called, since a task may be made while another function is traced
    program = lowered.compile()
    found = real(program(drawn))
    if not finite(found):
        initial = jax.jit(init).lower(key).compile()(key)
        found = real(program(initial))
    if not finite(found):
        raise ValueError(f"{name}: its outputs for ordinary events are NaN or infinite")
    return found, 0.1 if re.search(r"x(bf16|f16|f8)", lowered.as_text()) else 1e-3


def _drawn(rng: np.random.Generator, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
    """Random values of a parameter: around 0 for a kernel or table, around 1/2 for a vector (scale, bias)."""
    some = rng.standard_normal(min(leaf.size, 2**20 - 1), np.float32)  # large tables repeat it
    matrix = len(leaf.shape) > 1
    some = some / np.sqrt(min(leaf.shape[-2], 64)) if matrix else 0.5 + 0.1 * some
    return np.resize(some, leaf.shape).astype(leaf.dtype)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """The largest |a - b|, divided by the largest |a|."""
    return float(np.abs(a - b).max(initial=0.0) / max(np.abs(a).max(initial=0.0), 1e-30))


def refuse_mixed_users(model: Any, found: float, allowed: float) -> None:
    """Raises ValueError if packed outputs differ from padded ones."""
    if found > allowed:
        raise ValueError(
            f"{type(model).__name__}: where users share a row, its outputs are not those of each user alone "
            f"(they differ by {found:.1%} of the largest). Read `segments`, so that attention, states and "
            "means stay within one user, and `positions` in place of the slot in the row; or give each user "
            "a separate row: packed=None for the task, and for its retriever"
        )


def refuse_future(model: Any, found: float, allowed: float) -> None:
    """Raises ValueError if outputs depend on later events."""
    if found > allowed:
        raise ValueError(
            f"{type(model).__name__}: its output at an event changes with later events (by {found:.1%} of "
            "the largest), so in training it would read the items it has to predict; restrict it to the "
            "event itself and earlier ones"
        )


def check_keywords(model: Encoder, *names: str, method: str = "__call__") -> None:
    """Raises ValueError for an encoder without max_len, item_table or the method, or without a keyword."""
    absent = [name for name in ("max_len", "item_table", method) if not hasattr(model, name)]
    if absent:
        raise ValueError(
            f"{type(model).__name__}: has no {', '.join(absent)}: an encoder has the field max_len and the "
            "method item_table() -> [vocab_size, D], padding first; add them"
        )
    missing = [name for name in names if not takes(model, name, method)]
    if missing:
        raise ValueError(
            f"{type(model).__name__}: its {method} has no {', '.join(missing)}: an encoder takes items, and "
            f"by keyword {', '.join(names)}; add them"
        )


def check_encoder(
    model: Encoder, packed: Packing | None = None, *, causal: bool = True, method: str = "__call__"
) -> None:
    """Checks an encoder on a few synthetic events; once for each module and width of packed rows.

    `next_item` and `retriever` call this before training.

    Args:
      packed: packed rows that users share: outputs must be those of each user alone, up to rounding.
        None: each user has a row.
      causal: whether outputs must not depend on later events, as where every event predicts the next.
      method: the one that is checked.

    Raises:
      ValueError: outputs in packed rows differ, or depend on later events; `packed` is given and the module
        can't be packed (`can_be_packed`); it does not take `train`, has no item table or not one vector for
        each event, or has variables other than parameters.
    """
    check_keywords(model, "train", method=method)
    refuse_packed(model, packed, method)
    width = None if packed is None else packed.width
    mixed, future, allowed = once(_tried, model, width, method)
    refuse_mixed_users(model, mixed, allowed)
    if causal:
        refuse_future(model, future, allowed)


def once(tried: Any, model: Any, *others: Any) -> Any:
    """Calls a cached function of a module, past the cache if a field of the module is not hashable."""
    try:
        hash(model)
    except TypeError:
        return tried.__wrapped__(model, *others)
    return tried(model, *others)


@functools.lru_cache(maxsize=128)
def _tried(model: Encoder, width: int | None, method: str) -> tuple[float, float, float]:
    """Differences of packed from padded outputs, and of outputs before a changed event; those of rounding."""
    some = np.ones((1, model.max_len), np.int32)

    def init(key: Key) -> Variables:
        return only_params(model.init(key, some, train=False), type(model).__name__)

    def table(key: Key) -> Array:
        return model.apply(init(key), method="item_table")

    num_items = jax.eval_shape(table, jax.random.key(0)).shape[0] - 1
    probe = synthetic_probe(model.max_len, width, num_items)
    batches: dict[str, Batch] = {"padded": with_changed_ends(probe, {"items": num_items})}
    if probe.packed is not None:
        batches["packed"] = probe.packed
    times = ("times", "target_times") if reads_times(model) else ()

    def run(variables: Variables, batch: Batch) -> Array:
        columns = layout_columns(model, batch, method) | {name: batch[name] for name in times}
        hidden = model.apply(variables, batch["items"], **columns, train=False, method=method)
        shape = batch["items"].shape
        if hidden.ndim != 3 or hidden.shape[:2] != shape:
            raise ValueError(
                f"{type(model).__name__}: its {method} gives {list(hidden.shape)} for items {list(shape)}; "
                f"expected a vector for each event, [{shape[0]}, {shape[1]}, D]"
            )
        return hidden

    found, allowed = probe_outputs(type(model).__name__, init, run, batches)
    padded, later = (part[probe.at[0]] for part in np.split(found["padded"], 2))
    future = difference(padded[~probe.last], later[~probe.last])
    mixed = difference(padded, found["packed"][probe.at[1]]) if "packed" in found else 0.0
    return mixed, future, allowed
