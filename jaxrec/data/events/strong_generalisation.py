"""Strong generalisation: held-out users, encoded from a part of their items, are measured on the rest.

The protocol of Liang, Krishnan, Hoffman and Jebara (WWW 2018, arXiv:1802.05814, section 4.2) after Marlin
(2004): nothing of a user of validation or test is in training, and a model has to make something of the items
that such a user is queried with.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxrec.data.events.held_out import HeldOut, Sets
from jaxrec.data.events.interactions import Interactions, Sequences, offsets_of_lengths


def hold_out_users(
    sequences: Sequences,
    *,
    validation_users: int,
    test_users: int,
    share: float = 0.2,
    least: int = 5,
    seed: int = 0,
) -> HeldOut:
    """Users of validation and of test at random; of each one's items a random `share` is relevant.

    The number of relevant items is rounded down, as in the authors' code, and the others are the input.
    Items that no user of training has are left out, and items are numbered without them: no model could know
    them. A held-out user who then has fewer than `least` items is left out. The rule of the split says how
    many.

    Args:
      sequences: no item twice for a user.
      validation_users, test_users: number of users drawn from those with at least `least` items; all others
        are of training. Without validation users that part is empty.
      share: of the items of a held-out user.

    Raises:
      ValueError: too few users, a share of `least` items that is none or all of them, a user who has an item
        twice.
    """
    held = _draw_users(sequences, validation_users, test_users, share, least, seed)
    items = sequences.items
    rng = np.random.default_rng((seed, 1))
    user = sequences.event_users
    known = np.zeros(sequences.num_items + 1, bool)
    known[items[held[user] == 0]] = True
    keep = known[items]
    short = (held > 0) & (np.bincount(user[keep], minlength=len(held)) < least)
    keep &= ~short[user]
    order = np.lexsort((np.where(held[user] > 0, rng.random(len(user)), 0.0), user))
    order = order[keep[order]]
    users, count = np.unique(user[order], return_counts=True)
    number = np.floor(share * count + 1e-9).astype(np.int32)
    length = np.where(held[users] > 0, count - number, count).astype(np.int32)
    parts = [np.flatnonzero(held[users] == part).astype(np.int32) for part in (1, 2)]
    validation, test = (Sets(chosen, length[chosen], number[chosen]) for chosen in parts)
    if (validation_users and not len(validation.user)) or not len(test.user):
        raise ValueError(
            f"{sequences.name}: no held-out user has {least} items that training has; hold out fewer users"
        )
    old = np.flatnonzero(known)
    lost = int((~known[items]).sum())
    rule = (
        f"held-out users: {len(validation.user):,} of validation, {len(test.user):,} of test, "
        f"{1 - share:.0%} of each one's items as input, at random (seed {seed}); left out: {lost:,} "
        "interactions with items that no user of training has, "
        f"{int(short.sum()):,} held-out users of fewer than {least} others"
    )
    left = dataclasses.replace(
        sequences,
        items=np.searchsorted(old, items[order]).astype(np.int32) + np.int32(1),
        times=None,
        offsets=offsets_of_lengths(count),
        user_ids=np.asarray(sequences.user_ids)[users],
        item_ids=np.asarray(sequences.item_ids)[old - 1],
        num_items=len(old),
        gap_variance_rank=None,
    )
    return HeldOut(left, np.where(held[users] > 0, 0, length).astype(np.int32), validation, test, rule)


def _draw_users(
    sequences: Sequences, validation_users: int, test_users: int, share: float, least: int, seed: int
) -> np.ndarray:
    """0 for users of training, 1 of validation, 2 of test, [U]."""
    if validation_users < 0 or test_users < 1:
        raise ValueError(
            f"validation_users={validation_users}, test_users={test_users}: must be at least 0 and 1"
        )
    if not 0 < share < 1 or not 1 <= np.floor(share * least + 1e-9) < least:
        raise ValueError(
            f"share={share} of least={least} items: must be one item or more, and leave one as input"
        )
    possible = np.flatnonzero(sequences.lengths >= least)
    wanted = validation_users + test_users
    if wanted > len(possible) or wanted >= sequences.num_users:
        raise ValueError(
            f"{sequences.name}: {wanted:,} users are to be held out of {sequences.num_users:,}, of whom "
            f"{len(possible):,} have {least} items; hold out fewer, so that training has some"
        )
    chosen = np.random.default_rng((seed, 0)).permutation(possible)[:wanted]
    held = np.zeros(sequences.num_users, np.int8)
    held[chosen[:validation_users]], held[chosen[validation_users:]] = 1, 2
    return held


def keep_rated(interactions: Interactions, *, at_least: float, events: int = 1) -> Interactions:
    """The interactions of a value of at least `at_least`, of users who have as many as `events` of them.

    Users and items are numbered anew. Liang et al. take ratings of 4 and more, of users who have 5.

    Raises:
      ValueError: the interactions have no values, or none is left.
    """
    if interactions.value is None:
        raise ValueError(f"{interactions.name}: has no values, so none is at least {at_least}")
    keep = interactions.value >= at_least
    if not keep.any():
        raise ValueError(
            f"{interactions.name}: no value is at least {at_least}; the largest is {interactions.value.max()}"
        )
    return dataclasses.replace(
        interactions,
        user=interactions.user[keep],
        item=interactions.item[keep],
        time=None if interactions.time is None else interactions.time[keep],
        value=interactions.value[keep],
    ).k_core(events, item_k=1)
