"""Gradient-boosted trees of labelled rows, and logistic regression on their leaves.

He et al., ADKDD 2014, doi:10.1145/2648584.2648589: a tree turns a row into the leaf it falls in; the leaves
of all trees, one-hot, are the features of a linear model. The trees are those of scikit-learn's
HistGradientBoostingClassifier, which the extra `trees` installs. It doesn't say in which leaf a row falls;
but it gives the logit after each tree, and what a tree adds to it is the value of that leaf. So leaves are
told apart by their value; those of one tree with the same value are one feature.

Departs from the paper: boosting with Newton steps on the log loss, native splits of categories, and up to 31
leaves a tree in place of 12.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from jaxrec.baselines.labelled_rows import Rows

MAX_CATEGORIES = 255  # ids of a column that scikit-learn splits as categories; more become rates
PRIOR = 20.0  # examples of the base rate that are counted in with those of each value
FOLDS = 5
BINNED = 200_000  # rows that scikit-learn takes to bin the values of numbers, at random if there are more
CLOSE = 1e-9  # leaves whose values differ by less are one


def classifier() -> Any:
    """scikit-learn's class of boosted trees.

    Raises:
      ImportError: scikit-learn is not installed.
    """
    try:
        from sklearn.ensemble import HistGradientBoostingClassifier
    except ImportError as error:
        raise ImportError(
            "boosted trees need scikit-learn: pip install 'jaxrec[trees]', or leave out the rows gbdt and "
            "gbdt-lr"
        ) from error
    return HistGradientBoostingClassifier


# --- what a tree reads -------------------------------------------------------------------------------


class TreeColumns(NamedTuple):
    """How rows become what trees read, from training rows.

    rates: {column: float64 [V]}, the smoothed share of positives of each value, of columns with many values
    or several a row; counts: {column: float64 [V]}, log(1 + rows with it). base: share of positives.
    """

    rates: dict[str, np.ndarray]
    counts: dict[str, np.ndarray]
    base: float
    categorical: tuple[bool, ...]

    def matrix(self, rows: Rows) -> np.ndarray:
        """Codes of few categories as they are, a rate and a count for others, and numbers: [N, C]."""
        return _assemble(self, rows, {name: _pooled(self.rates[name], rows.ids[name]) for name in self.rates})


def fit_columns(rows: Rows, labels: np.ndarray, *, seed: int = 0) -> tuple[TreeColumns, np.ndarray]:
    """The columns, and the matrix of the training rows themselves, whose rates are out of fold.

    A row's own label is in no rate that it reads, or trees would trust rates of rare values too much.
    """
    base = float(np.mean(labels, dtype=np.float64))
    coded = {name: size <= MAX_CATEGORIES and rows.ids[name].ndim == 1 for name, size in rows.sizes.items()}
    fold = np.random.default_rng(seed).permutation(len(labels)) % FOLDS
    rates, counts, own = {}, {}, {}
    for name in (name for name, few in coded.items() if not few):
        ids, size = rows.ids[name], rows.sizes[name]
        by_fold = np.stack([_sums(ids[fold == f], labels[fold == f], size) for f in range(FOLDS)])
        total = by_fold.sum(axis=0)
        rates[name] = _smoothed(total, base)
        counts[name] = np.log1p(total[0])
        own[name] = np.empty(len(labels))
        for f in range(FOLDS):
            own[name][fold == f] = _pooled(_smoothed(total - by_fold[f], base), ids[fold == f])
    kinds = [kind for few in coded.values() for kind in ([True] if few else [False, False])]
    columns = TreeColumns(rates, counts, base, (*kinds, *[False] * len(rows.numbers)))
    return columns, _assemble(columns, rows, own)


def _assemble(columns: TreeColumns, rows: Rows, rates: dict[str, np.ndarray]) -> np.ndarray:
    found: list[np.ndarray] = []
    for name, ids in rows.ids.items():
        found += [rates[name], _pooled(columns.counts[name], ids)] if name in rates else [ids]
    return np.stack([*found, *rows.numbers.values()], axis=1).astype(np.float64)


def _sums(ids: np.ndarray, labels: np.ndarray, size: int) -> np.ndarray:
    """Number of rows with each value, and of positive ones: [2, V]."""
    several = ids if ids.ndim == 2 else ids[:, None]
    flat, real = several.reshape(-1), several.reshape(-1) != 0
    label = np.repeat(np.asarray(labels, np.float64), several.shape[1])[real]
    return np.stack([np.bincount(flat[real], w, minlength=size) for w in (np.ones(len(label)), label)])


def _smoothed(sums: np.ndarray, base: float) -> np.ndarray:
    found: np.ndarray = (sums[1] + PRIOR * base) / (sums[0] + PRIOR)
    return found


def _pooled(table: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Entries of ids [N], or the mean over the real ones of [N, A]: [N]."""
    if ids.ndim == 1:
        return np.asarray(table[ids])
    real = ids != 0
    return np.asarray(np.where(real, table[ids], 0.0).sum(axis=1) / np.maximum(real.sum(axis=1), 1))


