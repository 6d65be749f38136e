"""Public interaction matrices: their counts, and files that are not what they should be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jaxrec import data
from jaxrec.data.sources import movielens, ncf
from jaxrec.data.sources.matrix_files import parse_user_lines
from jaxrec.data.sources.ncf import parse_negatives


@pytest.fixture
def files(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXREC_DATA_DIR", str(data_dir))


def test_a_line_is_a_user_and_their_items() -> None:
    users, items = parse_user_lines(b"0 5 3 2\n\n7\n2 9\n", "file")
    assert (users.tolist(), items.tolist()) == ([0, 0, 0, 2], [5, 3, 2, 9])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"0 1\n1 x\n", "file, line 2: b'1 x': expected numbers"),
        (b" \n", "file: has no line"),
        (b"0 -1\n", "line 1"),
    ],
)
def test_a_line_of_another_form_is_named(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_user_lines(content, "file")


def test_negatives_of_a_user_stand_behind_the_test_item() -> None:
    found = parse_negatives(b"(0,25)\t1064\t174\n(1,133)\t1072\t25\n", "file")
    assert [part.tolist() for part in found] == [[0, 1], [25, 133], [[1064, 174], [1072, 25]]]
    for wrong in (b"0,25\t1\n", b"(0,25)\t1\n(1,3)\t2\t3\n", b"", b"(0,25)\n", b"(0,2)\tx\n"):
        with pytest.raises(ValueError, match="file"):
            parse_negatives(wrong, "file")


@pytest.mark.parametrize(
    ("name", "train", "test_users", "left_out"),
    [("lightgcn/lastfm", 42_135, 1856, 2), ("ncf/ml-1m", 994_169, 6040, 0)],
)
def test_public_sets_have_their_counts(
    name: str, train: int, test_users: int, left_out: int, files: None
) -> None:
    split = data.load(name, kind="matrix")
    assert (split.train_length.sum(), split.test.user.size, split.left_out) == (train, test_users, left_out)
    if name == "ncf/ml-1m":
        given = split.candidates.test
        assert given is not None
        assert given.shape == (6040, 99)
        assert (given == 0).sum() == 156  # which are the user's test item in the file
        seen = set(split.sequences.user_items(17)[: split.train_length[17]].tolist())
        assert not seen & set(given[17].tolist())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lightgcn/gowalla", "kgat/amazon-book"])
def test_large_public_sets_have_their_counts(name: str, files: None) -> None:
    split = data.load(name, kind="matrix")
    per_user = np.diff(split.sequences.offsets)
    assert split.test.user.size == {"lightgcn/gowalla": 29_858, "kgat/amazon-book": 70_591}[name]
    assert (per_user >= split.train_length).all()


def test_features_of_ncf_are_those_of_movielens(files: None) -> None:
    """NCF's item 0 is movie 1193, One Flew Over the Cuckoo's Nest (1975), a drama; its user 0 is user 1."""
    users, items = ncf.load_features("ml-1m")
    split = data.load("ncf/ml-1m", kind="matrix")
    assert (users.num_entities, items.num_entities) == (split.sequences.num_users, split.sequences.num_items)
    assert (users.sizes, items.sizes["genres"]) == ({"gender": 2, "age": 7, "occupation": 21}, 18)
    _, described, movies = movielens.load_described("ml-1m")
    titles = movies.title.tolist()
    row = titles.index("One Flew Over the Cuckoo's Nest (1975)")
    same_year = items.columns["year"] == items.columns["year"][1]
    assert same_year[1:].sum() == (movies.year == 1975).sum()
    assert (items.columns["genres"][1] > 0).sum() == movies.genres[row].sum() == 1
    assert users.columns["gender"][1] == 1 + (described.gender[0] == "M")
    assert not items.empty().size and not users.empty().size
