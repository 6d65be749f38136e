"""Quotas, the merged list and its recall, against loops over users and clusters."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.data.events.clusters import Clusters, clusters_from_labels, one_cluster
from jaxrec.index.rank import make_rank
from jaxrec.tasks.cluster_serving import (
    ClusterRetriever,
    make_recall,
    merged_list,
    over_all_items,
    quotas,
    recall_metrics,
)
from jaxrec.types import Protocol, Retriever

NUM_ITEMS, K, DIM, USERS = 23, 4, 3, 6
LABELS = np.random.default_rng(0).choice([0, 1, 3], NUM_ITEMS)
LABELS[6] = 2  # item 7 is alone in cluster 2
CLUSTERS = clusters_from_labels(LABELS)
COMPILED = jax.jit(quotas, static_argnames="alpha")
INTENT = np.random.default_rng(1).normal(size=(50, K)).astype(np.float32)


def fast_quotas(intent: np.ndarray, total: int, alpha: float, capacity: Any = 9999) -> np.ndarray:
    """`quotas` of up to 50 users, compiled for that many."""
    extra = (0, 50 - len(intent)), (0, 0)
    most = np.broadcast_to(capacity, intent.shape).astype(np.int32)
    found = COMPILED(np.pad(intent, extra), total, alpha=alpha, capacity=np.pad(most, extra))
    return np.asarray(found)[: len(intent)]


def slow_quotas(intent: np.ndarray, total: int, alpha: float, capacity: np.ndarray) -> list[int]:
    """One cluster after the other is emptied while the share of any exceeds it, then largest remainders."""
    prob = np.exp(intent.astype(np.float64) - intent.max())
    fixed: dict[int, int] = {}
    while True:
        rest = [k for k in range(len(prob)) if k not in fixed]
        left = total - sum(fixed.values())
        if alpha == math.inf:
            weight = {k: float(prob[k] == max(prob[rest])) for k in rest}
        else:
            weight = {k: prob[k] ** alpha for k in rest}
        share = {k: left * weight[k] / sum(weight.values()) for k in rest}
        over = [k for k in rest if share[k] >= capacity[k]]
        if not over:
            break
        fixed |= {k: int(capacity[k]) for k in over}
        if len(fixed) == len(prob):
            return [fixed[k] for k in range(len(prob))]
    found = {k: math.floor(share[k]) for k in rest}
    order = sorted(rest, key=lambda k: (-(share[k] - found[k]), -prob[k], k))
    for k in order[: left - sum(found.values())]:
        found[k] += 1
    return [{**fixed, **found}[k] for k in range(len(prob))]


@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.5, math.inf])
@pytest.mark.parametrize("total", [1, 10, 47])
def test_quotas_are_those_of_the_loop(alpha: float, total: int) -> None:
    rng = np.random.default_rng(2)
    capacity = rng.integers(0, 30, INTENT.shape)
    got = fast_quotas(INTENT, total, alpha, capacity)
    expected = [slow_quotas(row, total, alpha, most) for row, most in zip(INTENT, capacity, strict=True)]
    assert got.tolist() == expected
    np.testing.assert_array_equal(got.sum(-1), np.minimum(total, capacity.sum(-1)))
    assert (got <= capacity).all()


@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.5])
def test_without_limits_they_add_up_and_are_within_one_of_the_shares(alpha: float) -> None:
    for total in (1, 7, 100, 1000):
        got = fast_quotas(INTENT, total, alpha)
        weight = np.exp(INTENT.astype(np.float64)) ** alpha
        assert (got.sum(-1) == total).all()
        assert np.abs(got - total * weight / weight.sum(-1, keepdims=True)).max() < 1


def test_exponent_zero_gives_equal_shares_and_infinity_the_best_cluster() -> None:
    assert (fast_quotas(INTENT, 4 * K, 0.0) == 4).all()
    extra = fast_quotas(INTENT, 4 * K + 1, 0.0)
    np.testing.assert_array_equal(extra - 4, np.arange(K) == INTENT.argmax(-1)[:, None])
    best = fast_quotas(INTENT, 9, math.inf)
    np.testing.assert_array_equal(best, 9 * (np.arange(K) == INTENT.argmax(-1)[:, None]))


@pytest.mark.parametrize("alpha", [0.0, 1.0, math.inf])
def test_renumbered_clusters_have_the_same_quotas(alpha: float) -> None:
    order, capacity = np.array([2, 0, 3, 1]), np.array([9, 4, 20, 3])
    got = fast_quotas(INTENT[:, order], 21, alpha, capacity[order])
    np.testing.assert_array_equal(got, fast_quotas(INTENT, 21, alpha, capacity)[:, order])


@pytest.mark.parametrize(
    "alpha, possible", [(0.0, [2, 2, 2, 2]), (1.0, [4, 4, 0, 0]), (math.inf, [4, 4, 0, 0])]
)
def test_a_cluster_of_probability_zero(alpha: float, possible: list[int]) -> None:
    with np.errstate(divide="ignore"):
        intent = np.log(np.float32([[0.5, 0.5, 0.0, 0.0]]))
    assert fast_quotas(intent, 8, alpha).tolist() == [possible]


@pytest.mark.parametrize("alpha, rest", [(0.0, [2, 2]), (1.0, [4, 0]), (math.inf, [4, 0])])
def test_what_a_cluster_lacks_goes_to_the_others(alpha: float, rest: list[int]) -> None:
    intent = np.float32([[5.0, 0.0, -5.0, -9.0]])
    assert fast_quotas(intent, 6, alpha, [0, 2, 9, 9]).tolist() == [[0, 2, *rest]]
    assert fast_quotas(intent, 6, alpha, [0, 2, 1, 1]).tolist() == [[0, 2, 1, 1]]  # fewer than 6 in all


@pytest.mark.parametrize("alpha", [-1.0, math.nan])
def test_an_exponent_below_zero_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="must be 0 or more"):
        quotas(jnp.zeros(3), 5, alpha=alpha)


# --- the merged list ---------------------------------------------------------------------------------

RNG = np.random.default_rng(3)
VECTORS = RNG.normal(size=(USERS, K, DIM)).astype(np.float32)
TABLE = RNG.normal(size=(NUM_ITEMS + 1, DIM)).astype(np.float32)
HISTORY = [RNG.choice(NUM_ITEMS, n, replace=False) + 1 for n in (0, 1, 3, 8, 12, 19)]  # distinct
SEEN = np.stack([np.pad(items, (19 - len(items), 0)) for items in HISTORY]).astype(np.int32)
PRIOR = 2 * INTENT[:USERS]


def capacity_of(clusters: Clusters) -> np.ndarray:
    """Unseen items of each cluster, [U, K]."""
    gone = [
        [sum(clusters.of[i] == k for i in items) for k in range(clusters.num_clusters)] for items in HISTORY
    ]
    return clusters.sizes - np.array(gone)


@functools.cache
def merge(labels: tuple[int, ...], total: int) -> Any:
    clusters = clusters_from_labels(np.array(labels))
    return jax.jit(lambda v, t, q, p, s: merged_list(v, t, clusters, q, p, s, total=total))


def lists(
    labels: np.ndarray, vectors: np.ndarray, prior: np.ndarray, total: int, limited: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Quotas and list of every user."""
    capacity = capacity_of(clusters_from_labels(labels)) if limited else 9999
    quota = fast_quotas(prior, total, 1.0, capacity)
    return quota, np.asarray(merge(tuple(labels.tolist()), total)(vectors, TABLE, quota, prior, SEEN))


