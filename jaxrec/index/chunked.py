"""Exact scores of all items, a block of items at a time, folded into a result: a count, or the best k.

Nothing of size queries × items is held, unless one block has all items: a block of items is scored against
the queries, and only what the fold makes of it is kept. Every fold reads the same products, so that equal
items tie to the bit, in whichever blocks they lie.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrec.types import Array, Context, Merge, Retriever, Scorer, Variables

BLOCK = 16384  # items scored at a time


class Block(NamedTuple):
    """Scores of some items with consecutive ids for a batch of queries.

    scores: [B, N]. ids: int32 [N]. real: False in columns past the last item, bool [N]. finite: whether all
    scores of a query, before any rule changed them, are numbers, bool [B].
    """

    scores: Array
    ids: Array
    real: Array
    finite: Array


Step = Callable[[Any, Block], Any]
Fold = Callable[[Step, Any], Any]
Change = Callable[[Block], Block]  # what a rule makes of a block, such as for items that a user has seen


def unchanged(block: Block) -> Block:
    return block


class ItemScores(NamedTuple):
    """Scores of all items for a batch of queries, to be read block by block.

    fold(step, initial): what step(carry, block) -> carry makes of all blocks, one after the other in the
    order of their ids.
    num_queries, dtype: of the scores.
    """

    fold: Fold
    num_queries: int
    dtype: Any


class ItemBlocks(NamedTuple):
    """Vectors of the items first .. end - 1 in blocks [N, size, D], the last filled up with 0."""

    vectors: Array
    first: int
    end: int


def cut(table: Array, *, first: int = 1, count: int, block: int = BLOCK) -> ItemBlocks:
    """Cuts the rows first .. first + count - 1 of a table [V, D] into blocks of up to `block` items.

    Raises:
      ValueError: block or count is below 1.
    """
    for name, value in (("block", block), ("count", count)):
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    size = min(block, count)
    blocks = -(-count // size)
    rows = jnp.pad(table[first : first + count], ((0, blocks * size - count), (0, 0)))
    return ItemBlocks(rows.reshape(blocks, size, -1), first, first + count)


def products(
    query: Array, items: ItemBlocks, change: Change = unchanged, merge: Merge = "best"
) -> ItemScores:
    """Scores by dot products of items with queries [B, D], or [B, H, D] of several vectors (`merged`)."""
    num_blocks, size, _ = items.vectors.shape
    first_ids = items.first + size * jnp.arange(num_blocks)

    def scored(vectors: Array, first: Array) -> Block:
        return change(_block(merged(query, lambda one: one @ vectors.T, merge), first, end=items.end))

    if num_blocks == 1:
        fold = _fold_one(scored(items.vectors[0], first_ids[0]))
    else:

        def fold(step: Step, initial: Any) -> Any:
            def body(carry: Any, part: tuple[Array, Array]) -> tuple[Any, None]:
                return step(carry, scored(*part)), None

            return jax.lax.scan(body, initial, (items.vectors, first_ids))[0]

    return ItemScores(fold, query.shape[0], jnp.result_type(query, items.vectors))


def merged(query: Array, product: Callable[[Array], Array], merge: Merge = "best") -> Array:
    """The scores that several vectors of a query give together: [B, H, D] → [B, N].

    One vector is scored after the other, so that no more than a few [B, N] are held, whatever H. A score is
    NaN where one of its products is not a finite number.

    query: [B, D] has the products themselves. product: of one vector of each query, [B, D] → [B, N]. merge:
    see `types.Retriever`.

    Raises:
      ValueError: the query has another rank or no vector, or there is no such rule.
    """
    if merge not in MERGED:
        raise ValueError(f"merge={merge!r}: must be one of {', '.join(map(repr, MERGED))}")
    if query.ndim not in (2, 3) or 0 in query.shape[1:]:
        raise ValueError(
            f"query of shape {list(query.shape)}: must be [B, D], or [B, H, D] with H at least 1"
        )
    if query.ndim == 2 or query.shape[1] == 1:
        return product(query.reshape(query.shape[0], query.shape[-1]))
    return MERGED[merge](product, jnp.moveaxis(query, 1, 0))


def _best_product(product: Callable[[Array], Array], vectors: Array) -> Array:
    """The largest product with any of the vectors [H, B, D]."""

    def better(best: Array, vector: Array) -> tuple[Array, None]:
        value = product(vector)
        return jnp.maximum(best, jnp.where(jnp.isfinite(value), value, jnp.nan)), None

    return jax.lax.scan(better, *_first_and_rest(product, vectors))[0]


def _attended_product(product: Callable[[Array], Array], vectors: Array) -> Array:
    """The mean of the products with vectors [H, B, D], weighted by their softmax, of one pass."""

    def add(carry: tuple[Array, Array, Array], vector: Array) -> tuple[tuple[Array, Array, Array], None]:
        largest, total, weighted = carry
        value = product(vector)
        top = jnp.maximum(largest, value)
        before, weight = jnp.exp(largest - top), jnp.exp(value - top)
        return (top, total * before + weight, weighted * before + weight * value), None

    first, rest = _first_and_rest(product, vectors)
    _, total, weighted = jax.lax.scan(add, (first, jnp.ones_like(first), first), rest)[0]
    return weighted / total


def _first_and_rest(product: Callable[[Array], Array], vectors: Array) -> tuple[Array, Array]:
    first = product(vectors[0])
    return jnp.where(jnp.isfinite(first), first, jnp.nan), vectors[1:]


MERGED: Mapping[str, Callable[[Callable[[Array], Array], Array], Array]] = {
    "best": _best_product,
    "attention": _attended_product,
}


def dense(scores: Array, *, first: int = 1, count: int, change: Change = unchanged) -> ItemScores:
    """The items first .. first + count - 1 as one block of scores [B, V] that a model gave of all ids."""
    columns = scores[:, first : first + count]
    block = change(_block(columns, jnp.int32(first), end=first + count))
    return ItemScores(_fold_one(block), scores.shape[0], scores.dtype)


def some_products(query: Array, table: Array, ids: Array, merge: Merge = "best") -> Array:
    """Scores of the items `ids` [B, N] of each query, as `products` has them but for rounding: [B, N]."""
    rows = table[ids]
    return merged(query, lambda one: jnp.einsum("bd,bnd->bn", one, rows), merge)


def _block(scores: Array, first: Array, *, end: int) -> Block:
    ids = first + jnp.arange(scores.shape[1])
    return Block(scores, ids, ids < end, jnp.isfinite(scores).all(axis=1))


def _fold_one(block: Block) -> Fold:
    return lambda step, initial: step(initial, block)


def target_scores(items: ItemScores, target: Array) -> Array:
    """The score of one item for each query, ids [B] → [B]; 0 where the id is none of the items."""
    return some_scores(items, target[:, None])[:, 0]


def some_scores(items: ItemScores, ids: Array) -> Array:
    """Scores of some items for each query, ids [B, A] → [B, A]; 0 where the id is none of the items."""

    return items.fold(lambda found, block: read_scores(found, block, ids), jnp.zeros(ids.shape, items.dtype))


def read_scores(found: Array, block: Block, ids: Array) -> Array:
    """`found` with the scores of those ids that are in the block, [B, A]: a step of a fold."""
    size = len(block.ids)
    column = ids - block.ids[0]
    value = jnp.take_along_axis(block.scores, jnp.clip(column, 0, size - 1), axis=1)
    return jnp.where((column >= 0) & (column < size), value, found)


class Best(NamedTuple):
    """The best items of each query: scores and ids [B, k], best first.

    finite: whether all scores of a query were numbers, bool [B]; where not, its list means nothing.
    """

    scores: Array
    ids: Array
    finite: Array


def top_k(items: ItemScores, k: int) -> Best:
    """The k best items of each query; of equal scores the smaller id comes first.

    Items of score -inf, which a rule took out, are in no list; where fewer than k items remain, it ends in
    the score -inf and the id 0.

    Raises:
      ValueError: k is below 1.
    """
    return items.fold(keep_best, none_yet(items, k))


def none_yet(items: ItemScores, k: int) -> Best:
    """Lists without an item, with which a fold of `keep_best` begins. Raises ValueError: k is below 1."""
    if k < 1:
        raise ValueError(f"k={k}: must be at least 1")
    # Of scores -inf those of `none` come first, so an item that was taken out is in no list.
    shape = (items.num_queries, k)
    scores, ids = jnp.full(shape, -jnp.inf, items.dtype), jnp.zeros(shape, jnp.int32)
    return Best(scores, ids, jnp.ones(shape[0], bool))


def keep_best(best: Best, block: Block) -> Best:
    """The best of the lists and a block of later items: a step of a fold, see `top_k`."""
    scores = jnp.where(block.real, one_zero(block.scores), -jnp.inf)
    ids = jnp.broadcast_to(block.ids, scores.shape)
    both = jnp.concatenate([best.scores, scores], axis=1)
    value, place = jax.lax.top_k(both, best.ids.shape[1])
    chosen = jnp.take_along_axis(jnp.concatenate([best.ids, ids], axis=1), place, axis=1)
    return Best(value, chosen, best.finite & block.finite)


def one_zero(scores: Array) -> Array:
    """Scores with 0 in place of -0, which equals it but which `jax.lax.top_k` puts behind it."""
    return jnp.where(scores == 0, jnp.zeros_like(scores), scores)


class BatchScores(NamedTuple):
    """How a batch of queries is scored.

    vectors: of the queries, [B, ...], or of a `Scorer` their scores. of(vectors, change): the scores that
    these, or those of some of the queries, give all items, after a rule. some(ids): of the ids [B, N] of each
    query, [B, N].
    """

    vectors: Array
    of: Callable[[Array, Change], ItemScores]
    some: Callable[[Array], Array]

    def every(self, change: Change) -> ItemScores:
        """Scores of all items for all queries, after a rule."""
        return self.of(self.vectors, change)


def reader(
    model: Retriever | Scorer,
    variables: Variables,
    *,
    num_items: int,
    padding: bool = False,
    block: int = BLOCK,
) -> Callable[[Mapping[str, Array], Context], BatchScores]:
    """read(queries, context) -> scores of a batch: of items 1..num_items.

    Item vectors are made once, whatever the number of batches.

    padding: score every id that the model has, 0 and those past the items too.
    block: items scored at a time; a `Scorer` scores all at once.

    Raises:
      ValueError (for a `Scorer` from read): the model has fewer than num_items + 1 ids.
    """
    first = 0 if padding else 1
    if isinstance(model, Scorer):

        def read_dense(queries: Mapping[str, Array], context: Context) -> BatchScores:
            scores = model.scores(variables, queries, context)
            check_ids(scores.shape[1], num_items)
            count = scores.shape[1] if padding else num_items
            return BatchScores(
                scores,
                lambda some, change: dense(some, first=first, count=count, change=change),
                lambda ids: (
                    jnp.take_along_axis(scores, ids, axis=1)  # else all scores are not computed
                    if model.some is None
                    else model.some(variables, queries, context, ids)
                ),
            )

        return read_dense
    table = model.items(variables)
    check_ids(table.shape[0], num_items)
    items = cut(table, first=first, count=table.shape[0] if padding else num_items, block=block)

    def read_products(queries: Mapping[str, Array], context: Context) -> BatchScores:
        query = model.query(variables, queries, context)
        return BatchScores(
            query,
            lambda some, change: products(some, items, change, model.merge),
            lambda ids: some_products(query, table, ids, model.merge),
        )

    return read_products


def check_ids(scored: int, num_items: int) -> None:
    """Raises ValueError unless a model scores padding and each of num_items items, `scored` ids in all."""
    if scored <= num_items:
        raise ValueError(
            f"num_items={num_items}: the model's item table has {scored} rows, for items "
            f"1..{scored - 1}; build the model with num_items={num_items}, that of the data"
        )
