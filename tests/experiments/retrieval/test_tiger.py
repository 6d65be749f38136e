"""The experiment on TIGER runs to its end on tiny data; its rows, settings and published numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from experiments import common
from experiments.retrieval import tiger as experiment
from jaxrec.data.events.split import leave_one_out
from jaxrec.protocols import next_item
from jaxrec.types import Result
from tests.experiments.multitask.runs import results_of

ROWS = ("co-visitation", "tiger-rqvae-attributes-ce")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    return results_of(experiment, tmp_path_factory.mktemp("tiger"), "--rows", *ROWS)


def test_rows_are_ranked_by_a_beam_and_name_the_use_of_codes(tiny: dict[str, Result]) -> None:
    assert set(tiny) == set(ROWS)
    for name, result in tiny.items():
        assert result.experiment == "tiger" and result.dataset == "synthetic"
        assert result.protocol.ks == (5, 10) and result.protocol.candidates == "all"
        assert all(0 <= value <= 1 for values in result.metrics.values() for value in values)
        assert not result.published  # nothing was published about made-up data
        assert bool(result.steps) == name.startswith("tiger")
        assert result.baseline == (not result.steps)
    codes = tiny[ROWS[1]].config["codes"]
    assert {"used_codes/1", "perplexity/2", "collisions", "largest_bucket"} <= set(codes)
    assert tiny[ROWS[1]].protocol.loss == "ce of codes"


@pytest.mark.parametrize("row", [row for row, made in experiment.ROWS.items() if made.kind != "rqvae"])
def test_every_row_has_ids_of_all_items(row: str) -> None:
    config = common.shrink_if_tiny(experiment.Config(tiny=True), **experiment.TINY)
    sequences = experiment.load(config)
    columns = next_item.resident(leave_one_out(sequences, short="train"))
    ids = experiment.ids_of(row, columns, config)
    assert len(np.unique(np.asarray(ids.codes)[1:], axis=0)) == sequences.num_items


def test_published_numbers_are_of_another_setting() -> None:
    config = experiment.Config(dataset="Sports")
    numbers = experiment.published_numbers("tiger-rqvae-ce", config)
    assert numbers.values["hit@10"] == 0.04 and numbers.incomparable == experiment.NO_TEXT
    assert experiment.published_numbers("popularity", config) == common.NONE
    assert experiment.published_numbers("tiger-rqvae-ce", experiment.Config(dataset="ml-100k")) == common.NONE
    assert "XiaoLongtaoo/TIGER: hit@5 0.0233, hit@10 0.0379" in experiment.note_of(config)
    assert experiment.note_of(experiment.Config(dataset="ml-100k")) == ""


@pytest.mark.parametrize("dataset", experiment.WITHOUT_ATTRIBUTES)
def test_rows_of_attributes_need_attributes(dataset: Any) -> None:
    left = experiment.rows_of(experiment.Config(dataset=dataset))
    assert "tiger-rqvae-ce" in left and "tiger-rqvae-attributes-ce" not in left
    with pytest.raises(ValueError, match="'tiger-rqvae-attributes-ce' reads attributes"):
        experiment.rows_of(experiment.Config(dataset=dataset, rows=("tiger-rqvae-attributes-ce",)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 9}, "width=9: must be at least 10"),
        ({"levels": 0}, "levels=0"),
        ({"vector_dim": 0}, "vector_dim=0"),
        ({"rows": ("tiger",)}, "'tiger' is none of"),
        ({"code_learning_rate": 0.0}, "code_learning_rate=0.0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        experiment.Config(**change)
