"""python -m jaxrec.data: lists, downloads, describes and validates data sets."""

from __future__ import annotations

import dataclasses
import errno
import io
import os
import re
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxrec.data import catalogue, store
from jaxrec.data.delimited import file_suffix
from jaxrec.data.events.event_files import read_events
from jaxrec.data.events.sequence_files import read_sequences
from jaxrec.data.typed_sources import source_form

# Names of the catalogue's kinds in `list`.
CONTENTS: Mapping[catalogue.Kind, str] = {
    "events": "events",
    "impressions": "table",
    "sessions": "sessions",
    "clicks": "events",
    "matrix": "matrix",
    "ratings": "ratings",
}
COMMANDS: Mapping[catalogue.Kind, str] = {
    "impressions": "table",
    "clicks": "events",
}  # which reads files of this kind


@dataclasses.dataclass(frozen=True)
class List:
    """Lists the public data sets with content, size, state and licence, and the formats of your own files."""

    def run(self) -> None:
        for name, entry in catalogue.public().items():
            content = "+".join(CONTENTS[kind] for kind in entry.kinds)
            print(f"{name:<28} {content:<13} {entry.size / 1e6:5.1f} MB  {entry.state:<19} {entry.licence}")
        for name, entry in catalogue.formats().items():
            content, how = CONTENTS[entry.kind], f"{COMMANDS[entry.kind]} {name} {' '.join(entry.paths)}"
            print(f"{name:<28} {content:<13} {'':>8}  files of your own: {how}")
        print(f"\nJAXREC_DATA_DIR: {store.data_dir() or 'unset'}\ncache: {store.cache_dir()}")


@dataclasses.dataclass(frozen=True)
class Stats:
    """Prints the statistics of a public data set, downloading it first if necessary."""

    name: tyro.conf.Positional[str]  # such as movielens/ml-100k; see `list`

    def run(self) -> None:
        for kind in catalogue.find_entry(self.name, catalogue.public()).kinds:
            print(catalogue.describe(catalogue.load(self.name, kind=kind)))


@dataclasses.dataclass(frozen=True)
class Download:
    """Downloads the missing files of a public data set, and verifies all."""

    name: tyro.conf.Positional[str]  # such as movielens/ml-100k; see `list`

    def run(self) -> None:
        entry = catalogue.find_entry(self.name, catalogue.public())
        assert entry.source is not None  # every public set has one
        store.show_terms(entry.source)
        for alternatives in entry.files:
            file = next((file for file in alternatives if store.find_file(file)), alternatives[-1])
            store.read_file(file)
            print(f"{store.find_file(file)}: sha256 verified")


@dataclasses.dataclass(frozen=True)
class ReadTable:
    """Reads your own labelled files in a known format, checks them for leaks, prints their statistics."""

    format: tyro.conf.Positional[str]  # criteo, aliexpress, ali-ccp, ali-ccp-logs or fuxictr; see `list`
    files: tyro.conf.Positional[tuple[Path, ...]]  # as `list` names them, in that order
    min_count: int | None = None  # rarer values are out of vocabulary; None: the format's default
    features: tuple[
        str, ...
    ] = ()  # for ali-ccp: columns that are features; none: all, if they are fields of the data set

    def run(self) -> None:
        entry = _find_format("impressions", self.format, self.files)
        options: dict[str, Any] = {} if self.min_count is None else {"min_count": self.min_count}
        if self.features and "features" not in entry.options():
            raise ValueError(f"--features: is for ali-ccp; every {self.format} file has the same columns")
        if self.features:
            options["features"] = self.features
        print(catalogue.describe(catalogue.load(self.format, *self.files, **options)))


@dataclasses.dataclass(frozen=True)
class ReadEvents:
    """Reads your own event files in a known format, and prints the statistics of events and items."""

    format: tyro.conf.Positional[str]  # amazon, amazon-din or taobao; see `list`
    files: tyro.conf.Positional[tuple[Path, ...]]  # as `list` names them, in that order
    drop_outside: bool = False  # for taobao: leave out events outside the nine days of the data set

    def run(self) -> None:
        entry = _find_format("clicks", self.format, self.files)
        if self.drop_outside and "outside" not in entry.options():
            raise ValueError(f"--drop-outside: is for taobao; leave it out for {self.format}")
        options: dict[str, Any] = {"outside": "drop"} if self.drop_outside else {}
        print(catalogue.describe(catalogue.load(self.format, *self.files, **options)))


