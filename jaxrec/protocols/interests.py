"""Which cuts of users' training events an epoch of `tasks.interests` reads, and training on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrec.optim.loss_weighting import static
from jaxrec.protocols.next_item import Data, evaluation, vocabulary
from jaxrec.tasks.interests import InterestModel, interests, retriever
from jaxrec.tasks.objectives import Objective, with_tables
from jaxrec.train.epoch import Plan, shuffled
from jaxrec.train.fit import Fitted, Phase, Selection
from jaxrec.train.identity import described_array
from jaxrec.train.reuse import fit_reusing
from jaxrec.types import Array, Context, Key, Protocol


def every_event(data: Data, batch_size: int, *, least: int = 1) -> Plan:
    """Each training event with at least `least` earlier ones of its user, once an epoch, in random order.

    Raises:
      ValueError: least is below 1, or no user has so many events.
    """
    count = np.maximum(_lengths(data, least) - least, 0)
    first = np.asarray(data.columns["start"], np.int64) + least
    events = np.repeat(first - (np.cumsum(count) - count), count) + np.arange(count.sum())
    whole = shuffled(len(events), batch_size)

    def draw(key: Key, context: Context) -> tuple[Mapping[str, Array], Array]:
        drawn, ok = whole.draw(key, context)
        return {**drawn, "example": numbered_event(drawn["example"], context, least)}, ok

    return Plan(whole.num_steps, draw, {"drawn": described_array(events.astype(np.int32))})


def numbered_event(number: Array, context: Context, least: int) -> Array:
    """The events of those numbers, from 0, among all with `least` earlier ones, users one after the other.

    Found from the columns of the data, so that no program holds a list of events.
    """
    count = jnp.maximum(context["length"] - least, 0)
    end = jnp.cumsum(count)
    user = jnp.searchsorted(end, number, side="right")
    return (context["start"] + least + count - end)[user] + number


def one_cut(data: Data, batch_size: int, *, least: int = 1) -> Plan:
    """Each user once an epoch, in random order, with one event drawn from those of `every_event`.

    A user of few events counts as much as one of many. ComiRec draws users with replacement, of which in the
    mean an epoch is the same (Cen et al., KDD 2020; its code has least=4).

    Raises:
      ValueError: as `every_event`.
    """
    users = np.flatnonzero(_lengths(data, least) > least).astype(np.int32)
    whole = shuffled(len(users), batch_size)

    def draw(key: Key, context: Context) -> tuple[Mapping[str, Array], Array]:
        user_key, cut_key = jax.random.split(key)
        drawn, ok = whole.draw(user_key, context)
        long = jnp.nonzero(context["length"] > least, size=len(users), fill_value=0)[0]
        user = long[drawn["example"]].astype(jnp.int32)
        cut = jax.random.randint(cut_key, user.shape, least, context["length"][user])
        return {**drawn, "example": context["start"][user] + cut}, ok

    cut = f"one of each user, from {least} on"
    return Plan(whole.num_steps, draw, {"drawn": described_array(users), "cut": cut})


def _lengths(data: Data, least: int) -> np.ndarray:
    """Training events of each user, int64 [U]."""
    if least < 1:
        raise ValueError(f"least={least}: a target needs at least 1 earlier event")
    lengths = np.asarray(data.columns["length"], np.int64)
    if not (lengths > least).any():
        raise ValueError(
            f"least={least}: no user has more than {least} training events, so there is no target; lower it "
            "or take other data"
        )
    return lengths


def train(
    model: InterestModel,
    objective: Objective | None,
    data: Data,
    protocol: Protocol,
    tx: optax.GradientTransformation,
    plan: Plan,
    *,
    epochs: int,
    every: int = 1,
    patience: int | None = None,
    weights: Mapping[str, float] | None = None,
    num_devices: int = 1,
    **options: Any,
) -> Fitted:
    """Trains a model of several interests to find the event after each cut of `plan`, for all seeds at once.

    Each seed keeps the parameters of its best evaluation on the validation queries, in which an item counts
    by its best product with an interest.

    objective: as of `tasks.interests`. protocol: its `selection` names the metric. epochs: at most. every:
    epochs between evaluations. patience: evaluations without improvement before a seed stops; None: never.
    weights: of the losses, by name, that of the objective being "interests"; None: 1 each. options: seeds,
    workdir, description and other arguments of `train.fit.fit`.
    """
    return fit_reusing(
        [Phase("train", interests(model, objective), epochs, static(weights))],
        tx,
        plan,
        with_tables(data.columns, objective),
        Selection(
            evaluation(retriever(model), data, protocol, "validation"), protocol.selection, every, patience
        ),
        vocabulary=vocabulary(data),
        num_devices=num_devices,
        **options,
    )
