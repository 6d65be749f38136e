"""Options, published numbers and storage of results that all experiments share."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import optax

from experiments import sweeps
from jaxrec import data
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.events.sessions import Sessions
from jaxrec.data.tables.impressions import ImpressionSplit
from jaxrec.optim import sparse as sparse_tables
from jaxrec.protocols import Beyond
from jaxrec.recipes.compute import later, without_defaults
from jaxrec.train import accumulate, arguments
from jaxrec.train.results import origin as origin
from jaxrec.train.results import save_result
from jaxrec.train.trial import Trial
from jaxrec.tuning import records
from jaxrec.tuning.options import SweepOptions as SweepOptions
from jaxrec.tuning.reads import Train, plain
from jaxrec.tuning.reads import optimiser as optimiser
from jaxrec.types import Protocol, Tested

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

C = TypeVar("C", bound="DataclassInstance")
S = TypeVar("S", bound=SweepOptions)
Build = Callable[[Any], optax.GradientTransformation]
# options that change no number, only what is stored, where, and what is measured in addition
STORAGE_OPTIONS = (
    "rows", "results", "workdir", "save_every", "num_devices", "seeds", "accept_changed_code", "beyond",
    "tensorboard", "profile", "deterministic",
)  # fmt: skip
NOT_SETTINGS = (*STORAGE_OPTIONS, *sweeps.OPTIONS)  # do not affect what is computed
OF_STEPS = ("accumulate_steps", "profile")  # options of what is trained by steps

# options that need --data
FILE_OPTIONS = ("user", "item", "time", "rating", "k_core", "labels", "categorical", "numeric")


# --- options ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Options:
    """The options that every experiment has."""

    rows: tuple[str, ...] = ()  # rows of the table; empty: all that the data allow
    seeds: tuple[int, ...] = (0, 1, 2)  # trained together in one compiled program
    tiny: bool = False  # synthetic data and two epochs, in seconds, to check that everything runs
    num_devices: int = 1  # devices that share each batch
    accumulate_steps: int = later(1)  # parts in which a step goes through its batch, for less memory
    save_every: int = 1  # epochs between checkpoints
    accept_changed_code: bool = False  # continue a run that other code trained; results name both
    tensorboard: bool = False  # also write event files for TensorBoard; needs the extra `tensorboard`
    profile: str = ""  # folder of a record of one epoch of each run, for TensorBoard or Perfetto
    deterministic: bool = False  # equal bits on a GPU, too, at some cost of speed
    results: str = "runs/results"  # folder of result files
    workdir: str = "runs"  # folder of checkpoints and logs; a run found there is continued


@dataclasses.dataclass(frozen=True)
class EventOptions(Options):
    """The options of an experiment on events of users."""

    data: str = ""  # your own file instead of the data set: CSV, TSV, Parquet, or lines of items
    user: str = "user"  # its column of users, or of sessions where the experiment is on sessions
    item: str = "item"  # its column of items
    time: str = "time"  # its column of seconds; empty: the order of the lines
    k_core: int = 0  # users and items with fewer events are removed; 0: none


@dataclasses.dataclass(frozen=True)
class RankingOptions(EventOptions):
    """The options of an experiment that ranks all items."""

    beyond: tuple[int, ...] = ()  # lengths of lists to measure by coverage, novelty and so on, such as 10 20


@dataclasses.dataclass(frozen=True)
class TableOptions(Options):
    """The options of an experiment on labelled examples."""

    data: str = ""  # your own file instead of the data set: CSV or TSV with a header
    labels: tuple[str, ...] = ()  # its columns of 0 and 1, one for each task
    categorical: tuple[str, ...] = ()  # its columns of categories
    numeric: tuple[str, ...] = ()  # its columns of numbers
    time: str = ""  # its column of seconds: split by it; empty: split at random


@dataclasses.dataclass(frozen=True)
class SparseOption:
    """The option of an experiment whose tables of ids may be sparse, see docs/scale.md."""

    sparse: sparse_tables.Kind = ""  # optimiser of the rows that a step looks up; empty: tables are dense


def with_sparse_tables(build: Build, config: Any, *also: str) -> Build:
    """What `optimiser` builds, with sparse tables where the option `sparse` names an optimiser of rows.

    also: settings that this one has too, such as "b2".
    """
    kind = config.sparse
    if not kind:
        return build
    options = {name: getattr(config, name) for name in also}
    return lambda read: sparse_tables.by_name(kind, build(read), read.learning_rate, **options)


def own_events(config: EventOptions) -> Sequences:
    """The sequences of the user's file that the options name."""
    return data.load_events(
        config.data, user=config.user, item=config.item, time=config.time or None, k_core=config.k_core
    )


def load_sessions(config: EventOptions, dataset: str, *, synthetic: Callable[[], Sessions]) -> Sessions:
    """The click sessions of the user's file that the options name, without sessions of one click; else, with
    --tiny, synthetic ones; else those of a data set.
    """
    if not config.data:
        return synthetic() if config.tiny else data.load(f"sessions/{dataset}", kind="sessions")
    found = data.load_sessions(
        config.data, session=config.user, item=config.item, time=config.time, short="leave out"
    )
    print(f"{config.data}: {found.train.num_users:,} training sessions; those of one click are left out")
    return found


