"""Events with an action, such as movies and ratings: predicts the next item, and the action on an item.

The histories of all users are split at the same two times, so that no model reads the future. Every event of
a part that has an earlier one is a query:

    ranking    whether its action is positive ("liked"), given the item and all earlier events: AUC, log loss,
               and normalised entropy (log loss divided by that of a constant prediction)
    retrieval  which item comes next, for events with a positive action: full ranking

Earlier events of the same part are read with their actions, as in serving. The model is one of
`tasks.generative`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from jaxrec import metrics, packing
from jaxrec.data.events.batching import event_windows
from jaxrec.data.events.interactions import Interactions
from jaxrec.data.events.split import Queries, split_by_time
from jaxrec.optim.loss_weighting import static
from jaxrec.packing import Packing
from jaxrec.protocols import next_item
from jaxrec.protocols.beyond import Beyond, ranking_evaluation
from jaxrec.tasks import generative
from jaxrec.tasks.generative import ActionEncoder
from jaxrec.tasks.objectives import Objective, with_tables
from jaxrec.train.accumulate import num_shares
from jaxrec.train.epoch import Plan, shuffled
from jaxrec.train.evaluate import evaluate_and_keep, impression_metrics, make_scores, ranking_metrics
from jaxrec.train.fit import Fitted, Phase, Selection
from jaxrec.train.per_user import keep_impressions, keep_ranks
from jaxrec.train.reuse import fit_reusing
from jaxrec.types import Array, Context, Evaluation, GroupSums, Protocol, Tested, Variables

Part = Literal["validation", "test"]
Question = Literal["ranking", "retrieval"]
SHARES = (0.8, 0.9)  # of the events, before validation and before test
SMOOTHING = 5.0  # pseudo-events at the average share that `rates` adds to each item and user
RETRIEVAL_BATCH, WINDOWS_BATCH = 256, 32


class Data(NamedTuple):
    """A split with the queries of both questions.

    retrieval: the split whose queries have a positive action. ranking: queries of all events, by part.
    actions: of each event, 1.., int32 [N], in the order of the sequences. positive: actions that count as
    positive. columns: arrays that stay on the device. rule: how the parts were split.
    """

    retrieval: next_item.Data
    ranking: Mapping[Part, Queries]
    actions: np.ndarray
    positive: tuple[int, ...]
    columns: dict[str, Any]
    rule: str

    @property
    def num_items(self) -> int:
        return self.retrieval.num_items

    @property
    def num_actions(self) -> int:
        return int(self.actions.max())


def resident(events: Interactions, *, positive: tuple[int, ...]) -> Data:
    """The columns of events, split by time: 80 % for training, 10 % each for validation and test.

    events: with times, and with actions as values.

    Raises:
      ValueError: there are no times or actions; an action is not an integer, or below 1; `positive` names an
        action that does not occur; a part has no query.
    """
    if events.time is None or events.value is None:
        raise ValueError(f"{events.name}: times and actions are needed; name the columns that hold them")
    if (events.value != np.round(events.value)).any() or events.value.min() < 1:
        raise ValueError(f"{events.name}: actions must be whole, from 1 on, such as ratings from 1 to 5")
    actions = events.value.astype(np.int32)[events.event_order()]
    if not set(positive) <= set(range(1, int(actions.max()) + 1)):
        raise ValueError(
            f"{events.name}: positive={positive}: must be actions, of which there are 1 to {actions.max()}"
        )
    first, second = (int(np.quantile(events.time, share)) for share in SHARES)
    split = split_by_time(events.to_sequences(), first, second, targets="all")

    def positives(queries: Queries) -> Queries:
        kept = is_positive(queries, actions, split.sequences.offsets, positive)
        return Queries(*(column[kept] for column in queries))

    retrieved = dataclasses.replace(
        split,
        validation=positives(split.validation),
        test=positives(split.test),
        rule=f"{split.rule}, of rating {' or '.join(map(str, positive))}",
    )
    found = next_item.resident(retrieved)
    ranking: dict[Part, Queries] = {"validation": split.validation, "test": split.test}
    return Data(found, ranking, actions, positive, {**found.columns, "actions": actions}, split.rule)


def is_positive(
    queries: Queries, actions: np.ndarray, offsets: np.ndarray, positive: tuple[int, ...]
) -> np.ndarray:
    """Whether each target's action is positive, bool [M].

    actions: of each event, [N]; those of user u start at offsets[u], offsets: [U + 1].
    """
    return np.isin(actions[offsets[queries.user] + queries.length], positive)


def labels(data: Data, part: Part) -> np.ndarray:
    """1 where the action of a query's target is positive, float32 [M]."""
    offsets = data.retrieval.split.sequences.offsets
    return is_positive(data.ranking[part], data.actions, offsets, data.positive).astype(np.float32)


