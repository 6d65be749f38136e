"""Which cuts of users' training events an epoch of `tasks.interests` reads."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np

from jaxrec.protocols.next_item import Data
from jaxrec.train.epoch import Plan, shuffled
from jaxrec.types import Array, Context, Key


def every_event(data: Data, batch_size: int, *, least: int = 1) -> Plan:
    """Each training event with at least `least` earlier ones of its user, once an epoch, in random order.

    Raises:
      ValueError: least is below 1, or no user has so many events.
    """
    count = np.maximum(_lengths(data, least) - least, 0)
    first = np.asarray(data.columns["start"], np.int64) + least
    events = np.repeat(first - (np.cumsum(count) - count), count) + np.arange(count.sum())
    return shuffled(len(data.columns["items"]), batch_size, examples=events)


def one_cut(data: Data, batch_size: int, *, least: int = 1) -> Plan:
    """Each user once an epoch, in random order, with one event drawn from those of `every_event`.

    A user of few events counts as much as one of many. ComiRec draws users with replacement, of which in the
    mean an epoch is the same (Cen et al., KDD 2020; its code has least=4).

    Raises:
      ValueError: as `every_event`.
    """
    users = np.flatnonzero(_lengths(data, least) > least)
    whole = shuffled(data.split.sequences.num_users, batch_size, examples=users)

    def draw(key: Key, context: Context) -> tuple[Mapping[str, Array], Array]:
        user_key, cut_key = jax.random.split(key)
        drawn, ok = whole.draw(user_key, context)
        user = drawn["example"]
        cut = jax.random.randint(cut_key, user.shape, least, context["length"][user])
        return {**drawn, "example": context["start"][user] + cut}, ok

    return Plan(whole.num_steps, draw, {**whole.description, "cut": f"one of each user, from {least} on"})


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
