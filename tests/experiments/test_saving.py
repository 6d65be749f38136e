"""A result belongs to the code that trained it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import pytest

from experiments.common import origin, save
from jaxrec import provenance
from jaxrec.report.results import read_result, read_results
from jaxrec.train.fit import Fitted
from jaxrec.types import Protocol


def fitted(*made_by: dict[str, Any], epochs: int = 4) -> Fitted:
    history = [{"epoch": epoch, "phase": "train"} for epoch in range(epochs)]
    return Fitted({}, history, [0], [0.5], 8, 1.0, 1.0, made_by)


def code(first_epoch: int, commit: str, sources: str) -> dict[str, Any]:
    now = provenance.manifest()
    return {**now, "first_epoch": first_epoch, "commit": commit, "sources": {"jaxrec": sources}}


def test_what_was_not_trained_is_of_this_code() -> None:
    assert origin(None) == (provenance.manifest(), "")
    assert origin(fitted()) == (provenance.manifest(), "")


def test_a_result_has_the_commit_of_its_training() -> None:
    manifest, note = origin(fitted(code(0, "a", "1")))
    assert (manifest["commit"], manifest["sources"], note) == ("a", {"jaxrec": "1"}, "")
    assert "first_epoch" not in manifest


def test_code_that_only_evaluated_is_named_beside_it() -> None:
    manifest, note = origin(fitted(code(0, "a", "1"), code(4, "b", "2")))
    assert manifest["commit"] == "a"
    assert [entry["commit"] for entry in manifest["made_by"]] == ["a", "b"]
    assert note == "trained by commit a, evaluated by b, other code"


def test_code_that_went_on_is_named_beside_it() -> None:
    manifest, note = origin(fitted(code(0, "a", "1"), code(2, "b", "2")))
    assert manifest["commit"] == "b"
    assert [entry["first_epoch"] for entry in manifest["made_by"]] == [0, 2]
    assert note == "trained by commit a and b"


def test_commits_of_the_same_sources_need_no_note() -> None:
    manifest, note = origin(fitted(code(0, "a", "1"), code(0, "b", "1")))
    assert [entry["commit"] for entry in manifest["made_by"]] == ["a", "b"]
    assert note == ""


@pytest.mark.parametrize(
    ("steps", "given", "baseline"), [(0, None, True), (8, None, False), (0, False, False), (8, True, True)]
)
def test_what_was_not_trained_is_a_baseline_unless_the_caller_says_so(
    tmp_path: Path, steps: int, given: bool | None, baseline: bool
) -> None:
    path = save(
        str(tmp_path),
        experiment="e",
        dataset="d",
        model="m",
        config={},
        protocol=Protocol(),
        seeds=(0,),
        metrics=[{"auc": 0.5}],
        fitted=fitted()._replace(steps=steps),
        baseline=given,
    )
    assert read_result(path).result.baseline is baseline


def stored(folder: Path, value: float) -> Path:
    return save(
        str(folder), experiment="e", dataset="d", model="m", config={"dim": 1}, protocol=Protocol(),
        seeds=(0,), metrics=[{"ndcg@20": value}],
    )  # fmt: skip


def test_settings_of_jax_that_change_numbers_replace_no_result(tmp_path: Path) -> None:
    first = stored(tmp_path, 0.1)
    with jax.threefry_partitionable(False):
        second = stored(tmp_path, 0.2)
    assert first.name == "m.json"
    assert second != first
    assert read_result(first).result.metrics["ndcg@20"] == (0.1,)
    assert [record.result.metrics["ndcg@20"] for record in read_results(tmp_path)] == [(0.1,), (0.2,)]
    assert stored(tmp_path, 0.3) == first


@pytest.mark.parametrize("dataset", ["my data.csv", "../up", ""])
def test_a_name_that_is_no_file_name_is_refused(tmp_path: Path, dataset: str) -> None:
    with pytest.raises(ValueError, match="dataset"):
        save(
            str(tmp_path), experiment="e", dataset=dataset, model="m", config={}, protocol=Protocol(),
            seeds=(0,), metrics=[{"a": 1.0}],
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []
