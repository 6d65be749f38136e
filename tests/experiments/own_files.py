"""Small files such as a user brings."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def write_events(path: Path, *, num_users: int = 40, num_items: int = 15) -> Path:
    """A CSV file of events, columns uid, sku, ts, stars: each user goes round a noisy cycle of items.

    Stars are 1 to 5, by item and user.
    """
    rng = np.random.default_rng(0)
    lines = ["uid,sku,ts,stars"]
    for user in range(num_users):
        item, time = int(rng.integers(num_items)), 1_000 * user
        for _ in range(int(rng.integers(5, 9))):
            lines.append(f"u{user},i{item},{time},{1 + (user + item) % 5}")
            item = int(rng.integers(num_items)) if rng.random() < 0.2 else (item + 1) % num_items
            time += int(rng.integers(1, 100))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_table(path: Path, *, labels: tuple[str, ...], count: int = 400) -> Path:
    """A CSV file of labelled records with the columns city and price, on which the labels depend."""
    rng = np.random.default_rng(0)
    city, price = rng.integers(5, size=count), rng.normal(size=count)
    lines = [",".join([*labels, "city", "price"])]
    chance = 1 / (1 + np.exp(-(price + city - 2)))
    drawn = rng.random((count, len(labels))) < chance[:, None]
    for row in range(count):
        cells = [str(int(value)) for value in drawn[row]]
        lines.append(",".join([*cells, f"c{city[row]}", f"{price[row]:.3f}"]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
