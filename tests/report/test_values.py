"""Values of each user beside a result: round trip, identity of cases, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrec.report import results, values
from jaxrec.types import GroupSums, Ranks
from tests.report.results_for_tests import MANIFEST, example

RANKS = Ranks(
    rank=np.array([[1, 5, 20], [2, 2**31 - 1, 7]], np.int32),
    user=np.array(["b", "a", "a"], object),
    position=np.array([3, 2, 3], np.int32),
    target=np.array([10, 20, 30]),
)
SUMS = GroupSums(
    group=np.array([4, 7]),
    sums={"auc/click": np.array([[1.5, 2.0], [1.0, 2.5]], np.float32), "other": np.zeros((2, 2), np.float32)},
    weights={"auc/click": np.array([2.0, 4.0], np.float32), "other": np.ones(2, np.float32)},
    labels={"click": np.array([1.0, 3.0], np.float32)},
)
CASES = [(RANKS, {"ndcg@10": (0.25, 0.35)}), (SUMS, {"auc/click": (0.5, 0.6)})]


def equal(a: Any, b: Any) -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for name in a:
            equal(a[name], b[name])
    else:
        np.testing.assert_array_equal(a, b)


def written(folder: Path, kept: Any, metrics: Any, **changes: Any) -> tuple[Path, results.Record]:
    result = example(metrics=metrics, published={}, source="", **changes)
    path = results.write_result(result, folder, manifest=MANIFEST, values=kept)
    return path, results.read_result(path)


@pytest.mark.parametrize(("kept", "metrics"), CASES, ids=["ranks", "sums"])
def test_round_trip(kept: Any, metrics: Any, tmp_path: Path) -> None:
    path, record = written(tmp_path, kept, metrics)
    found = values.read_values(path, record.values)
    assert found.seeds == (0, 1)
    for name, column in found.values._asdict().items():
        expected = getattr(kept, name)
        if isinstance(expected, dict):
            expected = {k: v for k, v in expected.items() if k != "other"}  # no metric of the result
        equal(column, expected)


def test_equal_seeds_are_stored_once(tmp_path: Path) -> None:
    same = RANKS._replace(rank=np.repeat(RANKS.rank[:1], 2, axis=0))
    path, record = written(tmp_path, same, {"ndcg@10": (0.25, 0.35)})
    with np.load(path.parent / record.values["file"]) as file:
        assert file["rank"].shape == (1, 3)
    equal(values.read_values(path, record.values).values._asdict()["rank"], same.rank)


def test_a_result_without_values_is_read_and_says_so(tmp_path: Path) -> None:
    path = results.write_result(example(), tmp_path, manifest=MANIFEST)
    record = results.read_result(path)
    assert record.values == {}
    with pytest.raises(ValueError, match="no values by user"):
        values.read_values(path, record.values)


def test_cases_have_a_hash_that_ranks_do_not_change() -> None:
    other = RANKS._replace(rank=RANKS.rank[::-1])
    assert values.cases_digest(RANKS) == values.cases_digest(other)
    assert values.cases_digest(RANKS) != values.cases_digest(RANKS._replace(target=RANKS.target[::-1]))
    assert values.cases_digest(SUMS) != values.cases_digest(SUMS._replace(group=np.array([4, 8])))


def test_replaced_values_leave_no_file_behind(tmp_path: Path) -> None:
    path, _ = written(tmp_path, *CASES[0])
    _, record = written(tmp_path, RANKS._replace(rank=RANKS.rank + 1 - (RANKS.rank > 99)), CASES[0][1])
    assert [f"values/{file.name}" for file in (path.parent / "values").iterdir()] == [record.values["file"]]
    path, record = written(tmp_path, None, CASES[0][1])
    assert list((path.parent / "values").iterdir()) == []
    assert record.values == {}


def test_a_failed_write_keeps_the_old_result_with_its_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, before = written(tmp_path, *CASES[0])
    replace = os.replace
    calls: list[Any] = []

    def fail_at_the_result(source: Any, target: Any) -> None:
        calls.append(target)
        if Path(target).suffix == ".json":
            raise OSError("disk full")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_at_the_result)
    with pytest.raises(OSError, match="disk full"):
        written(tmp_path, RANKS._replace(rank=np.ones((2, 3), np.int32)), CASES[0][1])
    assert len(calls) == 2
    record = results.read_result(path)
    assert record.values == before.values
    equal(values.read_values(path, record.values).values._asdict()["rank"], RANKS.rank)
    assert len(list(path.parent.rglob("*"))) == 3  # the result, the folder of values and one file in it


def test_another_file_of_that_name_is_refused(tmp_path: Path) -> None:
    path, record = written(tmp_path, *CASES[0])
    file = path.parent / record.values["file"]
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(ValueError, match="its sha256 differs"):
        values.read_values(path, record.values)
    file.unlink()
    with pytest.raises(ValueError, match="no such file"):
        values.read_values(path, record.values)


def test_another_format_is_refused(tmp_path: Path) -> None:
    path, record = written(tmp_path, *CASES[0])
    file = path.parent / record.values["file"]
    np.savez(file, format=np.int64(2))
    entry = {**record.values, "sha256": values.digest(file.read_bytes())}
    with pytest.raises(ValueError, match="format 2 where 1"):
        values.read_values(path, entry)


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (RANKS._replace(rank=RANKS.rank - 1), "counted from 1"),
        (RANKS._replace(rank=RANKS.rank[[0, 1, 1]]), "for 2 seeds"),
        (RANKS._replace(user=np.arange(2)), r"shape \(3,\)|shape \(2, 3\)"),
        (RANKS._replace(user=np.array(["a", 1, "b"], object)), "mixed kinds"),
    ],
)
def test_values_that_do_not_fit_are_refused_and_nothing_is_written(
    kept: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        written(tmp_path, kept, {"ndcg@10": (0.25, 0.35)})
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_values_field_of_another_type_is_refused(tmp_path: Path) -> None:
    path, _ = written(tmp_path, *CASES[0])
    path.write_text(json.dumps({**json.loads(path.read_text()), "values": ["a"]}))
    with pytest.raises(ValueError, match="'values'"):
        results.read_result(path)
