"""What evaluations keep of each user: its means are the metrics of the package."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import metrics
from jaxrec.train import per_user
from jaxrec.types import GroupSums, Ranks

COUNT, SEEDS = 203, 2


@pytest.fixture(scope="module")
def impressions() -> dict[str, np.ndarray]:
    """Examples of 20 users in 4 batches, the last one padded; task `buy` has a sample space of its own."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 208)
    return {
        "mask": (np.arange(208) < COUNT).reshape(4, 52),
        "user": np.sort(rng.integers(0, 20, 208)).reshape(4, 52),
        "label/click": label.reshape(4, 52),
        "label/buy": (label * rng.integers(0, 2, 208)).reshape(4, 52),
        "space/buy": label.astype(bool).reshape(4, 52),
        "scores": rng.integers(-3, 4, (SEEDS, 4, 52, 2)) / 2 + label.reshape(4, 52, 1) / 2,  # with ties
    }


def mean(kept: GroupSums, name: str) -> np.ndarray:
    return kept.sums[name].sum(axis=1) / kept.weights[name].sum()


@pytest.mark.parametrize("group", [None, "user"])
def test_impressions_keep_what_their_metrics_are_means_of(
    group: str | None, impressions: dict[str, np.ndarray]
) -> None:
    keep = per_user.keep_impressions(["click", "buy"], errors=["buy"], group=group)
    kept = keep(impressions["scores"], impressions)
    assert isinstance(kept, GroupSums)
    flat = {name: column.reshape(-1)[:COUNT] for name, column in impressions.items() if name != "scores"}
    scores = impressions["scores"].reshape(SEEDS, -1, 2)[:, :COUNT]
    for s in range(SEEDS):
        score, label = jnp.array(scores[s, :, 0]), jnp.array(flat["label/click"])
        assert mean(kept, "auc/click")[s] == pytest.approx(float(metrics.auc(score, label)), abs=1e-5)
        loss = float(metrics.log_loss(score, label).mean())
        assert mean(kept, "log_loss/click")[s] == pytest.approx(loss, abs=1e-5)
        if group:
            gauc = float(metrics.gauc(score, label, jnp.array(flat["user"])).gauc)
            assert mean(kept, "gauc/click")[s] == pytest.approx(gauc, abs=1e-5)
        inside = flat["space/buy"]
        error = np.square(scores[s, :, 1] - flat["label/buy"])[inside].mean()
        assert mean(kept, "mse/buy")[s] == pytest.approx(error, abs=1e-5)
    if group:
        expected = [flat["label/click"][flat["user"] == user].sum() for user in kept.group]
        np.testing.assert_array_equal(kept.labels["click"], expected)
    else:
        assert len(kept.group) == min(COUNT, per_user.BLOCKS)


def test_the_spread_of_contributions_is_the_standard_error_of_an_auc() -> None:
    """Against the variance of the AUC over 500 samples (DeLong et al., 1988)."""
    rng = np.random.default_rng(0)

    def sample() -> tuple[float, float]:
        label = rng.random(300) < 0.3
        parts = per_user.auc_contributions(rng.normal(label * 1.0), label, np.ones(300, bool))
        return parts.mean(), parts.var() / 300

    aucs, variances = np.array([sample() for _ in range(500)]).T
    assert variances.mean() == pytest.approx(aucs.var(), rel=0.15)


def test_users_of_one_class_have_no_auc() -> None:
    users, label = np.array([0, 0, 1, 1, 1]), np.array([1, 1, 0, 1, 0])
    auc, weight = per_user.user_aucs(np.array([1.0, 2.0, 3.0, 3.0, 1.0]), label, users, np.ones(5, bool))
    np.testing.assert_array_equal(weight, [0, 0, 1, 1, 1])
    np.testing.assert_allclose(auc[2:], (0.5 + 1.0) / 2)  # one pair tied, one in order


def test_ranks_are_kept_in_the_order_of_users_with_raw_ids() -> None:
    queries = {
        "mask": np.array([[True, True], [True, False]]),
        "user": np.array([[2, 0], [0, 0]]),
        "length": np.array([[5, 9], [3, 0]]),
        "target": np.array([[1, 2], [3, 0]]),
    }
    ranks = np.array([[[7, 8], [9, 0]]])
    kept = per_user.keep_ranks(np.array(["x", "y", "z"]), np.array([10, 20, 30]))(ranks, queries)
    assert isinstance(kept, Ranks)
    assert kept.user.tolist() == ["x", "x", "z"]
    assert kept.position.tolist() == [3, 9, 5]
    assert kept.target.tolist() == [30, 20, 10]
    assert kept.rank.tolist() == [[9, 8, 7]]
    numbered = per_user.keep_ranks(None, np.array([10, 20, 30]), first=-5)(ranks, queries)
    assert isinstance(numbered, Ranks)
    assert numbered.user.tolist() == [5, 5, 7]


def test_means_are_kept_by_user() -> None:
    queries = {"mask": np.array([[True, True, True, False]]), "user": np.array([[1, 0, 1, 0]])}
    values = np.array([[[[1.0, 0.0], [2.0, 0.5], [3.0, 1.0], [9.0, 9.0]]]])
    kept = per_user.keep_means(["recall@5", "mrr"], np.array([40, 30]))(values, queries)
    assert isinstance(kept, GroupSums)
    assert kept.group.tolist() == [30, 40]
    assert kept.sums["recall@5"].tolist() == [[4.0, 2.0]]
    assert kept.sums["mrr"].tolist() == [[1.0, 0.5]]
    assert kept.weights["mrr"].tolist() == [2.0, 1.0]
