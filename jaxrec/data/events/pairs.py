"""Training events as a matrix of users and items: the distinct pairs, as columns that live on the device."""

from __future__ import annotations

import numpy as np

from jaxrec.data.events.training_events import TrainingEvents


def pair_columns(events: TrainingEvents, *, num_users: int) -> dict[str, np.ndarray]:
    """Columns that training on pairs of a user and an item reads (`jaxrec.tasks.pairs`), P pairs, U users.

    pair_user [P]: index of the user, from 0; pair_item [P]: 1..num_items, ascending within each user;
    pair_start, pair_count [U]: user u has the pairs pair_start[u] : pair_start[u] + pair_count[u].

    An item that a user has several events of makes one pair. A user without events has none.

    Args:
      events: whose groups are indices of users, 0..num_users - 1.

    Raises:
      ValueError: a group is outside 0..num_users - 1.
    """
    if num_users < 1:
        raise ValueError(f"num_users={num_users}: must be at least 1")
    user, item = events.group.astype(np.int64), events.item.astype(np.int64)
    if user.min() < 0 or user.max() >= num_users:
        raise ValueError(
            f"events: users {user.min()}..{user.max()}, but num_users={num_users} allows 0..{num_users - 1}; "
            "number the users from 0"
        )
    pairs = np.unique(user * (events.num_items + 1) + item)
    user, item = np.divmod(pairs, events.num_items + 1)
    count = np.bincount(user, minlength=num_users)
    return {
        "pair_user": user.astype(np.int32),
        "pair_item": item.astype(np.int32),
        "pair_start": (np.cumsum(count) - count).astype(np.int32),
        "pair_count": count.astype(np.int32),
    }
