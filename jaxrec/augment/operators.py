"""Augmentation of event sequences: five operators that read time gaps, five that are random.

TiCoSeRec (Dang et al., AAAI 2023, arXiv 2212.08262): `ti_crop`, `ti_mask`, `ti_reorder`, `ti_substitute`,
`ti_insert`. CoSeRec (Liu et al., arXiv 2108.06479): `crop`, `mask`, `reorder`, `substitute`, `insert`.

A row holds n events; the gap of an event is the time until the next one. An operator never touches item ids:
it says for each output slot which input slot it reads and what happens to the item found there (`Edit`).
What depends on the times alone is the operator's *plan*, which may be computed once for a data set; the
random rest is an *edit*; views.py turns edits into items with a single gather.

Shape names: B rows, W width of the rows, V width of the output. Inside this package columns run backwards:
column a belongs to the event `a` places before the last (its *age*), so that padding comes last and a short
row may be computed at a smaller width.

Where the reference raises, a row is left as it is as far as sensible: an empty row stays empty, crop rate 1
returns the whole row, no more events are picked than have a gap.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.augment.exact_variance import MAX_WIDTH, first_extreme, scaled_variance
from jaxrec.types import Array

KEEP, SIMILAR, MASK = 0, 1, 2  # what happens to the item an output slot reads
NO_GAP = np.uint32(0xFFFFFFFF)  # after every real gap, which is below 2^31


class Edit(NamedTuple):
    """How to make the output rows, apart from the items themselves.

    code: 4 * (age of the event to read) + KEEP, SIMILAR or MASK, int32 [B, V] in order of age.
    length: events of the output, which may exceed V: then the last V are meant, int32 [B].
    """

    code: Array
    length: Array


class GapRows(NamedTuple):
    """What a plan may depend on: gaps by age (NO_GAP where there is none), uint32 [B, w]; length, int32 [B].

    gapped: number of events that have a gap, int32 [B]: the length, or one less where the time of the
      event after the last one is unknown.
    """

    gaps: Array
    length: Array
    gapped: Array


class Random(NamedTuple):
    """The draws of one edit. word: uint32 [B]; order: see `shuffle`, int32 [B, V]."""

    word: Array
    order: Array


@dataclasses.dataclass(frozen=True, eq=False)
class Operator:
    """An operator as three pure functions of batches; made by the functions below.

    plan(rows, floors, window) -> arrays with leading axis B. `floors` maps a rate to int(rate * length).
    span(plan, length, word) -> (low, count), each [B]: the ages low, …, low + count - 1 are those whose
      random order the edit needs; None for an operator that needs none.
    edit(plan, length, random, window) -> Edit
    replaces: whether it needs similar items.
    """

    plan: Callable[[GapRows, Callable[[float], Array], int], tuple[Array, ...]]
    edit: Callable[[tuple[Array, ...], Array, Random, int], Edit]
    replaces: bool
    span: Callable[[tuple[Array, ...], Array, Array], tuple[Array, Array]] | None = None


def floor_table(rate: float, width: int) -> np.ndarray:
    """int(rate * n) for n = 0, …, width, with the product rounded to a float64 as Python does."""
    return np.floor(np.float64(rate) * np.arange(width + 1)).astype(np.int32)


def _check(rate: float) -> None:
    if not 0 <= rate <= 1:
        raise ValueError(f"rate={rate}: must lie between 0 and 1, it is a share of the events of a row")


def gaps_by_age(times: Array, length: Array, width: int) -> GapRows:
    """Rows from right-aligned stamps, [B, width + 1], or [B, width] if the event after the last is unknown.

    Stamps are whole seconds that fit an int32, rebased per row; the gap is the absolute difference.
    """
    if times.ndim != 2 or times.shape[1] not in (width, width + 1) or width > MAX_WIDTH:
        raise ValueError(
            f"times{list(times.shape)}: must be [rows, {width} + 1], a stamp for each of {width} events and "
            f"one for the event after the last, or [rows, {width}] without it, of at most {MAX_WIDTH} events"
        )
    gaps = jnp.flip(jnp.abs(jnp.diff(times, axis=1)), 1).astype(jnp.uint32)
    if times.shape[1] == width + 1:
        return GapRows(gaps, length, length)
    gaps = jnp.pad(gaps, ((0, 0), (1, 0)), constant_values=NO_GAP)
    return GapRows(gaps, length, jnp.maximum(length - 1, 0))


def ranks(keys: Array, window: int) -> Array:
    """Place of the first `window` columns in the ascending order of their row, ties: later columns first.

    keys: [B, w] → int32 [B, min(w, window)]. By counting: a sort is a scalar loop on CPU.
    """
    mine = keys[:, :window]
    age = jnp.arange(mine.shape[1])
    return count_columns(
        lambda j, x: (x < mine) | ((x == mine) & (j > age)), keys, jnp.zeros(mine.shape, jnp.int32)
    )


def count_columns(test: Callable[[Array | int, Array], Array], columns: Array, total: Array) -> Array:
    """Adds to `total` the number of columns j that pass test(j, columns[:, j:j + 1])."""
    width = columns.shape[1]
    if width <= 16:  # one fused loop
        return sum((test(j, columns[:, j : j + 1]).astype(jnp.int32) for j in range(width)), total)

    def add(j: Array, total: Array) -> Array:
        return total + test(j, jax.lax.dynamic_slice_in_dim(columns, j, 1, axis=1))

    return jax.lax.fori_loop(0, width, add, total, unroll=8)


def shuffle(words: Array, low: Array, count: Array, window: int) -> Array:
    """A uniformly random order of the ages low, …, low + count - 1 of each row.

    words: random, uint32 [B, w] with w >= low + count. Returns int32 [B, window], where the columns of those
    ages hold the numbers 0, …, count - 1 in random order and other columns hold numbers >= count. Equal
    words (odds below 2^-20 in a row of 50) keep their order.
    """
    age = jnp.arange(words.shape[1])
    inside = (age >= low[:, None]) & (age < (low + count)[:, None])
    return _pad(ranks(jnp.where(inside, words >> 1, NO_GAP), window), window, MAX_WIDTH)


def _pad(x: Array, window: int, value: int) -> Array:
    return jnp.pad(x, ((0, 0), (0, window - x.shape[1])), constant_values=value)


def _ages(window: int) -> Array:
    return jnp.arange(window, dtype=jnp.int32)


def _picks(rows: GapRows, count: Array, window: int, *, largest: bool) -> Array:
    """True at the `count` events of smallest gap (ties: oldest first) or largest gap (ties: latest first).

    Returns bool [B, min(w, window)].
    """
    age = jnp.arange(rows.gaps.shape[1])
    known = (age >= (rows.length - rows.gapped)[:, None]) & (age < rows.length[:, None])
    rank = ranks(jnp.where(known, rows.gaps, NO_GAP), window)
    if largest:  # exactly the reverse order; events without a gap come out negative
        rank = rows.gapped[:, None] - 1 - rank
    return (rank >= 0) & (rank < jnp.minimum(count, rows.gapped)[:, None])


def _changed(picked: Array, action: int, window: int) -> Array:
    """The code of rows whose picked events undergo an action."""
    return 4 * _ages(window) + jnp.where(_pad(picked, window, False), action, KEEP)


def _inserted(picked: Array, window: int, *, after: bool) -> Array:
    """The code of rows with a similar item right after (or before) every picked event."""
    width = picked.shape[1]
    last = _ages(width) + jnp.cumsum(picked, axis=1, dtype=jnp.int32)  # oldest slot that reads an event
    slot = _ages(window + 1)
    source = count_columns(lambda a, x: x < slot, last, jnp.zeros((len(last), window + 1), jnp.int32))
    here = source[:, :window]
    if after:  # of two slots that read the same event, the later one is the new item; else the earlier one
        twin = source[:, 1:]
    else:
        twin = jnp.pad(source[:, : window - 1], ((0, 0), (1, 0)), constant_values=-1)
    return 4 * here + jnp.where(here == twin, SIMILAR, KEEP)


def _at_least_one(count: Array, length: Array) -> Array:
    return jnp.minimum(jnp.maximum(count, 1), length)


def _cut(size: Array, skip: Array, window: int) -> Edit:
    """The `size` events that stand before the last `skip`."""
    return Edit(4 * (_ages(window) + skip[:, None]), size)


def _extreme_window(rows: GapRows, size: Array, *, largest: bool, all_gaps: bool) -> Array:
    """Events after the window of `size` events with the extreme variance of gaps; ties: the latest window."""
    first = 1 if all_gaps else 2  # the window's last event lends no gap; officially the last but one neither
    end = jnp.maximum(size, first)
    words = scaled_variance(rows.gaps, first, end, end - first)
    valid = jnp.arange(rows.gaps.shape[1]) + size[:, None] <= rows.length[:, None]
    return first_extreme(words, valid, largest=largest)


def _start(word: Array, length: Array, size: Array) -> Array:
    """Uniform in 0, …, length - size - 1: the last possible window is never drawn, as in both references."""
    return (word % jnp.maximum(length - size, 1).astype(jnp.uint32)).astype(jnp.int32)


def ti_crop(rate: float, *, largest: bool = False, all_gaps: bool = False) -> Operator:
    """Keeps the window of int(rate * n) events whose gaps vary least (or most): AAAI 2023, Ti-Crop.

    Two events or fewer give one random event. The official code leaves a window's last gap out of the
    variance; `all_gaps` takes it in, as the paper has it. Rate 1 keeps the whole row.
    """
    _check(rate)

    def plan(rows: GapRows, floors: Callable[[float], Array], window: int) -> tuple[Array, ...]:
        size = floors(rate)
        return size, _extreme_window(rows, size, largest=largest, all_gaps=all_gaps)

    def edit(plan: tuple[Array, ...], length: Array, random: Random, window: int) -> Edit:
        size, skip = plan
        single = (size <= 2) & (size < length)
        one = length - 1 - _start(random.word, length, size)
        return _cut(jnp.where(single, 1, size), jnp.where(single, one, skip), window)

    return Operator(plan, edit, replaces=False)


def ti_reorder(rate: float, *, largest: bool = False, all_gaps: bool = False) -> Operator:
    """Shuffles the window of int(rate * n) events whose gaps vary least (or most): Ti-Reorder.

    Fewer than two events: unchanged. `all_gaps`: see `ti_crop`.
    """
    _check(rate)

    def plan(rows: GapRows, floors: Callable[[float], Array], window: int) -> tuple[Array, ...]:
        size = floors(rate)
        return size, _extreme_window(rows, size, largest=largest, all_gaps=all_gaps)

    return Operator(plan, _reordered, False, lambda plan, length, word: (plan[1], plan[0]))


def _reordered(plan: tuple[Array, ...], length: Array, random: Random, window: int) -> Edit:
    size, skip = plan[0][:, None], plan[1][:, None]
    return Edit(4 * jnp.where(random.order < size, skip + random.order, _ages(window)), length)


def ti_mask(rate: float, *, largest: bool | None = True) -> Operator:
    """Replaces int(rate * n) events by padding, those of largest (smallest) gap: Ti-Mask.

    largest: None masks uniformly random events instead. A single event is left alone.
    """
    _check(rate)
    if largest is None:
        return _random_change(lambda floor, length: jnp.where(length > 1, floor, 0), rate, MASK)
    return _gap_change(lambda floor, length: jnp.where(length > 1, floor, 0), rate, MASK, largest)


def ti_substitute(rate: float, *, largest: bool = False) -> Operator:
    """Replaces max(int(rate * n), 1) items of smallest (largest) gap by a similar one: Ti-Substitute.

    A single event is left alone.
    """
    _check(rate)
    count = lambda floor, length: jnp.where(length > 1, jnp.maximum(floor, 1), 0)  # noqa: E731
    return _gap_change(count, rate, SIMILAR, largest)


def ti_insert(rate: float, *, largest: bool = True) -> Operator:
    """Puts a similar item right after max(int(rate * n), 1) events of largest (smallest) gap: Ti-Insert.

    One item per place, the default of the official code; the row grows by as many events.
    """
    _check(rate)

    def plan(rows: GapRows, floors: Callable[[float], Array], window: int) -> tuple[Array, ...]:
        count = jnp.minimum(jnp.maximum(floors(rate), 1), rows.gapped)
        picked = _picks(rows, count, window, largest=largest)
        return _inserted(picked, window, after=True), rows.length + count

    return Operator(plan, lambda plan, length, random, window: Edit(*plan), replaces=True)


def _whole(plan: tuple[Array, ...], length: Array, word: Array) -> tuple[Array, Array]:
    return jnp.zeros_like(length), length


def _gap_change(count: Callable[[Array, Array], Array], rate: float, action: int, largest: bool) -> Operator:
    """An action on events chosen by their gaps."""

    def plan(rows: GapRows, floors: Callable[[float], Array], window: int) -> tuple[Array, ...]:
        picked = _picks(rows, count(floors(rate), rows.length), window, largest=largest)
        return (_changed(picked, action, window),)

    return Operator(plan, lambda plan, length, random, window: Edit(plan[0], length), action == SIMILAR)


def _random_change(count: Callable[[Array, Array], Array], rate: float, action: int) -> Operator:
    """An action on uniformly random events."""

    def plan(rows: GapRows, floors: Callable[[float], Array], window: int) -> tuple[Array, ...]:
        return (count(floors(rate), rows.length),)

    def edit(plan: tuple[Array, ...], length: Array, random: Random, window: int) -> Edit:
        return Edit(_changed(random.order < plan[0][:, None], action, window), length)

    return Operator(plan, edit, action == SIMILAR, _whole)


def crop(rate: float) -> Operator:
    """Keeps a random window of int(rate * n) events, or one random event: CoSeRec 3.2.

    As officially, the window never ends with the last event unless it is the whole row.
    """
    _check(rate)

    def plan(rows: GapRows, floors: Callable[[float], Array], window: int) -> tuple[Array, ...]:
        return (floors(rate),)

    def edit(plan: tuple[Array, ...], length: Array, random: Random, window: int) -> Edit:
        start = _start(random.word, length, plan[0])
        size = _at_least_one(plan[0], length)
        return _cut(size, length - size - start, window)

    return Operator(plan, edit, replaces=False)


def mask(rate: float) -> Operator:
    """Replaces int(rate * n) random events by padding: CoSeRec 3.2."""
    _check(rate)
    return _random_change(lambda floor, length: floor, rate, MASK)


def reorder(rate: float) -> Operator:
    """Shuffles a random window of int(rate * n) events, chosen as in `crop`: CoSeRec 3.2."""
    _check(rate)

    def plan(rows: GapRows, floors: Callable[[float], Array], window: int) -> tuple[Array, ...]:
        return (floors(rate),)

    def span(plan: tuple[Array, ...], length: Array, word: Array) -> tuple[Array, Array]:
        return length - plan[0] - _start(word, length, plan[0]), plan[0]

    def edit(plan: tuple[Array, ...], length: Array, random: Random, window: int) -> Edit:
        low, size = span(plan, length, random.word)
        return _reordered((size, low), length, random, window)

    return Operator(plan, edit, False, span)


def substitute(rate: float) -> Operator:
    """Replaces max(int(rate * n), 1) random items by a similar one: CoSeRec 3.2."""
    _check(rate)
    return _random_change(_at_least_one, rate, SIMILAR)


def insert(rate: float) -> Operator:
    """Puts a similar item right before max(int(rate * n), 1) random events: CoSeRec 3.2."""
    _check(rate)

    def plan(rows: GapRows, floors: Callable[[float], Array], window: int) -> tuple[Array, ...]:
        return (_at_least_one(floors(rate), rows.length),)

    def edit(plan: tuple[Array, ...], length: Array, random: Random, window: int) -> Edit:
        picked = random.order < plan[0][:, None]
        return Edit(_inserted(picked, window, after=False), length + plan[0])

    return Operator(plan, edit, True, _whole)
