"""Sequences for the tests, and the operators written again, slowly, on Python lists."""

import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxrec.augment.similarity import SimilarItems

NUM_ITEMS = 200
STAND_IN = 1000  # the substitute of item i is STAND_IN + i, which no sequence has


def similar(num_items: Any = NUM_ITEMS) -> Any:
    item = np.zeros(2 * STAND_IN, np.int32)
    item[1 : num_items + 1] = STAND_IN + np.arange(1, num_items + 1)
    zero = jnp.float32(0)
    return SimilarItems(jnp.asarray(item), jnp.zeros(len(item)), zero, zero, jnp.asarray(item), jnp.int32(0))


def lists(seed: Any = 0, count: Any = 64, longest: Any = 40, gap_kinds: Any = 4) -> Any:
    """(items, stamps, one more than items) of sequences of every length from 0, many with equal gaps."""
    rng = np.random.default_rng(seed)
    out = []
    for row in range(count):
        n = row % (longest + 1) if row < 2 * longest else longest
        scale = (1, 86_400, 1_000_003)[row % 3]
        gaps = scale * rng.integers(0, gap_kinds, n) + (
            rng.integers(0, 2, n) * 10_000_000 if row % 5 == 0 else 0
        )
        stamps = np.cumsum([0, *gaps])
        out.append((rng.permutation(NUM_ITEMS)[:n].tolist(), [int(t) for t in stamps]))
    return [([i + 1 for i in items], stamps) for items, stamps in out]


def arrays(rows: Any, width: Any, *, last_stamp: Any = True) -> Any:
    items = np.zeros((len(rows), width), np.int32)
    times = np.zeros((len(rows), width + last_stamp), np.int32)
    for row, (one, stamps) in enumerate(rows):
        n = len(one)
        items[row, width - n :] = one
        times[row, width - n :] = stamps if last_stamp else stamps[:n]
    return jnp.asarray(items), jnp.asarray(times), jnp.asarray([len(one) for one, _ in rows], jnp.int32)


def as_lists(result: Any) -> Any:
    items, length = map(np.asarray, result)
    width = items.shape[1]
    assert not items[np.arange(width) < width - length[:, None]].any(), "padding must stay 0"
    return [row[width - n :].tolist() for row, n in zip(items, length, strict=True)]


def gaps(items: Any, stamps: Any, last_stamp: Any = True) -> Any:
    known = [abs(b - a) for a, b in itertools.pairwise(stamps)]
    return known[: len(items) if last_stamp else len(items) - 1]


def order(values: Any, largest: Any) -> Any:
    ascending = sorted(range(len(values)), key=lambda i: values[i])  # stable
    return ascending[::-1] if largest else ascending


def picked(items: Any, stamps: Any, rate: Any, largest: Any, least: Any, last_stamp: Any = True) -> Any:
    known = gaps(items, stamps, last_stamp) if items else []
    return set(order(known, largest)[: max(int(rate * len(items)), least)])


def mask(items: Any, stamps: Any, rate: Any, largest: Any, last_stamp: Any = True) -> Any:
    chosen = picked(items, stamps, rate, largest, 0, last_stamp) if len(items) > 1 else set()
    return [0 if i in chosen else item for i, item in enumerate(items)]


def substitute(items: Any, stamps: Any, rate: Any, largest: Any, last_stamp: Any = True) -> Any:
    chosen = picked(items, stamps, rate, largest, 1, last_stamp) if len(items) > 1 else set()
    return [STAND_IN + item if i in chosen else item for i, item in enumerate(items)]


def insert(items: Any, stamps: Any, rate: Any, largest: Any, last_stamp: Any = True) -> Any:
    chosen = picked(items, stamps, rate, largest, 1, last_stamp)
    return [x for i, item in enumerate(items) for x in ([item, STAND_IN + item] if i in chosen else [item])]


def window(items: Any, stamps: Any, size: Any, largest: Any, all_gaps: Any) -> Any:
    """Start of the right-most window with the extreme variance, times the square of the number of gaps."""
    best = None
    for start in range(len(items) - size, -1, -1):
        inside = stamps[start : start + size - (not all_gaps)]
        d = [b - a for a, b in itertools.pairwise(inside)]
        spread = len(d) * sum(x * x for x in d) - sum(d) ** 2
        if best is None or (spread > best[0] if largest else spread < best[0]):
            best = spread, start
    assert best is not None
    return best[1]
