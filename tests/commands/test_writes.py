"""Writes that fail: one clear line, no half-written file, and the same command goes on afterwards."""

from __future__ import annotations

import builtins
import contextlib
import errno
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrec import __main__ as program
from jaxrec.commands.train import train
from jaxrec.commands.training import run as running
from jaxrec.report.results import read_results
from jaxrec.serve import run_folder
from tests.commands.small_data import EVENTS, write_events

ROOT = Path(__file__).parents[2]
OPTIONS = {**EVENTS, "dim": 4, "max_len": 6, "batch_size": 8, "epochs": 1, "num_layers": 1}
WORDS = ["--user", "uid", "--item", "sku", "--time", "ts", "--dim", "4", "--max-len", "6"]
WORDS += ["--batch-size", "8", "--epochs", "1", "--num-layers", "1"]
FINISHING = 32  # at least as many as there are writes behind training


class Faults:
    """Lets the disk be full from the n-th operation on that writes into a folder, counted from 0."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, number: int) -> None:
        self.folder, self.number, self.count = str(folder), number, 0
        for module, name in ((os, "replace"), (os, "fsync"), (tempfile, "mkstemp"), (builtins, "open")):
            monkeypatch.setattr(module, name, self.counted(getattr(module, name), name))

    def counted(self, function: Any, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.writes(name, args, kwargs):
                self.count += 1
                if self.count > self.number:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return function(*args, **kwargs)

        return call

    def writes(self, name: str, args: Any, kwargs: Any) -> bool:
        if name == "fsync":
            return True
        if name == "mkstemp":
            return self.folder in str(kwargs.get("dir", ""))
        mode = args[1] if len(args) > 1 else kwargs.get("mode", "r")
        return self.folder in str(args[0]) and (name == "replace" or any(letter in mode for letter in "wax"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write_events(folder / "events.csv")
    return folder


@pytest.fixture(scope="module")
def finished(files: Path) -> tuple[Any, ...]:
    """What `finish` gets of a trained run: prepared and fitted, options and settings."""
    caught: list[Any] = []
    original = running.finish
    with pytest.MonkeyPatch.context() as patch:

        def finish(*args: Any) -> Any:
            caught.append(args)
            return original(*args)

        patch.setattr(running, "finish", finish)
        kept = train("sasrec", files / "events.csv", run=files / "whole", **OPTIONS)
    (args,) = caught
    prepared = args[1]
    metrics, rows = prepared.test(args[2].variables), prepared.baselines()
    prepared = prepared._replace(test=lambda variables: metrics, baselines=lambda: rows)
    return (prepared, *args[2:], kept)


def left_over(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.name.endswith((".tmp", ".partial"))]


@pytest.mark.parametrize("number", range(FINISHING))
def test_a_full_disk_behind_training_leaves_whole_files_or_none(
    number: int, finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, fitted, options, settings, kept = finished
    with monkeypatch.context() as patch:
        faults = Faults(patch, tmp_path, number)
        with contextlib.suppress(OSError):
            running.finish(tmp_path, prepared, fitted, options, settings)
    assert left_over(tmp_path) == []
    for record in read_results(tmp_path / "results"):  # reads and checks every file
        assert record.result.metrics
    if faults.count > number:
        assert not (tmp_path / "run.json").exists()
    running.finish(tmp_path, prepared, fitted, options, settings)
    found = run_folder.read(tmp_path)
    assert found.metrics == kept.metrics
    np.testing.assert_array_equal(
        found.variables["params"]["item_embedding"], kept.variables["params"]["item_embedding"]
    )


def test_the_faults_reach_the_last_write(
    finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, fitted, options, settings, _ = finished
    with monkeypatch.context() as patch:
        faults = Faults(patch, tmp_path, 10**6)
        running.finish(tmp_path, prepared, fitted, options, settings)
    assert 8 <= faults.count <= FINISHING


def fail(run: str, number: int, words: list[str]) -> int:
    """What a process of its own does, since Orbax leaves threads and files open when a write fails."""
    with pytest.MonkeyPatch.context() as patch:
        Faults(patch, Path(run), number)
        return program.main(words)


@pytest.mark.parametrize("number", [0, 3, 5, 8])
@pytest.mark.long
def test_a_full_disk_in_training_is_one_line_and_the_command_goes_on(
    number: int, files: Path, finished: Any, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = ["train", "sasrec", "--data", f"{files}/events.csv", "--run", str(run), *WORDS]
    called = f"fail({str(run)!r}, {number}, {words})"
    code = f"from tests.commands.test_writes import fail\nraise SystemExit({called})"
    failed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert failed.returncode == 2
    printed = [line for line in failed.stderr.splitlines() if line.startswith("jaxrec train: error: ")]
    assert len(printed) == 1
    assert str(run) in printed[0] and "No space left on device" in printed[0]
    assert left_over(run) == []
    assert not (run / "run.json").exists()
    if (run / "settings.json").exists():
        json.loads((run / "settings.json").read_text())
    assert program.main(words) == 0
    assert run_folder.read(run).metrics == finished[-1].metrics
