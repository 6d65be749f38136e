"""Checkpoints: whose they are, what happens to damaged ones, and to a run that is killed."""

from __future__ import annotations

import gc
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec.train.checkpoint import Checkpoints, clear, keep_vocabulary, read_vocabulary
from tests.train import killed, toy

ROOT = Path(__file__).parents[2]
ARRAYS = {
    "a": jnp.arange(12.0).reshape(3, 4),
    "key": jax.random.key(7),
    "noise": jax.random.normal(jax.random.key(0), (50, 60)),  # most of the bytes, and they do not compress
}


def saved(folder: Path, *numbers: int, **description: Any) -> Path:
    """A folder of checkpoints, of which the last is the latest."""
    with Checkpoints(folder, description) as checkpoints:
        for number in numbers:
            checkpoints.save(number, {**ARRAYS, "a": ARRAYS["a"] + number}, {"at": number})
    return folder


def test_what_was_saved_is_read_back(tmp_path: Path) -> None:
    saved(tmp_path / "c", 1, 2, model="x")
    with Checkpoints(tmp_path / "c", {"model": "x"}) as checkpoints:
        assert checkpoints.latest() == 2
        arrays, position = checkpoints.restore(ARRAYS)
    assert position == {"at": 2}
    toy.same_bits(arrays, {**ARRAYS, "a": ARRAYS["a"] + 2})


def test_an_empty_folder_has_no_checkpoint(tmp_path: Path) -> None:
    with Checkpoints(tmp_path / "c", {}) as checkpoints:
        assert checkpoints.latest() is None
        with pytest.raises(ValueError, match="holds no checkpoint"):
            checkpoints.restore(ARRAYS)


def test_two_checkpoints_are_kept_and_clear_removes_them(tmp_path: Path) -> None:
    folder = saved(tmp_path / "c", 1, 2, 3)
    assert sorted(p.name for p in folder.iterdir() if p.name.isdigit()) == ["2", "3"]
    clear(folder)
    assert not folder.exists()
    clear(folder)  # nothing to remove is no error


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"model": "y"}, "was written by a run with model='x', this run has 'y'"),
        ({"model": "x", "dim": 3}, "was written by a run with dim=None, this run has 3"),
        ({}, "was written by a run with model='x', this run has None"),
    ],
)
def test_the_checkpoint_of_another_run_is_an_error(
    tmp_path: Path, description: dict[str, Any], message: str
) -> None:
    saved(tmp_path / "c", 1, model="x")
    with Checkpoints(tmp_path / "c", description) as checkpoints, pytest.raises(ValueError, match=message):
        checkpoints.restore(ARRAYS)


@pytest.mark.parametrize(
    "like",
    [
        {**ARRAYS, "a": jnp.zeros((3, 5))},
        {**ARRAYS, "a": jnp.zeros((3, 4), jnp.int32)},
        {"key": ARRAYS["key"]},
    ],
    ids=["shape", "dtype", "missing"],
)
def test_arrays_of_another_model_are_an_error(tmp_path: Path, like: Any) -> None:
    saved(tmp_path / "c", 1)
    message = r"holds arrays of \['a'\]=.float32\[3, 4\]"
    with Checkpoints(tmp_path / "c", {}) as checkpoints, pytest.raises(ValueError, match=message):
        checkpoints.restore(like)


def test_a_checkpoint_of_another_version_is_not_called_damaged(tmp_path: Path) -> None:
    folder = saved(tmp_path / "c", 1)
    (kept,) = [path for path in (folder / "1/position").iterdir() if "description" in path.read_text("utf-8")]
    content = json.loads(kept.read_text("utf-8"))
    del content["checksums"]
    kept.write_text(json.dumps(content), "utf-8")
    with Checkpoints(folder, {}) as checkpoints, pytest.raises(ValueError, match="another version") as error:
        checkpoints.restore(ARRAYS)
    assert "damaged" not in str(error.value) and "remove" not in str(error.value)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


@pytest.fixture
def collected() -> Iterator[None]:
    yield
    gc.collect()


def drops_readers(test: Any) -> Any:
    """For tests in which Orbax fails to read: what it leaves open warns when collected, which is here."""
    ignored = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    return pytest.mark.usefixtures("collected")(ignored(test))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))


DAMAGE = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "removed": lambda path: path.unlink(),
    "one bit": flip,
}


