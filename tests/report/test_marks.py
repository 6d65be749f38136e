"""Marks in tables: the best baseline, the rows that beat it, and why other rows are not compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from jaxrec.report import comparison, marks, results, tables
from jaxrec.report.results import Record
from jaxrec.types import GroupSums, Ranks
from tests.report.results_for_tests import MANIFEST, example
from tests.report.test_tables import cells

USERS, METRIC = 300, "ndcg@10"
SPREAD = (-0.01, 0.0, 0.01)


def row(name: str, *values: float, baseline: bool = False, metric: str = METRIC, **changes: Any) -> Record:
    """A row without values of each user."""
    protocol = {"selection": "none", "loss": ""} if baseline else {"selection": metric}
    protocol |= {key: changes.pop(key) for key in ("split", "seen", "selection") if key in changes}
    of_row = {
        "model": name,
        "published": {},
        "source": "",
        "metrics": {metric: values},
        "seeds": tuple(range(len(values))),
        "steps": 0 if baseline else 1000,
        "baseline": baseline,
        "protocol": example().protocol._replace(**protocol),
        **changes,
    }
    return Record(example(**of_row), {})


def by_seed(name: str, mean: float, **changes: Any) -> Record:
    """A row of three seeds."""
    return row(name, *(mean + deviation for deviation in SPREAD), **changes)


def stored(folder: Path, record: Record, gains: np.ndarray, cases: int = 0, weight: float = 1.0) -> Record:
    """A row with values: its metric is the mean of gains [S, USERS]."""
    labels, weights = np.full(USERS, cases, np.float32), np.full(USERS, weight, np.float32)
    sums = weight * gains.astype(np.float32)
    kept = GroupSums(np.arange(USERS), {METRIC: sums}, {METRIC: weights}, {"click": labels})
    means = tuple(gains.astype(np.float32).mean(axis=1).tolist())
    result = record.result._replace(metrics={METRIC: means}, seeds=tuple(range(len(gains))))
    return results.read_result(results.write_result(result, folder, manifest=MANIFEST, values=kept))


def marked(records: list[Record], metric: str = METRIC) -> dict[str, str]:
    """The mark of each row that has one."""
    found = marks.find_marks(records, metric).cells
    return {r.result.model: mark for r, mark in zip(records, found, strict=True) if mark}


def text(records: list[Record], metric: str = METRIC) -> str:
    return "\n".join(marks.find_marks(records, metric).lines)


@pytest.mark.parametrize(("metric", "best"), [("ndcg@10", "b"), ("log_loss/click", "a"), ("mse", "a")])
def test_the_best_baseline_is_marked(metric: str, best: str) -> None:
    records = [row(name, value, baseline=True, metric=metric) for name, value in (("a", 0.1), ("b", 0.2))]
    records.append(row("model", 0.3, metric=metric))
    assert marked(records, metric) == {best: marks.BEST}
    assert "Baselines are not trained; here they are a, b." in text(records, metric)


@pytest.mark.parametrize("metric", ["calibration_ratio/click", "bias/conversion"])
def test_a_metric_that_is_best_in_between_marks_no_row(metric: str) -> None:
    records = [
        row("base-rate", 1.0, 1.0, 1.0, baseline=True, metric=metric),
        row("m", 3.0, 3.1, metric=metric),
    ]
    assert marks.find_marks(records, metric).cells == ()
    assert "Neither a larger nor a smaller" in text(records, metric)


@pytest.mark.parametrize("metric", ["ndcg@10", "log_loss/click"])
def test_without_values_the_interval_is_over_seeds(metric: str) -> None:
    """By Welch's test: only what is better counts, and a line says that users are left out."""
    far, near = (0.2, 0.104) if metric == METRIC else (-0.1, 0.096)
    records = [
        by_seed("popularity", 0.1, baseline=True, metric=metric),
        *(by_seed(f"m{mean}", mean, metric=metric) for mean in (0.1, near, far, 0.2 - far)),
    ]
    assert marked(records, metric) == {"popularity": marks.BEST, f"m{far}": marks.BY_SEEDS}
    said = text(records, metric)
    assert "Beaten (seeds): better by more than the interval over seeds alone" in said
    assert "corrected for 4 comparisons (Holm)" in said


