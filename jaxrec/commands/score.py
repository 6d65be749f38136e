"""jaxrec score: probabilities of each label for the rows of a file, by a trained run.

A run that ranks items scores pairs of a user and an item, without making probabilities of them.

jaxrec score runs/table rows.csv --out scores.csv
"""

from __future__ import annotations

import csv
import dataclasses
import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

FORMS = (".csv", ".tsv")


@dataclasses.dataclass(frozen=True)
class Options:
    """Probabilities of each label for the rows of a file, by a trained run."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]  # folder of the run
    # rows with the raw columns of training; other columns are not read
    rows: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FILE")]
    out: str = ""  # file to write, .csv or .tsv: a column a label, a line a row, in the order of the rows
    at: int | None = None  # seconds since 1970 of the request, if the model reads times; else the last event
    seed: int | Literal["mean"] | None = None  # of the parameters; by default the best on validation
    delimiter: str = ""  # of a CSV file of rows, such as ';'; by default a tab for .tsv, a comma otherwise


def run(options: Options) -> None:
    """Writes the probabilities, or prints them.

    Raises:
      ValueError: another form of file; as of `serve.load` and `Run.score`.
      OSError: a file can't be read or written.
    """
    if options.out and Path(options.out).suffix not in FORMS:
        raise ValueError(f"out={options.out!r}: must end in {' or '.join(FORMS)}")
    from jaxrec import serve
    from jaxrec.serve.files import check_parent, text, write_whole

    if options.out:
        check_parent(options.out)
    loaded = serve.load(options.run, seed=options.seed)
    print(loaded, file=sys.stderr)
    scores = loaded.score(options.rows, at=options.at, delimiter=options.delimiter or None)
    found = table(scores, "\t" if options.out.endswith(".tsv") else ",")
    if options.out:
        write_whole(options.out, text(found))
    else:
        sys.stdout.write(found)


def table(scores: Mapping[str, np.ndarray], delimiter: str = ",") -> str:
    """A header of labels, and a line of probabilities for each row, with the digits of a float32."""
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=delimiter, lineterminator="\n")
    writer.writerow(scores)
    writer.writerows(zip(*([f"{value:.9g}" for value in column] for column in scores.values()), strict=True))
    return stream.getvalue()
