"""Studies of a quadratic whose optimum is known."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrec.tuning.budget import Limits, limits
from jaxrec.tuning.progress import Progress
from jaxrec.tuning.records import Record, choose
from jaxrec.tuning.space import Setting, Space
from jaxrec.tuning.study import Study

pytest.importorskip("optuna")

EPOCHS = 5
OPTIMUM = 0.3
LINE = Space({"x": Setting("float", -1.0, 1.0), "c": Setting("choice", choices=(0, 1))})


class Killed(Exception):
    """Stands for a process that is killed."""


class Quadratic:
    """Trains for EPOCHS: the value of epoch e is e / EPOCHS - (x - OPTIMUM)² - c, higher is better."""

    def __init__(self, *, killed_at: int = -1) -> None:
        self.trained: list[Mapping[str, Any]] = []
        self.killed_at = killed_at

    def __call__(self, proposals: Sequence[Mapping[str, Any]], progress: Progress) -> None:
        if len(self.trained) == self.killed_at:
            raise Killed
        self.trained += proposals
        for epoch in range(1, EPOCHS + 1):
            values = [[epoch / EPOCHS - (p["x"] - OPTIMUM) ** 2 - p["c"]] for p in proposals]
            if not progress.observe(np.array(values), seconds=float(epoch), complete=epoch == EPOCHS):
                return


def study(path: Path, bounds: Limits, **options: Any) -> Study:
    named: dict[str, Any] = {"space": LINE, "identity": {"model": "line"}, "metric": "score", **options}
    return Study(path=path, limits=bounds, num_epochs=EPOCHS, **named)


def without_code(path: Path) -> dict[str, Any]:
    return {name: value for name, value in json.loads(path.read_text()).items() if name != "made_by"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of 25 trials that nothing interrupted."""
    path = tmp_path_factory.mktemp("study") / "whole.json"
    study(path, Limits(25)).run(Quadratic())
    return path


def test_the_optimum_is_found(whole: Path) -> None:
    chosen = json.loads(whole.read_text())["chosen"]
    assert chosen["settings"]["c"] == 0
    assert chosen["settings"]["x"] == pytest.approx(OPTIMUM, abs=0.1)
    assert chosen["value"] == pytest.approx(1.0 - (chosen["settings"]["x"] - OPTIMUM) ** 2)


def test_a_pruned_trial_is_recorded_with_its_epoch_and_never_chosen(whole: Path) -> None:
    document = json.loads(whole.read_text())
    trials = document["trials"]
    pruned = [trial for trial in trials if trial["state"] == "pruned"]
    assert pruned
    assert all(0 < trial["ended"] < EPOCHS and trial["epochs"] == trial["ended"] for trial in pruned)
    assert trials[document["chosen"]["number"]]["state"] == "complete"


@pytest.mark.parametrize("state", ["pruned", "stopped", "diverged", "repeat", "refused"])
def test_only_a_complete_trial_is_chosen(state: str) -> None:
    best, worse = Record(0, {}, state, value=9.0), Record(1, {}, "complete", value=1.0)
    assert choose([best, worse], lower_is_better=False) == worse
    assert choose([best], lower_is_better=False) is None


@pytest.mark.parametrize(("lower", "number"), [(True, 1), (False, 0)])
def test_the_direction_of_the_metric(lower: bool, number: int) -> None:
    records = [Record(0, {}, "complete", value=2.0), Record(1, {}, "complete", value=1.0)]
    found = choose(records, lower_is_better=lower)
    assert found is not None and found.number == number


@pytest.mark.parametrize("pruner", ["median", "hyperband", "none"])
@pytest.mark.parametrize("at_once", [1, 3])
def test_a_killed_study_goes_on_to_the_same_file(tmp_path: Path, pruner: str, at_once: int) -> None:
    options = {"space": LINE._replace(pruner=pruner), "numbers": ("x",), "at_once": at_once}
    bounds, whole, killed = Limits(15), tmp_path / "whole.json", tmp_path / "killed.json"
    study(whole, bounds, **options).run(Quadratic())
    for at in (3, 6):
        with pytest.raises(Killed):
            study(killed, bounds, **options).run(Quadratic(killed_at=at))
    study(killed, bounds, **options).run(Quadratic())
    assert without_code(killed) == without_code(whole)


def test_a_finished_study_trains_nothing_again_and_a_longer_one_goes_on(tmp_path: Path, whole: Path) -> None:
    path, again, longer = tmp_path / "study.json", Quadratic(), Quadratic()
    study(path, Limits(20)).run(Quadratic())
    study(path, Limits(20)).run(again)
    study(path, Limits(25)).run(longer)
    assert again.trained == []
    assert len(longer.trained) == 5
    assert without_code(path) == without_code(whole)


@pytest.mark.parametrize("at_once", [1, 4])
@pytest.mark.parametrize("pruner", ["median", "none"])
def test_a_budget_of_epochs_is_held_and_spent(tmp_path: Path, at_once: int, pruner: str) -> None:
    path, space = tmp_path / "study.json", LINE._replace(pruner=pruner)
    study(path, limits(0, "48e"), space=space, numbers=("x",), at_once=at_once).run(Quadratic())
    document = json.loads(path.read_text())
    assert 48 - at_once < document["spent"]["epochs"] <= 48
    assert document["spent"]["epochs"] == sum(trial["epochs"] for trial in document["trials"])
    assert document["ended"] == "budget"