def test_the_p_value_over_seeds_is_that_of_welch() -> None:
    """A row is marked exactly where Holm's correction of Welch's p-values is at most 5 %."""
    base = by_seed("popularity", 0.1, baseline=True)
    gaps = (0.02, 0.026, 0.04)
    p = [
        stats.ttest_ind(np.add(SPREAD, 0.1), np.add(SPREAD, 0.1 + gap), equal_var=False).pvalue
        for gap in gaps
    ]
    assert p[2] < p[1] < 0.05 < p[0]
    assert 3 * p[2] < 0.05 and not 2 * p[1] < 0.05  # so the second is found alone, and not of three
    records = [by_seed(f"m{i}", 0.1 + gap) for i, gap in enumerate(gaps)]
    assert marked([base, *records]) == {"popularity": marks.BEST, "m2": marks.BY_SEEDS}
    assert marked([base, records[1]]) == {"popularity": marks.BEST, "m1": marks.BY_SEEDS}


@pytest.mark.parametrize("values", [(0.9,), (0.9, 0.91)])
def test_too_few_seeds_and_no_values_give_no_mark_and_the_reason(values: tuple[float, ...]) -> None:
    records = [by_seed("popularity", 0.1, baseline=True), row("model", *values)]
    assert marked(records) == {"popularity": marks.BEST}
    assert "Not compared with it: model (no values of each user are stored beside both rows" in text(records)
    single = [row("popularity", 0.1, baseline=True), by_seed("model", 0.9)]
    assert marked(single) == {"popularity": marks.BEST}


# --- values of each user -------------------------------------------------------------------------


def gains(seed: int, lift: float = 0.0, seeds: int = 3, effect: float = 0.0) -> np.ndarray:
    """[seeds, USERS]: what is hard about a user is shared by all rows."""
    hard = np.random.default_rng(0).random(USERS)
    rng = np.random.default_rng(seed)
    by_user, of_seed = 0.2 * rng.standard_normal((seeds, USERS)), effect * rng.standard_normal((seeds, 1))
    return hard + by_user + of_seed + lift


def test_with_values_the_marks_are_those_of_compare(tmp_path: Path) -> None:
    """The same decisions as the draws of `jaxrec compare` with the baseline first and one metric."""
    base = stored(tmp_path, row("popularity", 0.0, baseline=True), gains(1, seeds=1))
    lifts = {"far": 0.2, "none": 0.0, "worse": -0.2, "seeds": 0.15}
    rows = [
        stored(tmp_path, row(name, 0.0), gains(i + 2, lift, effect=0.2 if name == "seeds" else 0.0))
        for i, (name, lift) in enumerate(lifts.items())
    ]
    assert marked([base, *rows]) == {"popularity": marks.BEST, "far": marks.BEATEN}
    paths = [record.path for record in (base, *rows) if record.path is not None]
    found = comparison.compare(comparison.read_rows(paths), metrics=[METRIC])
    shown = {d.second: d.corrected <= 0.05 and d.means[1] > d.means[0] for d in found.differences}
    assert shown == {"far": True, "none": False, "worse": False, "seeds": False}
    said = text([base, *rows])
    assert "Beaten: better than the best baseline" in said and "corrected for 4 comparisons" in said


def test_a_row_of_one_seed_is_marked_over_users(tmp_path: Path) -> None:
    base = stored(tmp_path, row("popularity", 0.0, baseline=True), gains(1))
    one = stored(tmp_path, row("model", 0.0), gains(2, 0.2, seeds=1))
    assert marked([base, one]) == {"popularity": marks.BEST, "model": marks.BY_USERS}
    assert "since the row has one seed" in text([base, one])


def test_users_are_paired(tmp_path: Path) -> None:
    """A lift that users hide is found, and is not where users are in another order."""
    base = stored(tmp_path, row("popularity", 0.0, baseline=True), gains(1, seeds=1))
    lifted = stored(tmp_path, row("model", 0.0), gains(2, 0.04))
    assert "model" in marked([base, lifted])
    shuffled = np.random.default_rng(0).permutation(gains(2, 0.04), axis=1)  # of all seeds alike
    assert "other" not in marked([base, stored(tmp_path, row("other", 0.0), shuffled)])


def test_values_beside_one_row_only_leave_the_seeds(tmp_path: Path) -> None:
    base = stored(tmp_path, row("popularity", 0.0, baseline=True), gains(1))
    assert marked([base, by_seed("model", 5.0)])["model"] == marks.BY_SEEDS


def test_a_metric_that_users_do_not_add_up_to_leaves_the_seeds(tmp_path: Path) -> None:
    base, model = (
        stored(tmp_path, row(name, 0.0, baseline=i == 0), gains(i))
        for i, name in enumerate(("popularity", "model"))
    )
    both = [
        r._replace(result=r.result._replace(metrics={"coverage@10": tuple(np.add(SPREAD, shift))}))
        for r, shift in ((base, 0.1), (model, 0.9))
    ]
    assert marked(both, "coverage@10") == {"popularity": marks.BEST, "model": marks.BY_SEEDS}


