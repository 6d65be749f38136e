"""Loads a user's own file like a public source: as sequences, sessions, or a split labelled table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from jaxrec.data.events.event_files import read_csv, read_parquet
from jaxrec.data.events.interactions import Interactions, Sequences
from jaxrec.data.events.sequence_files import read_sequences
from jaxrec.data.events.sessions import Sessions
from jaxrec.data.tables.features import Category, FeatureSpec, Number, encode, fit_encoders
from jaxrec.data.tables.impressions import Impressions, ImpressionSplit, split_at_random, split_in_time_order
from jaxrec.data.tables.table_reader import read_integers, read_table


def load_events(
    path: str | Path, *, user: str = "user", item: str = "item", time: str | None = "time", k_core: int = 0
) -> Sequences:
    """The events of a CSV, TSV or Parquet table, or of a `.txt` file with one line per user, as sequences.

    user, item, time: names of columns; time=None: events are in time order. A `.txt` file has no columns and
    no times. k_core: users and items with fewer events are removed, repeatedly; 0 keeps all.

    Raises:
      ValueError: as the reader of the file. FileNotFoundError: there is no such file.
    """
    name = Path(path).name.removesuffix(".gz")
    if name.endswith(".txt"):
        if k_core:
            raise ValueError(
                f"{path}: k_core={k_core}: is not for .txt files, whose item ids are kept; give a CSV file"
            )
        return read_sequences(path)
    return load_interactions(path, user=user, item=item, time=time, k_core=k_core).to_sequences()


def load_interactions(
    path: str | Path,
    *,
    user: str = "user",
    item: str = "item",
    time: str | None = "time",
    value: str | None = None,
    k_core: int = 0,
) -> Interactions:
    """The events of a CSV, TSV or Parquet table in file order; value: a column of numbers, such as ratings.

    Other arguments and errors as of `load_events`.
    """
    read = read_parquet if Path(path).name.endswith(".parquet") else read_csv
    events = read(path, user=user, item=item, time=time, value=value)
    return events.k_core(k_core) if k_core else events


def load_sessions(
    path: str | Path,
    *,
    session: str = "session",
    item: str = "item",
    time: str = "time",
    test: float = 0.1,
    short: Literal["error", "leave out"] = "error",
) -> Sessions:
    """The click sessions of a CSV, TSV or Parquet table; every prefix of the last sessions to end is tested.

    test: share of the sessions that are tested. short: what happens to sessions of one click, which have
    nothing to predict.

    Raises:
      ValueError: as the reader of the file; a session of one click (short="error"); a part without a session.
    """
    if not 0 < test < 1:
        raise ValueError(f"test={test}: must lie between 0 and 1")
    read = read_parquet if Path(path).name.endswith(".parquet") else read_csv
    clicks = read(path, user=session, item=item, time=time).to_sequences()
    assert clicks.times is not None
    long = np.flatnonzero(clicks.lengths >= 2)
    if short == "error" and len(long) < clicks.num_users:
        raise ValueError(
            f"{path}: {clicks.num_users - len(long):,} of {clicks.num_users:,} sessions have one click, so "
            'nothing to predict; remove them from the file, or give short="leave out"'
        )
    last = clicks.times[clicks.offsets[1:] - 1][long]
    order = long[np.argsort(last, kind="stable")]
    cut = len(order) - round(len(order) * test)
    if cut < 1 or cut == len(order):
        raise ValueError(f"{path}: {len(order):,} sessions, of which test={test} leaves a part empty")
    training = [clicks.user_items(index) for index in order[:cut]]
    tested = [clicks.user_items(index) for index in order[cut:]]
    prefixes = [items[:length] for items in tested for length in range(len(items) - 1, 0, -1)]
    targets = [items[length] for items in tested for length in range(len(items) - 1, 0, -1)]
    return Sessions.from_arrays(
        clicks.name,
        train_items=np.concatenate(training),
        train_offsets=np.cumsum([0, *map(len, training)]),
        test_items=np.concatenate(prefixes),
        test_offsets=np.cumsum([0, *map(len, prefixes)]),
        test_target=np.asarray(targets),
    )


def load_labelled(
    path: str | Path,
    *,
    labels: Sequence[str],
    categorical: Sequence[str] = (),
    numeric: Sequence[str] = (),
    time: str | None = None,
    split: Literal["random", "time"] = "random",
    min_count: int = 1,
    seed: int = 0,
) -> ImpressionSplit:
    """The labelled table of a CSV or TSV file with a header, split 80/10/10.

    Numbers are standardised by training rows, with an indicator of empty cells; a category that occurs in
    fewer than `min_count` training rows is out of vocabulary.

    labels: columns of 0 and 1. split: at random by `seed`, or by the column `time` (seconds).

    Raises:
      ValueError: as the reader; no label, no feature, a column with two uses, split='time' without its
        column, or a feature that leaks a label.
    """
    if not labels or not (categorical or numeric):
        raise ValueError(
            f"{path}: labels={list(labels)}, categorical={list(categorical)}, numeric={list(numeric)}: name "
            "at least one label and one feature"
        )
    used = [*labels, *categorical, *numeric, *([time] if time else [])]
    twice = sorted({name for name in used if used.count(name) > 1})
    if twice:
        raise ValueError(f"{path}: {', '.join(twice)}: is given two uses; a column has one")
    if split == "time" and time is None:
        raise ValueError(f"{path}: split='time' needs the column of times; give its name as time=")
    file = Path(path)
    delimiter = "\t" if file.name.removesuffix(".gz").endswith(".tsv") else ","
    raw, _ = read_table([file], categories=categorical, numbers=[*labels, *numeric], delimiter=delimiter)
    seconds = None if time is None else read_integers(file, [time], delimiter=delimiter)[time]
    count = len(np.asarray(raw[labels[0]]))
    parts = (
        split_at_random(count, seed=seed)
        if seconds is None or split == "random"
        else split_in_time_order(seconds)
    )
    specs: list[FeatureSpec] = [Category(name, min_count=min_count) for name in categorical]
    specs += [Number(name, missing="indicator") for name in numeric]
    encoders = fit_encoders(specs, raw, parts.train)
    table = Impressions(
        name=file.name.removesuffix(".gz"),
        columns=encode(encoders, raw),
        fields=encoders.fields,
        labels={name: np.asarray(raw[name]) for name in labels},
        time=seconds,
    )
    return table.split(parts.train, parts.validation, parts.test, rule=parts.rule)
