"""Objectives: how hidden states are scored against next items, for `tasks.next_item` and its kin.

An objective draws what a loss needs besides the targets and calls a loss of `jaxrec.losses`, or your own. Its
`name` ends the name of a row in a table and its `description` is what the row's protocol says of the loss, so
that neither can differ from what is trained.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import losses, sampling
from jaxrec.segments import pick, rows_by_id
from jaxrec.tasks.candidate_scores import score_each, score_with_samples
from jaxrec.types import SHARED, Array, Batch, Context, Key

SHORT_NAMES: Mapping[str, str] = {
    "sampled_softmax": "ssm",
    "softmax_cross_entropy": "ce",
    "binary_cross_entropy": "bce",
    "squared_error": "mse",
}

TABLES = "objective"  # of a context, and of what a batch shares: the tables of an objective
Draw = Callable[[Key, Array, Context], Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Objective:
    """How hidden states are scored against targets.

    draw(key, users, context) -> extra columns of the batch, where users are [R, L] indices of users, and
    under SHARED what is the same for all of it;
    loss(hidden [R, L, D], table [V, D], batch, axis_name) -> this device's share of the loss. Targets are 0
    where there is none. Any other that is no item of the table, or a sample that is none, makes it NaN.
    name: short, as it ends a row's name, such as "bpr"; description: what a protocol says of the loss, by
    default the name.
    tables: arrays by item that it reads, such as a distribution. They are no part of a program: whoever
    trains adds them to the columns (`with_tables`), where `draw` finds them. None: it reads none.

    Raises:
      ValueError: the name is empty or has a space.
    """

    draw: Draw
    loss: Callable[..., Array]
    name: str
    description: str = ""
    tables: Any = dataclasses.field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not self.name or self.name.split() != [self.name]:
            raise ValueError(f"name={self.name!r}: must be one word, such as 'bpr', as it ends a row's name")
        object.__setattr__(self, "description", self.description or self.name)


def loss_name(loss: Callable[..., Any]) -> str:
    """The short name of a loss, from that of its function: `losses.bpr_max` → "bpr-max".

    Raises:
      ValueError: it has no name, as a lambda has none.
    """
    while isinstance(loss, functools.partial):
        loss = loss.func
    found = getattr(loss, "__name__", "")
    if not found.isidentifier():
        raise ValueError(f"loss={loss!r}: has no name of its own; give one, such as name='bpr'")
    return SHORT_NAMES.get(found, found.replace("_", "-"))


def with_tables(context: Context, objective: Objective | None) -> Context:
    """Columns of the data with the tables of an objective."""
    if objective is None or objective.tables is None:
        return context
    return {**context, TABLES: objective.tables}


def tables_of(context: Context) -> Any:
    """The tables of an objective among the columns, for its `draw`.

    Raises:
      ValueError: `with_tables` has not put them there.
    """
    if TABLES not in context:
        raise ValueError(
            "context: lacks the tables that the objective reads; give the columns as with_tables(columns, "
            "objective)"
        )
    return context[TABLES]


def draw_nothing(key: Key, users: Array, context: Context) -> Mapping[str, Array]:
    """The draw of an objective without samples: no column."""
    return {}


def sampled(
    loss: Callable[..., Array],
    num_items: int,
    excluded_width: int | None,
    *,
    num_negatives: int = 1,
    name: str = "",
    description: str = "",
) -> Objective:
    """A loss of each event's target against negatives, uniform over the items its user has not used.

    `losses.sampled_softmax` and `losses.gbce` of negatives from all items (excluded_width None) are the
    losses of eSASRec (Tikhonovich et al., RecSys 2025, arXiv:2508.06450) and of gSASRec (Petrov and
    Macdonald, RecSys 2023, arXiv:2308.07192), with 256 negatives: without a correction, and a negative that
    is the target, or an item that the user has used, stays.

    Args:
      loss: called as loss(pos [...], neg, where=…, axis_name=…): `losses.bce`, `losses.bpr` and their like.
        neg is [..., N] of several negatives; of one it is [...] if the loss takes that, else [..., 1].
      num_items: largest item id. excluded_width: most distinct items of any user; None: negatives are drawn
        from all items, the target and the user's own among them.
      num_negatives: N, of each event, drawn with replacement.
      name: by default that of the loss; description: by default the name and, of several, their number.

    Raises:
      ValueError: a user has used every item, so there is no negative; the number of negatives is below 1, or
        the loss does not take so many; the loss has no name.
    """
    if excluded_width is not None and excluded_width >= num_items:
        raise ValueError(
            f"excluded_width={excluded_width}: a user has used all {num_items} items, so there is no "
            "negative to draw; use a loss without sampled negatives or leave the user out"
        )
    if num_negatives < 1:
        raise ValueError(f"num_negatives={num_negatives}: must be at least 1")
    name = name or loss_name(loss)
    shape = _shape_of_negatives(loss, num_negatives, name)

    def draw(key: Key, users: Array, context: Context) -> Mapping[str, Array]:
        if excluded_width is None:
            return {"negatives": sampling.uniform(key, (*users.shape, *shape), num_items=num_items)[0]}
        drawn = jnp.broadcast_to(users.reshape(*users.shape, *(1 for _ in shape)), (*users.shape, *shape))
        negatives, _ = sampling.uniform_excluding_flat(
            key,
            num_items=num_items,
            excluded=context["excluded"],
            start=context["excluded_start"][drawn],
            count=context["excluded_length"][drawn],
            width=excluded_width,
        )
        return {"negatives": negatives}

    def value(hidden: Array, table: Array, batch: Batch, axis_name: str | None) -> Array:
        targets = batch["targets"]
        samples = batch["negatives"].reshape(*targets.shape, -1)
        pos, neg = score_each(hidden, table, targets, samples, known=min(num_items + 1, table.shape[0]))
        neg = neg.reshape(*targets.shape, *shape)
        return loss(pos, neg, where=targets != 0, axis_name=axis_name)

    everywhere = "" if excluded_width is not None else " from all items"
    several = f"{name}, {num_negatives} negatives an event{everywhere}"
    several = several if num_negatives > 1 or everywhere else ""
    return Objective(draw, value, name, description or several)


def _shape_of_negatives(loss: Callable[..., Array], number: int, name: str) -> tuple[int, ...]:
    """The axes that a loss wants negatives to have beyond those of the targets: () or (number,).

    The loss is tried on shapes that broadcast against each other in no other way.
    """
    lead, reasons = (5, 7), []
    for shape in ((), (1,)) if number == 1 else ((number,),):
        pos, neg = (jax.ShapeDtypeStruct(dims, jnp.float32) for dims in (lead, (*lead, *shape)))
        where = jax.ShapeDtypeStruct(lead, jnp.bool_)
        try:
            found = jax.eval_shape(lambda p, n, w: loss(p, n, where=w, axis_name=None), pos, neg, where)
        except (TypeError, ValueError) as error:
            reasons.append(str(error))
        else:
            if getattr(found, "shape", None) == ():
                return shape
            reasons.append(f"it gives {found} in place of one number")
    raise ValueError(
        f"loss {name!r}: does not take num_negatives={number}: expected loss(pos [...], neg [..., N], "
        f"where=…, axis_name=…) -> one number; its own words: {'; '.join(reasons)}"
    )


def full_softmax(block: int = 4096, *, num_items: int | None = None) -> Objective:
    """Cross-entropy over all items, computed in blocks of items.

    num_items: largest item id, where rows of the table past it are no candidates, such as that of a mask;
    None: every row is an item.
    """

    def loss(hidden: Array, table: Array, batch: Batch, axis_name: str | None) -> Array:
        targets = batch["targets"]
        return losses.softmax_cross_entropy(
            hidden, table, targets, where=targets != 0, num_items=num_items, block=block, axis_name=axis_name
        )

    return Objective(draw_nothing, loss, "ce")


def sampled_softmax(num_samples: int, table: sampling.PopularityTable) -> Objective:
    """Cross-entropy over the target and `num_samples` items that the whole batch shares.

    table: the distribution samples are drawn from; scores are corrected by its log-probabilities (logQ),
    and a sample that is the target is left out. It is the objective's `tables`.

    Raises:
      ValueError: num_samples is below 1: the loss of a target alone is 0, whatever its score.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples={num_samples}: must be at least 1")

    def draw(key: Key, users: Array, context: Context) -> Mapping[str, Any]:
        known = tables_of(context)
        samples, _ = sampling.popularity(key, (num_samples,), known)
        every = jnp.broadcast_to(samples, (users.shape[0], num_samples))
        return {"samples": every, SHARED: {TABLES: known}}

    def loss(hidden: Array, items: Array, batch: Batch, axis_name: str | None) -> Array:
        samples, targets, known = batch["samples"][0], batch["targets"], batch[SHARED][TABLES]
        real = targets != 0
        pos, neg = score_with_samples(hidden, items, targets, samples)
        return losses.sampled_softmax(
            pos,
            neg,
            pos_log_prob=jnp.where(
                real, sampling.log_prob(known, targets), 0
            ),  # padding is never drawn: log 0
            neg_log_prob=sampling.log_prob(known, samples),
            accidental=samples == targets[..., None],
            where=real,
            axis_name=axis_name,
        )

    text = f"sampled softmax, logQ 1; {num_samples} by popularity, shared by the batch"
    return Objective(draw, loss, "ssm-logq", text, table)


