"""An entry of the run list: a command, and the names of the results that it makes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from experiments import floors

RANKING = " ".join(floors.RANKING)
NEIGHBOURS = " ".join(row for row in floors.RANKING if row not in ("random", "popularity"))
MATRIX = " ".join(floors.MATRIX)
CLICKS = " ".join(floors.CLICKS)
UNTRAINED = {*floors.RANKING, *floors.CLICKS}


class Entry(NamedTuple):
    """A command, and the results that it makes.

    module: below experiments. arguments: besides --rows, --results and --workdir. tables: experiment/data
    set, separated by spaces; each row makes a result in each. rows: separated by spaces. name, floor: how the
    results of trained rows and of floors are named, several separated by spaces. whole: the command has no
    choice of rows.
    """

    module: str
    arguments: str
    tables: str
    rows: str
    name: str = "{row}"
    floor: str = "{row}"
    whole: bool = False

    def results(self, row: str) -> list[str]:
        """experiment/data set/model of each result of a row."""
        pattern = self.floor if row in UNTRAINED else self.name
        names = [one.format(row=row) for one in pattern.split()]
        return [f"{table}/{name}" for table in self.tables.split() for name in names]

    def command(self, rows: Iterable[str]) -> list[str]:
        """The command of some rows, without folders."""
        chosen = [] if self.whole else ["--rows", *rows]
        return ["-m", f"experiments.{self.module}", *self.arguments.split(), *chosen]
