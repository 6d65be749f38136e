"""Operators that augment event sequences: five that use time gaps, five that are random.

TiCoSeRec (Dang et al., AAAI 2023, arXiv 2212.08262): `ti_crop`, `ti_mask`, `ti_reorder`, `ti_substitute`,
`ti_insert`. CoSeRec (Liu et al., arXiv 2108.06479): `crop`, `mask`, `reorder`, `substitute`, `insert`.

A sequence has n events; the gap of an event is the time until the next one. An operator never reads item ids:
for each output slot it gives the input slot to read, and what happens to the item there (`Edit`). What
depends on the times alone is the operator's *plan*, which can be computed once for a data set; the random
rest is an *edit*; views.py applies edits to items with a single gather.

Shape names: B sequences, W width of the input, V width of the output. In this package columns run backwards:
column a is the event `a` positions before the last (its *age*), so that padding is at the end and a short
sequence can be computed at a smaller width.

Where the reference raises, a sequence is left unchanged as far as possible: an empty one stays empty, crop
rate 1 returns the whole sequence, and at most as many events are picked as have a gap.
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
    """How to make the output, apart from the items themselves.

    code: 4 * (age of the event to read) + KEEP, SIMILAR or MASK, int32 [B, V] in order of age.
    length: events of the output, int32 [B]; if more than V, the output is the last V.
    """

    code: Array
    length: Array


class Gaps(NamedTuple):
    """What a plan may depend on: gaps by age (NO_GAP where there is none), uint32 [B, w]; length, int32 [B].

    gapped: number of events that have a gap, int32 [B]: the length, or one less if the time of the event
      after the last one is unknown.
    """

    gaps: Array
    length: Array
    gapped: Array


class Draws(NamedTuple):
    """The random numbers of one edit. word: uint32 [B]; order: see `shuffle`, int32 [B, V]."""

    word: Array
    order: Array


@dataclasses.dataclass(frozen=True, eq=False)
class Operator:
    """An operator as three pure functions of batches; made by the functions below.

    plan(gaps, counts, window) -> arrays with leading axis B. `counts` maps a rate to int(rate * length), [B].
    span(plan, length, word) -> (low, count), each [B]: the edit needs the ages low, …, low + count - 1 in
      random order; None if it needs no order.
    edit(plan, length, draws, window) -> Edit
    replaces: whether it needs similar items.
    """

    plan: Callable[[Gaps, Callable[[float], Array], int], tuple[Array, ...]]
    edit: Callable[[tuple[Array, ...], Array, Draws, int], Edit]
    replaces: bool
    span: Callable[[tuple[Array, ...], Array, Array], tuple[Array, Array]] | None = None


def event_counts(rate: float, width: int) -> np.ndarray:
    """int(rate * n) for n = 0, …, width, with the product rounded to float64 as in Python."""
    return np.floor(np.float64(rate) * np.arange(width + 1)).astype(np.int32)


def _check_rate(rate: float) -> None:
    if not 0 <= rate <= 1:
        raise ValueError(f"rate={rate}: must lie between 0 and 1, it is a share of the events of a sequence")


def gaps_by_age(times: Array, length: Array, width: int) -> Gaps:
    """Gaps from right-aligned times, [B, width + 1], or [B, width] if the event after the last is unknown.

    Times are integer seconds within int32, from any start per sequence; a gap is the absolute difference.
    """
    if times.ndim != 2 or times.shape[1] not in (width, width + 1) or width > MAX_WIDTH:
        raise ValueError(
            f"times{list(times.shape)}: must be [B, {width} + 1], a time for each of {width} events and one "
            f"for the event after the last, or [B, {width}] without it, of at most {MAX_WIDTH} events"
        )
    gaps = jnp.flip(jnp.abs(jnp.diff(times, axis=1)), 1).astype(jnp.uint32)
    if times.shape[1] == width + 1:
        return Gaps(gaps, length, length)
    gaps = jnp.pad(gaps, ((0, 0), (1, 0)), constant_values=NO_GAP)
    return Gaps(gaps, length, jnp.maximum(length - 1, 0))


def column_ranks(keys: Array, window: int) -> Array:
    """Rank of the first `window` columns in the ascending order of their row; ties: later columns first.

    keys: [B, w] → int32 [B, min(w, window)]. By counting, since a sort is a scalar loop on CPU.
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
    """A uniformly random order of the ages low, …, low + count - 1 of each sequence.

    words: random, uint32 [B, w] with w >= low + count. Returns int32 [B, window], with the numbers 0, …,
    count - 1 in random order in the columns of these ages, and numbers >= count elsewhere. Equal words
    (probability below 2^-20 for 50 events) keep their order.
    """
    age = jnp.arange(words.shape[1])
    inside = (age >= low[:, None]) & (age < (low + count)[:, None])
    return _pad(column_ranks(jnp.where(inside, words >> 1, NO_GAP), window), window, MAX_WIDTH)


