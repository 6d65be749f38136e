"""Retailrocket: a funnel whose features know nothing of the row itself nor of later parts."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped]

from jaxrec.data.sources import retailrocket
from jaxrec.data.sources.retailrocket import count_before
from jaxrec.data.tables.impressions import ImpressionSplit

FILE = "retailrocket-multibehavior/interactions.npz"


@pytest.fixture(scope="module")
def split(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImpressionSplit]:
    if not (data_dir / FILE).exists():
        pytest.skip(f"{FILE} is not in the data folder")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXREC_DATA_DIR", str(data_dir))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield retailrocket.load_impressions(negatives=2)


@pytest.fixture(scope="module")
def packed(data_dir: Path, split: ImpressionSplit) -> dict[str, np.ndarray]:
    with np.load(data_dir / FILE) as file:
        return dict(file)


def test_counts_before_a_moment_against_a_slow_twin() -> None:
    rng = np.random.default_rng(0)
    entity, when = rng.integers(0, 4, 30), rng.integers(100, 110, 30)
    of_row, time = rng.integers(0, 5, 20), rng.integers(95, 115, 20)
    want = [((entity == e) & (when < t)).sum() for e, t in zip(of_row, time, strict=True)]
    assert count_before(entity, when, of_row, time).tolist() == want


def test_the_tasks_are_the_pairs_of_the_file(split: ImpressionSplit, packed: dict[str, np.ndarray]) -> None:
    """A purchase implies a cart and a view, also where the file lacks them."""
    keys = {
        b: packed[f"{b}_user"].astype(np.int64) * 10**6 + packed[f"{b}_item"] for b in retailrocket.BEHAVIOURS
    }
    labels = split.impressions.labels
    assert labels["view"].sum() == np.unique(np.concatenate(list(keys.values()))).size
    assert labels["cart"].sum() == np.union1d(keys["cart"], keys["buy"]).size
    assert labels["buy"].sum() == keys["buy"].size
    assert (labels["buy"] <= labels["cart"]).all()
    assert (labels["cart"] <= labels["view"]).all()
    assert split.impressions.as_ctr_cvr("view", "cart").spaces["cvr"].sum() == labels["view"].sum()


def test_each_part_has_its_share_of_sampled_rows_and_its_time(split: ImpressionSplit) -> None:
    time = split.impressions.time
    assert time is not None
    assert time[split.train].max() < time[split.validation].min()
    assert time[split.validation].max() < time[split.test].min()
    for rows in (split.train, split.validation, split.test):
        assert np.isclose(split.impressions.labels["view"][rows].mean(), 1 / 3)


def test_popularity_and_known_users_tell_little_of_the_test_rows(split: ImpressionSplit) -> None:
    table, test = split.impressions, split.test
    area = roc_auc_score(table.labels["view"][test], table.columns["item_views"][test])
    assert area == pytest.approx(0.50, abs=0.01)
    assert table.group is not None
    assert np.isin(table.group[test], table.group[split.train]).mean() < 0.5


def raw_pairs(split: ImpressionSplit, rows: np.ndarray) -> np.ndarray:
    """user * 1e6 + item of rows whose item is known."""
    table = split.impressions
    assert table.group is not None
    rows = rows[table.columns["item_id"][rows] >= 3]
    return table.group[rows].astype(np.int64) * 10**6 + table.raw_values("item_id", rows).astype(np.int64)


def test_sampled_pairs_happened_neither_before_nor_at_a_time_unknown(
    split: ImpressionSplit, packed: dict[str, np.ndarray]
) -> None:
    viewed = split.impressions.labels["view"] == 1
    untimed = packed["test_user"].astype(np.int64) * 10**6 + packed["test_item"]
    assert not np.isin(raw_pairs(split, np.arange(len(viewed))), untimed).any()
    happened = np.empty(0, np.int64)
    for part in (split.train, split.validation, split.test):
        happened = np.union1d(happened, raw_pairs(split, part[viewed[part]]))
        assert not np.isin(raw_pairs(split, part[~viewed[part]]), happened).any()


@pytest.mark.parametrize("behaviour", retailrocket.BEHAVIOURS)
def test_counts_are_of_earlier_events_of_training_rows(
    split: ImpressionSplit, packed: dict[str, np.ndarray], behaviour: str
) -> None:
    table = split.impressions
    time, group = table.time, table.group
    assert time is not None
    assert group is not None
    end = time[split.validation].min()
    first: dict[tuple[int, int], int] = {}  # a training pair is one whose earliest event lies before the end
    for b in retailrocket.BEHAVIOURS:
        for u, i, t in zip(
            *(packed[f"{b}_{what}"].tolist() for what in ("user", "item", "value")), strict=True
        ):
            first[u, i] = min(t, first.get((u, i), t))
    user, item, when = (packed[f"{behaviour}_{what}"] for what in ("user", "item", "value"))
    training = [first[u, i] < end for u, i in zip(user.tolist(), item.tolist(), strict=True)]
    counted = np.array(training) & (when < end)
    rng = np.random.default_rng(0)
    for part in (split.train, split.test):
        rows = rng.choice(part[table.columns["item_id"][part] >= 3], 200)
        items = table.raw_values("item_id", rows).astype(int)
        for side, entity, of_row in (("user", user, group[rows]), ("item", item, items)):
            want = [
                (counted & (entity == e) & (when < t)).sum() for e, t in zip(of_row, time[rows], strict=True)
            ]
            found = table.columns[f"{side}_{behaviour}s"][rows]
            line = np.polyfit(np.log1p(want), found, 1)  # standardised by training rows
            assert np.allclose(np.polyval(line, np.log1p(want)), found, atol=1e-5)
            assert line[0] > 0
