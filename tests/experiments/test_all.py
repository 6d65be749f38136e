"""The list of all runs: every stored result and every experiment is in it; states, order, failures, time."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from experiments import all as everything
from experiments.benchmarks import tiny_numbers
from experiments.run_entry import Entry
from experiments.run_list import RUNS
from jaxrec.config import cli

ROOT = Path(__file__).resolve().parents[2]
NOT_TABLES = {"ann"}  # a list of times, as those of experiments/benchmarks


def test_every_stored_result_is_of_one_entry() -> None:
    claimed = Counter(result for entry in RUNS for row in entry.rows.split() for result in entry.results(row))
    assert [result for result, number in claimed.items() if number > 1] == []
    folder = ROOT / "results"
    stored = {str(p.relative_to(folder).with_suffix("")) for p in folder.glob("*/*/*.json")}
    assert sorted(stored - set(claimed)) == []


def test_every_experiment_has_an_entry() -> None:
    folders = ("sequential", "ranking", "multitask", "retrieval")
    paths = [path for folder in folders for path in (ROOT / "experiments" / folder).glob("*.py")]
    scripts = {p.stem for p in paths if '__name__ == "__main__"' in p.read_text(encoding="utf-8")}
    assert scripts - {entry.module.split(".")[-1] for entry in RUNS} == NOT_TABLES


@pytest.mark.parametrize("entry", RUNS, ids=lambda entry: f"{entry.module} {entry.arguments}")
def test_an_entry_is_a_command(entry: Entry) -> None:
    """Its module knows the arguments and the rows."""
    module = importlib.import_module(f"experiments.{entry.module}")
    cli(module.Config, args=entry.command(entry.rows.split())[2:])


def test_names_of_results() -> None:
    entry = Entry("x.y", "", "t/a t/b", "sasrec-bce popularity", "{row}+z", "{row} {row}-full")
    assert entry.results("sasrec-bce") == ["t/a/sasrec-bce+z", "t/b/sasrec-bce+z"]
    assert entry.results("popularity")[:2] == ["t/a/popularity", "t/a/popularity-full"]


ENTRIES = (
    Entry("x.cheap", "--seeds 0 1", "cheap/d", "random model-bce popularity"),
    Entry("x.dear", "--seeds 0", "dear/d", "big-bce broken-bce"),
    Entry("x.whole", "--seeds 0", "whole/d", "a b", whole=True),
)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> everything.Config:
    monkeypatch.setattr(everything, "RUNS", ENTRIES)
    monkeypatch.setattr(everything, "git", lambda *arguments, **_: "" if arguments[0] == "status" else "head")
    return everything.Config(run=True, results=str(tmp_path / "results"), workdir=str(tmp_path / "work"))


def store(
    config: everything.Config, name: str, *, seeds: int = 1, minutes: float = 1, steps: int = 5
) -> None:
    experiment, _, model = name.split("/")
    path = Path(config.results, f"{name}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "experiment": experiment, "model": model, "seeds": list(range(seeds)), "steps": steps,
        "seconds": 60 * minutes, "compile_seconds": 0, "manifest": {"commit": "old"},
    }  # fmt: skip
    path.write_text(json.dumps(result), encoding="utf-8")


def states(config: everything.Config) -> dict[str, str]:
    return {row.row: row.state for row in everything.rows(config)}


def test_states_of_rows(config: everything.Config) -> None:
    store(config, "cheap/d/popularity", steps=0)  # one seed stands for all where nothing is trained
    store(config, "cheap/d/model-bce", seeds=1)
    store(config, "dear/d/big-bce")
    found = states(config)
    assert found["popularity"] == "done" and found["model-bce"] == "missing seeds"
    assert found["big-bce"] == "done" and found["broken-bce"] == "missing"
    shown = everything.show(everything.rows(config))
    assert "1 of 2" in shown and "?" in shown and "missing seeds" in shown


def test_a_row_is_stale_only_if_its_tiny_numbers_differ(config: everything.Config) -> None:
    store(config, "dear/d/big-bce")
    store(config, "dear/d/broken-bce")

    def tiny(commit: str, big: float) -> None:
        path = everything.tiny_path(config, commit, "dear")
        path.parent.mkdir(parents=True, exist_ok=True)
        numbers = {"tiny/big-bce": {"m": [big]}, "tiny/broken-bce": {"m": [1.0]}}
        path.write_text(json.dumps({"dear/default": numbers}), encoding="utf-8")

    assert states(config)["big-bce"] == "done"  # nothing is known
    tiny("old", 0.5)
    tiny("head", 0.5)
    assert states(config)["big-bce"] == "done"
    tiny("head", 0.6)
    assert states(config)["big-bce"] == "stale" and states(config)["broken-bce"] == "done"


def test_tiny_numbers_are_made_once_for_a_commit_and_an_experiment(
    config: everything.Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tiny_numbers, "RUNS", {"dear/default": (), "dear/other": ()})
    monkeypatch.setattr(everything, "checkout", lambda config, commit: tmp_path / commit)
    made: list[tuple[str, str]] = []

    def make(run: str, folder: Path, root: Path) -> Any:
        made.append((run, root.name))
        if run == "dear/other" and root.name == "old":
            raise RuntimeError("no such experiment")
        return {"tiny/big-bce": {"m": [0.5]}}

    store(config, "dear/d/big-bce")
    everything.check_stale(config, make)
    everything.check_stale(config, make)
    assert sorted(made) == [(run, at) for run in ("dear/default", "dear/other") for at in ("head", "old")]
    assert states(config)["big-bce"] == "done"


def test_missing_rows_are_made_cheapest_first_and_a_failure_is_recorded(
    config: everything.Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(everything, "checkout", lambda config, commit: tmp_path)
    store(config, "cheap/d/model-bce", seeds=1, minutes=7)  # a seed is missing
    made: list[str] = []

    def fake(command: list[str], root: Path, log: Path, seconds: float) -> int:
        rows = [] if "--rows" not in command else command[command.index("--rows") + 1 : -4]
        made.append(f"{command[1]} {' '.join(rows)}".strip())
        assert command[-1] == str(Path(config.results).resolve()) and root == tmp_path
        return 1 if "broken-bce" in rows else 0

    assert everything.run_missing(config, everything.rows(config), fake) == 1
    assert made[:2] == ["experiments.x.cheap random popularity", "experiments.x.cheap model-bce"]
    assert sorted(made[2:]) == [
        "experiments.x.dear big-bce", "experiments.x.dear broken-bce", "experiments.x.whole",
    ]  # fmt: skip
    lines = [json.loads(line) for line in Path(config.workdir, "log.jsonl").read_text().splitlines()]
    assert [line["code"] for line in lines].count(1) == 1 and {line["commit"] for line in lines} == {"head"}


def test_nothing_starts_after_the_hours(
    config: everything.Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(everything, "checkout", lambda config, commit: tmp_path)
    clock = iter(range(0, 10**6, 3000))
    monkeypatch.setattr("experiments.all.time.monotonic", lambda: next(clock))
    made: list[list[str]] = []
    short = dataclasses.replace(config, hours=2.0)

    def fake(command: list[str], *rest: Any) -> int:
        made.append(command)
        return 0

    everything.run_missing(short, everything.rows(config), fake)
    assert len(made) == 1


def test_changed_files_are_refused(config: everything.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(everything, "git", lambda *arguments, **_: " M experiments/floors.py")
    with pytest.raises(ValueError, match="--allow-dirty"):
        everything.run_missing(config, [])


@pytest.mark.parametrize("change, match", [({"hours": 0.0}, "hours=0"), ({"only": ("x",)}, "only='x'")])
def test_wrong_options(config: everything.Config, change: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        dataclasses.replace(config, **change)
