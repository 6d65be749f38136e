"""The best items of each query by a protocol, for metrics of lists, beside the rank of its target.

A pass over the items, a block at a time (`index.chunked`), keeps the best k of those that are not relevant;
the relevant ones are scored by the same products and sorted in. So a relevant item comes after all others of
equal score under "pessimistic" ties (before them under "optimistic" ones), to the bit, as in `index.rank`:
with one relevant item, whether it is among the first k and whether its rank is at most k are one thing. Of
several relevant items of equal score the smaller id comes first, while the rank counts all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrec import metrics, packing
from jaxrec.index import chunked
from jaxrec.index.chunked import BLOCK, Best, Block, ItemScores
from jaxrec.index.rank import candidate_rule, check_protocol, of_all_items, rank_in_all, read_inputs
from jaxrec.types import Array, Context, Measure, Protocol, Retriever, Scorer, Variables


class Lists(NamedTuple):
    """What `make_top_k` measures of queries, leading axes first.

    rank: of the target, as `index.rank` counts it, int32 [...]. num_relevant: different relevant items of the
    query, seen ones too, int32 [...]. ids: of the best items, best first, then 0, int32 [..., k]. hits: 1
    where one is relevant, else 0, int32 [..., k].
    """

    rank: Array
    num_relevant: Array
    ids: Array
    hits: Array

    def as_values(self) -> Array:
        """One array, int32 [..., 2 + 2k], as an `Evaluation` gathers it."""
        first = jnp.stack([self.rank, self.num_relevant], axis=-1)
        return jnp.concatenate([first, self.ids, self.hits], axis=-1)

    @classmethod
    def from_values(cls, values: Array) -> Lists:
        """The inverse of `as_values`."""
        k = (values.shape[-1] - 2) // 2
        return cls(values[..., 0], values[..., 1], values[..., 2 : 2 + k], values[..., 2 + k :])


def make_top_k(
    model: Retriever | Scorer,
    protocol: Protocol,
    *,
    num_items: int,
    history: int,
    k: int,
    num_relevant: int = 1,
    ranks: bool = True,
    block: int = BLOCK,
) -> Measure:
    """top_k(variables, queries, context) -> (`Lists` as values, number of queries without valid ones).

    The values are [batches, B, 2 + 2k], see `Lists.from_values`, the numbers [batches]. A query has no valid
    list where it has no rank, or where its relevant events are not all in the context.

    queries: as of `index.rank.make_rank`; a column `num_relevant` int32 [batches, B] says how many events
    from the target on are relevant, which are read from the context, repeats counting once. Without it the
    target alone is.
    Items that the protocol excludes are in no list. Where fewer than k are left, as where k is above
    num_items, the list ends in 0. Of equal scores the smaller id comes first, but see the module on relevant
    items.

    num_items, history, block: as of `make_rank`. num_relevant: the largest number of that column. ranks:
    whether the target's rank is counted too, in a second pass over the items; it is 0 otherwise.

    Raises:
      ValueError: k or num_relevant is below 1, or the protocol's candidates are not all items, or it scores
        seen items 0, which makes candidates of ids that are no items.
    """
    check_protocol(protocol)
    for name, value in (("k", k), ("num_relevant", num_relevant)):
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    if not of_all_items(protocol):
        raise ValueError(
            f"protocol.candidates={protocol.candidates!r}: lists are of all items; rank with candidates='all'"
        )
    if protocol.seen == "zero":
        raise ValueError(
            "protocol.seen='zero': ids that are no items would be in the lists; rank with 'exclude' or 'keep'"
        )

    def top_k(variables: Variables, queries: Mapping[str, Array], context: Context) -> tuple[Array, Array]:
        read = chunked.reader(model, variables, num_items=num_items, block=block)

        def batch(queries: Mapping[str, Array]) -> tuple[Array, Array]:
            target = queries["target"]
            known, seen = read_inputs(
                queries, context, protocol=protocol, num_items=num_items, history=history
            )
            relevant = target[:, None]
            if "num_relevant" in queries:
                number = queries["num_relevant"]
                end = context["start"][queries["user"]] + queries["length"] + number
                known = known & (number >= 1) & (number <= num_relevant) & (end <= len(context["items"]))
                relevant = packing.window(context["items"], end, number, num_relevant)
            relevant = _without_repeats(relevant)
            scores = read(queries, context)
            rule = candidate_rule(seen, protocol, context)
            ids, hits, finite = _best(scores.every(rule), relevant, protocol=protocol, k=k)
            rank = jnp.zeros_like(target)
            if ranks:
                rank, _ = rank_in_all(scores, target, seen=seen, protocol=protocol, context=context)
                if protocol.seen == "exclude":
                    rank = jnp.where((seen == target[:, None]).any(axis=1), metrics.MISS, rank)
                rank = jnp.where(known, rank, metrics.MISS)
            found = Lists(rank, jnp.sum(relevant > 0, axis=1, dtype=jnp.int32), ids, hits).as_values()
            return found, jnp.sum(~(finite & known) & queries["mask"])

        return jax.lax.map(batch, dict(queries))

    return top_k


def _best(items: ItemScores, relevant: Array, *, protocol: Protocol, k: int) -> tuple[Array, Array, Array]:
    """The best k items of each query, which of them are relevant, and whether all scores are finite.

    relevant [B, A] → int32 [B, k] twice, bool [B].
    """

    def step(carry: tuple[Best, Array], block: Block) -> tuple[Best, Array]:
        best, own = carry
        marks = metrics.seen_mask(relevant, len(block.ids), first=block.ids[0])
        others = block._replace(scores=jnp.where(marks, -jnp.inf, block.scores))
        return chunked.keep_best(best, others), chunked.read_scores(own, block, relevant)

    initial = chunked.none_yet(items, k), jnp.zeros(relevant.shape, items.dtype)
    others, own = items.fold(step, initial)
    own = jnp.where(relevant > 0, own, -jnp.inf)
    score = jnp.concatenate([others.scores, own], axis=1)
    ids = jnp.concatenate([others.ids, relevant], axis=1)
    hits = jnp.arange(ids.shape[1]) >= k
    last = hits if protocol.ties == "pessimistic" else ~hits
    order = (-score, jnp.broadcast_to(last, ids.shape).astype(jnp.int32), ids)
    lowered, _, ids, hits = jax.lax.sort(
        (*order, jnp.broadcast_to(hits, ids.shape).astype(jnp.int32)), dimension=1, num_keys=3
    )
    shown = lowered[:, :k] < jnp.inf
    return jnp.where(shown, ids[:, :k], 0), jnp.where(shown, hits[:, :k], 0), others.finite


def _without_repeats(ids: Array) -> Array:
    """In ascending order, repeats replaced by 0: [B, A] → [B, A]."""
    ordered = jnp.sort(ids, axis=1)
    return ordered.at[:, 1:].set(jnp.where(ordered[:, 1:] == ordered[:, :-1], 0, ordered[:, 1:]))
