"""MovieLens-100K: ratings with times, movie and user columns (Harper and Konstan, doi:10.1145/2827872).

Made from the GroupLens archive; where only a package index can be reached, the same files are read out of
the RecBole 1.2.1 wheel, without installing it. The checksums are those of the wheel's files, which the
archive's ratings and users convert to byte for byte.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxrec.data import vocab
from jaxrec.data.interactions import Interactions, Sequences
from jaxrec.data.sources.dataset import Dataset, Expected, check, pick
from jaxrec.data.store import File, Route, Source, http, member, read, show_terms, wheel

SOURCE = Source(
    "movielens",
    "MovieLens (GroupLens, University of Minnesota)",
    "https://grouplens.org/datasets/movielens/",
    "research use only",
    "No redistribution without permission, no commercial use; cite Harper and Konstan, doi:10.1145/2827872.",
)
_GENRES = (
    "unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy Film-Noir Horror "
    "Musical Mystery Romance Sci-Fi Thriller War Western"
)
GENRES = tuple(_GENRES.split())
_UNTITLED = "unkonwn"  # so spelt in the wheel, for the one movie whose title GroupLens does not know

_WHEEL = File(
    "movielens-100k/recbole-1.2.1-py3-none-any.whl",
    "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
    2130151,
    (wheel("recbole", "1.2.1"),),
)
_ZIP = File(
    "movielens-100k/ml-100k.zip",
    "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
    4924029,
    (http("https://files.grouplens.org/datasets/movielens/ml-100k.zip"),),
)


def _member(name: str, change: Callable[[bytes], bytes] = bytes) -> Callable[[bytes], bytes]:
    def extract(archive: bytes) -> bytes:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            return change(opened.read(name))

    return extract


def convert_ratings(data: bytes) -> bytes:
    """GroupLens u.data with the header of the wheel's file."""
    return b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + data


def convert_users(data: bytes) -> bytes:
    """GroupLens u.user as the wheel's file."""
    return b"user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n" + data.replace(
        b"|", b"\t"
    )


def convert_items(data: bytes) -> bytes:
    """GroupLens u.item as the wheel's file: the title without its last bracket, that bracket, the genres."""
    lines = ["item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"]
    for line in data.decode("latin-1").split("\n"):
        if line:
            cells = line.split("|")
            match = re.fullmatch(r"(.*) \((.*)\)\s*", cells[1])
            title, year = match.groups() if match else (_UNTITLED, _UNTITLED)
            genres = [genre for genre, flag in zip(GENRES, cells[-len(GENRES) :], strict=True) if flag == "1"]
            lines.append("\t".join([cells[0], title, year, " ".join(genres)]))
    return ("\n".join(lines) + "\n").encode()


def _routes(name: str, original: str, convert: Callable[[bytes], bytes]) -> tuple[Route, ...]:
    packed = f"recbole/dataset_example/ml-100k/{name}"
    return (
        member(_ZIP, f"ml-100k/{original}", _member(f"ml-100k/{original}", convert)),
        member(_WHEEL, packed, _member(packed)),
    )


_RATINGS = File(
    "movielens-100k/ml-100k.inter",
    "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    1979230,
    _routes("ml-100k.inter", "u.data", convert_ratings),
)
_ITEMS = File(
    "movielens-100k/ml-100k.item",
    "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
    66632,
    _routes("ml-100k.item", "u.item", convert_items),
)
_USERS = File(
    "movielens-100k/ml-100k.user",
    "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
    22697,
    _routes("ml-100k.user", "u.user", convert_users),
)

DATASETS = (
    Dataset(
        "ml-100k",
        ((_RATINGS,), (_ITEMS,), (_USERS,)),
        Expected(943, 1682, 100000, "1997-09-20", "1998-04-22"),
    ),
)


class Movies(NamedTuple):
    """Columns of movies 1..num_items. title: text. year: int32, 0 = not stated. genres: [num_items, 19]."""

    title: np.ndarray
    year: np.ndarray
    genres: np.ndarray


class Users(NamedTuple):
    """Columns of users 1..num_users. age: years, int32. gender, occupation, zip_code: text."""

    age: np.ndarray
    gender: np.ndarray
    occupation: np.ndarray
    zip_code: np.ndarray


def load_interactions(name: str) -> Interactions:
    """All ratings in the order of the file; value is the rating 1..5; ids follow the order of the raw ids."""
    dataset = pick(DATASETS, name)
    show_terms(SOURCE)
    table = np.array(_table(_RATINGS))[:, :4].astype(np.int64)
    user, item, rating, time = table.T
    return _checked(
        Interactions.from_raw(
            f"movielens/{name}", user, item, time.copy(), rating.astype(np.float32), order="sorted"
        ),
        dataset.expected,
    )


def load(name: str) -> Sequences:
    """Every rating is an event, whatever its value; sorted by time, equal times by the order of the file."""
    return load_interactions(name).to_sequences()


def load_movies(name: str) -> Movies:
    """Movie columns, in the order of the item ids that `load` gives."""
    pick(DATASETS, name)
    show_terms(SOURCE)
    rows = _by_id("item", _table(_ITEMS))
    genres = np.array([[genre in row[3].split() for genre in GENRES] for row in rows])
    year = np.array([int(row[2]) if row[2].isdigit() else 0 for row in rows], np.int32)
    return Movies(np.array([row[1] for row in rows]), year, genres)


def load_users(name: str) -> Users:
    """User columns, in the order of the user ids that `load` gives."""
    pick(DATASETS, name)
    show_terms(SOURCE)
    _, age, gender, occupation, zip_code = zip(*_by_id("user", _table(_USERS)), strict=True)
    return Users(np.array(age).astype(np.int32), np.array(gender), np.array(occupation), np.array(zip_code))


def _table(file: File) -> list[list[str]]:
    return [line.split("\t") for line in read(file).decode().split("\n")[1:] if line]


def _by_id(feature: str, rows: list[list[str]]) -> list[list[str]]:
    raw = np.array([row[0] for row in rows]).astype(np.int64)
    ids = vocab.build(feature, raw, "sorted").encode(raw)
    return [rows[i] for i in np.argsort(ids)]


def _checked(interactions: Interactions, expected: Expected) -> Interactions:
    check(interactions.name, interactions.statistics(), expected)
    return interactions
