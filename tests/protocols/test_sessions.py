"""Ranking of the next click: means by hand, and what a protocol reads."""

from __future__ import annotations

import numpy as np
import pytest

from jaxrec import metrics
from jaxrec.baselines import item_knn
from jaxrec.protocols import sessions
from jaxrec.train.evaluate import evaluate
from tests.baselines import small
from tests.baselines.small import NUM_ITEMS, TEST


def test_ranks_of_scores_and_their_means() -> None:
    """Equal scores rank the target last; of the masked tail nothing counts."""
    data = small.session_data()
    baseline = item_knn(data)
    asked = sessions.evaluation(
        baseline, data, sessions.protocol(data.split, "", "none"), data.split.batched("test", 3)
    )
    (found,) = evaluate(asked, baseline.for_seeds([0]), data.columns)
    every = small.scores(baseline, small.session_queries(data), data.columns)
    ranks = np.array([(row >= row[target - 1]).sum() for row, (_, target) in zip(every, TEST, strict=True)])
    assert ranks[3] == NUM_ITEMS  # after an item that training never saw, all are equal
    assert found["recall@5"] == pytest.approx((ranks <= 5).mean())
    assert found["mrr@5"] == pytest.approx(np.where(ranks <= 5, 1 / ranks, 0).mean())


def test_metrics_by_hand() -> None:
    ranks, mask = np.array([[1, 4, 9], [21, 2, 1]]), np.array([[True, True, True], [True, False, False]])
    found = sessions.click_metrics((3, 10))(ranks, {"mask": mask})
    want = {"recall@3": 1 / 4, "mrr@3": 1 / 4, "recall@10": 3 / 4, "mrr@10": (1 + 1 / 4 + 1 / 9) / 4}
    assert found == pytest.approx(want)


def test_targets_of_which_a_rule_makes_misses_are_counted() -> None:
    ranks, mask = np.array([[1, metrics.MISS]]), np.ones((1, 2), bool)
    found = sessions.click_metrics((3,))(ranks, {"mask": mask})
    assert found == {"recall@3": 0.5, "mrr@3": 0.5, "seen_targets": 0.5}


def test_a_rule_for_seen_items_reads_whole_sessions() -> None:
    """Of the test prefixes two have their target among their clicks: excluded, these are misses."""
    data = small.session_data()
    baseline, of = item_knn(data), sessions.protocol(data.split, "", "none")._replace(seen="exclude")
    asked = sessions.evaluation(baseline, data, of, sessions.queries(data, "test"))
    (found,) = evaluate(asked, baseline.for_seeds([0]), data.columns)
    repeated = [target in prefix for prefix, target in TEST]
    assert sum(repeated) == 2
    assert found["seen_targets"] == np.mean(repeated)


def test_all_examples_of_a_part_are_asked() -> None:
    queries = sessions.queries(small.session_data(), "test")
    assert queries["mask"].tolist() == [[True] * len(TEST)]
    assert queries["target"].tolist() == [[target for _, target in TEST]]
