"""Ranks of targets by counting: 1 + the number of other candidates that score at least as high.

Nothing of size users × items is held: a batch of queries is scored against a block of items at a time
(`index.chunked`), and the target's score is taken from the very product that the others come from, so that
equal items tie to the bit.

On sampled candidates: their metrics are not those of the full ranking and may order models differently
(Krichene and Rendle, KDD 2020); they exist here to compare with papers that used them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from jaxrec import metrics, packing
from jaxrec.index import chunked
from jaxrec.index.chunked import BLOCK, BatchScores, Block, Change
from jaxrec.types import ONLY, Array, Context, Measure, Protocol, Retriever, Scorer, Variables

FEW = 64  # queries that a CPU ranks at a time


def make_rank(
    model: Retriever | Scorer, protocol: Protocol, *, num_items: int, history: int, block: int = BLOCK
) -> Measure:
    """rank(variables, queries, context) -> (ranks [batches, B], queries without a rank [batches]).

    A target that the rule for seen items or the set of candidates takes out has the rank `metrics.MISS`. A
    query has no rank, and is counted, where a score is NaN or infinite, its target or one of its candidates
    is no item, or its events are not all in the context or are more than `history`.

    queries: columns of `data.events.batching.batched_queries`, with leading axis batches; for sampled
    candidates also `candidates` [batches, B, N], ids of which the target is none; of candidates that are
    "given" 0 is none, so that queries may have different numbers of them.
    num_items: candidates are 1..num_items; under the "zero" rule all ids that the model scores are.
    history: longest input of any query; context: items [N], start [U].
    block: items scored at a time; a `Scorer` scores all at once.

    Raises:
      ValueError: the protocol names a rule that does not exist; while tracing: the model scores fewer than
        num_items + 1 ids.
    """
    check_protocol(protocol)

    def rank(variables: Variables, queries: Mapping[str, Array], context: Context) -> tuple[Array, Array]:
        read = chunked.reader(
            model, variables, num_items=num_items, padding=protocol.seen == "zero", block=block
        )

        def batch(queries: Mapping[str, Array]) -> tuple[Array, Array]:
            target = queries["target"]
            known, seen = read_inputs(
                queries, context, protocol=protocol, num_items=num_items, history=history
            )
            scores = read(queries, context)
            if of_all_items(protocol):
                ranks, valid = rank_in_all(scores, target, seen=seen, protocol=protocol, context=context)
            else:
                candidates = queries["candidates"]
                ranks, valid = _rank_in_sample(scores, target, candidates, seen, protocol)
                least = 0 if protocol.candidates.startswith("given") else 1
                valid = valid & ((candidates >= least) & (candidates <= num_items)).all(axis=1)
            if protocol.seen == "exclude":
                ranks = jnp.where((seen == target[:, None]).any(axis=1), metrics.MISS, ranks)
            ranks = jnp.where(known, ranks, metrics.MISS)
            return ranks, jnp.sum(~(valid & known) & queries["mask"])

        return jax.lax.map(batch, dict(queries))

    return rank


def check_protocol(protocol: Protocol) -> None:
    """Raises ValueError where a protocol names a rule for seen items or for ties that does not exist."""
    if protocol.seen not in ("exclude", "zero", "keep"):
        raise ValueError(f"protocol.seen={protocol.seen!r}: expected 'exclude', 'zero' or 'keep'")
    if protocol.ties not in ("pessimistic", "optimistic"):
        raise ValueError(f"protocol.ties={protocol.ties!r}: expected 'pessimistic' or 'optimistic'")
    if protocol.seen == "zero" and protocol.candidates.startswith(ONLY):
        raise ValueError(
            f"protocol.seen='zero', candidates={protocol.candidates!r}: ids that are no items are in no set; "
            "take 'exclude' or 'keep'"
        )


def read_inputs(
    queries: Mapping[str, Array], context: Context, *, protocol: Protocol, num_items: int, history: int
) -> tuple[Array, Array]:
    """Whether a query's target and input are known, bool [B], and the ids of its input [B, history].

    Where the protocol keeps seen items the ids are not read: [B, 1], padding. Arguments: as of `make_rank`.
    """
    target = queries["target"]
    known, seen = (target >= 1) & (target <= num_items), jnp.zeros((len(target), 1), jnp.int32)
    if "start" in context:
        known = known & packing.has_events(queries, context)
    if protocol.seen != "keep":
        length = queries["length"]
        end = context["start"][queries["user"]] + length
        seen = packing.window(context["items"], end, length, history)
        known = known & (length <= history)
    return known, seen


def seen_rule(seen: Array, protocol: Protocol) -> Change:
    """What the protocol makes of a block's scores for seen items, ids [B, S]."""

    def apply_rule(block: Block) -> Block:
        marks = metrics.seen_mask(seen, len(block.ids), first=block.ids[0])
        return block._replace(scores=metrics.apply_seen(block.scores, marks, protocol.seen))

    return apply_rule


