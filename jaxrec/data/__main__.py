"""python -m jaxrec.data: lists, downloads, describes and validates data sets."""

from __future__ import annotations

import dataclasses
import difflib
import io
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, NamedTuple, TypeVar

import tyro

from jaxrec.data import store
from jaxrec.data.behaviours import Sides
from jaxrec.data.delimited import form_of
from jaxrec.data.files import read_csv, read_parquet
from jaxrec.data.impressions import ImpressionSplit
from jaxrec.data.interactions import Sequences, format_statistics
from jaxrec.data.lines import read_lines
from jaxrec.data.sessions import format_sessions
from jaxrec.data.sources import (
    aliccp,
    aliexpress,
    amazon,
    census,
    coserec,
    criteo,
    fuxictr,
    movielens,
    retailrocket,
    sasrec,
    sessions,
    taobao,
    ticoserec,
)
from jaxrec.data.sources.dataset import Dataset, Log, Table
from jaxrec.data.split import format_repeats, future_share, leave_one_out
from jaxrec.data.summary import format_split

SOURCES = (movielens, ticoserec, coserec, sasrec, census, retailrocket, sessions)


class Format(NamedTuple):
    """Reads files that no public address gives. files: what they are, in order."""

    files: str
    load: Callable[..., ImpressionSplit]


FORMATS = {
    "criteo": Format("FILE", criteo.load),
    "aliexpress": Format("TRAIN TEST", aliexpress.load),
    "ali-ccp": Format("TRAIN VALIDATION TEST", aliccp.load_table),
    "ali-ccp-logs": Format(
        "SKELETON_TRAIN COMMON_TRAIN SKELETON_TEST COMMON_TEST",
        lambda a, b, c, d, **options: aliccp.load(aliccp.Files(a, b), aliccp.Files(c, d), **options),
    ),
    "fuxictr": Format("TRAIN VALIDATION TEST FEATURE_MAP", fuxictr.load),
}


class EventFormat(NamedTuple):
    """Reads files of events and what is known of items, which no public address gives."""

    files: str
    load: Callable[..., tuple[Sequences, Sides]]


EVENT_FORMATS = {
    "amazon": EventFormat("REVIEWS METADATA", amazon.load),
    "amazon-din": EventFormat("FILE", amazon.load_table),
    "taobao": EventFormat("FILE", taobao.load),
}


Form = TypeVar("Form", Format, EventFormat)


class Entry(NamedTuple):
    """A name that commands take: events, a labelled table, both made from the same files, or sessions."""

    source: ModuleType
    dataset: Dataset | None
    table: Table | None
    log: Log | None

    @property
    def files(self) -> tuple[tuple[store.File, ...], ...]:
        return next(found.files for found in (self.dataset, self.table, self.log) if found is not None)


@dataclasses.dataclass(frozen=True)
class List:
    """Lists the public data sets with content, size, state and licence, and the formats of files of yours."""

    def run(self) -> None:
        for name, entry in _entries().items():
            size = sum(alternatives[-1].size for alternatives in entry.files) / 1e6
            content = "+".join(
                what
                for what, found in (
                    ("events", entry.dataset),
                    ("table", entry.table),
                    ("sessions", entry.log),
                )
                if found is not None
            )
            state, licence = _state(entry.files), entry.source.SOURCE.licence
            print(f"{name:<28} {content:<13} {size:5.1f} MB  {state:<19} {licence}")
        for name, form in FORMATS.items():
            print(f"{name:<28} {'table':<13} {'':>8}  files of your own: table {name} {form.files}")
        for name, events in EVENT_FORMATS.items():
            print(f"{name:<28} {'events':<13} {'':>8}  files of your own: events {name} {events.files}")
        print(f"\nJAXREC_DATA_DIR: {store.data_dir() or 'unset'}\ncache: {store.cache_dir()}")


@dataclasses.dataclass(frozen=True)
class Stats:
    """Prints the statistics of a public data set, downloading it first if need be."""

    name: tyro.conf.Positional[str]  # such as movielens/ml-100k; see `list`

    def run(self) -> None:
        entry = _find(self.name)
        if entry.dataset is not None:
            _describe(entry.source.load(entry.dataset.name))
        if entry.table is not None:
            print(format_split(entry.source.load_impressions(entry.table.name)))
        if entry.log is not None:
            found = entry.source.load(entry.log.name)
            print(format_sessions(found.name, found.statistics()))


