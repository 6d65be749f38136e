"""`jaxrec train peterrec`: a run of nextitnet is adapted to the classes of users, and classes are scored."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxrec import serve
from jaxrec.commands.train import train
from jaxrec.commands.training.transfer import RULE, Labelled, split
from jaxrec.nn.sequential.peterrec import PeterRec, trainable
from jaxrec.report.results import read_results
from jaxrec.serve import run_folder
from jaxrec.serve.export import export
from tests.commands.small_data import EVENTS, ITEMS, write_events

USERS, UNLABELLED, MAX_LEN = 24, 4, 6
SOURCE: dict[str, Any] = {
    **EVENTS, "dim": 8, "dilations": (1,), "max_len": MAX_LEN, "batch_size": 8, "epochs": 1,
}  # fmt: skip
SMALL: dict[str, Any] = {**EVENTS, "max_len": MAX_LEN, "batch_size": 8, "epochs": 2, "label": "kind"}


def write_labels(path: Path, lines: list[str] | None = None, header: str = "uid,kind") -> Path:
    """A class of each user but the last ones, and of one who has no event."""
    made = [f"u{user},{('even', 'odd')[user % 2]}" for user in range(USERS - UNLABELLED)]
    path.write_text("\n".join([header, *(made if lines is None else lines), "stranger,odd"]) + "\n")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("transfer")
    write_events(folder / "events.csv")
    write_labels(folder / "labels.csv")
    train("nextitnet", folder / "events.csv", run=folder / "source", **SOURCE)
    return folder


def adapted(folder: Path, run: str, **given: Any) -> run_folder.Kept:
    options = {"warm_start": str(folder / "source"), "user_labels": str(folder / "labels.csv"), **given}
    return train("peterrec", folder / "events.csv", run=folder / run, **{**SMALL, **options})


@pytest.fixture(scope="module")
def run(folder: Path) -> serve.Run:
    adapted(folder, "run", seeds=(0, 1))
    return serve.load(folder / "run", seed=0)


def expected(run: serve.Run, seed: int, histories: list[list[Any]]) -> np.ndarray:
    """Probabilities of the classes by the module itself, [N, T]."""
    params = jax.tree.map(lambda leaf: leaf[run.kept.seeds.index(seed)], dict(run.kept.variables))
    raw = run.vocabulary["item"].tolist()
    items = np.zeros((len(histories), MAX_LEN), np.int32)
    items[:, -1] = ITEMS + 1  # the token
    for row, history in zip(items, histories, strict=True):
        recent = [1 + raw.index(item) for item in history[-(MAX_LEN - 1) :]]
        row[MAX_LEN - 1 - len(recent) : -1] = recent
    hidden = run.module.apply(params, items, train=False)[:, -1]
    return np.asarray(jax.nn.softmax(hidden @ params["params"]["head"][1:].T))


def history_of(run: serve.Run, user: str) -> list[Any]:
    assert run.kept.histories is not None
    items, offsets = run.kept.histories[:2]
    at = run.vocabulary["user"].tolist().index(user)
    found: list[Any] = run.vocabulary["item"][items[offsets[at] : offsets[at + 1]] - 1].tolist()
    return found


def test_only_patches_and_head_differ_from_the_run_that_was_adapted(folder: Path, run: serve.Run) -> None:
    assert isinstance(run.module, PeterRec)
    before, after = run_folder.read(folder / "source").variables["params"], run.kept.variables["params"]
    rows = ITEMS + 1
    for seed in (0, 1):
        np.testing.assert_array_equal(after["item_embedding"][seed, :rows], before["item_embedding"][0])
        for name in ("conv_1", "conv_2", "norm_1", "norm_2"):
            here = jax.tree.map(lambda leaf, s=seed: leaf[s], after["layer_0"][name])
            there = jax.tree.map(lambda leaf: leaf[0], before["layer_0"][name])
            jax.tree.map(np.testing.assert_array_equal, here, there)
    own = trainable(jax.tree.map(lambda leaf: leaf[0], after))
    assert own["head"] and own["layer_0"]["patch_1"]["up"]["kernel"] and not own["item_embedding"]
    assert np.abs(after["head"][0] - after["head"][1]).max() > 0  # drawn by seed


def test_a_run_is_measured_beside_its_floors(folder: Path, run: serve.Run) -> None:
    found = {record.result.model: record.result for record in read_results(folder / "run" / "results")}
    assert set(found) == {"random", "popularity", "peterrec-serial-ce"}
    assert set(found["peterrec-serial-ce"].metrics) >= {"accuracy", "log_loss", "auc"}
    assert (run.kept.kind, run.protocol.selection, run.protocol.split) == ("profile", "log_loss", RULE)
    assert run.kept.outputs == {"even": 0, "odd": 1}


@pytest.mark.parametrize("seed", [0, "mean"])
def test_users_are_scored_by_the_modules_own_probabilities(
    folder: Path, run: serve.Run, seed: Any, tmp_path: Path
) -> None:
    users = ["u3", f"u{USERS - 1}"]  # one with a class, one without
    histories = [history_of(run, user) for user in users]
    each = [expected(run, number, histories) for number in ((0, 1) if seed == "mean" else (0,))]
    loaded = serve.load(folder / "run", seed=seed)
    (tmp_path / "users.csv").write_text("uid,other\n" + "".join(f"{user},x\n" for user in users))
    found = loaded.score(tmp_path / "users.csv")
    assert list(found) == ["even", "odd"]
    np.testing.assert_allclose(np.stack([*found.values()], axis=1), np.mean(each, axis=0), atol=1e-6)
    by_history = loaded.classify(histories)
    for name, values in found.items():
        np.testing.assert_allclose(by_history[name], values, atol=1e-6)


def test_an_exported_run_answers_alike(run: serve.Run, tmp_path: Path) -> None:
    pytest.importorskip("flatbuffers", reason="flatbuffers (extra `export`) is not installed")
    export(run, tmp_path / "export")
    spec = importlib.util.spec_from_file_location("reader", tmp_path / "export" / "reader.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    reader, histories = module.Reader(tmp_path / "export"), [["sku1"], [f"sku{item}" for item in range(9)]]
    found, theirs = reader.classify(histories), run.classify(histories)
    for name, values in theirs.items():
        np.testing.assert_allclose(found[name], values, atol=1e-6)
    with pytest.raises(ValueError, match="items that the run does not know: sku99"):
        reader.classify([["sku99"]])
    with pytest.raises(ValueError, match="none that is empty"):
        reader.classify([[]])


def test_what_a_run_does_not_know_is_named(run: serve.Run) -> None:
    with pytest.raises(ValueError, match="a profile run scores users; use score"):
        run.recommend(["u1"])
    with pytest.raises(ValueError, match="u99"):
        run.score({"uid": ["u99"]})
    with pytest.raises(ValueError, match="sku99"):
        run.classify([["sku99"]])
    with pytest.raises(ValueError, match="history 1 is empty"):
        run.classify([["sku1"], []])
    with pytest.raises(ValueError, match="a profile run has no vectors"):
        run.embed("users")


def test_the_head_alone_is_trained_and_classes_are_ranked(folder: Path) -> None:
    kept = adapted(folder, "head", how="head", ranked=True, epochs=1)
    assert kept.name == "peterrec-head-ce" and kept.protocol.selection == "mrr@5"
    assert set(kept.metrics) == {"hit@5", "mrr@5", "log_loss"}
    assert "patch_1" not in kept.variables["params"]["layer_0"]


def bad_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Files by the error that they give."""
    lines = [f"u{user},{user % 2}" for user in range(USERS)]
    made = {
        "user 'u0' has two lines": write_labels(folder / "two.csv", [*lines, "u0,1"]),
        "'kind' is missing; fill it in": write_labels(folder / "empty.csv", [*lines[1:], "u0,"]),
        "at least two classes must have 3 users": write_labels(folder / "one.csv", ["u0,a", "u1,a", "u2,a"]),
        "labels.csv: .*kind": write_labels(folder / "other" / "labels.csv", lines, "uid,sort"),
    }
    return {message: {"user_labels": str(path)} for message, path in made.items()}