@pytest.mark.parametrize("damage", DAMAGE)
@drops_readers
def test_a_damaged_checkpoint_is_an_error_or_reads_back_whole(tmp_path: Path, damage: str) -> None:
    whole = saved(tmp_path / "c", 1)
    refused = []
    for number, path in enumerate(files(whole / "1")):
        folder = tmp_path / str(number)
        shutil.copytree(whole, folder)
        DAMAGE[damage](folder / path.relative_to(whole))
        with Checkpoints(folder, {}) as checkpoints:
            try:
                arrays, position = checkpoints.restore(ARRAYS)
            except ValueError as error:
                refused.append(str(error))
                continue
        assert position == {"at": 1}, path
        toy.same_bits(arrays, {**ARRAYS, "a": ARRAYS["a"] + 1})
    assert len(refused) >= 4
    assert all(f"{tmp_path}" in message for message in refused)
    assert sum("checkpoint 1 cannot be read (incomplete or damaged)" in message for message in refused) >= 3


@drops_readers
def test_the_one_before_a_damaged_checkpoint_can_be_used(tmp_path: Path) -> None:
    folder = saved(tmp_path / "c", 1, 2)
    for path in files(folder / "2"):
        path.write_bytes(b"")
    message = "checkpoint 2 cannot be read.*remove the folder 2"
    with Checkpoints(folder, {}) as checkpoints, pytest.raises(ValueError, match=message):
        checkpoints.restore(ARRAYS)
    clear(folder / "2")
    with Checkpoints(folder, {}) as checkpoints:
        assert checkpoints.restore(ARRAYS)[1] == {"at": 1}


def test_fit_refuses_the_checkpoint_of_another_run(tmp_path: Path) -> None:
    toy.run(tmp_path, stop_after=1)
    with pytest.raises(ValueError, match="with model='factors', this run has 'other'"):
        toy.run(tmp_path, description={"model": "other"})
    with pytest.raises(ValueError, match=r"with seeds=\[0\], this run has \[1\]"):
        toy.run(tmp_path, seeds=(1,))
    with pytest.raises(ValueError, match=r"phases=\[\['p0', 3\]\], this run has \[\['p0', 4\]\]"):
        toy.run(tmp_path, epochs=(4,))


