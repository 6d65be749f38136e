"""The options of a search of settings, as fields that a script's own options take over."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxrec.tuning import budget

# how long a trial is, which pruning decides; and what changes the name of a row
NOT_SEARCHED = ("epochs", "evaluate_every", "patience", "replacement")


@dataclasses.dataclass(frozen=True)
class SweepOptions:
    """The options of a search, see docs/tuning.md."""

    sweep: str = ""  # TOML file of settings to search on validation, before each row is trained and tested
    trials: int = 0  # of each row; 0: 40, or with --budget as many as it allows
    budget: str = ""  # of each row, in epochs or minutes of training: 200e, 30m
    trial_seeds: int = 1  # seeds that each trial is trained with, the first of --seeds
    trials_at_once: int = 0  # that differ in numbers of the optimiser alone; 0: 8 on accelerators, 1 on CPU


OPTIONS = tuple(field.name for field in dataclasses.fields(SweepOptions))


def check(config: Any) -> bool:
    """Whether a search is asked for. Raises ValueError for options of one without --sweep, or wrong ones."""
    if not config.sweep:
        given = [name for name in OPTIONS if getattr(config, name) != getattr(SweepOptions(), name)]
        if given:
            value = getattr(config, given[0])
            raise ValueError(f"{given[0]}={value!r}: belongs to a search; give it with --sweep FILE")
        return False
    budget.limits(config.trials, config.budget)
    if not 1 <= config.trial_seeds <= len(config.seeds):
        raise ValueError(
            f"trial_seeds={config.trial_seeds}: must be 1 to {len(config.seeds)}, those of seeds"
        )
    if config.trials_at_once < 0:
        raise ValueError(f"trials_at_once={config.trials_at_once}: must be at least 1, or 0; see --help")
    return True


def without(config: Any) -> Any:
    """The configuration without a search."""
    return dataclasses.replace(config, **dataclasses.asdict(SweepOptions()))