@dataclasses.dataclass(frozen=True)
class Download:
    """Makes sure that all files of a public data set are here and intact."""

    name: tyro.conf.Positional[str]  # such as movielens/ml-100k; see `list`

    def run(self) -> None:
        entry = _find(self.name)
        store.show_terms(entry.source.SOURCE)
        for alternatives in entry.files:
            file = next((file for file in alternatives if store.find(file)), alternatives[-1])
            store.read(file)
            print(f"{store.find(file)}: sha256 verified")


@dataclasses.dataclass(frozen=True)
class ReadTable:
    """Reads labelled files of your own in a known format, checks them for leaks, prints their statistics."""

    format: tyro.conf.Positional[str]  # criteo, aliexpress, ali-ccp, ali-ccp-logs or fuxictr; see `list`
    files: tyro.conf.Positional[tuple[Path, ...]]  # as `list` names them, in that order
    min_count: int | None = None  # rarer values are out of vocabulary; None: what the format's reader has
    features: tuple[
        str, ...
    ] = ()  # of ali-ccp: columns that are features; none named: all, if fields of the set

    def run(self) -> None:
        form = _format(FORMATS, self.format, self.files)
        options: dict[str, Any] = {} if self.min_count is None else {"min_count": self.min_count}
        if self.features and form.load is not aliccp.load_table:
            raise ValueError(f"--features: is for ali-ccp; {self.format} has the same columns in every file")
        if self.features:
            options["features"] = self.features
        print(format_split(form.load(*self.files, **options)))


@dataclasses.dataclass(frozen=True)
class ReadEvents:
    """Reads event files of your own in a known format, and prints the statistics of events and items."""

    format: tyro.conf.Positional[str]  # amazon, amazon-din or taobao; see `list`
    files: tyro.conf.Positional[tuple[Path, ...]]  # as `list` names them, in that order
    drop_outside: bool = False  # of taobao: leave out events of other days than those the set is about

    def run(self) -> None:
        form = _format(EVENT_FORMATS, self.format, self.files)
        if self.drop_outside and form.load is not taobao.load:
            raise ValueError(f"--drop-outside: is for taobao; leave it out for {self.format}")
        options = {"outside": "drop"} if self.drop_outside else {}
        sequences, sides = form.load(*self.files, **options)
        _describe(sequences)
        for name, column in sides.items.items():
            print(f"{name} of items: {int(column.max()):,} values")


