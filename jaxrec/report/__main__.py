"""Generates the tables from the result files, or checks that they are up to date.

Run:     python -m jaxrec.report --results results [--check]
         python -m jaxrec.report --run runs/mine --html [FILE]
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxrec import config
from jaxrec.report import findings, models, run_page, tables
from jaxrec.report.results import read_results, write_atomically

PUBLISHED_FOLDER = "results"  # the folder whose numbers README.md shows


@dataclasses.dataclass(frozen=True)
class Config:
    """Prints the tables of the result files; for the published results also writes them to
    <results>/README.md and README.md, the table of models and the findings to docs/. With --run, writes the
    page of one run instead."""

    results: str = (
        PUBLISHED_FOLDER  # folder of result files; for any but `results` the tables are only printed
    )
    readme: str | None = None  # file whose block between the results markers is written; '' for none
    run: str = ""  # a work directory or a finished run, of which --html makes a page
    html: tuple[str, ...] | None = None  # the page's file; without a name report.html in the run's folder
    check: bool = False  # write nothing; exit with 1 if a generated file is stale, naming it


def main(args: Sequence[str] | None = None, *, prog: str = "python -m jaxrec.report") -> int:
    """Returns the exit code: 0, 1 if a file is stale under --check, 2 for a corrupt file or no results.

    Trial results are not published by mistake: files are written for the published results, or if --readme
    names one.
    """
    cfg = config.cli(Config, prog=prog, args=args)
    if cfg.run or cfg.html is not None:
        return _write_page(cfg)
    published = Path(cfg.results).resolve() == Path(PUBLISHED_FOLDER).resolve()
    readme = cfg.readme if cfg.readme is not None else "README.md" if published else None
    try:
        records = read_results(cfg.results)
        if not records:
            missing = "holds no result file" if Path(cfg.results).is_dir() else "no such folder"
            raise ValueError(f"{cfg.results}: {missing}; name the folder of results with --results")
        pages = {models.MODELS_PAGE: models.models_page, findings.PAGE: findings.page} if published else {}
        texts = {path: make() for path, make in pages.items() if path.exists()}
        old = [path for path, text in texts.items() if path.read_text(encoding="utf-8") != text]
        if cfg.check:
            stale = tables.stale_pages(cfg.results, readme) + old
            for path in stale:
                print(f"{path}: stale: run `make tables`", file=sys.stderr)
            return 1 if stale else 0
        changed = [] if readme is None else tables.update_pages(cfg.results, readme)
        for path in old:
            write_atomically(path, texts[path])
            changed.append(path)
    except (OSError, ValueError) as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        return 2
    print(tables.all_tables(records))
    for path in changed:
        print(f"wrote {path}")
    return 0


def _write_page(cfg: Config) -> int:
    """The page of the run that --run and --html name."""
    try:
        if not cfg.run:
            raise ValueError("--html: is the page of one run: name its folder with --run")
        if cfg.html is None or len(cfg.html) > 1:
            given = "is missing" if cfg.html is None else f"has {len(cfg.html)} names"
            raise ValueError(
                f"--run={cfg.run}: --html {given}: give it once, with or without the page's file"
            )
        path = run_page.write_page(cfg.run, *cfg.html)
    except (OSError, ValueError) as error:
        print(f"python -m jaxrec.report: error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
