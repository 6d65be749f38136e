"""Which seed answers, and the mean of all."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from jaxrec import serve
from jaxrec.serve.seeds import choose_seed
from jaxrec.types import Protocol
from tests.serve.small_runs import MODULES, NUM_ITEMS, all_runs, kept


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, serve.Run]:
    return all_runs(tmp_path_factory.mktemp("runs"))


def test_the_best_seed_on_validation_answers(runs: dict[str, serve.Run]) -> None:
    run = runs["sasrec"]
    assert run.seed == 8
    assert str(run).endswith("mine, seed 8 (the best of 3, 8 by ndcg@10 on validation, 0.2000)")
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[1]), run.variables, dict(run.kept.variables))


@pytest.mark.parametrize(
    ("changes", "seed", "found", "why"),
    [
        ({}, 3, 3, "of 3, 8, as requested"),
        ({}, "mean", "mean", "scores of 3, 8, as requested"),
        ({"validation": {}}, None, 3, "the first of 3, 8: the run was not selected on validation"),
        (
            {"validation": {"log_loss/click": (0.1, 0.2)}, "protocol": Protocol(selection="log_loss/click")},
            None, 3, "the best of 3, 8 by log_loss/click",
        ),
        (
            {
                "validation": {"normalized_entropy/click": (0.8, 0.9)},
                "protocol": Protocol(selection="normalized_entropy/click"),
            },
            None, 3, "the best of 3, 8 by normalized_entropy/click",
        ),
    ],
)  # fmt: skip
def test_other_seeds(changes: dict[str, Any], seed: Any, found: Any, why: str) -> None:
    chosen, said = choose_seed(kept(MODULES["sasrec"], **changes), seed)
    assert (chosen, said[: len(why)]) == (found, why)


def test_a_seed_that_the_run_has_not(runs: dict[str, serve.Run]) -> None:
    with pytest.raises(ValueError, match="seed=4: the run has 3, 8"):
        serve.load(runs["sasrec"].path, seed=4)


@pytest.mark.parametrize("name", ["sasrec", "item-knn"])  # products, and scores of all items at once
def test_the_mean_is_of_the_scores_of_all_seeds(runs: dict[str, serve.Run], name: str) -> None:
    path = runs[name].path
    lists = {
        seed: serve.load(path, seed=seed).recommend(["u1", "u2"], k=NUM_ITEMS, seen="keep")
        for seed in (3, 8, "mean")  # type: ignore[attr-defined]
    }
    for first, second, mean in zip(*lists.values(), strict=True):
        of_seeds = [dict(zip(a.items.tolist(), a.scores, strict=True)) for a in (first, second)]
        expected = [(of_seeds[0][item] + of_seeds[1][item]) / 2 for item in mean.items.tolist()]
        np.testing.assert_allclose(mean.scores, expected, rtol=1e-5, atol=1e-6)


def test_vectors_of_the_mean_have_its_scores_as_products(runs: dict[str, serve.Run]) -> None:
    run = serve.load(runs["gru4rec"].path, seed="mean")
    users, items = run.embed("users"), run.embed("items")
    (best,) = run.recommend(["u1"], k=1, seen="keep")
    products = users.vectors[1] @ items.vectors.T
    assert items.ids[products.argmax()] == best.items[0]
    np.testing.assert_allclose(products.max(), best.scores[0], rtol=1e-5)