def _pad(x: Array, window: int, value: int) -> Array:
    return jnp.pad(x, ((0, 0), (0, window - x.shape[1])), constant_values=value)


def _ages(window: int) -> Array:
    return jnp.arange(window, dtype=jnp.int32)


def _pick_by_gap(gaps: Gaps, count: Array, window: int, *, largest: bool) -> Array:
    """True at the `count` events of smallest gap (ties: oldest first) or largest gap (ties: latest first).

    Returns bool [B, min(w, window)].
    """
    age = jnp.arange(gaps.gaps.shape[1])
    known = (age >= (gaps.length - gaps.gapped)[:, None]) & (age < gaps.length[:, None])
    rank = column_ranks(jnp.where(known, gaps.gaps, NO_GAP), window)
    if largest:  # the reverse order; events without a gap become negative
        rank = gaps.gapped[:, None] - 1 - rank
    return (rank >= 0) & (rank < jnp.minimum(count, gaps.gapped)[:, None])


def _change_at(picked: Array, action: int, window: int) -> Array:
    """The code that applies an action to the picked events."""
    return 4 * _ages(window) + jnp.where(_pad(picked, window, False), action, KEEP)


def _insert_at(picked: Array, window: int, *, after: bool) -> Array:
    """The code that inserts a similar item right after (or before) every picked event."""
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


def _window_edit(size: Array, skip: Array, window: int) -> Edit:
    """The `size` events before the last `skip`."""
    return Edit(4 * (_ages(window) + skip[:, None]), size)


def _extreme_window(gaps: Gaps, size: Array, *, largest: bool, all_gaps: bool) -> Array:
    """Number of events after the window of `size` events with extreme variance of gaps; ties: the latest."""
    first = (
        1 if all_gaps else 2
    )  # the last event's gap does not count; in the official code neither does the one before
    end = jnp.maximum(size, first)
    words = scaled_variance(gaps.gaps, first=first, end=end, count=end - first)
    valid = jnp.arange(gaps.gaps.shape[1]) + size[:, None] <= gaps.length[:, None]
    return first_extreme(words, valid, largest=largest)


def _window_start(word: Array, length: Array, size: Array) -> Array:
    """Uniform in 0, …, length - size - 1: as in both references, the last possible window is never drawn."""
    return (word % jnp.maximum(length - size, 1).astype(jnp.uint32)).astype(jnp.int32)


def ti_crop(rate: float, *, largest: bool = False, all_gaps: bool = False) -> Operator:
    """Keeps the window of int(rate * n) events whose gaps vary least (or most): AAAI 2023, Ti-Crop.

    If int(rate * n) is at most 2, one random event is kept. The official code ignores a window's last gap in
    the variance; `all_gaps` includes it, as in the paper. Rate 1 keeps the whole sequence.
    """
    _check_rate(rate)

    def plan(gaps: Gaps, counts: Callable[[float], Array], window: int) -> tuple[Array, ...]:
        size = counts(rate)
        return size, _extreme_window(gaps, size, largest=largest, all_gaps=all_gaps)

    def edit(plan: tuple[Array, ...], length: Array, draws: Draws, window: int) -> Edit:
        size, skip = plan
        single = (size <= 2) & (size < length)
        one = length - 1 - _window_start(draws.word, length, size)
        return _window_edit(jnp.where(single, 1, size), jnp.where(single, one, skip), window)

    return Operator(plan=plan, edit=edit, replaces=False)


def ti_reorder(rate: float, *, largest: bool = False, all_gaps: bool = False) -> Operator:
    """Shuffles the window of int(rate * n) events whose gaps vary least (or most): Ti-Reorder.

    A window of fewer than two events changes nothing. `all_gaps`: see `ti_crop`.
    """
    _check_rate(rate)

    def plan(gaps: Gaps, counts: Callable[[float], Array], window: int) -> tuple[Array, ...]:
        size = counts(rate)
        return size, _extreme_window(gaps, size, largest=largest, all_gaps=all_gaps)

    return Operator(
        plan=plan, edit=_reorder_window, replaces=False, span=lambda plan, length, word: (plan[1], plan[0])
    )


def _reorder_window(plan: tuple[Array, ...], length: Array, draws: Draws, window: int) -> Edit:
    size, skip = plan[0][:, None], plan[1][:, None]
    return Edit(4 * jnp.where(draws.order < size, skip + draws.order, _ages(window)), length)


def ti_mask(rate: float, *, largest: bool | None = True) -> Operator:
    """Replaces int(rate * n) events of largest (smallest) gap by padding: Ti-Mask.

    largest: None masks uniformly random events instead. A single event is never masked.
    """
    _check_rate(rate)
    if largest is None:
        return _random_change(lambda count, length: jnp.where(length > 1, count, 0), rate, MASK)
    return _gap_change(
        lambda count, length: jnp.where(length > 1, count, 0), rate=rate, action=MASK, largest=largest
    )