def packing_of(data: Data, max_len: int, batch_size: int, *, num_devices: int = 1) -> Packing:
    """Packed rows for a batch of users' training events, a multiple of `num_devices`."""
    lengths = np.minimum(data.columns["length"], max_len)
    rows = packing.rows_needed(lengths, batch_size, max_len, multiple=num_devices, deviations=3.0)
    return Packing(rows, max_len)


def plan(data: Data, batch_size: int, packed: Packing) -> Plan:
    """Every user once per epoch, in random order, with the positions of their events in packed rows."""
    max_len = packed.width

    def lengths(context: Context, user: Array) -> Array:
        return jnp.minimum(context["length"][user], max_len)

    return shuffled(len(data.columns["length"]), batch_size, lengths=lengths, packing=packed)


def evaluation(
    model: ActionEncoder,
    data: Data,
    question: Question,
    protocol: Protocol,
    part: Part,
    *,
    beyond: Beyond | None = None,
) -> Evaluation:
    """Evaluates one of the two questions on the queries of a part.

    beyond: metrics of retrieval besides those of the target's rank, see `protocols.beyond`; None: none.

    Raises:
      ValueError: `beyond` is given for the question of ranking, or asks for all later events.
    """
    if question == "retrieval":
        return retrieval(model, data, protocol, part, beyond=beyond)
    if beyond is not None:
        raise ValueError(f"question={question!r}: makes no lists of items; ask for `beyond` of 'retrieval'")
    return ranking(model, data, protocol, part)


def retrieval(
    model: ActionEncoder, data: Data, protocol: Protocol, part: Part, *, beyond: Beyond | None = None
) -> Evaluation:
    """Ranks the next item of each positive query against all items. beyond: as of `evaluation`."""
    if beyond is not None and beyond.relevant == "rest":
        raise ValueError("relevant='rest': later events need not be positive; ask for relevant='next'")
    split = data.retrieval.split
    queries = split.validation if part == "validation" else split.test
    mixed = np.random.default_rng(0).permutation(
        len(queries.user)
    )  # so that batches need about equally many packed rows
    queries = Queries(*(column[mixed] for column in queries))
    made = next_item.batches(
        queries, model.max_len - 1, batch_size=min(RETRIEVAL_BATCH, len(mixed)), num_items=data.num_items
    )
    scorer = generative.retriever(model, made.packed)
    keep = keep_ranks(split.sequences.user_ids, split.sequences.item_ids)
    return ranking_evaluation(
        scorer,
        protocol,
        made.queries,
        beyond=beyond,
        columns=data.columns,
        events=split.training_events,
        num_items=data.num_items,
        summarise=ranking_metrics(protocol.ks),
        of_ranks=ranking_metrics,
        history=data.retrieval.history,
        keep=keep,
    )


def ranking(model: ActionEncoder, data: Data, protocol: Protocol, part: Part) -> Evaluation:
    """Scores whether the action of each event is positive.

    A pass scores all events of a window; each has at least half a window of earlier events, or all of them.
    """
    windows = event_windows(
        data.ranking[part], model.max_len, stride=model.max_len // 2, batch_size=WINDOWS_BATCH
    )
    score = generative.action_score(model, data.positive)
    measure = make_scores(score, functools.partial(generative.windows, model))
    truth = labels(data, part)

    def summarise(scores: np.ndarray, columns: Mapping[str, np.ndarray]) -> dict[str, float]:
        query = columns["query"]
        return action_metrics(np.asarray(scores)[query >= 0], truth[query[query >= 0]])

    def keep(scores: np.ndarray, columns: Mapping[str, np.ndarray]) -> GroupSums:
        query = np.asarray(columns["query"]).reshape(-1)
        found = np.asarray(scores).reshape(len(scores), -1)[:, query >= 0]
        return action_sums(found, data, part, query[query >= 0])

    return Evaluation(measure, windows, summarise, protocol, keep)


