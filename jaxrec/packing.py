"""Several short sequences in one row: the same mathematics as padding, without computing on padding.

A batch of B sequences becomes `rows` rows of `width` slots. Each slot knows which sequence it holds
(`segments`, 0 = none), which event of it, and the position that event has in the padded form, so an
encoder with a block-diagonal causal mask gives the outputs it gives on padded input.

Placement is first-fit by decreasing length. The number of rows is fixed when the program is traced;
`rows_needed` chooses it from the lengths of a data set, and `fits` says whether a batch found room.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.types import Array, Context


class Packing(NamedTuple):
    """A fixed number of packed rows of `width` slots; see `rows_needed`."""

    rows: int
    width: int


class Placement(NamedTuple):
    """Where each sequence of a batch starts: row [B] (`rows` where it found no room) and slot [B]."""

    row: Array
    slot: Array


class Slots(NamedTuple):
    """What each slot of the packed rows holds, all int32 [rows, width].

    sequence: index into the batch, 0 where empty; event: 0-based event of that sequence's window;
    segments: sequence + 1, 0 where empty; positions: slot of the event in the padded form.
    """

    sequence: Array
    event: Array
    segments: Array
    positions: Array


def place(lengths: Array, *, rows: int, width: int) -> Placement:
    """First-fit-decreasing placement of sequences [B] into `rows` rows of `width` slots.

    Empty sequences take no room and are given row `rows`, as are those that do not fit.
    """
    order = jnp.argsort(-lengths, stable=True)
    row_ids = jnp.arange(rows)

    def put(used: Array, length: Array) -> tuple[Array, tuple[Array, Array]]:
        fits = (used + length <= width) & (length > 0)
        row = jnp.where(fits.any(), jnp.argmax(fits), rows)
        chosen = row_ids == row
        slot = jnp.sum(jnp.where(chosen, used, 0))
        return used + jnp.where(chosen, length, 0), (row, slot)

    _, (row, slot) = jax.lax.scan(put, jnp.zeros(rows, lengths.dtype), lengths[order])
    back = jnp.argsort(order)
    return Placement(row[back].astype(jnp.int32), slot[back].astype(jnp.int32))


def fits(placement: Placement, lengths: Array, rows: int) -> Array:
    """True if every non-empty sequence found room, []."""
    return jnp.all((lengths == 0) | (placement.row < rows))


def spread(placement: Placement, lengths: Array, *, rows: int, width: int, max_len: int) -> Slots:
    """Lays sequences of the given lengths [B] out in rows, as `placement` says.

    max_len: length of the padded form, to which positions refer: the last event has max_len - 1.
    """
    count = lengths.shape[0]
    start = jnp.where(placement.row < rows, placement.row * width + placement.slot, rows * width)
    start = jnp.where(lengths > 0, start, rows * width)
    holder = (
        jnp.full(rows * width, -1, jnp.int32).at[start].set(jnp.arange(count, dtype=jnp.int32), mode="drop")
    )
    holder = holder.reshape(rows, width)
    slot = jnp.arange(width, dtype=jnp.int32)
    begin = jax.lax.cummax(jnp.where(holder >= 0, slot, -1), axis=1)  # [rows, width] last start to the left
    sequence = jnp.take_along_axis(holder, jnp.maximum(begin, 0), axis=1)
    event = slot - begin
    real = (begin >= 0) & (event < lengths[sequence])
    sequence = jnp.where(real, sequence, 0)
    event = jnp.where(real, event, 0)
    return Slots(
        sequence=sequence,
        event=event,
        segments=jnp.where(real, sequence + 1, 0),
        positions=jnp.where(real, max_len - lengths[sequence] + event, 0).astype(jnp.int32),
    )


def padded(lengths: Array, *, max_len: int) -> Slots:
    """The padded form in the same terms: one sequence a row, right-aligned, [B, max_len]."""
    count = lengths.shape[0]
    slot = jnp.arange(max_len, dtype=jnp.int32)
    event = slot - (max_len - lengths[:, None])
    real = event >= 0
    sequence = jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32)[:, None], (count, max_len))
    return Slots(
        sequence=sequence,
        event=jnp.maximum(event, 0).astype(jnp.int32),
        segments=jnp.where(real, sequence + 1, 0),
        positions=jnp.broadcast_to(slot, (count, max_len)),
    )


def window(flat: Array, end: Array, length: Array, width: int) -> Array:
    """Right-aligned windows of a flat column: the `length` entries before `end`, 0 on the left.

    flat [N], end [B], length [B] → [B, width]; of longer windows the last `width` entries remain.
    """
    slot = jnp.arange(width)
    index = end[:, None] - width + slot
    real = slot >= width - length[:, None]
    return jnp.where(real, flat[jnp.where(real, index, 0)], 0)


def rows_needed(
    lengths: np.ndarray,
    batch_size: int,
    width: int,
    *,
    multiple: int = 1,
    deviations: float = 6.0,
    grow: Callable[[np.random.Generator, np.ndarray], np.ndarray] | None = None,
    replacement: bool = False,
    draws: int = 48,
) -> int:
    """Rows that hold a random batch of these lengths with room to spare, rounded up to `multiple`.

    Packs `draws` random batches on the host and takes the mean number of rows they use plus so many
    standard deviations; without `grow` never more than the longest possible batch uses.

    grow: (generator, lengths of a batch) -> lengths of what is packed for it, such as two augmented views
    of each sequence. replacement: whether a sequence may be in a batch more than once.

    Raises:
      ValueError: there is no event.
    """
    lengths = np.minimum(lengths, width)
    if lengths.size == 0 or lengths.max(initial=0) < 1:
        raise ValueError("lengths: there is no event to pack; the training split is empty")
    rng = np.random.default_rng(0)
    size = batch_size if replacement else min(batch_size, lengths.size)
    used = np.empty(draws)
    for i in range(draws):
        batch = rng.choice(lengths, size, replace=replacement)
        used[i] = rows_used(np.minimum(batch if grow is None else grow(rng, batch), width), width)
    rows = int(np.ceil(used.mean() + deviations * max(used.std(), 0.5)))
    if grow is None:
        longest = np.full(size, lengths.max()) if replacement else np.sort(lengths)[-size:]
        rows = min(rows, rows_used(longest, width))
    return -(-rows // multiple) * multiple


def rows_used(lengths: np.ndarray, width: int) -> int:
    """Rows that first-fit-decreasing uses, on the host: the slow twin of `place`."""
    used: list[int] = []
    for n in np.sort(lengths[lengths > 0])[::-1]:
        row = next((r for r, u in enumerate(used) if u + n <= width), None)
        if row is None:
            used.append(int(n))
        else:
            used[row] += int(n)
    return max(len(used), 1)


class Dealt(NamedTuple):
    """Sequences of a batch dealt out to rows, S to each.

    sequence: index into the batch, int32 [R, S]; -1 where there is none. start: the slot at which it begins,
    length: its slots, [R, S], one behind the other. slots: how many of a row are taken, [R].
    """

    sequence: Array
    start: Array
    length: Array
    slots: Array


def deal(lengths: Array, *, rows: int) -> Dealt:
    """Deals sequences [B] out to rows, ⌈B / rows⌉ to each, so that rows are about equally full.

    From the longest to the shortest, to the rows in turn, forwards and backwards. What the sequences of a
    row predict lies in as many rows of S as they do, so that a batch is split over devices by rows.
    """
    each = -(-lengths.shape[0] // rows)
    order = jnp.argsort(-lengths, stable=True).astype(jnp.int32)
    order = jnp.pad(order, (0, each * rows - order.shape[0]), constant_values=-1).reshape(each, rows)
    backwards = (jnp.arange(each) % 2 == 1)[:, None]
    sequence = jnp.where(backwards, order[:, ::-1], order).T
    length = jnp.where(sequence >= 0, lengths[sequence], 0)
    end = jnp.cumsum(length, axis=1)
    return Dealt(sequence, end - length, length, end[:, -1])


def dealt_width(lengths: np.ndarray, batch_size: int, rows: int, *, epochs: int = 4) -> int:
    """Slots of a row that hold what `deal` puts into it of any batch of an epoch, most of the time.

    The fullest row of so many epochs of random batches: of as many further epochs, one in `epochs` + 1 has to
    be drawn again.
    """
    size = min(batch_size, lengths.size)
    number = np.arange(size)
    row = np.where(number // rows % 2, rows - 1 - number % rows, number % rows)
    draw, steps = np.random.default_rng(0), lengths.size // size
    most = 0
    for _ in range(epochs):
        batches = draw.permutation(lengths)[: steps * size].reshape(steps, size)
        ordered = -np.sort(-batches, axis=1)[:, np.argsort(row, kind="stable")]
        begin = np.flatnonzero(np.diff(np.sort(row), prepend=-1))
        most = max(most, int(np.add.reduceat(ordered, begin, axis=1).max()))
    return most


def has_events(queries: Mapping[str, Array], context: Context) -> Array:
    """Whether the events before each target are in the columns items [N] and start [U], bool [B]."""
    user, length = queries["user"], queries["length"]
    known = (user >= 0) & (user < len(context["start"])) & (length >= 0)
    return known & (context["start"][user] + length <= len(context["items"]))