def test_wrong_files_and_options_are_refused_before_training(folder: Path, tmp_path: Path) -> None:
    (folder / "other").mkdir()
    write_events(tmp_path / "new.csv", first_item=3)
    cases: dict[str, dict[str, Any]] = {
        **bad_files(folder),
        "warm_start='': the model adapts a finished run of nextitnet": {"warm_start": ""},
        "user_labels='': name the file with the class": {"user_labels": ""},
        "grow=True: the items are those of the run already": {"grow": True},
        "norms=True: is of patches": {"norms": True, "how": "head"},
        "max_len=1: must be at least 2": {"max_len": 1},
        "how='both': must be one of serial, parallel, head, full": {"how": "both"},
        "not a finished run": {"warm_start": str(folder)},
    }
    for message, given in cases.items():
        with pytest.raises(ValueError, match=message):
            adapted(folder, "bad", **given)
    with pytest.raises(FileNotFoundError, match="user_labels=.*there is no such file"):
        adapted(folder, "bad", user_labels=str(tmp_path / "none.csv"))
    options = {**SMALL, "warm_start": str(folder / "source"), "user_labels": str(folder / "labels.csv")}
    with pytest.raises(ValueError, match="3 items that the run in .* does not know, such as 'sku1"):
        train("peterrec", tmp_path / "new.csv", run=folder / "bad", **options)
    assert not (folder / "bad").exists()


