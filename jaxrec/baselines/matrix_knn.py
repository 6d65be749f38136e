"""Item-KNN and user-KNN on the interaction matrix: a score is a sum over the whole history.

Sarwar et al., WWW 2001, doi:10.1145/371920.372071; Deshpande and Karypis, TOIS 2004,
doi:10.1145/963770.963776. `baselines.item_knn` is the other form, which reads the last item alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np
from scipy.sparse import csr_matrix

from jaxrec.baselines.events import EventData, training_events
from jaxrec.baselines.matrix import divide_rows, interactions, interactions_by_user, scale_rows
from jaxrec.baselines.rows import blocks_of, score_by_history, sum_rows
from jaxrec.baselines.similarity import Similarity, cosine, nearest
from jaxrec.data.events.training_events import TrainingEvents
from jaxrec.types import Array, Baseline, Context, Scorer, Variables

Weighting = Callable[[csr_matrix], tuple[np.ndarray, np.ndarray]]  # factors of users [N], of items [M]


def bm25(users: csr_matrix, *, k1: float = 1.2, b: float = 0.75) -> tuple[np.ndarray, np.ndarray]:
    """Okapi BM25 with items as documents and users as terms, as Dacrema et al. weigh interactions.

    log(M / (1 + |I_u|)) of users, (k1 + 1) / (k1 (1 - b + b n_i / mean n) + 1) of items.
    """
    count = np.asarray(users.sum(axis=0)).reshape(-1)
    length = 1 - b + b * count / (count.sum() / _number_of_items(users))
    return _inverse_frequency(users), (k1 + 1) / (k1 * length + 1)


def tf_idf(users: csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """TF-IDF with items as documents and users as terms, as Dacrema et al. weigh interactions.

    log(M / (1 + |I_u|)) of users; 1 of items, since a user is in an item once.
    """
    return _inverse_frequency(users), np.ones(users.shape[1])


def _inverse_frequency(users: csr_matrix) -> np.ndarray:
    return np.log(_number_of_items(users) / (1 + np.diff(users.indptr)))


def _number_of_items(users: csr_matrix) -> int:
    return max(users.shape[1] - 1, 1)  # column 0 is none


def matrix_item_knn(
    data: EventData | TrainingEvents,
    *,
    similarity: Similarity = cosine,
    neighbours: int = 100,
    shrinkage: float = 0.0,
    weighting: Weighting | None = None,
    normalise: bool = False,
    average_bias: bool = False,
) -> Baseline:
    """score(u, j) = Σ over the items i of the history that are neighbours of j of s(j, i); else 0.

    The neighbours of the scored item j are the `neighbours` items of the highest similarity s(j, i) among
    those that share a user with it (all if there are fewer), of equal ones those of the smaller ids.
    Interactions count as 0 and 1 in training; an event of a history that repeats an item counts again.

    normalise: the similarities of the neighbours of j are divided by their sum. average_bias: the score is
    m_j + Σ s(j, i) (x_ui - m_i), m being an item's share of the users. Both are how the benchmark of BARS
    has it (Zhu et al., SIGIR 2022, arXiv:2205.09626). weighting: factors of users and items, by which
    interactions are multiplied before similarities are computed (`bm25`, `tf_idf`); a history's are not.

    Raises:
      ValueError: neighbours is below 1, or the shrinkage is negative or not a number.
    """
    users = interactions(training_events(data))
    weighted = users
    if weighting is not None:
        of_users, of_items = weighting(users)
        weighted = scale_rows(scale_rows(users, of_users).T.tocsr(), of_items).T.tocsr()
    near = nearest(weighted, similarity, neighbours=neighbours, shrinkage=shrinkage)
    if normalise:
        near = divide_rows(near)
    mean = np.asarray(users.mean(axis=0)).reshape(-1)
    bias = mean - near @ mean if average_bias else None
    return score_by_history("matrix-item-knn", near.T.tocsr(), bias)


def matrix_user_knn(
    data: EventData | TrainingEvents,
    *,
    similarity: Similarity = cosine,
    neighbours: int = 100,
    shrinkage: float = 0.0,
    reverse: bool = False,
) -> Baseline:
    """score(u, j) = Σ over the neighbours v of user u that have item j in training of s(u, v); else 0.

    The neighbours of u are the `neighbours` users of the highest similarity among those that share an item
    with it in training, of equal ones those of the smaller index. The history of a query isn't read: a user
    without training events has all scores 0.

    reverse: over the users v instead that have u among their neighbours, any number of them, as the code of
    Dacrema et al. has it (TOIS 2021, arXiv:1911.07698).

    Raises:
      ValueError: neighbours is below 1, the shrinkage is negative or not a number, or the groups of the
        events are no indices of users from 0.
    """
    users = interactions_by_user(training_events(data))
    near = nearest(users.T.tocsr(), similarity, neighbours=neighbours, shrinkage=shrinkage)
    near = near.T.tocsr() if reverse else near
    variables = {
        **blocks_of(users),
        "near": near.indices.astype(np.int32),
        "similarity": near.data,
        "begin": near.indptr.astype(np.int32),
        "bias": np.zeros(users.shape[1], np.float32),
    }
    return Baseline("matrix-user-knn", Scorer(_scores), variables)


def _scores(variables: Variables, queries: Mapping[str, Array], context: Context) -> Array:
    begin = jnp.asarray(variables["begin"])
    row = queries["user"] + 1
    known = row < begin.shape[0] - 1
    start = begin[jnp.where(known, row, 0)]
    length = jnp.where(known, begin[jnp.where(known, row + 1, 0)] - start, 0)
    near, bias = variables["near"], variables["bias"]
    if near.shape[0] == 0:  # no user shares an item with another one
        return jnp.broadcast_to(bias, (row.shape[0], *bias.shape))
    scores = sum_rows(
        variables, near, start, length, num_columns=bias.shape[0], factor=variables["similarity"]
    )
    return scores + bias
