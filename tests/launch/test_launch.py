"""Two processes of two devices train as one process of four; one that dies ends the other, and says so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxrec.launch import children, member
from jaxrec.train import sharded
from jaxrec.train.evaluate import evaluate
from tests.data.tables.small_shards import write_small
from tests.launch import trained
from tests.train import interest, toy

ROOT = Path(__file__).parents[2]


def start(*words: str, devices: int = 2) -> subprocess.Popen[str]:
    """The documented command."""
    command = [
        sys.executable,
        "-m",
        "jaxrec.launch",
        "--processes",
        "2",
        "--devices",
        str(devices),
        "--",
        *words,
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("together")
    process = start("tests.launch.trained", "--workdir", str(folder))
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return folder, out


def test_two_processes_train_as_one_with_as_many_devices(together: tuple[Path, str], tmp_path: Path) -> None:
    folder, out = together
    assert "running on cpu: 4 devices" in out and out.count("workdir") == 1
    fitted = toy.run(tmp_path, epochs=(3,), seeds=(3, 7), num_devices=4)
    metrics = evaluate(toy.evaluation(), fitted.variables, toy.context(), num_devices=4)
    history = toy.without_times(fitted.history)
    for process in (0, 1):
        found = json.loads((folder / f"found{process}.json").read_text())
        for ours, expected in zip(found["metrics"], metrics, strict=True):
            assert ours == pytest.approx(expected, abs=1e-5)
        for entry, wanted in zip(found["history"], history, strict=True):
            assert entry["loss"] == pytest.approx(wanted["loss"], rel=1e-5)
    with np.load(folder / "final0.npz") as first, np.load(folder / "final1.npz") as second:
        assert all((first[name] == second[name]).all() for name in first.files)


def test_a_table_sharded_over_processes_is_that_of_one_process(
    together: tuple[Path, str], tmp_path: Path
) -> None:
    """Also where one process with fewer devices reads what the two stored."""
    folder, _ = together
    found = [json.loads((folder / f"found{process}.json").read_text()) for process in (0, 1)]
    alone = trained.shard(tmp_path, num_devices=2)
    rows = sharded.collect(alone.state, interest.table())["params"]["item_embedding"]
    for of_process in found:
        for ours, expected in zip(of_process["sharded"], alone.history, strict=True):
            assert ours == pytest.approx(expected, rel=1e-5)
        np.testing.assert_allclose(of_process["rows"], rows, atol=1e-5)
    read = trained.shard(folder, num_devices=2, accept_changed_code=True)  # of another program
    assert read.history == found[0]["sharded"]
    again = sharded.collect(read.state, interest.table())["params"]["item_embedding"]
    np.testing.assert_array_equal(again, np.array(found[0]["rows"], np.float32))


def test_logs_and_checkpoints_are_written_once_and_read_by_one_process(together: tuple[Path, str]) -> None:
    folder, _ = together
    lines = (folder / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 1, 2]
    again = toy.run(folder, epochs=(3,), seeds=(3, 7), num_devices=1, accept_changed_code=True)
    with np.load(folder / "final0.npz") as stored:
        for name, leaf in zip(stored.files, jax.tree.leaves(again.variables), strict=True):
            np.testing.assert_array_equal(stored[name], leaf)


def test_a_killed_process_ends_the_others_and_is_named(tmp_path: Path) -> None:
    process = start("tests.launch.trained", "--workdir", str(tmp_path), "--wait")
    files = [tmp_path / f"pid{number}" for number in (0, 1)]
    limit = time.monotonic() + 120
    while not all(file.exists() and file.read_text() for file in files) and process.poll() is None:
        assert time.monotonic() < limit
        time.sleep(0.05)
    first, second = (int(file.read_text()) for file in files)
    os.kill(second, signal.SIGKILL)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGKILL
    assert f"process 1 of 2 (pid {second}) was killed by SIGKILL; the others are ended too" in err
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--processes", "2"), "name a module and its options after --"),
        (("--processes", "0", "--", "tests.launch.trained"), "processes=0, devices=0: at least 1 process"),
    ],
)
def test_a_wrong_command_is_one_line(words: tuple[str, ...], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jaxrec.launch", *words], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_a_module_that_fails_gives_its_code_and_its_words(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "member.py").write_text(
        "import os, sys, time\n"
        "if os.environ['JAXREC_PROCESS'] == '1':\n    print('no such file', file=sys.stderr); sys.exit(3)\n"
        "time.sleep(60)\n"
    )

    def start(words: Any, number: int, env: Any) -> children.Child:
        errors = (tmp_path / f"errors{number}").open("w+b")
        return children.Child(subprocess.Popen([sys.executable, *words], env=env, stderr=errors), errors)

    monkeypatch.setattr(children, "_start", start)
    assert children.run_together([str(tmp_path / "member.py")], processes=2) == 3
    said = capfd.readouterr().err
    assert "process 1: no such file" in said and "process 1 of 2" in said and "exit code 3" in said


def test_a_launcher_that_is_asked_to_end_passes_it_on_and_waits(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "member.py").write_text(
        "import os, signal, sys, time\n"
        "def save(*_):\n    time.sleep(0.2); open(sys.argv[1], 'w').close(); os._exit(7)\n"
        "signal.signal(signal.SIGTERM, save); open(sys.argv[1] + '-ready', 'w').close(); time.sleep(60)\n"
    )
    asked = [tmp_path / "saved0", tmp_path / "saved1"]

    def start(words: Any, number: int, env: Any) -> children.Child:
        command = [sys.executable, *words, str(asked[number])]
        child = subprocess.Popen(command, env=env)
        while not Path(f"{asked[number]}-ready").exists():
            time.sleep(0.01)
        if number == 1:
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        return children.Child(child, None)

    def kept(number: int, frame: Any) -> None:
        raise AssertionError("the launcher did not take the signal")

    monkeypatch.setattr(children, "_start", start)
    before = signal.signal(signal.SIGTERM, kept)
    try:
        assert children.run_together([str(tmp_path / "member.py")], processes=2) == 7
        assert signal.getsignal(signal.SIGTERM) is kept
    finally:
        signal.signal(signal.SIGTERM, before)
    assert all(file.exists() for file in asked)
    assert "exit code 7" in capfd.readouterr().err


def test_virtual_devices_replace_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--a=1 --xla_force_host_platform_device_count=4")
    assert member.settings("h:1", 2, 1, 3) == {
        "JAXREC_COORDINATOR": "h:1", "JAXREC_PROCESSES": "2", "JAXREC_PROCESS": "1",
        "JAXREC_CPU_DEVICES": "3", "XLA_FLAGS": "--a=1",
    }  # fmt: skip
    assert "XLA_FLAGS" not in member.settings("h:1", 2, 1, 0)


@pytest.mark.long
def test_two_processes_read_shards_of_their_own(tmp_path: Path) -> None:
    write_small(tmp_path / "rows")
    process = start("tests.launch.streamed", "--workdir", str(tmp_path))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    found = [json.loads((tmp_path / f"found{number}.json").read_text()) for number in (0, 1)]
    rows = [row for of_process in found for step in of_process["rows"] for row in step]
    assert sorted(rows) == list(range(103))
    assert found[0]["history"] == found[1]["history"] and len(found[0]["history"]) == 2
    with np.load(tmp_path / "final0.npz") as first, np.load(tmp_path / "final1.npz") as second:
        assert all((first[name] == second[name]).all() for name in first.files)