def test_a_checkpoint_holds_the_position_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    position, given = {"history": [1]}, []
    with Checkpoints(tmp_path, {}) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, "save", lambda number, args: given.append(args))
        checkpoints.save(1, ARRAYS, position)
        position["history"].append(2)  # as the next epoch does, while the file is being written
    assert given[0].position.item["position"] == {"history": [1]}


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def started(workdir: Path, epochs: int) -> subprocess.Popen[str]:
    """A training run in a process of its own."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": jax.config.values["jax_compilation_cache_dir"],
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    options = ["--workdir", str(workdir), "--epochs", str(epochs)]
    command = [sys.executable, "-W", "error", "-m", "tests.train.killed", *options]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)


def wait_for(process: subprocess.Popen[str], history: Path, epochs: int) -> None:
    while lines(history) < epochs and process.poll() is None:
        time.sleep(0.002)


@pytest.mark.long
def test_a_run_killed_at_any_moment_ends_with_the_same_bits(tmp_path: Path) -> None:
    epochs, draw = 60, random.Random()
    history = tmp_path / "history.jsonl"
    for kill in (True, True, False):
        process = started(tmp_path, epochs)
        if kill:
            wait_for(process, history, lines(history) + draw.randint(1, epochs // 3))
            time.sleep(draw.uniform(0, 0.05))
            process.kill()
        errors = process.communicate(timeout=300)[1]
        assert kill or process.returncode == 0, errors
    assert [json.loads(line)["epoch"] for line in history.read_text().splitlines()] == list(range(epochs))
    expected = killed.train(tmp_path / "straight", epochs).variables
    with np.load(tmp_path / "final.npz") as found:
        for name, leaf in zip(found.files, jax.tree.leaves(expected), strict=True):
            np.testing.assert_array_equal(found[name], leaf)


def test_ctrl_c_ends_a_run_with_one_line_and_the_same_command_goes_on(tmp_path: Path) -> None:
    history, epochs = tmp_path / "history.jsonl", 10**6
    process = started(tmp_path, epochs)
    wait_for(process, history, 3)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 130, errors
    assert "stopping after this epoch" in errors
    assert errors.splitlines()[-1].endswith("interrupted; run the same command to continue")
    assert "Traceback" not in errors
    assert "terminate called" not in errors
    done = lines(history)
    assert max(int(path.name) for path in (tmp_path / "checkpoints").glob("[0-9]*")) == done  # all is saved
    again = started(tmp_path, epochs)
    wait_for(again, history, done + 1)
    again.kill()
    again.communicate(timeout=300)
    assert [json.loads(line)["epoch"] for line in history.read_text().splitlines()][:done] == list(
        range(done)
    )


def test_ctrl_c_at_any_moment_does_not_hang(tmp_path: Path) -> None:
    process = started(tmp_path, 10**6)
    wait_for(process, tmp_path / "history.jsonl", 1)
    time.sleep(random.Random().uniform(0, 0.2))
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 130, errors


@pytest.mark.parametrize("ids", [np.array([7, 3, 9]), np.array(["b", "aa"])])
def test_raw_ids_come_back(tmp_path: Path, ids: np.ndarray) -> None:
    digest = keep_vocabulary(tmp_path, {"item": ids})
    np.testing.assert_array_equal(read_vocabulary(tmp_path)["item"], ids)
    assert keep_vocabulary(tmp_path, {"item": ids.copy()}) == digest
    assert keep_vocabulary(tmp_path, {"item": ids[::-1]}) != digest
    np.testing.assert_array_equal(read_vocabulary(tmp_path)["item"], ids[::-1])


def test_raw_ids_that_are_no_ids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="vocabulary 'item' holds float64: raw ids are integers or text"):
        keep_vocabulary(tmp_path, {"item": np.array([1.5])})


def test_a_damaged_vocabulary_is_an_error_and_is_written_anew(tmp_path: Path) -> None:
    keep_vocabulary(tmp_path, {"item": np.arange(50)})
    path = tmp_path / "vocabulary.npz"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"vocabulary\.npz: no readable vocabulary"):
        read_vocabulary(tmp_path)
    keep_vocabulary(tmp_path, {"item": np.arange(50)})
    np.testing.assert_array_equal(read_vocabulary(tmp_path)["item"], np.arange(50))


def test_a_run_on_other_ids_does_not_continue(tmp_path: Path) -> None:
    toy.run(tmp_path, epochs=(2,), stop_after=1, vocabulary={"item": np.array([1, 2])})
    with pytest.raises(ValueError, match="was written by a run with vocabulary="):
        toy.run(tmp_path, epochs=(2,), vocabulary={"item": np.array([2, 1])})


def test_a_refused_run_leaves_the_raw_ids_of_the_one_before(tmp_path: Path) -> None:
    toy.run(tmp_path, epochs=(2,), stop_after=1, vocabulary={"item": np.array(["a", "b"])})
    with pytest.raises(ValueError, match="was written by a run with vocabulary="):
        toy.run(tmp_path, epochs=(2,), vocabulary={"item": np.array(["b", "a"])})
    assert read_vocabulary(tmp_path)["item"].tolist() == ["a", "b"]


def test_raw_ids_that_are_not_those_of_the_checkpoint_are_refused(tmp_path: Path) -> None:
    toy.run(tmp_path, epochs=(1,), vocabulary={"item": np.array(["a", "b"])})
    keep_vocabulary(tmp_path, {"item": np.array(["b", "a"])})  # a file copied from another run
    with pytest.raises(ValueError, match="holds other raw ids than the folder's checkpoints"):
        read_vocabulary(tmp_path)


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(13, "Permission denied"),
        OSError(24, "Too many open files"),
        ValueError("OOM at tensor"),
    ],
    ids=["permission", "files", "memory"],
)
def test_a_checkpoint_that_the_machine_cannot_read_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise error

    with Checkpoints(saved(tmp_path / "c", 1), {}) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, "restore", refuse)
        with pytest.raises(ValueError, match="may well be intact: leave it") as raised:
            checkpoints.restore(ARRAYS)
    assert "remove" not in str(raised.value)
    assert str(error) in str(raised.value)


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (optax.adam(0.1), optax.adamw(0.1)),
        (optax.sgd(0.1), optax.adam(0.1)),
        (optax.adam(0.1), optax.adagrad(0.1)),
        (optax.sgd(0.1), optax.chain(optax.clip(1.0), optax.sgd(0.1))),
    ],
    ids=["adamw", "from sgd", "adagrad", "clip"],
)
def test_a_state_of_another_optimiser_is_told_by_its_tree(tmp_path: Path, before: Any, now: Any) -> None:
    params = {"w": jnp.ones(3)}
    with Checkpoints(tmp_path, {}) as checkpoints:
        checkpoints.save(1, {"opt_state": before.init(params)}, {})
    with (
        Checkpoints(tmp_path, {}) as checkpoints,
        pytest.raises(ValueError, match="another optimiser") as raised,
    ):
        checkpoints.restore({"opt_state": now.init(params)})
    assert "remove" not in str(raised.value)
