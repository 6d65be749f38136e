"""MovieLens: ratings, movie and user columns (Harper and Konstan, doi:10.1145/2827872).

ml-100k has times here, ml-1m does not: see `load_impressions`.

ml-100k is read from the GroupLens archive or, where only a package index is reachable, from the RecBole 1.2.1
wheel, which is not installed. The checksums are those of the wheel's files; the archive's ratings and users
are converted to the same bytes.
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
from jaxrec.data.sources.dataset import (
    Dataset,
    Expected,
    LabelledTable,
    check_positives,
    check_statistics,
    find_by_name,
)
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
    title="MovieLens (GroupLens, University of Minnesota)",
    homepage="https://grouplens.org/datasets/movielens/",
    licence="research use only",
    terms="No redistribution without permission, no commercial use; cite Harper and Konstan, "
    "doi:10.1145/2827872.",
)
_GENRES = (
    "unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy Film-Noir Horror "
    "Musical Mystery Romance Sci-Fi Thriller War Western"
)
GENRES = tuple(_GENRES.split())
_UNTITLED = "unkonwn"  # spelt like this in the wheel, for the one movie whose title GroupLens does not know

_WHEEL = File(
    "movielens-100k/recbole-1.2.1-py3-none-any.whl",
    sha256="9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
    size=2130151,
    routes=(wheel("recbole", "1.2.1"),),
)
_ZIP = File(
    "movielens-100k/ml-100k.zip",
    sha256="50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
    size=4924029,
    routes=(http("https://files.grouplens.org/datasets/movielens/ml-100k.zip"),),
)


def _extractor(name: str, change: Callable[[bytes], bytes] = bytes) -> Callable[[bytes], bytes]:
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
    """GroupLens u.item as the wheel's file: title, the year in brackets after it, and genres."""
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
        archive_member(_ZIP, f"ml-100k/{original}", _extractor(f"ml-100k/{original}", convert)),
        archive_member(_WHEEL, packed, _extractor(packed)),
    )


_RATINGS = File(
    "movielens-100k/ml-100k.inter",
    sha256="4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    size=1979230,
    routes=_routes("ml-100k.inter", "u.data", convert_ratings),
)
_ITEMS = File(
    "movielens-100k/ml-100k.item",
    sha256="51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
    size=66632,
    routes=_routes("ml-100k.item", "u.item", convert_items),
)
_USERS = File(
    "movielens-100k/ml-100k.user",
    sha256="4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
    size=22697,
    routes=_routes("ml-100k.user", "u.user", convert_users),
)

ZIP_1M = File(
    "movielens-1m/ml-1m.zip",
    sha256="a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
    size=5917549,
    routes=(http("https://files.grouplens.org/datasets/movielens/ml-1m.zip"),),
)
ARRAYS_1M = File(
    "movielens-1m/ratings_no_time.npz",
    "a9181b040d9098fc0e12cc22ada8171f66cc85e15673e9bdee930d0002956865",
    1677622,
)
USERS_1M = File(
    "movielens-1m/users.dat",
    sha256="1dc3a95300cb19f7c10e027daf29b8cdf1d908dab65b5edfb45950aa389a10a3",
    size=134368,
    routes=(archive_member(ZIP_1M, "ml-1m/users.dat", _extractor("ml-1m/users.dat")),),
)
_MOVIES_1M = File(
    "movielens-1m/movies.dat",
    sha256="0140fc2356357c1a851d0f52e893a1e4d3696df632c4141cea8d5bc3d621f0b9",
    size=171308,
    routes=(archive_member(ZIP_1M, "ml-1m/movies.dat", _extractor("ml-1m/movies.dat")),),
)

