"""STAR by the statistics of the batch: what fills up a batch changes no score."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.nn.layers.features import Categorical, Conditioned, FeatureEmbedding
from jaxrec.nn.ranking.star import STAR, Domain
from jaxrec.tasks.multitask import Target, multitask
from jaxrec.train.evaluate import check_finite, make_scores
from jaxrec.types import Batch, Variables
from tests.nn.drawn import drawn

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 4)).astype(np.float32)
DOMAIN = np.array([0, 1, 2, 0, 1, 2], np.int32)
both = pytest.mark.parametrize("of_domains", [False, True])


def star(of_domains: bool) -> STAR:
    return STAR(3, dims=(4,), aux_dims=(4,), domain_statistics=of_domains)


@both
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("tail", [0.0, 7.0, np.nan])
def test_rows_that_are_not_real_are_in_no_statistics(of_domains: bool, train: bool, tail: float) -> None:
    model = star(of_domains)
    variables = drawn(model, X, DOMAIN)
    run = jax.jit(lambda x, d, w: model.apply(variables, x, d, where=w, train=train, mutable=["batch_stats"]))
    alone, moved = run(X, DOMAIN, np.ones(6, bool))
    more = np.concatenate([X, np.full((5, 4), tail, np.float32)])
    padded, with_tail = run(more, np.pad(DOMAIN, (0, 5)), np.arange(11) < 6)
    np.testing.assert_allclose(padded[:6], alone, rtol=1e-5, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), with_tail, moved)


@both
def test_evaluation_leaves_out_what_fills_up_the_last_batch(of_domains: bool) -> None:
    """Six rows in one batch, and with a tail of zeros: rows of the tail have no domain at all."""
    embedding = FeatureEmbedding((Categorical("item", 9, 4), Categorical("scene", 6, 4)))
    model = Conditioned(embedding, Domain("scene", first=3), star(of_domains))
    columns: dict[str, Any] = {
        "item": np.array([1, 5, 2, 8, 3, 4], np.int32),
        "scene": DOMAIN + 3,
        "label/click": np.zeros(6, np.float32),
        "mask": np.ones(6, bool),
    }
    task = multitask(model, [Target("click", None, "label/click")])
    variables = drawn(model, columns)
    measure = jax.jit(make_scores(task.predict))
    batches = [
        {name: np.pad(column, (0, extra))[None] for name, column in columns.items()} for extra in (0, 6)
    ]
    (alone, none), (padded, bad) = (measure(variables, batch, {}) for batch in batches)
    np.testing.assert_allclose(padded[0, :6], alone[0], rtol=1e-5, atol=1e-6)
    assert none.tolist() == bad.tolist() == [0]


def test_a_scenario_that_only_these_rows_have_is_named_among_the_causes() -> None:
    model: Any = star(True)
    variables = drawn(model, X, DOMAIN)

    def score(variables: Variables, batch: Batch) -> Any:
        return model.apply(variables, batch["x"], batch["domain"])

    measure = make_scores(score)
    unseen = {"x": X[None], "domain": np.array([[0, 1, 2, 3, 0, 1]]), "mask": np.ones((1, 6), bool)}
    _, bad = measure(variables, jax.tree.map(jnp.asarray, unseen), {})
    with pytest.raises(
        ValueError, match=r"1 queries have .*domain \(scenario\) that only these queries have"
    ):
        check_finite(np.asarray(bad), "test")
