"""Labels of stored results follow the code; what was measured stays."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from experiments import relabel
from experiments.sequential import stamp, ticoserec
from experiments.settings import described
from jaxrec.report import results
from jaxrec.types import Protocol, Result
from tests.report.results_for_tests import MANIFEST

ROOT = Path(__file__).parents[2]


def stored(folder: Path, experiment: str, dataset: str, model: str, **changes: Any) -> Path:
    """A result as it was stored once."""
    result = Result(
        experiment=experiment,
        dataset=dataset,
        model=model,
        config={},
        protocol=Protocol(selection="none"),
        seeds=(0,),
        metrics={"ndcg@20": (0.25,), "recall@20": (0.5,)},
        published={},
        source="",
        steps=7,
        seconds=1.5,
        compile_seconds=0.5,
    )
    return results.write_result(result._replace(**changes), folder, manifest=MANIFEST)


def relabelled(folder: Path) -> results.Record:
    for path, record in relabel.stale(folder):
        relabel.relabel(path, record, str(folder))
    (record,) = results.read_results(folder)
    return record


def test_labels_of_kept_results_are_those_of_the_code() -> None:
    assert [path.as_posix() for path, _ in relabel.stale(ROOT / "results")] == [], "run experiments.relabel"


@pytest.mark.parametrize(
    ("experiment", "dataset", "old", "new", "config"),
    [
        ("peterrec", "yoochoose1_64-cold-300", "majority", "popularity", {}),
        ("peterrec", "yoochoose1_64-cold-300", "head", "head-ce", {}),
        ("hstu_generative", "ml-100k-ranking", "generative", "generative-bce-ssm", {}),
        ("hstu_generative", "ml-100k-retrieval", "popularity", "popularity", {}),
        ("published_checkpoints", "Beauty", "coserec+exclude", "coserec-bce+exclude", {}),
        ("published_checkpoints", "Beauty", "tada-gru4rec+skip-padding", "tada-gru4rec-bce+skip-padding", {}),
        ("published_checkpoints", "Beauty", "popularity", "popularity", {"source": "ticoserec"}),
        ("ticoserec", "Beauty", "random", "random", {}),
        ("hstu", "Beauty", "sasrec-bce", "sasrec-bce", {}),
    ],
)
def test_names_of_today(
    experiment: str, dataset: str, old: str, new: str, config: dict[str, Any], tmp_path: Path
) -> None:
    stored(tmp_path, experiment, dataset, old, config=config)
    result = relabelled(tmp_path).result
    assert result.model == new
    moved = f"{config.get('source', 'coserec')}-Beauty" if experiment == "published_checkpoints" else dataset
    assert result.dataset == moved
    changed = "" if old == new else f", when it was called {dataset}/{old}"
    assert (relabel.MARK + changed in result.note) == ((old, dataset) != (new, moved))


def test_what_was_measured_stays_and_a_second_call_changes_nothing(tmp_path: Path) -> None:
    config = ticoserec.Config(dataset="Beauty")
    recipe = dataclasses.asdict(ticoserec.recipe_of(config, "ticoserec-bce"))
    old = stored(
        tmp_path,
        "ticoserec",
        "Beauty",
        "ticoserec",
        config={"recipe": recipe, **described(config)},
        protocol=Protocol(loss="bce"),
        published={"ndcg@20": 0.05},
        source="a README",
    )
    old.with_suffix(".png").write_bytes(b"a plot")
    before = json.loads(old.read_text())
    record = relabelled(tmp_path)
    path = tmp_path / "ticoserec/Beauty/ticoserec-bce.json"
    after = json.loads(path.read_text())
    assert not old.exists() and path.with_suffix(".png").read_bytes() == b"a plot"
    for name in ("config", "seeds", "metrics", "steps", "seconds", "compile_seconds", "manifest"):
        assert after[name] == before[name]
    result = record.result
    assert result.protocol.loss == "bce + contrastive"
    assert result.published["ndcg@20"] == 0.0501
    assert "leaves seen items in with score 0" in result.incomparable
    assert result.note.endswith("; relabelled after the run, when it was called Beauty/ticoserec")
    assert relabel.stale(tmp_path) == []


def test_popularity_gets_the_note_of_today(tmp_path: Path) -> None:
    numbers = stamp.PUBLISHED["yoochoose1_64", "popularity"]
    stored(
        tmp_path,
        "stamp",
        "yoochoose1_64",
        "popularity",
        config={"share": 0.1, "order": "time"},
        note="its epoch is the one best on test",
        published=dict(numbers.values),
        source=numbers.source,
    )
    note = relabelled(tmp_path).result.note
    assert "with the first 90 % 0.0542" in note and "epoch" not in note
    assert note.endswith(f"; {relabel.MARK}")


def test_check_writes_nothing_and_names_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = stored(tmp_path, "peterrec", "yoochoose1_64-cold-300", "head")
    text = path.read_text()
    monkeypatch.setattr("sys.argv", ["relabel", "--check", "--results", str(tmp_path)])
    assert relabel.main() == 1
    assert str(path) in capsys.readouterr().out
    assert path.read_text() == text
