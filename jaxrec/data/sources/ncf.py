"""MovieLens-1M as NCF distributes it (He et al., WWW 2017, arXiv:1708.05031, section 4.1).

Each user's latest rating is the test item, which is ranked against 99 given items that the user has not
rated. 156 of these are the user's own test item, a flaw of the file that changes no rank in the authors'
code; they are taken out here. All ratings count as interactions.

Ratings of training come without times, in the order of the original file, from one compressed copy; the
authors' own file has no address of a known checksum, so it is not downloaded.
"""

from __future__ import annotations

import dataclasses
import io
import lzma

import numpy as np

from jaxrec.data.events.held_out import Candidates, HeldOut, from_parts
from jaxrec.data.events.side_features import SideFeatures, encode_features
from jaxrec.data.sources import movielens
from jaxrec.data.sources.dataset import Dataset, Expected, find_by_name
from jaxrec.data.sources.matrix_files import check_counts
from jaxrec.data.store import File, Source, find_file, github, read_file, show_terms

SOURCE = Source(
    "ncf",
    title="NCF MovieLens-1M",
    homepage="https://github.com/hexiangnan/neural_collaborative_filtering",
    licence="Apache-2.0 (repository)",
    terms="Underlying data: MovieLens (GroupLens terms: research only, no redistribution).",
)
_ROUTE = ("hexiangnan/neural_collaborative_filtering", "4aab159e81c44b062c091bdaed0ab54ac632371f")
_TRAIN = File(
    "ncf-ml-1m/train.npz",
    sha256="7ed46386211b5947faffd9d1a34cd7dba457d9c6a0581a3bf1bdeec40976560d",
    size=1544505,
)
_TEST = File(
    "ncf-ml-1m/ml-1m.test.rating",
    sha256="231ae11eb060b643a8c58c063cd17ffc743b54f569afb073d1abb6cf126b88b5",
    size=128039,
    routes=(github(*_ROUTE, "Data/ml-1m.test.rating"),),
)
_PACKED = File(
    "ncf-ml-1m/ml-1m.test.negative.xz",
    sha256="83670a186a00b33174c5026ad0e813830faa84c768c002d5809b903f0a3ef448",
    size=1060684,
)
_NEGATIVES = File(
    "ncf-ml-1m/ml-1m.test.negative",
    sha256="127853228a76b7d21c0481e8ef8d00dd009cd5c88670dbdd9e9debfdb9f93de4",
    size=2891424,
    routes=(github(*_ROUTE, "Data/ml-1m.test.negative"),),
)
MATRICES = (
    Dataset(
        "ml-1m",
        ((_TRAIN,), (_TEST,), (_PACKED, _NEGATIVES)),
        Expected(users=6040, items=3706, interactions=1000209),
    ),
)


def load_matrix(name: str) -> HeldOut:
    """Training items, the test item and its 99 candidates; raw ids are those of the files, from 0.

    `split.candidates.test` has 0 in place of a candidate that is the test item.
    """
    dataset = find_by_name(MATRICES, name)
    show_terms(SOURCE)
    with np.load(io.BytesIO(read_file(_TRAIN))) as archive:
        train = archive["user"].astype(np.int64), archive["item"].astype(np.int64)
    test = np.loadtxt(io.BytesIO(read_file(_TEST)), dtype=np.int64)
    empty = np.zeros(0, np.int64)
    split = from_parts(
        f"ncf/{name}",
        ((train[0], train[1] + 1), (empty, empty), (test[:, 0], test[:, 1] + 1)),
        num_items=dataset.expected.items,
        rule="the files' training items and test item, each user's latest",
        user_ids=np.arange(dataset.expected.users),
        item_ids=np.arange(dataset.expected.items),
    )
    check_counts(split, dataset.expected, test=dataset.expected.users)
    found = find_file(_PACKED)
    text = lzma.decompress(read_file(_PACKED)) if found is not None else read_file(_NEGATIVES)
    user, target, negatives = parse_negatives(text, _NEGATIVES.path)
    if not (np.array_equal(user, test[:, 0]) and np.array_equal(target, test[:, 1])):
        raise ValueError(f"{_NEGATIVES.path}: its users and test items are not those of {_TEST.path}")
    given = np.where(negatives == target[:, None], 0, negatives + 1)[np.argsort(user)]
    return dataclasses.replace(split, candidates=Candidates(test=given.astype(np.int32)))


def load_features(name: str) -> tuple[SideFeatures, SideFeatures]:
    """MovieLens' columns of the users and of the items of `load_matrix`, in their order.

    Users: gender, age in GroupLens' seven ranges, occupation. Items: year, and one genre or several.

    Raises:
      ValueError: the files number other users or movies than MovieLens has.
    """
    find_by_name(MATRICES, name)
    with np.load(io.BytesIO(read_file(_TRAIN))) as archive:
        movie = archive["item_to_movie_id"].astype(np.int64)
    interactions, users, movies = movielens.load_described(name)
    user_ids, movie_ids = (np.asarray(ids) for ids in (interactions.user_ids, interactions.item_ids))
    number = np.searchsorted(movie_ids, movie).clip(max=len(movie_ids) - 1)
    count = find_by_name(MATRICES, name).expected.users
    if not np.array_equal(user_ids, np.arange(1, count + 1)) or not np.array_equal(movie_ids[number], movie):
        raise ValueError(f"{_TRAIN.path}: its users and movies are not those of movielens/{name}")
    of_users = encode_features({"gender": users.gender, "age": users.age, "occupation": users.occupation})
    names = np.array(movielens.GENRES)
    of_items = encode_features(
        {"year": movies.year[number]},
        several={"genres": [names[row].tolist() for row in movies.genres[number]]},
        missing=(0, ""),
    )
    return of_users, of_items


def parse_negatives(content: bytes, where: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """User and test item of each line `(user,item) negative negative …`, and its negatives: [M], [M], [M, n].

    Raises:
      ValueError: a line of another form, or of another number of negatives than the first; names it.
    """
    rows = []
    for number, line in enumerate(content.decode("ascii", "replace").splitlines(), start=1):
        words = line.replace("(", "").replace(")", "").replace(",", " ").split()
        if not line.startswith("(") or not all(map(str.isdigit, words)) or len(words) < 3:
            raise ValueError(f"{where}, line {number}: {line[:60]!r}: expected `(user,item) negative …`")
        rows.append([int(word) for word in words])
        if len(rows[-1]) != len(rows[0]):
            raise ValueError(
                f"{where}, line {number}: {len(words) - 2} negatives, where the first line has "
                f"{len(rows[0]) - 2}; each user needs as many"
            )
    if not rows:
        raise ValueError(f"{where}: has no line; expected `(user,item) negative …`")
    table = np.array(rows)
    return table[:, 0], table[:, 1], table[:, 2:]
