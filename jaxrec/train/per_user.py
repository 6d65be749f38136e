"""What an evaluation keeps of each user or group besides its means, so that two results can be compared.

A ranking keeps the rank of every query. Other metrics are kept as sums over groups of examples: users, or
`BLOCKS` blocks of examples where an example has no user. A metric that is a mean keeps the sum of its values.
An AUC is no mean over examples; it keeps the terms of its linear approximation (DeLong et al., Biometrics
1988; of users: Obuchowski, Biometrics 1997), whose mean is the AUC and whose spread over groups gives its
standard error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxrec.types import GroupSums, Keep, Ranks

BLOCKS = 1024  # groups of examples that have no user: example i belongs to block i modulo this


def keep_ranks(users: np.ndarray | None, items: np.ndarray, *, first: int = 0) -> Keep:
    """Keeps the rank of every query, in the order of users and positions.

    users: raw ids, [U]; None: users are numbers, such as those of sessions, counted from `first`. items: raw
    ids, that of item i at i - 1.
    """

    def keep(ranks: np.ndarray, queries: Mapping[str, np.ndarray]) -> Ranks:
        mask = np.asarray(queries["mask"]).reshape(-1)
        user, position, target = (
            np.asarray(queries[name]).reshape(-1)[mask] for name in ("user", "length", "target")
        )
        order = np.lexsort((position, user))
        user = user[order]
        return Ranks(
            rank=np.asarray(ranks).reshape(len(ranks), -1)[:, mask][:, order].astype(np.int32),
            user=user - first if users is None else np.asarray(users)[user],
            position=position[order].astype(np.int32),
            target=np.asarray(items)[target[order] - 1],
        )

    return keep


def keep_means(names: Sequence[str], users: np.ndarray) -> Keep:
    """Keeps values [S, batches, B, M] whose means over queries are the M named metrics, by raw user id."""

    def keep(values: np.ndarray, queries: Mapping[str, np.ndarray]) -> GroupSums:
        mask = np.asarray(queries["mask"]).reshape(-1)
        found = np.asarray(values, np.float64).reshape(len(values), len(mask), -1)[:, mask]
        user = np.asarray(users)[np.asarray(queries["user"]).reshape(-1)[mask]]
        return group_sums(user, {name: (found[..., m], None) for m, name in enumerate(names)}, {})

    return keep


def keep_impressions(tasks: Sequence[str], *, errors: Sequence[str] = (), group: str | None = None) -> Keep:
    """Keeps AUC and log loss of each task, or squared errors of those in `errors`, as sums over groups.

    The arguments are those of `evaluate.impression_metrics`, whose AUC by user it keeps too.
    """

    def keep(values: np.ndarray, queries: Mapping[str, np.ndarray]) -> GroupSums:
        mask = np.asarray(queries["mask"]).reshape(-1)
        ids = None if group is None else np.asarray(queries[group]).reshape(-1)[mask]
        scores = np.asarray(values).reshape(len(values), len(mask), -1)[:, mask].astype(np.float64)
        found: dict[str, Any] = {}
        labels = {}
        for t, task in enumerate(tasks):
            space = np.broadcast_to(queries.get(f"space/{task}", True), np.shape(queries["mask"]))
            real = space.reshape(-1)[mask]
            label = np.asarray(queries[f"label/{task}"], np.float64).reshape(-1)[mask]
            labels[task] = np.where(real, label, 0.0)
            score = scores[..., t]
            if task in errors:
                found[f"mse/{task}"] = np.square(score - label), real
                continue
            found[f"auc/{task}"] = np.stack([auc_contributions(of, label, real) for of in score]), real
            found[f"log_loss/{task}"] = np.logaddexp(0.0, score) - label * score, real
            if ids is not None:
                by_user = [user_aucs(of, label, ids, real) for of in score]
                weight = by_user[0][1]
                found[f"gauc/{task}"] = np.stack([auc for auc, _ in by_user]), weight
        return group_sums(ids, found, labels)

    return keep


def group_sums(
    ids: np.ndarray | None, values: Mapping[str, Any], labels: Mapping[str, np.ndarray]
) -> GroupSums:
    """Sums over groups of {metric: (values [S, N], weights [N])}, each value times its weight.

    ids: group of each example, [N]; None: in blocks. weights of None: all 1. labels: {task: [N]}.
    """
    count = np.shape(next(iter(values.values()))[0])[1]
    group, number = np.unique(np.arange(count) % BLOCKS if ids is None else ids, return_inverse=True)

    def total(column: np.ndarray) -> np.ndarray:
        return np.bincount(number, column, minlength=len(group)).astype(np.float32)

    sums, weights = {}, {}
    for name, (found, weight) in values.items():
        weight = np.ones(count) if weight is None else np.asarray(weight, np.float64)
        sums[name] = np.stack([total(np.where(weight > 0, of * weight, 0.0)) for of in found])
        weights[name] = total(weight)
    return GroupSums(group, sums, weights, {task: total(label) for task, label in labels.items()})


def auc_contributions(scores: np.ndarray, labels: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Values [N] whose mean over the marked examples is the AUC, and whose spread gives its standard error.

    That of a positive is AUC + (N / number of positives) (share of negatives below it − AUC), that of a
    negative likewise with the share of positives above it; ties count half.
    """
    positive, negative = where & (labels > 0.5), where & (labels <= 0.5)
    share = np.zeros(len(scores))
    for of, others, sign in ((positive, negative, 1.0), (negative, positive, -1.0)):
        ordered = np.sort(scores[others])
        below = [np.searchsorted(ordered, scores[of], side=side) for side in ("left", "right")]
        passed = sum(below) / (2.0 * len(ordered))
        share[of] = passed if sign > 0 else 1.0 - passed
    auc = share[positive].mean()
    scale = np.where(positive, where.sum() / positive.sum(), where.sum() / negative.sum())
    return np.where(where, auc + scale * (share - auc), 0.0)


def user_aucs(
    scores: np.ndarray, labels: np.ndarray, users: np.ndarray, where: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The AUC of each example's user, [N], and weights [N]: 1 where the user has both classes, else 0.

    Their weighted mean is GAUC, in which users count by their impressions.
    """
    _, number = np.unique(users, return_inverse=True)
    positive = where & (labels > 0.5)
    order = np.lexsort((scores, number))
    order = order[where[order]]
    user, score, first = number[order], scores[order], positive[order]
    starts = np.concatenate([[True], (np.diff(user) != 0) | (np.diff(score) != 0)])
    tie = np.cumsum(starts) - 1
    size = np.bincount(tie)
    rank = np.cumsum(size)[tie] - (size[tie] - 1) / 2.0  # in the whole order, ties at their mean
    total = np.bincount(user, minlength=number.max() + 1)
    positives = np.bincount(user, first, minlength=len(total))
    before = np.cumsum(total) - total
    rank_sum = np.bincount(user, np.where(first, rank - before[user], 0.0), minlength=len(total))
    wins = rank_sum - positives * (positives + 1) / 2
    pairs = positives * (total - positives)
    auc = np.divide(wins, pairs, out=np.zeros(len(total)), where=pairs > 0)
    return auc[number], (where & (pairs > 0)[number]).astype(np.float64)
