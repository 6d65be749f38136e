"""What the command lines of experiments have in common."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from jaxrec.train import arguments

PLACES = ("rows", "results", "workdir", "save_every", "num_devices", "seeds", "accept_changed_code")


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
    check_training(config)


def check_training(config: Any) -> None:
    """Raises ValueError for a learning rate that is not positive and finite, or dropout or decay past [0, 1).

    They are known by their names; None leaves one to the recipe.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name.endswith("learning_rate") and not (value is None or 0 < value < math.inf):
            raise ValueError(f"{field.name}={value}: must be positive and finite")
        if field.name.endswith(("dropout", "momentum", "b2")) and not (value is None or 0 <= value < 1):
            raise ValueError(f"{field.name}={value}: must lie in [0, 1)")


def check_seeds(seeds: tuple[int, ...]) -> None:
    """Raises ValueError for seeds that are none, twice, negative or above 2^32 - 1."""
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise ValueError(f"seeds={seeds}: give at least one, none twice, none negative")
    arguments.check_seeds(seeds)