DATASETS = (
    Dataset(
        "ml-100k",
        ((_RATINGS,), (_ITEMS,), (_USERS,)),
        Expected(users=943, items=1682, interactions=100000, first="1997-09-20", last="1998-04-22"),
    ),
)
TABLES = (
    LabelledTable("ml-100k", ((_RATINGS,), (_ITEMS,), (_USERS,)), {"watched": 100_000, "liked": 55_375}),
    LabelledTable(
        "ml-1m",
        ((ARRAYS_1M, ZIP_1M), (_MOVIES_1M,), (USERS_1M,)),
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
    """All ratings in file order; value is the rating 1..5; ids have the order of the raw ids."""
    dataset = find_by_name(DATASETS, name)
    show_terms(SOURCE)
    columns = zip(*_read_atomic_file(_RATINGS), strict=True)
    user, item, rating, time = (parse_integers(column, _RATINGS.path) for column in columns)
    return _check_counts(
        Interactions.from_raw(
            f"movielens/{name}",
            user=user,
            item=item,
            time=time,
            value=rating.astype(np.float32),
            order="sorted",
        ),
        dataset.expected,
    )


def load(name: str) -> Sequences:
    """Every rating is an event, whatever its value; events are sorted by time, ties in file order."""
    return load_interactions(name).to_sequences()


def load_movies(name: str) -> Movies:
    """Movie columns, in the order of the item ids that `load` gives."""
    find_by_name(DATASETS, name)
    show_terms(SOURCE)
    rows = _sort_by_id("item", _read_atomic_file(_ITEMS))
    genres = np.array([[genre in row[3].split() for genre in GENRES] for row in rows])
    year = np.array([int(row[2]) if re.fullmatch("[0-9]+", row[2]) else 0 for row in rows], np.int32)
    return Movies(np.array([row[1] for row in rows]), year, genres)


def load_users(name: str) -> Users:
    """User columns, in the order of the user ids that `load` gives."""
    find_by_name(DATASETS, name)
    show_terms(SOURCE)
    _, age, gender, occupation, zip_code = zip(*_sort_by_id("user", _read_atomic_file(_USERS)), strict=True)
    years = parse_integers(age, _USERS.path).astype(np.int32)
    return Users(
        age=years, gender=np.array(gender), occupation=np.array(occupation), zip_code=np.array(zip_code)
    )


def load_described(name: str) -> tuple[Interactions, Users, Movies]:
    """All ratings, and the columns of users and movies in the same order, of ml-100k or ml-1m."""
    if find_by_name(TABLES, name).name == "ml-100k":
        return load_interactions(name), load_users(name), load_movies(name)
    show_terms(SOURCE)
    return load_million()


def load_with_users(name: str) -> tuple[Sequences, Users]:
    """Sequences and the columns of their users, in the same order, of ml-100k or ml-1m.

    ml-1m has no times here: a user's events are in file order, which is not time order.
    """
    if find_by_name(TABLES, name).name == "ml-100k":
        return load(name), load_users(name)
    show_terms(SOURCE)
    interactions, users, _ = load_million()
    return interactions.to_sequences(), users


def _read_atomic_file(file: File) -> list[list[str]]:
    return [line.split("\t") for line in read_file(file).decode().split("\n")[1:] if line]


def _sort_by_id(feature: str, rows: list[list[str]]) -> list[list[str]]:
    raw = parse_integers([row[0] for row in rows], feature)
    ids = vocab.build(feature, raw, "sorted").encode(raw)
    return [rows[i] for i in np.argsort(ids)]


def _check_counts(interactions: Interactions, expected: Expected) -> Interactions:
    check_statistics(interactions.name, interactions.statistics(), expected)
    return interactions


def load_impressions(name: str, *, negatives: int = 4, seed: int = 0) -> ImpressionSplit:
    """Three tasks for a user and a movie: `watched`, `liked` (rating >= 4), and `rating` as a number.

    Rows: every rating (watched) and, for each, `negatives` movies sampled uniformly among those its user has
    not rated up to the end of its part of the split (not watched). watched and liked are labelled on every
    row, and liked implies watched (`as_ctr_cvr("watched", "liked")` gives the tasks of ESMM); rating, 1..5,
    only where watched.

    ml-100k is split by time, 80/10/10; its users rate within days, so most users of the test part are new:
    their id is out of vocabulary, and only their age, gender and occupation are known. ml-1m is split at
    random, 80/10/10 by `seed`, since it has no times here.

    Features: user and movie id; age (in years for ml-100k, in GroupLens' seven ranges for ml-1m), gender,
    occupation; year and genres of the movie.
    """
    table = find_by_name(TABLES, name)
    if name == "ml-1m":
        show_terms(SOURCE)
        interactions, users, movies = load_million()
        parts = split_at_random(interactions.user.size, seed=seed)
    else:
        interactions, users, movies = load_interactions(name), load_users(name), load_movies(name)
        assert interactions.time is not None
        parts = split_in_time_order(interactions.time)
    pairs = add_unobserved(
        interactions.user - 1,
        item=interactions.item - 1,
        num_items=interactions.num_items,
        split=parts,
        negatives_per_pair=negatives,
        seed=seed,
    )
    raw: dict[str, RawColumn] = {
        "user_id": Coded(pairs.user, interactions.user_ids),
        "movie_id": Coded(pairs.item, interactions.item_ids),
        "age": _column_of_pairs(users.age, pairs.user) if name == "ml-1m" else users.age[pairs.user],
        "gender": _column_of_pairs(users.gender, pairs.user),
        "occupation": _column_of_pairs(users.occupation, pairs.user),
        "year": _column_of_pairs(movies.year, pairs.item),
        "genres": _genre_names(movies.genres[pairs.item]),
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
    check_positives(impressions, table)
    return impressions.split(*pairs.split[:3], rule=pairs.split.rule)


def _column_of_pairs(column: np.ndarray, rows: np.ndarray) -> Coded:
    """A column of users or movies, for each pair. rows: index of the pair's user or movie, [N]."""
    values, codes = np.unique(column, return_inverse=True)
    return Coded(codes[rows], values)


def _genre_names(genres: np.ndarray) -> Ragged:
    """Genre flags [N, 19] as a ragged column of names."""
    _, which = np.nonzero(genres)
    offsets = np.concatenate([[0], np.cumsum(genres.sum(axis=1))]).astype(np.int64)
    return Ragged(Coded(which, np.array(GENRES)), offsets)


def load_million() -> tuple[Interactions, Users, Movies]:
    """MovieLens-1M without times, since the compressed copy has none; both give the same table."""
    if find_file(ARRAYS_1M) is not None:
        with np.load(io.BytesIO(read_file(ARRAYS_1M))) as packed:
            user, movie, rating = (packed[name].astype(np.int64) for name in ("user", "movie", "rating"))
    else:
        lines = _extractor("ml-1m/ratings.dat")(read_file(ZIP_1M))
        user, movie, rating, _ = parse_table(
            lines, names=("user", "movie", "rating", "time"), where=ZIP_1M.path, separator=b"::"
        ).T
    interactions = Interactions.from_raw(
        "movielens/ml-1m", user, movie, value=rating.astype(np.float32), order="sorted"
    )
    described = read_dat(USERS_1M)
    rows = [described[raw] for raw in interactions.user_ids.tolist()]
    _, gender, age, occupation, zip_code = (np.array(column) for column in zip(*rows, strict=True))
    years, works = (parse_integers(column.tolist(), USERS_1M.path) for column in (age, occupation))
    users = Users(age=years.astype(np.int32), gender=gender, occupation=works, zip_code=zip_code)
    described = read_dat(_MOVIES_1M)
    rows = [described[raw] for raw in interactions.item_ids.tolist()]
    year = [re.search(r"\(([0-9]{4})\)\s*$", row[1]) for row in rows]
    genres = np.array([[genre in row[2].split("|") for genre in GENRES] for row in rows])
    movies = Movies(
        np.array([row[1] for row in rows]), np.array([int(y[1]) if y else 0 for y in year], np.int32), genres
    )
    return interactions, users, movies


def read_dat(file: File) -> dict[int, list[str]]:
    """Cells of each line of a .dat file, by the id in the first; ValueError if an id occurs twice."""
    rows = [line.split("::") for line in read_file(file).decode("latin-1").split("\n") if line]
    ids = parse_integers([row[0] for row in rows], file.path).tolist()
    described = dict(zip(ids, rows, strict=True))
    if len(described) < len(ids):
        raise ValueError(
            f"{file.path}: describes {len(described):,} ids in {len(ids):,} lines; fetch it again"
        )
    return described
