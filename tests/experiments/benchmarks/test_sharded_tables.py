"""What a sharded table costs is predicted and measured, and two devices train as one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.benchmarks import sharded_tables
from tests.experiments.multitask.runs import run_main


def run(folder: Path, *options: object) -> dict[str, Any]:
    run_main(sharded_tables, "--tiny", "--results", folder / "results", "--workdir", folder, *options)
    stored = json.loads((folder / "results" / "sharded_tables.json").read_text())
    return {figure["name"]: figure["median"] for figure in stored}


def test_bytes_are_those_of_the_formula(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(tmp_path, "--num-devices", 2)
    for exchange in sharded_tables.EXCHANGES:
        name = f"sharded_tables/{exchange}"
        predicted = found[f"{name}:sent_predicted"]
        assert predicted <= found[f"{name}:sent"] <= 1.1 * predicted  # statistics of Dice, losses, counts
        assert found[f"{name}:state"] == pytest.approx(found[f"{name}:state_predicted"], abs=64)
    said = capsys.readouterr().out
    for kind, count in (("all-gather", 1), ("reduce-scatter", 1), ("all-to-all", 1)):
        lines = [line.split() for line in said.splitlines() if f" {kind} " in line]
        assert len(lines) == count and lines[0][-2] == lines[0][-1]
    assert "reduce-scatter" in said and "all-to-all" in said and "epoch 0: click 0.6" in said
    # the same work directory, on one device: nothing is left to train, and the history is the stored one
    run(tmp_path, "--num-devices", 1)
    assert capsys.readouterr().out.splitlines()[-1] == said.splitlines()[-1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_items": 0}, "num_items=0: must be at least 1"),
        ({"bucket": -1}, "bucket=-1"),
        ({"learning_rate": 0.0}, "learning_rate=0.0: must be positive"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sharded_tables.Config(**settings)


def test_devices_share_a_batch_equally() -> None:
    with pytest.raises(ValueError, match="num_devices=3: must divide batch_size=1000"):
        sharded_tables.run(sharded_tables.Config(num_devices=3))


def test_capacities_follow_from_the_batch() -> None:
    config = sharded_tables.Config(num_devices=4, batch_size=1000, length=20)
    assert (config.distinct_items, config.bucket_size) == (250 * 21, 2 * 1313)
