"""Click sessions: the columns of a split on the device, training of an encoder, and its evaluation.

A training example is a prefix of a session (`by_prefix`) or a whole session (`by_session`); whole sessions
share packed rows, and each click predicts the next one. The next click is ranked against all items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from jaxrec import metrics, packing
from jaxrec.data.events.parallel_sessions import LANE_COLUMNS, lane_columns
from jaxrec.data.events.sessions import Part, SessionSplit
from jaxrec.packing import Packing
from jaxrec.protocols.beyond import Beyond, ranking_evaluation
from jaxrec.protocols.next_item import batches
from jaxrec.tasks.encoder import Encoder
from jaxrec.tasks.next_click import next_click
from jaxrec.tasks.next_click import retriever as prefix_retriever
from jaxrec.tasks.next_item import next_item, retriever
from jaxrec.tasks.objectives import Objective, with_tables
from jaxrec.tasks.parallel_sessions import Recurrent, parallel_sessions
from jaxrec.train.epoch import Plan, listed, shuffled
from jaxrec.train.evaluate import evaluate_and_keep, real_ranks, seen_targets
from jaxrec.train.fit import Fitted, Phase, Selection
from jaxrec.train.per_user import keep_ranks
from jaxrec.train.reuse import fit_reusing
from jaxrec.train.trial import check_validation
from jaxrec.types import (
    Array,
    Baseline,
    Context,
    Evaluation,
    Protocol,
    Retriever,
    Scorer,
    Summarise,
    Task,
    Tested,
    Variables,
)

EVALUATION_BATCH = 512
KS = (5, 10, 20)


class Data(NamedTuple):
    """A split and its resident columns."""

    split: SessionSplit
    columns: dict[str, np.ndarray]


def resident(split: SessionSplit) -> Data:
    """The columns of a split, built once."""
    return Data(split, split.columns())


def protocol(split: SessionSplit, loss: str, selection: str) -> Protocol:
    """Every item is a candidate for the next click, also the items of the session."""
    return Protocol(split.rule, candidates="all", seen="keep", ks=KS, loss=loss, selection=selection)


def queries(data: Data, part: Part) -> dict[str, np.ndarray]:
    """The examples of a part in batches."""
    return data.split.batched(part, min(EVALUATION_BATCH, len(data.split.queries(part).user)))


def evaluation(
    model: Retriever | Scorer | Baseline,
    data: Data,
    protocol: Protocol,
    queries: Mapping[str, np.ndarray],
    *,
    beyond: Beyond | None = None,
) -> Evaluation:
    """Ranks the next click of each query, all items in one block, so that scores are computed once.

    This module's `protocol` keeps seen items as candidates, so that histories are not read; a protocol with
    another rule reads whole sessions.

    beyond: metrics besides those of the target's rank, see `protocols.beyond`; None: none.

    Raises:
      ValueError: `beyond` asks for the rest of a session, which test prefixes do not have.
    """
    scored = model.model if isinstance(model, Baseline) else model
    count = data.split.num_items
    history = 1 if protocol.seen == "keep" else int(data.split.lengths.max())
    first = data.split.num_train + data.split.num_validation  # the first test session is number 0
    keep = keep_ranks(None, data.split.item_ids, first=first)
    if beyond is not None and beyond.relevant == "rest":
        raise ValueError("relevant='rest': test prefixes end in their target; ask for relevant='next'")
    return ranking_evaluation(
        scored,
        protocol,
        queries,
        beyond=beyond,
        columns=data.columns,
        events=data.split.training_events,
        num_items=count,
        summarise=click_metrics(protocol.ks),
        of_ranks=click_metrics,
        history=history,
        keep=keep,
        block=count,
    )


class Training(NamedTuple):
    """How an encoder learns: its task, the plan of an epoch, and how it is ranked.

    model: (queries, packed) -> retriever. batches: (part) -> its examples in batches, and packed rows.
    columns: resident columns that only the plan and the loss read, in addition to those of the data.
    """

    task: Task
    plan: Plan
    model: Callable[[Mapping[str, np.ndarray], Packing | None], Retriever]
    batches: Callable[[Part], tuple[Mapping[str, np.ndarray], Packing | None]]
    columns: Mapping[str, Any] = {}


def by_prefix(
    model: Encoder,
    objective: Objective,
    data: Data,
    batch_size: int,
    *,
    last_only: bool = False,
    summed: bool = False,
) -> Training:
    """Batches of prefixes. last_only: only the state after the last click is computed (STAMP). summed: the
    loss is a sum over a step's prefixes divided by `batch_size`, also in the last step of an epoch, which has
    fewer; else a mean over them.
    """
    size = batch_size if summed else None
    return Training(
        task=next_click(model, objective, last_only=last_only, batch_size=size),
        plan=shuffled(data.split.num_examples, batch_size),
        model=lambda queries, packed: prefix_retriever(model, last_only=last_only),
        batches=lambda part: (queries(data, part), None),
        columns=with_tables({}, objective),
    )


def by_session(
    model: Encoder,
    objective: Objective,
    data: Data,
    batch_size: int,
    *,
    deviations: float = 6.0,
    num_devices: int = 1,
) -> Training:
    """Batches of sessions that share packed rows; each click predicts the next one.

    deviations: spare capacity of the packed rows above the mean of a batch, in standard deviations.
    num_devices: their number is a multiple of it; where a step goes through its batch in parts, give
    `train.accumulate.num_shares`.
    """
    longest, count = model.max_len, data.split.num_train
    inputs = np.minimum(data.split.lengths[:count] - 1, longest)
    rows = packing.rows_needed(inputs, batch_size, longest, multiple=num_devices, deviations=deviations)
    packed = Packing(rows, longest)

    def lengths(context: Context, session: Array) -> Array:
        return jnp.clip(context["length"][session] - 1, 0, longest)

    return Training(
        task=next_item(model, objective, packed=packed),
        plan=shuffled(count, batch_size, lengths=lengths, packing=packed),
        model=lambda queries, packed: retriever(model, packed),
        batches=lambda part: packed_queries(data, part, longest),
        columns=with_tables({}, objective),
    )


def side_by_side(model: Recurrent, objective: Objective, data: Data, batch_size: int) -> Training:
    """Session-parallel batches: a step reads one click of each of `batch_size` sessions, and keeps states."""
    lanes = lane_columns(data.split.lengths[: data.split.num_train], batch_size)
    columns = {f"lane_{name}": column for name, column in lanes.items()}
    return Training(
        task=parallel_sessions(model, objective),
        plan=listed({name: f"lane_{name}" for name in LANE_COLUMNS}, len(columns["lane_mask"])),
        model=lambda queries, packed: retriever(model, packed),
        batches=lambda part: packed_queries(data, part, model.max_len),
        columns=with_tables(columns, objective),
    )


def packed_queries(data: Data, part: Part, max_len: int) -> tuple[Mapping[str, np.ndarray], Packing | None]:
    """The examples of a part in batches, with their positions in packed rows, and these rows."""
    made = batches(data.split.queries(part), max_len)
    return made.queries, made.packed


def rank_clicks(
    training: Training, data: Data, protocol: Protocol, part: Part, *, beyond: Beyond | None = None
) -> Evaluation:
    """Ranks the next click of the examples of a part by a trained encoder. beyond: as of `evaluation`."""
    found, packed = training.batches(part)
    return evaluation(training.model(found, packed), data, protocol, found, beyond=beyond)


def train(
    training: Training,
    data: Data,
    protocol: Protocol,
    tx: optax.GradientTransformation,
    *,
    epochs: int,
    patience: int | None = None,
    select: Part = "validation",
    **options: Any,
) -> Fitted:
    """Trains for all seeds at once and keeps each seed's best epoch by the protocol's metric.

    epochs: at most. patience: epochs without improvement before a seed stops; None: never. select: the part
    that chooses the epoch. options: seeds, workdir, description and other arguments of `train.fit.fit`.
    """
    check_validation(options.get("trial"), select)
    chosen = rank_clicks(training, data, protocol, select)
    return fit_reusing(
        [Phase("train", training.task, epochs)],
        tx,
        training.plan,
        {**data.columns, **training.columns},
        Selection(chosen, protocol.selection, patience=patience),
        vocabulary={"item": data.split.item_ids},
        **options,
    )


def test(
    model: Training | Retriever | Scorer | Baseline,
    data: Data,
    protocol: Protocol,
    variables: Variables,
    *,
    part: Part = "test",
    beyond: Beyond | None = None,
    num_devices: int = 1,
) -> list[dict[str, float]]:
    """Metrics of the examples of a part for each seed: variables have a leading seeds axis.

    beyond: as of `evaluation`.
    """
    found = run_test(model, data, protocol, variables, part=part, beyond=beyond, num_devices=num_devices)
    return found.metrics


def run_test(
    model: Training | Retriever | Scorer | Baseline,
    data: Data,
    protocol: Protocol,
    variables: Variables,
    *,
    part: Part = "test",
    beyond: Beyond | None = None,
    num_devices: int = 1,
) -> Tested:
    """Metrics as `test` returns them, with the rank of every example, to be stored beside the result."""
    ranked = (
        rank_clicks(model, data, protocol, part, beyond=beyond)
        if isinstance(model, Training)
        else evaluation(model, data, protocol, queries(data, part), beyond=beyond)
    )
    return evaluate_and_keep(ranked, variables, data.columns, num_devices=num_devices)


def click_metrics(ks: Sequence[int]) -> Summarise:
    """recall@k (P@k in the papers: 1 if rank ≤ k, else 0) and mrr@k (1 / rank if rank ≤ k, else 0)."""

    def means(ranks: np.ndarray, queries: Mapping[str, np.ndarray]) -> dict[str, float]:
        real, rank = real_ranks(ranks, queries["mask"])
        found = {}
        for k in ks:
            for name, metric in (("recall", metrics.recall), ("mrr", metrics.mrr)):
                values = np.asarray(metric(rank, k=k), np.float64)[: len(real)]
                found[f"{name}@{k}"] = float(values.mean())
        return found | seen_targets(real)

    return means
