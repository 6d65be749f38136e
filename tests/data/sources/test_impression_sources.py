"""MovieLens as tasks, and the formats of files that no public address gives."""

import gzip
import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrec.data.__main__ import main
from jaxrec.data.sources import aliccp, aliexpress, criteo, movielens
from jaxrec.data.sources.aliccp import Files
from jaxrec.data.tables import table_reader
from jaxrec.data.tables.impressions import ImpressionSplit

Write = Callable[[str, str | bytes], Path]
MISSING, UNKNOWN = 1, 2


@pytest.fixture(scope="module")
def data(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXREC_DATA_DIR", str(data_dir))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield data_dir


# MovieLens


@pytest.fixture(scope="module")
def small(data: Path) -> ImpressionSplit:
    if not (data / "movielens-100k/ml-100k.inter.gz").exists():
        pytest.skip("movielens-100k is not in the data folder")
    return movielens.load_impressions("ml-100k", negatives=2)


@pytest.fixture(scope="module")
def million(data: Path) -> ImpressionSplit:
    if not (data / "movielens-1m/ratings_no_time.npz").exists():
        pytest.skip("movielens-1m is not in the data folder")
    return movielens.load_impressions("ml-1m", negatives=1)


def test_movielens_tasks_form_a_funnel(small: ImpressionSplit) -> None:
    table = small.impressions
    watched, liked, rating = (table.labels[task] for task in ("watched", "liked", "rating"))
    assert table.num_rows == 300_000
    assert (watched.sum(), liked.sum()) == (100_000, 55_375)
    assert np.array_equal(liked, (rating >= 4).astype(np.float32))
    assert np.array_equal(table.spaces["rating"], watched == 1)
    assert set(np.unique(rating[watched == 1])) == {1, 2, 3, 4, 5}
    assert not rating[watched == 0].any()
    assert table.as_ctr_cvr("watched", "liked").tasks == ("ctr", "cvr", "ctcvr")


def test_movielens_100k_is_split_by_time(small: ImpressionSplit) -> None:
    time = small.impressions.time
    assert time is not None
    assert time[small.train].max() < time[small.validation].min()
    assert time[small.validation].max() < time[small.test].min()
    watched = small.impressions.labels["watched"]
    for rows in (small.train, small.validation, small.test):
        assert np.isclose(watched[rows].mean(), 1 / 3)


def test_movielens_users_new_in_a_later_part_are_out_of_vocabulary(small: ImpressionSplit) -> None:
    table = small.impressions
    group, user = table.group, table.columns["user_id"]
    assert group is not None
    new = ~np.isin(group[small.test], group[small.train])
    assert new.mean() > 0.5
    assert (user[small.test][new] == UNKNOWN).all()
    assert (user[small.test][~new] > UNKNOWN).all()


def test_movielens_features_are_those_of_the_user_and_movie(small: ImpressionSplit) -> None:
    table = small.impressions
    interactions = movielens.load_interactions("ml-100k")
    movies, users = movielens.load_movies("ml-100k"), movielens.load_users("ml-100k")
    known = small.train[:2000]
    user = table.raw_values("user_id", known).astype(int) - 1  # ids of ml-100k are 1..n
    movie = table.raw_values("movie_id", known).astype(int) - 1
    assert table.raw_values("gender", known).tolist() == users.gender[user].tolist()
    assert table.raw_values("occupation", known).tolist() == users.occupation[user].tolist()
    assert np.corrcoef(table.columns["age"][known], users.age[user])[0, 1] > 0.999999
    for row, year, genres in zip(known, movies.year[movie], movies.genres[movie], strict=True):
        if year:
            assert table.raw_values("year", row) == year
        want = {g for g, on in zip(movielens.GENRES, genres, strict=True) if on}
        assert set(table.raw_values("genres", row).tolist()) - {"<padding>"} == want
    assert interactions.item_ids.tolist() == list(range(1, 1683))


def test_movielens_unwatched_movies_were_not_rated_up_to_their_part(small: ImpressionSplit) -> None:
    table = small.impressions
    rated = {(int(u), int(i)) for u, i in zip(*_pairs(small, table.labels["watched"] == 1), strict=True)}
    unwatched = np.zeros(table.num_rows, bool)
    unwatched[small.test] = table.labels["watched"][small.test] == 0
    assert not rated & {(int(u), int(i)) for u, i in zip(*_pairs(small, unwatched), strict=True)}


def _pairs(split: ImpressionSplit, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """User and movie id of rows with a known movie."""
    table = split.impressions
    known = rows & (table.columns["movie_id"] > UNKNOWN)
    assert table.group is not None
    return table.group[known], table.columns["movie_id"][known]


def test_movielens_1m_has_the_published_counts(million: ImpressionSplit) -> None:
    table = million.impressions
    assert (table.labels["watched"].sum(), table.labels["liked"].sum()) == (1_000_209, 575_281)
    rating = table.labels["rating"][table.spaces["rating"]].astype(int)
    assert np.bincount(rating).tolist() == [0, 56_174, 107_557, 261_197, 348_971, 226_310]
    sizes = {field.name: field.vocab_size - 3 for field in table.fields}
    assert sizes | {"year": 0} == {
        "user_id": 6040, "movie_id": sizes["movie_id"], "age": 7, "gender": 2, "occupation": 21, "year": 0,
        "genres": 18,
    }  # fmt: skip
    assert table.time is None
    assert table.columns["genres"].shape[1] == 6
    assert (table.columns["year"] > UNKNOWN).all()
    assert million.rule == "random 0.1/0.1, seed 0; 1 unobserved for each, seed 0"


def test_movielens_1m_is_read_from_the_archive_too(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(
            "ml-1m/ratings.dat", "7::30::5::978300760\n2::10::3::978302109\n7::10::4::978301968\n"
        )
    contents = {
        movielens.ZIP_1M: packed.getvalue(),
        movielens.USERS_1M: b"2::M::56::16::70072\n7::F::1::10::48067\n9::M::25::1::1\n",
        movielens._MOVIES_1M: "10::Amélie (2001)::Comedy|Romance\n20::None::War\n30::Untold::Drama\n".encode(
            "latin-1"
        ),
    }
    monkeypatch.setattr(movielens, "find_file", lambda _: None)
    monkeypatch.setattr(movielens, "read_file", contents.__getitem__)
    interactions, users, movies = movielens.load_million()
    assert (interactions.user.tolist(), interactions.item.tolist()) == ([2, 1, 2], [2, 1, 1])
    assert interactions.value is not None
    assert interactions.value.tolist() == [5, 3, 4]
    assert interactions.time is None
    assert (users.age.tolist(), users.gender.tolist(), users.occupation.tolist()) == (
        [56, 1],
        ["M", "F"],
        [16, 10],
    )
    assert (movies.title.tolist(), movies.year.tolist()) == (["Amélie (2001)", "Untold"], [2001, 0])
    assert [[g for g, on in zip(movielens.GENRES, row, strict=True) if on] for row in movies.genres] == [
        ["Comedy", "Romance"], ["Drama"],
    ]  # fmt: skip


# Formats


def samples(data_dir: Path, *names: str) -> list[Path]:
    pytest.importorskip("pyarrow", reason="needs the extra `parquet`")
    paths = [data_dir / "samples/torch-rechub" / name for name in names]
    for path in paths:
        if not path.exists():
            pytest.skip(f"{path.name} is not in the data folder")
    return paths


def test_criteo_sample(data_dir: Path) -> None:
    (path,) = samples(data_dir, "criteo/criteo_sample.csv")
    split = criteo.load(path, min_count=1)
    table = split.impressions
    assert table.num_rows == 115
    assert table.labels["click"].sum() == 26
    assert len(table.fields) == 13 * 2 + 26
    first = table.columns["I12_missing"][0], table.columns["I11_missing"][0]
    assert first == (1, 0)  # the first row has no I12 and I11 = 1
    assert table.columns["C22"][0] == MISSING
    known = split.train[:1]
    line = path.read_text().splitlines()[1 + int(known[0])].split(",")
    assert table.raw_values("C1", known)[0] == line[14]


def test_criteo_as_distributed_has_tabs_and_no_header(data_dir: Path, tmp_path: Path) -> None:
    (path,) = samples(data_dir, "criteo/criteo_sample.csv")
    lines = path.read_text().splitlines()[1:]
    plain = tmp_path / "train.txt.gz"
    plain.write_bytes(gzip.compress("\n".join(line.replace(",", "\t") for line in lines).encode()))
    one, two = criteo.load(path, min_count=1).impressions, criteo.load(plain, min_count=1).impressions
    for name, column in one.columns_for_training().items():
        assert np.array_equal(column, two.columns_for_training()[name])


@pytest.mark.parametrize("delimiter", [",", "\t"])
@pytest.mark.parametrize("header", ["none", "plain", "quoted"])
def test_criteo_takes_tabs_and_commas_with_a_header_and_without(
    data_dir: Path, tmp_path: Path, delimiter: str, header: str
) -> None:
    (path,) = samples(data_dir, "criteo/criteo_sample.csv")
    first, *lines = path.read_text().splitlines()
    quoted = ",".join(f'"{name}"' for name in first.split(","))
    kept = {"none": lines, "plain": [first, *lines], "quoted": [quoted, *lines]}[header]
    other = tmp_path / "other.csv"
    other.write_text("\n".join(kept).replace(",", delimiter))
    one, two = (criteo.load(given, min_count=1).impressions for given in (path, other))
    for name, column in one.columns_for_training().items():
        assert np.array_equal(column, two.columns_for_training()[name])


def test_aliexpress_sample(data_dir: Path) -> None:
    train, test = samples(
        data_dir, "aliexpress/aliexpress_train_sample.csv", "aliexpress/aliexpress_test_sample.csv"
    )
    split = aliexpress.load(train, test, validation=0.2)
    table = split.impressions
    assert table.num_rows == 100 + 20
    assert len(table.fields) == 16 + 63
    assert (table.labels["click"].sum(), table.labels["conversion"].sum()) == (60 + 10, 2 + 2)
    assert split.test.tolist() == list(range(100, 120))
    assert table.group is not None
    assert not set(table.group[split.validation]) & set(table.group[split.train])  # whole searches
    assert table.as_ctr_cvr("click", "conversion").spaces["cvr"].sum() == 70


def test_ali_ccp_sample(data_dir: Path) -> None:
    paths = samples(data_dir, *(f"ali-ccp/ali_ccp_{part}_sample.csv" for part in ("train", "val", "test")))
    split = aliccp.load_table(*paths)
    table = split.impressions
    assert [len(rows) for rows in (split.train, split.validation)] == [100, 50]
    assert table.labels["click"][split.train].sum() == 7
    assert table.labels["purchase"][split.train].sum() == 1
    assert sum(field.kind == "numeric" for field in table.fields) == 8
    assert sum(field.kind == "categorical" for field in table.fields) == 23
    assert table.raw_values("205", split.train[:3]).tolist() == ["0", "1", "2"]


def cell(*features: tuple[str, int]) -> str:
    return "\x01".join(f"{field}\x02{value}\x031.0" for field, value in features)


SKELETON = "\n".join(
    [
        f"1,1,1,ua,3,{cell(('205', 50), ('210', 7), ('210', 8))}",
        f"2,0,0,ub,1,{cell(('205', 51))}",
        f"3,1,0,ua,2,{cell(('205', 50), ('210', 9))}",
        f"4,0,0,ub,1,{cell(('205', 52))}",
    ]
)
COMMON = f"ub,1,{cell(('101', 2))}\nua,3,{cell(('101', 1), ('109_14', 3), ('109_14', 4))}\n"


@pytest.fixture
def logs(write: Write) -> Callable[..., Files]:
    pytest.importorskip("pyarrow", reason="needs the extra `parquet`")
    return lambda name, skeleton=SKELETON, common=COMMON: Files(
        write(f"skeleton_{name}.csv", skeleton), write(f"common_{name}.csv", common)
    )


def test_ali_ccp_logs_keep_every_value_of_a_field(logs: Callable[..., Files]) -> None:
    train, test = logs("train"), logs("test", SKELETON.splitlines()[1] + "\n")
    raw: Any
    raw, sizes = aliccp.read_logs((train, test), single=("101", "205"), several=("210", "109_14"))
    assert sizes == [4, 1]
    assert raw["click"].tolist() == [1, 0, 1, 0, 0]
    assert raw["purchase"].tolist() == [1, 0, 0, 0, 0]
    user, item, wish, past = (raw[name] for name in ("101", "205", "210", "109_14"))
    assert user.values[user.codes].tolist() == [1, 2, 1, 2, 2]
    assert item.values[item.codes].tolist() == [50, 51, 50, 52, 51]
    assert wish.offsets.tolist() == [0, 2, 2, 3, 3, 3]
    assert wish.values.values[wish.values.codes].tolist() == [7, 8, 9]
    assert past.values.values[past.values.codes].tolist() == [3, 4, 3, 4]
    assert past.offsets.tolist() == [0, 2, 2, 4, 4, 4]


def test_ali_ccp_logs_become_impressions(logs: Callable[..., Files]) -> None:
    train = logs("train", "\n".join([SKELETON] * 3))
    split = aliccp.load(
        train, logs("test"), single=("101", "205"), several=("210",), min_count=1, validation=0.25
    )
    table = split.impressions
    assert [len(rows) for rows in (split.train, split.validation, split.test)] == [9, 3, 4]
    assert table.columns["210"].shape == (16, 20)
    late = split.test
    assert table.raw_values("210", late[0]).tolist()[:3] == [7, 8, "<padding>"]
    assert table.columns["210"][late[1]].tolist()[:2] == [MISSING, 0]


def test_an_ali_ccp_line_without_features_has_no_values(logs: Callable[..., Files]) -> None:
    files = logs("x", SKELETON + "\n5,0,0,uc,0,\n", COMMON + "uc,0,\n")
    raw: Any
    raw, sizes = aliccp.read_logs((files,), single=("101", "205"), several=("210",))
    assert sizes == [5]
    assert [raw[name].codes[4] for name in ("101", "205")] == [-1, -1]
    assert raw["205"].values[raw["205"].codes[:4]].tolist() == [50, 51, 50, 52]
    assert raw["210"].offsets.tolist() == [0, 2, 2, 3, 3, 3]


@pytest.mark.parametrize(
    "skeleton, common, message",
    [
        ("1,0,1,ua,1,205\x0250\x031", COMMON, "skeleton_x.csv, row 0: purchase without a click"),
        ("1,0,0,uz,1,205\x0250\x031", COMMON, "common feature index uz is not in .*common_x.csv"),
        (
            "1,0,0,ua,2,205\x0250\x031\x01205\x0251\x031",
            COMMON,
            "several values of field 205; name it in `several`",
        ),
        ("1,0,0,ua,1,205", COMMON, "skeleton_x.csv: features must read"),
        ("1,0,0,ua,1,205\x02b\x031", COMMON, "skeleton_x.csv: features must read"),
        ("1,0,0,ua,1,205\x0250\x031", "ua,1\n", "common_x.csv: .*repair the file"),
    ],
)
def test_bad_ali_ccp_logs_are_refused(
    logs: Callable[..., Files], skeleton: str, common: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        aliccp.read_logs((logs("x", skeleton + "\n", common),), single=("101", "205"))


def test_ali_ccp_rows_without_a_click_before_the_purchase_can_be_dropped(logs: Callable[..., Files]) -> None:
    files = logs("x", SKELETON.replace("1,1,1,ua", "1,0,1,ua"))
    raw: Any
    raw, sizes = aliccp.read_logs((files,), single=("205",), inconsistent="drop")
    assert sizes == [3]
    assert raw["205"].values[raw["205"].codes].tolist() == [51, 50, 52]


def test_a_field_of_both_ali_ccp_files_keeps_the_values_of_both(logs: Callable[..., Files]) -> None:
    files = logs("x", common=COMMON.replace(cell(("101", 2)), cell(("101", 2), ("210", 4))))
    raw: Any
    raw, _ = aliccp.read_logs((files,), single=("101",), several=("210",))
    wish = raw["210"]
    assert wish.offsets.tolist() == [0, 2, 3, 4, 5]
    assert wish.values.values[wish.values.codes].tolist() == [7, 8, 4, 9, 4]


@pytest.mark.parametrize("block_bytes", [40, 1 << 20])
def test_a_table_is_the_same_in_blocks_of_any_size(write: Write, block_bytes: int) -> None:
    pytest.importorskip("pyarrow", reason="needs the extra `parquet`")
    rows = [(f"v{i % 7}" if i % 5 else "", "" if i % 4 == 0 else f"{i / 2}") for i in range(50)]
    path = write("t.csv", "a,skipped,x\n" + "".join(f"{a},NA,{x}\n" for a, x in rows))
    columns: Any
    columns, sizes = table_reader.read_table(
        [path, path], categories=["a"], numbers=["x"], block_bytes=block_bytes
    )
    assert sizes == [50, 50]
    codes, values = columns["a"]
    assert np.array_equal(codes[:50], codes[50:])
    assert [values[code] if code >= 0 else "" for code in codes[:50]] == [a for a, _ in rows]
    assert len(values) == len(set(values.tolist())) == 7
    assert columns["x"].dtype == np.float32
    assert [f"{x}" if x == x else "" for x in columns["x"][50:].tolist()] == [x for _, x in rows]


@pytest.mark.parametrize(
    "content, message",
    [
        ("a,y\n1,2\n", "t.csv: .*'x'.*expected the columns a, x"),
        ("a,x\n1,word\n", "t.csv: .*word.*repair the file"),
        ("a,x\n1,2\n1\n", "t.csv: .*repair the file"),
        ("a,x\n", "t.csv: there are no rows"),
    ],
)
def test_bad_tables_are_refused(write: Write, content: str, message: str) -> None:
    pytest.importorskip("pyarrow", reason="needs the extra `parquet`")
    with pytest.raises(ValueError, match=message):
        table_reader.read_table([write("t.csv", content)], categories=["a"], numbers=["x"])


# The command line


def test_the_list_names_tables_and_formats(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, content in (
        ("movielens/ml-100k", "events+table"),
        ("movielens/ml-1m", "table"),
        ("census/income", "table"),
        ("retailrocket/funnel", "table"),
        ("criteo", "table criteo FILE"),
    ):
        assert any(line.split()[0] == name and content in line for line in lines if line)


def test_a_file_of_a_known_format_is_described(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = samples(data_dir, *(f"ali-ccp/ali_ccp_{part}_sample.csv" for part in ("train", "val", "test")))
    assert main(["table", "ali-ccp", *map(str, paths)]) == 0
    printed = capsys.readouterr().out
    assert "train 100, validation 50" in printed
    assert "click          train 7.000%" in printed


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["avazu", "f"], "format 'avazu': unknown; one of criteo"),
        (["aliexpress", "f"], "expected TRAIN TEST"),
    ],
)
def test_bad_commands_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["table", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_least_count_of_a_format_can_be_given(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = samples(data_dir, "criteo/criteo_sample.csv")
    assert main(["table", "criteo", str(path)]) == 2
    assert "no value occurs 10 times in the training rows; lower min_count" in capsys.readouterr().err
    assert main(["table", "criteo", str(path), "--min-count", "2"]) == 0
    assert "criteo: 115 rows" in capsys.readouterr().out
