"""All tables: what is stored of each row, and the runs that are missing.

A row is `done`, or `missing`, or has `missing seeds`, or is `stale`: its --tiny numbers differ from those of
the commit of its result. Nothing else makes a result stale, so --check-stale has to be asked for: it makes
the --tiny runs of both commits, once for each commit and experiment.

Missing runs are made from a checkout of one commit in the work folder, the cheapest first, each in a process
of its own with a log; those that fail are recorded, and the others go on. Started again, it makes what is
still missing, and a training that was stopped goes on where it was.

Run:     python -m experiments.all --list
Also:    --check-stale --only feedback; --run --hours 8 --only ticoserec stamp
Expect:  a table of rows; with --run, results in --results, and runs/all/log.jsonl, a line for each run.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tabulate import tabulate

from experiments.benchmarks import tiny_numbers
from experiments.run_entry import UNTRAINED, Entry
from experiments.run_list import RUNS
from jaxrec import config as command_line
from jaxrec.config import check_run
from jaxrec.report.results import write_atomically

ROOT = Path(__file__).resolve().parents[1]
WITHOUT_WORKDIR = ("multitask.census_columns",)
UNTRAINED_MINUTES = 3.0  # of a row that is not trained, until a result says


@dataclasses.dataclass(frozen=True)
class Config:
    """Lists, checks or runs the rows of all tables."""

    list: bool = False  # prints every row with its state, as without any of the three
    check_stale: bool = False  # makes the --tiny runs that tell stale rows; they are kept in the work folder
    run: bool = False  # makes what is missing or, as far as it is known, stale
    hours: float = 8.0  # of --run: nothing starts after them, and what still runs is stopped
    only: tuple[str, ...] = ()  # names of experiments; empty: all
    allow_dirty: bool = False  # --run where files are changed: they are not part of the run
    results: str = "results"  # folder of result files
    workdir: str = "runs/all"  # folder of the checkout, logs and checkpoints

    def __post_init__(self) -> None:
        if not self.hours > 0:
            raise ValueError(f"hours={self.hours}: must be positive")
        known = {name for entry in RUNS for name in names_of(entry)}
        if wrong := sorted(set(self.only) - known):
            raise ValueError(f"only={wrong[0]!r}: is none of {', '.join(sorted(known))}")


class Row(NamedTuple):
    """A row of a table, and what is stored of it. minutes: of its results; None: unknown. seeds: stored."""

    entry: Entry
    row: str
    state: str
    minutes: float | None
    seeds: int
    wanted: int

    @property
    def cost(self) -> float:
        """Minutes, as far as they can be told before it is run."""
        guess = UNTRAINED_MINUTES if self.row in UNTRAINED else float("inf")
        return guess if self.minutes is None else self.minutes


def names_of(entry: Entry) -> set[str]:
    """The experiment's module, and its name in results."""
    return {entry.module.split(".")[-1], *(table.split("/")[0] for table in entry.tables.split())}


def wanted_seeds(entry: Entry) -> int:
    """How many seeds the command has: those of its arguments, or its module's."""
    words = entry.arguments.split()
    if "--seeds" in words:
        after = words[words.index("--seeds") + 1 :]
        return next((i for i, word in enumerate(after) if word.startswith("--")), len(after))
    return len(importlib.import_module(f"experiments.{entry.module}").Config().seeds)


