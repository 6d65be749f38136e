"""Beam search for items by their semantic ids: a model names an item code by code.

(Rajput et al., NeurIPS 2023, arXiv:2305.05065, section 3.2.) The trie of `index.semantic_ids` keeps the
search on tuples of items, so that each of the W best is an item and none is found twice. Unlike
`index.paths.beam_search` not every tuple is there, and the model may carry state from code to code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxrec.index.scored import Found, best_of
from jaxrec.index.semantic_ids import NONE, SemanticIds
from jaxrec.types import Array

State = Any  # of a model, of W beginnings of each query: a tree of arrays [B, W, …]
# (state, the last code of each beginning int32 [B, W], None before the first; the level from 0) → logits of
# the next code [B, W, K] and the state after it
Step = Callable[[State, Array | None, int], tuple[Array, State]]
Masking = Literal["after", "before"]


def search(
    ids: SemanticIds, step: Step, state: State, *, k: int, width: int, masking: Masking = "after"
) -> Found:
    """The k items of the largest log-probability that a beam of `width` beginnings finds, D static steps.

    With a width of the number of items it is exact. `Found.scored` counts the beginnings that were scored.

    state: before the first code, of one beginning a query, [B, 1, …]. masking: "after" takes codes without an
    item out after the softmax, so that a score is the model's own log-likelihood of the tuple; "before" takes
    them out of the logits, which makes what is left sum to one at each level: another ranking.

    Raises:
      ValueError: k is below 1, width below k, or there is no such masking.
    """
    if not 1 <= k <= width:
        raise ValueError(
            f"k={k}, width={width}: k must be at least 1 and width at least k, as a beam finds no more items "
            "than it is wide"
        )
    if masking not in ("after", "before"):
        raise ValueError(f"masking={masking!r}: must be 'after' or 'before' the softmax")
    codes: Array | None = None
    total = jnp.zeros(())
    node = jnp.zeros((jax.tree.leaves(state)[0].shape[0], 1), jnp.int32)
    scored, finite = jnp.int32(0), jnp.array(True)
    for level, table in enumerate(ids.children):
        logits, state = step(state, codes, level)
        logits = logits.astype(jnp.float32)
        number, beams, size = logits.shape
        children = jnp.where((node == NONE)[..., None], NONE, jnp.asarray(table)[jnp.maximum(node, 0)])
        finite &= ~((jnp.isnan(logits) | (logits == jnp.inf)) & (node != NONE)[..., None]).any(axis=(1, 2))
        total = total[..., None] + log_prob(logits, children != NONE, masking)
        scored += jnp.sum(children != NONE, axis=(1, 2), dtype=jnp.int32)
        total, place = jax.lax.top_k(total.reshape(number, -1), min(width, beams * size))
        parent, codes = place // size, place % size
        node = jnp.take_along_axis(children.reshape(number, -1), place, axis=1)
        node = jnp.where(total > -jnp.inf, node, NONE)
        state = _of_parents(state, parent)
    scores, found = best_of(jnp.where(node > 0, total, -jnp.inf), jnp.maximum(node, 0), k)
    return Found(found, scores, scored, finite)


def log_prob(logits: Array, there: Array, masking: Masking) -> Array:
    """Log-probabilities of codes, [..., K] → [..., K]; -inf where no item goes on with the code.

    there: bool [..., K]. A row without any is -inf throughout.
    """
    logits = jnp.where(there, logits, -jnp.inf) if masking == "before" else logits
    some = there.any(axis=-1, keepdims=True)
    return jnp.where(there, jax.nn.log_softmax(jnp.where(some, logits, 0.0), axis=-1), -jnp.inf)


def _of_parents(state: State, parent: Array) -> State:
    """The state of each beginning's parent, [B, W, …] of [B, W', …] by int32 [B, W]."""
    return jax.tree.map(lambda leaf: jax.vmap(lambda of_query, at: of_query[at])(leaf, parent), state)
