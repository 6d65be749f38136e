"""NANN: sampled classification, and an adversarial loss that makes scores smooth in the items' vectors.

    L = L_NCE + L_AUX   (Chen et al., CIKM 2022, arXiv:2202.10226)

    L_NCE  noise-contrastive estimation of each target against negatives drawn by frequency, from whose
           scores the logarithm of the expected count is subtracted (`losses.nce`)
    L_AUX  Σ_v p_v log(p_v / q_v), p the softmax of s_u(e_v) over the target and its negatives, a constant of
           the gradient, q that of s_u(e_v + δ_v), δ = ε sign(∇_e s_u(e_v))

A graph of neighbours under the Euclidean distance is searched by s_u; where a small step can't change the
scores much, the neighbours of a good item are good, and the search does not get stuck.

The model is a module with `max_len` and

    read(items [B, L], *, train) -> what it makes of histories, 0 is padding
    vectors(ids [...], *, train) -> [..., D]; item_table(*, train) -> those of all ids, [V, D]
    score(read, vectors [B, M, D], *, train) -> [B, M]

Context columns (`protocols.next_item.resident` or `protocols.retrieval.resident`): items [N], start [U],
length [U]. Examples: example [B], the index of the target among the N events, and mask [B], False in a padded
tail.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, get_args

import jax
import jax.numpy as jnp

from jaxrec import losses, packing, sampling
from jaxrec.index.scored import Query, ScoreItems
from jaxrec.segments import rows_by_id
from jaxrec.tasks.encoder import only_params
from jaxrec.tasks.interests import users_of
from jaxrec.types import Array, Batch, Context, Key, Scorer, Task, Variables

Direction = Literal["score", "loss"]
History = Literal["before", "others"]
HELD = 1 << 22  # pairs of an event and an item that ranking attends with at a time


class VectorScorer(Protocol):
    """What the task calls; see the head of this file."""

    @property
    def max_len(self) -> int: ...
    @property
    def num_items(self) -> int: ...
    @property
    def init(self) -> Callable[..., Any]: ...
    @property
    def apply(self) -> Callable[..., Any]: ...


def nann(
    model: VectorScorer,
    table: sampling.PopularityTable,
    *,
    num_negatives: int = 19,
    eps: float = 3e-4,
    direction: Direction = "score",
    history: History = "before",
) -> Task:
    """The task of scoring a target above negatives; losses "nce" and, where eps is above 0, "adversarial".

    predict gives scores of the target and then of its negatives, [B, 1 + N].

    Args:
      table: how negatives are drawn, `sampling.popularity_table` with alpha 1 in the released code. One that
        is the target is kept, as noise-contrastive estimation has it.
      num_negatives: N, of each example, drawn with replacement.
      eps: ε, the largest change of an entry of e_v.
      direction: what δ follows the gradient of: "score", s_u(e_v), as in the paper, or "loss", L_NCE, as in
        the released code, where the target's step is the other way.
      history: the events before the target, or all other training events of the user, whose order means
        nothing then.

    Raises:
      ValueError: num_negatives is below 1, eps negative or not finite, or there is no such direction or
        history. When variables are made: the model has some other than parameters.
    """
    if num_negatives < 1:
        raise ValueError(f"num_negatives={num_negatives}: must be at least 1")
    if not 0 <= eps < float("inf"):
        raise ValueError(f"eps={eps}: must be 0 or more, and finite")
    for name, given, known in (("direction", direction, Direction), ("history", history, History)):
        if given not in get_args(known):
            raise ValueError(f"{name}={given!r}: must be one of {', '.join(map(repr, get_args(known)))}")

    def prepare(key: Key, examples: Mapping[str, Array], context: Context) -> Batch:
        event = jnp.where(examples["mask"], examples["example"], 0)
        negatives, _ = sampling.popularity(key, (len(event), num_negatives), table)
        return {
            "items": histories(event, examples["mask"], context, width=model.max_len, history=history),
            "targets": jnp.where(examples["mask"], context["items"][event], 0),
            "negatives": negatives,
        }

    def init(key: Key, batch: Batch) -> Variables:
        candidates = batch["negatives"][:1]
        return only_params(model.init(key, batch["items"][:1], candidates, train=False), "nann")

    def value(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        ids = _candidates(batch)
        read, vectors = _encoded(model, variables, batch["items"], ids)
        score = functools.partial(model.apply, method="score", train=True)
        scores = score(variables, read, vectors)
        found = {"nce": _nce(scores, ids, table, axis_name)}
        if eps == 0:
            return found, {}
        fixed, still, start = jax.lax.stop_gradient((variables, read, vectors))

        def climbed(vectors: Array) -> Array:
            scores = score(fixed, still, vectors)
            return scores.sum() if direction == "score" else _nce(scores, ids, table, axis_name)

        moved = score(variables, read, vectors + eps * jnp.sign(jax.grad(climbed)(start)))
        found["adversarial"] = divergence(scores, moved, where=ids[:, 0] != 0, axis_name=axis_name)
        return found, {}

    def predict(variables: Variables, batch: Batch) -> Array:
        return model.apply(variables, batch["items"], _candidates(batch), train=False)

    return Task(prepare, init, value, predict)


def divergence(
    clean: Array, perturbed: Array, *, where: Array | None = None, axis_name: str | None = None
) -> Array:
    """KL(softmax(clean) ‖ softmax(perturbed)), a mean over real examples: [..., M] twice → []; at least 0.

    clean is a constant of the gradient. where: True where the example is real, [...]. Summed is
    p (q / p - 1 - log(q / p)), whose second term is 0 in total and without which small values are rounding.
    """
    fixed = jax.lax.stop_gradient(jax.nn.log_softmax(clean))
    log_ratio = jax.nn.log_softmax(perturbed) - fixed
    each = jnp.sum(jnp.exp(fixed) * (jnp.expm1(log_ratio) - log_ratio), axis=-1)
    return losses.masked_mean(each, where, axis_name)


def histories(event: Array, mask: Array, context: Context, *, width: int, history: History) -> Array:
    """Right-aligned ids of the last `width` events of a history for targets [B], [B, width]."""
    user = users_of(event, context)
    start, length = context["start"][user], context["length"][user]
    if history == "before":
        return packing.window(context["items"], event, jnp.where(mask, event - start, 0), width)
    rank = length[:, None] - 1 - width + jnp.arange(width)  # among the user's other events
    place = start[:, None] + rank + (rank >= (event - start)[:, None])
    real = (rank >= 0) & mask[:, None]
    return jnp.where(real, context["items"][jnp.where(real, place, 0)], 0)


def _nce(scores: Array, ids: Array, table: sampling.PopularityTable, axis_name: str | None) -> Array:
    """L_NCE of scores [B, 1 + N], those of the targets first."""
    log_prob = sampling.log_prob(table, jnp.where(ids == 0, table.ids[0], ids))
    count = sampling.log_expected_count(log_prob, ids.shape[1] - 1)
    return losses.nce(
        scores[:, 0],
        scores[:, 1:],
        pos_log_count=count[:, 0],
        neg_log_count=count[:, 1:],
        where=ids[:, 0] != 0,
        axis_name=axis_name,
    )


def _candidates(batch: Batch) -> Array:
    return jnp.concatenate([batch["targets"][:, None], batch["negatives"]], axis=1)


def _encoded(model: VectorScorer, variables: Variables, items: Array, ids: Array) -> tuple[Any, Array]:
    """What the model reads of histories, and e_v [B, M, D] of items [B, M]: from all items' where that is
    fewer."""
    read = model.apply(variables, items, train=True, method="read")
    if ids.size < model.num_items:
        return read, model.apply(variables, ids, train=True, method="vectors")
    return read, rows_by_id(model.apply(variables, train=True, method="item_table"), ids)


# --- what a trained model is ranked and searched by ----------------------------------------------------


def item_vectors(model: VectorScorer, variables: Variables) -> Array:
    """e_v of all ids, padding first, [V, D]: what a graph is built of. variables: of one seed."""
    return model.apply(variables, train=False, method="item_table")


def score_items(model: VectorScorer, variables: Variables, vectors: Array | None = None) -> ScoreItems:
    """s_u as searches call it: (histories of ids, 0 = padding, int32 [B, L], ids [B, M]) → [B, M].

    Make it inside the compiled function that searches, whose arguments the variables and vectors are, or they
    become constants of the program. vectors: `item_vectors`; None: they are made of the ids that are scored.
    """

    def score(query: Query, ids: Array) -> Array:
        read = model.apply(variables, query, train=False, method="read")
        if vectors is None:
            found = model.apply(variables, ids, train=False, method="vectors")
        else:
            found = rows_by_id(vectors, ids)
        return model.apply(variables, read, found, train=False, method="score")

    return score


def scorer(model: VectorScorer) -> Scorer:
    """The model as full ranking sees it: all items, by the last events before a query's target."""

    def query(queries: Mapping[str, Array], context: Context) -> Array:
        length = jnp.where(queries["mask"], queries["length"], 0)
        end = context["start"][queries["user"]] + length
        return packing.window(context["items"], end, length, model.max_len)

    def scores(variables: Variables, queries: Mapping[str, Array], context: Context) -> Array:
        vectors = item_vectors(model, variables)
        score = score_items(model, variables, vectors)
        every = jnp.arange(len(vectors))[None]
        at_a_time = max(1, HELD // (len(vectors) * model.max_len))
        read = query(queries, context)
        return jax.lax.map(lambda one: score(one[None], every)[0], read, batch_size=min(at_a_time, len(read)))

    def some(variables: Variables, queries: Mapping[str, Array], context: Context, ids: Array) -> Array:
        return score_items(model, variables)(query(queries, context), ids)

    return Scorer(scores, some)
