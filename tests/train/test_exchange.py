"""Rows of sharded tables are found and changed by the devices that own them, by both exchanges."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.train import parallel
from jaxrec.train.exchange import NOWHERE, Layout, bucketed, distinct, gathered
from jaxrec.types import Array

LAYOUT = Layout(19, blocks=4)
TABLE = np.random.default_rng(0).normal(size=(19, 3)).astype(np.float32)
DEVICES = (1, 2, 4)
EXCHANGES = {"gathered": gathered(), "bucketed": bucketed(8)}
CAPACITY = 8
compiled = jax.jit(distinct, static_argnums=1)


@pytest.mark.parametrize(("num_rows", "blocks"), [(1, 1), (1, 8), (5, 2), (19, 4), (32, 8), (33, 8)])
def test_every_id_has_a_row_of_its_own_and_tables_come_back(num_rows: int, blocks: int) -> None:
    layout = Layout(num_rows, blocks)
    table = np.arange(1, num_rows + 1)
    placed = layout.place(table)
    rows = np.asarray(layout.row(jnp.arange(num_rows)))
    assert rows[0] == 0 and len(set(rows.tolist())) == num_rows
    assert placed[rows].tolist() == table.tolist()
    assert layout.collect(placed).tolist() == table.tolist()
    assert layout.row(jnp.array([-1, num_rows])).tolist() == [NOWHERE] * 2


def test_neighbouring_ids_lie_on_different_devices() -> None:
    owner = np.asarray(LAYOUT.row(jnp.arange(16))) // (LAYOUT.padded // 4)
    assert np.bincount(owner).tolist() == [4] * 4 and set(owner[:4].tolist()) == {0, 1, 2, 3}


@given(
    st.lists(st.one_of(st.integers(0, 9), st.just(NOWHERE)), min_size=12, max_size=12),
    st.sampled_from([3, 12]),
)
@settings(max_examples=40, deadline=None)
def test_distinct_values_are_those_of_numpy(values: list[int], capacity: int) -> None:
    real = sorted(set(values) - {NOWHERE})
    found = jax.tree.map(np.asarray, compiled(np.array(values, np.int32), capacity))
    assert found.values.tolist() == (real + [NOWHERE] * capacity)[:capacity]
    assert found.overflow == max(len(real) - capacity, 0)
    for value, place in zip(values, found.place, strict=True):
        assert place == (min(real.index(value), capacity) if value in real else capacity)


def wanted(num_devices: int) -> np.ndarray:
    """Rows that each of the devices reads, distinct and ascending: [devices · C]."""
    rng = np.random.default_rng(1)
    rows = np.full((num_devices, CAPACITY), NOWHERE, np.int32)
    for device in range(num_devices):
        some = np.sort(rng.choice(LAYOUT.padded, 5 + device % 3, replace=False))
        rows[device, : len(some)] = some
    return rows.reshape(-1)


@pytest.mark.parametrize("num_devices", DEVICES)
@pytest.mark.parametrize("name", EXCHANGES)
def test_rows_are_pulled_from_their_owners_and_values_pushed_back(name: str, num_devices: int) -> None:
    exchange, rows = EXCHANGES[name], wanted(num_devices)
    values = np.arange(rows.size * 3, dtype=np.float32).reshape(-1, 3)
    placed = LAYOUT.place(TABLE)

    def both(shard: Array, rows: Array, values: Array) -> Any:
        route = exchange.route(rows, len(shard))
        pushed = exchange.push(values, route)
        sums = jnp.zeros_like(shard).at[route.asked].add(pushed, mode="drop")
        return exchange.pull(shard, route), sums, jax.lax.psum(route.overflow, parallel.AXIS)

    run = parallel.over_shards(both, num_devices, (True,) * 3, gathered=(False, False, True))
    pulled, sums, overflow = run(*parallel.place((placed, rows, values), True, num_devices))
    real = rows != NOWHERE
    np.testing.assert_array_equal(pulled, np.where(real[:, None], placed[np.where(real, rows, 0)], 0))
    expected = np.zeros_like(placed)
    np.add.at(expected, rows[real], values[real])
    np.testing.assert_array_equal(sums, expected)
    assert int(overflow) == 0


def test_what_a_bucket_has_no_room_for_is_counted_and_reads_zeros() -> None:
    exchange = bucketed(1)
    rows = np.array([0, 1, 5, NOWHERE], np.int32)  # of 20 rows on two devices: all three are device 0's
    rows = np.concatenate([rows, np.array([0, 10, NOWHERE, NOWHERE], np.int32)])

    def pull(shard: Array, rows: Array) -> Any:
        route = exchange.route(rows, len(shard))
        return exchange.pull(shard, route), route.overflow[None]

    placed = LAYOUT.place(TABLE) + 1.0
    pulled, overflow = parallel.over_shards(pull, 2, (True, True))(*parallel.place((placed, rows), True, 2))
    assert overflow.tolist() == [2, 0]
    np.testing.assert_array_equal(np.asarray(pulled)[[0, 4, 5]], placed[[0, 0, 10]])
    assert not np.asarray(pulled)[[1, 2, 3, 6, 7]].any()


@pytest.mark.parametrize(
    "make",
    [
        lambda: bucketed(0),
        lambda: Layout(5, 4).check(3),
        lambda: Layout(0).check(1),
        lambda: LAYOUT.place(TABLE[:5]),
    ],
)
def test_wrong_numbers_are_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="must|divide|num_rows"):
        make()
