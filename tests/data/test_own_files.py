"""A user's own events, read as what a public source gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jaxrec.data import load_events, load_sessions


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
    assert load_events(path, name="mine").name == "mine"
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


def test_items_of_sessions_keep_their_raw_ids(tmp_path: Path) -> None:
    path = write(tmp_path / "s.csv", "session,item,time", "o,q,1", "a,y,2", "a,x,3", "b,x,4", "b,z,6")
    found = load_sessions(path, test=0.5, short="leave out")
    raw = [part.item_ids[part.user_items(0) - 1].tolist() for part in (found.train, found.test)]
    assert raw == [["y", "x"], ["x", "z"]]


def test_a_session_of_one_click_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "s.csv", "session,item,time", "a,x,1", "b,x,2", "b,y,3", "c,x,4", "c,y,6")
    with pytest.raises(ValueError, match="1 of 3 sessions have one click"):
        load_sessions(path, test=0.5)
    assert load_sessions(path, test=0.5, short="leave out").train.num_users == 1
    with pytest.raises(ValueError, match=r"test=0.1 leaves a part empty"):
        load_sessions(path, short="leave out")
