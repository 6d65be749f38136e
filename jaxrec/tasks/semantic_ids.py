"""The next item by its semantic id: the loss of codes, and retrieval by beam search (TIGER, Rajput et al.,
NeurIPS 2023, arXiv:2305.05065).

The model is a module with `max_len` and num_users, and

    __call__(codes [B, L, D], mask [B, L], targets [B, D], users [B], *, train, rows) -> logits [B, D, K]
    encode(codes, mask, users) -> memory
    decode(memory, tuples [B, W, D]) -> logits [B, W, D, K]
    next_code(memory, past, codes [B, W] or None, level) -> (logits [B, W, K], past)
    no_past(batch) -> past

as `nn.retrieval.tiger.TIGER`, whose method `packed` reads several histories in a row. Histories are
left-aligned, the oldest of the last max_len items first.

Context columns: items [N], start [U], length [U], and semantic_ids, an `index.semantic_ids.SemanticIds`.
Examples: example [B], the index of the target among the N events, and mask [B], False in a padded tail. Which
events an epoch reads is the plan's choice: every event with an earlier one, so that each prefix of a user's
training events is a history (`protocols.interests.every_event`), or one of each user (`one_cut`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.index import beam
from jaxrec.index.beam import Masking
from jaxrec.index.scored import Found
from jaxrec.index.semantic_ids import SemanticIds
from jaxrec.losses import masked_mean
from jaxrec.packing import Dealt, Packing, deal
from jaxrec.segments import pick, rows_by_id
from jaxrec.tasks.deep_retrieval import as_scores
from jaxrec.tasks.encoder import only_params
from jaxrec.tasks.interests import users_of
from jaxrec.types import Array, Batch, Context, Key, Scorer, Task, Variables

COLUMN = "semantic_ids"  # of the context
READ_PACKED = ("codes", "users", "segments", "targets")  # of a batch of packed rows


class CodeModel(Protocol):
    """What the task calls; see the head of this file."""

    max_len: int
    num_users: int

    @property
    def init(self) -> Callable[..., Any]: ...
    @property
    def apply(self) -> Callable[..., Any]: ...


def semantic_ids(model: CodeModel, packed: Packing | None = None) -> Task:
    """The task of naming the next item's codes, each after the true ones before it. predict: their logits.

    Loss "codes": the mean cross-entropy of all codes of all targets, in nats.

    packed: rows that histories share, for a model with a method `packed`; their logits are [R, S, D, K]. The
    loss is the same but for rounding and the noise of dropout, which is drawn by row. A batch that does not
    fit (`fits`) has the loss NaN: let the plan draw another.

    Raises:
      ValueError: when variables are made: the model has some that are not parameters.
    """

    def prepare(key: Key, examples: Mapping[str, Array], context: Context) -> Batch:
        if packed is not None:
            return _packed(model, packed, examples, context)
        event, mask = jnp.where(examples["mask"], examples["example"], 0), examples["mask"]
        user = users_of(event, context)
        length = jnp.where(mask, event - context["start"][user], 0)
        ids = context[COLUMN].codes
        return {
            **histories(context, event, length, user, model.max_len),
            "targets": rows_by_id(ids, context["items"][event]),
            "real": mask,
            "row": jnp.arange(event.shape[0], dtype=jnp.int32),
        }

    read = ("codes", "mask", "targets", "users") if packed is None else READ_PACKED
    method = "__call__" if packed is None else "packed"

    def init(key: Key, batch: Batch) -> Variables:
        one = [batch[name][:1] for name in read]
        return only_params(model.init(key, *one, train=False, method=method), "semantic_ids")

    def logits(variables: Variables, batch: Batch, **options: Any) -> Array:
        found: Array = model.apply(variables, *(batch[name] for name in read), method=method, **options)
        return found

    def losses(
        variables: Variables, batch: Batch, key: Key, axis_name: str | None = None
    ) -> tuple[dict[str, Array], Variables]:
        found = logits(variables, batch, train=True, rows=batch["row"], rngs={"dropout": key})
        each = -_of_codes(found, batch["targets"])
        value = masked_mean(each, batch["real"][..., None], axis_name)
        return {"codes": value if packed is None else jnp.where(batch["fits"][0], value, jnp.nan)}, {}

    return Task(prepare, init, losses, lambda variables, batch: logits(variables, batch, train=False))


def _dealt(
    model: CodeModel, packed: Packing, examples: Mapping[str, Array], context: Context
) -> tuple[Dealt, Array]:
    """Histories of a batch in packed rows, in tokens; and their users, numbers from 0 [B]."""
    event, mask = jnp.where(examples["mask"], examples["example"], 0), examples["mask"]
    user = users_of(event, context)
    number = jnp.minimum(event - context["start"][user], model.max_len)
    depth, front = context[COLUMN].codes.shape[1], int(model.num_users > 0)
    tokens = jnp.where(mask, front + depth * number, 0).astype(jnp.int32)
    return deal(tokens, rows=packed.rows), user


def fits(model: CodeModel, packed: Packing, examples: Mapping[str, Array], context: Context) -> Array:
    """Whether a batch finds room in packed rows, []."""
    return (_dealt(model, packed, examples, context)[0].slots <= packed.width).all()


def _packed(
    model: CodeModel, packed: Packing, examples: Mapping[str, Array], context: Context
) -> dict[str, Array]:
    """What `packed` of the model reads, and the mask of its targets. R rows, T tokens of one, S histories.

    codes, users, segments: [R, T]; targets: [R, S, D]; real: [R, S]; fits: [R], the same of all rows.
    """
    dealt, user = _dealt(model, packed, examples, context)
    ids: SemanticIds = context[COLUMN]
    depth, front = ids.codes.shape[1], int(model.num_users > 0)
    place = jnp.arange(packed.width, dtype=jnp.int32)
    end = dealt.start + dealt.length
    history = (place[:, None] >= end[:, None, :]).sum(axis=-1, dtype=jnp.int32)  # [R, T]
    real = place < dealt.slots[:, None]
    history = jnp.where(real, history, 0)

    def of_history(column: Array) -> Array:
        return jnp.take_along_axis(column, history, axis=1)

    target = jnp.where(dealt.sequence >= 0, examples["example"][dealt.sequence], 0)
    known = (dealt.sequence >= 0) & examples["mask"][dealt.sequence]
    target = jnp.where(known, target, 0)
    offset = place - of_history(dealt.start) - front
    first = target - (dealt.length - front) // depth
    is_code = real & (offset >= 0)
    index = jnp.where(is_code, of_history(first) + offset // depth, 0)
    item, level = jnp.where(is_code, context["items"][index], 0), offset % depth
    code = jnp.take_along_axis(rows_by_id(ids.codes, item), level[..., None], axis=-1)[..., 0]
    users = of_history(user[dealt.sequence]) + 1
    return {
        "codes": jnp.where(is_code, level * ids.num_codes + code, 0),
        "users": jnp.where(real & ~is_code, users, 0),
        "segments": jnp.where(real, history + 1, 0),
        "targets": rows_by_id(ids.codes, context["items"][target]),
        "real": known,
        "row": jnp.arange(packed.rows, dtype=jnp.int32),
        "fits": jnp.broadcast_to((dealt.slots <= packed.width).all(), packed.rows),
    }


def histories(context: Context, end: Array, length: Array, user: Array, max_len: int) -> dict[str, Array]:
    """The codes of the last max_len of the `length` events before `end`, the oldest first, and their users.

    codes: int32 [B, L, D]. mask: bool [B, L], False where a history is shorter. users: ids from 1, [B].
    """
    number = jnp.minimum(length, max_len)
    place = jnp.arange(max_len)
    mask = place < number[:, None]
    index = jnp.where(mask, (end - number)[:, None] + place, 0)
    items = jnp.where(mask, context["items"][index], 0)
    return {"codes": rows_by_id(context[COLUMN].codes, items), "mask": mask, "users": user + 1}


def log_likelihood(model: CodeModel, variables: Variables, batch: Batch, tuples: Array) -> Array:
    """log p of tuples after the histories of a batch: int32 [B, W, D] → [B, W], in nats."""
    memory = model.apply(variables, batch["codes"], batch["mask"], batch["users"], method="encode")
    logits = model.apply(variables, memory, tuples, method="decode")
    return _of_codes(logits, tuples).sum(axis=-1)


def search(
    model: CodeModel,
    variables: Variables,
    batch: Batch,
    ids: SemanticIds,
    *,
    k: int,
    width: int,
    masking: Masking = "after",
) -> Found:
    """The k most likely next items after the histories of a batch, see `index.beam.search`."""
    memory = model.apply(variables, batch["codes"], batch["mask"], batch["users"], method="encode")
    past = model.apply(variables, batch["codes"].shape[0], method="no_past")

    def step(past: Any, codes: Array | None, level: int) -> tuple[Array, Any]:
        found: tuple[Array, Any] = model.apply(variables, memory, past, codes, level, method="next_code")
        return found

    return beam.search(ids, step, past, k=k, width=width, masking=masking)


def scorer(model: CodeModel, *, width: int, masking: Masking = "after") -> Scorer:
    """What a beam of `width` finds, for full ranking: log-likelihoods of its items, and one lower than any
    for all others, which the target among them ties with, so that it ranks last.

    Seen items that a protocol excludes take places of the beam: let it be wider than the lists.
    """
    return Scorer(functools.partial(_scores, model=model, width=width, masking=masking))


def resident_scorer(model: CodeModel, *, width: int) -> Scorer:
    """`scorer` of variables that have the ids, see `with_ids`: what a run is served by.

    Scores of given items (`Scorer.some`) are their log-likelihoods, in the beam or not. The model has no
    tokens of users, since histories of anybody have none.

    Raises:
      ValueError: the model has tokens of users.
    """
    if model.num_users:
        raise ValueError(f"num_users={model.num_users}: histories of anybody have no user's token; give 0")
    return Scorer(
        functools.partial(_resident_scores, model=model, width=width),
        functools.partial(_resident_likelihoods, model=model),
    )


def with_ids(variables: Variables, ids: SemanticIds) -> Variables:
    """What `resident_scorer` reads, for variables with a leading axis of seeds: each seed has the ids."""
    seeds = jax.tree.leaves(variables)[0].shape[0]
    tables = {str(level): table for level, table in enumerate(ids.children)}
    kept = jax.tree.map(
        lambda x: np.broadcast_to(np.asarray(x), (seeds, *x.shape)), {"codes": ids.codes, "children": tables}
    )
    return {"model": variables, COLUMN: kept}


def resident_ids(variables: Variables) -> SemanticIds:
    """The ids that one seed's variables of `with_ids` have."""
    kept = variables[COLUMN]
    tables = kept["children"]
    return SemanticIds(kept["codes"], tuple(tables[str(level)] for level in range(len(tables))))


