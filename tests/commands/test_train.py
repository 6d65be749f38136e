"""`jaxrec train`: runs of each kind from a file to a folder, commands that are repeated, wrong input."""

from __future__ import annotations

import errno
import json
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrec import __main__ as program
from jaxrec import serve
from jaxrec.commands.train import train
from jaxrec.commands.training import run as running
from jaxrec.commands.training.models import chosen, options_type
from jaxrec.commands.training.options import ADDED, described, made
from jaxrec.commands.training.prepared import recommend_command
from jaxrec.commands.training.run import read_command, train_once
from jaxrec.commands.training.sequences import little_evidence
from jaxrec.commands.training.source import source_of
from jaxrec.data.events.interactions import Sequences
from jaxrec.data.events.split import leave_one_out
from jaxrec.report.results import read_results
from jaxrec.report.run_page import write_page
from jaxrec.report.run_parts import read_run
from jaxrec.serve import run_folder
from jaxrec.serve.modules import code_of
from jaxrec.train.fit import fit
from tests.commands.small_data import EVENTS, ITEMS, write_events, write_rows

SMALL = {"dim": 4, "max_len": 6, "batch_size": 8, "num_layers": 1}
SASREC: Mapping[str, Any] = {
    **EVENTS,
    **SMALL,
    "epochs": 2,
    "evaluate_every": 1,
    "seeds": (0, 1),
    "beyond": (3,),
}
MMOE: Mapping[str, Any] = {
    "labels": ("click", "buy"),
    "categorical": ("city", "device"),
    "numeric": ("price",),
    "epochs": 2,
    "batch_size": 64,
    "expert_dims": (4,),
    "tower_dims": (4,),
    "num_experts": 2,
}
DIN: Mapping[str, Any] = {**EVENTS, "dim": 4, "length": 6, "epochs": 1, "batch_size": 32}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write_events(folder / "events.csv")
    write_rows(folder / "rows.csv")
    return folder


@pytest.fixture(scope="module")
def sasrec(files: Path) -> Path:
    train("sasrec", files / "events.csv", run=files / "sasrec", **SASREC)
    return files / "sasrec"


@pytest.fixture(scope="module")
def mmoe(files: Path) -> Path:
    train("mmoe", files / "rows.csv", run=files / "mmoe", **MMOE)
    return files / "mmoe"


def refuse_to_train(*arguments: Any, **options: Any) -> None:
    if options.get("trial") is None:
        raise AssertionError("trained")
    fit(*arguments, **options)  # of a run that is only built, to see which settings it reads


# --- what a run keeps ------------------------------------------------------------------------------------


def test_a_sequence_model_is_kept_with_its_users_and_items(sasrec: Path) -> None:
    kept = run_folder.read(sasrec)
    assert (kept.kind, kept.name, kept.seeds) == ("sequence", "sasrec-bce", (0, 1))
    assert sorted(kept.vocabulary["item"]) == sorted(f"sku{item}" for item in range(ITEMS))
    assert kept.histories is not None and len(kept.histories.offsets) == 24 + 1
    assert kept.protocol.selection == "ndcg@10"
    assert all(len(values) == 2 for values in {**kept.metrics, **kept.validation}.values())
    assert kept.counts is not None and kept.counts[0] == 0
    assert kept.data["file"] == "events.csv" and len(kept.data["sha256"]) == 64
    assert kept.made_by["commit"]


def test_a_table_model_is_kept_with_its_encoders_and_outputs(mmoe: Path) -> None:
    kept = run_folder.read(mmoe)
    assert (kept.kind, kept.outputs) == ("table", {"click": 0, "buy": 1})
    assert kept.columns == {"city": "categorical", "device": "categorical", "price": "numeric"}
    assert kept.encoders is not None and [field.name for field in kept.encoders.fields][:2] == [
        "city",
        "device",
    ]


