"""Events numbered so that ids of an earlier data set stay: new days, with new users and items."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxrec.data import vocab
from jaxrec.data.events.interactions import Interactions


def with_known_ids(events: Interactions, *, item: np.ndarray, user: np.ndarray | None = None) -> Interactions:
    """The same events; known items have the ids that they had, and new ones come behind, by appearance.

    item: known raw ids in the order of their numbers; those without an event stay items, too. user: the same
    of users, of whom only those with events are numbered: known ones in their order, then new ones. None:
    users keep their numbers.

    Raises:
      ValueError: known raw ids are text and those here integers, or the other way round.
    """
    items = vocab.extend(vocab.Vocabulary(f"{events.name}: item", item), events.item_ids)
    found = dataclasses.replace(
        events,
        item=items.encode(events.item_ids)[events.item - 1],
        item_ids=items.raw,
        ids_kept=True,
    )
    if user is None:
        return found
    all_users = vocab.extend(vocab.Vocabulary(f"{events.name}: user", user), events.user_ids)
    users = vocab.Vocabulary(all_users.feature, all_users.raw[np.isin(all_users.raw, events.user_ids)])
    return dataclasses.replace(found, user=users.encode(events.user_ids)[events.user - 1], user_ids=users.raw)
