"""The rows of `jaxrec.baselines.click_tables`, which other rows of a table are read against."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

from experiments import common
from jaxrec.baselines import click_tables
from jaxrec.nn.layers.features import Categorical, Numeric
from jaxrec.protocols import impressions
from jaxrec.tasks.multitask import Target

NAMES = tuple(click_tables.METHODS)


def measure(
    config: Any,
    experiment: str,
    columns: impressions.Data,
    fields: Sequence[Categorical | Numeric],
    evaluated: Sequence[Target],
    *,
    rows: Sequence[str] | None = None,
    calibration: bool = False,
    keep: str = "",
) -> None:
    """Fits, tests and stores the baselines that are rows of the table.

    config: of the experiment; its `rows` are all rows, None of `rows` given. evaluated: what is tested.
    keep: how the names of the metrics begin that are stored.

    Raises:
      ImportError: a row needs a library that is not installed; before anything is fitted.
    """
    names = [row for row in (config.rows if rows is None else rows) if row in NAMES]
    click_tables.check_installed(names)
    grid = click_tables.TINY if config.tiny else click_tables.Grid()
    for name in names:
        began = time.monotonic()
        found = click_tables.measure(
            name, columns, fields, evaluated, seeds=config.seeds, grid=grid, calibration=calibration
        )
        kept = [{k: v for k, v in of_seed.items() if k.startswith(keep)} for of_seed in found.tested.metrics]
        tested = found.tested._replace(metrics=kept)
        chosen = {"chosen": found.settings, "validation_auc": found.validation} if found.settings else {}
        path = common.save(
            config.results,
            experiment=experiment,
            dataset=columns.name,
            model=name,
            config={**chosen, **({"grid": dataclasses.asdict(grid)} if chosen else {})},
            protocol=impressions.protocol(
                columns, "each task's auc" if chosen else "none", "bce" if chosen else ""
            ),
            seeds=config.seeds,
            metrics=tested,
        )
        spent = time.monotonic() - began
        print(f"{name}: {spent:.0f} s; test {common.means(tested)}\nsaved {path}", flush=True)
