"""History and summary on disk while a run goes on, and their fields as docs/running.md documents them."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import optax
import pytest

from jaxrec.optim.gradient_balancing import pcgrad
from jaxrec.train.fit import Fitted, Phase, fit
from jaxrec.train.logs import Logs, write_training
from tests.train import toy

ROOT = Path(__file__).parent.parent.parent
ENTRIES = [{"epoch": n, "phase": "plain", "loss": [0.5 / (n + 1), 0.25], "seconds": 1.5} for n in range(4)]


def read(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def documented(file: str) -> list[str]:
    """The fields in the first column of a file's table in docs/running.md, in their order."""
    text = (ROOT / "docs" / "running.md").read_text(encoding="utf-8").split(f"**`{file}`.**")[1]
    rows = text.split("| --- | --- | --- |\n")[1].split("\n\n")[0]
    return re.findall(r"^\| `([^`]+)` \|", rows, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Fitted]:
    """Two seeds, two losses balanced by their gradients, three epochs of which the second is evaluated."""
    folder, task = tmp_path_factory.mktemp("trained"), toy.factors()

    def losses(*args: Any) -> Any:
        found, rest = task.losses(*args)
        return {**found, "half": 0.5 * found["bce"]}, rest

    fitted = fit(
        [Phase("p0", task._replace(losses=losses), 3, pcgrad(["items"]))],
        optax.adam(0.05),
        toy.plan(),
        toy.context(),
        toy.selection(every=2),
        seeds=(3, 7),
        workdir=folder,
        description={"model": "factors"},
        progress=False,
    )
    return folder, fitted


def test_every_epoch_is_on_disk_as_soon_as_it_is_written(tmp_path: Path) -> None:
    logs = Logs(tmp_path, [])
    for count, entry in enumerate(ENTRIES, 1):
        logs.write(entry)
        assert read(tmp_path) == ENTRIES[:count]
    logs.close()
    assert [path.name for path in tmp_path.iterdir()] == ["history.jsonl"]


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


def test_the_fields_of_a_history_are_those_documented(trained: tuple[Path, Fitted]) -> None:
    names = {"bce": "<loss>", "half": "<loss>", "bce:half": "<a>:<b>"}

    def generic(name: str) -> str:
        kind, _, of = name.rpartition("/")
        return "valid/<metric>" if kind == "valid" else f"{kind}/{names[of]}" if kind else names.get(of, of)

    plain, evaluated, _ = ({generic(name) for name in entry} for entry in read(trained[0]))
    assert evaluated == set(documented("history.jsonl"))
    assert plain == evaluated - {"valid/<metric>"}
    for entry in read(trained[0]):
        lists = [name for name in entry if name not in ("epoch", "phase", "train_seconds", "seconds")]
        assert all(len(entry[name]) == 2 for name in lists)
        assert 0 < entry["train_seconds"] <= entry["seconds"]


def test_training_json_says_what_the_run_has_found(trained: tuple[Path, Fitted]) -> None:
    folder, fitted = trained
    training = json.loads((folder / "training.json").read_text())
    assert list(training) == documented("training.json")
    assert training["best_epoch"] == fitted.best_epoch
    assert training["best_value"] == fitted.best_value
    assert (training["seeds"], training["metric"]) == ([3, 7], toy.METRIC)
    assert (training["phases"], training["epochs"], training["complete"]) == ([["p0", 3]], 3, True)
    assert training["seconds"] == pytest.approx(sum(entry["seconds"] for entry in fitted.history))
    assert training["made_by"][0]["first_epoch"] == 0


def test_training_json_of_an_interrupted_run_is_not_complete(tmp_path: Path) -> None:
    toy.run(tmp_path, epochs=(3,), stop_after=1)
    training = json.loads((tmp_path / "training.json").read_text())
    assert (training["epochs"], training["complete"]) == (1, False)


def test_a_write_that_fails_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_training(tmp_path, {"epochs": 1})

    def fail(*paths: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="No space left"):
        write_training(tmp_path, {"epochs": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["training.json"]
    assert json.loads((tmp_path / "training.json").read_text()) == {"epochs": 1}


# --- TensorBoard -----------------------------------------------------------------------------------


def test_event_files_are_written_if_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed: the extra `tensorboard`")
    logs = Logs(tmp_path, [], tensorboard=True)
    logs.write(ENTRIES[0])
    logs.close()
    assert list((tmp_path / "tensorboard").iterdir()) != []


def test_without_tensorboardx_a_run_trains_and_the_option_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxrec\[tensorboard\]'"):
        toy.run(tmp_path / "a", tensorboard=True)
    assert not (tmp_path / "a").exists()  # found before anything is trained or written
    toy.run(tmp_path / "b")
    assert not (tmp_path / "b" / "tensorboard").exists()
