"""What the scripts of this folder have in common: options, published numbers, how a result is stored."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from jaxrec import data, provenance
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.events.sessions import Sessions
from jaxrec.data.tables.impressions import ImpressionSplit
from jaxrec.report import plots, results
from jaxrec.train import arguments
from jaxrec.train.fit import Fitted
from jaxrec.types import Protocol, Result

C = TypeVar("C")
KEEPING = ("rows", "results", "workdir", "save_every", "num_devices", "seeds", "accept_changed_code")

OF_A_FILE = ("user", "item", "time", "k_core", "labels", "categorical", "numeric")  # options that need --data


# --- options ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Options:
    """The options that every experiment has."""

    rows: tuple[str, ...] = ()  # rows of the table; none given: all that the data can have
    seeds: tuple[int, ...] = (0, 1, 2)  # trained together, one compilation
    tiny: bool = False  # made-up data and two epochs, in seconds: to see that all works
    num_devices: int = 1  # devices that share each batch
    save_every: int = 1  # epochs between checkpoints
    accept_changed_code: bool = False  # go on with what other code trained; results name both
    results: str = "runs/results"  # folder of result files
    workdir: str = "runs"  # folder of checkpoints and logs; a run found there is continued


@dataclasses.dataclass(frozen=True)
class EventOptions(Options):
    """The options of an experiment on events of users."""

    data: str = ""  # a file of yours in place of the data set: CSV, TSV, Parquet, or lines of items
    user: str = "user"  # its column of users, or of sessions where the experiment is on sessions
    item: str = "item"  # its column of items
    time: str = "time"  # its column of seconds; empty: the order of the lines
    k_core: int = 0  # its users and items with fewer events are taken out; 0: none


@dataclasses.dataclass(frozen=True)
class TableOptions(Options):
    """The options of an experiment on labelled rows."""

    data: str = ""  # a file of yours in place of the data set: CSV or TSV with a header
    labels: tuple[str, ...] = ()  # its columns of 0 and 1, a task each
    categorical: tuple[str, ...] = ()  # its columns of categories
    numeric: tuple[str, ...] = ()  # its columns of numbers
    time: str = ""  # its column of seconds: split by it; empty: split at random


def own_events(config: EventOptions) -> Sequences:
    """The sequences of the user's file that the options name."""
    return data.load_events(
        config.data, user=config.user, item=config.item, time=config.time or None, k_core=config.k_core
    )


def own_sessions(config: EventOptions) -> Sessions:
    """The click sessions of the user's file that the options name; those of one click are left out."""
    found = data.load_sessions(
        config.data, session=config.user, item=config.item, time=config.time, short="leave out"
    )
    print(f"{config.data}: {found.train.num_users:,} training sessions; those of one click are left out")
    return found


def own_table(config: TableOptions) -> ImpressionSplit:
    """The labelled rows of the user's file that the options name, split."""
    return data.load_labelled(
        config.data,
        labels=config.labels,
        categorical=config.categorical,
        numeric=config.numeric,
        time=config.time or None,
        split="time" if config.time else "random",
    )


def described(config: Any, *, left_out: tuple[str, ...] = ()) -> dict[str, Any]:
    """The settings that decide what is computed: all but where and how it is kept, and those in
    `left_out`. Options of a user's file are among them where there is one."""
    of_a_file = () if getattr(config, "data", None) else ("data", *file_options(config))
    names = (*KEEPING, *of_a_file, *left_out)
    return {name: value for name, value in dataclasses.asdict(config).items() if name not in names}


def shrunk(config: C, **small: Any) -> C:
    """With --tiny, the settings `small` in place of those that have their default; else the config as it
    is."""
    if not getattr(config, "tiny", False):
        return config
    defaults = {field.name: field.default for field in dataclasses.fields(config)}  # type: ignore[arg-type]
    kept = {name: value for name, value in small.items() if getattr(config, name) == defaults[name]}
    return dataclasses.replace(config, **kept)  # type: ignore[type-var]


def overridden(recipe: C, config: Any) -> C:
    """A recipe with the fields that the config has too, under the same name, where they are not None."""
    fields = [field.name for field in dataclasses.fields(recipe)]  # type: ignore[arg-type]
    changes = {name: value for name in fields if (value := getattr(config, name, None)) is not None}
    return dataclasses.replace(recipe, **changes)  # type: ignore[type-var]


def training_options(
    config: Options, *folders: str, left_out: tuple[str, ...] = (), **settings: Any
) -> dict[str, Any]:
    """Where and how a run is kept: seeds, workdir, description and so on, as `train.fit.fit` takes them.

    folders: below the work directory, such as data set and row. settings: what identifies the run beside the
    options that decide what is computed. left_out: options that do not.
    """
    return {
        "seeds": config.seeds,
        "workdir": Path(config.workdir, *folders),
        "description": {**settings, **described(config, left_out=left_out)},
        "num_devices": config.num_devices,
        "save_every": config.save_every,
        "accept_changed_code": config.accept_changed_code,
    }


def check(config: Any, *at_least_one: str) -> None:
    """Raises ValueError for a named setting below 1, and for seeds that are none, twice or negative.

    None leaves a setting to the recipe.
    """
    for name in at_least_one:
        if (value := getattr(config, name)) is not None and value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    check_seeds(config.seeds)
    check_training(config)
    check_own_data(config)


def check_own_data(config: Any) -> None:
    """Raises ValueError for an option on the columns of a user's file where no file is given."""
    if getattr(config, "data", "") or not hasattr(config, "data"):
        return
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for name in file_options(config):
        if (value := getattr(config, name)) != defaults[name]:
            raise ValueError(f"{name}={value!r}: describes a file of yours; name it with --data FILE")


