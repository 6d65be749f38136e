"""The search of the settings of a row of an experiment, see docs/tuning.md."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from jaxrec.commands.training.source import sha256_of
from jaxrec.report.results import STUDIES
from jaxrec.tuning import budget, options, records, search, space
from jaxrec.tuning.options import NOT_SEARCHED, SweepOptions
from jaxrec.tuning.options import OPTIONS as OPTIONS
from jaxrec.tuning.reads import Train

C = TypeVar("C", bound=SweepOptions)


def searchable(config_type: type) -> list[str]:
    """The settings that a search may change: those of the recipe, and not the number of epochs."""
    recipes = [kind for kind in config_type.__mro__ if kind.__module__.startswith("jaxrec.recipes")]
    found = {field.name for kind in recipes for field in dataclasses.fields(kind)}
    return sorted(found - set(NOT_SEARCHED))


def check(config: Any, rows: Collection[str]) -> None:
    """Raises ValueError for options of a search without --sweep, or wrong ones, or a wrong file.

    rows: those whose settings can be searched.
    """
    if not options.check(config):
        return
    if getattr(config, "select", "validation") == "test":
        raise ValueError("select='test': settings are never chosen on test; leave it out, or --sweep")
    space.check_file(config.sweep, rows, type(config), searchable(type(config)))


def study_path(folder: str, experiment: str, dataset: str, model: str) -> Path:
    """The file of a study, in the folder of the results that it chooses settings for."""
    return Path(folder, experiment, dataset, STUDIES, f"{model}.json")


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
    chosen = search.chosen_settings(
        train,
        options.without(config),
        of_row,
        path=study_path(given.results, experiment, dataset, model),
        folder=Path(given.workdir, "trials", dataset, model),
        identity={
            "experiment": experiment,
            "dataset": dataset,
            "model": model,
            "data_sha256": sha256_of("data", Path(given.data)) if given.data else "",
            "settings": {n: v for n, v in records.as_json(settings).items() if n not in of_row.settings},
        },
        seeds=given.seeds[: config.trial_seeds],
        limits=limits.shared_by(models),
        own=own,
        at_once=config.trials_at_once,
        accept_changed_code=given.accept_changed_code,
        name=model,
    )
    return config if chosen is None else dataclasses.replace(config, **chosen.settings)
