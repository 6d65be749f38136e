"""What holds for all methods without gradient descent: their face, and how protocols rank them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import pytest

from jaxrec import metrics
from jaxrec.baselines import (
    TrainingEvents,
    co_visitation,
    ease,
    item_knn,
    markov,
    matrix_item_knn,
    matrix_user_knn,
    popularity,
    random,
    session_popularity,
)
from jaxrec.protocols import next_item, sessions
from jaxrec.train.evaluate import CompiledMeasure, evaluate
from jaxrec.types import Baseline, Evaluation, Protocol
from tests.baselines import small
from tests.baselines.small import NUM_ITEMS
from tests.lowering import repeated_float_adds

BASELINES = {
    "random": random,
    "popularity": popularity,
    "session-popularity": session_popularity,
    "item-knn": item_knn,
    "markov": markov,
    "matrix-item-knn": matrix_item_knn,
    "ease": ease,
}
every = pytest.mark.parametrize("name", BASELINES)


def rank_by_loop(scores: np.ndarray, target: int, history: list[int], protocol: Protocol, drawn: Any) -> int:
    """The target's rank by the words of the protocol. scores: of ids 0..V."""
    found = scores.copy()
    if protocol.seen == "zero":
        found[history] = 0
    if protocol.seen == "exclude" and target in history:
        return metrics.MISS
    candidates: Any = range(0 if protocol.seen == "zero" else 1, NUM_ITEMS + 1) if drawn is None else drawn
    gone = history if protocol.seen == "exclude" and drawn is None else []
    return 1 + sum(found[i] >= found[target] for i in candidates if i != target and i not in gone)


def ranks_of(asked: Evaluation, baseline: Baseline, context: Mapping[str, Any]) -> Any:
    """Ranks of seed 3 for all real queries."""
    measure = CompiledMeasure(asked.measure, 1)
    ranks = measure(baseline.for_seeds([3]), dict(asked.queries), context)[0]
    return ranks[np.asarray(asked.queries["mask"])].tolist()


@every
@pytest.mark.parametrize("candidates", ["all", "sampled-4"])
@pytest.mark.parametrize("seen", ["exclude", "zero", "keep"])
def test_ranks_on_sequences_follow_the_protocol(name: str, seen: str, candidates: str) -> None:
    data, protocol = small.sequence_data(), Protocol(seen=seen, candidates=candidates)
    baseline = BASELINES[name](data)
    asked = next_item.evaluation(baseline, data, protocol, "test")
    queries = {column: np.asarray(value)[asked.queries["mask"]] for column, value in asked.queries.items()}
    scores = small.scores(baseline, queries, data.columns, seed=3, padding=True)
    expected = []
    for query, row in enumerate(scores):
        start, length = data.columns["start"][queries["user"][query]], queries["length"][query]
        history = data.columns["items"][start : start + length].tolist()
        drawn = queries["candidates"][query].tolist() if "candidates" in queries else None
        expected.append(rank_by_loop(row, int(queries["target"][query]), history, protocol, drawn))
    assert ranks_of(asked, baseline, data.columns) == expected
    assert (metrics.MISS in expected) == (seen == "exclude")


@every
@pytest.mark.parametrize("seen", ["exclude", "zero", "keep"])
def test_ranks_on_sessions_follow_the_protocol(name: str, seen: str) -> None:
    data = small.session_data()
    protocol = sessions.protocol(data.split, "", "none")._replace(seen=seen)
    baseline = BASELINES[name](data)
    asked = sessions.evaluation(baseline, data, protocol, sessions.queries(data, "test"))
    scores = small.scores(baseline, small.session_queries(data), data.columns, seed=3, padding=True)
    expected = [
        rank_by_loop(row, target, history, protocol, None)
        for row, (history, target) in zip(scores, small.TEST, strict=True)
    ]
    assert ranks_of(asked, baseline, data.columns) == expected


@every
def test_a_history_of_nothing_is_scored_by_nothing_of_another_user(name: str) -> None:
    """Histories [], [1, 2], [], [2]: the empty ones are scored as if they stood alone."""
    baseline = BASELINES[name](small.session_data())
    queries, context = small.histories([[], [1, 2], [], [2]])
    found = small.scores(baseline, queries, context)
    other = {**context, "items": np.array([4, 3, 6], np.int32)}
    changed = small.scores(baseline, queries, other)
    np.testing.assert_array_equal(changed[[0, 2]], found[[0, 2]])
    if name in ("item-knn", "markov", "matrix-item-knn", "ease"):
        assert not found[[0, 2]].any()


@pytest.mark.parametrize("make", [item_knn, markov])
def test_after_a_history_of_nothing_the_target_ranks_last(make: Any) -> None:
    data = small.session_data()
    baseline = make(data)
    asked = sessions.evaluation(baseline, data, sessions.protocol(data.split, "", "none"), nothing_read(data))
    assert ranks_of(asked, baseline, data.columns) == [NUM_ITEMS] * 3


