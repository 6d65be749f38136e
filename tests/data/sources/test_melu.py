"""MeLU's states of MovieLens-1M: counts of the paper and its code, and files that are not those."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from jaxrec.data import load
from jaxrec.data.events.interactions import Interactions
from jaxrec.data.sources import melu
from jaxrec.data.tables.rating_tasks import RatedContent, make_tasks


@pytest.fixture(scope="module")
def content(data_dir: Path) -> RatedContent:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXREC_DATA_DIR", str(data_dir))
        try:
            return load("melu/ml-1m", kind="ratings")
        except FileNotFoundError:
            pytest.skip("melu/ml-1m is not in the data folder")


def test_sizes_of_columns_are_those_of_the_authors_code(content: RatedContent) -> None:
    sizes = {name: len(values) for name, values in content.values.items()}
    assert sizes == {
        "gender": 2, "age": 7, "occupation": 21, "zip": 3402, "rate": 6, "genre": 25, "director": 2186,
        "actor": 7978,
    }  # fmt: skip
    assert (content.num_users, content.num_items, content.rating.size) == (6040, 3706, 1_000_209)
    assert np.bincount(content.state).tolist() == [640_448, 163_702, 157_456, 38_603]


def named(content: RatedContent, column: str, ids: np.ndarray) -> list[str]:
    return sorted(content.values[column][ids[ids != 0] - 1].tolist())


def test_a_movie_and_a_user_as_the_files_have_them(content: RatedContent) -> None:
    toy_story = int(np.flatnonzero(content.item_ids == 1)[0]) + 1
    assert named(content, "genre", content.items["genre"][toy_story]) == ["Adventure", "Animation", "Comedy"]
    assert named(content, "director", content.items["director"][toy_story]) == ["John Lasseter"]
    actors = ["Don Rickles", "Jim Varney", "Tim Allen", "Tom Hanks"]
    assert named(content, "actor", content.items["actor"][toy_story]) == actors
    assert content.values["rate"][content.items["rate"][toy_story] - 1] == "G"
    first = {name: content.values[name][column[1] - 1].item() for name, column in content.users.items()}
    assert first == {"gender": "F", "age": 1, "occupation": 10, "zip": "48067"}


def test_duplicates_are_described_as_the_movies_that_they_repeat(content: RatedContent) -> None:
    for twice, once in melu.DUPLICATES.items():
        at, other = (int(np.flatnonzero(content.item_ids == raw)[0]) + 1 for raw in (twice, once))
        assert all((column[at] == column[other]).all() for column in content.items.values())


def test_users_and_movies_are_new_as_a_whole(content: RatedContent) -> None:
    """So the states follow from the years and the list of new users, from which they can be made."""
    new_users = np.unique(content.user[content.state % 2 == 1])
    new_items = np.unique(content.item[content.state >= 2])
    listed = json.dumps({str(content.user_ids[user - 1]): [] for user in new_users}).encode()
    interactions = Interactions.from_raw(
        "ml-1m", content.user_ids[content.user - 1], content.item_ids[content.item - 1], order="sorted"
    )
    is_new = np.isin(np.arange(1, content.num_items + 1), new_items).tolist()
    np.testing.assert_array_equal(melu.derived_states(interactions, is_new, listed), content.state)


@pytest.mark.parametrize("state, users", [("warm", 2653), ("user-cold", 668), ("item-cold", 2863)])
def test_numbers_of_tasks(content: RatedContent, state: str, users: int) -> None:
    tasks = make_tasks(content, state)
    assert tasks.num_tasks == users
    assert tasks.query.shape[1] == 10 and (tasks.support != 0).sum(1).max() == 90


LINE = "{}::Title::{}::G::::Drama, War::A. Bee(co-director), Cee::::Dee, Ee::::".format


def test_lines_are_read_by_raw_ids() -> None:
    content = "\n".join([LINE(7, 1999), LINE(811, 1990), LINE(2, 1980)]).encode()
    rows, index = melu.parse_movies(content, np.array([2, 7, 860]))
    assert [rows[i][2] for i in index] == ["1980", "1999", "1990"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (LINE(1, 1990) + "::more", "line 1: 12 cells, expected 11"),
        (LINE(1, 1990) + "\n" + LINE(1, 1991), "2 lines for 1 movies"),
        (LINE(2, 1990), "movie 1 is not described"),
        (LINE("one", 1990), "movies_extrainfos.dat"),
    ],
)
def test_bad_descriptions_are_refused(text: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        melu.parse_movies(text.encode(), np.array([1]))


def test_sets_are_padded_in_front_and_hold_a_value_once() -> None:
    ids, raw = melu.several([["b", "a", "b"], ["c"]])
    assert raw.tolist() == ["a", "b", "c"]
    assert ids.tolist() == [[0, 0], [1, 2], [0, 3]]
    one, values = melu.single(np.array(["y", "x", "y"]))
    assert one.tolist() == [0, 2, 1, 2] and values.tolist() == ["x", "y"]


def test_an_unknown_set_is_named() -> None:
    with pytest.raises(ValueError, match=r"data set 'ml-1n': unknown \(did you mean 'ml-1m'\?\)"):
        melu.load_ratings("ml-1n")