def test_runs_of_other_models_and_seeds_are_refused(folder: Path, run: serve.Run) -> None:
    with pytest.raises(ValueError, match="is a run of peterrec; name one of nextitnet"):
        adapted(folder, "bad", warm_start=run.path)
    source = run_folder.read(folder / "source")
    two = jax.tree.map(lambda leaf: np.concatenate([leaf, leaf]), dict(source.variables))
    metrics = {name: values * 2 for name, values in source.metrics.items()}
    valid = {name: values * 2 for name, values in source.validation.items()}
    changed = source._replace(variables=two, seeds=(0, 1), metrics=metrics, validation=valid)
    run_folder.write(folder / "two", changed)
    with pytest.raises(ValueError, match="has 2 seeds and this run 3; give as many"):
        adapted(folder, "bad", warm_start=str(folder / "two"), seeds=(0, 1, 2))
    narrow = source._replace(module=source.module.clone(bottleneck=True))
    run_folder.write(folder / "narrow", narrow)
    with pytest.raises(ValueError, match="patches go into blocks of two convolutions"):
        adapted(folder, "bad", warm_start=str(folder / "narrow"))


def test_each_class_is_split_and_rare_ones_are_for_training(folder: Path) -> None:
    labels = np.array([1] * 20 + [2] * 10 + [3] * 2 + [0] * 3, np.int32)
    lengths = np.ones(len(labels), np.int64)
    sequences: Any = run_folder.Histories(
        np.arange(1, len(labels) + 1, dtype=np.int32), np.concatenate([[0], np.cumsum(lengths)])
    )
    named: Any = _Named(*sequences[:2])
    found = split(Labelled(named, labels, ("a", "b", "c")), ranked=False, task="x")
    label = found.columns["label"]
    counts = [np.bincount(label[part], minlength=4)[1:].tolist() for part in found[5:8]]
    assert counts == [[16, 8, 2], [2, 1, 0], [2, 1, 0]]
    assert sorted(np.concatenate(found[5:8]).tolist()) == list(range(32))
    np.testing.assert_array_equal(label[found.columns["items"] - 1], labels[:32])


class _Named:
    """Sequences of 40 items."""

    name, num_items = "x", 40

    def __init__(self, items: np.ndarray, offsets: np.ndarray) -> None:
        self.items, self.offsets = items, offsets
