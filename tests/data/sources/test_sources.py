"""Statistics as the published files have them, and what happens to files that are not those."""

import hashlib
import io
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from jaxrec.data import store
from jaxrec.data.events.interactions import Sequences, format_statistics, gap_variance_rank
from jaxrec.data.events.split import leave_one_out
from jaxrec.data.sources import coserec, movielens, sasrec, ticoserec
from jaxrec.data.sources.dataset import Dataset, Expected, check, pick

EVERY = [
    pytest.param(source, dataset, id=f"{source.SOURCE.name}/{dataset.name}")
    for source in (movielens, ticoserec, coserec, sasrec)
    for dataset in source.DATASETS
]
TICO = [pytest.param(dataset, id=dataset.name) for dataset in ticoserec.DATASETS]
PRINTED = [
    (
        movielens,
        "ml-100k",
        "943 users, 1,682 items, 100,000 interactions, sparsity 93.6953 %, average length 106.04",
    ),
    (
        ticoserec,
        "Beauty",
        "22,363 users, 12,101 items, 198,502 interactions, sparsity 99.9266 %, average length 8.88",
    ),
    (
        ticoserec,
        "Sports",
        "35,598 users, 18,357 items, 296,337 interactions, sparsity 99.9547 %, average length 8.32",
    ),
    (
        ticoserec,
        "Home",
        "66,519 users, 28,237 items, 551,682 interactions, sparsity 99.9706 %, average length 8.29",
    ),
    (
        ticoserec,
        "Yelp-A",
        "30,431 users, 20,033 items, 316,354 interactions, sparsity 99.9481 %, average length 10.40",
    ),
    (
        coserec,
        "Beauty",
        "22,363 users, 12,101 items, 198,502 interactions, sparsity 99.9266 %, average length 8.88",
    ),
    (coserec, "Sports_and_Outdoors", "35,598 users, 18,357 items, 296,337 interactions, sparsity 99.9547 %"),
    (coserec, "Toys_and_Games", "19,412 users, 11,924 items, 167,597 interactions, sparsity 99.9276 %"),
    (
        coserec,
        "Yelp",
        "30,431 users, 20,033 items, 316,354 interactions, sparsity 99.9481 %, average length 10.40",
    ),
    (
        sasrec,
        "Video",
        "31,013 users, 23,715 items, 287,107 interactions, sparsity 99.9610 %, average length 9.26",
    ),
]


