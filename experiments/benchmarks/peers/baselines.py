"""Seconds of EASE by LAPACK, and of ItemKNN and SLIM as RecBole computes them, on Gowalla.

EASE: potrf and potri of SciPy's LAPACK in float32 on the matrix of the 8,192 items of the most users, and the
division by the diagonal. ItemKNN: the computation of RecBole 1.2.1 (`ComputeSimilarity`, blocks of 100 items,
a loop over the items for the best neighbours; the matrix of all predictions), and its evaluation, users in
batches, without its metrics. SLIM: scikit-learn's ElasticNet for one item after another with RecBole's
arguments, on 20 items, scaled to all; its matrix is kept in columns, without RecBole's conversions for each
item, which would add to it. Needs NumPy, SciPy and scikit-learn alone; nothing of jaxrec is imported.

Run (in an environment of its own):

    python experiments/benchmarks/peers/baselines.py --data gowalla/train.npz --output peer.json

and give the file to `python -m experiments.speed --only baselines --baseline peer.json`.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings

import numpy as np
import scipy.linalg
import scipy.sparse

ITEMS, NEIGHBOURS, BLOCK, BATCH, TOP = 8192, 100, 100, 512, 20


def ease(users: scipy.sparse.csr_matrix) -> float:
    popular = np.argsort(-np.asarray(users.sum(axis=0)).reshape(-1), kind="stable")[:ITEMS]
    most = users[:, popular].tocsr()
    start = time.perf_counter()
    gram = (most.T @ most).toarray()
    gram[np.diag_indices(len(gram))] += 80.0
    factor, _ = scipy.linalg.lapack.spotrf(gram.T, lower=1, overwrite_a=1, clean=0)
    inverse, _ = scipy.linalg.lapack.spotri(factor, lower=1, overwrite_c=1)
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    inverse /= -np.diagonal(inverse).copy()
    np.fill_diagonal(inverse, 0.0)
    return time.perf_counter() - start


def item_knn(users: scipy.sparse.csr_matrix) -> tuple[float, float]:
    """Seconds to fit and to rank."""
    start = time.perf_counter()
    columns = users.tocsc().astype(np.float32)
    norm = np.sqrt(np.asarray(users.power(2).sum(axis=0)).reshape(-1))
    values: list[float] = []
    rows: list[int] = []
    cols: list[float] = []
    transposed = columns.T.tocsr()
    for first in range(0, users.shape[1], BLOCK):
        weights = transposed.dot(columns[:, first : first + BLOCK].toarray())
        for place in range(weights.shape[1]):
            item, weight = first + place, weights[:, place]
            weight[item] = 0.0
            weight = np.multiply(weight, 1 / (norm[item] * norm + 1e-6))
            best = (-weight).argpartition(NEIGHBOURS - 1)[:NEIGHBOURS]
            best = best[np.argsort(-weight[best])]
            kept = weight[best] != 0.0
            values.extend(weight[best][kept])
            rows.extend(best[kept])
            cols.extend(np.ones(kept.sum()) * item)
    shape = (users.shape[1], users.shape[1])
    similarity = scipy.sparse.csr_matrix((values, (rows, cols)), shape=shape, dtype=np.float32)
    predictions = users.dot(similarity.tocsc()).tolil()
    fitted = time.perf_counter()
    for user in range(0, users.shape[0], BATCH):
        scores = predictions[user : user + BATCH].toarray()
        seen = users[user : user + BATCH].nonzero()
        scores[seen] = -np.inf
        best = np.argpartition(-scores, TOP, axis=1)[:, :TOP]
        np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1)
    return fitted - start, time.perf_counter() - fitted


def slim(users: scipy.sparse.csr_matrix, items: int = 20) -> float:
    from sklearn.linear_model import ElasticNet

    columns = users.tocsc().astype(np.float32)
    model = ElasticNet(
        alpha=0.005,
        l1_ratio=1e-6,
        positive=True,
        fit_intercept=False,
        copy_X=False,
        precompute=False,
        selection="random",
        max_iter=100,
        tol=1e-4,
        random_state=0,
    )
    chosen = np.random.default_rng(0).choice(users.shape[1], items, replace=False)
    start = time.perf_counter()
    for item in chosen:
        own = slice(columns.indptr[item], columns.indptr[item + 1])
        target = columns[:, [item]].toarray().reshape(-1)
        columns.data[own] = 0.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(columns, target)
        columns.data[own] = 1.0
    return (time.perf_counter() - start) * users.shape[1] / items


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True, help="train.npz of Gowalla: indptr, indices, shape")
    parser.add_argument("--output", required=True, help="JSON file of seconds by name")
    arguments = parser.parse_args()
    with np.load(arguments.data) as archive:
        indptr, item, shape = archive["indptr"], archive["indices"], tuple(archive["shape"])
    users = scipy.sparse.csr_matrix((np.ones(len(item), np.float32), item, indptr), shape=shape)
    seconds = {"baselines/ease": ease(users), "baselines/slim": slim(users)}
    seconds["baselines/item_knn"], seconds["baselines/item_knn_evaluate"] = item_knn(users)
    for name, value in seconds.items():
        print(f"{name} {value:.1f} s")
    with open(arguments.output, "w", encoding="utf-8") as file:
        json.dump(seconds, file)


if __name__ == "__main__":
    main()
