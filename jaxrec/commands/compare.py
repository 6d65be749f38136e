"""jaxrec compare: the difference of each metric between results, with intervals over users and seeds.

Run:     jaxrec compare A B [C …]   (A is compared with each of the others)
"""

from __future__ import annotations

import dataclasses

import tyro


@dataclasses.dataclass(frozen=True)
class Options:
    """Compares results that were measured on the same cases; --all-pairs compares every two of them."""

    results: tyro.conf.Positional[
        tuple[str, ...]
    ] = ()  # result files, folders of trained runs, or folders of results; the first is the reference
    metrics: tuple[str, ...] = ()  # metrics to compare, such as ndcg@10; none: all that the results share
    all_pairs: bool = False  # compare every two results, not only the first with each of the others
    level: float = 0.95  # of the intervals; 1 - level is that of the tests
    draws: int = 9999  # of the bootstrap over users
    seed: int = 0  # of these draws
    plot: str = ""  # file of a picture of the differences (.png, .svg or .pdf); needs matplotlib


def run(options: Options) -> int:
    """Prints the table of differences, and draws it if asked; returns 0.

    Raises:
      ValueError: results that cannot be compared, with the difference between them, or a wrong option.
      OSError: a file can't be read or written.
      ImportError: a picture is asked for and matplotlib is not installed.
    """
    from jaxrec.report import comparison, comparison_views

    if options.plot:
        comparison_views.check_picture(options.plot)
    found = comparison.compare(
        comparison.read_rows(options.results),
        metrics=options.metrics,
        all_pairs=options.all_pairs,
        level=options.level,
        draws=options.draws,
        seed=options.seed,
    )
    print(comparison_views.table(found))
    if options.plot:
        print(f"\nwrote {comparison_views.plot(found, options.plot)}")
    return 0
