import gzip
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrec.data.events.sequence_files import (
    parse_integers,
    parse_lines,
    parse_sequences,
    parse_table,
    read_sequences,
)

Write = Callable[[str, str | bytes], Path]


def test_lines_become_sequences(write: Write) -> None:
    sequences = read_sequences(write("toy.txt", "7 3 1 3\n5 2 4\n"))
    assert sequences.user_ids.tolist() == [7, 5]
    assert [sequences.user_items(row).tolist() for row in range(2)] == [[3, 1, 3], [2, 4]]
    assert sequences.num_items == 4
    assert sequences.times is None


def test_times_come_from_a_second_file(write: Write) -> None:
    items = write("toy.txt.gz", gzip.compress(b"1 3 1\n2 2\n"))
    sequences = read_sequences(items, write("times.txt", "1 10 20\n2 5\n"))
    assert sequences.times is not None
    assert sequences.times.tolist() == [10, 20, 5]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=5), min_size=1, max_size=6))
def test_parsing_inverts_writing(rows: list[list[int]]) -> None:
    content = "".join(f"{user} {' '.join(map(str, row))}\n" for user, row in enumerate(rows, 1))
    users, offsets, values = parse_lines(content.encode(), "toy")
    assert users.tolist() == list(range(1, len(rows) + 1))
    assert [values[a:b].tolist() for a, b in itertools.pairwise(offsets)] == rows


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "toy: the file is empty"),
        (b"1 2\n\n3 4\n", "toy, line 2"),
        (b"1 2\n3\n", r"toy, line 2: b'3': expected `user item item ...`"),
        (b"1 2\n1 3\n", "toy, line 2: user 1 has a line already"),
        (b"1 2\n3 x\n", "toy, line 2: 'x' is not an integer"),
        (b"1 2.5\n", "toy, line 1: '2.5' is not an integer"),
        (b"1 99999999999999999999\n", "line 1: '99999999999999999999' is not an integer of 64 bits"),
        (b"1 2 -3\n", "toy: item: id -3 at position 1 is outside 1..2"),
        (b"1 0 2\n", "toy: item: id 0 at position 0"),
        (b"1 0\n", "id 0 at position 0 is outside 1..1"),
        (b"1 5000000000 1\n", "the largest id is 5,000,000,000 but only 2 ids occur"),
    ],
)
def test_bad_lines_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_sequences("toy", content, "toy")


@pytest.mark.parametrize(
    "times, message",
    [
        ("1 10\n2 5\n", "numbers of events differ"),
        ("2 10 20\n1 5\n", "users or their numbers"),
        ("1 20 10\n2 5\n", "times must ascend"),
        ("1 1400000000000 1400000000001\n2 5\n", "looks like milliseconds"),
        ("1 0 3000000000\n2 5\n", "more than int32 holds"),
    ],
)
def test_bad_times_are_refused(write: Write, times: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_sequences(write("toy.txt", "1 3 1\n2 2\n"), write("times.txt", times))


@pytest.mark.parametrize(
    "by, text",
    [(None, b"1 2\n3\t4\r\n"), (b"::", b"1::2\n3::4\n"), (b"\t", b"1\t2\n3\t4\n"), (b" ", b"1 2\n3 4\n")],
)
def test_columns_of_integers(by: bytes | None, text: bytes) -> None:
    assert parse_table(text, ("user", "item"), "toy", by).tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    "by, text, message",
    [
        (None, b"1 2 3\n4\n", "toy, line 1: 3 cells, expected `user item`"),  # four cells, as two rows have
        (b"::", b"1::2::3\n4\n", "toy, line 1: 3 cells, expected `user::item`"),
        (b"::", b"1::2\n1:2\n", "toy, line 2: '1:2' is not an integer"),
        (b"::", b"1:: 2\n", "toy, line 1: ' 2' is not an integer"),
        (b"\t", b"1\t 2\n", "toy, line 1: ' 2' is not an integer"),
        (b" ", b"1 2\t\n", r"toy, line 1: '2\\t' is not an integer"),
        (b",", b"1,\n", "toy, line 1: '' is not an integer"),
        (b"::", b"1::02\n", "toy, line 1: '02' is not an integer"),
        (None, b"1 2\n\n", "toy, line 2: 0 cells"),
        (None, b"", "toy: the file is empty"),
    ],
)
def test_columns_that_do_not_fit_are_refused(by: bytes | None, text: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_table(text, ("user", "item"), "toy", by)


@pytest.mark.parametrize("cell", ["01", "１", "1_0", "9" * 30])
def test_cells_of_integers(cell: str) -> None:
    with pytest.raises(ValueError, match="toy: .*is not an integer"):
        parse_integers(["1", cell], "toy")
