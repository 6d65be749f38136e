"""MovieLens: ratings, movie and user columns (Harper and Konstan, doi:10.1145/2827872).

ml-100k comes with times, ml-1m without: see `load_impressions`.

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
from jaxrec.data.events.interactions import Interactions, Sequences
from jaxrec.data.events.sequence_files import parse_integers, parse_table
from jaxrec.data.sources.dataset import Dataset, Expected, Table, check, check_table, pick
from jaxrec.data.store import (
    File,
    Route,
    Source,
    archive_member,
    find_file,
    http,
    read_file,
    show_terms,
    wheel,
)
from jaxrec.data.tables.columns import Coded, Ragged, RawColumn
from jaxrec.data.tables.features import Category, Number, Tags, encode, fit_encoders
from jaxrec.data.tables.impressions import Impressions, ImpressionSplit, split_at_random, split_in_time_order
from jaxrec.data.tables.unobserved_pairs import add_unobserved

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
        archive_member(_ZIP, f"ml-100k/{original}", _member(f"ml-100k/{original}", convert)),
        archive_member(_WHEEL, packed, _member(packed)),
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

ZIP_1M = File(
    "movielens-1m/ml-1m.zip",
    "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
    5917549,
    (http("https://files.grouplens.org/datasets/movielens/ml-1m.zip"),),
)
_PACKED_1M = File(
    "movielens-1m/ratings_no_time.npz",
    "a9181b040d9098fc0e12cc22ada8171f66cc85e15673e9bdee930d0002956865",
    1677622,
)
_USERS_1M = File(
    "movielens-1m/users.dat",
    "1dc3a95300cb19f7c10e027daf29b8cdf1d908dab65b5edfb45950aa389a10a3",
    134368,
    (archive_member(ZIP_1M, "ml-1m/users.dat", _member("ml-1m/users.dat")),),
)
_MOVIES_1M = File(
    "movielens-1m/movies.dat",
    "0140fc2356357c1a851d0f52e893a1e4d3696df632c4141cea8d5bc3d621f0b9",
    171308,
    (archive_member(ZIP_1M, "ml-1m/movies.dat", _member("ml-1m/movies.dat")),),
)

DATASETS = (
    Dataset(
        "ml-100k",
        ((_RATINGS,), (_ITEMS,), (_USERS,)),
        Expected(943, 1682, 100000, "1997-09-20", "1998-04-22"),
    ),
)
TABLES = (
    Table("ml-100k", ((_RATINGS,), (_ITEMS,), (_USERS,)), {"watched": 100_000, "liked": 55_375}),
    Table(
        "ml-1m",
        ((_PACKED_1M, ZIP_1M), (_MOVIES_1M,), (_USERS_1M,)),
        {"watched": 1_000_209, "liked": 575_281},
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
    columns = zip(*_table(_RATINGS), strict=True)
    user, item, rating, time = (parse_integers(column, _RATINGS.path) for column in columns)
    return _checked(
        Interactions.from_raw(
            f"movielens/{name}", user, item, time, rating.astype(np.float32), order="sorted"
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
    year = np.array([int(row[2]) if re.fullmatch("[0-9]+", row[2]) else 0 for row in rows], np.int32)
    return Movies(np.array([row[1] for row in rows]), year, genres)


def load_users(name: str) -> Users:
    """User columns, in the order of the user ids that `load` gives."""
    pick(DATASETS, name)
    show_terms(SOURCE)
    _, age, gender, occupation, zip_code = zip(*_by_id("user", _table(_USERS)), strict=True)
    years = parse_integers(age, _USERS.path).astype(np.int32)
    return Users(years, np.array(gender), np.array(occupation), np.array(zip_code))


def load_people(name: str) -> tuple[Sequences, Users]:
    """Sequences with what is known of their users, row by row, of ml-100k or ml-1m.

    ml-1m has no times here: a user's events stand in the order of the file, which is not that of time.
    """
    if pick(TABLES, name).name == "ml-100k":
        return load(name), load_users(name)
    show_terms(SOURCE)
    interactions, users, _ = _million()
    return interactions.to_sequences(), users


def _table(file: File) -> list[list[str]]:
    return [line.split("\t") for line in read_file(file).decode().split("\n")[1:] if line]


def _by_id(feature: str, rows: list[list[str]]) -> list[list[str]]:
    raw = parse_integers([row[0] for row in rows], feature)
    ids = vocab.build(feature, raw, "sorted").encode(raw)
    return [rows[i] for i in np.argsort(ids)]


def _checked(interactions: Interactions, expected: Expected) -> Interactions:
    check(interactions.name, interactions.statistics(), expected)
    return interactions


def load_impressions(name: str, *, negatives: int = 4, seed: int = 0) -> ImpressionSplit:
    """Three tasks about a user and a movie: `watched`, `liked` (rating >= 4), and `rating` as a number.

    Rows: every rating (watched), and for each `negatives` movies drawn uniformly among those its user had not
    rated up to its part of the split (not watched). watched and liked are labelled on every row, liked
    implying watched (`as_ctr_cvr("watched", "liked")` gives the tasks of ESMM); rating, 1..5, only where
    watched.

    ml-100k is split by time, 80/10/10; its users rate within days, so most users of the test part are new:
    their id is out of vocabulary, and what is known of them is age, gender and occupation. ml-1m is split
    at random, 80/10/10 by `seed`, since it has no times here.

    Features: user and movie id; age (in years for ml-100k, in GroupLens' seven ranges for ml-1m), gender,
    occupation; year and genres of the movie.
    """
    table = pick(TABLES, name)
    if name == "ml-1m":
        show_terms(SOURCE)
        interactions, users, movies = _million()
        parts = split_at_random(interactions.user.size, seed=seed)
    else:
        interactions, users, movies = load_interactions(name), load_users(name), load_movies(name)
        assert interactions.time is not None
        parts = split_in_time_order(interactions.time)
    pairs = add_unobserved(
        interactions.user - 1,
        interactions.item - 1,
        interactions.num_items,
        parts,
        negatives_per_pair=negatives,
        seed=seed,
    )
    raw: dict[str, RawColumn] = {
        "user_id": Coded(pairs.user, interactions.user_ids),
        "movie_id": Coded(pairs.item, interactions.item_ids),
        "age": _of(users.age, pairs.user) if name == "ml-1m" else users.age[pairs.user],
        "gender": _of(users.gender, pairs.user),
        "occupation": _of(users.occupation, pairs.user),
        "year": _of(movies.year, pairs.item),
        "genres": _tags(movies.genres[pairs.item]),
    }
    specs = [
        Category("user_id"),
        Category("movie_id"),
        Category("age") if name == "ml-1m" else Number("age"),
        Category("gender"),
        Category("occupation"),
        Category("year", missing=(0,)),
        Tags("genres"),
    ]
    encoders = fit_encoders(specs, raw, pairs.split.train)
    assert interactions.value is not None
    rating = np.where(pairs.observed, interactions.value[pairs.origin], 0).astype(np.float32)
    impressions = Impressions(
        f"movielens/{name}",
        encode(encoders, raw),
        encoders.fields,
        labels={
            "watched": pairs.observed.astype(np.float32),
            "liked": (rating >= 4).astype(np.float32),
            "rating": rating,
        },
        spaces={"rating": pairs.observed},
        group=(pairs.user + 1).astype(np.int32),
        time=None if interactions.time is None else interactions.time[pairs.origin],
        regression=("rating",),
    )
    check_table(impressions, table)
    return impressions.split(*pairs.split[:3], rule=pairs.split.rule)


def _of(column: np.ndarray, rows: np.ndarray) -> Coded:
    """A column of users or movies for the rows of pairs."""
    values, codes = np.unique(column, return_inverse=True)
    return Coded(codes[rows], values)


def _tags(genres: np.ndarray) -> Ragged:
    """Flags [N, genres] as the names of each row's genres."""
    _, which = np.nonzero(genres)
    offsets = np.concatenate([[0], np.cumsum(genres.sum(axis=1))]).astype(np.int64)
    return Ragged(Coded(which, np.array(GENRES)), offsets)


def _million() -> tuple[Interactions, Users, Movies]:
    """MovieLens-1M without its times, so that a copy packed without them gives the same table."""
    if find_file(_PACKED_1M) is not None:
        with np.load(io.BytesIO(read_file(_PACKED_1M))) as packed:
            user, movie, rating = (packed[name].astype(np.int64) for name in ("user", "movie", "rating"))
    else:
        lines = _member("ml-1m/ratings.dat")(read_file(ZIP_1M))
        user, movie, rating, _ = parse_table(lines, ("user", "movie", "rating", "time"), ZIP_1M.path, b"::").T
    interactions = Interactions.from_raw(
        "movielens/ml-1m", user, movie, value=rating.astype(np.float32), order="sorted"
    )
    described = _described(_USERS_1M)
    rows = [described[raw] for raw in interactions.user_ids.tolist()]
    _, gender, age, occupation, zip_code = (np.array(column) for column in zip(*rows, strict=True))
    years, works = (parse_integers(column.tolist(), _USERS_1M.path) for column in (age, occupation))
    users = Users(years.astype(np.int32), gender, works, zip_code)
    described = _described(_MOVIES_1M)
    rows = [described[raw] for raw in interactions.item_ids.tolist()]
    year = [re.search(r"\(([0-9]{4})\)\s*$", row[1]) for row in rows]
    genres = np.array([[genre in row[2].split("|") for genre in GENRES] for row in rows])
    movies = Movies(
        np.array([row[1] for row in rows]), np.array([int(y[1]) if y else 0 for y in year], np.int32), genres
    )
    return interactions, users, movies


def _described(file: File) -> dict[int, list[str]]:
    """Cells of each line of a .dat file, by the id that they begin with; ValueError if one stands twice."""
    rows = [line.split("::") for line in read_file(file).decode("latin-1").split("\n") if line]
    ids = parse_integers([row[0] for row in rows], file.path).tolist()
    described = dict(zip(ids, rows, strict=True))
    if len(described) < len(ids):
        raise ValueError(
            f"{file.path}: describes {len(described):,} ids in {len(ids):,} lines; fetch it again"
        )
    return described
