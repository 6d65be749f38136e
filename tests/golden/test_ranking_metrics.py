"""Metrics of ranked lists against RecBole and RecTools, of users with several relevant items."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import metrics
from jaxrec.index import chunked
from tests.golden.fixtures import Golden, golden_files, read


class Tables(NamedTuple):
    """The inputs of a fixture, with ids from 1: lists [U, K], relevant [U, A], columns by id [I + 1]."""

    lists: jax.Array
    relevant: jax.Array
    users_of_item: jax.Array
    popularity_rank: jax.Array
    features: jax.Array
    num_items: int
    num_users: int


@pytest.fixture(params=golden_files("ranking_metrics"), scope="module")
def golden(request: pytest.FixtureRequest) -> Golden:
    path: Path = request.param
    return read(path)


@pytest.fixture(scope="module")
def tables(golden: Golden) -> Tables:
    score, marks = golden.inputs["score"], golden.inputs["relevant"] > 0
    longest = golden.outputs["top"].shape[1]
    count = np.concatenate([[0], golden.inputs["popularity"]])
    features = np.pad(golden.inputs["category"], ((1, 0), (0, 0)))
    items = chunked.dense(jnp.pad(jnp.asarray(score), ((0, 0), (1, 0))), count=score.shape[1])
    relevant = np.where(marks, 1 + np.arange(score.shape[1]), 0)
    return Tables(
        lists=chunked.top_k(items, longest).ids,
        relevant=jnp.asarray(relevant),
        users_of_item=jnp.asarray(count),
        popularity_rank=jnp.asarray(metrics.popularity_rank(count)),
        features=jnp.asarray(features),
        num_items=score.shape[1],
        num_users=int(count.max()),  # earlier interactions: item i of users 0 .. popularity[i] − 1
    )


def of_lists(metric: Callable[..., Any], **options: Any) -> Callable[[Tables, int], jax.Array]:
    return lambda t, k: metric(t.lists, t.relevant, k=k, **options)


def of_items(values: Callable[[Tables], jax.Array]) -> Callable[[Tables, int], jax.Array]:
    return lambda t, k: metrics.list_mean(t.lists, values(t), k=k)


def of_all(metric: Callable[..., Any], **options: Any) -> Callable[[Tables, int], jax.Array]:
    return lambda t, k: metric(metrics.times_shown(t.lists, k=k, num_items=t.num_items), **options)


def users_of_item(tables: Tables) -> jax.Array:
    return tables.users_of_item


def novelty(tables: Tables) -> jax.Array:
    return metrics.self_information(tables.users_of_item, tables.num_users)


def serendipity(tables: Tables, k: int) -> jax.Array:
    hits, _ = metrics.hits_of_list(tables.lists, tables.relevant)
    return metrics.serendipity_of_hits(
        hits, tables.lists, tables.popularity_rank, k=k, num_items=tables.num_items
    )


def diversity(tables: Tables, k: int) -> jax.Array:
    distance = metrics.distance_of_features(tables.features, metrics.hamming_distance)
    return metrics.list_diversity(tables.lists, distance, k=k)


RECBOLE: Mapping[str, Callable[[Tables, int], jax.Array]] = {
    "recall": of_lists(metrics.list_recall),
    "precision": of_lists(metrics.list_precision),
    "hit": of_lists(metrics.list_hit),
    "mrr": of_lists(metrics.list_mrr),
    "map": of_lists(metrics.list_map),
    "ndcg": of_lists(metrics.list_ndcg),
    "coverage": of_all(metrics.coverage),
    "gini": of_all(metrics.gini),
    "entropy": of_all(metrics.entropy, over="mean"),
    "avg_popularity": lambda t, k: of_items(users_of_item)(t, k).mean(),
}
RECTOOLS: Mapping[str, Callable[[Tables, int], jax.Array]] = {
    **{name: RECBOLE[name] for name in ("recall", "precision", "hit", "mrr")},
    "map": of_lists(metrics.list_map, divide_by="relevant"),
    "map_divide_by_k": of_lists(metrics.list_map, divide_by="k"),
    "ndcg": of_lists(metrics.list_ndcg, ideal="full"),
    "ndcg_achievable": of_lists(metrics.list_ndcg),
    "novelty_miuf": of_items(novelty),
    "serendipity": serendipity,
    "diversity_hamming": diversity,
    "catalog_coverage": RECBOLE["coverage"],
    "avg_rec_popularity": of_items(users_of_item),
}


def test_the_lists_are_those_of_the_scores(golden: Golden, tables: Tables) -> None:
    np.testing.assert_array_equal(tables.lists, golden.outputs["top"] + 1)


def test_every_number_of_the_fixture_is_ours(golden: Golden, tables: Tables) -> None:
    """All outputs of both code bases, by name: RecBole's per user [U, cut-offs], the others `name@k`."""
    expected: dict[tuple[str, str, int], np.ndarray] = {}
    for name, value in golden.outputs.items():
        if name == "top":
            continue
        base, _, rest = name.partition("/")
        metric, at, k = rest.partition("@")
        if at:
            expected[base, metric, int(k)] = value
            continue
        for column, cutoff in enumerate(golden.meta["config"]["k"]):
            expected[base, metric, int(cutoff)] = value[:, column]
    of = {"recbole": RECBOLE, "rectools": RECTOOLS}
    ours = jax.jit(lambda: {name: of[name[0]][name[1]](tables, name[2]) for name in expected})()
    assert set(ours) == set(expected) and len(ours) >= len(golden.outputs) - 1
    for key, value in expected.items():
        np.testing.assert_allclose(ours[key], value, rtol=1e-5, atol=1e-6, err_msg=str(key))


def test_the_names_of_the_fixture_are_all_known(golden: Golden) -> None:
    names = {re.sub(r"@\d+$", "", name) for name in golden.outputs} - {"top"}
    assert names <= {f"recbole/{n}" for n in RECBOLE} | {f"rectools/{n}" for n in RECTOOLS}
