"""Click sessions along a noisy cycle of items."""

from __future__ import annotations

from jaxrec.data.events.sessions import Sessions
from jaxrec.data.sources.session_logs import arrays_from_lists
from jaxrec.data.synthetic.sequences import markov_chain


def noisy_cycle() -> Sessions:
    """Sessions along a noisy cycle of 30 items; every prefix of others is for test."""
    chain = markov_chain(150, 30, min_length=2, max_length=7, noise=0.2).sequences
    lists = [chain.user_items(user).tolist() for user in range(chain.num_users)]
    tested = [(clicks[:cut], clicks[cut]) for clicks in lists[110:] for cut in range(len(clicks) - 1, 0, -1)]
    prefixes, targets = map(list, zip(*tested, strict=True))
    return Sessions.from_arrays("tiny", **arrays_from_lists(lists[:110], (prefixes, targets), "tiny"))