def train(
    model: ActionEncoder,
    objective: Objective,
    data: Data,
    weights: Mapping[Question, float],
    question: Question,
    protocol: Protocol,
    tx: optax.GradientTransformation,
    *,
    epochs: int,
    batch_size: int,
    every: int = 1,
    patience: int | None = None,
    num_devices: int = 1,
    **options: Any,
) -> Fitted:
    """Trains a model of items and actions on both questions, for all seeds at once.

    objective: the loss of retrieval. weights: of the two losses. question, protocol: each seed keeps the
    parameters of its best evaluation of this question on the validation queries, by the protocol's
    `selection`. Other arguments: see `next_item.train`.
    """
    shares = num_shares(num_devices, options.get("accumulate_steps", 1))
    packed = packing_of(data, model.max_len, batch_size, num_devices=shares)
    weighting = static({str(name): weight for name, weight in weights.items()})
    task = generative.generative(model, objective, positive=data.positive, packed=packed)
    found = evaluation(model, data, question, protocol, "validation")
    return fit_reusing(
        [Phase("train", task, epochs, weighting)],
        tx,
        plan(data, batch_size, packed),
        with_tables(data.columns, objective),
        Selection(found, protocol.selection, every=every, patience=patience),
        vocabulary=next_item.vocabulary(data.retrieval),
        num_devices=num_devices,
        **options,
    )


def test(
    model: ActionEncoder,
    data: Data,
    question: Question,
    protocol: Protocol,
    variables: Variables,
    *,
    beyond: Beyond | None = None,
    num_devices: int = 1,
) -> list[dict[str, float]]:
    """Metrics of one question on the test queries for each seed: variables have a leading seeds axis.

    beyond: as of `evaluation`.
    """
    return run_test(
        model, data, question, protocol, variables, beyond=beyond, num_devices=num_devices
    ).metrics


def run_test(
    model: ActionEncoder,
    data: Data,
    question: Question,
    protocol: Protocol,
    variables: Variables,
    *,
    beyond: Beyond | None = None,
    num_devices: int = 1,
) -> Tested:
    """Metrics as `test` returns them, with ranks or sums over users, to be stored beside the result."""
    found = evaluation(model, data, question, protocol, "test", beyond=beyond)
    return evaluate_and_keep(found, variables, data.columns, num_devices=num_devices)


def action_metrics(scores: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """AUC, log loss and normalised entropy of log-odds [M] against labels [M]."""
    columns = {"mask": np.ones(len(truth), bool), "label/liked": truth}
    found = impression_metrics(("liked",))(scores[:, None], columns)
    named = {name.removesuffix("/liked"): value for name, value in found.items()}
    entropy = metrics.normalized_entropy(jnp.asarray(scores), jnp.asarray(truth))
    return {**named, "normalized_entropy": float(entropy)}


def action_sums(scores: np.ndarray, data: Data, part: Part, query: np.ndarray) -> GroupSums:
    """AUC and log loss of log-odds [S, M] of a part's queries [M] as sums over users."""
    queries = {
        "mask": np.ones(len(query), bool),
        "label/liked": labels(data, part)[query],
        "user": data.retrieval.split.sequences.user_ids[data.ranking[part].user[query]],
    }
    found = keep_impressions(("liked",), group="user")(scores[..., None], queries)
    assert isinstance(found, GroupSums)
    sums, weights = (
        {name.removesuffix("/liked"): column for name, column in columns.items() if "gauc" not in name}
        for columns in (found.sums, found.weights)
    )
    return found._replace(sums=sums, weights=weights)


def rates_test(data: Data, num_seeds: int) -> Tested:
    """Test metrics of `rates`, the same for every seed, and their sums over users."""
    scores, truth = rates(data, "test"), labels(data, "test")
    values = action_sums(scores[None], data, "test", np.arange(len(truth)))
    return Tested([action_metrics(scores, truth)] * num_seeds, values)


def rates(data: Data, part: Part) -> np.ndarray:
    """Scores of a ranking baseline that is not trained, log-odds [M].

    The log-odds of the item's share of positive actions, plus those of the user's share in earlier events,
    minus those of the average share.
    """
    queries, start = data.ranking[part], data.retrieval.split.sequences.offsets
    items, lengths = data.retrieval.split.sequences.items, np.diff(start)
    liked = np.isin(data.actions, data.positive).astype(float)
    number = np.arange(len(items)) - np.repeat(start[:-1], lengths)
    trained = number < np.repeat(data.columns["length"], lengths)
    average = liked[trained].mean()
    count = np.bincount(items[trained], minlength=data.num_items + 1)
    likes = np.bincount(items[trained], liked[trained], minlength=data.num_items + 1)
    so_far = np.concatenate([[0.0], np.cumsum(liked)])
    of_user = so_far[start[queries.user] + queries.length] - so_far[start[queries.user]]

    def log_odds(likes: np.ndarray, count: np.ndarray) -> np.ndarray:
        share = (likes + SMOOTHING * average) / (count + SMOOTHING)
        return np.log(share / (1 - share))

    target = queries.target
    scores = log_odds(likes[target], count[target]) + log_odds(of_user, queries.length)
    return (scores - np.log(average / (1 - average))).astype(np.float32)
