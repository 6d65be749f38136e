"""Both paths of the streaming benchmark run, learn the same, and are stored."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from experiments.benchmarks import streaming
from tests.experiments.multitask.runs import run_main

TINY = streaming.shrink_if_tiny(streaming.Config(tiny=True))


def test_both_paths_learn_the_same(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, rows=600, test_rows=200, shards=str(tmp_path))
    streaming.write(config)
    streaming.write(config)  # found there
    found = [streaming.measure(dataclasses.replace(config, path=path)) for path in ("streamed", "resident")]  # type: ignore[arg-type]
    assert found[0]["loss"] == pytest.approx(found[1]["loss"], abs=0.02)
    assert found[0]["truth"] == found[1]["truth"] < found[0]["loss"]
    for of_path in found:
        assert of_path["rows"] > 0 and of_path["memory"] >= of_path["before"] > 0


@pytest.mark.long
def test_paths_run_in_processes_of_their_own(tmp_path: Path) -> None:
    run_main(streaming, "--tiny", "--results", tmp_path, "--shards", tmp_path / "shards")
    stored = {figure["name"]: figure for figure in json.loads((tmp_path / "streaming.json").read_text())}
    names = {f"streaming/{path}_3000{of}" for path in streaming.PATHS for of in ("", ":memory", ":loss")}
    assert names < set(stored)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"rows": 0}, "rows=0: must be at least 1"), ({"seed": -1}, "seed=-1: must be at least 0")],
)
def test_sizes_are_checked(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        streaming.Config(**change)
