"""Searches of settings by experiments, from the command line to the result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments import sweeps
from experiments.multitask import census
from experiments.ranking import din
from experiments.sequential import sasrec, stamp
from jaxrec.data.events.sessions import Part, split_sessions
from jaxrec.protocols import sessions
from jaxrec.report.results import read_results
from jaxrec.train.evaluate import evaluate
from tests.experiments.test_tiny import call

pytest.importorskip("optuna")

SPACE = """
[settings]
learning_rate = {low = 1e-4, high = 1e-1, log = true}
clip = {low = 10, high = 200}
[rows.item-knn]
neighbours = {low = 1, high = 50, log = true}
regularisation = {low = 0, high = 30}
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A baseline and a trained row of a tiny experiment, each searched with the same budget."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "space.toml").write_text(SPACE)
    options = ("--seeds", 3, 4, "--sweep", folder / "space.toml", "--budget", "8e", "--trials-at-once", 2)
    places = ("--results", folder / "results", "--workdir", folder / "work")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXREC_XLA_CACHE", "0")
        call(stamp, patch, "--tiny", "--rows", "item-knn", "stamp-ce", *options, *places)
    return folder / "results"


def study(results: Path, row: str) -> Any:
    return json.loads(sweeps.study_path(str(results), "stamp", "tiny", row).read_text())


@pytest.mark.parametrize("row", ["item-knn", "stamp-ce"])
def test_every_row_has_spent_the_same_budget(results: Path, row: str) -> None:
    assert study(results, row)["spent"]["epochs"] == 8


@pytest.mark.parametrize("row", ["item-knn", "stamp-ce"])
def test_the_result_is_of_the_chosen_settings_and_says_so(results: Path, row: str) -> None:
    found = {record.result.model: record.result for record in read_results(results)}
    chosen = study(results, row)["chosen"]["settings"]
    assert {name: found[row].config[name] for name in chosen} == chosen
    assert f"{', '.join(chosen)} chosen on validation, the best recall@20 of " in found[row].note
    assert found[row].seeds == (3, 4)


def test_a_row_is_searched_in_what_it_reads_alone(results: Path) -> None:
    assert set(study(results, "item-knn")["space"]["settings"]) == {"neighbours", "regularisation"}
    assert set(study(results, "stamp-ce")["space"]["settings"]) == {"learning_rate", "clip"}
    assert study(results, "stamp-ce")["numbers"] == ["learning_rate", "clip"]


def test_trials_hold_validation_values_and_nothing_of_test(results: Path) -> None:
    document = study(results, "stamp-ce")
    assert document["seeds"] == [3]
    assert document["chosen"]["value"] == max(
        trial["value"] for trial in document["trials"] if trial["state"] == "complete"
    )
    assert "test" not in json.dumps({**document, "made_by": None})


def test_a_baseline_is_searched_on_validation_and_not_on_test(results: Path) -> None:
    chosen = study(results, "item-knn")["chosen"]
    config = stamp.complete_settings(stamp.Config(tiny=True, **chosen["settings"]))
    columns = sessions.resident(split_sessions(stamp.load(config), share=config.share, by=config.validation))
    protocol, knn = (
        sessions.protocol(columns.split, "", "none"),
        stamp.baseline_of("item-knn", columns, config),
    )
    values = {}
    parts: tuple[Part, ...] = ("validation", "test")
    for part in parts:
        asked = sessions.queries(columns, part)
        ranked = sessions.evaluation(knn, columns, protocol, asked)
        values[part] = evaluate(ranked, knn.for_seeds((3,)), columns.columns)[0][stamp.METRIC]
    assert chosen["value"] == pytest.approx(values["validation"])
    assert values["validation"] != pytest.approx(values["test"])


@pytest.mark.parametrize("experiment", [sasrec, stamp, census, din])
def test_options_without_a_file_are_refused(experiment: Any) -> None:
    with pytest.raises(ValueError, match="budget='3m': belongs to a search; give it with --sweep FILE"):
        experiment.Config(budget="3m")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"select": "test"}, "select='test': settings are never chosen on test"),
        ({"budget": "soon"}, "budget='soon': must be minutes or epochs"),
        ({"trials": -1}, "trials=-1: must be at least 1"),
        ({"trial_seeds": 4}, "trial_seeds=4: must be 1 to 3"),
        ({"trials_at_once": -1}, "trials_at_once=-1: must be at least 1"),
    ],
)
def test_wrong_options_are_named(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    path = tmp_path / "space.toml"
    path.write_text(SPACE)
    with pytest.raises(ValueError, match=message):
        stamp.Config(sweep=str(path), **options)


@pytest.mark.parametrize("name", ["epochs", "share", "validation", "dataset", "seeds"])
def test_what_decides_what_is_measured_is_not_searched(tmp_path: Path, name: str) -> None:
    path = tmp_path / "space.toml"
    path.write_text(f"[settings]\n{name} = {{low = 0, high = 1}}")
    with pytest.raises(ValueError, match=f"settings.{name} = .*: decides what is measured or how long"):
        stamp.Config(sweep=str(path))


def test_a_file_whose_content_changed_is_another_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identities: list[Any] = []
    monkeypatch.setattr(
        "jaxrec.tuning.search.chosen_settings", lambda *_, identity, **rest: identities.append(identity)
    )
    (tmp_path / "space.toml").write_text(SPACE)
    file = tmp_path / "clicks.csv"
    for content in ("a", "b", "a"):
        file.write_text(content)
        config = stamp.Config(data=str(file), sweep=str(tmp_path / "space.toml"))
        names = {"experiment": "stamp", "dataset": "clicks", "model": "stamp-ce"}
        sweeps.tune(config, lambda *_: pytest.fail("nothing is trained"), settings={}, **names)
    first, changed, same = identities
    assert first == same
    assert first != changed


@pytest.mark.long
def test_a_model_for_each_task_has_a_study_and_a_share_of_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAXREC_XLA_CACHE", "0")
    (tmp_path / "space.toml").write_text("[settings]\nlearning_rate = {low = 1e-4, high = 1e-1, log = true}")
    options = ("--sweep", tmp_path / "space.toml", "--budget", "4e", "--seeds", 3)
    places = ("--results", tmp_path / "results", "--workdir", tmp_path / "work")
    call(census, monkeypatch, "--tiny", "--rows", "single-task", *options, *places)
    folder = tmp_path / "results/census/funnel-400/sweeps"
    spent = {path.stem: json.loads(path.read_text())["spent"]["epochs"] for path in folder.iterdir()}
    assert spent == {"single-task-ctr": 2, "single-task-ctcvr": 2}