def candidate_rule(seen: Array, protocol: Protocol, context: Context) -> Change:
    """What the protocol makes of a block's scores: of seen items, and of those outside its set of items.

    Raises:
      ValueError: the context has no set of items of the protocol's name.
    """
    of_seen = seen_rule(seen, protocol)
    if protocol.candidates == "all":
        return of_seen
    if protocol.candidates not in context:
        raise ValueError(
            f"protocol.candidates={protocol.candidates!r}: the context has no such column, a mask of items"
        )
    allowed = jnp.asarray(context[protocol.candidates])

    def apply_rule(block: Block) -> Block:
        kept = allowed.at[block.ids].get(mode="fill", fill_value=False)
        scores = jnp.where(kept, of_seen(block).scores, -jnp.inf)
        return block._replace(scores=scores)

    return apply_rule


def of_all_items(protocol: Protocol) -> bool:
    """Whether candidates are all items, or all of a named set."""
    return protocol.candidates == "all" or protocol.candidates.startswith(ONLY)


def rank_in_all(
    scores: BatchScores, target: Array, *, seen: Array, protocol: Protocol, context: Context
) -> tuple[Array, Array]:
    """The target's rank among all items, or all of a set, and whether all scores are finite: [B] twice."""

    def count_all(vectors: Array, target: Array, seen: Array) -> tuple[Array, Array]:
        items = scores.of(vectors, candidate_rule(seen, protocol, context))
        target_score = chunked.target_scores(items, target)

        def count(found: tuple[Array, Array], block: Block) -> tuple[Array, Array]:
            rivals = block.real & (block.ids != target[:, None])
            above = metrics.count_above(block.scores, target_score, where=rivals, ties=protocol.ties)
            return found[0] + above, found[1] & block.finite

        return items.fold(count, (jnp.zeros(len(target), jnp.int32), jnp.ones(len(target), bool)))

    above, finite = jax.lax.platform_dependent(
        *(scores.vectors, target, seen),
        cpu=functools.partial(_few_at_a_time, count_all),
        default=count_all,
    )
    if protocol.candidates == "all":
        return 1 + above, finite
    allowed = jnp.asarray(context[protocol.candidates]).at[target].get(mode="fill", fill_value=False)
    return jnp.where(allowed, 1 + above, metrics.MISS), finite


def _few_at_a_time(of: Callable[..., tuple[Array, Array]], *queries: Array) -> tuple[Array, Array]:
    """A function of queries, applied to so few at a time that their scores stay in a core's cache."""
    size = math.gcd(len(queries[0]), FEW)
    if size < FEW // 4:
        return of(*queries)
    parts = [column.reshape(-1, size, *column.shape[1:]) for column in queries]
    first, second = jax.lax.map(lambda part: of(*part), parts)
    return first.reshape(-1), second.reshape(-1)


def _rank_in_sample(
    scores: BatchScores, target: Array, candidates: Array, seen: Array, protocol: Protocol
) -> tuple[Array, Array]:
    """The target's rank among sampled or given candidates, and whether their scores are finite: [B] twice."""
    ids = jnp.concatenate([target[:, None], candidates], axis=1)
    real = ids > 0
    found = scores.some(ids)
    finite = (jnp.isfinite(found) | ~real).all(axis=1)
    if protocol.seen == "zero":
        marks = (ids[..., None] == seen[:, None]).any(axis=-1)
        found = metrics.apply_seen(found, marks, protocol.seen)
    first = jnp.zeros(len(ids), jnp.int32)
    return metrics.rank_of_target(found, first, where=real, ties=protocol.ties), finite
