"""Row-sharded tables: the same rows and gradients on 1, 2 and 4 devices, by the stated collectives."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.train import parallel
from jaxrec.types import Array

TABLE = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
IDS = np.array([9, 0, 3, 3, 7, 9, 9, 1], np.int32)
DEVICES = (1, 2, 4)


@pytest.mark.parametrize("num_devices", DEVICES)
def test_rows_are_those_of_the_whole_table(num_devices: int) -> None:
    look_up = parallel.over_shards(parallel.lookup_sharded, num_devices, (True, True))
    found = look_up(parallel.shard_rows(TABLE, num_devices), parallel.shard_rows(IDS, num_devices))
    np.testing.assert_array_equal(found, TABLE[IDS])


@pytest.mark.parametrize("num_devices", DEVICES)
def test_gradients_are_sums_over_all_devices(num_devices: int) -> None:
    weight = np.arange(24, dtype=np.float32).reshape(8, 3)

    def gradient(shard: Array, ids: Array, weight: Array) -> Array:
        return jax.grad(lambda shard: (parallel.lookup_sharded(shard, ids) * weight).sum())(shard)

    split = [parallel.shard_rows(x, num_devices) for x in (TABLE, IDS, weight)]
    found = parallel.over_shards(gradient, num_devices, (True, True, True))(*split)
    expected = np.zeros_like(TABLE)
    np.add.at(expected, IDS, weight)
    np.testing.assert_array_equal(found[:10], expected)
    assert not np.asarray(found[10:]).any()


def test_each_device_holds_its_rows_alone() -> None:
    table = parallel.shard_rows(TABLE, 4)
    assert table.shape == (12, 3)
    assert [shard.data.shape for shard in table.addressable_shards] == [(3, 3)] * 4
    assert not np.asarray(table[10:]).any()


def test_an_id_outside_every_shard_reads_zeros() -> None:
    look_up = parallel.over_shards(parallel.lookup_sharded, 2, (True, True))
    found = look_up(parallel.shard_rows(TABLE, 2), parallel.shard_rows(np.array([-1, 10], np.int32), 2))
    assert found.tolist() == [[0.0] * 3] * 2


def test_collectives_gather_ids_and_scatter_sums() -> None:
    look_up: Any = parallel.over_shards(parallel.lookup_sharded, 4, (True, True))
    split = (parallel.shard_rows(TABLE, 4), parallel.shard_rows(IDS, 4))
    text = look_up.lower(*split).as_text()
    assert text.count("stablehlo.all_gather") == text.count("stablehlo.reduce_scatter") == 1
    assert "all_to_all" not in text and "all_reduce" not in text


def test_a_whole_argument_is_the_same_everywhere() -> None:
    def centred(shard: Array, mean: Array) -> Array:
        return shard - mean

    found = parallel.over_shards(centred, 4, (True, False))(parallel.shard_rows(IDS, 4), jnp.int32(2))
    assert found.tolist() == (IDS - 2).tolist()


def test_a_sum_over_devices_is_gathered() -> None:
    total = parallel.over_shards(lambda x: jax.lax.psum(x.sum(), parallel.AXIS), 4, (True,), gathered=True)
    assert total(parallel.shard_rows(IDS, 4)) == IDS.sum()


def test_more_devices_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match=r"num_devices=99: this process has"):
        parallel.shard_rows(TABLE, 99)
