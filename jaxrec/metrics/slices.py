"""Groups of items and users that a metric is also given for, on the host: head and tail, tastes, lengths."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np


def head_items(num_users_of_item: np.ndarray, *, share: float = 0.2) -> np.ndarray:
    """True for the most popular items, a share of all rounded up: numbers by id [V] → bool [V].

    The split of Abdollahpouri et al. (RMSE at RecSys 2019), whose head is the most popular fifth. Of equally
    popular items the smaller id is first; an item that no user met is never of the head. Id 0 is padding.

    Raises:
      ValueError: share is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share={share}: must be above 0 and at most 1")
    count = np.asarray(num_users_of_item)[1:]
    first = np.argsort(-count, kind="stable")[: _share_of(len(count), share)]
    found = np.zeros(len(count) + 1, bool)
    found[1 + first] = count[first] > 0
    return found


def tastes(share_of_head: np.ndarray, *, share: float = 0.2) -> dict[str, np.ndarray]:
    """Users by the share of head items in what they met: {"niche", "diverse", "blockbuster": bool [U]}.

    niche: the users of the lowest shares, a fifth of all, and whoever ties with the last of them;
    blockbuster: those of the highest, likewise; diverse: the others (Abdollahpouri et al., RMSE at RecSys
    2019). Where one share fills both ends, all users are diverse.

    share_of_head: NaN for a user who met nothing, who is in no group.
    """
    known = ~np.isnan(share_of_head)
    ordered = np.sort(share_of_head[known])
    if not len(ordered):
        return dict.fromkeys(("niche", "diverse", "blockbuster"), known)
    size = _share_of(len(ordered), share)
    low, high = ordered[size - 1], ordered[-size]
    apart = low < high
    niche, blockbuster = (known & apart & (share_of_head <= low), known & apart & (share_of_head >= high))
    return {"niche": niche, "diverse": known & ~niche & ~blockbuster, "blockbuster": blockbuster}


def by_length(length: np.ndarray, *, limits: Sequence[int] = (5, 20)) -> dict[str, np.ndarray]:
    """Queries by the events before them: lengths [M] → {"length_0-5", "length_6-20", "length_21+": bool [M]}.

    Raises:
      ValueError: limits do not ascend, or one is negative.
    """
    if any(limit < 0 for limit in limits) or list(limits) != sorted(set(limits)):
        raise ValueError(f"limits={tuple(limits)}: must ascend, each at least 0")
    ends = [-1, *limits]
    named = {
        f"length_{low + 1}-{high}": (length > low) & (length <= high)
        for low, high in itertools.pairwise(ends)
    }
    return {**named, f"length_{ends[-1] + 1}+": length > ends[-1]}


def _share_of(number: int, share: float) -> int:
    """A share of a number, rounded up, without the error of the product: 7 of 100 for 0.07."""
    return int(np.ceil(round(share * number, 6)))
