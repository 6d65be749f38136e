"""History on disk while a run goes on."""

from __future__ import annotations

import json
from pathlib import Path

from jaxrec.train.logs import Logs

ENTRIES = [{"epoch": n, "phase": "plain", "loss": [0.5 / (n + 1), 0.25], "seconds": 1.5} for n in range(4)]


def read(folder: Path) -> list[object]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def test_every_epoch_is_on_disk_as_soon_as_it_is_written(tmp_path: Path) -> None:
    logs = Logs(tmp_path, [])
    for count, entry in enumerate(ENTRIES, 1):
        logs.write(entry)
        assert read(tmp_path) == ENTRIES[:count]
    logs.close()
    assert list((tmp_path / "tensorboard").iterdir()) != []


def test_a_resumed_history_has_each_epoch_once(tmp_path: Path) -> None:
    logs = Logs(tmp_path, [])
    for entry in ENTRIES[:3]:
        logs.write(entry)
    logs.close()
    again = Logs(tmp_path, ENTRIES[:2])  # the checkpoint knows two epochs
    assert read(tmp_path) == ENTRIES[:2]
    again.write(ENTRIES[2])
    again.close()
    assert read(tmp_path) == ENTRIES[:3]
    assert not (tmp_path / "history.partial").exists()
