"""Loads a user's own events like a public source: as sequences or as sessions (labelled rows: own_tables.py).

A source is a path (CSV, TSV, JSON lines, each also `.gz`, or Parquet), a mapping of columns to arrays or
lists, or a data frame of pandas, polars, pyarrow or another library. All forms pass the same checks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Literal

import numpy as np

from jaxrec.data.delimited import file_suffix
from jaxrec.data.events.event_files import read_events
from jaxrec.data.events.interactions import Interactions, Sequences
from jaxrec.data.events.sequence_files import read_sequences
from jaxrec.data.events.sessions import Sessions
from jaxrec.data.typed_sources import Source, describe_source, is_path


def load_events(
    source: Source,
    *,
    user: str = "user",
    item: str = "item",
    time: str | None = "time",
    k_core: int = 0,
    name: str | None = None,
    delimiter: str | None = None,
    columns: Sequence[str] | None = None,
    real_ids: Collection[str] = (),
) -> Sequences:
    """The events of a file or data frame, or of a `.txt` file with one line per user, as sequences.

    user, item, time: names of columns; time=None: events are in time order. A `.txt` file has no columns and
    no times. k_core: users and items with fewer events are removed, repeatedly; 0 keeps all.
    name: of the data set, by default that of the file; a data frame needs one.
    delimiter: of a CSV file, one or several characters; None: a tab for `.tsv`, a comma otherwise. columns:
    names of all columns of a CSV file without a header line. real_ids: ids that look like a missing value
    but are real, such as "NA".

    Raises:
      ValueError: as the reader of the form. FileNotFoundError: there is no such file. ImportError: without
        pyarrow, which Parquet and data frames need (CSV, JSON lines and mappings do not).
    """
    if is_path(source) and file_suffix(source) == ".txt":
        options = {"k_core": k_core, "delimiter": delimiter, "columns": columns, "real_ids": real_ids}
        given = ", ".join(f"{option}={value!r}" for option, value in options.items() if value)
        if given:
            raise ValueError(
                f"{source}: {given}: is not for .txt files, whose item ids are kept; give a CSV file"
            )
        return read_sequences(source, name=name)
    return load_interactions(
        source,
        user=user,
        item=item,
        time=time,
        k_core=k_core,
        name=name,
        delimiter=delimiter,
        columns=columns,
        real_ids=real_ids,
    ).to_sequences()


def load_interactions(
    source: Source,
    *,
    user: str = "user",
    item: str = "item",
    time: str | None = "time",
    value: str | None = None,
    k_core: int = 0,
    name: str | None = None,
    delimiter: str | None = None,
    columns: Sequence[str] | None = None,
    real_ids: Collection[str] = (),
) -> Interactions:
    """The events of a file or data frame in its order; value: a column of numbers, such as ratings.

    Other arguments and errors as of `load_events`.
    """
    events = read_events(
        source,
        user=user,
        item=item,
        time=time,
        value=value,
        name=name,
        delimiter=delimiter,
        columns=columns,
        real_ids=real_ids,
    )
    return events.k_core(k_core) if k_core else events


def load_sessions(
    source: Source,
    *,
    session: str = "session",
    item: str = "item",
    time: str = "time",
    test: float = 0.1,
    short: Literal["error", "leave out"] = "error",
    name: str | None = None,
    delimiter: str | None = None,
    columns: Sequence[str] | None = None,
    real_ids: Collection[str] = (),
) -> Sessions:
    """The click sessions of a file or data frame; every prefix of the last sessions to end is tested.

    test: share of the sessions that are tested. short: what happens to sessions of one click, which have
    nothing to predict. Other arguments as of `load_events`. `item_ids` of the parts are the raw ids.

    Raises:
      ValueError: as the reader of the form; a session of one click (short="error"); a part without a session.
    """
    if not 0 < test < 1:
        raise ValueError(f"test={test}: must lie between 0 and 1")
    if short not in ("error", "leave out"):
        raise ValueError(f"short={short!r}: must be 'error' or 'leave out'")
    clicks = read_events(
        source,
        user=session,
        item=item,
        time=time,
        name=name,
        delimiter=delimiter,
        columns=columns,
        real_ids=real_ids,
    ).to_sequences()
    assert clicks.times is not None
    where = describe_source(source, name)
    long = np.flatnonzero(clicks.lengths >= 2)
    if short == "error" and len(long) < clicks.num_users:
        raise ValueError(
            f"{where}: {clicks.num_users - len(long):,} of {clicks.num_users:,} sessions have one click, so "
            'nothing to predict; remove them, or give short="leave out"'
        )
    last = clicks.times[clicks.offsets[1:] - 1][long]
    order = long[np.argsort(last, kind="stable")]
    cut = len(order) - round(len(order) * test)
    if cut < 1 or cut == len(order):
        raise ValueError(f"{where}: {len(order):,} sessions, of which test={test} leaves a part empty")
    training = [clicks.user_items(index) for index in order[:cut]]
    tested = [clicks.user_items(index) for index in order[cut:]]
    prefixes = [items[:length] for items in tested for length in range(len(items) - 1, 0, -1)]
    targets = [items[length] for items in tested for length in range(len(items) - 1, 0, -1)]
    found = Sessions.from_arrays(
        clicks.name,
        train_items=np.concatenate(training),
        train_offsets=np.cumsum([0, *map(len, training)]),
        test_items=np.concatenate(prefixes),
        test_offsets=np.cumsum([0, *map(len, prefixes)]),
        test_target=np.asarray(targets),
    )
    raw_ids = np.asarray(clicks.item_ids)[found.train.item_ids - 1]  # which have been numbers of `clicks`
    return dataclasses.replace(
        found,
        train=dataclasses.replace(found.train, item_ids=raw_ids),
        test=dataclasses.replace(found.test, item_ids=raw_ids),
    )
