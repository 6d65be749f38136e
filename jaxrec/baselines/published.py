"""Settings that a paper reports for its baselines on NCF's MovieLens-1M, with the figures they reached.

Those for Gowalla are the defaults of `recipes.counting`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxrec.baselines.ease import ease
from jaxrec.baselines.matrix_knn import bm25, matrix_item_knn, matrix_user_knn
from jaxrec.baselines.popularity import popularity
from jaxrec.baselines.rp3beta import p3alpha, rp3beta
from jaxrec.baselines.similarity import asymmetric_cosine, jaccard, tversky
from jaxrec.baselines.slim import slim
from jaxrec.types import Baseline

TROUBLING = "Ferrari Dacrema et al., TOIS 2021, arXiv:1911.07698, appendix, tables 55, 58 and 59"


class Setting(NamedTuple):
    """A baseline at a published setting: make(data) -> Baseline, and the published metrics, if any."""

    make: Callable[[Any], Baseline]
    metrics: Mapping[str, float]
    source: str


def _movielens(hit: float, ndcg: float) -> dict[str, float]:
    return {"hit@10": hit, "ndcg@10": ndcg}


# NCF's MovieLens-1M: the latest rating of each user, ranked among 99 given items.
NCF_MOVIELENS_1M: Mapping[str, Setting] = {
    "popularity": Setting(popularity, _movielens(0.4533, 0.2542), TROUBLING),
    "matrix-user-knn": Setting(
        functools.partial(matrix_user_knn, similarity=jaccard, neighbours=259, reverse=True),
        _movielens(0.6725, 0.4066),
        TROUBLING,
    ),
    "matrix-item-knn": Setting(
        functools.partial(matrix_item_knn, neighbours=111, shrinkage=298.0, weighting=bm25),
        _movielens(0.6694, 0.3979),
        TROUBLING,
    ),
    "matrix-item-knn-tversky": Setting(
        functools.partial(
            matrix_item_knn,
            similarity=functools.partial(tversky, alpha=0.0, beta=2.0),
            neighbours=83,
            shrinkage=561.0,
        ),
        _movielens(0.6546, 0.3884),
        TROUBLING,
    ),
    "matrix-item-knn-asymmetric": Setting(
        functools.partial(
            matrix_item_knn,
            similarity=functools.partial(asymmetric_cosine, alpha=0.6914),
            neighbours=206,
            shrinkage=1000.0,
            weighting=bm25,
        ),
        _movielens(0.6627, 0.3956),
        TROUBLING,
    ),
    "p3alpha": Setting(
        functools.partial(p3alpha, alpha=1.2177, neighbours=1000, cut_columns=True),
        _movielens(0.6460, 0.3876),
        TROUBLING,
    ),
    "rp3beta": Setting(
        functools.partial(
            rp3beta, alpha=1.0807, beta=0.7029, neighbours=546, normalise=True, cut_columns=True
        ),
        _movielens(0.6758, 0.4011),
        TROUBLING,
    ),
    "slim": Setting(
        functools.partial(slim, alpha=0.0788, l1_ratio=1.19e-5, neighbours=544),
        _movielens(0.7162, 0.4468),
        TROUBLING,
    ),
    "ease": Setting(functools.partial(ease, regularisation=1320.0), _movielens(0.7192, 0.4494), TROUBLING),
}
