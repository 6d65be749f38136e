"""Lists at several balances, by hand, and as the ranking has them where the balance is 0."""

from __future__ import annotations

import itertools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.data.events.split import leave_one_out
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.protocols import diversity
from jaxrec.protocols import next_item as protocols
from jaxrec.protocols.diversity import at_balance
from jaxrec.train.evaluate import evaluate
from jaxrec.types import Protocol, Retriever
from tests.index.test_aggregate import twin

DATA = protocols.resident(leave_one_out(markov_chain(num_users=30, num_items=12, noise=0.3).sequences))
NUM_ITEMS = DATA.num_items
CATEGORIES = np.arange(NUM_ITEMS + 1) % 3
PROTOCOL = Protocol(ks=(2, 4))
BALANCES = (0.0, 1.0, 50.0)
MODEL = Retriever(
    lambda variables, queries, context: jnp.asarray(variables["users"])[queries["user"]],
    lambda variables: variables["items"],
)


def variables(seeds: int = 2) -> dict[str, np.ndarray]:
    """Two vectors a user, of whole numbers, for each seed."""
    rng = np.random.default_rng(0)
    shapes = {"users": (seeds, 30, 2, 3), "items": (seeds, NUM_ITEMS + 1, 3)}
    return {name: rng.integers(-2, 3, shape).astype(np.float32) for name, shape in shapes.items()}


def measured(**changes: Any) -> list[dict[str, float]]:
    given: dict[str, Any] = {"categories": CATEGORIES, "balances": BALANCES, "candidates": 8} | changes
    asked = diversity.evaluation(MODEL, DATA, given.pop("protocol", PROTOCOL), **given)
    return evaluate(asked, variables(), DATA.columns)


def by_hand(seed: int, balance: float, candidates: int = 8) -> dict[str, float]:
    """Of the test queries: mean hit and NDCG of the place of the target, and shares of differing pairs."""
    found: dict[str, list[float]] = {name: [] for name in ("hit@2", "ndcg@2", "diversity@2", "diversity@4")}
    split, tables = DATA.split, variables()
    items, table = split.sequences.items, tables["items"][seed]
    for user, length, target in zip(split.test.user, split.test.length, split.test.target, strict=True):
        start = split.sequences.offsets[user]
        scores = (tables["users"][seed, user] @ table.T).max(axis=0)
        ids = [i for i in range(1, NUM_ITEMS + 1) if i not in items[start : start + length]]
        ids = sorted(ids, key=lambda i: (-scores[i], i))[:candidates]
        chosen = [i for i in twin(scores[ids], np.array(ids), CATEGORIES, 4, balance) if i]
        place = chosen.index(target) + 1 if target in chosen else 99
        found["hit@2"].append(place <= 2)
        found["ndcg@2"].append(1 / np.log2(1 + place) if place <= 2 else 0.0)
        for k in (2, 4):
            pairs = [CATEGORIES[a] != CATEGORIES[b] for a, b in itertools.combinations(chosen[:k], 2)]
            found[f"diversity@{k}"].append(float(np.mean(pairs)) if pairs else 0.0)
    return {name: float(np.mean(values)) for name, values in found.items()}


def test_metrics_of_each_balance_are_those_by_hand() -> None:
    found = measured()
    for seed, balance in itertools.product((0, 1), BALANCES):
        ours = at_balance(found[seed], balance)
        expected = by_hand(seed, balance)
        assert {name: ours[name] for name in expected} == pytest.approx(expected, rel=1e-5)
        assert set(ours) == {f"{name}@{k}" for name in ("hit", "ndcg", "diversity") for k in (2, 4)}


def test_without_a_balance_the_lists_are_those_of_the_ranking() -> None:
    """Scores without ties, so that the place of a target is its rank."""
    rng = np.random.default_rng(1)
    tables = {name: rng.normal(size=a.shape).astype(np.float32) for name, a in variables().items()}
    asked = diversity.evaluation(
        MODEL, DATA, PROTOCOL, categories=CATEGORIES, balances=(0.0,), candidates=NUM_ITEMS + 5
    )
    lists = evaluate(asked, tables, DATA.columns)
    ranking = protocols.test(MODEL, DATA, PROTOCOL, tables)
    for ours, theirs in zip(lists, ranking, strict=True):
        for name, value in at_balance(ours, 0.0).items():
            assert "diversity" in name or value == pytest.approx(theirs[name])


def test_diversity_rises_with_the_balance() -> None:
    for of_seed in measured():
        values = [at_balance(of_seed, balance)["diversity@4"] for balance in BALANCES]
        assert values == sorted(values) and values[0] < values[-1]


def test_a_score_that_is_no_number_is_reported() -> None:
    bad = variables()
    bad["users"][1, 4] = np.nan
    asked = diversity.evaluation(MODEL, DATA, PROTOCOL, categories=CATEGORIES, balances=(0.5,), candidates=8)
    with pytest.raises(ValueError, match="not finite|NaN"):
        evaluate(asked, jax.tree.map(jnp.asarray, bad), DATA.columns)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"balances": ()}, "balances=[]: give at least one"),
        ({"balances": (0.5, 0.5)}, "each once"),
        ({"balances": (-1.0,)}, "numbers of 0 or more"),
        ({"balances": (np.nan,)}, "numbers of 0 or more"),
        ({"candidates": 3}, "candidates=3: must be at least 4"),
        ({"categories": CATEGORIES[1:]}, f"must be integers [{NUM_ITEMS + 1}]"),
        ({"categories": CATEGORIES * 0.5}, "categories: float64"),
        ({"protocol": PROTOCOL._replace(candidates="sampled-9")}, "lists are of all items"),
        ({"protocol": PROTOCOL._replace(seen="zero")}, "lists are of all items"),
    ],
)
def test_what_means_nothing_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        measured(**changes)
