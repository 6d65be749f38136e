"""Results on disk: round trip, atomicity, what replaces what, every way a file can be wrong."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.provenance import FOLDER_FIELDS
from jaxrec.report import results
from tests.report.results_for_tests import MANIFEST, example


def test_round_trip(tmp_path: Path) -> None:
    path = results.write_result(example(), tmp_path, manifest=MANIFEST)
    assert path == tmp_path / "ticoserec/Beauty/sasrec-bce.json"
    config = {"max_len": 50, "rates": [0.1, 0.2], "workdir": "runs/a"}
    assert results.read_result(path) == results.Record(example(config=config), MANIFEST, path=path)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5))
def test_any_finite_values_come_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, values: list[float]
) -> None:
    folder = tmp_path_factory.mktemp("results")
    result = example(seeds=tuple(range(len(values))), metrics={"auc": tuple(values)})
    assert results.read_result(results.write_result(result, folder)).result.metrics["auc"] == tuple(values)


def test_file_holds_mean_and_sample_deviation(tmp_path: Path) -> None:
    entry = json.loads(results.write_result(example(), tmp_path).read_text())["metrics"]["ndcg@10"]
    assert entry["mean"] == pytest.approx((0.25 + 0.35) / 2)
    assert entry["std"] == pytest.approx(np.std([0.25, 0.35], ddof=1))


def test_one_seed_has_no_deviation(tmp_path: Path) -> None:
    path = results.write_result(example(seeds=(3,), metrics={"auc": (0.5,)}), tmp_path)
    assert json.loads(path.read_text())["metrics"]["auc"]["std"] is None
    assert results.read_result(path).result.seeds == (3,)


def test_numpy_scalars_and_paths_become_plain(tmp_path: Path) -> None:
    config = {"rate": np.float32(0.5), "count": np.int32(3), "file": Path("a/b"), "on": True, "none": None}
    path = results.write_result(example(config=config), tmp_path)
    expected = {"rate": 0.5, "count": 3, "file": "a/b", "on": True, "none": None}
    assert results.read_result(path).result.config == expected


def test_the_reason_why_numbers_do_not_compare_comes_back(tmp_path: Path) -> None:
    path = results.write_result(example(incomparable="other columns"), tmp_path)
    assert results.read_result(path).result.incomparable == "other columns"


def test_a_file_of_before_that_field_compares(tmp_path: Path) -> None:
    path = results.write_result(example(), tmp_path)
    document = json.loads(path.read_text())
    del document["incomparable"]
    path.write_text(json.dumps(document))
    assert (
        results.read_result(path).result
        == results.read_result(results.write_result(example(), tmp_path)).result
    )
    assert results.read_result(path).result.incomparable == ""


@pytest.mark.parametrize("baseline", [True, False])
def test_whether_a_row_is_a_baseline_comes_back(tmp_path: Path, baseline: bool) -> None:
    for steps in (0, 1000):
        path = results.write_result(example(baseline=baseline, steps=steps), tmp_path)
        assert results.read_result(path).result.baseline is baseline


@pytest.mark.parametrize(
    ("steps", "protocol", "baseline"),
    [
        (0, {"selection": "none"}, True),
        (0, {"selection": "recall@20"}, True),  # settings chosen on validation
        (1000, {"selection": "none"}, False),
        (0, {"selection": "metrics, by the authors"}, False),  # a published checkpoint
        (0, {"selection": "none", "split": "none"}, False),  # times
    ],
)
def test_a_file_of_before_the_field_is_a_baseline_if_nothing_was_trained(
    tmp_path: Path, steps: int, protocol: dict[str, str], baseline: bool
) -> None:
    result = example(steps=steps, protocol=example().protocol._replace(**protocol), baseline=not baseline)
    path = results.write_result(result, tmp_path)
    document = json.loads(path.read_text())
    del document["baseline"]
    path.write_text(json.dumps(document))
    assert results.read_result(path).result.baseline is baseline


def test_a_reason_without_published_numbers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="are not comparable, without such values"):
        results.write_result(example(published={}, source="", incomparable="other columns"), tmp_path)


# --- what replaces what -----------------------------------------------------------------------------


@pytest.mark.parametrize("place", FOLDER_FIELDS)
def test_same_configuration_replaces(tmp_path: Path, place: str) -> None:
    first = results.write_result(example(), tmp_path)
    moved = {**example().config, place: "somewhere/else"}
    again = example(config=moved, metrics={"ndcg@10": (0.1, 0.2)})
    assert results.write_result(again, tmp_path) == first
    [record] = results.read_results(tmp_path)
    assert record.result.metrics == {"ndcg@10": (0.1, 0.2)}


@pytest.mark.parametrize(
    "changes",
    [
        {"config": {"max_len": 20}},
        {"protocol": example().protocol._replace(seen="zero")},
        {"seeds": (0, 2)},
    ],
    ids=["config", "protocol", "seeds"],
)
def test_anything_measured_otherwise_is_stored_beside(tmp_path: Path, changes: dict[str, Any]) -> None:
    first = results.write_result(example(), tmp_path)
    before = first.read_bytes()
    other = example(**changes)
    second = results.write_result(other, tmp_path)
    assert first.read_bytes() == before
    assert second.name == f"sasrec-bce.{results.result_hash(other)}.json"
    assert [record.variant for record in results.read_results(tmp_path)] == ["", results.result_hash(other)]
    assert results.write_result(other, tmp_path) == second


def test_identity_does_not_depend_on_the_order_of_fields() -> None:
    backwards = dict(reversed(list(example().config.items())))
    assert results.result_hash(example(config=backwards)) == results.result_hash(example())


def test_read_all_sorts_and_passes_over_other_files(tmp_path: Path) -> None:
    for model in ("b", "a"):
        results.write_result(example(model=model), tmp_path)
    (tmp_path / "speed.json").write_text("[]")
    (tmp_path / "ticoserec/Beauty/.c.json.tmp").write_text("half")
    assert [record.result.model for record in results.read_results(tmp_path)] == ["a", "b"]


def test_read_all_of_no_folder_is_empty(tmp_path: Path) -> None:
    assert results.read_results(tmp_path / "absent") == []


# --- atomicity ------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = results.write_result(example(), tmp_path)
    before = path.read_bytes()

    def full_disk(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, call, full_disk)
    with pytest.raises(OSError, match="no space left"):
        results.write_result(example(note="again"), tmp_path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_refused_result_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be finite"):
        results.write_result(example(metrics={"auc": (math.nan, 0.5)}), tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- results that are refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": {"auc": (0.5, math.nan)}}, r"metric auc, seed 1: nan: must be finite"),
        ({"metrics": {"auc": (math.inf, 0.5)}}, r"metric auc, seed 0: inf: must be finite"),
        ({"metrics": {"auc": (0.5,)}}, r"metric auc: 1 values for 2 seeds"),
        ({"metrics": {}}, "no metrics"),
        ({"seeds": (), "metrics": {"auc": ()}}, r"seeds \[\]"),
        ({"seeds": (1, 1)}, "one occurs twice"),
        ({"published": {"auc": math.nan}}, "published"),
        ({"source": ""}, "published values without a source"),
        ({"steps": -1}, "steps=-1"),
        ({"seconds": math.inf}, "seconds"),
        ({"config": {"rate": math.nan}}, r"config.rate=nan: JSON cannot represent it"),
        ({"config": {"f": math.sin}}, r"config.f=.*JSON cannot represent it"),
        ({"model": "a/b"}, r"model 'a/b' cannot name a file"),
        ({"dataset": ".."}, r"dataset '\.\.' cannot name a file"),
        ({"experiment": ""}, "experiment '' cannot name a file"),
    ],
)
def test_write_refuses(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        results.write_result(example(**changes), tmp_path)


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_named_with_a_remedy(tmp_path: Path, keep: float) -> None:
    path = results.write_result(example(), tmp_path)
    text = path.read_bytes()
    path.write_bytes(text[: int(len(text) * keep)])
    with pytest.raises(ValueError, match="not a complete JSON file") as error:
        results.read_result(path)
    assert str(path) in str(error.value)
    assert "delete it and run the experiment again" in str(error.value)


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    path = results.write_result(example(), tmp_path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not a complete JSON file"):
        results.read_result(path)


def _set(*keys: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        for key in keys[:-1]:
            document = document[key]
        document[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("schema", value=99), "schema 99 where 1 was expected"),
        (lambda document: document.pop("protocol"), "no field 'protocol'"),
        (_set("protocol", "ks", value=5), "protocol ks is not a list"),
        (_set("steps", value="many"), "field 'steps' is 'many'"),
        (_set("steps", value=True), "field 'steps' is True"),
        (lambda document: document["protocol"].pop("ties"), "protocol must have the fields"),
        (_set("metrics", "ndcg@10", value=[0.1, 0.2]), "metric ndcg@10: not one value per seed"),
        (_set("metrics", "ndcg@10", "values", value=[0.25]), "metric ndcg@10: not one value per seed"),
        (_set("metrics", "ndcg@10", "values", value=[0.25, "x"]), "must be finite"),
        (_set("metrics", "ndcg@10", "values", value=[0.25, math.nan]), "must be finite"),
        (
            _set("metrics", "ndcg@10", "values", value=[0.25, 0.36]),
            "mean or std does not agree with its values",
        ),
        (_set("metrics", "ndcg@10", "std", value=None), "mean or std does not agree with its values"),
        (_set("model", value="gru4rec"), "which belongs to another path"),
        (_set("dataset", value="Sports"), "which belongs to another path"),
    ],
)
def test_read_refuses(tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    path = results.write_result(example(), tmp_path)
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=message) as error:
        results.read_result(path)
    assert str(path) in str(error.value)


def test_a_list_is_no_result(tmp_path: Path) -> None:
    path = results.write_result(example(), tmp_path)
    path.write_text("[]")
    with pytest.raises(ValueError, match="list where an object was expected"):
        results.read_result(path)


def test_a_variant_whose_configuration_was_edited_is_refused(tmp_path: Path) -> None:
    results.write_result(example(), tmp_path)
    path = results.write_result(example(config={"max_len": 20}), tmp_path)
    document = json.loads(path.read_text())
    document["config"]["max_len"] = 21
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match="which belongs to another path"):
        results.read_result(path)
