"""Small files with text ids, as a user may have them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

EVENTS = {"user": "uid", "item": "sku", "time": "ts"}  # columns of `write_events`
ITEMS = 12


def write_events(path: Path, *, users: int = 24, first_item: int = 0) -> Path:
    """A CSV file of events: each user goes through the items in a circle, from an item of their own."""
    rng = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["uid", "sku", "ts"])
        for user in range(users):
            start = int(rng.integers(ITEMS))
            for step in range(int(rng.integers(5, 9))):
                item = first_item + (start + step) % ITEMS
                lines.writerow([f"u{user}", f"sku{item}", 1_000_000 + 1000 * step + user])
    return path


def write_vectors(path: Path) -> Path:
    """Vectors of the items of `write_events`, of width 5, with an item that has no event."""
    vectors = np.random.default_rng(0).normal(size=(ITEMS + 1, 5))
    np.savez(path, sku=np.array([f"sku{item}" for item in range(ITEMS + 1)]), vectors=vectors)
    return path


def write_rows(path: Path, *, rows: int = 300) -> Path:
    """A CSV file of labelled rows: the city decides how likely a click is, a purchase follows a click."""
    rng = np.random.default_rng(0)
    cities = {"amsterdam": 0.8, "berlin": 0.6, "cairo": 0.3, "delhi": 0.1}
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["city", "device", "price", "click", "buy", "ts"])
        for row in range(rows):
            city = str(rng.choice(list(cities)))
            click = int(rng.random() < cities[city])
            buy = int(click and rng.random() < 0.5)
            device = ("phone", "desk")[int(rng.integers(2))]
            lines.writerow([city, device, f"{rng.random() * 10:.2f}", click, buy, 1_000_000 + row])
    return path


def write_attributes(path: Path) -> Path:
    """A CSV file of attributes: a colour of each item, and one or two sizes; one item has no line."""
    lines = [
        f"sku{item},{('red', 'blue')[item % 2]},{'s|m' if item % 3 else 's'}" for item in range(ITEMS - 1)
    ]
    path.write_text("\n".join(["sku,colour,size", *lines]) + "\n")
    return path


def write_actions(path: Path, *, users: int = 24, first_item: int = 0) -> Path:
    """The events of `write_events` with stars: 5 of an even item, otherwise 2, of some users the reverse."""
    lines = write_events(path, users=users, first_item=first_item).read_text().splitlines()
    stars = []
    for line in lines[1:]:
        user, item, _ = line.split(",")
        stars.append(5 if (int(item[3:]) + int(user[1:])) % 2 else 2)
    rated = [f"{line},{of}" for line, of in zip(lines[1:], stars, strict=True)]
    path.write_text("\n".join([f"{lines[0]},stars", *rated]) + "\n")
    return path
