"""Census-Income: statistics as published, and what is in the features of each task pair."""

import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrec.data import store
from jaxrec.data.sources import census
from jaxrec.data.tables.impressions import ImpressionSplit
from jaxrec.data.tables.summary import label_correlation

TRAIN, TEST = 199_523, 99_762
Pairs = dict[str, ImpressionSplit]


@pytest.fixture(scope="module")
def pairs(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pairs]:
    if not (data_dir / "census-income/nominal_split.npz").exists():
        pytest.skip("census-income/nominal_split.npz is not in the data folder")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXREC_DATA_DIR", str(data_dir))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield {name: census.load_impressions(name) for name in ("income", "education")}


@pytest.mark.parametrize(
    "name, task, train, test",
    [
        ("income", "income", 0.06206, 0.06201),
        ("income", "never_married", 0.4335, 0.4325),
        ("education", "never_married", 0.4335, 0.4325),
    ],
)
def test_shares_of_positives_are_those_published(
    pairs: Pairs, name: str, task: str, train: float, test: float
) -> None:
    label = pairs[name].impressions.labels[task]
    assert len(label) == TRAIN + TEST
    assert abs(label[:TRAIN].mean() - train) < 5e-5
    assert abs(label[TRAIN:].mean() - test) < 5e-5


@pytest.mark.parametrize(
    "name, main, published", [("income", "income", 0.1768), ("education", "college", 0.2373)]
)
def test_the_tasks_correlate_about_as_in_the_paper(
    pairs: Pairs, name: str, main: str, published: float
) -> None:
    assert abs(abs(label_correlation(pairs[name].impressions, main, "never_married")) - published) < 0.002


def test_the_official_test_rows_are_halved(pairs: Pairs) -> None:
    split = pairs["income"]
    assert np.array_equal(split.train, np.arange(TRAIN))
    assert len(split.validation) == len(split.test) == TEST // 2
    assert np.array_equal(np.union1d(split.validation, split.test), np.arange(TRAIN, TRAIN + TEST))


@pytest.mark.parametrize(
    "name, absent, present",
    [
        ("income", {"marital_stat", "income_50k", "instance_weight"}, {"education"}),
        ("education", {"marital_stat", "education", "instance_weight"}, {"income_50k"}),
    ],
)
def test_label_columns_and_the_weight_are_no_features(
    pairs: Pairs, name: str, absent: set[str], present: set[str]
) -> None:
    features = set(pairs[name].impressions.columns)
    assert not features & absent
    assert present <= features
    assert len(features) == 32


def test_ids_turn_back_into_the_values_of_the_file(pairs: Pairs, data_dir: Path) -> None:
    table = pairs["income"].impressions
    rows = np.array([0, 5, TRAIN - 1, TRAIN, TRAIN + TEST - 1])
    with np.load(data_dir / "census-income/nominal_split.npz") as packed:
        names = packed["columns"].tolist()
        codes = np.concatenate([packed["train_codes"][:, :], packed["test_codes"]])[rows]
        for name in ("education", "country_self", "year"):
            want = packed[f"vocab_{name}"][codes[:, names.index(name)]]
            assert table.raw_values(name, rows).tolist() == [
                "<missing>" if v == "?" else v for v in want.tolist()
            ]


def test_training_rows_are_all_rows_less_the_test_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both public files in small: other order, "-" for spaces, fewer columns, a row that stands twice."""
    size = len(census.NAMES)

    def row(name: str, income: str) -> list[str]:
        return [f"{name} {i}" for i in range(size)] + [income]

    low, high = "- 50000.", "50000+."
    test = [row("a b", low), row("c", high)]
    everything = [row("new", low), row("c", high), row("a b", low), row("a b", low), row("c", low)]
    lines = []
    for cells in test:
        for i in (0, 5, 16, 17, 18, 24, 30, 39):
            cells = [*cells[:i], "7", *cells[i:]]
        lines.append(", ".join(cells))
    arff = "@relation all\n@data\n" + "".join(
        ",".join(cells).replace(" ", "-") + "\n" for cells in everything
    )
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as archive:
        info = tarfile.TarInfo("census-income-full-nominal.arff")
        info.size = len(arff)
        archive.addfile(info, io.BytesIO(arff.encode()))
    contents = {census._TEST: "\n".join(lines).encode(), census._NOMINAL: packed.getvalue()}
    monkeypatch.setattr(store, "read_file", contents.__getitem__)
    monkeypatch.setattr(census, "_TRAIN", 3)
    columns, income = census._originals()
    assert list(columns) == list(census.NAMES)
    for i, column in enumerate(columns.values()):
        want = [f"new-{i}", f"a b {i}", f"c {i}", f"a b {i}", f"c {i}"]  # training rows, then test rows
        assert column.values[column.codes].tolist() == want
    assert income.tolist() == [False, False, False, False, True]
    monkeypatch.setattr(census, "_TRAIN", 4)
    with pytest.raises(
        ValueError, match="3 rows beyond those of .* and 0 of those missing, expected 4 and 0"
    ):
        census._originals()


def test_numbers_come_from_the_official_test_file_too(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [[str(100 * row + column) for column in range(42)] for row in (1, 2)]
    monkeypatch.setattr(store, "find_file", lambda file: None)
    monkeypatch.setattr(
        store, "read_file", {census._TEST: "\n".join(map(", ".join, rows)).encode()}.__getitem__
    )
    numbers = census.load_test_numbers()
    assert numbers["age"].tolist() == [100, 200]
    assert numbers["weeks_worked"].tolist() == [139, 239]
    assert len(numbers) == 7


def test_a_packed_file_is_unpacked_on_its_way(cache: Path, served: Any) -> None:
    content = b"38, Private\n"
    served.files["census.gz"] = gzip.compress(content)
    route = census._unpacked(store.http(served.url("census.gz")))
    file = store.File("census/test", hashlib.sha256(content).hexdigest(), len(content), (route,))
    assert store.read_file(file) == content
    assert [path.name for path in (cache / "census").iterdir()] == ["test"]


def test_an_unknown_pair_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"'incom': unknown \(did you mean 'income'\?\); one of income, education"
    ):
        census.load_impressions("incom")


def test_numbers_of_test_rows_stand_beside_their_rows(
    pairs: Pairs, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Children are never over 50,000 dollars; the rows that are worked more weeks. No instance weight."""
    monkeypatch.setenv("JAXREC_DATA_DIR", str(data_dir))
    numbers = census.load_test_numbers()
    assert set(numbers) == {
        "age", "wage_per_hour", "capital_gains", "capital_losses", "stock_dividends", "num_emp",
        "weeks_worked",
    }  # fmt: skip
    income = pairs["income"].impressions.labels["income"][TRAIN:]
    assert {len(column) for column in numbers.values()} == {TEST}
    assert income[numbers["age"] < 15].sum() == 0 < income[numbers["age"] >= 15].sum()
    assert numbers["weeks_worked"][income == 1].mean() > 45 > 25 > numbers["weeks_worked"].mean()
