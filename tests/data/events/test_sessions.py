"""Click sessions: prefixes against loops, splits that keep sessions whole, sources and damaged files."""

from __future__ import annotations

import io
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxrec.data.__main__ import main
from jaxrec.data.events.sessions import Sessions, SessionSplit, format_session_statistics, split_sessions
from jaxrec.data.sources import session_logs as source
from jaxrec.data.store import find_file

TRAIN = [[7, 9, 7], [9, 30], [7, 7, 12, 9], [30, 12], [9, 9]]
TEST = [
    ([9, 12], 7),
    ([9], 12),
    ([40, 40, 9], 30),
    ([40, 40], 9),
    ([40], 40),
]  # prefixes of [9 12 7], [40 40 9 30]
RAW = [7, 9, 12, 30, 40]


def arrays(train: list[list[int]] = TRAIN, test: list[tuple[list[int], int]] = TEST) -> dict[str, np.ndarray]:
    return source.from_lists(train, ([prefix for prefix, _ in test], [target for _, target in test]), "made")


def made(**changed: np.ndarray) -> Sessions:
    return Sessions.from_arrays("made", **arrays() | changed)


def rows_of(split: SessionSplit) -> list[list[int]]:
    """Every row of a split in raw ids."""
    return [
        split.item_ids[split.items[a:b] - 1].tolist()
        for a, b in zip(split.offsets[:-1], split.offsets[1:], strict=True)
    ]


# --- from arrays ---


def test_rows_in_raw_ids_are_those_given() -> None:
    sessions = made()
    assert sessions.train.item_ids.tolist() == RAW and sessions.num_items == len(RAW)
    for part, want in ((sessions.train, TRAIN), (sessions.test, [[*p, t] for p, t in TEST])):
        found = [part.item_ids[part.user_items(i) - 1].tolist() for i in range(part.num_users)]
        assert found == want