@dataclasses.dataclass(frozen=True)
class Validate:
    """Reads a file of your own as training would, and prints its statistics or what is wrong with it.

    By its name: .csv, .tsv, .dat (also .gz) or .parquet is a table of events; .txt (also .gz) has lines
    `user item item ...`, oldest first. Capitals are the same.
    """

    file: tyro.conf.Positional[Path]
    user: str = "user"  # name of the user column
    item: str = "item"  # name of the item column
    time: str | None = "time"  # name of the time column (seconds since 1970); None: rows are in time order
    value: str | None = None  # name of a value column, such as a rating
    delimiter: str | None = None  # such as '\\t' or '::'; None: a tab for .tsv, a comma otherwise
    columns: tuple[str, ...] = ()  # names of all columns of a table without a header line
    keep_ids: bool = False  # item ids are 1..n already and stay as they are
    real_ids: tuple[str, ...] = ()  # ids that read like a missing value and are none, such as NA
    name: str | None = None  # of the data set; None: that of the file
    times_file: Path | None = None  # for .txt: lines `user time time ...` of the same shape
    k_core: int | None = None  # take out users and items of fewer events first
    renumber: bool = False  # with --keep-ids and --k-core: number the items left anew

    def run(self) -> None:
        form = form_of(self.file)
        if form == ".txt":
            self._only("a table", "user item time value delimiter columns keep_ids real_ids k_core renumber")
            _describe(read_lines(self.file, self.times_file, name=self.name))
            return
        self._only("a .txt file", "times_file")
        if self.renumber and not (self.keep_ids and self.k_core):
            raise ValueError(
                "--renumber: is for --keep-ids with --k-core; other ids are numbered as they come"
            )
        options: dict[str, Any] = {
            **{name: getattr(self, name) for name in ("user", "item", "time", "value", "real_ids", "name")},
            "ids": "keep" if self.keep_ids else "map",
        }
        if form == ".parquet":
            self._only("a table of text", "delimiter columns")
            events = read_parquet(self.file, **options)
        elif form in (".csv", ".tsv", ".dat"):
            columns = self.columns or None
            events = read_csv(self.file, **options, delimiter=self.delimiter, columns=columns)
        else:
            raise ValueError(
                f"{self.file}: name ends in {form!r}; expected .csv, .tsv, .parquet or .txt (.gz), or .dat "
                "with --delimiter"
            )
        if self.k_core is not None:
            events = events.k_core(self.k_core, renumber=True if self.renumber else None)
        _describe(events.to_sequences())
        if events.kept:
            print(f"ids are kept: an item table has {events.num_items:,} rows, 1..{events.num_items}")

    def _only(self, what: str, options: str) -> None:
        """Raises ValueError for options that were given and that only `what` has."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name in options.split():
            if getattr(self, name) != defaults[name]:
                flag = f"--{name.replace('_', '-')}"
                raise ValueError(f"{flag} {getattr(self, name)}: is for {what}, not for {self.file}")


Command = (
    Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Stats, tyro.conf.subcommand("stats")]
    | Annotated[Download, tyro.conf.subcommand("download")]
    | Annotated[ReadTable, tyro.conf.subcommand("table")]
    | Annotated[ReadEvents, tyro.conf.subcommand("events")]
    | Annotated[Validate, tyro.conf.subcommand("validate")]
)


def _format(formats: Mapping[str, Form], name: str, files: tuple[Path, ...]) -> Form:
    if name not in formats:
        raise ValueError(f"format {name!r}: unknown; one of {', '.join(formats)}")
    if len(files) != len(formats[name].files.split()):
        raise ValueError(f"{name}: {len(files)} files given, expected {formats[name].files}")
    return formats[name]


def _state(files: tuple[tuple[store.File, ...], ...]) -> str:
    """The state of a data set is that of the file hardest to get."""
    order = ("in JAXREC_DATA_DIR", "cached", "to download", "not to be had")
    return max((store.state(*alternatives) for alternatives in files), key=order.index)


def _entries() -> dict[str, Entry]:
    """Every public data set by name, in the order of the sources."""
    entries = {}
    for source in SOURCES:
        datasets = {dataset.name: dataset for dataset in getattr(source, "DATASETS", ())}
        tables = {table.name: table for table in getattr(source, "TABLES", ())}
        logs = {log.name: log for log in getattr(source, "LOGS", ())}
        for name in dict.fromkeys([*datasets, *tables, *logs]):
            found = Entry(source, datasets.get(name), tables.get(name), logs.get(name))
            entries[f"{source.SOURCE.name}/{name}"] = found
    return entries


def _find(name: str) -> Entry:
    entries = _entries()
    if name not in entries:
        near = difflib.get_close_matches(name, entries, n=1, cutoff=0.3)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"data set {name!r}: unknown{hint}; one of {', '.join(entries)}")
    return entries[name]


def _describe(sequences: Sequences) -> None:
    print(format_statistics(sequences.name, sequences.statistics()))
    few = int((sequences.lengths < 3).sum())
    if few:
        print(f"{few:,} users have fewer than 3 events: leave_one_out needs short='train', or a k-core of 3")
    elif sequences.times is not None and sequences.lengths.max() > 3:
        share = future_share(leave_one_out(sequences))
        print(
            f"leave_one_out: {share:.1%} of the training events happened after the test target, on average; "
            "split_by_time has no such leak"
        )
    if sequences.lengths.max() > 3:
        print(format_repeats(leave_one_out(sequences, short="train")))


def _one_line(text: str) -> str:
    return re.sub(r"\s*\n\s*", " ", text.strip())


def main(args: list[str] | None = None) -> int:
    """Runs a command; 0 if all is well, 2 with the error on stderr, in one line."""
    command: List | Stats | Download | ReadTable | ReadEvents | Validate = tyro.cli(
        Command,  # type: ignore[arg-type]
        prog="python -m jaxrec.data",
        description=__doc__,
        args=args,
    )
    try:
        command.run()
    except Exception as error:  # whatever a file may lead to; of others than the usual ones the kind is told
        usual = isinstance(error, (ValueError, OSError, ImportError)) and str(error)
        text = str(error) if usual else f"{type(error).__name__}: {error}"
        print(f"error: {_one_line(text)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may not know a character of a name
    sys.exit(main())
