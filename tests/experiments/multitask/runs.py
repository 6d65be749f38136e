"""Runs of experiments from their command line, and a small table of a user's own."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from jaxrec.report.results import read_results
from jaxrec.types import Result


def run_main(module: ModuleType, *options: object) -> None:
    """Runs an experiment as its command line does; compiled programs are not kept in the home folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXREC_XLA_CACHE", "0")
        patch.setattr(sys, "argv", [module.__name__, *map(str, options)])
        module.main()


def results_of(module: ModuleType, folder: Path, *options: object) -> dict[str, Result]:
    """Results by row of a run with --tiny and the seeds 3 and 4, whose files lie in a folder."""
    kept = ("--results", folder / "results", "--workdir", folder / "work", "--seeds", 3, 4)
    run_main(module, "--tiny", *options, *kept)
    return {record.result.model: record.result for record in read_results(folder / "results")}


def write_table(path: Path, num_records: int = 400) -> Path:
    """A CSV file of clicks, carts and orders, each of which implies the one before, with some features."""
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, 12, num_records), rng.integers(0, 8, num_records)
    page, price = rng.integers(0, 2, num_records), rng.normal(size=num_records)
    click = rng.random(num_records) < 0.4 + 0.2 * (price > 0)
    cart = click & (rng.random(num_records) < 0.7)
    order = cart & (rng.random(num_records) < 0.5)
    records = zip(click, cart, order, user, item, page, price, strict=True)
    lines = [
        f"{int(a)},{int(b)},{int(c)},u{u},i{i},{('home', 'search')[p]},{x:.3f}"
        for a, b, c, u, i, p, x in records
    ]
    path.write_text("\n".join(["click,cart,order,user_id,item_id,page,price", *lines]) + "\n")
    return path


FEATURES = ("--categorical", "user_id", "item_id", "page", "--numeric", "price")
