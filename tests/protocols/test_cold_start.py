"""Errors and rankings of each user's query: by hand, in batches, by state; floors; training."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec.baselines import ratings
from jaxrec.data.synthetic.rated_content import rated_content
from jaxrec.data.tables.rating_tasks import UserTasks, hold_out_users, make_tasks
from jaxrec.protocols import cold_start
from jaxrec.recipes.melu import ROWS, Recipe
from jaxrec.tasks.meta import gather
from jaxrec.types import GroupSums

CONTENT = rated_content(num_users=24, num_items=40, num_ratings=14)
WARM = make_tasks(CONTENT, "warm", num_query=3, least=5)
TRAIN, VALIDATION = hold_out_users(WARM, 0.3)
NEW = make_tasks(CONTENT, "user-cold", num_query=3, least=5)
DATA = cold_start.Data(CONTENT, TRAIN, VALIDATION, {"warm": TRAIN, "user-cold": NEW}).checked()
RECIPE = Recipe(dim=3, hidden_dims=(4,), gate_dim=3, local_learning_rate=0.05)
_, TASK = ROWS["melu-1"].task(CONTENT, RECIPE)


def test_metrics_by_hand() -> None:
    """Two users; the second has two real items, and equal predictions put the worse one first."""
    predicted = jnp.array([[4.0, 1.0, 3.0], [2.0, 2.0, 9.0]])
    rating = jnp.array([[5.0, 4.0, 1.0], [5.0, 3.0, 0.0]])
    query = jnp.array([[True, True, True], [True, True, False]])
    found = dict(
        zip(cold_start.METRICS, np.asarray(cold_start.user_metrics(predicted, rating, query)).T, strict=True)
    )
    np.testing.assert_allclose(found["mae"], [(1 + 3 + 2) / 3, (3 + 1) / 2], rtol=1e-6)
    np.testing.assert_allclose(found["ndcg@1"], [1.0, 7 / 31], rtol=1e-6)
    np.testing.assert_allclose(found["ndcg_linear@1"], [1.0, 3 / 5], rtol=1e-6)
    log = np.log2([2, 3, 4])
    first = np.sum(np.array([31, 1, 15]) / log) / np.sum(np.array([31, 15, 1]) / log)
    second = np.sum(np.array([3, 5]) / log[:2]) / np.sum(np.array([5, 3]) / log[:2])
    assert found["ndcg@3"][0] == pytest.approx(first) and found["ndcg_linear@3"][1] == pytest.approx(second)


def test_the_order_of_a_query_changes_no_metric() -> None:
    rng = np.random.default_rng(0)
    predicted, rating = jnp.asarray(rng.normal(size=(5, 6))), jnp.asarray(rng.integers(1, 6, (5, 6)))
    query, order = jnp.ones((5, 6), bool), rng.permutation(6)
    ours = cold_start.user_metrics(predicted, rating, query)
    turned = cold_start.user_metrics(predicted[:, order], rating[:, order], query)
    np.testing.assert_allclose(ours, turned, rtol=1e-6)
    perfect = cold_start.user_metrics(rating, rating, query)
    np.testing.assert_allclose(perfect, np.broadcast_to([0.0, 1.0, 1.0, 1.0, 1.0], (5, 5)), atol=1e-6)


def test_batches_are_padded_and_masked() -> None:
    found = cold_start.batches(WARM, 4)
    assert found["mask"].shape == (-(-WARM.num_tasks // 4), 4)
    assert found["user"][found["mask"]].tolist() == WARM.user.tolist()
    np.testing.assert_array_equal(found["query"][found["mask"]], WARM.query)


@functools.cache
def variables() -> Any:
    """Of two seeds, untrained."""
    context = {**TRAIN.columns(), **DATA.shared}
    examples = {"example": jnp.arange(2), "mask": jnp.ones(2, bool)}

    def one(key: jax.Array) -> object:
        return TASK.init(key, TASK.prepare(key, examples, context))

    return jax.jit(jax.vmap(one))(jax.vmap(jax.random.key)(jnp.arange(2)))


def test_states_are_measured_as_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cold_start, "EVALUATION_BATCH", 5)
    found = cold_start.run_tests(TASK, DATA, variables())
    assert list(found) == ["warm", "user-cold"]
    for state, tasks in DATA.tests.items():
        batch = gather(tasks.columns(), CONTENT.content())
        predicted = jax.jit(jax.vmap(TASK.predict, in_axes=(0, None)))(variables(), batch)
        alone = cold_start.measure_predictions(DATA, state, np.asarray(predicted))
        for ours, theirs in zip(found[state].metrics, alone.metrics, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-5)
        kept, expected = found[state].values, alone.values
        assert isinstance(kept, GroupSums) and isinstance(expected, GroupSums)
        assert kept.group.tolist() == np.unique(CONTENT.user_ids[tasks.user - 1]).tolist()
        for name in cold_start.METRICS:
            np.testing.assert_allclose(kept.sums[name], expected.sums[name], rtol=1e-5)
            assert kept.sums[name].sum(1) / kept.weights[name].sum() == pytest.approx(
                [m[name] for m in found[state].metrics], rel=1e-5
            )


def test_training_keeps_the_epoch_of_the_least_error(tmp_path: Path) -> None:
    fitted = cold_start.train(
        TASK, DATA, optax.adam(0.05), epochs=3, batch_size=8, seeds=(0,), workdir=tmp_path, description={},
        progress=False,
    )  # fmt: skip
    errors = [entry["valid/mae"][0] for entry in fitted.history]
    assert fitted.best_value == [min(errors)] and errors[fitted.best_epoch[0]] == min(errors)
    assert fitted.steps == 3 * -(-TRAIN.num_tasks // 8)
    assert fitted.history[-1]["squared_error"][0] < fitted.history[0]["squared_error"][0]


def test_an_unknown_state_is_named() -> None:
    with pytest.raises(ValueError, match=r"state 'user_cold': unknown \(did you mean 'user-cold'"):
        cold_start.tasks_of(DATA, "user_cold")
    with pytest.raises(
        ValueError, match="state 'item-cold': not among the tests, which are of warm, user-cold"
    ):
        cold_start.tasks_of(DATA, "item-cold")


def test_wrong_predictions_are_refused() -> None:
    for bad in (np.zeros((1, 2, 3)), np.full((1, *NEW.query.shape), np.nan)):
        with pytest.raises(ValueError, match=r"predictions of shape .*: must be finite, \[seeds, "):
            cold_start.measure_predictions(DATA, "user-cold", bad)


def test_users_without_support_are_refused_before_training() -> None:
    bad = TRAIN._replace(
        support=np.zeros_like(TRAIN.support), support_rating=np.zeros_like(TRAIN.support_rating)
    )
    with pytest.raises(ValueError, match="has no support"):
        DATA._replace(train=bad).checked()


# Floors


def pairs(tasks: UserTasks) -> list[tuple[int, float]]:
    found = []
    for name in ("support", "query"):
        items, rating = getattr(tasks, name), getattr(tasks, f"{name}_rating")
        found += list(zip(items[items != 0].tolist(), rating[items != 0].tolist(), strict=True))
    return found


@pytest.mark.parametrize("tasks", [NEW, TRAIN], ids=["new", "train"])
def test_biases_are_those_of_a_slow_twin(tasks: UserTasks) -> None:
    seen = pairs(TRAIN)
    mean = float(np.mean([rating for _, rating in seen]))

    def of_item(item: int) -> float:
        given = [rating - mean for other, rating in seen if other == item]
        return sum(given) / (len(given) + 5) if given else 0.0

    expected = np.zeros(tasks.query.shape)
    for task in range(tasks.num_tasks):
        own = zip(tasks.support[task].tolist(), tasks.support_rating[task].tolist(), strict=True)
        residuals = [rating - mean - of_item(item) for item, rating in own if item]
        user = sum(residuals) / (len(residuals) + 5)
        expected[task] = [mean + of_item(item) + user for item in tasks.query[task].tolist()]
    np.testing.assert_allclose(ratings.biases(TRAIN, tasks, CONTENT.num_items), expected, rtol=1e-5)


def test_means_are_means() -> None:
    seen = pairs(TRAIN)
    mean = np.mean([rating for _, rating in seen])
    np.testing.assert_allclose(ratings.mean_rating(TRAIN, NEW, CONTENT.num_items), mean, rtol=1e-6)
    by_item = ratings.item_mean(TRAIN, NEW, CONTENT.num_items)
    given = [rating for item, rating in seen if item == NEW.query[0, 0]]
    assert by_item[0, 0] == pytest.approx(np.mean(given) if given else mean, rel=1e-6)
    by_user = ratings.user_mean(TRAIN, NEW, CONTENT.num_items)
    support = NEW.support_rating[1][NEW.support[1] != 0]
    np.testing.assert_allclose(by_user[1], support.mean(), rtol=1e-6)
    with pytest.raises(ValueError, match=r"user_shrinkage=-1: must be 0 or more"):
        ratings.biases(TRAIN, NEW, CONTENT.num_items, user_shrinkage=-1)
