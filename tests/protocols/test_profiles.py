"""One label an example: batches, metrics by hand, baselines."""

from __future__ import annotations

import numpy as np
import pytest

from jaxrec.protocols import profiles


def made(num_classes: int, *, ranked: bool, count: int = 600) -> profiles.Data:
    """Examples whose labels are drawn, the first class twice as often as any other."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, num_classes + 1, count) % num_classes + 1
    third = count // 3
    parts = np.split(np.arange(count, dtype=np.int32), [third, 2 * third])
    return profiles.Data(
        name="made",
        task="up",
        rule="thirds",
        columns={"label": drawn.astype(np.int32)},
        classes=tuple(map(str, range(num_classes))),
        train=parts[0],
        validation=parts[1],
        test=parts[2],
        num_items=9,
        ranked=ranked,
    )


def test_batches_are_padded_and_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    users, labels = np.arange(5, 12).astype(np.int32), np.arange(20, dtype=np.int32) % 2 + 1
    monkeypatch.setattr(profiles, "EVALUATION_BATCH", 4)
    found = profiles.batches(users, labels)
    assert found["mask"].shape == (2, 4)
    assert found["user"][found["mask"]].tolist() == users.tolist()
    assert found["label"][found["mask"]].tolist() == labels[users].tolist()


def test_class_metrics_by_hand() -> None:
    """Logits of three users and a padded one: two right, one wrong; one of two pairs in order."""
    logits = np.log([[[0.8, 0.2], [0.3, 0.7], [0.1, 0.9], [0.5, 0.5]]])
    queries = {"mask": np.array([[True, True, True, False]]), "label": np.array([[1, 2, 1, 0]])}
    found = profiles.class_metrics(logits, queries)
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["log_loss"] == pytest.approx(-np.log(0.8 * 0.7 * 0.1) / 3)
    assert found["auc"] == pytest.approx(1 / 2)
    three = profiles.class_metrics(
        np.zeros((1, 2, 3)), {"mask": np.ones((1, 2), bool), "label": np.array([[1, 3]])}
    )
    assert "auc" not in three and three["log_loss"] == pytest.approx(np.log(3))


def test_ranks_by_hand() -> None:
    """Seven classes: the target first, tied with one other, sixth; and a padded example."""
    logits = np.zeros((2, 2, 7))
    logits[0, 0, 2] = 3.0
    logits[0, 1, [4, 5]] = 1.0
    logits[1, 0] = np.arange(7)
    queries = {"mask": np.array([[True, True], [True, False]]), "label": np.array([[3, 5], [2, 0]])}
    found = profiles.rank_metrics(logits, queries)
    assert found["hit@5"] == pytest.approx(2 / 3)
    assert found["mrr@5"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    terms = [3 - np.log(np.exp(3) + 6), 1 - np.log(2 * np.e + 5), 1 - np.log(np.exp(np.arange(7)).sum())]
    assert found["log_loss"] == pytest.approx(-np.mean(terms))


def test_equal_logits_earn_nothing() -> None:
    queries = {"mask": np.ones((1, 6), bool), "label": np.arange(1, 7)[None]}
    found = profiles.rank_metrics(np.zeros((1, 6, 6)), queries)
    assert found["hit@5"] == found["mrr@5"] == 0.0
    assert found["log_loss"] == pytest.approx(np.log(6))


def test_popularity_knows_the_shares_of_classes() -> None:
    data = made(2, ranked=False)
    found, again = profiles.popularity_test(data, (0, 1)).metrics
    labels = data.columns["label"]
    most = np.bincount(labels[data.train]).argmax()
    assert found["accuracy"] == pytest.approx((labels[data.test] == most).mean())
    assert found["auc"] == pytest.approx(0.5)
    assert found == again


def test_random_logits_rank_by_chance_and_by_seed() -> None:
    data = made(20, ranked=True)
    hits = [of_seed["hit@5"] for of_seed in profiles.random_test(data, tuple(range(20))).metrics]
    assert len(set(hits)) > 1
    assert np.mean(hits) == pytest.approx(profiles.K / len(data.classes), abs=0.03)


def test_a_protocol_says_what_competes_and_how_an_epoch_is_chosen() -> None:
    ranked, classes = (made(4, ranked=ranked) for ranked in (True, False))
    assert profiles.protocol(ranked, "ce").candidates == "all 4 cold"
    assert (profiles.protocol(ranked, "ce").ties, profiles.protocol(ranked, "ce").selection) == (
        "pessimistic",
        "mrr@5",
    )
    assert (profiles.protocol(classes, "ce").ties, profiles.protocol(classes, "ce").selection) == (
        "half",
        "log_loss",
    )
    assert profiles.protocol(classes, "", "none").selection == "none"
