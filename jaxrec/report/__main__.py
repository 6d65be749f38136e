"""Makes the tables from the result files, or checks that they are up to date.

Run:     python -m jaxrec.report --results results [--check]
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxrec import config
from jaxrec.report import findings, models, tables
from jaxrec.report.results import read_all, write_whole

KEPT = "results"  # the folder whose numbers README.md shows


@dataclasses.dataclass(frozen=True)
class Config:
    """Tables from the result files: prints them; those of the kept results go to <results>/README.md and
    README.md, the table of models and the findings to docs/."""

    results: str = KEPT  # folder of result files; of any but `results` the tables are printed only
    readme: str | None = None  # file whose block between the results markers is written; '' for none
    check: bool = False  # write nothing; exit with 1 if a generated file is stale, naming it


def main(args: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, 1 if a file is stale under --check, 2 for a damaged file or no result at all.

    Trials are not published by mistake: files are written for the kept results, or where --readme names one.
    """
    cfg = config.cli(Config, prog="python -m jaxrec.report", args=args)
    kept = Path(cfg.results).resolve() == Path(KEPT).resolve()
    readme = cfg.readme if cfg.readme is not None else "README.md" if kept else None
    try:
        records = read_all(cfg.results)
        if not records:
            missing = "holds no result file" if Path(cfg.results).is_dir() else "no such folder"
            raise ValueError(f"{cfg.results}: {missing}; name the folder of results with --results")
        pages = {models.PAGE: models.page, findings.PAGE: findings.page} if kept else {}
        texts = {path: make() for path, make in pages.items() if path.exists()}
        old = [path for path, text in texts.items() if path.read_text(encoding="utf-8") != text]
        if cfg.check:
            stale = tables.stale(cfg.results, readme) + old
            for path in stale:
                print(f"{path}: stale: run `make tables`", file=sys.stderr)
            return 1 if stale else 0
        changed = [] if readme is None else tables.update(cfg.results, readme)
        for path in old:
            write_whole(path, texts[path])
            changed.append(path)
    except (OSError, ValueError) as error:
        print(f"python -m jaxrec.report: error: {error}", file=sys.stderr)
        return 2
    print(tables.full(records))
    for path in changed:
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
