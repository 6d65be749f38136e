"""One process a work directory."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from jaxrec.train import lock
from jaxrec.train.lock import LOCK, locked
from tests.train import toy

ROOT = Path(__file__).parents[2]
HOLD = "import sys, pathlib; from jaxrec.train.lock import locked\n" + (
    "with locked(pathlib.Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()"
)


@pytest.fixture
def holder(tmp_path: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock until its input ends."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_by_the_name_of_the_first(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    with pytest.raises(ValueError, match=f"in use by process {holder.pid} on .*another --workdir"):
        toy.run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]
    holder.communicate(timeout=60)
    assert toy.run(tmp_path, epochs=(1,)).steps == 3


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.communicate(timeout=60)
    assert json.loads((tmp_path / LOCK).read_text())["process"] == holder.pid
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()
    assert (tmp_path / LOCK).read_text() == ""


def test_two_runs_of_one_process_are_kept_apart(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(ValueError, match=f"process {os.getpid()}"), locked(tmp_path):
        pass


def test_without_locks_of_the_file_system_the_process_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "fcntl", None)
    with locked(tmp_path), pytest.raises(ValueError, match="in use"), locked(tmp_path):
        pass
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    )
    for owner in ({"host": socket.gethostname(), "process": int(gone.stdout)}, "not an owner"):
        (tmp_path / LOCK).write_text(json.dumps(owner))
        with locked(tmp_path):
            pass
    (tmp_path / LOCK).write_text(json.dumps({"host": "another", "process": 1}))
    with pytest.raises(ValueError, match="process 1 on another"), locked(tmp_path):
        pass
