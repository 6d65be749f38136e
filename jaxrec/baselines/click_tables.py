"""The rows that every table of labelled examples is read against: base rate, logistic regression, trees.

    base-rate            every example has the share of positives in training
    logistic-regression  `baselines.logistic`
    gbdt                 boosted trees, `baselines.trees`
    gbdt-lr              logistic regression on their leaves and on the columns, fitted to other training rows
                         than the trees

Settings and the number of trees are chosen by validation AUC from `Grid`, for each task and with the first
seed; with them each seed is fitted. What a seed changes: folds of rates, and which rows trees are fitted to;
where it changes nothing, one model is that of all seeds.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.sparse import csr_matrix, hstack

from jaxrec import metrics
from jaxrec.baselines.labelled_rows import Parts, Rows, parts_of
from jaxrec.baselines.logistic import Logistic, Scale, fit_path, fit_scale, sparse_matrix
from jaxrec.baselines.trees import Leaves, Trees, classifier, find_leaves, fit_trees
from jaxrec.nn.layers.features import Categorical, Numeric
from jaxrec.protocols import impressions
from jaxrec.tasks.multitask import Target
from jaxrec.types import Tested

_auc = jax.jit(metrics.auc)


@dataclasses.dataclass(frozen=True)
class Grid:
    """What is tried on validation."""

    l2: tuple[float, ...] = (1.0, 3.0, 10.0, 30.0, 100.0)  # from the last on, see `logistic.fit_path`
    learning_rates: tuple[float, ...] = (0.05, 0.1)  # of trees
    leaves: tuple[int, ...] = (15, 31)  # of a tree, at most
    trees: int = 300  # at most; their number is chosen too
    linear_leaves: int = 12  # of a tree whose leaves are features, as in the paper
    linear_trees: int = 100  # of these
    share: float = 0.5  # of the training rows that these trees are fitted to


TINY = Grid(l2=(1.0, 10.0), learning_rates=(0.1,), leaves=(7,), trees=10, linear_leaves=4, linear_trees=5)


class Tuned(NamedTuple):
    """A baseline's test, and what was chosen for each task: {task: {setting: value}}.

    validation: AUC of each task with it, of the first seed; nothing for the base rate.
    """

    tested: Tested
    settings: dict[str, dict[str, Any]]
    validation: dict[str, float]


class Fit(NamedTuple):
    """A fitted model of one task: (rows) -> logits [N]; settings and validation AUC.

    seeded: whether another seed would give another model.
    """

    logits: Callable[[Rows], np.ndarray]
    settings: dict[str, Any]
    auc: float
    seeded: bool = False


# (parts of one task, its name, grid, seed, settings of an earlier seed or None) -> the model
Method = Callable[[Parts, str, Grid, int, Mapping[str, Any] | None], Fit]


def base_rate(parts: Parts, task: str, grid: Grid, seed: int, known: Mapping[str, Any] | None) -> Fit:
    """The logit of the share of positives."""
    rate = float(np.mean(parts.train.labels[task], dtype=np.float64))
    logit = np.log(rate) - np.log1p(-rate)
    return Fit(lambda rows: np.full(rows.num_rows, logit), {}, 0.5)


def logistic_regression(
    parts: Parts, task: str, grid: Grid, seed: int, known: Mapping[str, Any] | None
) -> Fit:
    """A weight for each value of each column."""
    scale = fit_scale(parts.train)
    train, validation = (sparse_matrix(rows, scale) for rows in parts[:2])
    penalties = grid.l2 if known is None else (known["l2"],)
    label = parts.validation.labels[task]
    model, l2, best = best_penalty(train, parts.train.labels[task], validation, label, penalties)
    return Fit(lambda rows: model.logits(sparse_matrix(rows, scale)), {"l2": l2}, best)


def best_penalty(
    train: csr_matrix,
    label: np.ndarray,
    validation: csr_matrix,
    other: np.ndarray,
    penalties: Sequence[float],
) -> tuple[Logistic, float, float]:
    """The model of the best validation AUC along `logistic.fit_path`, its penalty and this AUC.

    label, other: of the rows of train and of validation.
    """
    path = fit_path(train, label, penalties, score=lambda model: auc(model.logits(validation), other))
    best, l2 = _best((reached, l2) for l2, (_, reached) in path.items())
    return path[l2][0], l2, best


def gbdt(parts: Parts, task: str, grid: Grid, seed: int, known: Mapping[str, Any] | None) -> Fit:
    """Boosted trees."""
    if known is not None:
        return boosted(parts, task, seed, **known)
    pairs = itertools.product(grid.learning_rates, grid.leaves)
    tried = (boosted(parts, task, seed, rate, leaves, grid.trees, choose=True) for rate, leaves in pairs)
    return _best((fit.auc, fit) for fit in tried)[1]


def boosted(
    parts: Parts, task: str, seed: int, learning_rate: float, leaves: int, trees: int, choose: bool = False
) -> Fit:
    """Boosted trees of some settings. choose: their number, from 1 to `trees`, is the best on validation."""
    label = parts.validation.labels[task]
    stages: list[float] = []

    def best(logits: Sequence[np.ndarray]) -> int:
        stages.extend(auc(of, label) for of in logits)
        return int(np.argmax(stages)) + 1

    found = fit_trees(
        parts.train,
        parts.train.labels[task],
        learning_rate=learning_rate,
        leaves=leaves,
        trees=trees,
        seed=seed,
        chosen=best,
        validation=parts.validation if choose else None,
    )
    reached = max(stages) if choose else auc(found.logits(parts.validation), label)
    settings = {"learning_rate": learning_rate, "leaves": leaves, "trees": found.number}
    return Fit(found.logits, settings, reached, found.seeded)


class LeafModel(NamedTuple):
    """Logistic regression on the leaves of trees, and on the columns themselves."""

    trees: Trees
    leaves: Leaves
    scale: Scale
    linear: Logistic

    def logits(self, rows: Rows) -> np.ndarray:
        """float64 [N]."""
        return self.linear.logits(leaf_matrix(self.trees, self.leaves, self.scale, rows))


def leaf_matrix(trees: Trees, leaves: Leaves, scale: Scale, rows: Rows) -> csr_matrix:
    """One-hot leaves, then the columns of `logistic.sparse_matrix`: float64 [N, C]."""
    blocks = [leaves.one_hot(trees.steps(rows)), sparse_matrix(rows, scale)]
    return csr_matrix(hstack(blocks, format="csr"))


def gbdt_lr(parts: Parts, task: str, grid: Grid, seed: int, known: Mapping[str, Any] | None) -> Fit:
    """Trees on a part of the training rows, drawn by the seed, and logistic regression on the rest."""
    for_trees = np.random.default_rng(seed).random(parts.train.num_rows) < grid.share
    first, rest = parts.train.take(for_trees), parts.train.take(~for_trees)
    trees = fit_trees(
        first, first.labels[task], leaves=grid.linear_leaves, trees=grid.linear_trees, seed=seed
    )
    leaves, scale = find_leaves(trees.steps(first)), fit_scale(rest)
    train, validation = (leaf_matrix(trees, leaves, scale, rows) for rows in (rest, parts.validation))
    label = parts.validation.labels[task]
    penalties = grid.l2 if known is None else (known["l2"],)
    linear, l2, best = best_penalty(train, rest.labels[task], validation, label, penalties)
    settings = {"l2": l2, "leaves": grid.linear_leaves, "trees": grid.linear_trees}
    return Fit(LeafModel(trees, leaves, scale, linear).logits, settings, best, seeded=True)


METHODS: Mapping[str, Method] = {
    "base-rate": base_rate,
    "logistic-regression": logistic_regression,
    "gbdt": gbdt,
    "gbdt-lr": gbdt_lr,
}
WITH_TREES = ("gbdt", "gbdt-lr")


def check_installed(names: Iterable[str]) -> None:
    """Raises ImportError if a baseline of these names needs a library that is not installed."""
    if any(name in WITH_TREES for name in names):
        classifier()


def measure(
    name: str,
    data: impressions.Data,
    fields: Sequence[Categorical | Numeric],
    evaluated: Sequence[Target],
    *,
    seeds: Sequence[int],
    grid: Grid | None = None,
    calibration: bool = False,
) -> Tuned:
    """Fits a baseline of METHODS to each task and tests it as a trained model is tested.

    fields: the columns that it reads, see `labelled_rows.parts_of`. evaluated: what is tested. Those with the
    same label and different spaces have one model, which is fitted to the space of the first of them.

    Raises:
      ImportError: it needs a library that is not installed.
      ValueError: as `labelled_rows.parts_of`; or a task has a single class.
    """
    check_installed([name])
    grid = grid or Grid()
    parts = parts_of(data, fields)
    firsts: dict[str, Target] = {}
    for target in evaluated:
        firsts.setdefault(target.label, target)
    fits: dict[str, list[Fit]] = {}
    for label in firsts:
        task = label.removeprefix("label/")
        own = Parts(*(rows.take(rows.spaces[task]) for rows in parts))
        first = METHODS[name](own, task, grid, seeds[0], None)
        later = [
            METHODS[name](own, task, grid, seed, first.settings) if first.seeded else first
            for seed in seeds[1:]
        ]
        fits[label] = [first, *later]
    logits = np.stack(
        [
            np.stack([fits[target.label][s].logits(parts.test) for target in evaluated], axis=-1)
            for s in range(len(seeds))
        ]
    )
    tested = impressions.measure_scores(data, evaluated, logits, calibration=calibration)
    names = {label: target.name for label, target in firsts.items()}
    return Tuned(
        tested,
        settings={names[label]: of[0].settings for label, of in fits.items() if of[0].settings},
        validation={names[label]: of[0].auc for label, of in fits.items() if of[0].settings},
    )


def auc(logits: np.ndarray, labels: np.ndarray) -> float:
    """The area under the ROC curve, ties at half."""
    return float(_auc(logits.astype(np.float32), labels))


def _best(scored: Iterable[tuple[float, Any]]) -> tuple[float, Any]:
    """The first of the highest score."""
    found = list(scored)
    return max(found, key=lambda pair: pair[0])