def read(path: Path) -> dict[str, Any] | None:
    """A stored result; None if there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def rows(config: Config, seeds: Callable[[Entry], int] = wanted_seeds) -> list[Row]:
    """All rows with their states. seeds: how many an entry has."""
    found: list[Row] = []
    head = git("rev-parse", "HEAD")
    for entry in RUNS:
        if config.only and not names_of(entry) & set(config.only):
            continue
        wanted = seeds(entry)
        found += [row_of(entry, row, wanted, config, head) for row in entry.rows.split()]
    return found


def row_of(entry: Entry, row: str, wanted: int, config: Config, head: str) -> Row:
    """What is stored of a row. A method that is not trained may have one seed for all."""
    paths = [Path(config.results, f"{result}.json") for result in entry.results(row)]
    stored = [result for path in paths if (result := read(path)) is not None]
    if not stored:
        return Row(entry, row, "missing", None, 0, wanted)
    minutes = max(float(result["seconds"] + result["compile_seconds"]) / 60 for result in stored)
    have = min(len(result["seeds"]) for result in stored)
    few = any(len(result["seeds"]) < wanted and result["steps"] for result in stored)
    state = "missing" if len(stored) < len(paths) else "missing seeds" if few else "done"
    if state == "done" and any(is_stale(config, head, result) for result in stored):
        state = "stale"
    return Row(
        entry, row, state, minutes if any(result["steps"] for result in stored) else None, have, wanted
    )


# --- stale rows ------------------------------------------------------------------------------------


def git(*arguments: str, root: Path = ROOT) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=root, check=True, capture_output=True, text=True
    ).stdout.strip()


def tiny_path(config: Config, commit: str, experiment: str) -> Path:
    """The numbers of the --tiny runs of an experiment at a commit."""
    return Path(config.workdir, "tiny", commit, f"{experiment}.json")


def is_stale(config: Config, head: str, result: Mapping[str, Any]) -> bool:
    """Whether the --tiny numbers of a row at its commit are known, and differ from those at `head`."""
    commit = str(result["manifest"].get("commit"))
    then, now = (read(tiny_path(config, at, result["experiment"])) for at in (commit, head))
    if then is None or now is None:
        return False
    base = result["model"].split("+")[0]
    return any(
        name.rpartition("/")[2].split("+")[0] == base
        and tiny_numbers.differences(numbers, now[run].get(name))
        for run, found in then.items()
        if run in now
        for name, numbers in found.items()
    )


def check_stale(config: Config, make: Callable[..., Any] = tiny_numbers.numbers) -> None:
    """Makes and keeps the --tiny numbers of stored results at their commits and at HEAD."""
    head = git("rev-parse", "HEAD")
    needed = {(head, table.split("/")[0]) for entry in RUNS for table in entry.tables.split()}
    for entry in RUNS:
        for result in (
            read(Path(config.results, f"{r}.json")) for w in entry.rows.split() for r in entry.results(w)
        ):
            if result is not None and result["manifest"].get("commit"):
                needed.add((result["manifest"]["commit"], result["experiment"]))
    asked = {name for entry in RUNS for name in names_of(entry) if set(config.only) & names_of(entry)}
    for commit, experiment in sorted(needed):
        path = tiny_path(config, commit, experiment)
        runs = [run for run in tiny_numbers.RUNS if run.split("/")[0] == experiment]
        if path.exists() or not runs or (config.only and experiment not in asked):
            continue
        found = {}
        for run in runs:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    found[run] = make(run, Path(folder), root=checkout(config, commit))
                except (RuntimeError, ValueError, subprocess.CalledProcessError) as error:
                    print(f"{commit[:10]} {run}: no numbers: {str(error).splitlines()[0]}", flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(found, indent=1, sort_keys=True) + "\n")
        print(f"{commit[:10]} {experiment}: {len(found)} of {len(runs)} runs", flush=True)


def checkout(config: Config, commit: str) -> Path:
    """A checkout of a commit in the work folder."""
    path = Path(config.workdir, "checkouts", commit).resolve()
    if not path.exists():
        git("worktree", "prune")
        git("worktree", "add", "--quiet", "--detach", str(path), commit)
    return path


# --- runs ------------------------------------------------------------------------------------------


def commands(found: Sequence[Row]) -> Iterator[tuple[Entry, list[str]]]:
    """The entries and rows to run, the cheapest first.

    Rows of an entry that are not trained share a command, which reads its data once; and all rows of a
    command without a choice of rows.
    """
    missing = sorted((row for row in found if row.state != "done"), key=lambda row: row.cost)
    begun: set[Entry] = set()
    for row in missing:
        if not (row.entry.whole or row.row in UNTRAINED):
            yield row.entry, [row.row]
        elif row.entry not in begun:
            begun.add(row.entry)
            untrained = [r.row for r in missing if r.entry == row.entry and r.row in UNTRAINED]
            yield row.entry, row.entry.rows.split() if row.entry.whole else untrained


def run_one(command: list[str], root: Path, log: Path, seconds: float) -> int:
    """Runs a command in a checkout, with a log; 124 if it was stopped as the time was over."""
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with log.open("w", encoding="utf-8") as file:
        try:
            return subprocess.run(
                [sys.executable, *command],
                cwd=root,
                env=environment,
                stdout=file,
                stderr=file,
                timeout=seconds,
            ).returncode
        except subprocess.TimeoutExpired:
            return 124


def run_missing(config: Config, found: Sequence[Row], run: Callable[..., int] = run_one) -> int:
    """Makes what is not done until the time is over; returns how many runs failed."""
    if git("status", "--porcelain", "--untracked-files=no") and not config.allow_dirty:
        raise ValueError("files are changed: commit them, or give --allow-dirty to run the last commit")
    commit, work = git("rev-parse", "HEAD"), Path(config.workdir).resolve()
    root, end, failed = checkout(config, commit), time.monotonic() + 3600 * config.hours, 0
    (work / "logs").mkdir(parents=True, exist_ok=True)
    for entry, chosen in commands(found):
        if (left := end - time.monotonic()) <= 0:
            break
        number = len(list((work / "logs").iterdir()))
        log = work / "logs" / f"{number:04d}-{entry.module.split('.')[-1]}-{'-'.join(chosen)[:60]}.log"
        own = ["--workdir", str(work / "runs" / commit[:12] / entry.module)]
        own = [] if entry.module in WITHOUT_WORKDIR else own
        command = [*entry.command(chosen), *own, "--results", str(Path(config.results).resolve())]
        print(" ".join(command), flush=True)
        began = time.monotonic()
        code = run(command, root, log, left)
        failed += code not in (0, 124)
        line = {"command": command, "commit": commit, "code": code, "log": str(log)}
        line["seconds"] = round(time.monotonic() - began, 1)
        with (work / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    return failed


def show(found: Sequence[Row]) -> str:
    """The rows as a table."""
    lines = [
        (
            " ".join((r.entry.module.split(".")[-1], r.entry.arguments)),
            r.row,
            "?" if r.minutes is None else f"{r.minutes:.1f}",
            f"{r.seeds} of {r.wanted}",
            r.state,
        )
        for r in found
    ]
    return tabulate(lines, ["experiment and arguments", "row", "minutes", "seeds", "state"])


def run(config: Config) -> None:
    """Checks, lists and runs."""
    check_run(config)
    if config.check_stale:
        check_stale(config)
    found = rows(config)
    if config.list or not (config.run or config.check_stale):
        print(show(found))
    states = [row.state for row in found]
    print(", ".join(f"{states.count(state)} {state}" for state in sorted(set(states))))
    if config.run and (failed := run_missing(config, found)):
        sys.exit(f"{failed} runs failed, see {config.workdir}/log.jsonl")


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
