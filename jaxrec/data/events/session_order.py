"""Reorders the clicks of sessions, to measure how much of a metric depends on their order."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxrec.data.events.sessions import Sessions


def repeats_together(sessions: Sessions, seed: int = 0, *, fixed: bool = False) -> Sessions:
    """The same sessions with repeated clicks of an item adjacent, and the items in random order.

    The raw file of Diginetica has the views of a session in this form. Test prefixes are those of the
    reordered session.

    fixed: one random order of items for all sessions, instead of one per session.

    Raises:
      ValueError: the test prefixes of a session are not all its prefixes, longest first.
    """
    rng = np.random.default_rng(seed)
    item_rank = np.random.default_rng([seed, 1]).permutation(sessions.num_items + 1)
    lengths = sessions.test.lengths
    starts = np.concatenate([[True], lengths[:-1] == 2])
    if (lengths[1:] != np.where(starts[1:], lengths[1:], lengths[:-1] - 1)).any() or lengths[-1] != 2:
        raise ValueError(
            f"{sessions.name}: test prefixes are not all prefixes of a session, longest first, down to one "
            "click and its target, so their sessions are not known"
        )

    def reordered(items: np.ndarray, session: np.ndarray) -> np.ndarray:
        keys = session.astype(np.int64) * (sessions.num_items + 1) + items
        pairs, pair = np.unique(keys, return_inverse=True)
        rank = item_rank[items] if fixed else rng.permutation(len(pairs))[pair]
        return items[np.lexsort((rank, session))]

    train = reordered(sessions.train.items, sessions.train.event_users)
    session = np.cumsum(starts) - 1
    longest = lengths[starts]
    clicks = np.flatnonzero(np.repeat(starts, lengths))
    begin = (np.cumsum(longest) - longest)[session]
    within = np.arange(len(sessions.test.items)) - np.repeat(sessions.test.offsets[:-1], lengths)
    index = np.repeat(begin, lengths) + within
    if not np.array_equal(sessions.test.items[clicks][index], sessions.test.items):
        raise ValueError(
            f"{sessions.name}: a test prefix is not a prefix of the longer one before it, so their sessions "
            "are not known"
        )
    test = reordered(sessions.test.items[clicks], np.repeat(np.arange(len(longest)), longest))
    return dataclasses.replace(
        sessions,
        train=dataclasses.replace(sessions.train, items=train),
        test=dataclasses.replace(sessions.test, items=test[index]),
    )