# --- trees -------------------------------------------------------------------------------------------


class Trees(NamedTuple):
    """Boosted trees of which the first `number` are used. seeded: whether a seed changes them."""

    columns: TreeColumns
    model: Any
    number: int
    seeded: bool = True

    def logits(self, rows: Rows) -> np.ndarray:
        """float64 [N]."""
        found: np.ndarray = list(_staged(self.model, self.columns.matrix(rows), self.number))[-1]
        return found

    def steps(self, rows: Rows) -> np.ndarray:
        """What each tree adds to the logit, the value of the row's leaf: float64 [N, trees]."""
        return _steps(self.model, self.columns.matrix(rows), self.number)


def fit_trees(
    rows: Rows,
    labels: np.ndarray,
    *,
    learning_rate: float = 0.1,
    leaves: int = 31,
    trees: int = 100,
    seed: int = 0,
    chosen: Callable[[Sequence[np.ndarray]], int] = len,
    validation: Rows | None = None,
) -> Trees:
    """Boosted trees on the log loss.

    leaves: of a tree, at most. trees: at most. validation: rows whose logits after each tree, a sequence of
    [N], go to `chosen`, which says how many trees are used; without them all are. seed: of the folds of
    rates, and of the rows that numbers are binned by, where there are more than BINNED.

    Raises:
      ImportError: scikit-learn is not installed.
      ValueError: leaves below 2, trees below 1, a learning rate that isn't above 0, or labels of one class.
    """
    for name, value, least in (("leaves", leaves, 2), ("trees", trees, 1)):
        if value < least:
            raise ValueError(f"{name}={value}: must be at least {least}")
    if not 0 < learning_rate < np.inf:
        raise ValueError(f"learning_rate={learning_rate}: must be above 0 and finite")
    if not 0 < np.mean(labels) < 1:
        raise ValueError(f"labels: {len(labels):,} of a single class; there is nothing to tell apart")
    make = classifier()
    columns, matrix = fit_columns(rows, labels, seed=seed)
    model = make(
        learning_rate=learning_rate,
        max_leaf_nodes=leaves,
        max_iter=trees,
        categorical_features=list(columns.categorical),
        early_stopping=False,  # its own takes a tenth of the training rows at random
        random_state=seed,
    )
    model.fit(matrix, np.asarray(labels) > 0.5)
    number = trees
    if validation is not None:
        number = chosen(list(_staged(model, columns.matrix(validation), trees)))
    return Trees(columns, model, number, seeded=bool(columns.rates) or len(labels) > BINNED)


def _staged(model: Any, matrix: np.ndarray, number: int) -> Iterator[np.ndarray]:
    """Logits after each of the first trees, [N] each."""
    for logits in itertools.islice(model.staged_decision_function(matrix), number):
        yield np.asarray(logits, np.float64).reshape(len(matrix)).copy()


def _steps(model: Any, matrix: np.ndarray, number: int) -> np.ndarray:
    after = np.stack(list(_staged(model, matrix, number)), axis=1)
    # before the first tree every row has the same logit, which goes to the first tree's leaves
    return np.diff(after, axis=1, prepend=0.0)


# --- leaves as features ------------------------------------------------------------------------------


class Leaves(NamedTuple):
    """The leaves of trees that training rows fall in.

    values: of the leaves of each tree, ascending. first: the column of each tree's first leaf, and the number
    of all leaves, int64 [trees + 1].
    """

    values: tuple[np.ndarray, ...]
    first: np.ndarray

    def one_hot(self, steps: np.ndarray) -> csr_matrix:
        """The leaf of each tree as columns of 0 and 1: [N, trees] of `Trees.steps` → [N, leaves].

        A value that no training row had goes to the nearest leaf.
        """
        count, trees = steps.shape
        at = [_nearest(values, steps[:, m]) for m, values in enumerate(self.values)]
        columns = np.stack(at, axis=1) + self.first[:-1]
        ends = np.arange(count + 1) * trees
        return csr_matrix((np.ones(count * trees), columns.reshape(-1), ends), shape=(count, self.first[-1]))

    @property
    def weights(self) -> np.ndarray:
        """The values of all leaves: the linear model that is the trees themselves, float64 [leaves]."""
        return np.concatenate(self.values)


def find_leaves(steps: np.ndarray) -> Leaves:
    """The leaves of each tree, from what the trees add to the logits of training rows, [N, trees]."""
    values = []
    for added in steps.T:
        ordered = np.unique(added)
        new = np.concatenate([[True], np.diff(ordered) > CLOSE])
        values.append(ordered[new])
    return Leaves(tuple(values), np.concatenate([[0], np.cumsum([len(v) for v in values])]))


def _nearest(values: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Index of the nearest of ascending values, for each given one."""
    if len(values) == 1:
        return np.zeros(len(given), np.int64)
    found: np.ndarray = np.searchsorted((values[1:] + values[:-1]) / 2.0, given)
    return found
