"""Impressions of any number with a known truth, made block by block: for shards larger than memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from jaxrec.data.tables.shards import ShardColumn

NUMBERS = ("price", "age", "position")
LABELS = ("click", "buy")
BIAS = (-1.5, -2.5)  # of the labels' logits


class Truth(NamedTuple):
    """Logits of both labels: BIAS + the effect of each id + slopes of the numbers.

    effects: {column: float32 [vocab_size, 2]}, zeros for id 0, which no row has. slopes: float32 [3, 2].
    """

    effects: Mapping[str, np.ndarray]
    slopes: np.ndarray

    def logits(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """[n, 2] for rows of columns."""
        numbers = np.stack([columns[name] for name in NUMBERS], axis=1)
        found = numbers @ self.slopes + np.array(BIAS, np.float32)
        for name, effect in self.effects.items():
            found += effect[columns[name]]
        return found


def vocabularies(num_users: int, num_items: int) -> dict[str, int]:
    """Size of each vocabulary, padding counted."""
    return {
        "user": num_users + 1,
        "item": num_items + 1,
        "category": 201,
        "city": 1001,
        "hour": 25,
        "device": 6,
    }


def shard_columns(num_users: int, num_items: int) -> tuple[ShardColumn, ...]:
    """The columns of `impression_blocks` as shards hold them."""
    ids = [ShardColumn(name, size) for name, size in vocabularies(num_users, num_items).items()]
    return (*ids, *(ShardColumn(name) for name in (*NUMBERS, *LABELS)))


def draw_truth(num_users: int, num_items: int, *, seed: int = 0, scale: float = 0.5) -> Truth:
    """Effects and slopes from N(0, scale²), the two labels' independent of each other."""
    rng = np.random.default_rng([seed, 0])
    effects = {}
    for name, size in vocabularies(num_users, num_items).items():
        effects[name] = scale * rng.standard_normal((size, 2)).astype(np.float32)
        effects[name][0] = 0
    return Truth(effects, scale * rng.standard_normal((len(NUMBERS), 2)).astype(np.float32))


def impression_blocks(
    truth: Truth, rows: int, *, block: int = 65_536, seed: int = 0, first: int = 0
) -> Iterator[dict[str, np.ndarray]]:
    """Blocks of `rows` rows, each drawn from its own number, from block `first` on.

    Users and items follow a power law; numbers are N(0, 1); labels are drawn from the sigmoids of the truth's
    logits. The same arguments give the same rows, and no block depends on another.

    Raises:
      ValueError: there is no row, or the block's size is below 1.
    """
    if min(rows, block) < 1:
        raise ValueError(f"rows={rows}, block={block}: must both be at least 1")
    for number in range(-(-rows // block)):
        rng = np.random.default_rng([seed, 1, first + number])
        count = min(block, rows - number * block)
        columns: dict[str, np.ndarray] = {}
        for name, effect in truth.effects.items():
            skew = 3 if name in ("user", "item") else 1
            columns[name] = 1 + (rng.random(count) ** skew * (len(effect) - 1)).astype(np.int32)
        for name in NUMBERS:
            columns[name] = rng.standard_normal(count, np.float32)
        chance = 1 / (1 + np.exp(-truth.logits(columns)))
        for at, name in enumerate(LABELS):
            columns[name] = (rng.random(count) < chance[:, at]).astype(np.float32)
        yield columns
