"""Results compared: which can be, what is said of seeds, and the table and the picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import metrics
from jaxrec.report import comparison, comparison_views, results
from jaxrec.types import GroupSums, Protocol, Ranks
from tests.report.results_for_tests import MANIFEST, example

USERS, MISS = 60, metrics.MISS
NAMES = ("hit@10", "recall@5", "ndcg@10", "mrr", "mrr@5")


def ranks(seed: int, *, seeds: int = 3, better: float = 0.0) -> Ranks:
    """Two queries a user, whose ranks are small where `better` is large."""
    rng = np.random.default_rng(seed)
    count = 2 * USERS
    rank = 1 + rng.geometric(0.1 + better, (seeds, count)).astype(np.int32)
    rank[:, 0] = MISS
    user = np.repeat([f"u{i}" for i in range(USERS, 0, -1)], 2)
    return Ranks(rank, user, np.tile([3, 4], USERS).astype(np.int32), np.arange(count))


def of_ranks(rank: np.ndarray) -> dict[str, tuple[float, ...]]:
    """The metrics of a result by `jaxrec.metrics`."""
    return {
        name: tuple(
            float(getattr(metrics, name.partition("@")[0])(jnp.array(row), **cutoff(name)).mean())
            for row in rank
        )
        for name in NAMES
    }


def cutoff(name: str) -> dict[str, int]:
    return {"k": int(name.partition("@")[2])} if "@" in name else {}


def store(folder: Path, model: str, kept: Any, **changes: Any) -> Path:
    found = of_ranks(kept.rank) if isinstance(kept, Ranks) else {}
    settings: dict[str, Any] = {"published": {}, "source": "", "metrics": found, "model": model, **changes}
    settings.setdefault("seeds", tuple(range(len(next(iter(settings["metrics"].values()))))))
    return results.write_result(example(**settings), folder, manifest=MANIFEST, values=kept)


def compare(*paths: Path, **options: Any) -> comparison.Comparison:
    return comparison.compare(comparison.read_rows(paths), draws=999, **options)


def test_metrics_are_those_of_the_package(tmp_path: Path) -> None:
    (row,) = comparison.read_rows([store(tmp_path, "a", ranks(0))])
    columns = comparison.columns_of(row)
    assert tuple(columns.sums) == NAMES
    assert columns.users[0] == f"u{USERS}"  # in the order of the data
    np.testing.assert_array_equal(columns.weights["mrr"], np.full(USERS, 2.0))


def test_a_planted_difference_is_shown_and_none_is_not(tmp_path: Path) -> None:
    paths = [
        store(tmp_path, name, ranks(i, better=b))
        for i, (name, b) in enumerate([("a", 0), ("b", 0), ("c", 0.3)])
    ]
    found = compare(*paths, metrics=("ndcg@10",))
    assert [(d.first, d.second) for d in found.differences] == [("a", "b"), ("a", "c")]
    assert [comparison_views.verdict(d, found.level) for d in found.differences] == ["", "higher"]
    assert compare(*paths, metrics=("ndcg@10", "ndcg@10")) == found  # one comparison, for Holm too
    none, planted = found.differences
    assert none.interval[0] < 0 < none.interval[1]
    assert planted.corrected >= planted.p
    assert planted.means[1] == pytest.approx(
        np.mean(of_ranks(ranks(2, better=0.3).rank)["ndcg@10"]), abs=1e-5
    )


def test_all_pairs(tmp_path: Path) -> None:
    paths = [store(tmp_path, name, ranks(i)) for i, name in enumerate("abc")]
    found = compare(*paths, metrics=("mrr",), all_pairs=True)
    assert [(d.first, d.second) for d in found.differences] == [("a", "b"), ("a", "c"), ("b", "c")]


def test_a_folder_is_all_its_results(tmp_path: Path) -> None:
    paths = [store(tmp_path, name, ranks(i)) for i, name in enumerate("ab")]
    assert [row.path for row in comparison.read_rows([tmp_path])] == paths


def test_the_study_of_a_search_is_no_result_of_its_folder(tmp_path: Path) -> None:
    path = store(tmp_path, "a", ranks(0))
    study = path.parent / results.STUDIES / "a.json"
    study.parent.mkdir()
    study.write_text('{"format": 1}')
    assert [row.path for row in comparison.read_rows([tmp_path])] == [path]


def test_the_folder_of_a_run_is_its_own_result(tmp_path: Path) -> None:
    store(tmp_path / "results", "popularity", ranks(0))
    own = store(tmp_path / "results", "a", ranks(1))
    (tmp_path / "run.json").write_text('{"name": "a"}')
    assert [row.path for row in comparison.read_rows([tmp_path])] == [own]


def test_rows_of_one_name_are_told_apart_by_their_experiment(tmp_path: Path) -> None:
    paths = [store(tmp_path, "a", ranks(i), experiment=f"e{i}") for i in range(2)]
    assert [row.name for row in comparison.read_rows(paths)] == ["e0/a", "e1/a"]


@pytest.mark.parametrize(
    ("changes", "kept", "message"),
    [
        ({"dataset": "Games"}, ranks(1), "data set 'Beauty' and 'Games'"),
        ({"protocol": Protocol(seen="keep")}, ranks(1), "seen 'exclude' and 'keep'"),
        ({"protocol": Protocol(candidates="sampled-100")}, ranks(1), "candidates 'all' and 'sampled-100'"),
        (
            {"protocol": Protocol(selection="ndcg@20 on test")},
            ranks(1),
            "selection on 'validation' and 'test'",
        ),
        ({}, ranks(1)._replace(target=np.arange(2 * USERS)[::-1]), "differ in target: number 0 is 0 and 119"),
        ({}, Ranks(*(column[..., 2:] for column in ranks(1))), "differ in user: 120 and 118 of them"),
    ],
)
def test_results_that_cannot_be_compared(
    changes: dict[str, Any], kept: Ranks, message: str, tmp_path: Path
) -> None:
    first, second = store(tmp_path, "a", ranks(0)), store(tmp_path, "b", kept, **changes)
    with pytest.raises(ValueError, match=message):
        compare(first, second)


def test_a_loss_and_cutoffs_may_differ(tmp_path: Path) -> None:
    first = store(tmp_path, "a", ranks(0))
    second = store(tmp_path, "b", ranks(1), protocol=Protocol(loss="ce", ks=(10,), selection="none"))
    assert len(compare(first, second).differences) == len(NAMES)


def test_values_that_disagree_with_the_result_are_refused(tmp_path: Path) -> None:
    wrong = {**of_ranks(ranks(0).rank), "mrr": (0.1, 0.1, 0.1)}
    paths = [store(tmp_path, "a", ranks(0)), store(tmp_path, "b", ranks(0), metrics=wrong)]
    with pytest.raises(ValueError, match=r"mrr is \(0.1, 0.1, 0.1\), and"):
        compare(*paths)


@pytest.mark.parametrize(
    ("options", "count", "message"),
    [({}, 1, "at least two"), ({"metrics": ("ndgc@10",)}, 2, "ndgc@10.*choose among")],
)
def test_wrong_questions(options: dict[str, Any], count: int, message: str, tmp_path: Path) -> None:
    paths = [store(tmp_path, name, ranks(i)) for i, name in enumerate("ab")]
    with pytest.raises(ValueError, match=message):
        compare(*paths[:count], **options)


def test_paths_without_results(tmp_path: Path) -> None:
    path = store(tmp_path, "a", ranks(0))
    with pytest.raises(ValueError, match="named twice"):
        comparison.read_rows([path, tmp_path])
    with pytest.raises(ValueError, match="no such file or folder"):
        comparison.read_rows([tmp_path / "missing"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no result file"):
        comparison.read_rows([tmp_path / "empty"])


@pytest.mark.parametrize(
    ("seeds", "steps", "said"),
    [
        (1, 100, "Too few seeds to speak of training (one): b"),
        (2, 100, "Too few seeds to speak of training with confidence (two): b"),
        (3, 100, ""),
        (1, 0, ""),
    ],
)
def test_too_few_seeds_are_said(seeds: int, steps: int, said: str, tmp_path: Path) -> None:
    first = store(tmp_path, "a", ranks(0))
    notes = " ".join(compare(first, store(tmp_path, "b", ranks(1, seeds=seeds), steps=steps)).notes)
    assert said in notes
    assert ("Too few" in notes) == bool(said)


def test_sums_over_groups_are_compared_by_their_weights(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = rng.integers(1, 9, USERS).astype(np.float32)
    labels = {"click": np.ones(USERS, np.float32)}
    paths = []
    for name, shift in (("a", 0.0), ("b", 0.1)):
        sums = ((rng.random((3, USERS)) / 2 + shift) * weights).astype(np.float32)
        kept = GroupSums(np.arange(USERS), {"auc/click": sums}, {"auc/click": weights}, labels)
        means = tuple((sums.sum(axis=1) / weights.sum()).tolist())
        paths.append(store(tmp_path, name, kept, metrics={"auc/click": means, "ece/click": (0.0, 0.0, 0.0)}))
    found = compare(*paths)
    (difference,) = found.differences
    assert difference.means[1] - difference.means[0] == pytest.approx(0.1, abs=0.05)
    assert difference.corrected < 0.05
    assert "ece/click" in found.notes[-1]
    other = store(
        tmp_path, "c", kept._replace(labels={"click": labels["click"] * 2}), metrics={"auc/click": means}
    )
    with pytest.raises(ValueError, match="differ in labels of click"):
        compare(paths[0], other)
    fewer = kept._replace(
        sums={"auc/click": kept.sums["auc/click"] / 2}, weights={"auc/click": kept.weights["auc/click"] / 2}
    )
    with pytest.raises(ValueError, match="the weights of auc/click differ"):
        compare(paths[0], store(tmp_path, "d", fewer, metrics={"auc/click": means}))


def test_table_and_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: the extra `plots`")
    paths = [store(tmp_path, name, ranks(i, better=b)) for i, (name, b) in enumerate([("a", 0), ("b", 0.3)])]
    found = compare(*paths, metrics=("ndcg@10", "mrr"))
    text = comparison_views.table(found)
    assert "95 % interval" in text
    assert "2 comparisons (Holm)" in text
    assert text.count("higher") == 3  # of both metrics, and in the note
    path = comparison_views.plot(found, tmp_path / "made/difference.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"must end in one of \.png"):
        comparison_views.plot(found, tmp_path / "difference.gif")