@pytest.mark.parametrize(
    ("at_once", "small", "seed", "last"),
    [(1, "33e", 0, ["stopped"]), (3, "42e", 0, ["pruned", "stopped", "stopped"]),
     (3, "36e", 2, ["stopped", "stopped", "pruned"])],
)  # fmt: skip
def test_a_larger_budget_goes_on_as_if_it_had_been_so_from_the_start(
    tmp_path: Path, at_once: int, small: str, seed: int, last: list[str]
) -> None:
    once, twice = tmp_path / "once.json", tmp_path / "twice.json"
    options: dict[str, Any] = {"space": LINE._replace(seed=seed), "numbers": ("x",), "at_once": at_once}
    study(once, limits(0, "60e"), **options).run(Quadratic())
    study(twice, limits(0, small), **options).run(Quadratic())
    assert [trial["state"] for trial in json.loads(twice.read_text())["trials"]][-at_once:] == last
    study(twice, limits(0, "60e"), **options).run(Quadratic())
    assert without_code(once) == without_code(twice)


def test_a_budget_of_minutes_ends_the_study(tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    study(path, Limits(None, None, 12 / 60), space=LINE._replace(pruner="none")).run(Quadratic())
    assert json.loads(path.read_text())["spent"] == {"trials": 3, "epochs": 12, "seconds": 12.0}


def test_a_budget_too_small_for_one_trial_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no trial was completed"):
        study(tmp_path / "study.json", Limits(None, EPOCHS - 1)).run(Quadratic())


def test_a_space_that_is_exhausted_ends_the_study(tmp_path: Path) -> None:
    space, quadratic = (
        Space({"x": Setting("choice", choices=(0.0, 1.0)), "c": Setting("int", 0, 1)}),
        Quadratic(),
    )
    study(tmp_path / "study.json", Limits(40), space=space).run(quadratic)
    assert sorted((p["x"], p["c"]) for p in quadratic.trained) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_trials_at_once_differ_in_numbers_alone(tmp_path: Path) -> None:
    groups: list[Sequence[Mapping[str, Any]]] = []

    def evaluate(proposals: Sequence[Mapping[str, Any]], progress: Progress) -> None:
        groups.append(proposals)
        Quadratic()(proposals, progress)

    study(tmp_path / "study.json", Limits(10), numbers=("x",), at_once=4).run(evaluate)
    assert [len(group) for group in groups] == [4, 4, 2]
    assert all(len({p["c"] for p in group}) == 1 for group in groups)


def test_the_first_trial_has_the_settings_as_they_are(tmp_path: Path) -> None:
    quadratic = Quadratic()
    study(tmp_path / "study.json", Limits(2), first={"x": -0.5, "c": 1}).run(quadratic)
    assert quadratic.trained[0] == {"x": -0.5, "c": 1}


def test_settings_that_do_not_go_together_are_recorded_and_not_trained(tmp_path: Path) -> None:
    def check(settings: Mapping[str, Any]) -> None:
        if settings["c"] == 1:
            raise ValueError("c=1: must be 0")

    path, quadratic = tmp_path / "study.json", Quadratic()
    study(path, Limits(6), check=check).run(quadratic)
    trials = json.loads(path.read_text())["trials"]
    refused = [trial for trial in trials if trial["state"] == "refused"]
    assert refused and all(trial["reason"] == "c=1: must be 0" for trial in refused)
    assert len(quadratic.trained) == 6


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"identity": {"model": "other"}}, "model is line, now other"),
        ({"space": LINE._replace(seed=1)}, "space is {'seed': 0}, now {'seed': 1}"),
    ],
)
def test_another_study_in_the_file_is_refused(whole: Path, changed: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        study(whole, Limits(25), **changed)


def test_a_study_of_other_code_is_refused_unless_accepted(tmp_path: Path, whole: Path) -> None:
    document = json.loads(whole.read_text())
    document["made_by"][0]["sources"] = {"jaxrec": "another"}
    path = tmp_path / "study.json"
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match="this is other code"):
        study(path, Limits(25))
    study(path, Limits(25), accept_changed_code=True).run(Quadratic())
    assert len(json.loads(path.read_text())["made_by"]) == 2


def test_a_write_that_fails_leaves_the_study_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "study.json"
    study(path, Limits(3)).run(Quadratic())
    before = path.read_text()

    def fail(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="no space left"):
        study(path, Limits(5)).run(Quadratic())
    assert path.read_text() == before
    assert [file.name for file in tmp_path.iterdir()] == ["study.json"]


@pytest.mark.parametrize("budget", ["30", "0e", "m", "-3m", "1.5e"])
def test_a_wrong_budget_is_named(budget: str) -> None:
    with pytest.raises(
        ValueError, match=f"budget='{budget}': must be minutes or epochs, such as 30m or 200e"
    ):
        limits(0, budget)
