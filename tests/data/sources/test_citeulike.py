"""CiteULike: counts of the public files, the division by items, and files of another form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrec import data
from jaxrec.data.sources import citeulike


@pytest.fixture
def files(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXREC_DATA_DIR", str(data_dir))
    if not (data_dir / "citeulike-a").is_dir():
        pytest.skip("citeulike-a is not in the data folder")


def test_the_division_by_items_is_one_of_the_whole(files: None) -> None:
    split, whole = data.load("citeulike/a-cold", kind="matrix"), data.load("citeulike/a", kind="events")
    parts = [np.unique(split.training_events().item)]
    parts += [np.unique(split.relevant(sets)[0]) for sets in (split.validation, split.test)]
    assert [len(part) for part in parts] == [13_584, 1_018, 2_378]
    assert len(np.unique(np.concatenate(parts))) == 16_980  # so no item is in two parts
    assert (split.train_length.sum(), split.left_out) == (164_210, 0)
    size = whole.num_items + 1
    pairs = [found.event_users * size + found.items for found in (split.sequences, whole)]
    np.testing.assert_array_equal(*(np.sort(pair) for pair in pairs))


def test_content_belongs_to_the_articles(files: None) -> None:
    """Ids agree: articles of one collection share tags more often than articles drawn at random."""
    tags, sequences = citeulike.load_content("a"), data.load("citeulike/a", kind="events")
    assert tags.shape == (16_981, 46_391) and (np.diff(tags.indptr)[1:] == 0).sum() == 3_461
    rng = np.random.default_rng(0)
    within = np.setdiff1d(np.arange(1, len(sequences.items)), sequences.offsets)

    def shared(one: np.ndarray, other: np.ndarray) -> float:
        return float(tags[one].multiply(tags[other]).sum(axis=1).mean())

    near = shared(sequences.items[within - 1], sequences.items[within])
    assert near > 3 * shared(sequences.items[within], rng.permutation(sequences.items[within]))


def test_lines_say_how_many_values_follow() -> None:
    count, values = citeulike.parse_counted_lines(b"2 5 0\n0\n1 7", "f")
    assert (count.tolist(), values.tolist()) == ([2, 0, 1], [5, 0, 7])
    found = citeulike.parse_bags(b"2 5:1 0:12\n0\n1 7:3\n", "f")
    assert [part.tolist() for part in found] == [[2, 0, 1], [5, 0, 7], [1, 12, 3]]
    assert citeulike.parse_pairs(b"uid,iid\n3,0\n1,2\n", "f").tolist() == [[3, 0], [1, 2]]


@pytest.mark.parametrize(
    ("parse", "content", "message"),
    [
        (citeulike.parse_counted_lines, b"2 5\n", "f, line 1: b'2 5': expected how many"),
        (citeulike.parse_counted_lines, b"1 5\n\n", "f, line 2: b''"),
        (citeulike.parse_counted_lines, b"1 -5\n", "f, line 1"),
        (citeulike.parse_counted_lines, b"", "f: has no line"),
        (citeulike.parse_bags, b"1 5:1\n2 5:1\n", "f, line 2: b'2 5:1': expected `number word:count"),
        (citeulike.parse_bags, b"1 5\n", "f, line 1"),
        (citeulike.parse_bags, b"1 5:1:2\n", "f, line 1"),
        (citeulike.parse_bags, b"1 5:x\n", "f, line 1"),
        (citeulike.parse_bags, b"", "f: has no line"),
        (citeulike.parse_pairs, b"user,item\n1,2\n", "f, line 1: b'user,item': expected the header"),
        (citeulike.parse_pairs, b"uid,iid\n1,x\n", "f: .*expected lines `user,item`"),
        (citeulike.parse_pairs, b"uid,iid\n1,2,3\n", "f: expected lines"),
        (citeulike.parse_pairs, b"uid,iid\n1,-2\n", "f: expected lines"),
    ],
)
def test_files_of_another_form_are_refused(parse: Callable[..., Any], content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(content, "f")
