"""One order of all items: its beginnings against slow apportionments, and against the merged lists."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.data.events.clusters import clusters_from_labels
from jaxrec.nn.retrieval.kuaishou_ebr import KuaishouEBR
from jaxrec.nn.sequential.sasrec import SASRec
from jaxrec.tasks.cluster_ranking import by_priority, cluster_scorer, place_in_cluster, seen_items
from jaxrec.tasks.cluster_serving import merged_list, quotas

NUM_ITEMS, K, USERS = 23, 4, 5
LABELS = np.random.default_rng(0).choice([0, 1, 3], NUM_ITEMS)
LABELS[6] = 2  # item 7 is alone in cluster 2
CLUSTERS = clusters_from_labels(LABELS)
RNG = np.random.default_rng(1)
SCORES = np.concatenate([np.zeros((USERS, 1)), RNG.normal(size=(USERS, NUM_ITEMS))], axis=1).astype(
    np.float32
)
INTENT = (2 * RNG.normal(size=(USERS, K))).astype(np.float32)
ENCODER = SASRec(num_items=NUM_ITEMS, dim=4, num_layers=0, num_heads=1, max_len=3)
MODEL = KuaishouEBR(ENCODER, ENCODER.clone(dim=2), num_clusters=K)
HISTORIES = [[4, 9, 2], [7], [1, 2, 3, 4, 5, 6, 7, 8], [23, 22], [5, 5]]


def lists_of(scores: Any) -> list[list[int]]:
    """Items of each user, best first."""
    return [[int(i) + 1 for i in np.argsort(-row[1:], kind="stable")] for row in np.asarray(scores)]


def slow_order(scores: np.ndarray, intent: np.ndarray, alpha: float) -> list[int]:
    """Seats are given one after the other, each to the cluster of the largest p^alpha / (2 seats + 1)."""
    weight = np.exp(alpha * intent.astype(np.float64))
    left = {
        k: sorted(np.flatnonzero(k == LABELS) + 1, key=lambda item: -scores[item]) for k in range(K)
    }  # fmt: skip
    given, found = dict.fromkeys(range(K), 0), []
    while any(left.values()):
        best = max((k for k in left if left[k]), key=lambda k: weight[k] / (2 * given[k] + 1))
        given[best] += 1
        found.append(int(left[best].pop(0)))
    return found


def test_places_count_items_of_the_cluster_that_score_as_high() -> None:
    scores = np.round(SCORES)  # which tie
    found = np.asarray(jax.jit(place_in_cluster)(scores, CLUSTERS.of))
    for user in range(USERS):
        for item in range(1, NUM_ITEMS + 1):
            own = LABELS[item - 1] == LABELS
            assert found[user, item] == (scores[user, 1:][own] >= scores[user, item]).sum()


@pytest.mark.parametrize("alpha", [0.5, 1.0, 3.0])
def test_items_are_ranked_as_seats_are_given(alpha: float) -> None:
    place = place_in_cluster(jnp.asarray(SCORES), jnp.asarray(CLUSTERS.of))
    found = lists_of(by_priority(place, jnp.asarray(CLUSTERS.of), jnp.asarray(INTENT), alpha=alpha))
    assert found == [slow_order(SCORES[u], INTENT[u], alpha) for u in range(USERS)]


@pytest.mark.parametrize("alpha", [0.0, math.inf])
def test_extreme_orders_begin_with_the_merged_lists(alpha: float) -> None:
    of, intent = jnp.asarray(CLUSTERS.of), jnp.asarray(INTENT)
    place = place_in_cluster(jnp.asarray(SCORES), of)
    order = lists_of(by_priority(place, of, intent, alpha=alpha))
    vectors, table = np.broadcast_to(SCORES[:, None], (USERS, K, NUM_ITEMS + 1)), np.eye(NUM_ITEMS + 1)
    for total in (1, 3, 7, 12, NUM_ITEMS):
        quota = quotas(intent, total, alpha=alpha, capacity=np.broadcast_to(CLUSTERS.sizes, (USERS, K)))
        lists = merged_list(jnp.asarray(vectors), jnp.asarray(table), CLUSTERS, quota, intent, total=total)
        for found, merged in zip(order, np.asarray(lists), strict=True):
            assert (found[:total] == merged.tolist()) if alpha else (set(found[:total]) == set(merged))


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_beginnings_are_close_to_the_quotas(alpha: float) -> None:
    """Both divide the list in proportion; they differ by the rounding, one item of a cluster or none."""
    of, intent = jnp.asarray(CLUSTERS.of), jnp.asarray(INTENT)
    order = lists_of(by_priority(place_in_cluster(jnp.asarray(SCORES), of), of, intent, alpha=alpha))
    for total in range(1, NUM_ITEMS + 1):
        capacity = np.broadcast_to(CLUSTERS.sizes, (USERS, K))
        asked = np.asarray(quotas(intent, total, alpha=alpha, capacity=capacity))
        given = [np.bincount(LABELS[np.array(items[:total]) - 1], minlength=K) for items in order]
        assert np.abs(np.array(given) - asked).max() <= 1


@pytest.fixture(scope="module")
def served() -> tuple[Any, Any, Any]:
    """Variables of a scorer, queries and their context."""
    some = jnp.ones((1, 3), jnp.int32)
    drawn = jax.tree.map(lambda leaf: leaf + 0.1, MODEL.init(jax.random.key(0), some, train=False))
    drawn["params"]["prompts"] = jax.random.normal(jax.random.key(1), (K, 4))
    lengths = np.array([len(history) for history in HISTORIES])
    context = {"items": np.concatenate(HISTORIES), "start": np.cumsum(lengths) - lengths}
    queries = {"user": jnp.arange(USERS), "length": jnp.asarray(lengths), "mask": jnp.ones(USERS, bool)}
    return {"model": drawn, "columns": {"cluster": CLUSTERS.of}}, queries, jax.tree.map(jnp.asarray, context)


@pytest.mark.parametrize(("exclude", "prompted"), [(True, True), (False, True), (True, False)])
def test_scores_are_those_of_the_module_cluster_by_cluster(
    served: tuple[Any, Any, Any], exclude: bool, prompted: bool
) -> None:
    variables, queries, context = served
    scorer = cluster_scorer(MODEL, alpha=1.0, exclude=exclude, prompted=prompted)
    found = jax.jit(scorer.scores)(variables, queries, context)
    drawn = variables["model"]
    table = np.asarray(MODEL.apply(drawn, method="item_table"))
    window = np.zeros((USERS, 3), np.int32)
    for user, history in enumerate(HISTORIES):
        window[user, 3 - len(history[-3:]) :] = history[-3:]
    intent = np.asarray(MODEL.apply(drawn, window, train=False, method="intent"))[:, -1]
    apply: Any = MODEL.apply
    read = jax.jit(lambda cluster: apply(drawn, window, clusters=cluster, train=False)[:, -1])
    hidden = np.stack([read(np.full((1, 1), k) if prompted else None) for k in range(K)])  # [K, B, D]
    for user, history in enumerate(HISTORIES):
        scores = np.array([0, *(hidden[k, user] @ table[i] for i, k in enumerate(LABELS, 1))])
        scores[history] -= 1e9 if exclude else 0.0
        order = slow_order(scores, intent[user], 1.0)
        unseen = [item for item in order if item not in history]
        ranked = lists_of(found)[user]
        assert [item for item in ranked if item not in history] == unseen
        assert exclude or ranked == order


def test_seen_items_of_histories_of_any_length(served: tuple[Any, Any, Any]) -> None:
    _, queries, context = served
    found = np.asarray(seen_items(queries, context, NUM_ITEMS + 1))
    assert [set(np.flatnonzero(row)) - {0} for row in found] == [set(history) for history in HISTORIES]


def test_scores_that_are_no_numbers_stay_so(served: tuple[Any, Any, Any]) -> None:
    variables, queries, context = served
    broken = jax.tree.map(lambda leaf: leaf, variables)
    broken["model"]["params"]["intent_head"]["bias"] = jnp.full(K, jnp.nan)
    for alpha in (0.0, 1.0, math.inf):
        assert np.isnan(cluster_scorer(MODEL, alpha=alpha).scores(broken, queries, context)).all()


def test_equal_scores_stay_equal() -> None:
    """A model that knows nothing earns nothing: all items of a cluster tie."""
    of = jnp.asarray(CLUSTERS.of)
    scores = by_priority(place_in_cluster(jnp.zeros_like(SCORES), of), of, jnp.asarray(INTENT), alpha=1.0)
    for cluster in range(K):
        assert len(np.unique(np.asarray(scores)[0, 1:][cluster == LABELS])) == 1


def test_alpha_below_zero_is_refused() -> None:
    for alpha in (-1.0, math.nan):
        with pytest.raises(ValueError, match="must be 0 or more"):
            cluster_scorer(MODEL, alpha=alpha)
