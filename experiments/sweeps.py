"""The options of an experiment whose settings can be searched, and the search of one of its rows."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from jaxrec.tuning import budget, search, space
from jaxrec.tuning.reads import Train

C = TypeVar("C", bound="SweepOptions")
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


def searchable(config_type: type) -> list[str]:
    """The settings that a search may change: those of the recipe, and not the number of epochs."""
    recipes = [kind for kind in config_type.__mro__ if kind.__module__.startswith("jaxrec.recipes")]
    found = {field.name for kind in recipes for field in dataclasses.fields(kind)}
    return sorted(found - set(NOT_SEARCHED))


def check(config: Any, rows: Collection[str]) -> None:
    """Raises ValueError for options of a search without --sweep, or wrong ones, or a wrong file.

    rows: those whose settings can be searched.
    """
    if not config.sweep:
        given = [name for name in OPTIONS if getattr(config, name) != getattr(SweepOptions(), name)]
        if given:
            value = getattr(config, given[0])
            raise ValueError(f"{given[0]}={value!r}: belongs to a search; give it with --sweep FILE")
        return
    budget.limits(config.trials, config.budget)
    if getattr(config, "select", "validation") == "test":
        raise ValueError("select='test': settings are never chosen on test; leave it out, or --sweep")
    if not 1 <= config.trial_seeds <= len(config.seeds):
        raise ValueError(
            f"trial_seeds={config.trial_seeds}: must be 1 to {len(config.seeds)}, those of seeds"
        )
    if config.trials_at_once < 0:
        raise ValueError(f"trials_at_once={config.trials_at_once}: must be at least 1, or 0; see --help")
    space.check_file(config.sweep, rows, type(config), searchable(type(config)))


def study_path(folder: str, experiment: str, dataset: str, model: str) -> Path:
    """The file of a study, in the folder of the results that it chooses settings for."""
    return Path(folder, experiment, dataset, "sweeps", f"{model}.json")


def tune(
    config: C,
    train: Train,
    *,
    settings: Mapping[str, Any],
    experiment: str,
    dataset: str,
    model: str,
    row: str = "",
    models: int = 1,
) -> C:
    """The configuration with the settings that a search chooses on validation; unchanged without --sweep.

    train: (configuration, trial) -> the run of the row, see `search.chosen_settings`. settings: that
    identify the study. model: its name. row: its name in the TOML file; "" if it is that of the model.
    models: of a row, which share its budget equally.
    """
    if not config.sweep:
        return config
    row = row or model
    of_row = space.read_space(config.sweep, row, type(config), searchable(type(config)))
    given: Any = config
    limits = budget.limits(config.trials, config.budget)
    own = set(of_row.settings) if len(given.rows) == 1 else space.own_settings(config.sweep, row)
    quiet = dataclasses.replace(config, **{name: getattr(SweepOptions(), name) for name in OPTIONS})
    chosen = search.chosen_settings(
        train,
        quiet,
        of_row,
        path=study_path(given.results, experiment, dataset, model),
        folder=Path(given.workdir, "trials", dataset, model),
        identity={
            "experiment": experiment,
            "dataset": dataset,
            "model": model,
            "settings": {n: v for n, v in json_types(settings).items() if n not in of_row.settings},
        },
        seeds=given.seeds[: config.trial_seeds],
        limits=limits.shared_by(models),
        own=own,
        at_once=config.trials_at_once,
        accept_changed_code=given.accept_changed_code,
        name=model,
    )
    return config if chosen is None else dataclasses.replace(config, **chosen.settings)


def json_types(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON gives them back."""
    found: dict[str, Any] = json.loads(json.dumps(settings))
    return found


def note(path: Path, config: Mapping[str, Any]) -> str:
    """A remark on a result whose settings a study chose; "" if there is no study, or the settings are others.

    path: see `study_path`. config: the settings of the result.
    """
    if not path.exists():
        return ""
    study = json.loads(path.read_text(encoding="utf-8"))
    chosen, spent, settings = study["chosen"], study["spent"], json_types(config)
    if chosen is None or any(settings.get(name) != value for name, value in chosen["settings"].items()):
        return ""
    names = ", ".join(chosen["settings"])
    return f"{names} chosen on validation, the best {study['metric']} of {spent['trials']} trials"
