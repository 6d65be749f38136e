"""Four ways to choose the examples of an advertising model.

(Fei et al., CIKM 2020, doi:10.1145/3340531.3412162.) 1. Random negatives of two parts,
`split_popularity_table`. 2. Fewer of the negatives of much-shown ads, `keep_probability` and `subsample`.
3. Only reliable negatives among what was shown and not clicked, `choose_spies` and `reliable_negatives`.
4. Probable positives that were never shown, `fuzzy_positives`. The functions of 1, 3 and 4 run on the host,
before training.

The paper has no public code and its formulas were not available: those of 1 and 2 are of public
re-implementations, those of 3 and 4 one reading of its description.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.sampling.by_frequency import PopularityTable, checked_counts, table_of_weights
from jaxrec.types import Array, Key


def split_popularity_table(counts: np.ndarray, *, threshold: float, alpha: float = 0.75) -> PopularityTable:
    """Random negatives ∝ count^alpha of frequent items, uniform among the rare ones, drawn by `popularity`.

    The rare part is drawn with the share that its items have of all count^alpha, so that an ad without a
    history of its own has the frequency of its kind. Here both parts have entries in one table; the method
    saves those of the rare part.

    Args:
      counts: how often each item was shown, [vocab_size]; entry 0 (padding) is ignored.
      threshold: items with at most so many are rare.

    Raises:
      ValueError: negative or non-finite counts or alpha, or no item was shown.
    """
    known = checked_counts(counts, alpha)
    weights, rare = known**alpha, known <= threshold
    if rare.any():
        weights[rare] = weights[rare].mean()
    return table_of_weights(weights)


def keep_probability(counts: np.ndarray, *, threshold: float, exponent: float = 0.5) -> np.ndarray:
    """The probability to keep an example of each item, min(1, (t / f)^exponent), float32 [vocab_size].

    f is the item's share of all counts. Much-shown ads have a high expected revenue, and without this their
    many unclicked impressions speak against them. Exponent 1/2 is the subsampling of frequent words (Mikolov
    et al., NIPS 2013, equation 5, t about 1e-5).

    Args:
      counts: how often each item was shown, [vocab_size]; padding, and an item never shown, has 1.
      threshold: t, the share from which on examples are discarded; positive.
      exponent: at least 0, which keeps all.

    Raises:
      ValueError: negative or non-finite counts or exponent, or a threshold that is not positive.
    """
    if not threshold > 0:
        raise ValueError(f"threshold={threshold}: must be positive")
    known = checked_counts(counts, exponent)
    share = known / max(known.sum(), 1.0)
    kept = np.minimum(1.0, threshold / np.maximum(share, threshold)) ** exponent
    return np.concatenate([[1.0], kept]).astype(np.float32)


def subsample(key: Key, ids: Array, keep: Array, *, where: Array | None = None) -> Array:
    """Which examples stay: True with the probability `keep[id]` where `where` holds, bool [...].

    ids: int32 [...]. keep: of `keep_probability`, [vocab_size]. where: the examples that may be discarded,
    such as negatives, [...]; others stay. None: all may.
    """
    stays = jax.random.uniform(key, ids.shape) < jnp.asarray(keep)[ids]
    return stays if where is None else stays | ~where


def choose_spies(positive: np.ndarray, share: float, *, seed: int = 0) -> np.ndarray:
    """Positives that are put among the unlabelled examples, bool [N]: `share` of them, at least one.

    A scorer of positives against all other examples, these included, is then trained; see
    `reliable_negatives` (Liu et al., ICML 2002).

    Raises:
      ValueError: share is not in (0, 1), or there are fewer than two positives.
    """
    where = np.flatnonzero(positive)
    if not 0 < share < 1 or len(where) < 2:
        raise ValueError(
            f"share={share} of {len(where):,} positives: must be in (0, 1), of at least two positives"
        )
    number = min(max(1, round(share * len(where))), len(where) - 1)
    spies = np.zeros(len(positive), bool)
    spies[np.random.default_rng(seed).choice(where, number, replace=False)] = True
    return spies


def reliable_negatives(
    scores: np.ndarray, unlabelled: np.ndarray, spies: np.ndarray, *, noise: float = 0.1
) -> np.ndarray:
    """Unlabelled examples with a score below all but the share `noise` of the spies, bool [N].

    The others, shown and not clicked though the scorer takes them for positives, are dropped: an unclicked
    impression says little against an ad.

    Args:
      scores: of the scorer, [N]. unlabelled: shown and not clicked, bool [N]. spies: of `choose_spies`.
      noise: the share of spies that may score lower; in [0, 1).

    Raises:
      ValueError: noise is not in [0, 1), there is no spy, or a score is not finite.
    """
    if not 0 <= noise < 1 or not spies.any():
        raise ValueError(f"noise={noise}, {int(spies.sum())} spies: must be in [0, 1), and at least one spy")
    if not np.isfinite(scores).all():
        raise ValueError("scores: one is NaN or infinite; train the scorer again")
    found: np.ndarray = unlabelled & ~spies & (scores < np.quantile(scores[spies], noise, method="lower"))
    return found


class Pairs(NamedTuple):
    """Pairs of a user and an item, each once, and the weight of each as an example: all [M]."""

    user: np.ndarray
    item: np.ndarray
    weight: np.ndarray


def fuzzy_positives(
    clicks: tuple[np.ndarray, np.ndarray],
    shown: tuple[np.ndarray, np.ndarray],
    similar: np.ndarray,
    similarity: np.ndarray,
    *,
    weight: float = 0.1,
) -> Pairs:
    """Items similar to those that a user clicked and that were never shown to that user, as weak positives.

    Args:
      clicks, shown: users and items of clicks and of impressions, from 0 and from 1, integers [N] each.
      similar: the items most similar to each, int [vocab_size, K]; 0 is none.
      similarity: of each of them, in [0, 1], [vocab_size, K].
      weight: of a pair, times the largest similarity to a clicked item of the user; in (0, 1], as a click has
        weight 1.

    Returns:
      pairs in ascending order of user and item.

    Raises:
      ValueError: weight is not in (0, 1], the arrays do not fit each other, a user or an item is out of
        range, or a similarity is not in [0, 1].
    """
    if not 0 < weight <= 1:
        raise ValueError(f"weight={weight}: must be in (0, 1]")
    if similar.shape != similarity.shape:
        raise ValueError(f"similar of shape {similar.shape}, similarity of {similarity.shape}: must be equal")
    if not ((similarity >= 0) & (similarity <= 1 + 1e-5)).all():  # which rounding reaches
        raise ValueError("similarity: one is outside [0, 1] or NaN; scale them first")
    size = np.int64(len(similar))
    if similar.size and not 0 <= similar.min() <= similar.max() < size:
        raise ValueError(f"similar: items {similar.min()}..{similar.max()}: must be in 0..{size - 1}")
    for name, (users, items) in (("clicks", clicks), ("shown", shown)):
        if len(users) != len(items):
            raise ValueError(f"{name}: {len(users):,} users for {len(items):,} items; one for each")
        if len(users) and not (users.min() >= 0 and 1 <= items.min() <= items.max() < size):
            raise ValueError(
                f"{name}: users from {users.min()}, items {items.min()}..{items.max()}: must be from 0, and "
                f"in 1..{size - 1}, the items of similar"
            )
    user = np.repeat(np.asarray(clicks[0], np.int64), similar.shape[1])
    item = similar[clicks[1]].reshape(-1).astype(np.int64)
    values = similarity[clicks[1]].reshape(-1)
    known = [np.asarray(users, np.int64) * size + items for users, items in (clicks, shown)]
    keys = user * size + item
    new = (item > 0) & ~np.isin(keys, np.concatenate(known))
    keys, values = keys[new], values[new]
    order = np.lexsort((-values, keys))
    pairs, first = np.unique(keys[order], return_index=True)
    return Pairs(pairs // size, pairs % size, (weight * values[order][first]).astype(np.float32))