def own_table(config: TableOptions) -> ImpressionSplit:
    """The labelled examples of the user's file that the options name, split."""
    return data.load_labelled(
        config.data,
        labels=config.labels,
        categorical=config.categorical,
        numeric=config.numeric,
        time=config.time or None,
        split="time" if config.time else "random",
    )


def describe_settings(config: Any, *, left_out: tuple[str, ...] = ()) -> dict[str, Any]:
    """The settings that affect what is computed: all but NOT_SETTINGS and those of `left_out`. Options of a
    user's file are among them where there is one, and later ones where they have not their default.
    """
    config = plain(config)
    of_a_file = () if getattr(config, "data", None) else ("data", *file_options(config))
    names = (*NOT_SETTINGS, *of_a_file, *left_out)
    found = {name: value for name, value in dataclasses.asdict(config).items() if name not in names}
    return without_defaults(config, found)


def shrink_if_tiny(config: C, **small: Any) -> C:
    """With --tiny, replaces settings that have their default by those of `small`."""
    if not getattr(config, "tiny", False):
        return config
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    kept = {name: value for name, value in small.items() if getattr(config, name) == defaults[name]}
    return dataclasses.replace(config, **kept)


def override(recipe: C, config: Any) -> C:
    """The recipe with the values of the config's fields of the same names, where these are not None."""
    fields = [field.name for field in dataclasses.fields(recipe)]
    changes = {name: value for name in fields if (value := getattr(config, name, None)) is not None}
    return dataclasses.replace(recipe, **changes)


