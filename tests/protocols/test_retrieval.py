"""Interaction matrices: metrics of sets of relevant items by a slow twin, and what a protocol reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrec import baselines
from jaxrec.data.events.held_out import Candidates, HeldOut, from_parts, hold_out_validation
from jaxrec.nn.retrieval.mf import MF
from jaxrec.protocols import Beyond, retrieval
from jaxrec.train.epoch import shuffled
from jaxrec.types import Array, Context, Protocol, Retriever, Scorer, Task, Variables

NUM_USERS, NUM_ITEMS = 9, 17
ALL = Protocol(split="toy", ks=(1, 3, 20), selection="none")


def matrix(held_out: int = 3) -> HeldOut:
    rng = np.random.default_rng(7)
    parts: list[list[list[int]]] = [[[], []], [[], []], [[], []]]
    for user in range(NUM_USERS):
        items = rng.permutation(NUM_ITEMS) + 1
        ends = np.cumsum([rng.integers(1, 8), 0, 1 + user % held_out])
        for part, chosen in enumerate(np.split(items, ends)[:3]):
            parts[part][0] += [user] * len(chosen)
            parts[part][1] += chosen.tolist()
    columns = tuple((np.array(user, np.int64), np.array(item, np.int64)) for user, item in parts)
    return from_parts(
        "toy",
        columns,  # type: ignore[arg-type]
        num_items=NUM_ITEMS,
        rule="toy",
        user_ids=np.arange(100, 100 + NUM_USERS),
        item_ids=np.arange(NUM_ITEMS),
    )


def query(variables: Variables, queries: Mapping[str, Array], context: Context) -> Array:
    return jnp.asarray(variables["users"])[queries["user"]]


VECTORS = Retriever(query, lambda variables: variables["items"])
SCORES = Scorer(lambda variables, queries, context: query(variables, queries, context) @ variables["items"].T)


def drawn(seeds: int = 2, *, ties: bool = False) -> dict[str, Array]:
    key = jax.random.key(0)
    users = jax.random.normal(key, (seeds, NUM_USERS, 4))
    items = jax.random.normal(jax.random.fold_in(key, 1), (seeds, NUM_ITEMS + 1, 4))
    if ties:
        users, items = jnp.round(users), jnp.round(items)
    return {"users": users, "items": items}


def by_hand(split: HeldOut, scores: np.ndarray, k: int) -> dict[str, float]:
    """Means over users of metrics of the ranked list; among equal scores relevant items come last."""
    found: dict[str, list[float]] = {name: [] for name in retrieval.LIST_METRICS}
    relevant, offsets = split.relevant(split.test)
    for row, (user, length, number) in enumerate(zip(*split.test, strict=True)):
        seen = split.sequences.user_items(int(user))[:length]
        wanted = set(relevant[offsets[row] : offsets[row + 1]].tolist())
        others = [i for i in range(1, NUM_ITEMS + 1) if i not in seen]
        others.sort(key=lambda i: (-scores[user, i], i in wanted, i))
        hits = np.array([i in wanted for i in others[:k]], float)
        gains = 1 / np.log2(2 + np.arange(max(k, len(wanted))))
        ideal = gains[: min(k, number)].sum()
        found["recall"].append(hits.sum() / number)
        found["recall_capped"].append(hits.sum() / min(k, number))
        found["precision"].append(hits.sum() / k)
        found["hit"].append(float(hits.any()))
        found["ndcg"].append((hits * gains[: len(hits)]).sum() / ideal)
        precision = np.cumsum(hits) / (1 + np.arange(len(hits)))
        found["map"].append((precision * hits).sum() / min(k, number))
    return {f"{name}@{k}": float(np.mean(values)) for name, values in found.items()}


@pytest.mark.parametrize("model", [VECTORS, SCORES], ids=["vectors", "scores"])
@pytest.mark.parametrize("ties", [False, True])
def test_metrics_are_those_of_sorted_lists(model: Any, ties: bool) -> None:
    data, variables = retrieval.resident(matrix()), drawn(ties=ties)
    tested = retrieval.run_test(model, data, ALL, variables)
    for seed, found in enumerate(tested.metrics):
        scores = np.asarray(variables["users"][seed] @ variables["items"][seed].T)
        for k in ALL.ks:
            for name, value in by_hand(data.split, scores, k).items():
                assert found[name] == pytest.approx(value, abs=1e-6), name
    kept: Any = tested.values
    assert sorted(kept.group) == list(range(100, 100 + NUM_USERS))
    np.testing.assert_allclose(kept.sums["recall@3"].mean(axis=1), [of["recall@3"] for of in tested.metrics])


def test_lists_are_also_measured_by_what_they_show() -> None:
    data, variables = retrieval.resident(matrix()), drawn(1)
    plain = retrieval.run_test(VECTORS, data, ALL, variables)
    found = retrieval.run_test(VECTORS, data, ALL, variables, beyond=Beyond(ks=(3,)))
    split, shown, popular = data.split, [], []
    count = np.bincount(split.sequences.items[split.in_training], minlength=NUM_ITEMS + 1)
    scores = np.asarray(variables["users"][0] @ variables["items"][0].T)
    for user, length, _ in zip(*split.test, strict=True):
        seen = split.sequences.user_items(int(user))[:length]
        others = sorted((i for i in range(1, NUM_ITEMS + 1) if i not in seen), key=lambda i: -scores[user, i])
        shown += others[:3]
        popular.append(np.mean(count[others[:3]]) / NUM_USERS)
    metrics = found.metrics[0]
    assert metrics["coverage@3"] == pytest.approx(len(set(shown)) / NUM_ITEMS)
    assert metrics["popularity@3"] == pytest.approx(np.mean(popular), rel=1e-5)
    assert plain.metrics[0].items() <= metrics.items()
    assert not [name for name in metrics if name.startswith("share/")]
    assert found.values is not None and plain.values is not None
    np.testing.assert_array_equal(found.values.group, plain.values.group)  # type: ignore[union-attr]


def test_blocks_of_items_change_nothing() -> None:
    data, variables = retrieval.resident(matrix()), drawn(ties=True)
    whole = retrieval.evaluation(VECTORS, data, ALL, "test")
    parts = retrieval.evaluation(VECTORS, data, ALL, "test", block=5)
    one = jax.tree.map(lambda leaf: leaf[0], variables)
    for left, right in zip(
        jax.jit(whole.measure)(one, whole.queries, data.columns),
        jax.jit(parts.measure)(one, parts.queries, data.columns),
        strict=True,
    ):
        np.testing.assert_array_equal(left, right)


def test_batches_are_in_the_order_of_the_lengths_of_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "EVALUATION_BATCH", 4)
    data = retrieval.resident(matrix())
    asked = retrieval.evaluation(VECTORS, data, ALL, "test")
    length = asked.queries["length"].reshape(-1)[:NUM_USERS]
    assert asked.queries["mask"].shape == (3, 4)
    assert (np.diff(length) >= 0).all()
    small = retrieval.run_test(VECTORS, data, ALL, drawn())
    monkeypatch.undo()
    whole = retrieval.test(VECTORS, data, ALL, drawn())
    for of_small, of_whole in zip(small.metrics, whole, strict=True):
        assert of_small == pytest.approx(of_whole)


def test_candidates_of_the_data_are_ranked_and_none_is_none() -> None:
    split = matrix(held_out=1)
    given = np.zeros((NUM_USERS, 3), np.int32)
    for row, (user, length, _) in enumerate(zip(*split.test, strict=True)):
        rest = np.setdiff1d(np.arange(1, NUM_ITEMS + 1), split.sequences.user_items(int(user))[: length + 1])
        given[row, : row % 4] = rest[: row % 4]
    data = retrieval.resident(dataclasses.replace(split, candidates=Candidates(test=given)))
    variables = drawn(1)
    asked = ALL._replace(candidates="given-3")
    (found,) = retrieval.test(VECTORS, data, asked, variables)
    scores = np.asarray(variables["users"][0] @ variables["items"][0].T)
    target, _ = split.relevant(split.test)
    above = [
        sum(scores[u, i] >= scores[u, t] for i in row if i)
        for u, t, row in zip(split.test.user, target, given, strict=True)
    ]
    assert found["hit@1"] == pytest.approx(np.mean(np.array(above) == 0))
    assert found["mrr"] == pytest.approx(np.mean(1 / (1 + np.array(above))))
    with pytest.raises(ValueError, match="gives 3 candidates for each query of test"):
        retrieval.evaluation(VECTORS, data, ALL._replace(candidates="given-99"), "test")


def test_a_part_without_candidates_of_its_own_has_drawn_ones_as_many_as_the_other_is_given() -> None:
    split = hold_out_validation(matrix(held_out=1), share=0.2, least="one")
    given = np.zeros((NUM_USERS, 3), np.int32)
    data = retrieval.resident(dataclasses.replace(split, candidates=Candidates(test=given)))
    asked = retrieval.evaluation(VECTORS, data, ALL._replace(candidates="given-3"), "validation")
    drawn_ones = retrieval.evaluation(VECTORS, data, ALL._replace(candidates="sampled-3"), "validation")
    np.testing.assert_array_equal(asked.queries["candidates"], drawn_ones.queries["candidates"])
    assert (asked.queries["candidates"] > 0).all()


def test_sampled_candidates_are_unseen_and_not_the_target() -> None:
    data = retrieval.resident(hold_out_validation(matrix(held_out=1), share=0.2, least="one"))
    asked = retrieval.evaluation(VECTORS, data, ALL._replace(candidates="sampled-50"), "validation")
    queries, sequences = asked.queries, data.split.sequences
    for user, length, target, drawn_ids in zip(
        *(queries[name][0] for name in ("user", "length", "target", "candidates")), strict=True
    ):
        ids = set(drawn_ids.tolist())
        assert not ids & {int(target), *sequences.user_items(int(user))[:length].tolist()}


@pytest.mark.parametrize(
    ("protocol", "part", "message"),
    [
        (ALL, "validation", "the validation part has no query"),
        (ALL._replace(candidates="sampled-5"), "test", "a query has several relevant items"),
    ],
)
def test_what_a_split_can_not_answer_is_refused(protocol: Protocol, part: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        retrieval.evaluation(VECTORS, retrieval.resident(matrix()), protocol, part)


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ("given-5", "gives no candidates; sample them with 'sampled-5'"),
        ("some", "expected 'all', or 'sampled-99'"),
    ],
)
def test_candidates_that_do_not_exist_are_refused(candidates: str, message: str) -> None:
    data = retrieval.resident(matrix(held_out=1))
    with pytest.raises(ValueError, match=message):
        retrieval.evaluation(VECTORS, data, ALL._replace(candidates=candidates), "test")


def test_scores_that_are_not_finite_are_an_error() -> None:
    variables = drawn(1)
    variables["users"] = variables["users"].at[0, 3].set(jnp.nan)
    with pytest.raises(ValueError, match="NaN or infinite"):
        retrieval.test(VECTORS, retrieval.resident(matrix()), ALL, variables)


def test_baselines_count_training_alone() -> None:
    split = matrix()
    found = baselines.popularity(retrieval.resident(split)).variables["count"]
    np.testing.assert_array_equal(found, np.bincount(split.sequences.items[split.in_training], minlength=18))


def toy_task() -> Task:
    """Vectors of users and items, pulled together for each pair."""

    def init(key: Any, batch: Any) -> Any:
        users = jax.random.normal(key, (NUM_USERS, 4))
        return {"params": {"users": users, "items": jax.random.normal(key, (NUM_ITEMS + 1, 4))}}

    def losses(variables: Any, batch: Any, key: Any, axis_name: Any = None) -> Any:
        params = variables["params"]
        score = (params["users"][batch["user"]] * params["items"][batch["item"]]).sum(axis=-1)
        return {"pairs": jnp.mean(jax.nn.softplus(-score) * batch["mask"])}, {}

    def prepare(key: Any, examples: Any, context: Any) -> Any:
        pair = examples["example"]
        return {
            "user": context["pair_user"][pair],
            "item": context["pair_item"][pair],
            "mask": examples["mask"],
        }

    return Task(prepare, init, losses, lambda variables, batch: batch)


PARAMS = Retriever(
    lambda variables, queries, context: query(variables["params"], queries, context),
    lambda variables: variables["params"]["items"],
)


def test_the_last_epoch_is_kept_where_there_is_no_validation_part(tmp_path: Any) -> None:
    data = retrieval.resident(matrix())
    asked = ALL._replace(selection=retrieval.LAST_EPOCH)
    plan = shuffled(len(data.columns["pair_user"]), 8)
    options: Any = {"epochs": 3, "seeds": (0, 1), "description": {}}
    fitted = retrieval.train(
        toy_task(), plan, PARAMS, data, asked, optax.adam(0.1), every=2, workdir=tmp_path / "a", **options
    )
    assert fitted.best_epoch == [2, 2]
    last = retrieval.test(PARAMS, data, asked, fitted.variables)
    assert [of["ndcg@20"] for of in last] == pytest.approx(fitted.best_value)
    assert [sorted(name for name in entry if name == "valid/ndcg@20") for entry in fitted.history] == [
        [], ["valid/ndcg@20"], ["valid/ndcg@20"]
    ]  # fmt: skip
    with pytest.raises(ValueError, match="patience=1: nothing is selected"):
        retrieval.train(
            toy_task(),
            plan,
            PARAMS,
            data,
            asked,
            optax.adam(0.1),
            patience=1,
            workdir=tmp_path / "b",
            **options,
        )


def test_a_model_of_pairs_is_ranked_by_its_final_vectors() -> None:
    data, model = retrieval.resident(matrix()), MF(NUM_USERS, NUM_ITEMS, dim=4, item_bias=True)
    one = jnp.ones((1,), jnp.int32)
    keys = jax.vmap(jax.random.key)(jnp.arange(2))
    variables = jax.vmap(lambda key: model.init(key, one, one[:, None], data.columns, train=False))(keys)
    bias = jax.random.normal(keys[0], (2, NUM_ITEMS + 1, 1))
    variables["params"]["item_bias"] = bias
    users = np.asarray(variables["params"]["user_embedding"])[:, 1:]
    scores = np.einsum("sud,sid->sui", users, variables["params"]["item_embedding"]) + bias[:, None, :, 0]
    for seed, found in enumerate(retrieval.test(model, data, ALL, variables)):
        for k in ALL.ks:
            for name, value in by_hand(data.split, scores[seed], k).items():
                assert found[name] == pytest.approx(value, abs=1e-6), name
