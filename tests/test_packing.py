"""Packing against slow twins: where sequences are put, what every slot holds, how many rows are enough."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec import packing

COUNT, ROWS, WIDTH, MAX_LEN = 6, 4, 7, 9  # one shape, so that everything below is compiled once
place = jax.jit(functools.partial(packing.place, rows=ROWS, width=WIDTH))
place_all = jax.jit(functools.partial(packing.place, rows=COUNT, width=WIDTH))
spread = jax.jit(functools.partial(packing.spread, rows=ROWS, width=WIDTH, max_len=MAX_LEN))
lengths_of = st.lists(st.integers(0, WIDTH + 1), min_size=COUNT, max_size=COUNT)
few = settings(max_examples=60, deadline=None)


def first_fit_decreasing(lengths: list[int], rows: int, width: int) -> list[tuple[int, int]]:
    """(row, slot) of each sequence, row = rows where there is no room or nothing to place."""
    used, found = [0] * rows, [(rows, 0)] * len(lengths)
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        for row in range(rows):
            if 0 < lengths[i] <= width - used[row]:
                found[i] = (row, used[row])
                used[row] += lengths[i]
                break
    return found


def columns(slots: packing.Slots) -> list[np.ndarray]:
    return [np.asarray(column) for column in slots]


@few
@given(lengths_of)
def test_place_is_first_fit_by_decreasing_length(lengths: list[int]) -> None:
    got = place(jnp.array(lengths))
    expected = first_fit_decreasing(lengths, ROWS, WIDTH)
    assert list(zip(got.row.tolist(), got.slot.tolist(), strict=True)) == expected


@few
@given(lengths_of)
def test_fits_says_whether_every_sequence_has_a_row(lengths: list[int]) -> None:
    expected = all(
        n == 0 or row < ROWS
        for n, (row, _) in zip(lengths, first_fit_decreasing(lengths, ROWS, WIDTH), strict=True)
    )
    assert bool(packing.fits(place(jnp.array(lengths)), jnp.array(lengths), ROWS)) is expected


@few
@given(lengths_of)
def test_every_slot_holds_what_a_loop_puts_there(lengths: list[int]) -> None:
    sequence, event, segments, positions = np.zeros((4, ROWS, WIDTH), np.int64)
    for i, (row, slot) in enumerate(first_fit_decreasing(lengths, ROWS, WIDTH)):
        for j in range(lengths[i] if row < ROWS else 0):
            at = row, slot + j
            assert segments[at] == 0  # no two events in one slot
            sequence[at], event[at], segments[at], positions[at] = i, j, i + 1, MAX_LEN - lengths[i] + j
    got = spread(place(jnp.array(lengths)), jnp.array(lengths))
    for ours, expected in zip(columns(got), (sequence, event, segments, positions), strict=True):
        np.testing.assert_array_equal(ours, expected)


@few
@given(lengths_of)
def test_every_event_of_a_placed_sequence_appears_once(lengths: list[int]) -> None:
    placement = place(jnp.array(lengths))
    slots = spread(placement, jnp.array(lengths))
    real = np.asarray(slots.segments) > 0
    found = sorted(
        zip(np.asarray(slots.sequence)[real].tolist(), np.asarray(slots.event)[real].tolist(), strict=True)
    )
    placed = np.asarray(placement.row) < ROWS
    assert found == [(i, j) for i, n in enumerate(lengths) if placed[i] for j in range(n)]


def test_a_sequence_longer_than_a_row_finds_no_room() -> None:
    lengths = jnp.array([WIDTH + 1, 1, 0, 0, 0, 0])
    placement = place(lengths)
    assert placement.row.tolist() == [ROWS, 0, ROWS, ROWS, ROWS, ROWS]
    assert not packing.fits(placement, lengths, ROWS)
    assert int((spread(placement, lengths).segments > 0).sum()) == 1


def test_empty_sequences_fit_and_leave_every_slot_empty() -> None:
    lengths = jnp.zeros(COUNT, jnp.int32)
    placement = place(lengths)
    assert packing.fits(placement, lengths, ROWS)
    assert all((column == 0).all() for column in columns(spread(placement, lengths)))


def test_the_last_event_has_the_last_position_of_the_padded_form() -> None:
    lengths = jnp.array([3, 7, 1, 2, 5, 4])
    slots = spread(place(lengths), lengths)
    last = (slots.segments > 0) & (slots.event == lengths[slots.sequence] - 1)
    assert int(last.sum()) == COUNT
    assert (slots.positions[last] == MAX_LEN - 1).all()


@few
@given(st.lists(st.integers(0, 5), min_size=4, max_size=4))
def test_padded_is_the_right_aligned_form(lengths: list[int]) -> None:
    sequence, event, segments = np.zeros((3, 4, 5), np.int64)
    for i, n in enumerate(lengths):
        sequence[i] = i
        for j in range(n):
            event[i, 5 - n + j], segments[i, 5 - n + j] = j, i + 1
    got = columns(packing.padded(jnp.array(lengths), max_len=5))
    for ours, expected in zip(got, (sequence, event, segments, np.tile(np.arange(5), (4, 1))), strict=True):
        np.testing.assert_array_equal(ours, expected)


@few
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=3, max_size=3))
def test_window_is_a_slice_of_the_flat_column(ranges: list[tuple[int, int]]) -> None:
    flat = np.arange(10, 18)
    ends = np.array([max(a, b) for a, b in ranges])
    lengths = np.array([abs(a - b) for a, b in ranges])
    expected = np.zeros((3, 5), np.int64)
    for row, (end, n) in enumerate(zip(ends, lengths, strict=True)):
        kept = flat[end - n : end][-5:]
        expected[row, 5 - len(kept) :] = kept
    got = packing.window(jnp.asarray(flat), jnp.asarray(ends), jnp.asarray(lengths), 5)
    np.testing.assert_array_equal(got, expected)


@few
@given(st.lists(st.integers(0, WIDTH), min_size=COUNT, max_size=COUNT))
def test_host_and_device_use_the_same_number_of_rows(lengths: list[int]) -> None:
    used = packing.rows_used(np.array(lengths), WIDTH)
    rows = np.asarray(place_all(jnp.array(lengths)).row)
    assert used == max(len({*rows[np.array(lengths) > 0].tolist()}), 1)


@pytest.mark.parametrize("batch_size", [4, 16, 64])
@pytest.mark.parametrize("multiple", [1, 4])
def test_rows_needed_hold_random_batches(batch_size: int, multiple: int) -> None:
    rng = np.random.default_rng(0)
    lengths = np.minimum(rng.geometric(0.2, 400), 20)
    rows = packing.rows_needed(lengths, batch_size, 20, multiple=multiple)
    assert rows % multiple == 0
    for _ in range(200):
        assert packing.rows_used(rng.choice(lengths, batch_size, replace=False), 20) <= rows


def test_rows_needed_are_no_more_than_the_longest_batch_needs() -> None:
    lengths = np.array([1, 1, 1, 1, 10, 10])
    assert packing.rows_needed(lengths, 2, 10) == 2
    assert packing.rows_needed(lengths, 100, 10) == packing.rows_used(lengths, 10)  # fewer users than a batch


def test_rows_needed_hold_batches_drawn_with_replacement() -> None:
    rng = np.random.default_rng(0)
    lengths = np.minimum(rng.geometric(0.2, 40), 20)
    rows = packing.rows_needed(lengths, 128, 20, replacement=True)  # a batch of more than all sequences
    for _ in range(200):
        assert packing.rows_used(rng.choice(lengths, 128), 20) <= rows
    assert rows > packing.rows_needed(lengths, 128, 20)


def test_rows_needed_hold_what_a_batch_grows_to() -> None:
    rng = np.random.default_rng(0)
    lengths = np.minimum(rng.geometric(0.2, 400), 20)

    def two_views(rng: np.random.Generator, n: np.ndarray) -> np.ndarray:
        return np.concatenate([n + rng.integers(0, 9, len(n)), n])

    rows = packing.rows_needed(lengths, 16, 20, grow=two_views)
    for _ in range(200):
        grown = two_views(rng, rng.choice(lengths, 16, replace=False))
        assert packing.rows_used(np.minimum(grown, 20), 20) <= rows
    assert rows > packing.rows_needed(lengths, 16, 20)


@pytest.mark.parametrize(
    "lengths", [np.zeros(0, np.int64), np.zeros(3, np.int64)], ids=["no user", "no event"]
)
def test_rows_needed_without_events_is_an_error(lengths: np.ndarray) -> None:
    with pytest.raises(ValueError, match="no event to pack"):
        packing.rows_needed(lengths, 4, 8)


def test_placement_is_the_same_under_vmap() -> None:
    lengths = jnp.array([[3, 7, 1, 2, 5, 4], [0, 0, 2, 2, 7, 7]])
    together = jax.vmap(functools.partial(packing.place, rows=ROWS, width=WIDTH))(lengths)
    for i in range(2):
        alone = place(lengths[i])
        np.testing.assert_array_equal(together.row[i], alone.row)
        np.testing.assert_array_equal(together.slot[i], alone.slot)


def test_events_of_a_query_lie_in_the_columns() -> None:
    """Two users, of events 0..2 and 3..4: queries before a target, with all events, with one too many."""
    context = {"items": jnp.arange(1, 6), "start": jnp.array([0, 3])}
    user, length = jnp.array([0, 1, 1, 1, 2, -1, 0]), jnp.array([2, 1, 2, 3, 0, 0, -1])
    found = packing.has_events({"user": user, "length": length}, context)
    assert found.tolist() == [True, True, True, False, False, False, False]


deal = jax.jit(packing.deal, static_argnames="rows")


@few
@given(lengths_of, st.sampled_from([1, 4, 6]))
def test_dealing_gives_each_row_as_many_sequences(lengths: list[int], rows: int) -> None:
    found = jax.tree.map(np.asarray, deal(jnp.array(lengths, jnp.int32), rows=rows))
    assert found.sequence.shape == (rows, -(-COUNT // rows))
    assert sorted(found.sequence[found.sequence >= 0].tolist()) == list(range(COUNT))
    for row in range(rows):
        place = 0
        for sequence, start, length in zip(*(column[row] for column in found[:3]), strict=True):
            assert start == place
            assert length == (lengths[sequence] if sequence >= 0 else 0)
            place += length
        assert found.slots[row] == place
    # what one turn gives a row more than another, the next makes good
    assert found.slots.max() - found.slots.min() <= max(lengths)


def test_the_width_of_dealt_rows_is_that_of_random_batches() -> None:
    lengths = np.random.default_rng(0).integers(1, 9, 500).astype(np.int32)
    width = packing.dealt_width(lengths, 32, 8)
    batches = [np.random.default_rng(seed).permutation(lengths)[:32] for seed in range(20)]
    fullest = [int(deal(jnp.asarray(batch), rows=8).slots.max()) for batch in batches]
    assert np.mean(np.array(fullest) <= width) > 0.9 and width <= 4 * 8
    for batch, found in zip(batches[:3], fullest, strict=False):
        assert packing.dealt_width(batch, 32, 8) == found  # an epoch of one batch
    assert packing.dealt_width(lengths[:5], 32, 8) == lengths[:5].max()  # fewer than there are rows
