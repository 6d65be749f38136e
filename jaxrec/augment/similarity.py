"""Item similarity for substitution: co-occurrence, item2vec, item embeddings, and their ensemble.

Offline similarities are computed on the host from training events, online ones from the item table inside a
training step (CoSeRec, Liu et al., arXiv 2108.06479, section 3.3; Dang et al., AAAI 2023). Only the most
similar item of every item is kept.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from jaxrec.augment.item2vec import item_vectors
from jaxrec.types import Array, Key


class SimilarItems(NamedTuple):
    """The most similar item of every item. All shapes depend on the vocabulary only, so that one instance can
    replace another in a compiled step.

    item: int32 [vocab_size]; 0 for an item without neighbours, for which a random member of the pool is drawn
      at every use. score: float32 [vocab_size], of any scale.
    low, high: range of the scores of all pairs, float32 [].
    pool: the items that have neighbours, the first pool_size [] entries of int32 [vocab_size].
    """

    item: Array
    score: Array
    low: Array
    high: Array
    pool: Array
    pool_size: Array

    def draw(self, words: Array) -> Array:
        """A uniform member of the pool for every random uint32, for pools well below 2^24."""
        share = (words >> 8).astype(jnp.float32) * jnp.float32(2.0**-24)
        index = jnp.minimum((share * self.pool_size).astype(jnp.int32), jnp.maximum(self.pool_size - 1, 0))
        return self.pool.at[index].get(mode="promise_in_bounds")


def _as_similar_items(
    item: np.ndarray, score: np.ndarray, low: float, high: float, pool: np.ndarray
) -> SimilarItems:
    padded = np.zeros(len(item), np.int32)
    padded[: len(pool)] = pool
    return SimilarItems(
        item=jnp.asarray(item, jnp.int32),
        score=jnp.asarray(score, jnp.float32),
        low=jnp.float32(low),
        high=jnp.float32(high),
        pool=jnp.asarray(padded),
        pool_size=jnp.int32(len(pool)),
    )


def training_histories(items: np.ndarray, offsets: np.ndarray, *, held_out: int = 3) -> list[np.ndarray]:
    """Each user's items without the last `held_out`: 3 in the official code, as in its training inputs.

    items: ids, grouped by user, oldest first, [N]; offsets: where each user begins, and the end, [U + 1].
    """
    return [items[a : max(a, b - held_out)] for a, b in itertools.pairwise(offsets)]


def random_items(
    items: np.ndarray, offsets: np.ndarray, *, num_items: int, held_out: int = 3
) -> SimilarItems:
    """A random training item, drawn at every use; arguments as for `item_cf`."""
    histories = training_histories(items, offsets, held_out=held_out)
    pool = np.unique(np.concatenate([*histories, np.zeros(0, np.int32)]))
    return _as_similar_items(
        np.zeros(num_items + 1), score=np.zeros(num_items + 1), low=0.0, high=0.0, pool=pool
    )


def item_cf(
    items: np.ndarray,
    offsets: np.ndarray,
    *,
    num_items: int,
    inverse_user_frequency: bool = False,
    held_out: int = 3,
    block: int = 1024,
) -> SimilarItems:
    """Cosine of items by users, #{users of both} / sqrt(#{users of i} * #{users of j}).

    Of equally similar items the first that co-occurs wins, reading users and their items in order, as in the
    official code.

    Args:
      items: int [N], ids 1..num_items grouped by user, oldest first.
      offsets: int [U + 1], where each user's items begin, and the end.
      inverse_user_frequency: a user counts 1 / ln(1 + #distinct items of the user): ItemCF-IUF, the default
        of both papers' code.
      held_out: number of each user's last events that are not read.
      block: items processed at once; bounds memory.
    """
    if len(items) and not 1 <= items.min() <= items.max() <= num_items:
        raise ValueError(f"items: ids {items.min()}..{items.max()} must lie in 1..num_items={num_items}")
    users = [_distinct_items(part) for part in training_histories(items, offsets, held_out=held_out)]
    ends = np.cumsum([0, *map(len, users)])
    column = np.concatenate([*users, np.zeros(0, np.int64)]).astype(np.int64)
    ones = np.ones(len(column))
    by_user = sparse.csr_matrix((ones, column, ends), shape=(len(users), num_items + 1))
    size = np.diff(ends)
    weight = 1 / np.log(1.0 + np.maximum(size, 1)) if inverse_user_frequency else np.ones(len(users))
    by_item = sparse.csr_matrix((sparse.diags(weight) @ by_user).T)
    by_item.sort_indices()  # users in order, so that rounding and ties are as in the official code
    count = np.bincount(column, minlength=num_items + 1)
    best, score = np.zeros(num_items + 1, np.int32), np.zeros(num_items + 1)
    low, high = np.inf, -np.inf
    for begin in range(0, num_items + 1, block):
        pairs = sparse.coo_matrix(by_item[begin : begin + block] @ by_user)
        i, j = pairs.row + begin, pairs.col
        i, j, value = (x[i != j] for x in (i, j, pairs.data))
        value = value / np.sqrt((count[i] * count[j]).astype(np.float64))
        if len(value) == 0:
            continue
        low, high = min(low, value.min()), max(high, value.max())
        np.maximum.at(score, i, value)
        top = value == score[i]
        order = np.argsort(i[top], kind="stable")
        groups, starts = np.unique(i[top][order], return_index=True)
        for item, tied in zip(groups, np.split(j[top][order], starts[1:]), strict=True):
            best[item] = (
                tied[0]
                if len(tied) == 1
                else _first_seen(item, tied=set(tied.tolist()), by_item=by_item, users=users)
            )
    pool = np.flatnonzero(best)
    return _as_similar_items(best, score, *((low, high) if len(pool) else (0.0, 0.0)), pool)


def _distinct_items(part: np.ndarray) -> np.ndarray:
    """The distinct items of a user, in the order of first occurrence."""
    return part[np.sort(np.unique(part, return_index=True)[1])]


def _first_seen(item: int, tied: set[int], by_item: sparse.csr_matrix, users: list[np.ndarray]) -> int:
    """Of the items tied with each other, the first that co-occurs with `item`."""
    item_users = by_item.indices[by_item.indptr[item] : by_item.indptr[item + 1]]
    return next(j for user in item_users for j in users[user].tolist() if j in tied)


def item2vec(
    key: Key,
    items: np.ndarray,
    offsets: np.ndarray,
    *,
    num_items: int,
    dim: int = 20,
    window: int = 5,
    epochs: int = 100,
    negatives: int = 5,
    neighbours: int = 20,
    learning_rate: float = 0.025,
    batch_size: int = 1024,
    held_out: int = 3,
) -> SimilarItems:
    """Cosine of skip-gram vectors (`item2vec.item_vectors`, which says where it departs from gensim).

    Defaults are those of the references. As there, `low` and `high` are the range over each item's best
    `neighbours`. Other arguments as for `item_cf`.
    """
    histories = training_histories(items, offsets, held_out=held_out)
    pool = np.unique(np.concatenate([*histories, np.zeros(0, np.int64)]))
    if max(map(len, histories), default=0) < 2:  # no item has a neighbour
        return _as_similar_items(
            np.zeros(num_items + 1), score=np.zeros(num_items + 1), low=0.0, high=0.0, pool=pool
        )
    table = item_vectors(
        key,
        histories,
        num_items=num_items,
        dim=dim,
        window=window,
        epochs=epochs,
        negatives=negatives,
        learning_rate=learning_rate,
        batch_size=batch_size,
    )
    seen = table[pool]
    seen /= jnp.linalg.norm(seen, axis=1, keepdims=True)
    near, value = _nearest_vectors(seen, min(neighbours, len(pool) - 1))
    best, score = np.zeros(num_items + 1), np.zeros(num_items + 1)
    best[pool], score[pool] = pool[np.asarray(near[:, 0])], value[:, 0]
    return _as_similar_items(best, score=score, low=float(value.min()), high=float(value.max()), pool=pool)


def _nearest_vectors(table: Array, count: int, block: int = 512) -> tuple[Array, Array]:
    """The `count` largest dot products of every vector with others: their indices and values, [N, count]."""

    def nearest(i: Array) -> tuple[Array, Array]:
        other = jnp.arange(len(table)) != i
        value, index = jax.lax.top_k(jnp.where(other, table @ table[i], -jnp.inf), count)
        return index, value

    return jax.jit(lambda: jax.lax.map(nearest, jnp.arange(len(table)), batch_size=block))()


def online(table: Array, *, inverted: bool = False, block: int = 512) -> SimilarItems:
    """The item with the largest dot product with each item, other than itself, inside a training step.

    Products are computed in blocks of items, never all at once. `low` and `high` are the range of the
    products of all pairs, each item with itself included, as in the official code.

    Args:
      table: item vectors, float [vocab_size, D]; the padding vector 0 is ignored.
      inverted: TiCoSeRec's code takes the item of *least* product instead, padding included (which as a
        substitute is again a random item): only to reproduce that code.
    """
    size = len(table)
    lowest = 0 if inverted else 1
    sign = -1.0 if inverted else 1.0

    def best(i: Array) -> tuple[Array, Array, Array, Array]:
        product = jnp.einsum("vd,d->v", table, table[i], precision="highest")
        ids = jnp.arange(size)
        other = jnp.where((ids != i) & (ids >= lowest), sign * product, -jnp.inf)
        item = jnp.argmax(other)
        counted = (i > 0) & (ids >= lowest)
        low = jnp.min(jnp.where(counted, product, jnp.inf))
        high = jnp.max(jnp.where(counted, product, -jnp.inf))
        return item.astype(jnp.int32), product[item], low, high

    item, score, low, high = jax.lax.map(best, jnp.arange(size), batch_size=block)
    real = jnp.arange(size) > 0
    pool = jnp.where(jnp.arange(size) < size - 1, jnp.arange(1, size + 1, dtype=jnp.int32), 0)
    return SimilarItems(
        item=jnp.where(real, item, 0),
        score=jnp.where(real, score, 0).astype(jnp.float32),
        low=low.min().astype(jnp.float32),
        high=high.max().astype(jnp.float32),
        pool=pool,
        pool_size=jnp.int32(size - 1),
    )


def normalise(similar: SimilarItems, *, inverted: bool = False) -> SimilarItems:
    """Scores scaled to 0..1, (s - low) / (high - low); 0 for items without neighbours or if all are equal.

    inverted: (high - s) / (high - low), as in TiCoSeRec's code.
    """
    spread = similar.high - similar.low
    above = similar.high - similar.score if inverted else similar.score - similar.low
    score = jnp.where((similar.item > 0) & (spread > 0), above / jnp.where(spread > 0, spread, 1), 0)
    zero = jnp.zeros_like(similar.low)
    return similar._replace(score=score, low=zero, high=zero + 1)


def keep_larger(first: SimilarItems, second: SimilarItems) -> SimilarItems:
    """For every item the substitute of larger score, that of `first` on ties; the pool is that of `first`."""
    keep = first.score >= second.score
    return first._replace(
        item=jnp.where(keep, first.item, second.item), score=jnp.where(keep, first.score, second.score)
    )


def hybrid(offline: SimilarItems, online: SimilarItems, *, inverted: bool = False) -> SimilarItems:
    """CoSeRec's ensemble: the larger of the normalised scores; an item without offline neighbours scores 0.

    inverted: TiCoSeRec's code, which normalises the wrong way round (with `online(…, inverted=True)`), so
      that it mostly picks the least similar item.
    """
    return keep_larger(normalise(offline, inverted=inverted), normalise(online, inverted=inverted))