def ti_substitute(rate: float, *, largest: bool = False) -> Operator:
    """Replaces max(int(rate * n), 1) items of smallest (largest) gap by a similar one: Ti-Substitute.

    A single event is never replaced.
    """
    _check_rate(rate)
    count = lambda count, length: jnp.where(length > 1, jnp.maximum(count, 1), 0)  # noqa: E731
    return _gap_change(count, rate=rate, action=SIMILAR, largest=largest)


def ti_insert(rate: float, *, largest: bool = True) -> Operator:
    """Inserts a similar item right after max(int(rate * n), 1) events of largest (smallest) gap: Ti-Insert.

    One item per position, the default of the official code; the sequence grows by as many events.
    """
    _check_rate(rate)

    def plan(gaps: Gaps, counts: Callable[[float], Array], window: int) -> tuple[Array, ...]:
        count = jnp.minimum(jnp.maximum(counts(rate), 1), gaps.gapped)
        picked = _pick_by_gap(gaps, count, window, largest=largest)
        return _insert_at(picked, window, after=True), gaps.length + count

    return Operator(plan=plan, edit=lambda plan, length, draws, window: Edit(*plan), replaces=True)


def _whole_span(plan: tuple[Array, ...], length: Array, word: Array) -> tuple[Array, Array]:
    return jnp.zeros_like(length), length


def _gap_change(count: Callable[[Array, Array], Array], rate: float, action: int, largest: bool) -> Operator:
    """An action on events chosen by their gaps."""

    def plan(gaps: Gaps, counts: Callable[[float], Array], window: int) -> tuple[Array, ...]:
        picked = _pick_by_gap(gaps, count(counts(rate), gaps.length), window, largest=largest)
        return (_change_at(picked, action, window),)

    return Operator(
        plan=plan, edit=lambda plan, length, draws, window: Edit(plan[0], length), replaces=action == SIMILAR
    )


def _random_change(count: Callable[[Array, Array], Array], rate: float, action: int) -> Operator:
    """An action on uniformly random events."""

    def plan(gaps: Gaps, counts: Callable[[float], Array], window: int) -> tuple[Array, ...]:
        return (count(counts(rate), gaps.length),)

    def edit(plan: tuple[Array, ...], length: Array, draws: Draws, window: int) -> Edit:
        return Edit(_change_at(draws.order < plan[0][:, None], action, window), length)

    return Operator(plan=plan, edit=edit, replaces=action == SIMILAR, span=_whole_span)


def crop(rate: float) -> Operator:
    """Keeps a random window of int(rate * n) events, at least one: CoSeRec 3.2.

    As in the official code, the window never ends with the last event unless it is the whole sequence.
    """
    _check_rate(rate)

    def plan(gaps: Gaps, counts: Callable[[float], Array], window: int) -> tuple[Array, ...]:
        return (counts(rate),)

    def edit(plan: tuple[Array, ...], length: Array, draws: Draws, window: int) -> Edit:
        start = _window_start(draws.word, length, plan[0])
        size = _at_least_one(plan[0], length)
        return _window_edit(size, length - size - start, window)

    return Operator(plan=plan, edit=edit, replaces=False)


def mask(rate: float) -> Operator:
    """Replaces int(rate * n) random events by padding: CoSeRec 3.2."""
    _check_rate(rate)
    return _random_change(lambda count, length: count, rate, MASK)


def reorder(rate: float) -> Operator:
    """Shuffles a random window of int(rate * n) events, chosen as in `crop`: CoSeRec 3.2."""
    _check_rate(rate)

    def plan(gaps: Gaps, counts: Callable[[float], Array], window: int) -> tuple[Array, ...]:
        return (counts(rate),)

    def span(plan: tuple[Array, ...], length: Array, word: Array) -> tuple[Array, Array]:
        return length - plan[0] - _window_start(word, length, plan[0]), plan[0]

    def edit(plan: tuple[Array, ...], length: Array, draws: Draws, window: int) -> Edit:
        low, size = span(plan, length, draws.word)
        return _reorder_window((size, low), length=length, draws=draws, window=window)

    return Operator(plan=plan, edit=edit, replaces=False, span=span)


def substitute(rate: float) -> Operator:
    """Replaces max(int(rate * n), 1) random items by a similar one: CoSeRec 3.2."""
    _check_rate(rate)
    return _random_change(_at_least_one, rate, SIMILAR)


def insert(rate: float) -> Operator:
    """Inserts a similar item right before max(int(rate * n), 1) random events: CoSeRec 3.2."""
    _check_rate(rate)

    def plan(gaps: Gaps, counts: Callable[[float], Array], window: int) -> tuple[Array, ...]:
        return (_at_least_one(counts(rate), gaps.length),)

    def edit(plan: tuple[Array, ...], length: Array, draws: Draws, window: int) -> Edit:
        picked = draws.order < plan[0][:, None]
        return Edit(_insert_at(picked, window, after=False), length + plan[0])

    return Operator(plan=plan, edit=edit, replaces=True, span=_whole_span)