def _asked(model: CodeModel, queries: Mapping[str, Array], context: Context) -> dict[str, Array]:
    """The histories of queries, see `histories`."""
    length = jnp.where(queries["mask"], queries["length"], 0)
    end = context["start"][queries["user"]] + length
    return histories(context, end, length, queries["user"], model.max_len)


def _scores(
    variables: Variables,
    queries: Mapping[str, Array],
    context: Context,
    *,
    model: CodeModel,
    width: int,
    masking: Masking = "after",
) -> Array:
    ids: SemanticIds = context[COLUMN]
    asked = _asked(model, queries, context)
    found = search(model, variables, asked, ids, k=width, width=width, masking=masking)
    return as_scores(found, ids.codes.shape[0])


def _resident_scores(
    variables: Variables, queries: Mapping[str, Array], context: Context, *, model: CodeModel, width: int
) -> Array:
    context = {**context, COLUMN: resident_ids(variables)}
    return _scores(variables["model"], queries, context, model=model, width=width)


def _resident_likelihoods(
    variables: Variables, queries: Mapping[str, Array], context: Context, ids: Array, *, model: CodeModel
) -> Array:
    held = resident_ids(variables)
    asked = _asked(model, queries, {**context, COLUMN: held})
    return log_likelihood(model, variables["model"], asked, rows_by_id(held.codes, ids))


def _of_codes(logits: Array, codes: Array) -> Array:
    """Log-probabilities of codes, [..., K] and int32 [...] → [...]."""
    return pick(jax.nn.log_softmax(logits, axis=-1), codes[..., None])[..., 0]
