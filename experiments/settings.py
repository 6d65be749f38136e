"""What the command lines of experiments have in common."""

from __future__ import annotations

import dataclasses
from typing import Any

PLACES = ("rows", "results", "workdir", "save_every", "num_devices", "seeds")


def described(config: Any, *, beside: tuple[str, ...] = ()) -> dict[str, Any]:
    """The settings that decide what is computed: all but those in PLACES and `beside`."""
    left_out = (*PLACES, *beside)
    return {name: value for name, value in dataclasses.asdict(config).items() if name not in left_out}


def check(config: Any, *at_least_one: str) -> None:
    """Raises ValueError for a named setting below 1, and for seeds that are none, twice or negative."""
    for name in at_least_one:
        if getattr(config, name) < 1:
            raise ValueError(f"{name}={getattr(config, name)}: must be at least 1")
    check_seeds(config.seeds)


def check_seeds(seeds: tuple[int, ...]) -> None:
    """Raises ValueError for seeds that are none, twice or negative."""
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise ValueError(f"seeds={seeds}: give at least one, none twice, none negative")
