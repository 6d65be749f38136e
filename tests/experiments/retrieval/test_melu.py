"""The experiment of MeLU: it runs to its end on tiny data; published numbers, settings."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import common
from experiments.retrieval import melu as experiment
from jaxrec.report.results import read_results

ROWS = ("biases", "melu-1", "wide-deep")


def test_tiny_runs_to_the_end_and_is_found_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")
    places = ("--results", str(tmp_path / "results"), "--workdir", str(tmp_path / "work"))
    states = ("--states", "warm", "user-cold")
    arguments = ("--tiny", "--rows", *ROWS, "--seeds", "3", *states, *places)
    monkeypatch.setattr(sys, "argv", [experiment.__name__, *arguments])
    experiment.main()
    found = {(r.result.dataset, r.result.model): r.result for r in read_results(tmp_path / "results")}
    sets = {f"rated-content-60x80-{state}" for state in ("warm", "user-cold")}
    assert set(found) == {(name, row) for name in sets for row in ROWS}
    for (name, row), result in found.items():
        assert not result.published
        assert 0 < result.metrics["mae"][0] < 4 and 0 < result.metrics["ndcg@3"][0] <= 1
        assert (
            result.protocol.candidates == "query"
            and "users with 5 to 100 ratings, 3 of" in result.protocol.split
        )
        assert result.protocol.selection == ("none" if row == "biases" else "mae")
        assert ("for validation" in result.protocol.split) == name.endswith("warm")
    assert found["rated-content-60x80-warm", "melu-1"].protocol.loss == "squared error, query"
    assert found["rated-content-60x80-warm", "wide-deep"].protocol.loss == "squared error, all"
    assert found["rated-content-60x80-warm", "melu-1"].steps > 0
    monkeypatch.setattr(sys, "argv", [*sys.argv[:3], "melu-1", *sys.argv[6:]])
    capsys.readouterr()
    experiment.main()
    assert "nothing is trained again" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("row", "state", "options", "expected"),
    [
        ("melu-5", "user-cold", {}, 0.7854),
        ("melu-1", "both-cold", {}, 0.9299),
        ("wide-deep", "user-cold", {}, 1.0694),
        ("wide-deep", "warm", {"epochs": 29}, None),
        ("melu-5", "user-cold", {"local_learning_rate": 0.01}, None),
        ("melu-5", "user-cold", {"least": 20}, None),
        ("poso", "user-cold", {}, None),
        ("melu-5", "user-cold", {"tiny": True}, None),
    ],
)
def test_published_numbers_stand_beside_published_settings_alone(
    row: str, state: str, options: dict[str, float], expected: float | None
) -> None:
    config = dataclasses.replace(experiment.Config(), **options)
    assert experiment.published_numbers(row, state, config).values.get("mae") == expected


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"rows": ("melu-2",)}, "the nearest is 'melu-"),
        ({"states": ("cold",)}, "states: 'cold' is none of warm, user-cold, item-cold, both-cold"),
        ({"validation": 1.0}, r"validation=1\.0: must be in \(0, 1\)"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"learning_rate": 0.0}, r"learning_rate=0\.0"),
    ],
)
def test_settings_are_checked(options: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        dataclasses.replace(experiment.Config(), **options)


def test_validation_users_are_no_users_of_training_and_floors_are_of_all_states() -> None:
    config = common.shrink_if_tiny(experiment.Config(tiny=True), **experiment.TINY)
    columns = experiment.prepared(experiment.load(config), config)
    assert not set(columns.train.user) & set(columns.validation.user)
    assert columns.tests["warm"] is columns.train
    assert set(columns.tests) == set(experiment.STATES)
    errors = {
        row: experiment.floor(row, columns)["user-cold"].metrics[0]["mae"]
        for row in ("mean-rating", "biases")
    }
    assert errors["biases"] < errors["mean-rating"]
    assert np.isfinite(list(errors.values())).all()