@pytest.fixture
def data(cache: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """JAXREC_DATA_DIR names the benchmark data; a file that is missing there is not downloaded."""
    monkeypatch.setenv("JAXREC_DATA_DIR", str(data_dir))
    return data_dir


LOADED: dict[str, Sequences] = {}


def load(source: ModuleType, dataset: Dataset) -> Sequences:
    """Loads a set once for all tests of this file, which don't change it."""
    for alternatives in dataset.files:
        if store.file_state(*alternatives) != "in JAXREC_DATA_DIR":
            pytest.skip(f"{alternatives[-1].path} is not in the data folder")
    name = f"{source.SOURCE.name}/{dataset.name}"
    if name not in LOADED:
        LOADED[name] = source.load(dataset.name)
    return LOADED[name]


@pytest.mark.parametrize(
    "source, name, printed", PRINTED, ids=lambda value: getattr(value, "SOURCE", (value,))[0]
)
def test_statistics_are_those_published(data: Path, source: ModuleType, name: str, printed: str) -> None:
    sequences = load(source, pick(source.DATASETS, name))
    assert printed in format_statistics(sequences.name, sequences.statistics())


@pytest.mark.parametrize("source, dataset", EVERY)
def test_every_item_id_occurs(data: Path, source: ModuleType, dataset: Dataset) -> None:
    sequences = load(source, dataset)
    assert np.array_equal(np.unique(sequences.items), np.arange(1, sequences.num_items + 1))


@pytest.mark.parametrize("source, dataset", EVERY)
def test_every_file_names_a_fixed_address(source: ModuleType, dataset: Dataset) -> None:
    for alternatives in dataset.files:
        assert alternatives[-1].routes
        for file in alternatives:
            assert len(file.sha256) == 64
            assert file.size > 0


@pytest.mark.parametrize("dataset", TICO)
def test_uniform_rank_is_a_permutation_close_to_the_recomputed_order(data: Path, dataset: Dataset) -> None:
    sequences = load(ticoserec, dataset)
    assert sequences.gap_variance_rank is not None
    if sequences.times is not None:
        assert np.corrcoef(sequences.gap_variance_rank, gap_variance_rank(sequences))[0, 1] > 0.7


def test_uniform_rank_is_the_line_of_the_ranked_file(data: Path) -> None:
    sequences = load(ticoserec, pick(ticoserec.DATASETS, "Beauty"))
    with np.load(data / "ticoserec/Beauty/var_rank_user_order.npz") as packed:
        order = packed["user_order"]
    assert sequences.gap_variance_rank is not None
    assert np.array_equal(sequences.user_ids[np.argsort(sequences.gap_variance_rank)], order)


def test_uniform_rank_is_read_from_the_original_file_too(
    data: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Builds the source's item file in ranked order, whose checksum is known, and reads the rank from it."""
    sequences = load(ticoserec, pick(ticoserec.DATASETS, "Beauty"))
    rows = [" ".join(map(str, sequences.user_items(row).tolist())) for row in range(sequences.num_users)]
    lines = [f"{user} {row}\n".encode() for user, row in zip(sequences.user_ids, rows, strict=True)]
    assert sequences.gap_variance_rank is not None
    content = b"".join(lines[row] for row in np.argsort(sequences.gap_variance_rank))
    _, (_, original), _ = pick(ticoserec.DATASETS, "Beauty").files
    (cache / original.path).parent.mkdir(parents=True)
    (cache / original.path).write_bytes(content)
    assert store.read_file(original) == content
    monkeypatch.setattr(ticoserec, "find_file", lambda _: None)
    again = ticoserec.load("Beauty")
    assert np.array_equal(again.gap_variance_rank, sequences.gap_variance_rank)


def test_coserec_and_ticoserec_hold_the_same_users(data: Path) -> None:
    one = load(coserec, pick(coserec.DATASETS, "Beauty"))
    two = load(ticoserec, pick(ticoserec.DATASETS, "Beauty"))
    assert np.array_equal(np.sort(one.lengths), np.sort(two.lengths))
    assert np.array_equal(np.sort(np.bincount(one.items)), np.sort(np.bincount(two.items)))


def test_sasrec_keeps_short_users_for_training(data: Path) -> None:
    sequences = load(sasrec, pick(sasrec.DATASETS, "Video"))
    split = leave_one_out(sequences, short="train")
    assert split.test.user.size == (sequences.lengths >= 3).sum() < sequences.num_users


def test_movielens_users_are_in_time_order(data: Path) -> None:
    sequences = load(movielens, pick(movielens.DATASETS, "ml-100k"))
    events = movielens.load_interactions("ml-100k")
    assert events.value is not None
    assert set(events.value.tolist()) == {1.0, 2.0, 3.0, 4.0, 5.0}
    rows = np.flatnonzero(events.user == 196)
    assert events.time is not None
    want = events.item[rows[np.argsort(events.time[rows], kind="stable")]]
    assert np.array_equal(sequences.user_items(195), want)


def test_movielens_columns_follow_the_ids(data: Path) -> None:
    sequences = load(movielens, pick(movielens.DATASETS, "ml-100k"))
    movies, users = movielens.load_movies("ml-100k"), movielens.load_users("ml-100k")
    assert movies.title.size == movies.year.size == movies.genres.shape[0] == sequences.num_items
    assert (movies.title[0], movies.year[0]) == ("Toy Story", 1995)
    assert [g for g, on in zip(movielens.GENRES, movies.genres[0], strict=True) if on] == [
        "Animation", "Children's", "Comedy",
    ]  # fmt: skip
    assert users.age.size == sequences.num_users
    assert [str(column[0]) for column in users] == ["24", "M", "technician", "85711"]
    assert movies.year.dtype == users.age.dtype == np.int32


def test_grouplens_files_are_converted_byte_for_byte(data: Path) -> None:
    """Undoes the conversion of the stored files as far as it can be undone, and converts again."""
    load(movielens, pick(movielens.DATASETS, "ml-100k"))
    ratings = store.read_file(movielens._RATINGS)
    assert movielens.convert_ratings(ratings.split(b"\n", 1)[1]) == ratings
    users = store.read_file(movielens._USERS)
    assert movielens.convert_users(users.split(b"\n", 1)[1].replace(b"\t", b"|")) == users
    lines = []
    items = store.read_file(movielens._ITEMS).decode()
    for line in items.split("\n")[1:-1]:
        number, title, year, genres = line.split("\t")
        flags = ["1" if genre in genres.split() else "0" for genre in movielens.GENRES]
        named = "unknown" if year == title else f"{title} ({year})"
        lines.append("|".join([number, named, "01-Jan-1995", "", "http://example.org", *flags]))
    assert movielens.convert_items("\n".join(lines).encode("latin-1")) == items.encode()


def test_movielens_is_read_out_of_the_wheel(data: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(movielens, pick(movielens.DATASETS, "ml-100k"))
    contents = {
        file.path: store.read_file(file) for file in (movielens._RATINGS, movielens._ITEMS, movielens._USERS)
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path, content in contents.items():
            archive.writestr(f"recbole/dataset_example/ml-100k/{Path(path).name}", content)
    digest = hashlib.sha256(packed.getvalue()).hexdigest()

    def put(path: Path) -> None:
        path.write_bytes(packed.getvalue())

    monkeypatch.delenv("JAXREC_DATA_DIR")
    wheel = movielens._WHEEL._replace(
        sha256=digest, size=len(packed.getvalue()), routes=(store.Route("stand-in", put),)
    )
    for file in (movielens._RATINGS, movielens._ITEMS, movielens._USERS):
        name = f"recbole/dataset_example/ml-100k/{Path(file.path).name}"
        inside = file._replace(routes=(store.archive_member(wheel, name, movielens._member(name)),))
        assert store.read_file(inside) == contents[file.path]
    assert movielens.load("ml-100k").num_users == 943  # from the cache now


def test_an_unknown_data_set_names_the_nearest() -> None:
    with pytest.raises(
        ValueError, match=r"'Beaty': unknown \(did you mean 'Beauty'\?\); one of Beauty, Sports"
    ):
        ticoserec.load("Beaty")


def test_other_counts_than_expected_are_refused() -> None:
    found = Sequences.from_lists("toy", [[1, 2]]).statistics()
    check("toy", found, Expected(1, 2, 2))
    with pytest.raises(ValueError, match="toy: items = 2, expected 3"):
        check("toy", found, Expected(1, 3, 2))