def nothing_read(data: sessions.Data) -> dict[str, np.ndarray]:
    """Three queries of length 0, in a batch of four."""
    columns = {"user": [0, 1, 2, 0], "length": [0] * 4, "target": [1, 4, 7, 0]}
    batches = {name: np.array([column], np.int32) for name, column in columns.items()}
    return batches | {"mask": np.array([[True, True, True, False]])}


@every
def test_the_padded_tail_counts_nowhere(name: str) -> None:
    data = small.session_data()
    of, baseline = sessions.protocol(data.split, "", "none"), BASELINES[name](data)
    found = []
    for size in (5, 2):
        queries = data.split.batched("test", size)
        asked = sessions.evaluation(baseline, data, of, queries)
        found.append(evaluate(asked, baseline.for_seeds([3]), data.columns))
    assert found[0] == found[1]


def one_by_one(name: str) -> tuple[Evaluation, Baseline]:
    """A baseline and its evaluation, one test query a batch."""
    data = small.session_data()
    baseline, queries = BASELINES[name](data), data.split.batched("test", 1)
    return sessions.evaluation(baseline, data, sessions.protocol(data.split, "", "none"), queries), baseline


@functools.cache
def on_one_device(name: str) -> Any:
    """Metrics of the seeds 0 and 1, evaluated together."""
    asked, baseline = one_by_one(name)
    return evaluate(asked, baseline.for_seeds([0, 1]), small.session_data().columns)


@every
@pytest.mark.parametrize("num_devices", [2, 4])
def test_devices_give_the_same_numbers(name: str, num_devices: int) -> None:
    asked, baseline = one_by_one(name)
    columns = small.session_data().columns
    found = evaluate(asked, baseline.for_seeds([0, 1]), columns, num_devices=num_devices)
    assert found == on_one_device(name)


@every
def test_seeds_evaluated_alone_give_the_same_numbers(name: str) -> None:
    asked, baseline = one_by_one(name)
    columns, both = small.session_data().columns, on_one_device(name)
    assert [evaluate(asked, baseline.for_seeds([seed]), columns)[0] for seed in (0, 1)] == both
    assert (both[0] == both[1]) == (name != "random")


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "random"])
def test_variables_that_are_no_numbers_are_an_error(name: str) -> None:
    data = small.session_data()
    baseline = BASELINES[name](data)
    damaged = {
        column: np.where(array > 0, np.nan, array) if array.dtype.kind == "f" else array
        for column, array in arrays(baseline)
    }
    asked = sessions.evaluation(
        baseline, data, sessions.protocol(data.split, "", "none"), sessions.queries(data, "test")
    )
    with pytest.raises(ValueError, match="queries have NaN or infinite scores"):
        evaluate(asked, baseline._replace(variables=damaged).for_seeds([0]), data.columns)


def arrays(baseline: Baseline) -> Any:
    return [(name, np.asarray(array)) for name, array in baseline.variables.items()]


@every
def test_its_face(name: str) -> None:
    """From data or from arrays of one's own; named as its row; a seeds axis and a key a seed."""
    clicks = small.session_data().split.training_events()
    events = TrainingEvents(clicks.group + 100, clicks.item, NUM_ITEMS)
    baseline, again = BASELINES[name](small.session_data()), BASELINES[name](events)
    assert baseline.name == again.name == name
    for (first, array), (second, other) in zip(arrays(baseline), arrays(again), strict=True):
        assert first == second
        np.testing.assert_array_equal(array, other)
    variables = baseline.for_seeds((4, 9))
    assert set(variables) == {*baseline.variables, "key"}
    for column, array in arrays(baseline):
        np.testing.assert_array_equal(variables[column], np.stack([array] * 2))
    keys = [jax.random.key_data(jax.random.key(seed)) for seed in (4, 9)]
    np.testing.assert_array_equal(jax.random.key_data(variables["key"]), np.stack(keys))


@pytest.mark.parametrize("seeds", [(), (-1,), (0, 2**32), (1.5,), (1.0,), (True,)])
def test_seeds_that_are_none_are_refused(seeds: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="seeds=.*: must be one or more whole numbers from 0"):
        popularity(small.session_data()).for_seeds(seeds)


@pytest.mark.parametrize("make", [matrix_item_knn, matrix_user_knn, ease, co_visitation])
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_scores_never_add_twice_at_one_place(make: Any, platform: str) -> None:
    """A scatter-add in which ids may repeat is slow on NVIDIA GPUs, see `jaxrec.segments`."""
    baseline = make(small.events_of(small.TRAIN))
    queries, context = small.histories([[1, 2], [3]])
    traced = jax.jit(baseline.model.scores).trace(dict(baseline.variables), queries, context)
    assert repeated_float_adds(traced, platform) == []
