"""Histories in batches of fixed shapes, as the query side of a model reads them.

A request of up to 512 histories is one batch of 8, 64 or 512, each history in a row of its own. More of them
are batches of 512 which share packed rows where the encoder can be packed, several batches a call: so a whole
catalogue of users is one compiled program, and runs as evaluation does.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import packing
from jaxrec.data.validation import MAX_SPAN, as_integers
from jaxrec.packing import Packing
from jaxrec.serve.run_folder import Histories, Kept
from jaxrec.serve.seeds import mean_model
from jaxrec.tasks import encoder, generative, interests, next_click, next_item, pairs
from jaxrec.types import Array, Context, Retriever, Scorer

SIZES = (8, 64, 512)  # of a batch
GROUP = 16  # batches of one call, at most
NUMBERS = 2**24  # of a call's largest column


class Asked(NamedTuple):
    """Histories that a model is asked about, [Q] of them, stored end to end.

    items: ids, int32 [N]; offsets: int64 [Q + 1]. seconds: of the events since the first of their history,
    int32 [N], and now: of the question, int32 [Q], on the same clock; both None for a model without times.
    users: ids of the users of the run whose histories these are, from 1, int32 [Q]; None for models that do
    not read them. actions: of the events, from 1, int32 [N]; None for a model without actions.
    """

    items: np.ndarray
    offsets: np.ndarray
    seconds: np.ndarray | None = None
    now: np.ndarray | None = None
    users: np.ndarray | None = None
    actions: np.ndarray | None = None

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)


def reads_times(kept: Kept) -> bool:
    return kept.kind in ("sequence", "actions") and encoder.reads_times(kept.module)


def latest_event(*histories: Histories | None) -> int | None:
    """Seconds since 1970 of the latest event of all of them; None where none has times."""
    known = [part.times for part in histories if part is not None and part.times is not None]
    return max((int(np.asarray(times).max(initial=0)) for times in known), default=None)


def asked_of(histories: Histories, at: int | None, *, timed: bool) -> Asked:
    """Histories as a model reads them. at: seconds since 1970 of the question; None: of the latest event.

    Raises:
      ValueError: the model reads times and there are none, or a history has events after the question.
    """
    offsets = np.asarray(histories.offsets, np.int64)
    items = np.asarray(histories.items, np.int32)
    if not timed:
        return Asked(items, offsets)
    if histories.times is None:
        raise ValueError("the model reads times: give those of each event, seconds since 1970 (times=)")
    times = np.asarray(histories.times, np.int64)
    lengths = np.diff(offsets)
    present = lengths > 0
    ends = np.where(present, offsets[1:] - 1, 0)
    begins = np.where(present, offsets[:-1], 0)
    latest = int(times.max(initial=0)) if at is None else int(as_integers([at], "at")[0])
    late = np.flatnonzero(present & (times[ends] > latest)) if times.size else np.zeros(0, int)
    if late.size:
        raise ValueError(
            f"at={latest}: history {late[0]} has an event at {times[ends[late[0]]]}, after the question "
            f"({late.size:,} such); leave out later events, or ask at a later time"
        )
    owner = np.repeat(np.arange(len(lengths)), lengths)
    back = (np.diff(times) < 0) & (np.diff(owner) == 0)
    if back.any():
        raise ValueError(f"times of history {owner[int(back.argmax())]} must ascend, oldest first")
    first = np.where(present, times[begins], latest) if times.size else np.full(len(lengths), latest)
    if (latest - first).max(initial=0) > MAX_SPAN:
        raise ValueError(f"at={latest}: a history begins more than 68 years before; check the unit of time")
    return Asked(items, offsets, (times - first[owner]).astype(np.int32), (latest - first).astype(np.int32))


def asked_by(kept: Kept, histories: Histories, at: int | None, users: np.ndarray) -> Asked:
    """Histories as the model of a run reads them, or the users whose they are where it knows users alone.

    users: ids from 1, int32 [Q]; 0 of histories of anybody. at: as of `asked_of`, which raises.

    Raises:
      ValueError: the model reads actions and there are none, or others than those of training.
    """
    asked = asked_of(histories, at, timed=reads_times(kept))
    if kept.kind == "actions":
        return asked._replace(actions=_actions(histories, int(kept.module.num_actions)))
    return asked._replace(users=users) if kept.kind == "factors" else asked


def _actions(histories: Histories, most: int) -> np.ndarray:
    if histories.actions is None:
        raise ValueError(
            f"the model reads actions: give that of each event, a whole number from 1 to {most} (actions=, "
            "--actions)"
        )
    actions = np.asarray(histories.actions, np.int64)
    wrong = (actions < 1) | (actions > most)
    if wrong.any():
        raise ValueError(
            f"actions: {actions[int(wrong.argmax())]} ({int(wrong.sum()):,} such): the model knows those "
            f"from 1 to {most}"
        )
    return actions.astype(np.int32)


def power_of_two(number: int) -> int:
    return 1 << max(int(number) - 1, 0).bit_length()


class Layout(NamedTuple):
    """The fixed shapes of a request.

    model: as a ranking sees it. batch_size, group: histories of a batch, batches of a call. width: events
    read of a history. seen: items of a history that may be taken out. packed: rows that a batch shares.
    """

    model: Retriever | Scorer
    batch_size: int
    group: int
    width: int
    seen: int
    packed: Packing | None

    @property
    def key(self) -> tuple[Any, ...]:
        return self[1:]


def last_only(module: Any) -> bool:
    """Whether a module can encode the last slot alone."""
    return "last_only" in inspect.signature(type(module).__call__).parameters


def model_of(kept: Kept, packed: Packing | None = None, *, mean: bool = False) -> Retriever | Scorer:
    """The model as a ranking reads it. packed: rows that a batch shares. mean: of variables with seeds."""
    module = kept.module
    if isinstance(module, Retriever | Scorer):
        model: Any = module
    elif kept.kind == "factors":
        model = pairs.scorer(module)
    elif kept.kind == "multi-interest":
        model = interests.retriever(module)
    elif kept.kind == "actions":
        model = generative.retriever(module)
    elif kept.kind == "session":
        model = next_click.retriever(module, last_only=last_only(module))
    else:
        model = next_item.retriever(module, packed)
    return mean_model(model, several=kept.kind == "multi-interest") if mean else model


def layout(kept: Kept, asked: Asked, *, mean: bool = False) -> Layout:
    """The shapes that histories need. mean: whether the variables have an axis of seeds, to be averaged."""
    count, lengths = len(asked.lengths), asked.lengths
    size = next((size for size in SIZES if size >= count), SIZES[-1])
    longest = power_of_two(int(lengths.max(initial=1)))
    batches = -(-count // size)
    most = max(1, min(GROUP, NUMBERS // (size * longest)))
    group = -(-batches // -(-batches // most)) if batches else 1
    widths = {"baseline": longest, "factors": 1}
    width, packed = widths.get(kept.kind) or int(kept.module.max_len), None
    if kept.kind == "sequence" and batches > 1 and encoder.can_be_packed(kept.module):
        short = np.minimum(lengths, width)
        rows = max(packing.rows_used(short[at : at + size], width) for at in range(0, count, size))
        packed = Packing(rows, width)
    return Layout(model_of(kept, packed, mean=mean), size, group, width, longest, packed)


def calls(asked: Asked, shapes: Layout) -> Iterator[tuple[dict[str, Any], dict[str, np.ndarray], int]]:
    """What each call reads: columns [group, B, …], context [group, …], and how many histories are real."""
    size, group, width = shapes.batch_size, shapes.group, shapes.width
    per_call, count = size * group, len(asked.lengths)
    for first in range(0, count, per_call):
        real = min(per_call, count - first)
        begin = np.zeros(per_call, np.int64)
        length = np.zeros(per_call, np.int64)
        begin[:real] = asked.offsets[first : first + real]
        length[:real] = asked.lengths[first : first + real]
        read = np.minimum(length, width)
        queries = {
            "user": np.tile(np.arange(size, dtype=np.int32), group),
            "length": read.astype(np.int32),
            "mask": np.arange(per_call) < real,
        }
        start = begin + length - read
        if asked.users is not None:
            queries["user"][:real] = asked.users[first : first + real] - 1
        context = {"items": _windows(asked.items, start, read, width + 1)}
        if asked.actions is not None:
            context["actions"] = _windows(asked.actions, start, read, width + 1)
        if asked.seconds is not None and asked.now is not None:
            seconds = _windows(asked.seconds, start, read, width + 1)
            seconds[np.arange(real), read[:real]] = asked.now[first : first + real]
            context["seconds"] = seconds
        queries["seen"] = _windows(asked.items, begin, length, shapes.seen)
        yield (
            {name: column.reshape(group, size, *column.shape[1:]) for name, column in queries.items()},
            {name: column.reshape(group, -1) for name, column in context.items()}
            | {"start": np.tile(np.arange(size, dtype=np.int32) * (width + 1), (group, 1))},
            real,
        )


def _windows(flat: np.ndarray, start: np.ndarray, length: np.ndarray, width: int) -> np.ndarray:
    """The `length` entries from `start` on, left-aligned and filled up with 0: [M, width]."""
    slot = np.arange(width)
    real = slot < length[:, None]
    at = np.where(real, start[:, None] + slot, 0)
    return np.where(real, flat[at] if flat.size else 0, 0).astype(np.int32)


def over_batches(
    shapes: Layout, of_batch: Callable[[Mapping[str, Array], Context], Any]
) -> Callable[[Mapping[str, Array], Context], Any]:
    """What a function of one batch gives of all batches of a call; packed histories are placed first."""

    def run(queries: Mapping[str, Array], context: Context) -> Any:
        columns = dict(queries)
        if shapes.packed is not None:
            rows, width = shapes.packed
            placement = jax.vmap(lambda n: packing.place(n, rows=rows, width=width))(columns["length"])
            columns |= {"row": placement.row, "slot": placement.slot}
        return jax.lax.map(lambda parts: of_batch(*parts), (columns, dict(context)))

    return run


def selected(histories: Histories, users: np.ndarray) -> Histories:
    """The histories of some users, by their numbers from 0; -1 has none."""
    offsets = np.asarray(histories.offsets, np.int64)
    padded = np.append(offsets, offsets[-1])  # entry -1: an empty history
    begin, end = padded[users], padded[np.where(users < 0, -1, users + 1)]
    length = end - begin
    ends = np.concatenate([[0], np.cumsum(length)])
    at = np.repeat(begin - ends[:-1], length) + np.arange(ends[-1])
    times = None if histories.times is None else np.asarray(histories.times)[at]
    actions = None if histories.actions is None else np.asarray(histories.actions)[at]
    return Histories(np.asarray(histories.items)[at], ends, times, actions)


def to_device(tree: Any) -> Any:
    return jax.tree.map(jnp.asarray, tree)
