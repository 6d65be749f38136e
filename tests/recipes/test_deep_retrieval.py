"""Deep Retrieval learns, its paths follow, and its search is that of serving."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxrec.data.events.held_out import split_items
from jaxrec.data.events.split import leave_one_out
from jaxrec.data.synthetic.tastes import group_tastes
from jaxrec.protocols import next_item, retrieval
from jaxrec.recipes import deep_retrieval as recipe
from jaxrec.recipes.deep_retrieval import Recipe
from jaxrec.recipes.nann import every_target
from jaxrec.tasks import deep_retrieval as task
from jaxrec.types import Protocol

SMALL = Recipe(
    dim=8, max_len=8, num_codes=4, depth=2, paths_per_item=2, hidden_dims=(16,), num_samples=0, width=4,
    listed=8, alpha=1e-3, capacity=14, rounds=2, epochs=6, batch_size=64, learning_rate=0.02,
)  # fmt: skip


def matrix() -> retrieval.Data:
    return retrieval.resident(split_items(group_tastes(), by="random", test=0.2))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    data = matrix()
    protocol = Protocol(split=data.split.rule, ks=(10,), selection="recall@10")
    options: dict[str, Any] = {"seeds": (0, 1), "description": {}, "progress": False}
    workdir = tmp_path_factory.mktemp("deep_retrieval")
    model, learned = recipe.train(data, protocol, SMALL, workdir=workdir, **options)
    return data, protocol, model, learned


def test_paths_that_are_learned_are_better_than_random_ones(trained: Any) -> None:
    _, _, _, learned = trained
    first, last = (np.array(fitted.best_value) for fitted in learned.rounds)
    assert (last > first).all() and (last > 2 * 10 / 72).all()  # of 72 items, by chance 10
    assert learned.best == (1, 1)
    for name in ("paths", "softmax"):
        losses = [np.array(fitted.history[-1][name]) for fitted in learned.rounds]
        assert (losses[1] < losses[0]).all()


def test_seeds_have_paths_of_their_own_within_the_capacity(trained: Any) -> None:
    _, _, model, learned = trained
    numbers = learned.variables["paths"]["of_items"]
    assert (numbers[0] != numbers[1]).any()
    for seed in range(2):
        of_seed = jax.tree.map(lambda leaf, s=seed: leaf[s], learned.variables)
        index = recipe.index(model, of_seed, SMALL)
        assert int(index.count) == 72 and int(index.overflow) == 0 and index.capacity == SMALL.capacity


def test_all_paths_find_what_the_softmax_over_all_items_does(trained: Any) -> None:
    data, protocol, model, learned = trained
    whole = task.by_paths(model, width=16, capacity=SMALL.capacity)
    found, exact = (
        retrieval.test(ranked, data, protocol, learned.variables) for ranked in (whole, task.retriever(model))
    )
    assert found[0]["recall@10"] == pytest.approx(exact[0]["recall@10"], abs=1e-3)
    variables = jax.tree.map(lambda leaf: leaf[0], learned.variables)
    index, histories = recipe.index(model, variables, SMALL), np.array([[0, 0, 0, 0, 1, 2, 3, 4]], np.int32)
    searched = jax.jit(lambda v, i, h: recipe.search(model, v, i, h, 5, 4))(variables, index, histories)
    assert len(set(searched.ids[0].tolist())) == 5 and 5 <= int(searched.scored[0]) < 72


def test_sequences_are_trained_on_too(tmp_path: Path) -> None:
    data = next_item.resident(leave_one_out(group_tastes()))
    protocol = Protocol(ks=(10,), selection="hit@10")
    quick = dataclasses.replace(SMALL, rounds=1, epochs=1, recurrent=True, num_samples=10)
    options: dict[str, Any] = {"seeds": (0,), "description": {}, "progress": False, "workdir": tmp_path}
    _, learned = recipe.train(data, protocol, quick, **options)
    assert np.isfinite(learned.rounds[0].history[-1]["paths"]).all() and learned.best == (0,)


def test_counts_of_items_are_those_of_training_examples() -> None:
    sequences: next_item.Data = next_item.resident(leave_one_out(group_tastes()))
    for data in (matrix(), sequences):
        drawn, _ = every_target(data, 64).draw(jax.random.key(0), data.columns)
        targets = np.asarray(data.columns["items"])[drawn["example"][drawn["mask"]]]
        expected = np.bincount(targets, minlength=data.num_items + 1)
        np.testing.assert_array_equal(recipe._targets(data), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rounds": 0}, "rounds=0: must be at least 1"),
        ({"num_samples": -1}, "num_samples=-1: must be at least 0"),
        ({"alpha": -1.0}, "alpha=-1.0"),
        ({"decay": 0.0}, "decay=0.0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


def test_paths_without_room_for_all_items_are_refused() -> None:
    with pytest.raises(ValueError, match="capacity=8: 16 paths have no room for 144 places .* at least 9"):
        recipe.build(matrix(), dataclasses.replace(SMALL, capacity=8))
