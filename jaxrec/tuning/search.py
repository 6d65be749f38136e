"""The settings of a row, chosen on validation: `chosen_settings` is all that a script calls."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxrec.tuning import batched
from jaxrec.tuning.budget import Limits
from jaxrec.tuning.reads import Measured, Row, Train, inspect, optimiser, plain
from jaxrec.tuning.space import Space, replace
from jaxrec.tuning.study import Study

__all__ = ["Chosen", "Measured", "chosen_settings", "optimiser", "plain"]


class Chosen(NamedTuple):
    """The configuration with the chosen settings. value: its validation value; trials: that were trained."""

    config: Any
    settings: Mapping[str, Any]
    metric: str
    value: float
    trials: int


def chosen_settings(
    train: Train,
    config: Any,
    space: Space,
    *,
    path: Path,
    folder: Path,
    identity: Mapping[str, Any],
    seeds: tuple[int, ...],
    limits: Limits,
    own: set[str],
    at_once: int = 0,
    folder_field: str = "workdir",
    accept_changed_code: bool = False,
    name: str = "row",
) -> Chosen | None:
    """Searches the settings of one row; None if the row reads none of the space.

    train: (configuration, trial) -> the run; passes the trial to `train.fit.fit` and to `optimiser`, and
    reads no test example. config: a dataclass with the settings and `workdir` as fields; what the space does
    not name stays as it is. path: the study's file. folder: of checkpoints of trials. identity: names the
    study, in JSON types. seeds: that each trial is trained with. own: settings that the space gives for this
    row by name; the row must read them. name: for messages.

    Raises:
      ValueError: the row does not read a setting of `own`, or is selected by another metric than the space
      names;
        the file holds another study; no trial was completed.
      ImportError: optuna is not installed.
    """
    row = inspect(train, config, seeds)
    unread = {setting for setting in space.settings if setting not in row.reads}
    if wrong := sorted(unread & own):
        value = space.settings[wrong[0]].as_json()
        raise ValueError(f"{wrong[0]} = {value}: the row {name!r} does not read this setting; leave it out")
    if unread:
        print(f"{name}: does not read {', '.join(sorted(unread))}", flush=True)
    space = space.without(unread)
    if space.metric not in ("", row.metric):
        raise ValueError(
            f"metric = {space.metric!r}: the row {name!r} is selected by the validation metric "
            f"{row.metric!r}; name that, or leave it out"
        )
    if not space.settings:
        print(f"{name}: has no setting to search; its settings stay as they are", flush=True)
        return None
    numbers = [n for n, s in space.settings.items() if n in row.numbers and s.kind == "float"]
    study = _study(
        space,
        row,
        numbers,
        config,
        path=path,
        identity=identity,
        limits=limits,
        seeds=seeds,
        at_once=batched.trials_at_once(at_once),
        accept_changed_code=accept_changed_code,
    )
    runner = batched.Runner(
        train, config, row, numbers=numbers, seeds=seeds, folder=folder, folder_field=folder_field
    )
    best = study.run(runner)
    assert best.value is not None
    settings = study.settings_of(best)
    trained = study.num_trained()
    print(
        f"{name}: {settings} chosen of {trained} trials, {row.metric} {best.value:.4f} on validation ({path})"
    )
    return Chosen(replace(config, settings), settings, row.metric, best.value, trained)


def _study(
    space: Space,
    row: Row,
    numbers: list[str],
    config: Any,
    *,
    identity: Mapping[str, Any],
    seeds: tuple[int, ...],
    **options: Any,
) -> Study:
    """The study of a row, whose first trial has the settings of `config`."""
    return Study(
        space,
        identity={**identity, "seeds": list(seeds)},
        metric=row.metric,
        lower_is_better=row.lower_is_better,
        num_epochs=row.num_epochs,
        numbers=numbers,
        first={name: getattr(config, name) for name in space.settings},
        check=lambda settings: replace(config, settings),
        **options,
    )
