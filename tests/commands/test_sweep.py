"""Searches of settings by `jaxrec train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrec.commands.train import train
from jaxrec.nn.sequential.item_vectors import VECTORS
from jaxrec.report.results import read_results
from jaxrec.serve import run_folder
from jaxrec.train.fit import fit
from tests.commands.small_data import EVENTS, ITEMS, write_events, write_rows

pytest.importorskip("optuna")

RATE = "learning_rate = {low = 1e-3, high = 0.1, log = true}"
SMALL: dict[str, Any] = {**EVENTS, "dim": 4, "max_len": 8, "batch_size": 8, "epochs": 2, "evaluate_every": 1}


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a searched run."""
    folder = tmp_path_factory.mktemp("searched")
    write_events(folder / "events.csv")
    (folder / "space.toml").write_text(f"[settings]\n{RATE}\nnum_layers = {{choices = [1]}}")
    options = {"sweep": str(folder / "space.toml"), "budget": "6e", "seeds": (0, 1), **SMALL}
    train("sasrec", folder / "events.csv", run=folder / "run", **options)
    return folder


def test_the_run_has_the_chosen_settings_and_says_how_they_were_chosen(searched: Path) -> None:
    study = json.loads((searched / "run/sweep.json").read_text())
    kept = run_folder.read(searched / "run")
    assert study["spent"]["epochs"] == 6
    assert study["numbers"] == ["learning_rate"]
    assert {name: kept.settings[name] for name in study["chosen"]["settings"]} == study["chosen"]["settings"]
    assert kept.seeds == (0, 1)
    results = {record.result.model: record.result for record in read_results(searched / "run/results")}
    assert "chosen on validation, the best ndcg@10 of " in results[kept.name].note
    assert not list((searched / "run/trials").iterdir())


@pytest.mark.long
def test_the_chosen_settings_train_the_same_run_without_a_search(searched: Path, tmp_path: Path) -> None:
    kept = run_folder.read(searched / "run")
    chosen = json.loads((searched / "run/sweep.json").read_text())["chosen"]["settings"]
    again = train("sasrec", searched / "events.csv", run=tmp_path / "run", seeds=(0, 1), **SMALL, **chosen)
    np.testing.assert_array_equal(again.metrics["ndcg@10"], kept.metrics["ndcg@10"])


def test_a_finished_search_is_found_complete(searched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"sweep": str(searched / "space.toml"), "budget": "6e", "seeds": (0, 1), **SMALL}
    train("sasrec", searched / "events.csv", run=searched / "run", **options)
    assert "found complete" in capsys.readouterr().out


@pytest.mark.long
def test_trials_read_the_vectors_of_items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_events(tmp_path / "events.csv")
    (tmp_path / "space.toml").write_text(f"[settings]\n{RATE}")
    lines = ["sku,a", *(f"sku{item},{item + 1}" for item in range(ITEMS))]
    (tmp_path / "vectors.csv").write_text("\n".join(lines) + "\n")
    read = []

    def spy(*args: Any, **options: Any) -> Any:
        fitted = fit(*args, **options)
        read.append((options.get("trial") is not None, np.asarray(fitted.variables["constants"][VECTORS])))
        return fitted

    monkeypatch.setattr("jaxrec.train.reuse.fit", spy)
    options = {"sweep": str(tmp_path / "space.toml"), "trials": 1, **SMALL, "epochs": 1}
    options["item_vectors"] = str(tmp_path / "vectors.csv")
    train("sasrec", tmp_path / "events.csv", run=tmp_path / "run", **options)
    assert [trial for trial, _ in read] == [True, False]
    for _, vectors in read:
        assert sorted(vectors[0, :, 0]) == list(range(ITEMS + 1))


@pytest.mark.long
def test_a_model_of_labelled_rows_is_searched(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv")
    (tmp_path / "space.toml").write_text(f"[rows.mmoe]\n{RATE}\nnum_experts = {{low = 2, high = 3}}")
    columns: dict[str, Any] = {
        "labels": ("click", "buy"),
        "categorical": ("city", "device"),
        "epochs": 1,
        "batch_size": 64,
    }
    options = {"sweep": str(tmp_path / "space.toml"), "trials": 2, **columns}
    train("mmoe", tmp_path / "rows.csv", run=tmp_path / "run", **options)
    study = json.loads((tmp_path / "run/sweep.json").read_text())
    assert study["spent"]["trials"] == 2
    assert study["numbers"] == ["learning_rate"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"minutes": 1.0}, "minutes=1.0: does not go with --sweep; give --budget"),
        ({"warm_start": "runs/other"}, "warm_start='runs/other': does not go with --sweep"),
        ({"sweep": ""}, "budget='6e': belongs to a search; give it with --sweep FILE"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    options = {**SMALL, "sweep": "space.toml", "budget": "6e", **given}
    with pytest.raises(ValueError, match=message):
        train("sasrec", tmp_path / "events.csv", run=tmp_path / "run", **options)


def test_a_setting_that_the_model_does_not_have_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    write_events(tmp_path / "events.csv")
    (tmp_path / "space.toml").write_text("[settings]\nlearning_rat = {low = 1e-3, high = 1}")
    with pytest.raises(ValueError, match="learning_rat = .*: is no setting; the nearest is 'learning_rate'"):
        train(
            "sasrec",
            tmp_path / "events.csv",
            run=tmp_path / "run",
            sweep=str(tmp_path / "space.toml"),
            **SMALL,
        )
