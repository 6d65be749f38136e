"""Events of two kinds, liked and disliked: each is a target, and a model should rank the two apart.

Metrics are means over all targets, and, ending in /liked and /disliked, over those of a kind; separation@k is
hit@k of liked targets minus that of disliked ones. It rises too if everything like a disliked item is ranked
lower, so it is to be read beside hit@k/liked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import optax

from jaxrec.optim.loss_weighting import static
from jaxrec.protocols import next_item
from jaxrec.protocols.next_item import Data
from jaxrec.tasks.encoder import Encoder
from jaxrec.tasks.feedback import Term, next_item_with_feedback
from jaxrec.tasks.objectives import Objective, with_tables
from jaxrec.train.accumulate import num_shares
from jaxrec.train.evaluate import evaluate_and_keep, ranking_metrics
from jaxrec.train.fit import Fitted, Phase, Selection
from jaxrec.train.reuse import fit_reusing
from jaxrec.types import (
    Baseline,
    Evaluation,
    Protocol,
    Retriever,
    Scorer,
    Summarise,
    Tested,
    Variables,
)

KINDS: Mapping[str, int] = {"liked": 1, "disliked": -1}


def kinds_of_ratings(ratings: np.ndarray, *, liked: float = 4.0, disliked: float = 2.0) -> np.ndarray:
    """1 for ratings of at least `liked`, -1 for those of at most `disliked`, 0 between: int32 [N].

    Raises:
      ValueError: disliked is not below liked, or a rating is NaN.
    """
    if not disliked < liked:
        raise ValueError(f"disliked={disliked}: must be below liked={liked}")
    if np.isnan(ratings).any():
        raise ValueError(f"ratings: {int(np.isnan(ratings).sum()):,} are NaN; leave these events out")
    return (ratings >= liked).astype(np.int32) - (ratings <= disliked).astype(np.int32)


def with_kinds(data: Data, kinds: np.ndarray) -> Data:
    """The data with the kind of each event: 1 liked, -1 disliked, 0 neither, integers [N].

    kinds: in the order of the sequences' events (`Interactions.event_order`).

    Raises:
      ValueError: there is not one for each event, or one is another number.
    """
    count = len(data.split.sequences.items)
    if kinds.shape != (count,) or not np.isin(kinds, (-1, 0, 1)).all():
        raise ValueError(f"kinds: {kinds.shape}: must be -1, 0 or 1 for each of the {count:,} events")
    return data._replace(columns={**data.columns, "kind": kinds.astype(np.int32)})


def evaluation(
    model: Baseline | Retriever | Scorer | Encoder,
    data: Data,
    protocol: Protocol,
    part: Literal["validation", "test"],
) -> Evaluation:
    """Ranks every target of a part, and measures liked and disliked ones apart.

    Raises:
      ValueError: the data have no kinds; the part has no target of a kind.
    """
    if "kind" not in data.columns:
        raise ValueError("the data have no kinds; add them by with_kinds")
    made = next_item.evaluation(model, data, protocol, part)
    starts = data.split.sequences.offsets[:-1]
    events = np.where(made.queries["mask"], starts[made.queries["user"]] + made.queries["length"], 0)
    kind = np.where(made.queries["mask"], np.asarray(data.columns["kind"])[events], 0).astype(np.int32)
    for name, number in KINDS.items():
        if not (kind == number).any():
            raise ValueError(
                f"{data.split.sequences.name}: no {part} target is {name}; hold out more events of each user"
            )
    return made._replace(
        queries={**made.queries, "kind": kind}, summarise=by_kind(ranking_metrics(protocol.ks), protocol.ks)
    )


def by_kind(of_all: Summarise, ks: tuple[int, ...]) -> Summarise:
    """Metrics of all targets, of those of each kind, and the separation of the two at each cut-off."""

    def summarise(values: np.ndarray, queries: Mapping[str, np.ndarray]) -> dict[str, float]:
        found = dict(of_all(values, queries))
        for name, number in KINDS.items():
            of_kind = of_all(values, {**queries, "mask": queries["mask"] & (queries["kind"] == number)})
            found |= {f"{metric}/{name}": value for metric, value in of_kind.items()}
        return found | {f"separation@{k}": found[f"hit@{k}/liked"] - found[f"hit@{k}/disliked"] for k in ks}

    return summarise


def train(
    model: Encoder,
    objective: Objective,
    data: Data,
    protocol: Protocol,
    tx: optax.GradientTransformation,
    *,
    term: Term | None,
    weight: float = 0.1,
    window: int = 10,
    past: bool = False,
    least_kind: int = -1,
    epochs: int,
    batch_size: int,
    every: int = 1,
    patience: int | None = None,
    num_devices: int = 1,
    **options: Any,
) -> Fitted:
    """Trains an encoder to predict the next item, and on a term of feedback, for all seeds at once.

    protocol: its `selection` names a metric of `evaluation` on the validation part. term, window, past,
    least_kind: see `tasks.feedback.next_item_with_feedback`. weight: of the term; with 0 it is not computed.
    Others: as of `protocols.next_item.train`.

    Raises:
      ValueError: weight is negative; as `evaluation`.
    """
    if not weight >= 0:
        raise ValueError(f"weight={weight}: must be at least 0")
    used = term if weight > 0 else None
    shares = num_shares(num_devices, options.get("accumulate_steps", 1))
    packed = next_item.packing_of(data, model, batch_size, num_devices=shares)
    task = next_item_with_feedback(
        model, objective, used, window=window, past=past, least_kind=least_kind, packed=packed
    )
    weighting = static({"next_item": 1.0, **({} if used is None else {"feedback": weight})})
    return fit_reusing(
        [Phase("train", task, epochs, weighting)],
        tx,
        next_item.plan(data, model, batch_size, packed),
        with_tables(data.columns, objective),
        Selection(evaluation(model, data, protocol, "validation"), protocol.selection, every, patience),
        vocabulary=next_item.vocabulary(data),
        num_devices=num_devices,
        **options,
    )


def run_test(
    model: Baseline | Retriever | Scorer | Encoder,
    data: Data,
    protocol: Protocol,
    variables: Variables,
    *,
    num_devices: int = 1,
) -> Tested:
    """Metrics of the test targets for each seed, and the rank of every target."""
    found = evaluation(model, data, protocol, "test")
    return evaluate_and_keep(found, variables, data.columns, num_devices=num_devices)
