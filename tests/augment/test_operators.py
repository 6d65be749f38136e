import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.augment import operators as ops
from jaxrec.augment.views import augment
from tests.augment import python_operators as twin

WIDTH = 40
EXAMPLE = list(range(11, 21)), [0, 10, 20, 50, 60, 70, 80, 200, 210, 215, 300]  # the card's: items, stamps
ROWS = [*twin.lists(longest=WIDTH), EXAMPLE]


@functools.cache
def run(make: Any, rate: Any, last_stamp: Any = True, seed: Any = 0, **options: Any) -> Any:
    """Rows after an operator, the whole output kept."""
    items, times, length = twin.arrays(ROWS, WIDTH, last_stamp=last_stamp)
    operator = make(rate, **options)
    key = jax.random.key(seed)
    result = augment(operator, key, items, times, length, twin.similar(), window=2 * WIDTH, widths=())
    return twin.as_lists(result)


def compiled(operator: Any, *arrays: Any) -> Any:
    """The operator as one program, for shapes that no other test has."""
    return jax.jit(functools.partial(augment, operator))(*arrays)


def vectors(make: Any, rate: Any, **options: Any) -> Any:
    """The operator on the card's example."""
    return run(make, rate, **options)[-1]


@pytest.mark.parametrize(
    "rate, largest, kept",
    [
        (0.5, False, range(14, 19)),
        (0.5, True, range(16, 21)),
        (0.4, False, range(15, 19)),
        (0.4, True, range(17, 21)),
        (0.7, False, range(12, 19)),
        (0.7, True, range(14, 21)),
        (0.3, False, range(18, 21)),
        (0.3, True, range(18, 21)),
    ],
)
def test_crop_vectors(rate: Any, largest: Any, kept: Any) -> None:
    assert vectors(ops.ti_crop, rate, largest=largest) == list(kept)


def test_crop_vector_with_all_gaps() -> None:
    assert vectors(ops.ti_crop, 0.5, all_gaps=True) == [13, 14, 15, 16, 17]


@pytest.mark.parametrize(
    "rate, largest, masked",
    [
        (0.3, True, {2, 6, 9}),
        (0.5, True, {2, 5, 6, 7, 9}),
        (0.7, True, {2, 3, 4, 5, 6, 7, 9}),
        (0.3, False, {0, 1, 8}),
        (0.5, False, {0, 1, 3, 4, 8}),
        (0.7, False, {0, 1, 3, 4, 5, 7, 8}),
    ],
)
def test_mask_vectors(rate: Any, largest: Any, masked: Any) -> None:
    assert {i for i, item in enumerate(vectors(ops.ti_mask, rate, largest=largest)) if item == 0} == masked


def test_insert_vector() -> None:
    new = twin.STAND_IN
    want = [11, 12, 13, new + 13, 14, 15, 16, 17, new + 17, 18, 19, 20, new + 20]
    assert vectors(ops.ti_insert, 0.3) == want


def test_substitute_vector() -> None:
    changed = {i for i, item in enumerate(vectors(ops.ti_substitute, 0.3)) if item > twin.STAND_IN}
    assert changed == {0, 1, 8}


@pytest.mark.parametrize("last_stamp", [True, False])
@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("rate", [0.0, 0.29, 0.7, 1.0])
@pytest.mark.parametrize("name", ["mask", "substitute", "insert"])
def test_picks_equal_the_twin(name: Any, rate: Any, largest: Any, last_stamp: Any) -> None:
    got = run(getattr(ops, f"ti_{name}"), rate, last_stamp, largest=largest)
    assert got == [getattr(twin, name)(*row, rate, largest, last_stamp) for row in ROWS]


@pytest.mark.parametrize("all_gaps", [True, False])
@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("rate", [0.29, 0.7])
def test_crop_equals_the_twin(rate: Any, largest: Any, all_gaps: Any) -> None:
    got = run(ops.ti_crop, rate, largest=largest, all_gaps=all_gaps)
    for mine, (items, stamps) in zip(got, ROWS, strict=True):
        size = int(rate * len(items))
        if size <= 2:
            assert len(mine) == min(1, len(items))
            assert set(mine) <= set(items[: len(items) - size])
        else:
            start = twin.window(items, stamps, size, largest, all_gaps)
            assert mine == items[start : start + size]


@pytest.mark.parametrize("all_gaps", [True, False])
@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("rate", [0.29, 0.7, 1.0])
def test_reorder_permutes_the_window_of_the_twin(rate: Any, largest: Any, all_gaps: Any) -> None:
    got = run(ops.ti_reorder, rate, largest=largest, all_gaps=all_gaps)
    moved = 0
    for mine, (items, stamps) in zip(got, ROWS, strict=True):
        size = int(rate * len(items))
        start = twin.window(items, stamps, size, largest, all_gaps) if size > 1 else 0
        assert mine[:start] == items[:start]
        assert mine[start + size :] == items[start + size :]
        assert sorted(mine) == sorted(items)
        moved += mine != items
    assert moved


@pytest.mark.parametrize("make", [ops.ti_crop, ops.crop])
def test_crop_at_rate_one_keeps_the_whole_row(make: Any) -> None:
    assert run(make, 1.0) == [items for items, _ in ROWS]


@pytest.mark.parametrize("make", [ops.ti_crop, ops.crop])
def test_crop_at_rate_zero_keeps_one_event(make: Any) -> None:
    assert [len(row) for row in run(make, 0.0)] == [min(1, len(items)) for items, _ in ROWS]


