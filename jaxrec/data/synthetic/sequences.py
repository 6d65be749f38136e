"""Small sequence sets whose best possible score is known, for tests and presets that end in seconds.

Every set comes with times in seconds, so that time-aware augmentation and splits by time run on it.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from jaxrec.data.events.interactions import Sequences, gap_variance_rank

START = 1_388_534_400  # 2014-01-01 UTC
DAY = 86_400


class Chain(NamedTuple):
    """Sequences that follow one cycle through all items.

    successor: the item that follows each item, int32 [num_items + 1], 0 for padding. best_hit: hit@1 of
    who knows the successor: 1 without noise.
    """

    sequences: Sequences
    successor: np.ndarray
    best_hit: float


class Draws(NamedTuple):
    """Sequences of independent draws. probability: of each item, float64 [num_items + 1], 0 for padding.

    best_hit: hit@1 of who always names the most probable item; nobody can do better on average.
    """

    sequences: Sequences
    probability: np.ndarray
    best_hit: float


def markov_chain(
    num_users: int = 200,
    num_items: int = 50,
    *,
    min_length: int = 5,
    max_length: int = 15,
    noise: float = 0.0,
    seed: int = 0,
) -> Chain:
    """The next item is the successor of the last one; with probability `noise` any item, uniformly."""
    _check(num_users, num_items, min_length, max_length)
    if not 0.0 <= noise <= 1.0:
        raise ValueError(f"noise={noise}: must lie in 0..1")
    rng = np.random.default_rng(seed)
    cycle = rng.permutation(num_items) + 1
    successor = np.zeros(num_items + 1, np.int32)
    successor[cycle] = np.roll(cycle, -1)
    lengths = rng.integers(min_length, max_length + 1, num_users)
    rows = []
    for length in lengths:
        row = [int(rng.integers(1, num_items + 1))]
        while len(row) < length:
            row.append(int(rng.integers(1, num_items + 1) if rng.random() < noise else successor[row[-1]]))
        rows.append(row)
    sequences = _with_times(f"chain-{num_users}x{num_items}", rows, num_items, rng)
    return Chain(sequences, successor, 1 - noise + noise / num_items)


def independent(
    num_users: int = 200,
    num_items: int = 50,
    *,
    min_length: int = 5,
    max_length: int = 15,
    exponent: float = 1.0,
    seed: int = 0,
) -> Draws:
    """Items drawn independently, item i in proportion to i ** -exponent: only popularity helps."""
    _check(num_users, num_items, min_length, max_length)
    if not exponent >= 0:
        raise ValueError(f"exponent={exponent}: must be at least 0")
    rng = np.random.default_rng(seed)
    weight = np.arange(1, num_items + 1) ** -float(exponent)
    probability = np.concatenate([[0.0], weight / weight.sum()])
    lengths = rng.integers(min_length, max_length + 1, num_users)
    rows = [rng.choice(num_items + 1, size=length, p=probability).tolist() for length in lengths]
    sequences = _with_times(f"draws-{num_users}x{num_items}", rows, num_items, rng)
    return Draws(sequences, probability, float(probability.max()))


def _check(num_users: int, num_items: int, min_length: int, max_length: int) -> None:
    for name, value in (("num_users", num_users), ("num_items", num_items), ("min_length", min_length)):
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    if max_length < min_length:
        raise ValueError(f"max_length={max_length}: must be at least min_length={min_length}")


def _with_times(name: str, rows: list[list[int]], num_items: int, rng: np.random.Generator) -> Sequences:
    """Every second user has equal gaps of a day, the others gaps between 0 (equal times) and 30 days."""
    times = []
    for user, row in enumerate(rows):
        gaps = np.ones(len(row) - 1, np.int64) if user % 2 else rng.integers(0, 31, len(row) - 1)
        start = START + DAY * int(rng.integers(0, 365))
        times.append((start + DAY * np.concatenate([[0], np.cumsum(gaps)]).astype(np.int64)).tolist())
    sequences = Sequences.from_lists(name, rows, times, num_items=num_items)
    return dataclasses.replace(sequences, gap_variance_rank=gap_variance_rank(sequences))