def uniform_softmax(
    num_items: int, num_samples: int, *, temperature: float = 0.05, shared: bool = False
) -> Objective:
    """Cross-entropy over the target and `num_samples` uniform samples, scores divided by a temperature.

    The objective of HSTU's research code (Zhai et al., ICML 2024, arXiv:2402.17152): samples of each event
    from all items, without correction; one that is the target is left out. Scores are those of the model, so
    they are cosines where it gives hidden states and a table of length 1 (`HSTU`, `Cosine`).

    num_items: largest item id. shared: one set of samples for the whole batch, which is cheaper.

    Raises:
      ValueError: num_samples is below 1, or the temperature is not positive.
    """
    if num_samples < 1 or not temperature > 0:
        raise ValueError(f"num_samples={num_samples}, temperature={temperature}: must be positive")

    def draw(key: Key, users: Array, context: Context) -> Mapping[str, Array]:
        shape = (num_samples,) if shared else (*users.shape, num_samples)
        samples, _ = sampling.uniform(key, shape, num_items=num_items)
        return {"samples": jnp.broadcast_to(samples, (users.shape[0], *samples.shape)) if shared else samples}

    def loss(hidden: Array, table: Array, batch: Batch, axis_name: str | None) -> Array:
        targets, samples = batch["targets"], batch["samples"]
        if shared:
            samples = samples[0]
            pos, neg = score_with_samples(hidden, table, targets, samples)
        else:
            pos, neg = score_each(hidden, table, targets, samples)
        return losses.sampled_softmax(
            pos / temperature,
            neg / temperature,
            accidental=samples == targets[..., None],
            where=targets != 0,
            axis_name=axis_name,
        )

    per = "a batch" if shared else "an event"
    text = f"softmax of cosines / {temperature}, {num_samples} uniform negatives {per}"
    return Objective(draw, loss, "ssm", text)


