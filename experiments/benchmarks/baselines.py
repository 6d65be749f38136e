"""Baselines of interaction matrices: fitting EASE, item-KNN, SLIM and iALS, ranking by item-KNN, on Gowalla.

EASE is fitted to the 8,192 items of the most users, a matrix that LAPACK inverts in seconds; SLIM for every
25th portion of the items, scaled to all. The peer is `experiments/benchmarks/peers/baselines.py`.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

import numpy as np
from scipy.sparse import csr_matrix

from experiments.benchmarks import ials
from experiments.benchmarks.timing import Figure
from jaxrec.baselines.ease import ease_weights
from jaxrec.baselines.matrix import interactions
from jaxrec.baselines.matrix_knn import matrix_item_knn
from jaxrec.baselines.slim import gram_product, problems, solve
from jaxrec.data import catalogue
from jaxrec.data.events.held_out import HeldOut, from_parts
from jaxrec.protocols import retrieval
from jaxrec.train.evaluate import CompiledMeasure
from jaxrec.types import Protocol

ITEMS, PORTION = 8192, 25
PROTOCOL = Protocol(split="given", ks=(20,), selection=retrieval.LAST_EPOCH)


def figures(repeats: int, tiny: bool) -> Iterator[Figure]:
    """Seconds of each."""
    data = retrieval.resident(drawn() if tiny else catalogue.load("lightgcn/gowalla"))
    events = data.split.training_events()
    users = interactions(events)
    popular = np.argsort(-np.asarray(users.sum(axis=0)).reshape(-1), kind="stable")
    most = users[:, popular[:ITEMS]].tocsr()
    yield seconds_of("baselines/ease", lambda: ease_weights(most, 80.0), repeats)
    yield seconds_of("baselines/item_knn", lambda: matrix_item_knn(events), repeats)
    baseline = matrix_item_knn(events)
    asked = retrieval.evaluation(baseline, data, PROTOCOL, "test")
    measure, variables = CompiledMeasure(asked.measure, 1), baseline.for_seeds([0])
    queries = measure.placed(asked.queries)
    measure(variables, queries, data.columns)
    yield seconds_of(
        "baselines/item_knn_evaluate", lambda: measure(variables, queries, data.columns), repeats
    )
    yield summary("baselines/slim", [slim(users) for _ in range(repeats)])
    yield from ials.sweeps(data.split, repeats, dims=(4,) if tiny else (64, 128))


def drawn() -> HeldOut:
    """50 users who have a fifth of 40 items in training and one in test."""
    chosen = np.argsort(np.random.default_rng(0).random((50, 40)))[:, :9] + 1
    user = np.arange(50)
    train, test = (np.repeat(user, 8), chosen[:, :8].reshape(-1)), (user, chosen[:, 8])
    none = (user[:0], user[:0])
    return from_parts(
        "drawn", (train, none, test), num_items=40, rule="drawn", user_ids=user, item_ids=np.arange(1, 41)
    )


def slim(users: csr_matrix) -> float:
    """Seconds to solve SLIM of all items at BARS' setting, from a part of them."""
    columns, l2 = users.T.tocsr(), np.float32(users.shape[0] * 0.005)
    start = time.perf_counter()
    everything = list(problems(columns, users, positive=True))
    preparing, start = time.perf_counter() - start, time.perf_counter()
    part = list(itertools.islice(everything, 0, None, PORTION))
    for problem in part:
        number = np.diff(columns.indptr)[problem.indices]
        solve(
            problem,
            gram_product(columns, problem),
            number,
            l1=np.float32(l2 * 1e-6),
            l2=l2,
            positive=True,
            tolerance=1e-3,
            max_steps=1000,
        )
    return preparing + (time.perf_counter() - start) * len(everything) / len(part)


def seconds_of(name: str, run: Callable[[], object], repeats: int) -> Figure:
    """Times `run`, on the host."""
    values = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        values.append(time.perf_counter() - start)
    return summary(name, values)


def summary(name: str, seconds: list[float]) -> Figure:
    return Figure(name, "s", float(np.median(seconds)), min(seconds), max(seconds), len(seconds))
