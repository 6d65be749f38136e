"""Speed of the parts in which experiments spend most of their time, measured after compilation.

`experiments.benchmarks` has the measurements, one file for each family. Prints and writes
(runs/results/speed.json) a list of {name, unit, median, min, max, repeats}; with --only, measurements of
other families in the file stay. Seconds depend on the machine: compare the parts of one run with each other,
or, with --baseline FILE ({"ticoserec/epoch_plain": seconds, …} measured on the same machine), with another
program, whose figures are stored beside ours (ticoserec/epoch_plain:baseline). With --limit the machine's
rates of matrix products and of copies are measured first, and each figure has beside it the share of the
speed that these allow (`experiments.benchmarks.limits` says what is counted).

Run:     python -m experiments.speed
Also:    --only ranking --repeats 3; --limit
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from tabulate import tabulate

from experiments.benchmarks import (
    baselines,
    graph,
    index,
    interests,
    limits,
    multitask,
    ranking,
    semantic_ids,
    sessions,
    tables,
    ticoserec,
    towers,
)
from experiments.benchmarks.timing import Figure
from jaxrec import config as command_line
from jaxrec.config import check_run
from jaxrec.report.results import write_atomically

FAMILIES: dict[str, Callable[[int, bool], Iterator[Figure]]] = {
    "ticoserec": ticoserec.figures,
    "multitask": multitask.figures,
    "ranking": ranking.figures,
    "sessions": sessions.figures,
    "graph": graph.figures,
    "index": index.figures,
    "baselines": baselines.figures,
    "towers": towers.figures,
    "interests": interests.figures,
    "semantic-ids": semantic_ids.figures,
    "table": tables.figures,
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Which families to time, and how often."""

    only: Literal[
        "all",
        "ticoserec",
        "multitask",
        "ranking",
        "sessions",
        "index",
        "baselines",
        "graph",
        "towers",
        "interests",
        "semantic-ids",
        "table",
    ] = "all"  # one family of figures
    repeats: int = 5  # timed runs of each part, after one to compile and one to warm up
    baseline: str = ""  # JSON file of another program's figures by name, for ratios
    limit: bool = False  # measure the machine's rates too, and print figures as shares of what they allow
    tiny: bool = False  # synthetic data and small sizes, in seconds, to check that everything runs
    results: str = "runs/results"  # folder of speed.json

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ValueError(f"repeats={self.repeats}: must be at least 1")
        if self.baseline and not Path(self.baseline).is_file():
            raise ValueError(f"baseline={self.baseline!r}: no such file")


def run(config: Config) -> None:
    """Times the chosen families, prints their figures and stores them."""
    check_run(config)
    baseline = json.loads(Path(config.baseline).read_text()) if config.baseline else {}
    path = Path(config.results) / "speed.json"
    merge_figures(path, [])  # raises the error of a damaged file before hours of timing
    rates = limits.measure(tiny=config.tiny) if config.limit else None
    figures = [] if rates is None else machine(rates)
    for figure in itertools.chain.from_iterable(
        family(config.repeats, config.tiny)
        for name, family in FAMILIES.items()
        if config.only in ("all", name)
    ):
        figures.append(figure)
        print(f"{figure.name:42s} {figure.median:12.4g} {figure.unit}", flush=True)
    if rates is not None:
        figures += limits_of(figures, rates)
    figures += baselines_of(figures, baseline)
    named = {figure.name: figure for figure in figures}
    rows = [[*f, ratio(f, baseline), share(f, named)] for f in figures]
    print(tabulate(rows, [*Figure._fields, "against baseline", "of the limit"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(merge_figures(path, figures), indent=1) + "\n")


def merge_figures(path: Path, figures: list[Figure]) -> list[dict[str, Any]]:
    """The figures of the file of families that this run did not time, then those of this run."""
    timed_now = {figure.name.split("/")[0] for figure in figures}
    before = json.loads(path.read_text()) if path.exists() else []
    kept = [figure for figure in before if figure["name"].split("/")[0] not in timed_now]
    return [*kept, *(figure._asdict() for figure in figures)]


def ratio(figure: Figure, baseline: dict[str, float]) -> str:
    """How many times faster than the baseline; "" without one."""
    if figure.name not in baseline:
        return ""
    other = baseline[figure.name]
    faster = other / figure.median if figure.unit == "s" else figure.median / other
    return f"{faster:.1f}x"


def baselines_of(figures: list[Figure], baseline: dict[str, float]) -> list[Figure]:
    """The other program's figures of what was timed, in the unit of ours."""
    found = [
        (figure.name, figure.unit, baseline[figure.name]) for figure in figures if figure.name in baseline
    ]
    return [Figure(f"{name}:baseline", unit, value, value, value, 1) for name, unit, value in found]


def machine(rates: limits.Rates) -> list[Figure]:
    """The rates as figures."""
    found = (("matmul", "GFLOP/s", rates.flops / 1e9), ("copy", "GB/s", rates.moved / 1e9))
    return [Figure(f"machine/{name}", unit, value, value, value, 1) for name, unit, value in found]


def limits_of(figures: list[Figure], rates: limits.Rates) -> list[Figure]:
    """What the rates allow for each figure whose work was counted, in the figure's unit."""
    named = {figure.name: figure for figure in figures}
    made = []
    for name, figure in named.items():
        if f"{name}:products" in named:
            counted = limits.Work(named[f"{name}:products"].median * 1e9, named[f"{name}:rows"].median * 1e6)
            if seconds := rates.seconds(counted):
                value = seconds if figure.unit == "s" else 1 / seconds
                made.append(Figure(f"{name}:limit", figure.unit, value, value, value, 1))
    return made


def share(figure: Figure, named: dict[str, Figure]) -> str:
    """How near a figure is to its limit, in percent; "" without a limit."""
    if f"{figure.name}:limit" not in named:
        return ""
    limit = named[f"{figure.name}:limit"].median
    return f"{limit / figure.median if figure.unit == 's' else figure.median / limit:.1%}"


def main() -> None:
    command_line.run_program(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
