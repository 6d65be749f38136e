"""Shards of a few rows, each of which has a number of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jaxrec.data.tables.shards import ShardColumn, Shards, write_shards

COLUMNS = (ShardColumn("row", 1000), ShardColumn("kind", 5), ShardColumn("price"), ShardColumn("click"))


def rows_of(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Columns of so many rows: row numbers, random kinds and clicks, and its square root as price."""
    rng = np.random.default_rng(seed)
    row = np.arange(count)
    return {
        "row": row,
        "kind": rng.integers(0, 5, count),
        "price": np.sqrt(row).astype(np.float32),
        "click": (rng.random(count) < 0.4).astype(np.float32),
    }


def write_small(folder: Path, count: int = 103, *, group: int = 10, per_file: int = 3) -> Shards:
    """Shards of `count` rows, given in blocks of 17."""
    rows = rows_of(count)
    blocks = ({name: c[at : at + 17] for name, c in rows.items()} for at in range(0, count, 17))
    return write_shards(folder, blocks, COLUMNS, rows_per_group=group, groups_per_file=per_file)