@dataclasses.dataclass(frozen=True)
class Validate:
    """Reads your own file as training would, and prints its statistics or what is wrong with it.

    By its name: .csv, .tsv, .dat, .jsonl, .ndjson, .json (also .gz) or .parquet is a table of events; .txt
    (also .gz) has lines `user item item ...`, oldest first. Case is ignored.
    """

    file: tyro.conf.Positional[Path]
    user: str = "user"  # name of the user column
    item: str = "item"  # name of the item column
    time: str | None = "time"  # name of the time column (seconds since 1970); '': events are in time order
    value: str | None = None  # name of a value column, such as a rating
    delimiter: str | None = None  # such as '\\t' or '::'; None: a tab for .tsv, a comma otherwise
    columns: tuple[str, ...] = ()  # names of all columns of a table without a header line
    keep_ids: bool = False  # keep the item ids, which are 1..n already
    real_ids: tuple[str, ...] = ()  # ids that look like a missing value but are real, such as NA
    name: str | None = None  # of the data set; None: that of the file
    times_file: Path | None = None  # for .txt: lines `user time time ...` of the same shape
    k_core: int | None = None  # first remove users and items with fewer events
    renumber: bool = False  # with --keep-ids and --k-core: renumber the remaining items

    def run(self) -> None:
        if file_suffix(self.file) == ".txt":
            self._only("a table", "user item time value delimiter columns keep_ids real_ids k_core renumber")
            print(catalogue.describe(read_sequences(self.file, self.times_file, name=self.name)))
            return
        self._only("a .txt file", "times_file")
        if self.renumber and not (self.keep_ids and self.k_core):
            raise ValueError("--renumber: is for --keep-ids with --k-core; other ids are always renumbered")
        options: dict[str, Any] = {
            **{name: getattr(self, name) for name in ("user", "item", "time", "value", "real_ids", "name")},
            "ids": "keep" if self.keep_ids else "map",
            "time": self.time or None,
        }
        if source_form(self.file) != ".csv":
            self._only("a table of text", "delimiter columns")
        columns = self.columns or None
        events = read_events(self.file, **options, delimiter=self.delimiter, columns=columns)
        if self.k_core is not None:
            events = events.k_core(self.k_core, renumber=True if self.renumber else None)
        print(catalogue.describe(events.to_sequences()))
        if events.ids_kept:
            print(f"ids are kept: an item table needs the ids 1..{events.num_items:,}")

    def _only(self, what: str, options: str) -> None:
        """Raises ValueError for given options that only `what` has."""
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


def _find_format(kind: catalogue.Kind, name: str, files: tuple[Path, ...]) -> catalogue.Entry:
    """The format of this kind and name, after checking the number of files."""
    formats = {name: entry for name, entry in catalogue.formats().items() if entry.kind == kind}
    if name not in formats:
        raise ValueError(f"format {name!r}: unknown; one of {', '.join(formats)}")
    catalogue.check_num_files(formats[name], files)
    return formats[name]


def describe_error(error: BaseException) -> str:
    """The message of an error, without the number that the operating system gives it.

    >>> describe_error(FileNotFoundError(2, "No such file or directory", "events.csv"))
    'events.csv: no such file'
    """
    if not (isinstance(error, OSError) and error.filename and error.strerror):
        return str(error)
    what = "no such file" if error.errno == errno.ENOENT else error.strerror.lower()
    return f"{error.filename}: {what}"


def end_silently() -> int:
    """The exit code where the reader of the output has closed it, as `| head` does; prints no more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what Python still flushes at its end
    return 128 + signal.SIGPIPE


def _one_line(text: str) -> str:
    return re.sub(r"\s*\n\s*", " ", text.strip())


def main(args: list[str] | None = None, *, prog: str = "python -m jaxrec.data") -> int:
    """Runs a command; returns 0, or 2 after printing the error on stderr, in one line."""
    command: List | Stats | Download | ReadTable | ReadEvents | Validate = tyro.cli(
        Command,  # type: ignore[arg-type]
        prog=prog,
        description=__doc__,
        args=args,
    )
    try:
        command.run()
        sys.stdout.flush()
    except BrokenPipeError:
        return end_silently()
    except Exception as error:  # whatever a file may cause; unusual errors are shown with their type
        usual = isinstance(error, (ValueError, OSError, ImportError)) and str(error)
        text = describe_error(error) if usual else f"{type(error).__name__}: {error}"
        print(f"error: {_one_line(text)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for terminals that cannot print a character
    sys.exit(main())