def test_statistics_by_hand() -> None:
    found = made().statistics()
    examples = sum(len(s) - 1 for s in TRAIN)
    up_to_target = [k + 1 for s in TRAIN for k in range(1, len(s))] + [len(p) + 1 for p, _ in TEST]
    assert tuple(found) == (
        len(TRAIN),
        examples,
        2,
        len(TEST),
        sum(map(len, TRAIN)) + 3 + 4,
        len(RAW),
        len({i for s in TRAIN for i in s}),
        float(np.mean(up_to_target)),
    )


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"test_target": np.array([7, 12, 30, 9])}, "4 test targets for 5 prefixes"),
        ({"test_target": np.array([7, 12, 30, 9, 0])}, "item id 0: ids start at 1"),
        ({"train_items": np.array([7, 9, 7])}, "train offsets: must ascend from 0 to the number of items, 3"),
        ({"train_offsets": np.array([0, 3, 3, 13])}, "each session having at least 1"),
        ({"test_offsets": np.array([0])}, "test offsets"),
        ({"train_offsets": np.array([0, 1, 13])}, "train session 0 has no next click (1 such)"),
        ({"test_items": np.zeros(9)}, "test items: float64[9], expected integers of rank 1"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(changed: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        made(**changed)


def test_parts_of_other_items_are_refused() -> None:
    other = Sessions.from_arrays("other", **arrays(test=[([9], 50)]))
    with pytest.raises(ValueError, match="number their items differently"):
        Sessions("mixed", made().train, other.test)


# --- split and prefixes ---


@given(
    rows=st.lists(st.lists(st.integers(1, 9), min_size=2, max_size=6), min_size=2, max_size=9),
    share=st.floats(0.3, 0.6),
    by=st.sampled_from(["random", "last"]),
    seed=st.integers(0, 3),
)
def test_examples_are_the_prefixes_of_whole_sessions(
    rows: list[list[int]], share: float, by: Any, seed: int
) -> None:
    split = split_sessions(Sessions.from_arrays("made", **arrays(rows)), share=share, by=by, seed=seed)
    every, count = rows_of(split), split.num_train + split.num_validation
    assert sorted(every[:count]) == sorted(rows)
    assert every[count:] == [[*prefix, target] for prefix, target in TEST]
    assert split.num_validation == round(share * len(rows))
    if by == "last":
        assert every[:count] == rows
    for part, first, last in (("train", 0, split.num_train), ("validation", split.num_train, count)):
        asked = split.queries(part)  # type: ignore[arg-type]
        found = [
            (every[row][:k], every[row][k], int(split.item_ids[target - 1]))
            for row, k, target in zip(asked.user, asked.length, asked.target, strict=True)
        ]
        assert found == [(s[:k], s[k], s[k]) for s in every[first:last] for k in range(1, len(s))]
    assert split.num_examples == len(split.queries("train").user)


def test_of_a_test_row_only_its_target_is_asked() -> None:
    split = split_sessions(made(), share=0.2)
    asked = split.queries("test")
    assert asked.user.tolist() == list(range(len(TRAIN), len(TRAIN) + len(TEST)))
    assert asked.length.tolist() == [len(prefix) for prefix, _ in TEST]
    assert split.item_ids[asked.target - 1].tolist() == [target for _, target in TEST]


def test_columns_hold_two_integers_an_example() -> None:
    split = split_sessions(made(), share=0.4)
    columns, asked = split.columns(), split.queries("train")
    assert {column.dtype for column in columns.values()} == {np.dtype(np.int32)}
    np.testing.assert_array_equal(columns["session"], asked.user)
    np.testing.assert_array_equal(columns["prefix"], asked.length)
    np.testing.assert_array_equal(columns["items"][columns["start"][asked.user] + asked.length], asked.target)
    np.testing.assert_array_equal(columns["length"][: split.num_train], split.lengths[: split.num_train])
    assert not columns["length"][split.num_train :].any()
    session, item = split.training_clicks()
    np.testing.assert_array_equal(np.bincount(session), columns["length"][: split.num_train])
    np.testing.assert_array_equal(item, columns["items"][: len(item)])


def test_the_tail_of_batches_is_masked() -> None:
    split = split_sessions(made(), share=0.4)
    batches, asked = split.batched("test", 2, multiple=2), split.queries("test")
    assert batches["mask"].shape == (4, 2)  # 5 queries need 3 batches, and 4 divide by 2
    assert batches["mask"].sum() == len(TEST)
    np.testing.assert_array_equal(batches["user"][batches["mask"]], asked.user)


def test_a_seed_gives_one_split() -> None:
    many = Sessions.from_arrays("many", **arrays(TRAIN * 8))
    first, again, other = (split_sessions(many, share=0.3, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first.items, again.items)
    assert rows_of(first) != rows_of(other)
    assert "seed 1" in first.rule and "last 30%" in split_sessions(many, share=0.3, by="last").rule
    assert "12.5% of sessions" in split_sessions(many, share=0.125).rule


@pytest.mark.parametrize(
    "options, message",
    [
        ({"share": -0.1}, "share=-0.1: must be at least 0 and below 1"),
        ({"share": 1.0}, "share=1.0: must be at least 0 and below 1"),
        ({"share": 0.01}, "leaves none for validation"),
        ({"share": 0.99}, "leaves none for training"),
        ({"by": "first"}, "by='first': must be 'random' or 'last'"),
    ],
)
def test_splits_that_leave_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        split_sessions(made(), **options)


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(ValueError, match="part='dev'"):
        split_sessions(made(), share=0.2).queries("dev")  # type: ignore[arg-type]


# --- sources ---

PRINTED = {
    "diginetica": "186,670 train sessions, 719,470 train examples, 60,858 test examples of 15,963 sessions, "
    "982,961 clicks, 43,097 items (43,097 in train), average length 5.125",
    "yoochoose1_64": "116,167 train sessions, 369,859 train examples, "
    "55,898 test examples of 15,324 sessions, 557,248 clicks, 17,745 items "
    "(17,376 in train), average length 6.158",
    "tmall": "65,286 train sessions, 351,268 train examples, 25,898 test examples of 1,027 sessions, "
    "443,479 clicks, 40,727 items (40,727 in train)",
}


@pytest.fixture
def data(cache: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JAXREC_DATA_DIR", str(data_dir))
    for log in source.LOGS:
        if find_file(log.files[0][0]) is None:
            pytest.skip(f"{log.files[0][0].path} is not in the data folder")
    return data_dir


@pytest.mark.parametrize("name", PRINTED)
def test_statistics_are_those_published(data: Path, name: str) -> None:
    sessions = source.load(name)
    assert PRINTED[name] in format_session_statistics(sessions.name, sessions.statistics())
    assert np.array_equal(np.unique(np.concatenate([sessions.train.items, sessions.test.items])),
                          np.arange(1, sessions.num_items + 1))  # fmt: skip


def test_every_prefix_of_a_test_session_is_asked(data: Path) -> None:
    """A prefix of k > 1 clicks is followed by that of k - 1, which is how sessions are counted."""
    test = source.load("tmall").test
    for row in np.flatnonzero(test.lengths > 2).tolist():
        np.testing.assert_array_equal(test.user_items(row + 1), test.user_items(row)[:-1])


def test_views_of_diginetica_are_in_order_of_time(data: Path) -> None:
    """8.9 % of next views repeat the last one by time, 23.4 % in the order of the raw file.

    Both shares are of the sample that SR-GNN's repository holds of the raw file (9,405 next views).
    """
    train = source.load("diginetica").train
    users = train.event_users
    inside = users[1:] == users[:-1]
    assert 0.07 < (train.items[1:] == train.items[:-1])[inside].mean() < 0.11


def test_a_truncated_file_is_refused(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = (data / "yoochoose1_64/sessions.npz").read_bytes()
    (tmp_path / "own/yoochoose1_64").mkdir(parents=True)
    (tmp_path / "own/yoochoose1_64/sessions.npz").write_bytes(content[: len(content) // 2])
    monkeypatch.setenv("JAXREC_DATA_DIR", str(tmp_path / "own"))
    with pytest.raises(ValueError, match=r"sessions\.npz: truncated"):
        source.load("yoochoose1_64")


def test_counts_that_differ_are_refused(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "unpack", lambda content, where: arrays())
    with pytest.raises(ValueError, match="sessions/tmall: train_examples = 8, expected 351268"):
        source.load("tmall")


def packed(**columns: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **columns)
    return file.getvalue()


@pytest.mark.parametrize(
    "content", [b"", b"no archive", packed(train_items=np.arange(3)), packed(**arrays())[:-30]]
)
def test_what_is_no_archive_of_sessions_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"a\.npz: not an archive of the arrays train_items, train_offsets"):
        source.unpack(content, "a.npz")


def test_a_packed_copy_and_the_lists_are_one() -> None:
    assert source.unpack(packed(**arrays()), "a.npz").keys() == arrays().keys()
    lists = source.unpickle(pickle.dumps(TRAIN), "train.txt")
    again = source.from_lists(lists, ([prefix for prefix, _ in TEST], [target for _, target in TEST]), "made")
    for name, column in source.unpack(packed(**arrays()), "a.npz").items():
        np.testing.assert_array_equal(column, again[name])


@pytest.mark.parametrize(
    "content", [b"", pickle.dumps(TRAIN)[:-4], pickle.dumps(print), pickle.dumps(np.arange(3)), b"\x80\x04."]
)
def test_lists_that_are_cut_off_or_run_something_are_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"train\.txt: not a whole list of numbers"):
        source.unpickle(content, "train.txt")


def test_lists_of_another_number_are_refused() -> None:
    with pytest.raises(ValueError, match="made: 3 lists of test data"):
        source.from_lists(TRAIN, ([[1]], [2], [3]), "made")  # type: ignore[arg-type]


def test_without_the_packed_copy_the_lists_are_read(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both files, in the order of their use; counts are of the made-up data."""
    lists = {"train": TRAIN, "test": ([prefix for prefix, _ in TEST], [target for _, target in TEST])}
    asked = []

    def read(file: Any) -> bytes:
        asked.append(file.path)
        return pickle.dumps(lists["train" if "train" in file.path else "test"])

    monkeypatch.setattr(source, "read_file", read)
    monkeypatch.setattr(source, "LOGS", tuple(log._replace(expected={}) for log in source.LOGS))
    sessions = source.load("diginetica")
    assert asked == ["diginetica/all_train_seq.txt", "diginetica/test.txt"]
    np.testing.assert_array_equal(sessions.train.items, made().train.items)


def test_every_list_has_a_fixed_address() -> None:
    for log in source.LOGS:
        for _, original in log.files:
            assert original.routes and len(original.sha256) == 64 and original.size > 0


# --- the command line ---


def test_list_names_the_sessions(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in PRINTED:
        assert any(
            f"sessions/{name} " in line and " sessions " in line and "to download" in line for line in lines
        )


@pytest.mark.parametrize(
    "command, printed", [("stats", "average length 8.008"), ("download", "sha256 verified")]
)
def test_sessions_are_described_and_verified(
    data: Path, capsys: pytest.CaptureFixture[str], command: str, printed: str
) -> None:
    assert main([command, "sessions/tmall"]) == 0
    assert printed in capsys.readouterr().out


def test_a_share_of_0_trains_on_all_sessions() -> None:
    sessions = made()
    split = split_sessions(sessions, share=0.0)
    assert (split.num_train, split.num_validation) == (sessions.train.num_users, 0)
    np.testing.assert_array_equal(split.items, np.concatenate([sessions.train.items, sessions.test.items]))
    assert len(split.queries("validation").user) == 0
    assert split.rule == "later sessions tested, all others trained on"
