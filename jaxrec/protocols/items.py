"""Models of items alone: trained on the events of users, measured by the items of a history.

The data are sequences (`next_item.Data`: the next item is ranked) or an interaction matrix (`retrieval.Data`:
held-out items are).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import optax

from jaxrec.optim.loss_weighting import static
from jaxrec.protocols import next_item, retrieval
from jaxrec.protocols.beyond import Beyond
from jaxrec.protocols.retrieval import LAST_EPOCH, Part
from jaxrec.tasks.item_pairs import Finish
from jaxrec.train.epoch import Plan
from jaxrec.train.evaluate import evaluate_and_keep
from jaxrec.train.fit import Fitted, Phase, Selection
from jaxrec.train.reuse import fit_reusing
from jaxrec.train.trial import check_validation
from jaxrec.types import (
    Array,
    Context,
    Evaluation,
    Protocol,
    Retriever,
    Scorer,
    Task,
    Tested,
    Variables,
)

Data = next_item.Data | retrieval.Data


def evaluation(
    finish: Finish,
    ranked: Retriever | Scorer,
    data: Data,
    protocol: Protocol,
    part: Part,
    *,
    beyond: Beyond | None,
) -> Evaluation:
    """`next_item.evaluation` or `retrieval.evaluation` of the final vectors of a model's variables, which are
    made once a call."""
    if isinstance(data, next_item.Data):
        asked = next_item.evaluation(ranked, data, protocol, part, beyond=beyond)
    else:
        asked = retrieval.evaluation(ranked, data, protocol, part)

    def run(variables: Variables, queries: Mapping[str, Array], context: Context) -> tuple[Array, Array]:
        return asked.measure(finish(variables, context), queries, context)

    return asked._replace(measure=run)


def train(
    task: Task | Sequence[Task],
    plan: Plan,
    finish: Finish,
    ranked: Retriever | Scorer,
    data: Data,
    protocol: Protocol,
    tx: optax.GradientTransformation,
    *,
    columns: Context,
    epochs: int,
    every: int = 1,
    patience: int | None = None,
    **options: Any,
) -> Fitted:
    """Trains for all seeds at once; each keeps the parameters of its best evaluation on validation.

    Arguments, and what `protocol.selection` "last epoch" means, as of `retrieval.train`. task: of several, a
    curriculum, each is that of an epoch and the last one of all others. finish: makes final vectors of the
    task's variables; ranked: how these are ranked.
    """
    last = protocol.selection == LAST_EPOCH
    if last and patience is not None:
        raise ValueError(
            f"patience={patience}: nothing is selected where the last epoch is kept; leave it out"
        )
    metric = f"ndcg@{protocol.ks[-1]}" if last else protocol.selection
    part: Part = "test" if last else "validation"
    check_validation(options.get("trial"), part)
    asked = evaluation(finish, ranked, data, protocol, part, beyond=None)
    return fit_reusing(
        phases_of(task, epochs),
        tx,
        plan,
        {**data.columns, **columns},
        Selection(asked, metric, every, patience, keep="last" if last else "best"),
        vocabulary=vocabulary(data),
        **options,
    )


def phases_of(task: Task | Sequence[Task], epochs: int) -> list[Phase]:
    """A phase of one task; of a curriculum one an epoch, and one of all epochs from the last task on.

    Raises:
      ValueError: epochs is below 1.
    """
    if epochs < 1:
        raise ValueError(f"epochs={epochs}: must be at least 1")
    if isinstance(task, Task):
        return [Phase("train", task, epochs, static())]
    alone = min(len(task), epochs) - 1
    first = [Phase(f"train-{number}", one, 1, static()) for number, one in enumerate(task[:alone], 1)]
    return [*first, Phase("train", task[alone], epochs - alone, static())]


def run_test(
    finish: Finish,
    ranked: Retriever | Scorer,
    data: Data,
    protocol: Protocol,
    variables: Variables,
    *,
    columns: Context,
    beyond: Beyond | None = None,
    num_devices: int = 1,
) -> Tested:
    """Test metrics of each seed and their values of each user: variables have a leading seeds axis."""
    found = evaluation(finish, ranked, data, protocol, "test", beyond=beyond)
    return evaluate_and_keep(found, variables, {**data.columns, **columns}, num_devices=num_devices)


def finished(finish: Finish, variables: Variables, context: Context) -> Variables:
    """Final vectors of each seed."""
    return jax.jit(jax.vmap(finish, in_axes=(0, None)))(variables, context)


def vocabulary(data: Data) -> dict[str, Any]:
    """Raw ids of items and users."""
    if isinstance(data, next_item.Data):
        return next_item.vocabulary(data)
    return retrieval.vocabulary(data)