@pytest.mark.parametrize("total, limited", [(9, True), (30, True), (9, False)])
def test_a_list_holds_the_best_unseen_items_of_each_cluster(total: int, limited: bool) -> None:
    """Also where a cluster is smaller than its quota (not limited), and a user has too few items left."""
    quota, merged = lists(LABELS, VECTORS, PRIOR, total, limited)
    short = 0
    for user in range(USERS):
        expected: list[int] = []
        for k in np.argsort(-PRIOR[user], kind="stable"):
            pool = [i + 1 for i in np.flatnonzero(np.equal(LABELS, k)) if i + 1 not in HISTORY[user]]
            scores = TABLE[pool] @ VECTORS[user, k]
            expected += np.array(pool, int)[np.argsort(-scores)][: quota[user, k]].tolist()
        short += len(expected) < total
        assert merged[user].tolist() == expected + [0] * (total - len(expected))
        assert len({*expected}) == len(expected)
        assert len(expected) == min(total, NUM_ITEMS - len(HISTORY[user])) or not limited
    scarce = sum(NUM_ITEMS - len(items) < total for items in HISTORY)
    assert (short > scarce) == (not limited)


def test_one_cluster_is_the_list_of_highest_scores() -> None:
    nobody = np.zeros(NUM_ITEMS, int)
    _, merged = lists(nobody, VECTORS[:, :1], np.zeros((USERS, 1), np.float32), 6)
    for user, row in enumerate(merged[:5]):
        scores = TABLE @ VECTORS[user, 0]
        scores[[0, *HISTORY[user]]] = -np.inf
        assert row.tolist() == np.argsort(-scores)[:6].tolist()


