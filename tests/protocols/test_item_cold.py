"""Cold items among themselves and among all items: rankings of a set of items, by a slow twin."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import baselines, metrics
from jaxrec.data.events.item_cold import COLD_TEST, COLD_VALIDATION, divide_items
from jaxrec.data.events.strong_generalisation import hold_out_users
from jaxrec.data.synthetic.tastes import group_tastes
from jaxrec.index.rank import make_rank
from jaxrec.index.top_k import Lists, make_top_k
from jaxrec.protocols import item_cold, retrieval
from jaxrec.recipes import item_cold as recipes
from jaxrec.types import Baseline, Protocol, Retriever
from tests.nn.drawn import drawn as drawn_variables

KS = (2, 5)
VECTORS = Retriever(lambda v, q, c: jnp.asarray(v["users"])[q["user"]], lambda v: v["items"])


@functools.cache
def data() -> item_cold.Data:
    return item_cold.resident(divide_items(group_tastes(40, 4, 6, num_items=6), warm=0.2))


@functools.cache
def drawn() -> Baseline:
    rng = np.random.default_rng(0)
    users = np.round(rng.normal(size=(data().cold.num_users, 3)))  # with ties
    return Baseline("drawn", VECTORS, {"users": users, "items": np.round(rng.normal(size=(25, 3)))})


@functools.cache
def protocol() -> Protocol:
    return item_cold.validation_protocol(data(), ks=KS, selection="recall@5", loss="none")


def recall(
    part: retrieval.Data, allowed: np.ndarray, k: int, named: np.ndarray | None = None
) -> tuple[float, float]:
    """Mean recall@k of all relevant items, and the share of list places that `named` items have."""
    split, values, shares = part.split, [], []
    relevant, offsets = split.relevant(split.test)
    for row, (user, length, number) in enumerate(zip(*split.test, strict=True)):
        scores = drawn().variables["items"] @ drawn().variables["users"][user]
        seen = split.sequences.user_items(int(user))[:length]
        wanted = set(relevant[offsets[row] : offsets[row + 1]].tolist())
        items = [i for i in range(1, 25) if allowed[i] and i not in seen]
        items.sort(key=lambda i: (-scores[i], i in wanted, i))
        values.append(sum(i in wanted for i in items[:k]) / number)
        shares.append(0.0 if named is None else sum(named[i] for i in items[:k]) / k)
    return float(np.mean(values)), float(np.mean(shares))


def test_both_measurements_by_a_slow_twin() -> None:
    found = item_cold.run_test(drawn(), data(), protocol(), drawn().for_seeds((0,)))
    made = data()
    everything = np.ones(25, bool)
    (asked, cold), (asked_all, everywhere) = found["cold"], found["all"]
    assert (asked.candidates, asked_all.candidates) == ("only-cold-test", "all")
    assert asked.selection == "recall@5" and "cold items" in asked.split
    assert made.warm is not None
    for k in KS:
        expected, _ = recall(made.cold, made.split.sets[COLD_TEST], k)
        assert cold.metrics[0][f"recall@{k}"] == pytest.approx(expected, abs=1e-6)
        both, share = recall(made.both, everything, k, made.split.sets["cold"])
        values = everywhere.metrics[0]
        assert values[f"recall@{k}"] == pytest.approx(both, abs=1e-6)
        assert values[f"share_cold@{k}"] == pytest.approx(share, abs=1e-6)
        for group, part in (("cold", made.cold), ("warm", made.warm)):
            assert values[f"{group}_recall@{k}"] == pytest.approx(recall(part, everything, k)[0], abs=1e-6)
    kept: Any = cold.values
    np.testing.assert_allclose(kept.sums["recall@5"].mean(axis=1), cold.metrics[0]["recall@5"], rtol=1e-5)


def test_without_warm_items_taken_out_cold_ones_alone_are_relevant() -> None:
    made = item_cold.resident(divide_items(group_tastes(40, 4, 6, num_items=6), warm=0.0))
    asked = item_cold.validation_protocol(made, ks=(3,), selection="recall@3")
    popular = baselines.popularity(made.validation)
    found = item_cold.run_test(popular, made, asked, popular.for_seeds((0,)))
    values = found["all"][1].metrics[0]
    assert values["cold_recall@3"] == values["recall@3"] == 0.0  # nobody has a cold item
    assert values["share_cold@3"] == 0.0 and "warm_recall@3" not in values


def test_a_list_has_items_of_the_set_alone_and_ranks_agree() -> None:
    made = data().cold
    asked = protocol()._replace(candidates="only-cold-test")
    queries = retrieval.evaluation(drawn(), made, asked, "test").queries
    mask = data().split.sets[COLD_TEST]
    one, context = jax.tree.map(jnp.asarray, (dict(drawn().variables), made.columns))
    for block in (4, 100):
        options = {"num_items": 24, "history": made.history, "block": block}
        values, bad = make_top_k(VECTORS, asked, k=24, num_relevant=6, **options)(one, queries, context)
        lists = Lists.from_values(values)
        ids, real = np.asarray(lists.ids), queries["mask"]
        assert not np.asarray(bad).any()
        assert set(ids[real].reshape(-1).tolist()) <= {0, *np.flatnonzero(mask).tolist()}
        ranks, bad = make_rank(VECTORS, asked, **options)(one, queries, context)
        np.testing.assert_array_equal(np.asarray(ranks)[real], np.asarray(lists.rank)[real])
        assert np.asarray(ranks)[real].max() <= mask.sum()
        warm = dict(queries) | {"target": np.full_like(queries["target"], np.flatnonzero(~mask)[1])}
        missed, _ = make_rank(VECTORS, asked, **options)(one, warm, context)
        assert (np.asarray(missed)[real] == metrics.MISS).all()


def test_sets_that_do_not_fit_are_refused() -> None:
    made, sets = data().cold, data().split.sets
    ask = functools.partial(retrieval.evaluation, drawn(), made, part="test")
    with pytest.raises(ValueError, match="'only-new': .* it has only-cold, only-cold-test"):
        ask(protocol()._replace(candidates="only-new"))
    with pytest.raises(ValueError, match=r"item \d+ is relevant \(.* such\) and not in the set"):
        retrieval.evaluation(
            drawn(),
            retrieval.resident(data().split.cold, sets={"cold": sets[COLD_VALIDATION]}),
            protocol()._replace(candidates="only-cold"),
            "test",
        )
    with pytest.raises(ValueError, match="seen='zero', candidates='only-cold-test'"):
        ask(protocol()._replace(candidates="only-cold-test", seen="zero"))
    asked = protocol()._replace(candidates="only-else")
    measure = make_top_k(VECTORS, asked, num_items=24, history=made.history, k=3)
    queries = ask(protocol()._replace(candidates="all")).queries
    with pytest.raises(ValueError, match="the context has no such column"):
        jax.eval_shape(measure, drawn().variables, queries, made.columns)
    for mask, message in (
        (sets[COLD_TEST][1:], r"must be a mask \[25\]"),
        (np.zeros(25, bool), "0 of"),
        (np.ones(25, bool), "False for padding"),
        (sets[COLD_TEST].astype(int), "int64"),
    ):
        with pytest.raises(ValueError, match=message):
            retrieval.resident(data().split.cold, sets={"cold": mask})
    with pytest.raises(ValueError, match="there is no set 'warm'"):
        retrieval.resident(data().split.cold, sets={"cold": sets[COLD_TEST]}, shown=("warm",))


def test_users_without_training_are_ranked_by_their_content() -> None:
    """Held-out users have no factors; what a net makes of their content answers their queries."""
    split = hold_out_users(group_tastes(40, 4, 6, num_items=6), validation_users=6, test_users=8, seed=0)
    part = retrieval.resident(split)
    content = np.random.default_rng(0).normal(size=(part.num_users + 1, 3)).astype(np.float32)
    part = recipes.with_content(part, user_content=content)
    recipe = recipes.Recipe(teacher_dim=4, teacher_epochs=2, hidden_dim=5, dim=4)
    factors = recipes.teacher(part, recipe)
    assert not factors["user_factors"][1 + split.test.user].any()
    model = recipes.dropoutnet(part, recipe)
    inputs = [factors[name][:1] for name in ("user_factors", "item_factors", "user_content")]
    variables: Any = drawn_variables(model, *inputs, train=False)
    one = jax.tree.map(lambda leaf: leaf[None], variables)
    asked = Protocol(split=split.rule, ks=(5,), selection="none")
    found = retrieval.test(model, part, asked, one, columns=factors)
    users: Any = model.apply(
        variables, np.zeros((part.num_users + 1, 4), np.float32), content, method="users"
    )
    items: Any = model.apply(variables, factors["item_factors"], method="items")
    by_hand = Baseline("by hand", VECTORS, {"users": np.asarray(users)[1:], "items": np.asarray(items)})
    (expected,) = retrieval.test(by_hand, part, asked, by_hand.for_seeds((0,)))
    assert found[0] == pytest.approx(expected)
    with pytest.raises(ValueError, match=r"user_content: shape \(5, 3\)"):
        recipes.with_content(part, user_content=content[:5])


def test_seen_items_of_a_set_are_in_no_list() -> None:
    made, even = data().cold, np.arange(25) % 2 == 0
    even[0] = False
    asked = protocol()._replace(candidates="only-even")
    queries = retrieval.evaluation(drawn(), made, asked._replace(candidates="all"), "test").queries
    one, context = jax.tree.map(jnp.asarray, (dict(drawn().variables), {**made.columns, "only-even": even}))
    options: Any = {"num_items": 24, "history": made.history, "k": 24, "num_relevant": 6}
    lists = Lists.from_values(make_top_k(VECTORS, asked, **options)(one, queries, context)[0])
    for ids, user, real in zip(lists.ids[0], queries["user"][0], queries["mask"][0], strict=True):
        if real:
            length = made.split.train_length[user]
            seen = set(made.split.sequences.user_items(int(user))[:length].tolist())
            assert set(ids.tolist()) - {0} == set(range(2, 25, 2)) - seen
