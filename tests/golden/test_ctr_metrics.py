"""Metrics of labelled impressions and graded lists against scikit-learn's and FuxiCTR's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import metrics
from jaxrec.types import Array
from tests.golden.fixtures import Golden, golden_files, read
from tests.programs import run


def places(scores: np.ndarray) -> np.ndarray:
    """The number of smaller values among the scores: the same order and ties, and exact in float32.

    The references compare in float64, where scores differ that are one and the same in float32.
    """
    return np.unique(scores, return_inverse=True)[1].reshape(scores.shape).astype(np.float32)


def log_odds(probs: np.ndarray) -> np.ndarray:
    """log p - log(1 - p) with p clipped to ε .. 1 - ε of float64, as scikit-learn's log loss clips it."""
    epsilon = np.finfo(np.float64).eps
    clipped = np.clip(probs.astype(np.float64), epsilon, 1.0 - epsilon)
    return (np.log(clipped) - np.log1p(-clipped)).astype(np.float32)


@pytest.fixture(params=golden_files("ctr_metrics"), scope="module")
def golden(request: pytest.FixtureRequest) -> Golden:
    path: Path = request.param
    return read(path)


@pytest.fixture(scope="module")
def users(golden: Golden) -> Mapping[str, Array]:
    """Scores and labels as one row a user, filled up; `real` is True where the slot holds an impression."""
    ids, inverse = np.unique(golden.inputs["user"], return_inverse=True)
    slot = np.array([np.sum(inverse[:i] == user) for i, user in enumerate(inverse)])
    found = {}
    for name, values in {"score": places(golden.inputs["score"]), "label": golden.inputs["label"]}.items():
        rows = np.zeros((len(ids), slot.max() + 1), np.float32)
        rows[inverse, slot] = values
        found[name] = jnp.asarray(rows)
    real = np.zeros(found["score"].shape, bool)
    real[inverse, slot] = True
    return {**found, "real": jnp.asarray(real)}


def test_scores_that_float32_does_not_tell_apart_keep_their_order() -> None:
    """0.5, 0.5 + 2⁻⁴⁰ and 0.5 again: one value in float32, one pair in order and one tie in float64."""
    scores = np.array([0.5, 0.5 + 2.0**-40, 0.5])
    assert len(set(scores.astype(np.float32))) == 1
    assert places(scores).tolist() == [0, 1, 0]
    labels = jnp.array([0, 1, 1])
    assert float(metrics.auc(jnp.asarray(places(scores)), labels)) == (1 + 1 / 2) / 2


def test_scores_of_0_and_1_cost_what_the_reference_says() -> None:
    """-log(1 - ε) where they are right and -log ε where they are wrong, not infinity or NaN."""
    probs, labels = np.array([0.0, 0.0, 1.0, 1.0, 0.25], np.float32), np.array([0, 1, 1, 0, 1])
    found = run(metrics.log_loss, jnp.asarray(log_odds(probs)), jnp.asarray(labels))
    epsilon = np.finfo(np.float64).eps
    expected = -(2 * np.log1p(-epsilon) + 2 * np.log(epsilon) + np.log(0.25)) / 5
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_areas_and_log_loss(golden: Golden) -> None:
    scores, labels = jnp.asarray(places(golden.inputs["score"])), jnp.asarray(golden.inputs["label"])
    logits = jnp.asarray(log_odds(golden.inputs["score"]))
    area, precision, loss = jax.jit(
        lambda: (
            metrics.auc(scores, labels),
            metrics.average_precision(scores, labels),
            metrics.log_loss(logits, labels),
        )
    )()
    ours = {"auc": area, "logloss": loss, "fuxictr/AUC": area, "fuxictr/logloss": loss}
    ours["average_precision"] = precision
    for name, value in ours.items():
        np.testing.assert_allclose(value, golden.outputs[name], rtol=1e-5, err_msg=name)


def test_areas_of_users(golden: Golden) -> None:
    scores = places(golden.inputs["score"])
    arrays = [jnp.asarray(x) for x in (scores, golden.inputs["label"], golden.inputs["user"])]
    weights = (True, False)
    found = jax.jit(lambda: [metrics.gauc(*arrays, weighted=weighted) for weighted in weights])()
    ours = dict(zip(weights, found, strict=True))
    names = {"gauc_weighted_by_count": True, "fuxictr/gAUC": True, "gauc_unweighted": False}
    for name, weighted in {**names, "fuxictr/avgAUC": False}.items():
        np.testing.assert_allclose(ours[weighted].gauc, golden.outputs[name], rtol=1e-5, err_msg=name)
        assert ours[weighted].num_groups == len(golden.outputs["gauc_users"])


def test_area_of_each_user(golden: Golden) -> None:
    scores, labels = jnp.asarray(places(golden.inputs["score"])), jnp.asarray(golden.inputs["label"])
    area_of = jax.jit(metrics.auc)
    for user, value in zip(golden.outputs["gauc_users"], golden.outputs["gauc_per_user"], strict=True):
        area = area_of(scores, labels, where=jnp.asarray(golden.inputs["user"] == user))
        np.testing.assert_allclose(area, value, rtol=1e-5)


def test_ranking_of_each_user(golden: Golden, users: Mapping[str, Array]) -> None:
    """FuxiCTR takes ties in the order in which they happen to stand, so between the worst and the best."""
    scores, labels, real = (np.asarray(users[name]) for name in ("score", "label", "real"))
    others = real[:, None] & ~np.eye(scores.shape[1], dtype=bool)
    bounds: dict[str, list[Any]] = {}
    for ties in ("pessimistic", "optimistic"):
        for name, value in golden.outputs.items():
            if found := re.fullmatch(r"fuxictr/NDCG_k(\d+)", name):
                gain = metrics.exponential_gain
                ndcg = run(
                    metrics.graded_ndcg, scores, labels, k=int(found[1]), gain=gain, ties=ties, where=real
                )
                bounds.setdefault(name, [value]).append(ndcg.mean())
        above = run(metrics.count_above, scores[:, None], scores, where=others, ties=ties)
        reciprocal = np.sum(labels / (1 + above), axis=1) / np.maximum(labels.sum(axis=1), 1)
        bounds.setdefault("MRR", [golden.outputs["fuxictr/MRR"]]).append(reciprocal.mean())
    assert len(bounds) > 1
    for name, (value, low, high) in bounds.items():
        assert low - 1e-6 <= value <= high + 1e-6, name


def test_ndcg_of_grades(golden: Golden) -> None:
    relevance = golden.inputs["ndcg/relevance"]
    scores, tied = (np.asarray(places(golden.inputs[f"ndcg/{name}"])) for name in ("score", "score_ties"))
    found = {name: re.fullmatch(r"ndcg/(\w+)_k(\d+)", name) for name in golden.outputs}
    cases = [(name, match[1], int(match[2])) for name, match in found.items() if match]
    assert cases
    for name, kind, k in cases:
        value = golden.outputs[name]
        if kind == "linear_ties_ignored":  # in whatever order they stand
            low, high = (
                run(metrics.graded_ndcg, tied, relevance, k=k, ties=ties).mean()
                for ties in ("pessimistic", "optimistic")
            )
            assert low - 1e-6 <= value <= high + 1e-6, name
        else:  # the other scores may have ties too
            gain = metrics.exponential_gain if kind == "exp" else jnp.asarray
            of = tied if kind == "linear_ties_averaged" else scores
            ours = run(metrics.graded_ndcg, of, relevance, k=k, gain=gain, ties="average")
            np.testing.assert_allclose(ours.mean(), value, rtol=1e-5, err_msg=name)
