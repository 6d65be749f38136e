"""Ranking metrics against TiCoSeRec's evaluation code."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import metrics
from jaxrec.types import Array
from tests.golden.fixtures import golden_files

LISTS = {
    "recall": metrics.list_recall,
    "precision": metrics.list_precision,
    "ndcg": metrics.list_ndcg,
    "map": metrics.list_map,
}
RANKS = {"hit": metrics.hit, "ndcg": metrics.ndcg}


def run(metric: Callable[..., Array], k: int) -> Callable[..., Array]:
    return jax.jit(functools.partial(metric, k=k, padding=-1))


@pytest.fixture(params=golden_files("ticoserec_metrics"), scope="module")
def arrays(request: pytest.FixtureRequest) -> Mapping[str, np.ndarray]:
    path: Path = request.param
    with np.load(path) as file:
        return dict(file)


def outputs(arrays: Mapping[str, np.ndarray], group: str) -> dict[str, tuple[str, int, np.ndarray]]:
    """Expected numbers named metric + cut-off in one group, such as hit10: {key: (metric, k, value)}."""
    found = {key: re.fullmatch(rf"out/{group}/([a-z]+)(\d+)", key) for key in arrays}
    matches = {key: (match[1], int(match[2]), arrays[key]) for key, match in found.items() if match}
    matches.pop(f"out/{group}/top20", None)
    assert matches
    return matches


def scores_after_rule(arrays: Mapping[str, np.ndarray], stage: str) -> np.ndarray:
    rating, seen = (jnp.asarray(arrays[f"in/{stage}/{name}"]) for name in ("rating", "seen"))
    return np.asarray(metrics.apply_seen(rating, seen, "zero"))


@pytest.mark.parametrize("stage", ["valid", "test"])
def test_the_list_of_the_zero_rule(arrays: Mapping[str, np.ndarray], stage: str) -> None:
    """Ids of equal score may stand in any order, so the scores along the list are compared."""
    scores, theirs = scores_after_rule(arrays, stage), arrays[f"out/{stage}/top20"]
    best = -np.sort(-scores, axis=1)[:, : theirs.shape[1]]
    np.testing.assert_array_equal(np.take_along_axis(scores, theirs, axis=1), best)


@pytest.mark.parametrize("stage", ["valid", "test"])
def test_hit_and_ndcg_of_the_zero_rule(arrays: Mapping[str, np.ndarray], stage: str) -> None:
    scores, answer = jnp.asarray(scores_after_rule(arrays, stage)), jnp.asarray(arrays[f"in/{stage}/answer"])
    worst, best = (
        metrics.rank_of_target(scores, answer, ties=ties) for ties in ("pessimistic", "optimistic")
    )
    for key, (name, k, value) in outputs(arrays, stage).items():
        low, high = (float(RANKS[name](rank, k=k).mean()) for rank in (worst, best))
        assert low - 1e-6 <= value <= high + 1e-6, key
        if (np.asarray(worst) == np.asarray(best)).all():
            np.testing.assert_allclose(low, value, rtol=1e-6, err_msg=key)


@pytest.mark.parametrize("stage", ["valid", "test"])
def test_hit_and_ndcg_of_the_reference_list(arrays: Mapping[str, np.ndarray], stage: str) -> None:
    ranked = jnp.asarray(arrays[f"out/{stage}/top20"])
    answer = jnp.asarray(arrays[f"in/{stage}/answer"])[:, None]
    for key, (name, k, value) in outputs(arrays, stage).items():
        metric = {"hit": metrics.list_recall, "ndcg": metrics.list_ndcg}[name]
        np.testing.assert_allclose(run(metric, k)(ranked, answer).mean(), value, rtol=1e-6, err_msg=key)


def test_metrics_of_ranks(arrays: Mapping[str, np.ndarray]) -> None:
    rank = jnp.asarray(arrays["in/ranks"]) + 1
    np.testing.assert_allclose(metrics.mrr(rank).mean(), arrays["out/ranks/mrr"], rtol=1e-6)
    for key, (name, k, value) in outputs(arrays, "ranks").items():
        np.testing.assert_allclose(RANKS[name](rank, k=k).mean(), value, rtol=1e-6, err_msg=key)


def test_metrics_of_several_answers(arrays: Mapping[str, np.ndarray]) -> None:
    """The reference leaves users without answers out of the mean of recall; the fixture has none."""
    ranked, answers = jnp.asarray(arrays["in/multi/pred"]), jnp.asarray(arrays["in/multi/answers"])
    for key, (name, k, value) in outputs(arrays, "multi").items():
        ours = run(LISTS[name], k)(ranked, answers).mean()
        np.testing.assert_allclose(ours, value, rtol=1e-6, err_msg=key)
