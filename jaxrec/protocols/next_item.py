"""Sequences of items: the columns of a split on the device, training of an encoder, and its evaluation.

The next item of each query is ranked against all items or against sampled candidates, see `Protocol`.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrec import packing
from jaxrec.data.events.batching import batched_queries, next_item_columns
from jaxrec.data.events.split import Queries, Split, first_events
from jaxrec.index.rank import of_all_items
from jaxrec.nn.layers.dropout import counter_bits
from jaxrec.packing import Packing
from jaxrec.protocols.beyond import Beyond, ranking_evaluation
from jaxrec.tasks.encoder import can_be_packed
from jaxrec.tasks.next_item import Encoder, Shorten, next_item, retriever
from jaxrec.tasks.objectives import Objective, with_tables
from jaxrec.tasks.table_dropout import drop_table
from jaxrec.train.accumulate import num_shares
from jaxrec.train.epoch import Plan, shuffled
from jaxrec.train.evaluate import evaluate_and_keep, ranking_metrics
from jaxrec.train.fit import Fitted, Phase, Selection
from jaxrec.train.per_user import keep_ranks
from jaxrec.train.reuse import fit_reusing
from jaxrec.types import Array, Baseline, Context, Evaluation, Protocol, Retriever, Scorer, Tested, Variables

EVALUATION_BATCH = 512
VALIDATION_DRAW, TEST_DRAW = 1, 2  # seeds of sampled candidates, equal for all models and seeds


class Data(NamedTuple):
    """A split as the training loop reads it.

    columns: arrays that stay on the device. width: events of the longest training input. history: events of
    the longest input of a query. excluded_width: the largest number of items that negatives of a user avoid.
    """

    split: Split
    columns: dict[str, Any]
    width: int
    history: int
    excluded_width: int

    @property
    def num_items(self) -> int:
        return self.split.sequences.num_items

    @property
    def inputs(self) -> np.ndarray:
        """Events of each user's training input, [U]."""
        return np.maximum(self.split.train_length - 1, 0)


def resident(split: Split, *, reject: str = "train") -> Data:
    """The columns of a split, and the lengths that set the shapes of batches."""
    columns = next_item_columns(split, reject=reject)
    return Data(
        split,
        columns,
        width=int(split.train_length.max()) - 1,
        history=int(max(split.validation.length.max(), split.test.length.max())),
        excluded_width=int(columns["excluded_length"].max()),
    )


def vocabulary(data: Data) -> dict[str, np.ndarray]:
    """Raw ids of items and users."""
    sequences = data.split.sequences
    return {"item": np.asarray(sequences.item_ids), "user": np.asarray(sequences.user_ids)}


# (generator, lengths of inputs [B]) -> lengths of the sequences that a step makes from them
Grow = Callable[[np.random.Generator, np.ndarray], np.ndarray]


class Shortening(NamedTuple):
    """Removes events from the inputs of each step, such as `augment.stochastic_length`.

    events: chooses them on the device, see `tasks.next_item`. lengths: simulates the lengths that remain, on
    the host, to choose the number of packed rows.
    """

    events: Shorten
    lengths: Grow


def packing_of(
    data: Data,
    model: Encoder,
    batch_size: int,
    *,
    num_devices: int = 1,
    grow: Grow | None = None,
    replacement: bool = False,
    deviations: float | None = None,
) -> Packing | None:
    """Packed rows for a batch of training inputs, a multiple of `num_devices`; None: padded rows.

    An encoder that cannot separate the users of a packed row (`can_be_packed`) gets padded rows.

    num_devices: `train.accumulate.num_shares` of a step in parts. grow: lengths of the sequences that a step
    makes from a batch, such as two augmented views of each user. replacement: see `plan`. deviations: spare
    room where there is no `grow`, see `packing.rows_needed`; None: 3 of batches without repeated users, as
    all stored results have it, which is too little where a batch is drawn with replacement from few users.
    """
    if not can_be_packed(model):
        return None
    lengths = np.minimum(data.inputs, model.max_len)
    room: dict[str, Any] = {"deviations": 3.0} if grow is None else {"grow": grow}
    if grow is None and deviations is not None:
        room = {"deviations": deviations, "replacement": replacement}
    rows = packing.rows_needed(lengths, batch_size, model.max_len, multiple=num_devices, **room)
    return Packing(rows, model.max_len)


