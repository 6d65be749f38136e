"""A user's own file, read as what a public source gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jaxrec.data import load_events, load_labelled, load_sessions


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_events_of_a_csv_file_are_ordered_by_time(tmp_path: Path) -> None:
    path = write(tmp_path / "e.csv", "uid,sku,ts", "a,x,30", "b,y,5", "a,z,10", "a,y,20")
    found = load_events(path, user="uid", item="sku", time="ts")
    raw = [np.asarray(found.item_ids)[found.user_items(user) - 1].tolist() for user in range(found.num_users)]
    assert raw == [["z", "y", "x"], ["y"]]
    assert found.name == "e.csv"


def test_events_without_times_go_by_the_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "e.tsv", "user\titem", "a\tx", "a\ty", "a\tx")
    found = load_events(path, time=None)
    assert found.times is None
    assert np.asarray(found.item_ids)[found.user_items(0) - 1].tolist() == ["x", "y", "x"]


def test_rare_users_and_items_leave_where_that_is_asked_for(tmp_path: Path) -> None:
    lines = [
        f"{user},{item},{t}"
        for t, (user, item) in enumerate([("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")])
    ]
    path = write(tmp_path / "e.csv", "user,item,time", *lines, "c,q,9")
    assert load_events(path).num_users == 3
    assert load_events(path, k_core=2).num_users == 2


def test_a_line_file_is_taken_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "e.txt", "1 3 2", "2 1 2 3")
    assert [load_events(path).user_items(user).tolist() for user in (0, 1)] == [[3, 2], [1, 2, 3]]
    with pytest.raises(ValueError, match="k_core=2: is not for .txt files"):
        load_events(path, k_core=2)


def test_the_last_sessions_to_end_are_tested_by_every_prefix(tmp_path: Path) -> None:
    clicks = [("late", "a", 90), ("late", "b", 95), ("late", "c", 99), ("s1", "a", 1), ("s1", "b", 2)]
    clicks += [("s2", "b", 3), ("s2", "c", 4)]
    path = write(tmp_path / "s.csv", "session,item,time", *(",".join(map(str, click)) for click in clicks))
    found = load_sessions(path, test=0.34)
    assert found.train.num_users == 2
    test = [found.test.user_items(number).tolist() for number in range(found.test.num_users)]
    assert [len(row) for row in test] == [3, 2]  # a prefix of two and of one click, each with its target
    assert test[1] == test[0][:2]


def test_a_session_of_one_click_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "s.csv", "session,item,time", "a,x,1", "b,x,2", "b,y,3", "c,x,4", "c,y,6")
    with pytest.raises(ValueError, match="1 of 3 sessions have one click"):
        load_sessions(path, test=0.5)
    assert load_sessions(path, test=0.5, short="leave out").train.num_users == 1
    with pytest.raises(ValueError, match=r"test=0.1 leaves a part empty"):
        load_sessions(path, short="leave out")


def labelled(path: Path, count: int = 60) -> Path:
    rng = np.random.default_rng(0)
    rows = [
        f"{rng.integers(2)},{rng.integers(2)},{'xyz'[rng.integers(3)]},{rng.random():.3f},{i}"
        for i in range(count)
    ]
    return write(path, "click,buy,city,price,ts", *rows)


def test_labelled_rows_are_split_and_encoded(tmp_path: Path) -> None:
    path = labelled(tmp_path / "t.csv")
    split = load_labelled(path, labels=["click", "buy"], categorical=["city"], numeric=["price"])
    assert split.impressions.tasks == ("click", "buy")
    assert [len(part) for part in (split.train, split.validation, split.test)] == [48, 6, 6]
    price = split.impressions.columns["price"][split.train]
    assert price.mean() == pytest.approx(0, abs=1e-5)  # by training rows


def test_a_split_by_time_tests_on_the_last_rows(tmp_path: Path) -> None:
    path = labelled(tmp_path / "t.csv")
    split = load_labelled(path, labels=["click"], categorical=["city"], time="ts", split="time")
    assert split.test.tolist() == list(range(54, 60))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": []}, "name at least one label"),
        ({"labels": ["click"], "categorical": []}, "one label and one feature"),
        ({"labels": ["click"], "categorical": ["click"]}, "click: is given two uses"),
        ({"labels": ["click"], "split": "time"}, "split='time' needs the column of times"),
        ({"labels": ["nope"]}, "nope"),
    ],
)
def test_what_a_table_lacks_is_named(arguments: dict[str, object], message: str, tmp_path: Path) -> None:
    given: dict[str, object] = {"categorical": ["city"], **arguments}
    with pytest.raises(ValueError, match=message):
        load_labelled(labelled(tmp_path / "t.csv"), **given)  # type: ignore[arg-type]
