"""MeLU's states of MovieLens-1M: new users, new movies, and what is known of both (arXiv:1908.00413, 4.1).

A random 80 % of the users exist, the others are new; movies exist up to 1997 and are new from 1998 on. The
authors' repository lists the ratings of each state and describes the movies by rate (MPAA), genres, directors
and actors; users have gender, age, occupation and the first five digits of a zip code.

The description has no movie 860 and 1795, duplicates of 811 and 1741 by GroupLens' titles; they are described
as these, as in the authors' lists. 'N/A' is a value of its own, as in the authors' code. That code has 8,030
columns of actors, of which the files fill 7,978. Notes in brackets behind a director's name, such as
(co-director), are removed, as there.
"""

from __future__ import annotations

import io
import json
import re

import numpy as np

from jaxrec.data.events.interactions import Interactions
from jaxrec.data.events.sequence_files import parse_integers
from jaxrec.data.sources.dataset import RatingSet, find_by_name
from jaxrec.data.sources.movielens import ARRAYS_1M, USERS_1M, ZIP_1M, load_million
from jaxrec.data.sources.movielens import SOURCE as MOVIELENS
from jaxrec.data.store import File, Source, find_file, github, read_file, show_terms
from jaxrec.data.tables.rating_tasks import RatedContent

REPOSITORY, COMMIT = "hoyeoplee/MeLU", "f70c8ff91471193cd598bc241c6b0f22665f6375"
SOURCE = Source(
    "melu",
    title="MovieLens-1M in the four states of MeLU",
    homepage=f"https://github.com/{REPOSITORY}",
    licence="research use only",
    terms=f"The repository states no licence. Ratings: {MOVIELENS.terms}",
)
_MOVIES = File(
    "movielens-1m/movies_extrainfos.dat",
    sha256="18432b1713b66a5262c11f6d929801a6e6f414d861cd2adf191dfba61e45c74d",
    size=3309481,
    routes=(github(REPOSITORY, COMMIT, "movielens/ml-1m/movies_extrainfos.dat"),),
)
_NEW_USERS = File(
    "movielens-1m/user_cold_state.json",
    sha256="ec7414e1da3b1636d34f0f3a5615e2a07bea9b82156123768049cc166ed20df1",
    size=1264762,
    routes=(github(REPOSITORY, COMMIT, "movielens/ml-1m/user_cold_state.json"),),
)
STATES = ("warm", "user-cold", "item-cold", "both-cold")
RATINGS = (
    RatingSet(
        "ml-1m",
        ((ARRAYS_1M, ZIP_1M), (USERS_1M,), (_MOVIES,), (ARRAYS_1M, _NEW_USERS)),
        {"warm": 640_448, "user-cold": 163_702, "item-cold": 157_456, "both-cold": 38_603},
    ),
)
FIRST_NEW_YEAR = 1998
DUPLICATES = {860: 811, 1795: 1741}  # movies that are not described, and those that they repeat
_YEAR, _RATE, _GENRE, _DIRECTOR, _ACTOR = 2, 3, 5, 6, 8  # cells of a line
_CELLS = 11


def load_ratings(name: str) -> RatedContent:
    """All ratings of MovieLens-1M in file order, with their states and content."""
    described = find_by_name(RATINGS, name)
    show_terms(SOURCE)
    interactions, users, _ = load_million()
    movies, index = parse_movies(read_file(_MOVIES), interactions.item_ids)
    assert interactions.value is not None
    columns: dict[str, tuple[np.ndarray, np.ndarray]] = {
        "gender": single(users.gender),
        "age": single(users.age),
        "occupation": single(users.occupation),
        "zip": single(np.array([code[:5] for code in users.zip_code.tolist()])),
        "rate": single(np.array([row[_RATE] for row in movies])),
        "genre": several([row[_GENRE].split(", ") for row in movies]),
        "director": several([without_notes(row[_DIRECTOR]).split(", ") for row in movies]),
        "actor": several([row[_ACTOR].split(", ") for row in movies]),
    }
    names = tuple(columns)
    found = RatedContent(
        f"melu/{name}",
        interactions.user,
        interactions.item,
        interactions.value,
        _states(interactions, [int(movies[i][_YEAR]) >= FIRST_NEW_YEAR for i in index]),
        STATES,
        users={column: columns[column][0] for column in names[:4]},
        items={column: columns[column][0][np.concatenate([[0], index + 1])] for column in names[4:]},
        values={column: raw for column, (_, raw) in columns.items()},
        user_ids=interactions.user_ids,
        item_ids=interactions.item_ids,
    )
    counts = np.bincount(found.state, minlength=len(STATES)).tolist()
    if dict(zip(STATES, counts, strict=True)) != dict(described.ratings):
        raise ValueError(
            f"{found.name}: {counts} ratings of the states {STATES}, expected {dict(described.ratings)}; the "
            "parser or file is wrong"
        )
    return found


