"""Frequencies from a stream of batches: the algorithm step by step, repeats, collisions, changes, devices."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec import sampling
from jaxrec.sampling import Stream, StreamingFrequency

EXACT = sampling.streaming_frequency(12, num_hashes=0, rate=0.25, start_gap=4.0)  # ids are buckets
HASHED = sampling.streaming_frequency(7, num_hashes=3, rate=0.25, start_gap=4.0)


def feed(estimator: StreamingFrequency, batches: np.ndarray, stream: Stream | None = None) -> Stream:
    """The state after batches [steps, B]."""
    scan = jax.jit(lambda s, b: jax.lax.scan(lambda s, ids: (estimator.update(s, ids), None), s, b)[0])
    found: Stream = scan(estimator.init() if stream is None else stream, batches)
    return found


@functools.cache
def three_steps(estimator: StreamingFrequency) -> Any:
    return jax.jit(
        lambda b: jax.lax.scan(lambda s, i: (estimator.update(s, i), None), estimator.init(), b)[0]
    )


@settings(deadline=None, max_examples=25)
@given(st.lists(st.lists(st.integers(0, 11), min_size=4, max_size=4), min_size=3, max_size=3))
def test_the_state_is_that_of_the_algorithm_with_each_item_once_a_step(batches: list[list[int]]) -> None:
    last, gap = np.zeros(12, int), np.full(12, 4.0)
    for step, batch in enumerate(batches, start=1):
        for item in {*batch} - {0}:
            gap[item] = 0.75 * gap[item] + 0.25 * (step - last[item])
            last[item] = step
    found = three_steps(EXACT)(np.array(batches, np.int32))
    np.testing.assert_array_equal(found.last[0], last)
    np.testing.assert_allclose(found.gap[0], gap, rtol=1e-6)
    assert found.step == 3


@pytest.mark.parametrize("every", [1, 3])
def test_an_item_of_every_nth_batch_has_a_probability_of_one_in_n(every: int) -> None:
    batches = np.where(np.arange(120)[:, None] % every == 0, [[5, 5]], [[2, 3]]).astype(np.int32)
    stream = feed(EXACT, batches)
    np.testing.assert_allclose(
        EXACT.log_probability(stream, jnp.array([5, 9, 0])),
        [-np.log(every), -np.log(4.0), -np.inf],
        atol=1e-3,
    )


def test_repeats_and_the_order_of_a_batch_change_nothing() -> None:
    plain = feed(HASHED, np.array([[3, 8, 0, 0], [8, 5, 0, 0]], np.int32))
    other = feed(HASHED, np.array([[8, 3, 8, 3], [5, 8, 5, 0]], np.int32))
    jax.tree.map(np.testing.assert_array_equal, plain, other)


def test_masked_entries_and_padding_are_not_counted() -> None:
    update = jax.jit(HASHED.update)
    where = update(HASHED.init(), jnp.array([3, 8]), jnp.array([True, False]))
    jax.tree.map(np.testing.assert_array_equal, where, update(HASHED.init(), jnp.array([3, 0])))
    assert not np.array_equal(where.last, update(HASHED.init(), jnp.array([3, 8])).last)


def test_an_empty_step_counts_as_a_step() -> None:
    stream = feed(EXACT, np.array([[4], [0], [4]], np.int32))
    assert stream.step == 3
    expected = 0.75 * (0.75 * 4.0 + 0.25 * 1) + 0.25 * 2
    np.testing.assert_allclose(stream.gap[0, 4], expected, rtol=1e-6)


def test_colliding_items_count_once_a_step() -> None:
    one = sampling.streaming_frequency(1, rate=0.5, start_gap=4.0)
    stream = feed(one, np.array([[3, 8], [3, 8]], np.int32))
    np.testing.assert_allclose(stream.gap, [[0.5 * (0.5 * 4 + 0.5 * 1) + 0.5 * 1]])


def test_more_hashes_never_raise_a_probability() -> None:
    batches = np.random.default_rng(0).integers(1, 40, (50, 4)).astype(np.int32)
    stream = feed(HASHED, batches)
    ids = jnp.arange(1, 40)
    several = HASHED.log_probability(stream, ids)
    single = sampling.streaming_frequency(7, num_hashes=1)  # its hash is the first of the three
    first = single.log_probability(Stream(stream.last[:1], stream.gap[:1], stream.step), ids)
    assert (several <= first).all() and (several < first).any()


def test_hashes_differ_and_use_every_bucket() -> None:
    ids = jnp.arange(1, 200, dtype=jnp.int32)
    stream = HASHED.update(HASHED.init(), ids)
    assert np.asarray(stream.last).all()
    few = HASHED.update(HASHED.init(), ids[:3])
    assert len({tuple(row) for row in np.asarray(few.last).tolist()}) == 3


def error(estimator: StreamingFrequency, stream: Stream, truth: np.ndarray) -> float:
    ids = jnp.arange(1, len(truth) + 1)
    return float(np.abs(np.exp(estimator.log_probability(stream, ids)) - truth).sum())


def test_estimates_approach_the_truth_and_follow_a_change() -> None:
    """Items come with a probability that grows with the square of their number, then the other way round."""
    estimator = sampling.streaming_frequency(64, num_hashes=0, rate=0.03, start_gap=100.0)
    generator, weight = np.random.default_rng(0), np.arange(1, 21) ** 2.0
    truth = np.clip(4 * weight / weight.sum(), 0, 1)

    def batches(steps: int, chance: np.ndarray) -> np.ndarray:
        met = generator.random((steps, 20)) < chance
        return np.where(met, np.arange(1, 21), 0).astype(np.int32)

    start = error(estimator, estimator.init(), truth)
    settled = feed(estimator, batches(3000, truth))
    assert error(estimator, settled, truth) < 0.3 * start
    changed = truth[::-1]
    after = error(estimator, settled, changed)
    assert error(estimator, feed(estimator, batches(3000, changed), settled), changed) < 0.3 * after


def test_a_part_of_the_steps_gives_the_same_probabilities() -> None:
    generator = np.random.default_rng(1)
    batches = np.where(generator.random((4000, 1)) < 0.25, 5, 2).astype(np.int32)
    slow = sampling.streaming_frequency(12, num_hashes=0, rate=0.01, start_gap=4.0)
    for part in (batches, batches[::2]):
        found = np.exp(slow.log_probability(feed(slow, part), jnp.array([5])))
        np.testing.assert_allclose(found, 0.25, rtol=0.3)


def test_all_devices_end_with_the_state_of_the_global_batch() -> None:
    ids = np.array([[3, 8], [8, 5]], np.int32)
    update = jax.vmap(lambda i: HASHED.update(HASHED.init(), i, axis_name="devices"), axis_name="devices")
    for part in range(2):
        found = jax.tree.map(lambda a, part=part: a[part], jax.jit(update)(ids))
        jax.tree.map(np.testing.assert_array_equal, found, HASHED.update(HASHED.init(), ids.reshape(-1)))


def test_an_id_past_the_buckets_is_nan_where_ids_are_buckets() -> None:
    stream = EXACT.update(EXACT.init(), jnp.array([12, -1, 3]))
    assert (np.asarray(stream.last[0]) > 0).sum() == 1
    assert np.isnan(EXACT.log_probability(stream, jnp.array([12, -1]))).all()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_buckets": 0}, "num_buckets=0"),
        ({"num_buckets": 5, "num_hashes": -1}, "num_hashes=-1"),
        ({"num_buckets": 5, "rate": 0.0}, r"rate=0\.0"),
        ({"num_buckets": 5, "start_gap": 0.5}, r"start_gap=0\.5"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        sampling.streaming_frequency(**options)