def file_options(config: Any) -> list[str]:
    """Names of a config's options that describe a user's file; `labels` may also be a number of them."""
    names = [field.name for field in dataclasses.fields(config) if field.name in OF_A_FILE]
    return [name for name in names if name != "labels" or not isinstance(config.labels, int)]


def check_rows(rows: Sequence[str], known: Collection[str]) -> None:
    """Raises ValueError for a row that the table does not have, naming the nearest, or that is given
    twice."""
    for row in rows:
        check_choice("rows", row, known)
    if len(set(rows)) != len(rows):
        raise ValueError(f"rows={tuple(rows)}: one is given twice")


def check_choice(name: str, value: str, known: Collection[str]) -> None:
    """Raises ValueError for a setting that is none of those known, naming the nearest."""
    if value not in known:
        nearest = difflib.get_close_matches(value, known, n=1, cutoff=0.0)
        raise ValueError(f"{name}: {value!r} is none of {', '.join(known)}; the nearest is {nearest[0]!r}")


def check_label(row: str, loss: str) -> None:
    """Raises ValueError where a trained row's name does not hold the loss that trains it.

    loss: the objective's name, such as "bce". Parts of a row's name are joined by dashes.
    """
    if f"-{loss}-" not in f"-{row}-":
        raise ValueError(f"row {row!r}: is trained with the loss {loss!r}, which its name must hold")


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


# --- published numbers -----------------------------------------------------------------------------


class Published(NamedTuple):
    """What was published for a row.

    values: {metric: value}, empty where nothing was. source: where they stand. incomparable: why ours is not
    measured alike, so that no difference is printed; "" where the two compare.
    """

    values: Mapping[str, float]
    source: str
    incomparable: str = ""

    def fields(self) -> dict[str, Any]:
        """The arguments of `save` that hold them."""
        return {"published": dict(self.values), "source": self.source, "incomparable": self.incomparable}


NONE = Published({}, "")


def published(names: tuple[str, ...], source: str, *values: float) -> Published:
    """Published values of the named metrics, in their order."""
    return Published(dict(zip(names, values, strict=True)), source)


# --- results ---------------------------------------------------------------------------------------


def save(
    folder: str,
    *,
    experiment: str,
    dataset: str,
    model: str,
    config: Mapping[str, Any],
    protocol: Protocol,
    seeds: Sequence[int],
    metrics: Sequence[Mapping[str, float]],
    published: Mapping[str, float] | None = None,
    source: str = "",
    fitted: Fitted | None = None,
    note: str = "",
    incomparable: str = "",
) -> Path:
    """Writes a result file and, where there is a history, the plot of the validation metric beside it.

    The file's manifest is that of the code that trained; where several did, or other code evaluated, it and
    the note name all of them.
    """
    made, said = origin(fitted)
    result = Result(
        experiment=experiment,
        dataset=dataset,
        model=model,
        config=config,
        protocol=protocol,
        seeds=tuple(seeds),
        metrics={name: tuple(m[name] for m in metrics) for name in metrics[0]},
        published=published or {},
        source=source,
        steps=fitted.steps if fitted else 0,
        seconds=fitted.seconds if fitted else 0.0,
        compile_seconds=fitted.compile_seconds if fitted else 0.0,
        note=". ".join(part for part in (note, said) if part),
        incomparable=incomparable,
    )
    path = results.write_result(result, folder, manifest=made)
    metric = f"valid/{protocol.selection.removesuffix(' on test')}"
    if fitted and sum(metric in entry for entry in fitted.history) > 1:
        _plot(fitted, metric, seeds, path.with_suffix(".png"))
    return path


def origin(fitted: Fitted | None) -> tuple[Mapping[str, Any], str]:
    """The manifest of a result, and what its note says of the code: "" where one version of it made all.

    The manifest is that of the code that trained last. Where others had a part (they began the training,
    trained other seeds, or only evaluated), it lists all as `made_by`. None: nothing was trained.
    """
    if fitted is None or not fitted.made_by:
        return provenance.manifest(), ""
    entries = fitted.made_by
    trained = [entry for entry in entries if entry["first_epoch"] < len(fitted.history)]
    manifest = {name: value for name, value in trained[-1].items() if name != "first_epoch"}
    if len(entries) == 1:
        return manifest, ""
    parts = ("first_epoch", "commit", "sources", "versions")
    manifest["made_by"] = [{name: entry.get(name) for name in parts} for entry in entries]
    if not any(provenance.code_differences(entries[0], entry) for entry in entries):
        return manifest, ""
    after = [entry for entry in entries if entry not in trained]
    said = f"trained by commit {_commits(trained)}"
    return manifest, said + (f", evaluated by {_commits(after)}, other code" if after else "")


def _commits(entries: Sequence[Mapping[str, Any]]) -> str:
    return " and ".join(dict.fromkeys(str(entry.get("commit")) for entry in entries))


def means(found: Sequence[Mapping[str, float]]) -> str:
    """Each metric's mean over seeds, in a line.

    >>> means([{"auc": 0.5, "mse": 1.0}, {"auc": 0.6, "mse": 2.0}])
    'auc 0.5500, mse 1.5000'
    """
    return ", ".join(f"{name} {np.mean([m[name] for m in found]):.4f}" for name in found[0])


def _plot(fitted: Fitted, metric: str, seeds: Sequence[int], path: Path) -> None:
    runs = {
        f"seed {seed}": [
            {"epoch": entry["epoch"], metric: entry[metric][i]} for entry in fitted.history if metric in entry
        ]
        for i, seed in enumerate(seeds)
    }
    try:
        plots.metric_curve(runs, metric, path)
    except ImportError as error:
        print(f"no plot of {metric}: {error}")