def parse_movies(content: bytes, item_ids: np.ndarray) -> tuple[list[list[str]], np.ndarray]:
    """The cells of every line, and where each item's is, by its raw id: int [I].

    Raises:
      ValueError: a line of another number of cells, an id that is no integer or is described twice, or a
        movie without a description.
    """
    rows = [line.split("::") for line in content.decode("utf-8").split("\n") if line]
    for line, row in enumerate(rows, 1):
        if len(row) != _CELLS:
            raise ValueError(
                f"{_MOVIES.path}, line {line}: {len(row)} cells, expected {_CELLS}; fetch it again"
            )
    ids = parse_integers([row[0] for row in rows], _MOVIES.path).tolist()
    described = {raw: number for number, raw in enumerate(ids)}
    if len(described) < len(rows):
        raise ValueError(f"{_MOVIES.path}: {len(rows):,} lines for {len(described):,} movies; fetch it again")
    wanted = [DUPLICATES.get(raw, raw) for raw in item_ids.tolist()]
    missing = [raw for raw in wanted if raw not in described]
    if missing:
        raise ValueError(f"{_MOVIES.path}: movie {missing[0]} is not described; fetch the file again")
    return rows, np.array([described[raw] for raw in wanted])


def single(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A column of one value an entry: ids [n + 1] behind the padding's row, and the sorted raw values."""
    raw, codes = np.unique(values, return_inverse=True)
    return np.concatenate([[0], codes + 1]).astype(np.int32), raw


def several(values: list[list[str]]) -> tuple[np.ndarray, np.ndarray]:
    """A column of sets: ids [n + 1, A], 0 in front, each value once an entry, and the sorted raw values."""
    raw, codes = np.unique(np.array([value for entry in values for value in entry]), return_inverse=True)
    cuts = np.cumsum([len(entry) for entry in values])[:-1]
    sets = [np.unique(part) + 1 for part in np.split(codes, cuts)]
    ids = np.zeros((len(sets) + 1, max(map(len, sets))), np.int32)
    for number, found in enumerate(sets, 1):
        ids[number, ids.shape[1] - len(found) :] = found
    return ids, raw


def without_notes(names: str) -> str:
    """Names without notes in brackets, which the authors' code removes.

    >>> without_notes("John Lasseter, Ash Brannon(co-director)")
    'John Lasseter, Ash Brannon'
    """
    return re.sub(r"\([^()]*\)", "", names)


def _states(interactions: Interactions, new_item: list[bool]) -> np.ndarray:
    """The state of each rating, as listed, or from the list of new users and the movies' years."""
    if find_file(ARRAYS_1M) is not None:
        with np.load(io.BytesIO(read_file(ARRAYS_1M))) as packed:
            return np.asarray(packed["melu_state"], np.int8)
    return derived_states(interactions, new_item, read_file(_NEW_USERS))


def derived_states(interactions: Interactions, new_item: list[bool], listed: bytes) -> np.ndarray:
    """The states that follow from new_item [I] and a JSON object whose names are the new users' raw ids."""
    new_user = np.isin(interactions.user_ids, [int(raw) for raw in json.loads(listed)])
    states = new_user[interactions.user - 1] + 2 * np.array(new_item)[interactions.item - 1]
    return np.asarray(states, np.int8)