def test_renumbered_clusters_give_the_same_list() -> None:
    new = np.array([2, 0, 3, 1])  # number of each cluster after
    old = np.argsort(new)
    _, before = lists(LABELS, VECTORS, PRIOR, 9)
    _, after = lists(new[LABELS], VECTORS[:, old], PRIOR[:, old], 9)
    np.testing.assert_array_equal(after, before)


# --- recall ------------------------------------------------------------------------------------------

KS = (4, 9, 30)


def asked() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Every unseen item as the target of every user, in batches with a padded tail, and the context."""
    items = np.concatenate(HISTORY).astype(np.int32)
    lengths = np.array([len(row) for row in HISTORY])
    pairs = [(u, i) for u in range(USERS) for i in range(1, NUM_ITEMS + 1) if i not in HISTORY[u]]
    user, target = np.zeros((2, 100), np.int32)
    user[: len(pairs)], target[: len(pairs)] = zip(*pairs, strict=True)
    real = np.arange(100) < len(pairs)
    queries = {"user": user, "target": target, "length": np.where(real, lengths[user], 0), "mask": real}
    queries = {name: column.reshape(2, 50) for name, column in queries.items()}
    return queries, {"items": items, "start": np.cumsum(lengths) - lengths}


def by_tables() -> ClusterRetriever:
    """The vectors above as a model."""
    return ClusterRetriever(
        query=lambda variables, queries, context, cluster: variables["vectors"][queries["user"], cluster],
        items=lambda variables: variables["table"],
        intent=lambda variables, queries, context: variables["prior"][queries["user"]],
    )


VARIABLES = {"vectors": VECTORS, "table": TABLE, "prior": PRIOR}


@functools.cache
def measure(block: int = 16384) -> Any:
    return jax.jit(make_recall(by_tables(), CLUSTERS, KS, alpha=1.0, history=19, block=block))


@pytest.mark.parametrize("block", [7, 16384])
def test_recall_is_whether_the_target_is_in_the_merged_list(block: int) -> None:
    queries, context = asked()
    values, bad = measure(block)(VARIABLES, queries, context)
    assert np.asarray(bad).tolist() == [0, 0]
    assert values.shape == (2, 50, len(KS))
    merged = {k: lists(LABELS, VECTORS, PRIOR, k)[1] for k in KS}
    real = queries["mask"]
    for column, k in enumerate(KS):
        pairs = zip(queries["user"][real], queries["target"][real], strict=True)
        expected = [float(target in merged[k][user]) for user, target in pairs]
        assert np.asarray(values)[real][:, column].tolist() == expected
    means = recall_metrics(KS)(np.asarray(values), queries)
    assert means == {
        f"recall@{k}": np.asarray(values)[real][:, i].mean(dtype=float) for i, k in enumerate(KS)
    }


def test_one_cluster_has_the_recall_of_the_full_ranking() -> None:
    queries, context = asked()
    plain = Retriever(
        lambda variables, queries, context: variables["vectors"][queries["user"], 0],
        lambda variables: variables["table"],
    )
    recall = make_recall(over_all_items(plain), one_cluster(NUM_ITEMS), KS, alpha=1.0, history=19)
    rank = make_rank(plain, Protocol(), num_items=NUM_ITEMS, history=19)
    (values, _), (ranks, _) = jax.jit(lambda *a: (recall(*a), rank(*a)))(VARIABLES, queries, context)
    real = queries["mask"]
    np.testing.assert_array_equal(np.asarray(values)[real], np.asarray(ranks)[real][:, None] <= np.array(KS))


@pytest.mark.parametrize("name", ["vectors", "table", "prior"])
def test_scores_that_are_not_finite_are_counted(name: str) -> None:
    queries, context = asked()
    damaged = {**VARIABLES, name: VARIABLES[name].copy()}
    damaged[name][1] = np.nan
    _, bad = measure()(damaged, queries, context)
    of_user = queries["mask"] if name == "table" else queries["mask"] & (queries["user"] == 1)
    assert np.asarray(bad).tolist() == of_user.sum(axis=1).tolist()


def test_equal_scores_rank_the_target_last() -> None:
    """Constant scores: only a quota of all unseen items of its cluster reaches the target."""
    queries, context = asked()
    values, _ = measure()({**VARIABLES, "table": np.ones_like(TABLE)}, queries, context)
    real, capacity = queries["mask"], capacity_of(CLUSTERS)
    for column, k in enumerate(KS):
        everything = fast_quotas(PRIOR, k, 1.0, capacity) == capacity
        expected = everything[queries["user"], LABELS[queries["target"] - 1]]
        np.testing.assert_array_equal(np.asarray(values)[..., column][real], expected[real])


@pytest.mark.parametrize("block", [7, 16384])
def test_a_target_that_was_seen_is_in_no_list(block: int) -> None:
    """Every item of the history as the target; `merged_list` leaves them out, and so does the measure."""
    queries, context = asked()
    user, target = np.array([(u, i) for u in range(USERS) for i in HISTORY[u]], np.int32).T
    count = min(len(user), queries["user"].size)
    repeated = {name: column.reshape(-1).copy() for name, column in queries.items()}
    repeated["user"][:count], repeated["target"][:count] = user[:count], target[:count]
    repeated["length"][:count] = [len(HISTORY[u]) for u in user[:count]]
    repeated["mask"] = np.arange(queries["user"].size) < count
    batches = {name: column.reshape(2, 50) for name, column in repeated.items()}
    values, bad = measure(block)(VARIABLES, batches, context)
    assert (np.asarray(values)[batches["mask"]] == 0).all() and bad.tolist() == [0, 0]


@pytest.mark.parametrize("target", [-1, 0, NUM_ITEMS + 1])
def test_a_target_that_is_no_item_is_reported(target: int) -> None:
    queries, context = asked()
    changed = {**queries, "target": queries["target"].copy()}
    changed["target"][0, 3] = target
    assert measure()(VARIABLES, changed, context)[1].tolist() == [1, 0]


def test_a_table_of_fewer_items_than_were_divided_is_refused() -> None:
    queries, context = asked()
    with pytest.raises(ValueError, match=f"clusters: of {NUM_ITEMS} items.* {NUM_ITEMS} rows"):
        measure()({**VARIABLES, "table": TABLE[:-1]}, queries, context)