class Negatives(NamedTuple):
    """What the targets of a batch are ranked against: the other targets of the batch, and samples.

    table: the distribution of samples, ∝ count^alpha. log_q: what the correction, logq of the whole one,
    subtracts from the scores of targets, and from those of samples, by item id, [vocab_size] each.
    """

    num_samples: int
    table: sampling.PopularityTable
    log_q: tuple[Array, Array]
    alpha: float
    logq: float


def negatives(counts: np.ndarray, *, num_samples: int, alpha: float, logq: float = 0.0) -> Negatives:
    """Negatives as the authors' code of GRU4Rec has them; built on the host.

    Samples follow p(item) ∝ count^alpha. The logQ correction subtracts logq · log count from the scores of
    targets, and logq · alpha · log count from those of samples: the frequencies by which the two come, each
    up to a constant of its own, which the code leaves out as well.

    Args:
      counts: how often each item occurs in training, [vocab_size]; entry 0 (padding) is ignored.
      num_samples: drawn at every step, the same for all examples; 0 leaves the targets of the batch.
      alpha: 1 is popularity, 0 uniform over all items. With 0, items without a training event are drawn too
        and learn to score low; the code knows none of them, neither here nor in ranking.
      logq: 0 for no correction, 1 for all of it.

    Raises:
      ValueError: num_samples is negative, or logq outside 0..1; as `sampling.popularity_table`.
    """
    if num_samples < 0:
        raise ValueError(f"num_samples={num_samples}: must be at least 0")
    if not 0 <= logq <= 1:
        raise ValueError(f"logq={logq}: must lie in 0..1")
    table = sampling.popularity_table(counts, alpha=alpha)
    known = np.maximum(np.asarray(counts, np.float64), 1.0)  # an item that never occurs is no target
    known[0] = 1.0
    lowered = logq * np.log(known)
    log_q = jnp.asarray(lowered, jnp.float32), jnp.asarray(alpha * lowered, jnp.float32)
    return Negatives(num_samples, table, log_q, alpha, logq)


