"""Gradient boosting with and without a number that tells the label."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.multitask import census_columns
from jaxrec.report.results import read_results
from tests.experiments.multitask.runs import run_main


@pytest.mark.long
def test_boosting_gains_from_a_number_that_tells_the_label(tmp_path: Path) -> None:
    run_main(census_columns, "--tiny", "--groups", "income", "--seeds", 3, "--results", tmp_path)
    nominal, everything = (
        next(record.result for record in read_results(tmp_path) if record.result.model == row)
        for row in census_columns.ROWS
    )
    assert everything.metrics["auc/ctr"][0] > nominal.metrics["auc/ctr"][0] + 0.03
    assert nominal.protocol.split.startswith("fitted to the validation half of")


def test_a_row_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="the nearest is 'boosting-all'"):
        census_columns.Config(rows=("boosting-alll",))
