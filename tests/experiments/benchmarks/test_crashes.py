"""A tiny run that is ended at several moments ends with the bits of one that never was."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import pytest

from experiments.benchmarks import crash_files, crashes
from experiments.benchmarks.crashed import MEANS, POINTS


@pytest.fixture(autouse=True)
def compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", jax.config.values["jax_compilation_cache_dir"])
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def test_a_run_that_is_ended_again_and_again_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crashes, "IN_A_ROW", 4)
    out = tmp_path / "crashes.json"
    found = crashes.measure(crashes.Config(runs=3, only=("stamp",), seed=4, out=str(out)), tmp_path)
    assert found.wrong == []
    assert (found.struck.total(), found.compared, found.refused) == (3, 1, 1)
    assert json.loads(found.text()) | {"seconds": 0} == json.loads(out.read_text()) | {"seconds": 0}


def test_a_file_that_cannot_be_read_is_found(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    assert crash_files.unreadable(tmp_path) == []
    (tmp_path / "work/training.json").write_text('{"format": 1')
    (tmp_path / "work/history.jsonl").write_text('{"epoch": 0}\n{"epo')
    (tmp_path / "work/.x.json.1.tmp").write_text("")
    assert len(crash_files.unreadable(tmp_path)) == 2
    assert crash_files.leftovers(tmp_path) == {"*.tmp": 1}


def test_differences_are_named() -> None:
    same = {"result a": [1.0, 2], "history b": []}
    assert crash_files.differences(same, dict(same)) == []
    (wrong,) = crash_files.differences(same, {"result a": [1.5, 2], "history b": []})
    assert wrong == "result a: differs: [1.0, 2] became [1.5, 2]"


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ValueError, match="runs=0: must be at least 1"):
        crashes.Config(runs=0)
    with pytest.raises(ValueError, match="only: 'nothing' is none of ticoserec"):
        crashes.Config(only=("nothing",))
    assert set(crashes.DELAYS) == set(POINTS) and len(MEANS) == 3