def test_ranks_give_the_metric_at_any_cut_off(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    records = []
    for name, chance in (("popularity", 0.1), ("model", 0.5)):
        rank = rng.geometric(chance, (3, USERS)).astype(np.int32)
        kept = Ranks(rank, np.arange(USERS), np.full(USERS, 3, np.int32), np.arange(USERS))
        hits = tuple((rank <= 2).mean(axis=1).tolist())
        record = row(name, *hits, baseline=name == "popularity", metric="hit@2")
        path = results.write_result(record.result, tmp_path, manifest=MANIFEST, values=kept)
        records.append(results.read_result(path))
    assert marked(records, "hit@2") == {"popularity": marks.BEST, "model": marks.BEATEN}


def test_missing_values_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    records = [
        stored(tmp_path, row(name, 0.0, baseline=i == 0), gains(i))
        for i, name in enumerate(("base", "model"))
    ]
    folder = records[1].path
    assert folder is not None
    (folder.parent / records[1].values["file"]).unlink()
    with pytest.raises(ValueError, match="model.*no such file"):
        marks.find_marks(records, METRIC)


def test_marks_are_the_same_each_time(tmp_path: Path) -> None:
    records = [
        stored(tmp_path, row(name, 0.0, baseline=i == 0), gains(i, 0.02 * i))
        for i, name in enumerate(("base", "a", "b", "c"))
    ]
    first = marks.find_marks(records, METRIC)
    marks._p_over_users.cache_clear()
    marks._columns.cache_clear()
    assert marks.find_marks(records, METRIC) == first


# --- which rows are compared ---------------------------------------------------------------------


def test_rows_of_another_protocol_have_a_baseline_of_their_own() -> None:
    records = [
        by_seed("popularity", 0.1, baseline=True),
        by_seed("popularity+zero", 0.5, baseline=True, seen="zero"),
        by_seed("model", 0.3),
        by_seed("model+zero", 0.3, seen="zero"),
        by_seed("model+keep", 0.9, seen="keep"),
    ]
    assert marked(records) == {
        "popularity": marks.BEST,
        "popularity+zero": marks.BEST,
        "model": marks.BY_SEEDS,
    }
    said = text(records)
    assert "Best baseline by NDCG@10: popularity, popularity+zero (each among the rows" in said
    assert "popularity+zero, a baseline, is the best by NDCG@10 of the rows measured like it." in said
    assert "Not compared with it: model+keep (no baseline is measured like that)." in said


def test_a_setting_that_changes_the_test_cases_tells_rows_apart() -> None:
    records = [
        by_seed("markov", 0.1, baseline=True, config={}),
        by_seed("markov+file", 0.5, baseline=True, config={"order": "file"}),
        by_seed("model", 0.3, config={"order": "time"}),
        by_seed("model+file", 0.3, config={"order": "file"}),
    ]
    assert marked(records) == {"markov": marks.BEST, "markov+file": marks.BEST, "model": marks.BY_SEEDS}


def test_other_test_cases_tell_rows_apart(tmp_path: Path) -> None:
    records = [
        stored(tmp_path, row(name, 0.0, baseline=baseline), gains(i, lift), cases)
        for i, (name, baseline, lift, cases) in enumerate(
            [
                ("base", True, 0.0, 0),
                ("other", True, 0.4, 1),
                ("model", False, 0.2, 0),
                ("new", False, 0.2, 2),
            ]
        )
    ]
    records.append(by_seed("old", 9.0))
    assert marked(records) == {"base": marks.BEST, "other": marks.BEST, "model": marks.BEATEN}
    assert "Not compared with it: new, old (no baseline is measured like that)." in text(records)


def test_other_weights_of_the_same_cases_are_not_compared(tmp_path: Path) -> None:
    base = stored(tmp_path, row("popularity", 0.0, baseline=True), gains(1))
    model = stored(tmp_path, row("model", 0.0), gains(2, 0.4), weight=2.0)
    assert marked([base, model]) == {"popularity": marks.BEST}
    assert "Not compared with it: model (other test cases)." in text([base, model])


def test_rows_chosen_on_test_are_neither_marked_nor_the_best() -> None:
    records = [
        by_seed("popularity", 0.5, baseline=True),
        by_seed("model", 0.3),
        by_seed("tuned", 0.9, selection=f"{METRIC} on test"),
    ]
    assert marked(records) == {"popularity": marks.BEST}
    assert "Not compared with it: tuned (parameters chosen on test)." in text(records)
    best = "The best row by NDCG@10 is a baseline: popularity; rows chosen on test do not count."
    assert best in text(records)


def test_a_row_without_the_metric_is_not_compared() -> None:
    records = [by_seed("popularity", 0.1, baseline=True), by_seed("model", 0.3, metric="auc")]
    assert marked(records) == {"popularity": marks.BEST}
    assert "Not compared with it: model (the metric is not measured)." in text(records)
    assert marks.find_marks(records, "auc") == marks.Marks((), ("No baseline has AUC, so no row is marked.",))


@pytest.mark.parametrize(("mean", "best"), [(0.1, True), (0.3, False)])
def test_a_table_says_whether_its_best_row_is_a_baseline(mean: float, best: bool) -> None:
    records = [by_seed("popularity", 0.2, baseline=True), by_seed("model", mean)]
    assert ("The best row by NDCG@10 is a baseline: popularity." in text(records)) is best
    assert ("No row that is compared with it is better by more than the interval." in text(records)) is best


def test_a_table_of_baselines_says_so_in_one_line() -> None:
    records = [by_seed(name, mean, baseline=True) for name, mean in (("random", 0.1), ("ease", 0.2))]
    lines = ("The best row by NDCG@10 is a baseline, as all rows are: ease.",)
    assert marks.find_marks(records, METRIC) == marks.Marks(("", marks.BEST), lines)


def test_without_a_baseline_there_is_no_column_and_a_line_says_so() -> None:
    found = marks.find_marks([by_seed("model", 0.1)], METRIC)
    line = "No row is a baseline (a method that is not trained), so no row is marked."
    assert found == marks.Marks((), (line,))
    assert marks.COLUMN not in cells(tables.results_table([by_seed("model", 0.1)]))[0]


def test_times_have_no_marks() -> None:
    records = [row("a", 3.0, metric="serve@100", split="none")]
    assert marks.find_marks(records, "serve@100") == marks.Marks((), ())


# --- in the tables -------------------------------------------------------------------------------


def test_a_table_has_the_marks_beside_the_rows_and_their_meaning_below() -> None:
    published = {"published": {METRIC: 0.3}, "source": "a paper"}
    records = [
        by_seed("popularity", 0.1, baseline=True, **published),
        by_seed("sasrec-bce", 0.3),
        by_seed("gru-bce", 0.1),
    ]
    rows = cells(tables.results_table(records))
    column = rows[0].index(marks.COLUMN)
    assert {line[0]: line[column] for line in rows[1:]} == {
        "popularity": marks.BEST,
        "· published": "",
        "· difference": "",
        "sasrec-bce": marks.BY_SEEDS,
        "gru-bce": "",
    }
    assert {len(line) for line in rows} == {len(rows[0])}
    notes = tables.footnotes(records)
    assert notes.startswith("- Best baseline by NDCG@10: popularity.")
    assert "- Beaten (seeds): better by more than" in notes


def test_the_metric_is_the_one_that_chose_the_parameters() -> None:
    """Not the first published one, which the README has."""
    both = {"hit@10": (0.5, 0.5, 0.5), METRIC: (0.1, 0.1, 0.1)}
    other = {"hit@10": (0.4, 0.4, 0.4), METRIC: (0.2, 0.2, 0.2)}
    published = {"published": {"hit@10": 0.4}, "source": "a paper"}
    records = [
        row(name, 0.0, 0.0, 0.0, baseline=name != "model", metrics=values, **published)
        for name, values in (("a", both), ("b", other), ("model", both))
    ]
    rows = cells(tables.results_table(records))
    column = rows[0].index(marks.COLUMN)
    assert [line[0] for line in rows if line[column] == marks.BEST] == ["b"]
    rows = cells(tables.headline_table(records))
    assert [line[2] for line in rows if line[-1] == marks.BEST] == ["a"]


def test_the_readme_has_marks_of_the_whole_table_and_their_meaning() -> None:
    """Also those against a baseline that has no published number, and so no row there."""
    published = {"published": {METRIC: 0.3}, "source": "a paper"}
    records = [
        by_seed("popularity", 0.1, baseline=True, **published),
        by_seed("ease", 0.2, baseline=True),
        by_seed("model", 0.4, **published),
        by_seed("near", 0.15, **published),
    ]
    headline = tables.headline_table(records)
    rows = cells(headline)
    assert rows[0][-1] == marks.COLUMN
    assert {line[2]: line[-1] for line in rows[1:]} == {
        "popularity": "",
        "model": marks.BY_SEEDS,
        "near": "",
    }
    assert marks.IN_README in headline
    alone = tables.headline_table([by_seed("model", 0.4, **published)])
    assert marks.COLUMN not in alone and marks.IN_README not in alone