def plan(
    data: Data, model: Encoder, batch_size: int, packed: Packing | None, *, replacement: bool = False
) -> Plan:
    """Every user once per epoch, in random order, with their positions in packed rows.

    replacement: draws users independently instead, as SASRec's sampler does.
    """
    users = data.split.sequences.num_users
    if packed is None:
        return shuffled(users, batch_size, replacement=replacement)
    max_len = model.max_len

    def lengths(context: Context, user: Array) -> Array:
        return jnp.clip(context["length"][user] - 1, 0, max_len)

    return shuffled(users, batch_size, lengths=lengths, packing=packed, replacement=replacement)


class SplitData(typing.Protocol):
    """Data whose users have events of training before those that are held out."""

    @property
    def split(self) -> Any: ...

    @property
    def num_items(self) -> int: ...


def sampled_candidates(
    data: SplitData, queries: Queries, number: int, seed: int, *, seen: str = "exclude"
) -> np.ndarray:
    """Sampled candidates of each query, int32 [M, number]: uniform, with replacement, fixed by the seed.

    They are never the target nor, where the rule for `seen` items is "exclude", an item of the user's
    training events (of a user who was held out of training, of the input); a test query may have the
    validation item as a candidate, as in SASRec's code (which may also draw the target itself). Under another
    rule seen items are candidates, so they are drawn too: otherwise a target that the user has seen would
    differ from all its candidates.

    Raises:
      ValueError: these events and the target cover all items.
    """
    sequences, size = data.split.sequences, np.int64(data.num_items + 1)
    known = _known_events(data, queries) if seen == "exclude" else np.zeros(len(sequences.items), bool)
    taken = np.unique(sequences.event_users[known] * size + sequences.items[known])
    counts = np.bincount(taken // size, minlength=sequences.num_users)
    if (counts[queries.user] + 1 >= data.num_items).any():
        raise ValueError(
            f"{sequences.name}: a user's events and target are all {data.num_items} items, so no "
            "candidate is left; rank all items instead"
        )
    taken = taken if taken.size else np.array([-1])  # equals no key
    rng = np.random.default_rng(seed)
    drawn = rng.integers(1, size, (len(queries.user), number))
    while True:
        keys = queries.user[:, None] * size + drawn
        at = np.minimum(np.searchsorted(taken, keys), len(taken) - 1)
        again = (taken[at] == keys) | (drawn == queries.target[:, None])
        if not again.any():
            return drawn.astype(np.int32)
        drawn[again] = rng.integers(1, size, again.sum())


def _known_events(data: SplitData, queries: Queries) -> np.ndarray:
    """Events whose items are no candidates, bool [N]: of training; without any, of the first input."""
    first = np.full(data.split.sequences.num_users, np.iinfo(np.int32).max)
    np.minimum.at(first, queries.user, queries.length)
    trained = data.split.train_length
    return first_events(data.split.sequences, np.where(trained > 0, trained, first))


class Batches(NamedTuple):
    """Batches of queries on the host, and the packed rows that fit each of them (None: padded)."""

    queries: dict[str, np.ndarray]
    packed: Packing | None


def batches(
    queries: Queries,
    max_len: int,
    batch_size: int = 0,
    candidates: np.ndarray | None = None,
    num_items: int | None = None,
) -> Batches:
    """Batches of queries with their positions in packed rows. candidates: of each query, [M, n]; None: all.

    num_items: the largest id of targets and candidates; None: not checked.
    """
    size = batch_size or min(EVALUATION_BATCH, len(queries.user))
    columns = batched_queries(queries, size, num_items=num_items)
    lengths = np.where(columns["mask"], np.minimum(columns["length"], max_len), 0)
    rows = max(packing.rows_used(batch, max_len) for batch in lengths)
    placement = jax.jit(jax.vmap(lambda n: packing.place(n, rows=rows, width=max_len)))(lengths)
    columns |= {"row": np.asarray(placement.row), "slot": np.asarray(placement.slot)}
    if candidates is not None:
        check_candidates(candidates, queries.target, num_items)
        filled = np.ones((columns["mask"].size, candidates.shape[1]), np.int32)
        filled[: len(candidates)] = candidates
        columns["candidates"] = filled.reshape(*columns["mask"].shape, -1)
    return Batches(columns, Packing(rows, max_len))


def check_candidates(candidates: np.ndarray, target: np.ndarray, num_items: int | None = None) -> None:
    """Raises ValueError for candidates [M, n] that are not in 1..num_items or are their query's target."""
    if len(candidates) != len(target):
        raise ValueError(
            f"candidates: {len(candidates):,} rows for {len(target):,} queries; give one row per query"
        )
    if candidates.ndim != 2 or candidates.dtype.kind not in "iu":
        raise ValueError(
            f"candidates: {candidates.dtype}{list(candidates.shape)}: must be ids, integers [queries, number]"
        )
    most = np.iinfo(np.int32).max if num_items is None else num_items
    for what, wrong in (
        (f"outside 1..{most:,}", (candidates < 1) | (candidates > most)),
        ("its query's target", candidates == target[:, None]),
    ):
        if wrong.any():
            query, place = (int(index[0]) for index in np.nonzero(wrong))
            raise ValueError(
                f"candidates: {candidates[query, place]} of query {query} is {what} (and "
                f"{int(wrong.sum()) - 1:,} others); draw them from the other items"
            )


def _candidates(data: Data, queries: Queries, protocol: Protocol, seed: int) -> np.ndarray | None:
    """The candidates that a protocol names: None for "all" and for a set, samples for "sampled-<number>"."""
    if of_all_items(protocol):
        return None
    kind, _, number = protocol.candidates.partition("-")
    if kind != "sampled" or not number.isdecimal() or int(number) < 1:
        raise ValueError(
            f"protocol.candidates={protocol.candidates!r}: expected 'all' or 'sampled-100' and the like"
        )
    return sampled_candidates(data, queries, int(number), seed, seen=protocol.seen)


def evaluation(
    model: Baseline | Retriever | Scorer | Encoder,
    data: Data,
    protocol: Protocol,
    part: Literal["validation", "test"],
    *,
    beyond: Beyond | None = None,
) -> Evaluation:
    """Ranks the targets of a part's queries by a protocol.

    Where the protocol excludes seen items, also as targets, `seen_targets` is the share of such targets.
    Queries of an encoder share packed rows if it can be packed; a retriever has its own layout.

    beyond: metrics besides those of the target's rank, see `protocols.beyond`; None: none.

    Raises:
      ValueError: `beyond` asks for the rest of the user's events of another part than the test, which would
        be test targets too.
    """
    queries = data.split.validation if part == "validation" else data.split.test
    candidates = _candidates(data, queries, protocol, VALIDATION_DRAW if part == "validation" else TEST_DRAW)
    scored = model.model if isinstance(model, Baseline) else model
    length = 1 if isinstance(scored, Retriever | Scorer) else scored.max_len
    made = batches(queries, length, candidates=candidates, num_items=data.num_items)
    if not isinstance(scored, Retriever | Scorer):
        scored = retriever(scored, made.packed if can_be_packed(scored) else None)
    keep = keep_ranks(data.split.sequences.user_ids, data.split.sequences.item_ids)
    columns = made.queries
    if beyond is not None and beyond.relevant == "rest":
        columns = columns | {"num_relevant": _rest(data, columns, part)}
    return ranking_evaluation(
        scored,
        protocol,
        columns,
        beyond=beyond,
        columns=data.columns,
        events=data.split.training_events,
        num_items=data.num_items,
        summarise=ranking_metrics(protocol.ks),
        of_ranks=ranking_metrics,
        history=data.history,
        keep=keep,
    )


def _rest(data: Data, queries: Mapping[str, np.ndarray], part: str) -> np.ndarray:
    """The number of events from each target to the user's last, int32 [batches, B]."""
    if part != "test":
        raise ValueError(
            f"part={part!r}: the events after a validation target may be test targets; with "
            "relevant='rest' evaluate the test queries"
        )
    rest = data.split.sequences.lengths[queries["user"]] - queries["length"]
    return np.where(queries["mask"], rest, 1).astype(np.int32)


def selection(
    model: Encoder, data: Data, protocol: Protocol, *, every: int = 1, patience: int | None = None
) -> Selection:
    """Selects by the protocol's metric on the validation queries."""
    return Selection(evaluation(model, data, protocol, "validation"), protocol.selection, every, patience)


def train(
    model: Encoder,
    objective: Objective,
    data: Data,
    protocol: Protocol,
    tx: optax.GradientTransformation,
    *,
    epochs: int,
    batch_size: int,
    every: int = 1,
    patience: int | None = None,
    replacement: bool = False,
    shortening: Shortening | None = None,
    deviations: float | None = None,
    table_dropout: float = 0.0,
    num_devices: int = 1,
    **options: Any,
) -> Fitted:
    """Trains an encoder to predict the next item at every event, for all seeds; each keeps its best epoch.

    protocol: its `selection` names the metric. epochs: at most. batch_size: users per step. every: epochs
    between evaluations. patience: evaluations without improvement before a seed stops; None: never.
    replacement: see `plan`. shortening: of each step's inputs; None: inputs are whole. deviations: spare room
    in packed rows, see `packing_of`; epochs of many thousand steps need more. table_dropout: of the table of
    item vectors, see `tasks.table_dropout`. options: seeds, workdir, description and other arguments of
    `train.fit.fit`.
    """
    shorten, lengths = (None, None) if shortening is None else shortening
    shares = num_shares(num_devices, options.get("accumulate_steps", 1))
    packed = packing_of(
        data, model, batch_size,
        num_devices=shares, grow=lengths, replacement=replacement, deviations=deviations,
    )  # fmt: skip
    placed = packed if shorten is None else None  # otherwise the task places the shortened sequences
    task = next_item(model, objective, packed=packed, shorten=shorten)
    return fit_reusing(
        [Phase("train", drop_table(task, table_dropout, bits=counter_bits), epochs)],
        tx,
        plan(data, model, batch_size, placed, replacement=replacement),
        with_tables(data.columns, objective),
        Selection(evaluation(model, data, protocol, "validation"), protocol.selection, every, patience),
        vocabulary=vocabulary(data),
        num_devices=num_devices,
        **options,
    )


def test(
    model: Baseline | Retriever | Scorer | Encoder,
    data: Data,
    protocol: Protocol,
    variables: Variables,
    *,
    beyond: Beyond | None = None,
    num_devices: int = 1,
) -> list[dict[str, float]]:
    """Metrics of the test queries for each seed: variables have a leading seeds axis.

    beyond: as of `evaluation`.
    """
    return run_test(model, data, protocol, variables, beyond=beyond, num_devices=num_devices).metrics


def run_test(
    model: Baseline | Retriever | Scorer | Encoder,
    data: Data,
    protocol: Protocol,
    variables: Variables,
    *,
    beyond: Beyond | None = None,
    num_devices: int = 1,
) -> Tested:
    """Metrics as `test` returns them, with the rank of every query, to be stored beside the result."""
    found = evaluation(model, data, protocol, "test", beyond=beyond)
    return evaluate_and_keep(found, variables, data.columns, num_devices=num_devices)
