"""What ranked lists show, whether it is relevant or not: catalogue coverage, evenness, novelty, diversity.

Two kinds: values per list, [..., N] → [...], whose mean over users is the caller's; and values of all lists
together, from how often each item was shown (`times_shown`), [..., I] → [...]. All run under `jit` and
`vmap`. Lists are ids in ranked order, best first, padded with `padding` where they are shorter than k;
padding shows nothing.

Shape names: N length of a list, I items, V ids (I + 1 with padding), D features of an item.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy import sparse

from jaxrec.metrics.ranking import check_cutoff
from jaxrec.types import Array

# --- values per list ---


def list_mean(ranked: Array, values: Array, *, k: int, padding: int = 0) -> Array:
    """Mean of an item's value over the first k of each list: [..., N] → [...]; 0 for an empty list.

    With `self_information` it is novelty (Zhou et al., PNAS 2010, mean self-information of the first items;
    also called mean inverse user frequency, MIUF); with numbers of users it is average popularity (ARP: Yin
    et al., PVLDB 2012; RecBole's AveragePopularity); with 1 for items of the long tail it is their average
    percentage (APLT: Abdollahpouri, Burke and Mobasher, FLAIRS 2019).

    values: indexed by id, [V]. A list shorter than k has the mean of what it shows.
    """
    ranked = ranked[..., : check_cutoff(k)]
    real = ranked != padding
    return jnp.where(real, values[ranked], 0.0).sum(axis=-1) / jnp.maximum(real.sum(axis=-1), 1)


def self_information(num_users_of_item: Array, num_users: int) -> Array:
    """−log2 of the share of users that met an item, in bits: numbers [...] → [...].

    An item that nobody met counts as if one user had, log2(num_users), the largest value there is: its own
    would be infinite. RecTools does the same.
    """
    return jnp.log2(num_users / jnp.maximum(num_users_of_item, 1).astype(jnp.float32))


# ids [..., N] → the distance of each pair of them [..., N, N]
Distance = Callable[[Array], Array]


def list_diversity(ranked: Array, distance: Distance, *, k: int, padding: int = 0) -> Array:
    """Mean distance of the pairs of different places among the first k, [..., N] → [...].

    Intra-list diversity (Smyth and McClave, ICCBR 2001; Ziegler et al., WWW 2005, section 3.3, who sum the
    similarities instead). 0 for a list with fewer than two items: leave such lists out of a mean.
    """
    ranked = ranked[..., : check_cutoff(k)]
    real = ranked != padding
    pair = real[..., :, None] & real[..., None, :] & ~jnp.eye(ranked.shape[-1], dtype=bool)
    total = jnp.where(pair, distance(ranked), 0.0).sum(axis=(-2, -1))
    return total / jnp.maximum(pair.sum(axis=(-2, -1)), 1)


def distance_of_features(features: Array, of: Callable[[Array], Array]) -> Distance:
    """By features of each id, [V, D]. of: [..., N, D] → [..., N, N], such as `cosine_distance`."""
    return lambda ids: of(features[ids])


def cosine_distance(vectors: Array) -> Array:
    """1 − cosine of each pair, from 0 to 2; a vector of zeros has the distance 1 to all."""
    norm = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
    unit = vectors / jnp.where(norm > 0, norm, 1.0)
    return 1.0 - jnp.einsum("...nd,...md->...nm", unit, unit)


def hamming_distance(features: Array) -> Array:
    """Number of features in which two items differ."""
    return (features[..., :, None, :] != features[..., None, :, :]).sum(axis=-1).astype(jnp.float32)


class CoVisits(NamedTuple):
    """Similarity of the items that some user met both, row by row, columns ascending: a sparse matrix.

    start: where the row of each id begins, int32 [V + 1]. column int32, value float32, one a pair.
    """

    start: Array
    column: Array
    value: Array


def distance_of_users(similar: CoVisits) -> Distance:
    """1 − |U_i ∩ U_j| / √(|U_i| |U_j|), where U_i are the users that met item i: 1 where nobody met both.

    The cosine of two columns of the interaction matrix, as in item-based collaborative filtering (Sarwar et
    al., WWW 2001, section 3.1.1), so it needs no features of items. `metrics.co_visits` makes the table.
    """

    def distance(ids: Array) -> Array:
        first, second = jnp.broadcast_arrays(ids[..., :, None], ids[..., None, :])
        low, end = similar.start[first], similar.start[first + 1]
        high = end
        for _ in range(similar.column.shape[0].bit_length()):  # binary search of the row
            middle = (low + high) // 2
            below = (low < high) & (similar.column[middle] < second)
            low, high = jnp.where(below, middle + 1, low), jnp.where(below, high, middle)
        found = (low < end) & (similar.column[low] == second)
        return jnp.where(first == second, 0.0, 1.0 - jnp.where(found, similar.value[low], 0.0))

    return distance


# --- values of all lists ---


def times_shown(ranked: Array, *, k: int, num_items: int) -> Array:
    """How often each item is among the first k of the lists: ids [..., N] → int32 [num_items].

    Entry i is of item id i + 1; the ids of places that are padding must be 0.
    """
    ids = ranked[..., : check_cutoff(k)].reshape(-1)
    return jnp.zeros(num_items + 1, jnp.int32).at[ids].add(1)[1:]


def coverage(shown: Array) -> Array:
    """Share of the items that are in some list, [..., I] → [...].

    Catalogue coverage, Herlocker et al., TOIS 2004, section 5.1.
    """
    return (shown > 0).mean(axis=-1)


def gini(shown: Array) -> Array:
    """Gini coefficient of exposure, Σ_j (2j − I − 1) x_(j) / (I Σ x) with x ascending: [..., I] → [...].

    All items count, those never shown too (leaving them out understates it): 0 where all are shown alike,
    (I − 1) / I where one is alone. NaN where nothing is shown. Shani and Gunawardana, Recommender Systems
    Handbook 2011, section 8.3.3.1; RecBole's GiniIndex.
    """
    size = shown.shape[-1]
    share = jnp.sort(shown, axis=-1) / _sum(shown.astype(jnp.float32))[..., None]
    return _sum((2.0 * jnp.arange(1, size + 1) - size - 1.0) / size * share)


def entropy(shown: Array, *, over: Literal["sum", "mean"] = "sum") -> Array:
    """Entropy of exposure in nats, −Σ p log p: [..., I] → [...]; NaN where nothing is shown.

    Shani and Gunawardana, Recommender Systems Handbook 2011, section 8.3.3.1.

    over: "mean" divides by the number of items that are shown, as RecBole does, which is no entropy.
    """
    if over not in ("sum", "mean"):
        raise ValueError(f"over={over!r}: must be 'sum' or 'mean'")
    share = shown / _sum(shown.astype(jnp.float32))[..., None]
    total = _sum(jnp.where(share > 0, -share * jnp.log(jnp.where(share > 0, share, 1.0)), share))
    return total if over == "sum" else total / (shown > 0).sum(axis=-1)


def _sum(values: Array) -> Array:
    """Sum over the last axis by halves, whose error grows with the logarithm of its length."""
    while values.shape[-1] > 1:
        if values.shape[-1] % 2:
            values = jnp.concatenate([values, jnp.zeros_like(values[..., :1])], axis=-1)
        values = values[..., ::2] + values[..., 1::2]
    return values[..., 0]


# --- popularity, on the host ---


def users_of_items(user: np.ndarray, item: np.ndarray, *, num_items: int) -> np.ndarray:
    """Number of different users that met each item, int64 [num_items + 1], indexed by id.

    user, item: of each event, integers [N].
    """
    pairs = np.unique(np.asarray(user).astype(np.int64) * (num_items + 1) + item)
    return np.bincount(pairs % (num_items + 1), minlength=num_items + 1)


def co_visits(user: np.ndarray, item: np.ndarray, *, num_items: int) -> CoVisits:
    """The table of `distance_of_users`, from the events' users and items, integers [N].

    Its size is the number of pairs of different items that some user met both.

    Raises:
      ValueError: there are more such pairs than int32 can count; `distance_of_features` needs no table.
    """
    _, user = np.unique(user, return_inverse=True)
    ones = np.ones(len(user), np.float32)
    met = sparse.csr_matrix((ones, (user, item)), shape=(int(user.max()) + 1, num_items + 1))
    met.data[:] = 1.0  # an item that a user met twice is met
    both = sparse.csr_matrix(met.T @ met)
    both.setdiag(0.0)
    both.eliminate_zeros()
    both.sort_indices()
    if both.nnz >= np.iinfo(np.int32).max:
        raise ValueError(
            f"{both.nnz:,} pairs of items have a user in common, more than a table holds; give features of "
            "the items, whose distances need no table"
        )
    alone = np.maximum(np.asarray(met.sum(axis=0)).reshape(-1), 1)
    row = np.repeat(np.arange(num_items + 1), np.diff(both.indptr))
    value = both.data / np.sqrt(alone[row] * alone[both.indices])
    # One entry more, so that a search that ends at the end reads something.
    column = np.append(both.indices, 0).astype(np.int32)
    return CoVisits(
        jnp.asarray(both.indptr.astype(np.int32)),
        jnp.asarray(column),
        jnp.asarray(np.append(value, 0.0).astype(np.float32)),
    )


def popularity_rank(num_users_of_item: np.ndarray) -> np.ndarray:
    """1 for the most popular items, 2 for the next, items of equal popularity alike: [V] → int32 [V].

    An item that nobody met has V, one more than there are items: by popularity nobody likes it (RecTools).
    """
    count = np.asarray(num_users_of_item)
    _, place = np.unique(-count, return_inverse=True)
    return np.where(count > 0, 1 + place, len(count)).astype(np.int32)


def popularity_lift(in_lists: float, in_histories: float) -> float:
    """By how much lists are more popular than what users met before, as a share of the latter.

    (GAP of lists − GAP of histories) / GAP of histories, where the group average popularity, GAP, is the mean
    over users of the mean popularity of their items (Abdollahpouri, Mansoury, Burke and Mobasher, "The
    Unfairness of Popularity Bias in Recommendation", RMSE at RecSys 2019, ΔGAP; "popularity lift" in "The
    Connection Between Popularity Bias, Calibration, and Fairness in Recommendation", RecSys 2020). 0: as
    popular as before; 1: twice as popular. NaN where histories have no popularity.
    """
    return in_lists / in_histories - 1.0 if in_histories > 0 else float("nan")
