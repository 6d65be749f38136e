"""python -m jaxrec.data: lists, downloads, describes and validates data sets."""

from __future__ import annotations

import dataclasses
import difflib
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated

import tyro

from jaxrec.data import store
from jaxrec.data.files import read_csv, read_parquet
from jaxrec.data.interactions import Sequences, format_statistics
from jaxrec.data.lines import read_lines
from jaxrec.data.sources import coserec, movielens, sasrec, ticoserec
from jaxrec.data.sources.dataset import Dataset
from jaxrec.data.split import future_share, leave_one_out

SOURCES = (movielens, ticoserec, coserec, sasrec)


@dataclasses.dataclass(frozen=True)
class List:
    """Lists the public data sets with size, state and licence."""

    def run(self) -> None:
        for source in SOURCES:
            for dataset in source.DATASETS:
                size = sum(alternatives[-1].size for alternatives in dataset.files) / 1e6
                name = f"{source.SOURCE.name}/{dataset.name}"
                print(f"{name:<28} {size:5.1f} MB  {_state(dataset):<19} {source.SOURCE.licence}")
        print(f"\nJAXREC_DATA_DIR: {store.data_dir() or 'unset'}\ncache: {store.cache_dir()}")


@dataclasses.dataclass(frozen=True)
class Stats:
    """Prints the statistics of a public data set, downloading it first if need be."""

    name: tyro.conf.Positional[str]  # such as movielens/ml-100k; see `list`

    def run(self) -> None:
        source, dataset = _find(self.name)
        _describe(source.load(dataset.name))


@dataclasses.dataclass(frozen=True)
class Download:
    """Makes sure that all files of a public data set are here and intact."""

    name: tyro.conf.Positional[str]  # such as movielens/ml-100k; see `list`

    def run(self) -> None:
        source, dataset = _find(self.name)
        store.show_terms(source.SOURCE)
        for alternatives in dataset.files:
            file = next((file for file in alternatives if store.find(file)), alternatives[-1])
            store.read(file)
            print(f"{store.find(file)}: sha256 verified")


@dataclasses.dataclass(frozen=True)
class Validate:
    """Reads a file of your own as training would, and prints its statistics or what is wrong with it.

    By its name: .csv, .tsv (also .gz) or .parquet is a table of events; .txt (also .gz) has lines
    `user item item ...`, oldest first.
    """

    file: tyro.conf.Positional[Path]
    user: str = "user"  # name of the user column
    item: str = "item"  # name of the item column
    time: str | None = "time"  # name of the time column (seconds since 1970); None: rows are in time order
    value: str | None = None  # name of a value column, such as a rating
    delimiter: str | None = None  # None: a tab for .tsv, a comma otherwise
    keep_ids: bool = False  # item ids are 1..n already and stay as they are
    times_file: Path | None = None  # for .txt: lines `user time time ...` of the same shape
    k_core: int | None = None  # take out users and items of fewer events first

    def run(self) -> None:
        suffix = next((s for s in reversed(self.file.suffixes) if s != ".gz"), "")
        if suffix == ".txt":
            if self.k_core is not None:
                raise ValueError(f"--k-core {self.k_core}: is for tables; give a .csv or .parquet file")
            _describe(read_lines(self.file, self.times_file))
            return
        columns = {"user": self.user, "item": self.item, "time": self.time, "value": self.value}
        ids = "keep" if self.keep_ids else "map"
        if suffix == ".parquet":
            events = read_parquet(self.file, **columns, ids=ids)  # type: ignore[arg-type]
        elif suffix in (".csv", ".tsv"):
            events = read_csv(self.file, **columns, delimiter=self.delimiter, ids=ids)  # type: ignore[arg-type]
        else:
            raise ValueError(
                f"{self.file}: name ends in {suffix!r}; expected .csv, .tsv, .parquet or .txt (.gz)"
            )
        _describe((events if self.k_core is None else events.k_core(self.k_core)).to_sequences())


Command = (
    Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Stats, tyro.conf.subcommand("stats")]
    | Annotated[Download, tyro.conf.subcommand("download")]
    | Annotated[Validate, tyro.conf.subcommand("validate")]
)


def _state(dataset: Dataset) -> str:
    """The state of a data set is that of the file hardest to get."""
    order = ("in JAXREC_DATA_DIR", "cached", "to download", "not to be had")
    return max((store.state(*alternatives) for alternatives in dataset.files), key=order.index)


def _find(name: str) -> tuple[ModuleType, Dataset]:
    named = {f"{s.SOURCE.name}/{d.name}": (s, d) for s in SOURCES for d in s.DATASETS}
    if name not in named:
        near = difflib.get_close_matches(name, named, n=1, cutoff=0.3)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"data set {name!r}: unknown{hint}; one of {', '.join(named)}")
    return named[name]


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


def main(args: list[str] | None = None) -> int:
    """Runs a command; 0 if all is well, 1 with the error on stderr."""
    command: List | Stats | Download | Validate = tyro.cli(
        Command,  # type: ignore[arg-type]
        prog="python -m jaxrec.data",
        description=__doc__,
        args=args,
    )
    try:
        command.run()
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