def test_random_crop_is_a_window_that_is_not_the_last() -> None:
    for mine, (items, _) in zip(run(ops.crop, 0.4), ROWS, strict=True):
        size = max(int(0.4 * len(items)), 1) if items else 0
        last = len(items) - max(int(0.4 * len(items)), 1)  # a single event may be the last one
        starts = range(last + 1 if int(0.4 * len(items)) < 1 else last)
        assert len(mine) == size
        assert not items or any(mine == items[start : start + size] for start in starts)


@pytest.mark.parametrize("make", [ops.mask, functools.partial(ops.ti_mask, largest=None)])
def test_random_mask_hides_so_many_events_and_no_other(make: Any) -> None:
    for mine, (items, _) in zip(run(make, 0.7), ROWS, strict=True):
        assert mine.count(0) == int(0.7 * len(items))
        assert all(a in (0, b) for a, b in zip(mine, items, strict=True))


def test_single_event_is_masked_by_the_random_operator_alone() -> None:
    single = [row for row, (items, _) in enumerate(ROWS) if len(items) == 1]
    assert all(run(ops.mask, 1.0)[row] == [0] for row in single)
    assert all(run(functools.partial(ops.ti_mask, largest=None), 1.0)[row] == ROWS[row][0] for row in single)


def test_random_reorder_permutes() -> None:
    got = run(ops.reorder, 0.5)
    assert [sorted(row) for row in got] == [sorted(items) for items, _ in ROWS]
    assert got != [items for items, _ in ROWS]
    assert all(a[-1:] == b[-1:] for a, (b, _) in zip(got, ROWS, strict=True))  # the last event never moves


@pytest.mark.parametrize("rate", [0.1, 0.4, 1.0])
def test_random_substitute_replaces_so_many_events(rate: Any) -> None:
    for mine, (items, _) in zip(run(ops.substitute, rate), ROWS, strict=True):
        count = min(max(int(rate * len(items)), 1), len(items))
        changed = [(a, b) for a, b in zip(mine, items, strict=True) if a != b]
        assert len(changed) == count
        assert all(a == twin.STAND_IN + b for a, b in changed)


@pytest.mark.parametrize("rate", [0.1, 0.4, 1.0])
def test_random_insert_goes_right_before_its_event(rate: Any) -> None:
    for mine, (items, _) in zip(run(ops.insert, rate), ROWS, strict=True):
        assert len(mine) == len(items) + min(max(int(rate * len(items)), 1), len(items))
        assert [item for item in mine if item < twin.STAND_IN] == items
        assert all(b == a - twin.STAND_IN for a, b in itertools.pairwise(mine) if a > twin.STAND_IN)


def test_equal_gaps_pick_the_last_events_or_the_first() -> None:
    items, times, length = twin.arrays([(list(range(1, 9)), list(range(0, 90, 10)))], 8)
    for largest, masked in ((True, {5, 6, 7}), (False, {0, 1, 2})):
        out, _ = compiled(ops.ti_mask(0.4, largest=largest), jax.random.key(0), items, times, length)
        assert {i for i, item in enumerate(out[0].tolist()) if item == 0} == masked


def test_the_order_of_stamps_does_not_matter_for_a_gap() -> None:
    items, times, length = twin.arrays([([1, 2, 3, 4], [50, 0, 10, 20, 20])], 4)
    out, _ = compiled(ops.ti_mask(0.25), jax.random.key(0), items, times, length)
    assert out.tolist() == [[0, 2, 3, 4]]


def test_gaps_of_seventy_years_of_seconds() -> None:
    items, times, length = twin.arrays([([1, 2, 3, 4], [0, 5, 5, 2**31 - 1, 2**31 - 1])], 4)
    out, _ = compiled(ops.ti_mask(0.25), jax.random.key(0), items, times, length)
    assert out.tolist() == [[1, 2, 0, 4]]


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 1, allow_subnormal=False))
def test_floors_are_those_of_python(rate: Any) -> None:
    assert ops.event_counts(rate, 4096).tolist() == [int(rate * n) for n in range(4097)]


@pytest.mark.parametrize("rate", [n / 100 for n in range(0, 101, 7)] + [0.29, 0.57, 0.58, 1 / 3])
def test_floors_of_round_rates_are_those_of_python(rate: Any) -> None:
    assert ops.event_counts(rate, 4096).tolist() == [int(rate * n) for n in range(4097)]


def test_ranks_are_a_stable_order() -> None:
    keys = np.random.default_rng(0).integers(0, 6, (20, 30))
    want = np.argsort(np.argsort(keys[:, ::-1], axis=1, kind="stable"), axis=1)[
        :, ::-1
    ]  # later columns first
    ranks = jax.jit(ops.column_ranks, static_argnums=1)
    np.testing.assert_array_equal(ranks(keys.astype(np.uint32), 30), want)
    np.testing.assert_array_equal(
        np.asarray(ranks(keys[:, :12].astype(np.uint32), 12))[:, -1].max() < 12, True
    )


@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan")])
def test_impossible_rate_is_refused(rate: Any) -> None:
    for make in (ops.ti_crop, ops.ti_mask, ops.ti_reorder, ops.ti_substitute, ops.ti_insert, ops.crop):
        with pytest.raises(ValueError, match="must lie between 0 and 1"):
            make(rate)


def test_wrong_number_of_stamps_is_refused() -> None:
    items, times, length = twin.arrays(ROWS, WIDTH)
    with pytest.raises(ValueError, match=r"times\[65, 43\]: must be \[B, 40 \+ 1\]"):
        augment(ops.ti_crop(0.5), jax.random.key(0), items, jnp.pad(times, ((0, 0), (2, 0))), length)