def training_options(
    config: Options,
    *folders: str,
    left_out: tuple[str, ...] = (),
    trial: Trial | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """The arguments of `train.fit.fit` on seeds, storage and devices: seeds, workdir, description and so on.

    folders: below the work directory, such as data set and row. settings: identify the run in addition to the
    options that affect what is computed. left_out: options that do not. trial: of a search of settings.
    """
    of_trial = (
        {} if trial is None else {"seeds": trial.seeds, "trial": trial, "progress": False, "profile": None}
    )
    return {
        "seeds": config.seeds,
        "workdir": Path(config.workdir, *folders),
        "description": {**settings, **describe_settings(config, left_out=left_out)},
        "num_devices": config.num_devices,
        "accumulate_steps": config.accumulate_steps,
        "save_every": config.save_every,
        "accept_changed_code": config.accept_changed_code,
        "tensorboard": config.tensorboard,
        "profile": config.profile or None,
        **of_trial,
    }


def tune(config: S, train: Train, **names: Any) -> S:
    """The configuration with the settings that --sweep chooses on validation, see `sweeps.tune`."""
    return sweeps.tune(config, train, settings=describe_settings(config), **names)


def num_shares(config: Options) -> int:
    """Pieces that a step's batch and its packed rows are cut into: over devices, and one after the other."""
    return accumulate.num_shares(config.num_devices, config.accumulate_steps)


def check_untrained(config: Options) -> None:
    """Raises ValueError for options of training by steps, in an experiment that has none."""
    for field in dataclasses.fields(config):
        if field.name in OF_STEPS and getattr(config, field.name) != field.default:
            raise ValueError(
                f"{field.name}={getattr(config, field.name)!r}: is of training by steps, which no row "
                "of this experiment has; leave it out"
            )


def for_test(config: RankingOptions, protocol: Protocol) -> dict[str, Any]:
    """The arguments of `next_item.run_test` and `sessions.run_test`: devices and further metrics.

    A ranking of sampled candidates makes no lists of items, so it has no further metrics.
    """
    asked = config.beyond and protocol.candidates == "all"
    return {"num_devices": config.num_devices, "beyond": Beyond(ks=config.beyond) if asked else None}


def check(config: Any, *at_least_one: str) -> None:
    """Raises ValueError for a named setting below 1, and for wrong seeds, rates or options of a file.

    A setting of None has the recipe's value.
    """
    for name in (*at_least_one, "accumulate_steps"):
        if (value := getattr(config, name)) is not None and value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    check_seeds(config.seeds)
    check_training(config)
    check_own_data(config)
    check_beyond(config)


def check_unread(config: Any, *names: str) -> None:
    """Raises ValueError for settings of a recipe that no row of the experiment reads, if they are changed."""
    for field in dataclasses.fields(config):
        if field.name in names and (value := getattr(config, field.name)) != field.default:
            raise ValueError(f"{field.name}={value!r}: no row of this experiment reads it; leave it out")


def check_beyond(config: Any) -> None:
    """Raises ValueError for lists below 1 item, and for a rule for seen items by which no lists are made."""
    asked = getattr(config, "beyond", ())
    if any(k < 1 for k in asked):
        raise ValueError(f"beyond={asked}: each must be at least 1")
    if asked and getattr(config, "seen", "") == "zero":
        raise ValueError(
            f"beyond={asked}: with --seen zero, ids that are no items would be in the lists; "
            "take --seen exclude"
        )


def check_own_data(config: Any) -> None:
    """Raises ValueError for an option on the columns of a user's file without --data."""
    if getattr(config, "data", "") or not hasattr(config, "data"):
        return
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for name in file_options(config):
        if (value := getattr(config, name)) != defaults[name]:
            raise ValueError(f"{name}={value!r}: is for your own file; give it with --data FILE")


def check_kind_of_file(config: Any, *, table: bool) -> None:
    """Raises ValueError for options of events where a user's file is a table, and the other way round."""
    what = "a table with --labels" if table else "events, without --labels"
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for name in ("user", "item", "time", "k_core") if table else ("categorical", "numeric"):
        if config.data and (value := getattr(config, name)) != defaults[name]:
            raise ValueError(f"{name}={value!r}: is not read of {what}; leave it out")


def file_options(config: Any) -> list[str]:
    """Names of a config's options that describe a user's file; `labels` may also be a number of them."""
    names = [field.name for field in dataclasses.fields(config) if field.name in FILE_OPTIONS]
    return [name for name in names if name != "labels" or not isinstance(config.labels, int)]


def check_rows(rows: Sequence[str], known: Collection[str]) -> None:
    """Raises ValueError for an unknown row, with the most similar name, and for a repeated row."""
    for row in rows:
        check_choice("rows", row, known)
    if len(set(rows)) != len(rows):
        raise ValueError(f"rows={tuple(rows)}: a row is repeated; give each once")


def check_choice(name: str, value: str, known: Collection[str]) -> None:
    """Raises ValueError for an unknown value of a setting, with the most similar known value."""
    if value not in known:
        nearest = difflib.get_close_matches(value, known, n=1, cutoff=0.0)
        raise ValueError(f"{name}: {value!r} is none of {', '.join(known)}; the nearest is {nearest[0]!r}")


def check_label(row: str, loss: str) -> None:
    """Raises ValueError if a trained row's name does not contain its loss.

    loss: the objective's name, such as "bce". Parts of a row's name are joined by dashes.
    """
    if f"-{loss}-" not in f"-{row}-":
        raise ValueError(f"row {row!r}: is trained with the loss {loss!r}, which its name must contain")


def check_training(config: Any) -> None:
    """Raises ValueError for a learning rate that is not positive and finite, and for rates outside [0, 1).

    Settings are recognised by their names; a setting of None has the recipe's value.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name.endswith("learning_rate") and not (value is None or 0 < value < math.inf):
            raise ValueError(f"{field.name}={value}: must be positive and finite")
        if field.name.endswith(("dropout", "momentum", "b2")) and not (value is None or 0 <= value < 1):
            raise ValueError(f"{field.name}={value}: must lie in [0, 1)")


def check_seeds(seeds: tuple[int, ...]) -> None:
    """Raises ValueError for seeds that are empty, repeated, negative or above 2^32 - 1."""
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise ValueError(f"seeds={seeds}: give at least one, each once, none negative")
    arguments.check_seeds(seeds)


# --- published numbers -----------------------------------------------------------------------------


class Published(NamedTuple):
    """Published numbers of a row.

    values: {metric: value}, empty if there are none. source: where they are published. incomparable: why ours
    is not measured in the same way, so that no difference is printed; "" if they are comparable.
    """

    values: Mapping[str, float]
    source: str
    incomparable: str = ""

    def fields(self) -> dict[str, Any]:
        """The numbers as arguments of `save`."""
        return {"published": dict(self.values), "source": self.source, "incomparable": self.incomparable}


NONE = Published({}, "")


def published(names: tuple[str, ...], source: str, *values: float) -> Published:
    """Published values of the named metrics, in their order."""
    return Published(dict(zip(names, values, strict=True)), source)


# --- results ---------------------------------------------------------------------------------------


def save(
    folder: str, *, experiment: str, dataset: str, model: str, config: Mapping[str, Any], note: str = "",
    **rest: Any,
) -> Path:  # fmt: skip
    """`train.results.save_result`, with a remark in the note where a search chose settings."""
    searched = records.note(sweeps.study_path(folder, experiment, dataset, model), config)
    joined = ". ".join(part for part in (note, searched) if part)
    rest |= {"experiment": experiment, "dataset": dataset, "model": model}
    return save_result(folder, config=config, note=joined, **rest)


def means(found: Sequence[Mapping[str, float]] | Tested) -> str:
    """One line with each metric's mean over seeds.

    >>> means([{"auc": 0.5, "mse": 1.0}, {"auc": 0.6, "mse": 2.0}])
    'auc 0.5500, mse 1.5000'
    """
    seeds = found.metrics if isinstance(found, Tested) else found
    return ", ".join(f"{name} {np.mean([m[name] for m in seeds]):.4f}" for name in seeds[0])
