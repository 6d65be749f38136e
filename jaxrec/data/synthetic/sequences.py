"""Small generated sequences whose best possible score is known, for tests and presets that run in seconds.

All have times in seconds, so that time-aware augmentation and splits by time run on them.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from jaxrec.data.events.interactions import Sequences, gap_variance_rank

FIRST_DAY = 1_388_534_400  # 2014-01-01 UTC
DAY = 86_400


class Chain(NamedTuple):
    """Sequences that follow one cycle through all items.

    successor: the item that follows each item, int32 [num_items + 1], 0 for padding. best_hit_rate: hit@1 of
    an oracle that knows the successors; 1 without noise.
    """

    sequences: Sequences
    successor: np.ndarray
    best_hit_rate: float


class IndependentItems(NamedTuple):
    """Sequences of independent items. probability: of each item, float64 [num_items + 1], 0 for padding.

    best_hit_rate: hit@1 of always predicting the most probable item; no model can do better on average.
    """

    sequences: Sequences
    probability: np.ndarray
    best_hit_rate: float


def markov_chain(
    num_users: int = 200,
    num_items: int = 50,
    *,
    min_length: int = 5,
    max_length: int = 15,
    noise: float = 0.0,
    seed: int = 0,
) -> Chain:
    """The next item is the successor of the last one, or with probability `noise` uniform among all items."""
    _check_sizes(num_users, num_items=num_items, min_length=min_length, max_length=max_length)
    if not 0.0 <= noise <= 1.0:
        raise ValueError(f"noise={noise}: must lie in 0..1")
    rng = np.random.default_rng(seed)
    cycle = rng.permutation(num_items) + 1
    successor = np.zeros(num_items + 1, np.int32)
    successor[cycle] = np.roll(cycle, -1)
    lengths = rng.integers(min_length, max_length + 1, num_users)
    lists = []
    for length in lengths:
        items = [int(rng.integers(1, num_items + 1))]
        while len(items) < length:
            items.append(
                int(rng.integers(1, num_items + 1) if rng.random() < noise else successor[items[-1]])
            )
        lists.append(items)
    sequences = _with_times(f"chain-{num_users}x{num_items}", lists, num_items=num_items, rng=rng)
    return Chain(sequences, successor, 1 - noise + noise / num_items)


def independent_items(
    num_users: int = 200,
    num_items: int = 50,
    *,
    min_length: int = 5,
    max_length: int = 15,
    exponent: float = 1.0,
    seed: int = 0,
) -> IndependentItems:
    """Independent items, item i with probability proportional to i ** -exponent: only popularity helps."""
    _check_sizes(num_users, num_items=num_items, min_length=min_length, max_length=max_length)
    if not exponent >= 0:
        raise ValueError(f"exponent={exponent}: must be at least 0")
    rng = np.random.default_rng(seed)
    weight = np.arange(1, num_items + 1) ** -float(exponent)
    probability = np.concatenate([[0.0], weight / weight.sum()])
    lengths = rng.integers(min_length, max_length + 1, num_users)
    lists = [rng.choice(num_items + 1, size=length, p=probability).tolist() for length in lengths]
    sequences = _with_times(f"draws-{num_users}x{num_items}", lists, num_items=num_items, rng=rng)
    return IndependentItems(sequences, probability, float(probability.max()))


def _check_sizes(num_users: int, num_items: int, min_length: int, max_length: int) -> None:
    for name, value in (("num_users", num_users), ("num_items", num_items), ("min_length", min_length)):
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    if max_length < min_length:
        raise ValueError(f"max_length={max_length}: must be at least min_length={min_length}")


def _with_times(name: str, lists: list[list[int]], *, num_items: int, rng: np.random.Generator) -> Sequences:
    """Sequences with times: every second user has gaps of one day, the others of 0 to 30 days."""
    times = []
    for user, items in enumerate(lists):
        gaps = np.ones(len(items) - 1, np.int64) if user % 2 else rng.integers(0, 31, len(items) - 1)
        start = FIRST_DAY + DAY * int(rng.integers(0, 365))
        times.append((start + DAY * np.concatenate([[0], np.cumsum(gaps)]).astype(np.int64)).tolist())
    sequences = Sequences.from_lists(name, lists, times, num_items=num_items)
    return dataclasses.replace(sequences, gap_variance_rank=gap_variance_rank(sequences))