@pytest.mark.parametrize("model", ["sasrec", "mmoe"])
def test_the_page_of_a_run_has_curves_baselines_and_experts(
    model: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(model)
    parts = read_run(folder)
    assert list(parts.seeds) == list(run_folder.read(folder).seeds)
    assert len(parts.best_epoch) == len(parts.seeds)
    assert [entry["epoch"] for entry in parts.history] == list(range(len(parts.history)))
    assert set(parts.baselines) == ({"random", "popularity"} if model == "sasrec" else {"base-rate"})
    assert (parts.gates is not None) == (model == "mmoe")
    unmeasured = ("Slices by history length and item popularity: they were not measured.",)
    assert parts.missing == (unmeasured if model == "mmoe" else ())
    assert ("coverage@3" in run_folder.read(folder).metrics) == (model == "sasrec")
    assert write_page(folder, tmp_path / "page.html").stat().st_size > 10_000


def test_results_have_the_baselines(sasrec: Path, mmoe: Path) -> None:
    found = {record.result.model: record.result for record in read_results(sasrec / "results")}
    assert set(found) == {"random", "popularity", "sasrec-bce"}
    assert (
        found["popularity"].protocol._replace(loss="bce", selection="ndcg@10")._asdict().items()
        >= {"split": found["sasrec-bce"].protocol.split}.items()
    )
    assert {record.result.model for record in read_results(mmoe / "results")} == {"base-rate", "mmoe"}


def test_the_base_rate_is_the_share_of_training_rows(mmoe: Path) -> None:
    (rate,) = [r.result for r in read_results(mmoe / "results") if r.result.model == "base-rate"]
    assert rate.metrics["auc"] == (0.5,)
    assert 0 < rate.metrics["log_loss/click"][0] < 0.8


def test_a_click_model_is_kept_with_its_histories(files: Path) -> None:
    kept = train("din", files / "events.csv", run=files / "din", **DIN)
    assert (kept.kind, kept.length, kept.outputs) == ("clicks", 6, {"click": None})
    assert kept.columns == {"uid": "user", "sku": "item"}
    assert {r.result.model for r in read_results(files / "din/results")} == {"din", "popularity"}


@pytest.mark.parametrize("model", ["gru4rec"])
def test_a_model_of_sessions_is_kept_with_its_items(model: str, files: Path) -> None:
    options = {**EVENTS, "dim": 4, "batch_size": 4, "epochs": 1, "split": "sessions"}
    kept = train(model, files / "events.csv", run=files / f"sessions-{model}", **options)
    assert (kept.kind, kept.histories, kept.protocol.selection) == ("session", None, "mrr@20")
    (answer,) = serve.load(files / f"sessions-{model}").recommend(histories=[["sku1", "sku2"]], k=2)
    assert len(answer.items) == 2  # a folder that answers: nothing is kept that training alone has
    names = {r.result.model for r in read_results(files / f"sessions-{model}/results")}
    assert names == {f"{model}-ssm", "random", "popularity", "session-popularity", "item-knn"}


@pytest.mark.parametrize(
    ("model", "file", "given", "labelled"),
    [
        ("tests.commands.own_models:LastItems", "events.csv", {**EVENTS, "fields": ("dim=3",)}, False),
        ("tests.commands.own_models:Linear", "rows.csv", {k: MMOE[k] for k in list(MMOE)[:3]}, True),
    ],
)
def test_a_module_of_ones_own_is_trained_by_its_import_path(
    model: str, file: str, given: dict[str, Any], labelled: bool, files: Path
) -> None:
    name = model.rpartition(":")[2]
    kept = train(model, files / file, run=files / name, epochs=1, batch_size=64, **given)
    assert kept.name == (name if labelled else f"{name}-ce")
    assert run_folder.read(files / name).module == kept.module
    assert kept.settings["code"] == code_of("tests.commands.own_models")


def test_python_and_the_command_line_train_alike(files: Path, sasrec: Path) -> None:
    words = ["--data", f"{files}/events.csv", "--run", f"{files}/typed"]
    words += ["--user", "uid", "--item", "sku", "--time", "ts", "--seeds", "0", "1", "--epochs", "2"]
    words += ["--evaluate-every", "1", "--dim", "4", "--max-len", "6", "--batch-size", "8", "--beyond", "3"]
    words += ["--num-layers", "1"]
    assert program.main(["train", "sasrec", *words]) == 0
    typed, called = run_folder.read(files / "typed"), run_folder.read(sasrec)
    assert typed.settings == called.settings
    assert typed.metrics == called.metrics


def test_a_data_frame_is_trained_on_as_its_file_is(files: Path, sasrec: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_csv(files / "events.csv")
    kept = train("sasrec", frame, run=files / "frame", **SASREC)
    assert kept.data["file"] == "a DataFrame"
    assert kept.metrics == run_folder.read(sasrec).metrics
    assert train("sasrec", frame, run=files / "frame", **SASREC).metrics == kept.metrics
    for other in (frame.iloc[:-1], frame.assign(ts=frame.ts + 1), frame.to_dict("list")):
        with pytest.raises(ValueError, match="a finished run with other settings .data: "):
            train("sasrec", other, run=files / "frame", **SASREC)


def test_changed_columns_have_another_checksum() -> None:
    first = source_of({"a": [1, 2], "b": ["x", "y"]})
    assert first.described == source_of({"a": [1, 2], "b": ["x", "y"]}).described
    for other in (
        {"a": [1, 2], "b": ["x", "z"]},
        {"a": [1, 3], "b": ["x", "y"]},
        {"a": [1, 2], "c": ["x", "y"]},
    ):
        assert source_of(other).described != first.described


@pytest.mark.long
def test_changed_vectors_are_other_settings(files: Path, tmp_path: Path) -> None:
    vectors = tmp_path / "vectors.csv"
    options = {**SASREC, "epochs": 1, "beyond": (), "seeds": (0,), "item_vectors": str(vectors)}
    lines = ["sku,a", *(f"sku{item},{item}" for item in range(ITEMS))]
    vectors.write_text("\n".join(lines) + "\n")
    train("sasrec", files / "events.csv", run=tmp_path / "run", **options)
    vectors.write_text("\n".join([*lines[:-1], f"sku{ITEMS - 1},7"]) + "\n")
    with pytest.raises(ValueError, match="item_vectors_sha256"):
        train("sasrec", files / "events.csv", run=tmp_path / "run", **options)


def test_time_ends_a_run_after_an_epoch_and_it_is_evaluated(files: Path, sasrec: Path) -> None:
    options = {**SASREC, "evaluate_every": 2, "minutes": 1e-9}
    kept = train("sasrec", files / "events.csv", run=files / "short", **options)
    assert len(kept.validation["ndcg@10"]) == 2
    (log,) = (files / "short/training").rglob("history.jsonl")
    assert len(log.read_text().splitlines()) == 1


# --- the same command again --------------------------------------------------------------------------------


def test_a_finished_run_is_given_back(
    files: Path, sasrec: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in sasrec.rglob("*")}
    monkeypatch.setattr(running, "read_command", refuse_to_train)
    kept = train("sasrec", files / "events.csv", run=sasrec, **SASREC)
    assert kept.metrics == run_folder.read(sasrec).metrics
    assert "found complete; nothing is trained again" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in sasrec.rglob("*")} == before


@pytest.mark.parametrize(
    "change", [{"dim": 8}, {"seeds": (0,)}, {"split": "user"}, {"loss": "ce"}, {"epochs": 3}]
)
def test_a_run_of_other_settings_is_not_touched(change: dict[str, Any], files: Path, sasrec: Path) -> None:
    (name,) = change
    message = f"a finished run with other settings .{name}: .*, now .*--warm-start"
    with pytest.raises(ValueError, match=message):
        train("sasrec", files / "events.csv", run=sasrec, **{**SASREC, **change})


def test_a_run_of_other_data_is_not_touched(files: Path, sasrec: Path) -> None:
    other = write_events(files / "other.csv", users=20)
    with pytest.raises(ValueError, match="with other settings .data: "):
        train("sasrec", other, run=sasrec, **SASREC)


def test_a_folder_with_other_files_is_not_touched(files: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="has files, but no run of this command; name another"):
        train("sasrec", files / "events.csv", run=tmp_path, **SASREC)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("part", ["sources", "versions"])
def test_a_finished_run_of_other_code_is_given_back_only_where_that_is_accepted(
    part: str, files: Path, sasrec: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(sasrec, run)
    document = json.loads((run / "run.json").read_text())
    document["made_by"][part]["jaxrec" if part == "sources" else "jax"] = "older"
    (run / "run.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match="and this is other code: .*older, now .*--accept-changed-code"):
        train("sasrec", files / "events.csv", run=run, **SASREC)
    kept = train("sasrec", files / "events.csv", run=run, accept_changed_code=True, **SASREC)
    assert kept.metrics == run_folder.read(sasrec).metrics
    document["made_by"][part] = run_folder.read(sasrec).made_by[part]
    document["made_by"]["sources"] |= {"program": "a script that calls"}
    (run / "run.json").write_text(json.dumps(document))
    assert train("sasrec", files / "events.csv", run=run, **SASREC).metrics == kept.metrics


@pytest.mark.parametrize("moment", ["in training", "before testing", "before the folder"])
def test_an_interrupted_run_goes_on_to_the_same_numbers(
    moment: str, files: Path, sasrec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"

    def interrupt(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if moment == "in training":
            patch.setattr(
                "jaxrec.train.reuse.fit", lambda *a, **k: (fit(*a, **{**k, "stop_after": 1}), interrupt())
            )
        elif moment == "before testing":
            patch.setattr(running, "finish", interrupt)
        else:
            patch.setattr(run_folder, "write", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train("sasrec", files / "events.csv", run=run, **SASREC)
    assert not (run / "run.json").exists()
    kept = train("sasrec", files / "events.csv", run=run, **SASREC)
    expected = run_folder.read(sasrec)
    assert kept.metrics == expected.metrics
    np.testing.assert_array_equal(
        kept.variables["params"]["item_embedding"], expected.variables["params"]["item_embedding"]
    )


# --- wrong input --------------------------------------------------------------------------------------------


def words_of(options: Mapping[str, Any]) -> list[str]:
    """Options as they are typed."""
    words = []
    for name, value in options.items():
        values = value if isinstance(value, tuple) else (value,)
        words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return words


LEAK = "a,b,click,zero\n" + "".join(
    f"{row % 3},{row % 5 // 2},{int(row % 5 < 2)},0\n" for row in range(400)
)  # b decides click
LATE = "a,bought,ts\n" + "".join(f"{row % 3},{int(row % 2 and row < 90)},{row}\n" for row in range(100))
TABLE = {name: MMOE[name] for name in ("labels", "categorical", "numeric", "epochs")}
WRONG: Mapping[str, tuple[str, str, dict[str, Any], str]] = {
    "a setting of another model of the recipe": (
        "ngcf",
        "events.csv",
        {**EVENTS, "init_std": 0.5},
        "init_std=0.5: ngcf does not read it, and would be trained as without it; leave it out",
    ),
    "no such model": ("sasrex", "events.csv", {}, "no model 'sasrex': the nearest is 'sasrec'"),
    "no such module": ("no_such.module:Model", "events.csv", {}, "no_such"),
    "no module": (
        "tests.commands.own_models:not_a_module",
        "events.csv",
        {},
        "is no class of a flax",
    ),
    "no such class": (
        "tests.commands.own_models:Nope",
        "events.csv",
        {},
        "tests.commands.own_models has no Nope; it has LastItems, Linear",
    ),
    "another delimiter": ("sasrec", "semicolons.csv", EVENTS, "(--delimiter ';')"),
    "a leaking column": (
        "mmoe",
        "leak.csv",
        {"labels": ("click",), "categorical": ("a", "b")},
        "name it in allow=('b',) (--allow b)",
    ),
    "one label only": (
        "mmoe",
        "leak.csv",
        {"labels": ("zero",), "categorical": ("a",)},
        "label zero is 0 in every row",
    ),
    "one class in a part": (
        "mmoe",
        "late.csv",
        {"labels": ("bought",), "categorical": ("a",), "time": "ts", "split": "time"},
        "label bought is 0 in every row of test",
    ),
    "no such field": (
        "tests.commands.own_models:LastItems",
        "events.csv",
        {**EVENTS, "fields": ("dims=3",)},
        "LastItems has no field 'dims'; the nearest is 'dim'",
    ),
    "a field of the data": (
        "tests.commands.own_models:LastItems",
        "events.csv",
        {**EVENTS, "fields": ("num_items=3",)},
        "num_items=3: the data decide it",
    ),
    "no file": ("sasrec", "nothing.csv", EVENTS, "there is no such file"),
    "no column": ("sasrec", "events.csv", {**EVENTS, "item": "article"}, "no item column 'article' among"),
    "no user column": ("sasrec", "events.csv", {**EVENTS, "user": "u"}, "name it with user=... (--user)"),
    "no time": ("hstu", "events.csv", {**EVENTS, "time": ""}, "has no times, which hstu reads"),
    "split by no time": ("sasrec", "events.csv", {**EVENTS, "time": "", "split": "time"}, "needs times"),
    "an unknown split": ("sasrec", "events.csv", {**EVENTS, "split": "year"}, "--split"),
    "too few events": ("sasrec", "few.csv", EVENTS, "few.csv"),
    "nothing left": ("sasrec", "events.csv", {**EVENTS, "k_core": 100}, "events.csv"),
    "an empty file": ("sasrec", "empty.csv", EVENTS, "empty.csv"),
    "an unknown option": ("sasrec", "events.csv", {"usr": "uid"}, "unknown option --usr: the nearest"),
    "no number": ("sasrec", "events.csv", {**EVENTS, "dim": "wide"}, "wide"),
    "dim 0": ("sasrec", "events.csv", {**EVENTS, "dim": 0}, "dim=0: must be at least 1"),
    "a learning rate": (
        "sasrec",
        "events.csv",
        {**EVENTS, "learning_rate": -1.0},
        "learning_rate=-1.0: must",
    ),
    "minutes": ("sasrec", "events.csv", {**EVENTS, "minutes": -1.0}, "minutes=-1.0: must be positive"),
    "devices": ("sasrec", "events.csv", {**EVENTS, "num_devices": 64}, "num_devices=64: this process has"),
    "parts": ("sasrec", "events.csv", {**EVENTS, "accumulate_steps": 0}, "accumulate_steps=0: must be at"),
    "parts of a count": (
        "ease",
        "events.csv",
        {**EVENTS, "accumulate_steps": 2},
        "ease is counted or solved",
    ),
    "a seed twice": ("sasrec", "events.csv", {**EVENTS, "seeds": (1, 1)}, "seeds"),
    "no label": ("mmoe", "rows.csv", {**TABLE, "labels": ()}, "labels"),
    "no such label": ("mmoe", "rows.csv", {**TABLE, "labels": ("like",)}, "'like'"),
    "a label of prices": ("mmoe", "rows.csv", {**TABLE, "labels": ("price",), "numeric": ()}, "price"),
    "a column of text": ("mmoe", "rows.csv", {**TABLE, "numeric": ("city",), "categorical": ()}, "city"),
    "labels in no order": (
        "esmm",
        "rows.csv",
        {**TABLE, "labels": ("buy", "click")},
        "each label of a f",
    ),
    "no scenario": (
        "star",
        "rows.csv",
        {**TABLE, "labels": ("click",)},
        "scenario='': is none of",
    ),
    "no such run": ("sasrec", "events.csv", {**EVENTS, "warm_start": "nowhere"}, "nowhere: no such folder"),
    "no such vectors": ("sasrec", "events.csv", {**EVENTS, "item_vectors": "x.npy"}, "item_vectors='x.npy'"),
    "other data": ("nann", "events.csv", {}, "nann: is not trained by this command: it needs"),
    "negatives of sessions": ("sasrec", "events.csv", {**EVENTS, "split": "sessions"}, "use --loss ce"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_line_before_anything_is_written(
    case: str,
    files: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, file, given, message = WRONG[case]
    (files / "few.csv").write_text("uid,sku,ts\nu1,a,1\nu2,b,2\n")
    (files / "empty.csv").write_text("")
    (files / "semicolons.csv").write_text("uid;sku;ts\nu1;a;1\n")
    (files / "leak.csv").write_text(LEAK)
    (files / "late.csv").write_text(LATE)
    monkeypatch.setattr("jaxrec.train.reuse.fit", refuse_to_train)
    run = tmp_path / "run"
    try:
        code = program.main(
            ["train", model, "--data", f"{files}/{file}", "--run", f"{run}", *words_of(given)]
        )
    except SystemExit as stop:  # of the command line's own errors
        code = int(stop.code or 0)
    printed = capsys.readouterr()
    assert code == 2
    assert message in " ".join(printed.err.split())
    if case not in ("an unknown split", "no number"):  # tyro draws a box around these
        assert printed.err.count("\n") == 1
    assert not run.exists()


def test_delimiter_real_ids_and_allowed_columns_reach_the_readers(files: Path) -> None:
    text = (files / "events.csv").read_text().replace(",", ";").replace("sku1;", "NA;")
    (files / "other_marks.csv").write_text(text)
    (files / "leak.csv").write_text(LEAK.replace(",", ";"))
    options = {**EVENTS, "delimiter": ";", "real_ids": ("NA",)}
    events = read("sasrec", files / "other_marks.csv", **options)
    assert "NA" in list(events.data.split.sequences.item_ids)
    sessions = read("gru4rec", files / "other_marks.csv", split="sessions", **options)
    assert "NA" in list(sessions.data.split.item_ids)
    columns = {"labels": ("click",), "categorical": ("a", "b"), "delimiter": ";"}
    assert read("mmoe", files / "leak.csv", allow=("b",), **columns).labelled.split.allow == ("b",)


def test_settings_that_runs_of_before_do_not_name_are_kept_only_where_they_are_given() -> None:
    kind = options_type(chosen("mmoe", labelled=False)[1])
    assert not set(ADDED) & set(described(made(kind, {})))
    assert described(made(kind, {"allow": ("b",)}))["allow"] == ("b",)


def test_a_folder_that_cannot_be_written_is_named_before_the_data_are_read(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path))

    monkeypatch.setattr(running, "read_command", refuse_to_train)
    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    words = ["--data", f"{files}/events.csv", "--run", f"{tmp_path}/run"]
    assert program.main(["train", "sasrec", *words]) == 2
    error = capsys.readouterr().err
    assert f"nothing can be written in {tmp_path} (Permission denied); see that it can be" in error
    assert "make room" not in error


def test_what_to_type_next_is_quoted_for_a_shell() -> None:
    words = shlex.split(recommend_command("ann's \u00e9 $1"))
    assert words == ["jaxrec", "recommend", "RUN", "--user", "ann's \u00e9 $1", "--k", "10"]


def test_metrics_that_say_little_are_noted() -> None:
    def sequences(*users: list[int]) -> Sequences:
        offsets = np.cumsum([0, *map(len, users)])
        items = np.concatenate(users).astype(np.int32)
        ids = np.arange(len(users)), np.arange(4)
        return Sequences("toy", items, None, offsets.astype(np.int64), *ids, 4)

    every, few = [1, 2, 3, 4], [1, 2, 1, 3]
    (note,) = little_evidence(leave_one_out(sequences(every, few)), "exclude")
    assert "toy: 1 of 2 test targets are the only candidate" in note
    assert little_evidence(leave_one_out(sequences(every, few)), "keep") == []
    assert little_evidence(leave_one_out(sequences(few, few)), "exclude") == []
    assert little_evidence(leave_one_out(sequences([*every[:3], 3], few)), "exclude") == []  # seen: a miss
    (note,) = little_evidence(leave_one_out(sequences(few)), "exclude")
    assert note == "toy: has one user, so the metrics say nothing of others"


def test_an_option_of_python_that_does_not_exist_names_the_nearest(files: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="learning_rat=1: no such option; the nearest is 'learning_rate'"):
        train("sasrec", files / "events.csv", run=tmp_path / "run", learning_rat=1)


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        ("sasrec", {"split": "tme"}, "split='tme': must be one of last, time, user, sessions"),
        ("sasrec", {"loss": "bse"}, "loss='bse': must be one of bce, ce, bpr"),
        ("hstu", {"dtype": "float16"}, "dtype='float16': must be one of float32, bfloat16"),
        ("sasrec", {"real_ids": "NA"}, r"real_ids='NA': must be several values, such as \('NA',\)"),
        ("ticoserec", {"temperature": 0.0}, "temperature=0.0: must be positive and finite"),
        ("din-mba", {"mba": -1.0}, "mba=-1.0: must be positive, or 0"),
        ("stamp", {"clip": -1.0}, "clip=-1.0: must be positive, or 0"),
        ("mult-vae", {"anneal_epochs": -1}, "anneal_epochs=-1: must be positive, or 0"),
        ("mult-vae", {"beta": -1.0}, "beta=-1.0: must be 0 or more"),
        ("macridvae", {"prior_std": -1.0}, "prior_std=-1.0: must be positive, or 0"),
        ("mf-ccl", {"l2": -1.0}, "l2=-1.0: must be positive, or 0"),
        ("octopus", {"penalty": -1.0}, "penalty=-1.0: must be positive, or 0"),
        ("bpr-mf", {"init_std": 0.0}, "init_std=0.0: must be positive and finite"),
        ("dfn", {"num_heads": 0}, "num_heads=0: must be at least 1"),
        ("sasrec", {"epochs": 1.5}, "epochs=1.5: 1.5 is not a whole number"),
        ("sasrec", {"epochs": True}, "epochs=True: True is not a whole number"),
        ("sasrec", {"batch_size": "8"}, "batch_size='8': '8' is not a whole number"),
        ("sasrec", {"beyond": (10, 2.5)}, r"beyond=\(10, 2.5\): 2.5 is not a whole number"),
        ("sasrec", {"learning_rate": "fast"}, "learning_rate='fast': 'fast' is not a number"),
        ("sasrec", {"keep_seen": "no"}, "keep_seen='no': 'no' is not True or False"),
    ],
)
def test_a_value_that_no_option_has_is_refused_in_python_too(
    model: str, given: dict[str, Any], message: str, files: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        train(model, files / "events.csv", run=tmp_path / "run", **EVENTS, **given)
    assert not (tmp_path / "run").exists()


# --- what a sweep calls -------------------------------------------------------------------------------------


def read(model: str, path: Path, **given: Any) -> Any:
    name, entry = chosen(model, labelled=False)
    options = made(options_type(entry), {"data": str(path), "run": "unused", **given})
    return read_command(name, entry, options, source_of(options.data)).data


def command_of(files: Path, model: str, **given: Any) -> Any:
    name, entry = chosen(model, labelled=False)
    options = made(options_type(entry), {"data": f"{files}/events.csv", "run": "unused", **given})
    return read_command(name, entry, options, source_of(options.data))


def test_train_once_gives_the_validation_metric_of_overridden_options(
    files: Path, sasrec: Path, tmp_path: Path
) -> None:
    command = command_of(files, "sasrec", **{**SASREC, "learning_rate": 0.5})
    found = train_once(command, {"learning_rate": 1e-3}, workdir=tmp_path)
    kept = run_folder.read(sasrec)
    assert found.metric == "ndcg@10"
    assert found.value == pytest.approx(np.mean(kept.validation["ndcg@10"]), abs=1e-12)
    assert not (tmp_path / "run.json").exists()


@pytest.mark.parametrize(
    ("model", "overrides", "message"),
    [
        ("sasrec", {"dims": 3}, "no option dims"),
        ("sasrec", {"dim": 0}, "dim=0"),
        (
            "sasrec",
            {"split": "time", "dim": 8},
            "overrides: split: no setting of the recipe, the loss or the",
        ),
        (
            "ngcf",
            {"init_std": 0.5},
            "init_std=0.5: ngcf does not read it, and would be trained as without it",
        ),
    ],
)
def test_train_once_refuses_wrong_overrides(
    model: str, overrides: dict[str, Any], message: str, files: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        train_once(command_of(files, model, **EVENTS), overrides, workdir=tmp_path)
    assert not list(tmp_path.iterdir())
