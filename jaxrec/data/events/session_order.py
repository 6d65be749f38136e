"""Other orders of the clicks of sessions: ablations of how much of a number the order is."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxrec.data.events.sessions import Sessions


def repeats_together(sessions: Sessions, seed: int = 0, *, fixed: bool = False) -> Sessions:
    """The same clicks with those of an item side by side in each session, and the items in random order.

    So stand the views of a session in the raw file of Diginetica. Test prefixes are those of the reordered
    session.

    fixed: one random order of items for all sessions, in place of one for each.

    Raises:
      ValueError: the test rows of a session are not all its prefixes, longest first.
    """
    rng = np.random.default_rng(seed)
    of_item = np.random.default_rng([seed, 1]).permutation(sessions.num_items + 1)
    lengths = sessions.test.lengths
    starts = np.concatenate([[True], lengths[:-1] == 2])
    if (lengths[1:] != np.where(starts[1:], lengths[1:], lengths[:-1] - 1)).any() or lengths[-1] != 2:
        raise ValueError(
            f"{sessions.name}: test rows are not all prefixes of a session, longest first, down to one click "
            "and its target; so the sessions that they are cut from are not known"
        )

    def reordered(items: np.ndarray, row: np.ndarray) -> np.ndarray:
        pairs, pair = np.unique(row.astype(np.int64) * (sessions.num_items + 1) + items, return_inverse=True)
        place = of_item[items] if fixed else rng.permutation(len(pairs))[pair]
        return items[np.lexsort((place, row))]

    train = reordered(sessions.train.items, sessions.train.event_users)
    of_session = np.cumsum(starts) - 1
    longest = lengths[starts]
    clicks = np.flatnonzero(np.repeat(starts, lengths))
    begin = (np.cumsum(longest) - longest)[of_session]
    within = np.arange(len(sessions.test.items)) - np.repeat(sessions.test.offsets[:-1], lengths)
    places = np.repeat(begin, lengths) + within
    if not np.array_equal(sessions.test.items[clicks][places], sessions.test.items):
        raise ValueError(
            f"{sessions.name}: a test row is no prefix of the longer one above it; so the sessions that they "
            "are cut from are not known"
        )
    test = reordered(sessions.test.items[clicks], np.repeat(np.arange(len(longest)), longest))
    return dataclasses.replace(
        sessions,
        train=dataclasses.replace(sessions.train, items=train),
        test=dataclasses.replace(sessions.test, items=test[places]),
    )