def shared_negatives(
    loss: Callable[..., Array],
    drawn: Negatives,
    *,
    activation: Callable[[Array], Array] | None = None,
    leave_out_hits: bool = False,
    name: str = "",
) -> Objective:
    """A loss of each target's score against those of all other targets of the batch and of shared samples.

    Args:
      loss: called as loss(pos [T], neg [T, N], accidental=…, where=…, axis_name=…): `losses.bpr_max`,
        `top1_max`, `top1`, `bpr`, `sampled_softmax` and their like.
      activation: of the scores, such as an ELU for BPR-max; it has to be monotone, as ranks are those of the
        scores without it.
      leave_out_hits: whether a negative that is the event's own target is left out. The authors' code keeps
        it.
      name: by default that of the loss.

    Its `tables` are the distribution of `drawn` and its log_q.
    """
    name = name or loss_name(loss)
    called = f"sampled softmax, logQ {drawn.logq:g}" if name == "ssm" else name

    def draw(key: Key, users: Array, context: Context) -> Mapping[str, Any]:
        distribution, log_q = tables_of(context)
        samples, _ = sampling.popularity(key, (drawn.num_samples,), distribution)
        every = jnp.broadcast_to(samples, (users.shape[0], drawn.num_samples))
        return {"samples": every, SHARED: {TABLES: (distribution, log_q)}}

    def value(hidden: Array, table: Array, batch: Batch, axis_name: str | None) -> Array:
        targets, samples = batch["targets"].reshape(-1), batch["samples"][0]
        _, log_q = batch[SHARED][TABLES]
        first, every = 0, targets
        if axis_name is not None:  # the targets of all devices are negatives on each
            every = jax.lax.all_gather(targets, axis_name, tiled=True)
            first = jax.lax.axis_index(axis_name) * targets.shape[0]
        candidates = jnp.concatenate([every, samples])
        lowered = jnp.concatenate([log_q[0][every], log_q[1][samples]])
        scores = (
            losses.dot_products(
                hidden.reshape(-1, hidden.shape[-1]), rows_by_id(table, candidates, clip=True)
            )
            - lowered
        )
        known = min(table.shape[0], log_q[0].shape[0])
        used = (candidates != 0) & (targets != 0)[:, None]
        scores = losses.nan_outside(scores, candidates, known, where=used)
        scores = scores if activation is None else activation(scores)
        own = first + jnp.arange(targets.shape[0])
        accidental = (candidates == 0) | (jnp.arange(candidates.shape[0]) == own[:, None])
        if leave_out_hits:
            accidental = accidental | (candidates == targets[:, None])
        pos = pick(scores, own[:, None])[:, 0]
        return loss(pos, scores, accidental=accidental, where=targets != 0, axis_name=axis_name)

    text = f"{called}; in-batch negatives and {drawn.num_samples} ∝ frequency^{drawn.alpha:g}"
    return Objective(draw, value, name, text, (drawn.table, drawn.log_q))
