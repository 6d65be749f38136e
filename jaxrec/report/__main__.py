"""Makes the tables from the result files, or checks that they are up to date.

Run:     python -m jaxrec.report --results results [--check]
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

from jaxrec import config
from jaxrec.report import tables
from jaxrec.report.results import read_all


@dataclasses.dataclass(frozen=True)
class Config:
    """Tables from the result files: prints them and writes them to <results>/README.md and the README."""

    results: str = "results"  # folder of result files
    readme: str = "README.md"  # file whose block between the results markers is written; '' for none
    check: bool = False  # write nothing; exit with 1 if a generated file is stale, naming it


def main(args: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, 1 if a file is stale under --check, 2 for a damaged file."""
    cfg = config.cli(Config, prog="python -m jaxrec.report", args=args)
    try:
        if cfg.check:
            stale = tables.stale(cfg.results, cfg.readme)
            for path in stale:
                print(f"{path}: stale: run `make tables`", file=sys.stderr)
            return 1 if stale else 0
        changed = tables.update(cfg.results, cfg.readme)
        print(tables.full(read_all(cfg.results)) or f"no results in {cfg.results}")
    except ValueError as error:
        print(f"python -m jaxrec.report: error: {error}", file=sys.stderr)
        return 2
    for path in changed:
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
