"""Ranks by counting against a slow twin that sorts nothing and blocks nothing."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import metrics
from jaxrec.index.rank import make_rank
from jaxrec.train.evaluate import ranking_means
from jaxrec.types import Protocol, Retriever, Scorer

NUM_ITEMS, NUM_USERS, DIM = 17, 6, 2
RETRIEVER = Retriever(
    query=lambda variables, queries, context: variables["users"][queries["user"]],
    items=lambda variables: variables["items"],
)

SCORER = Scorer(
    lambda variables, queries, context: variables["users"][queries["user"]] @ variables["items"].T
)
either = pytest.mark.parametrize("model", [RETRIEVER, SCORER], ids=["vectors", "scores"])


def variables(extra: int = 0) -> dict[str, np.ndarray]:
    """Small whole numbers, so that products are exact and many scores tie."""
    rng = np.random.default_rng(0)
    items = rng.integers(-2, 3, (NUM_ITEMS + 1 + extra, DIM))
    items[0] = 1
    return {
        "users": rng.integers(-2, 3, (NUM_USERS, DIM)).astype(np.float32),
        "items": items.astype(np.float32),
    }


def context() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        "items": rng.integers(1, NUM_ITEMS + 1, 30).astype(np.int32),
        "start": 5 * np.arange(NUM_USERS, dtype=np.int32),
    }


def queries() -> dict[str, np.ndarray]:
    """Two batches of four, of which six are real; user 4's target is also in the history."""
    target = context()["items"].reshape(NUM_USERS, 5)[:, 3].copy()
    target[4] = context()["items"][20]
    columns = {"user": np.arange(6), "length": np.array([3, 0, 1, 2, 3, 3]), "target": target}
    padded = {name: np.pad(column.astype(np.int32), (0, 2)).reshape(2, 4) for name, column in columns.items()}
    return padded | {"mask": (np.arange(8) < 6).reshape(2, 4)}


def seen_before(user: int) -> bool:
    """Whether the target of a user is in the input."""
    length, target = queries()["length"].ravel()[user], queries()["target"].ravel()[user]
    return bool(np.isin(target, context()["items"][5 * user : 5 * user + length]))


def twin(protocol: Protocol, found: dict[str, np.ndarray]) -> list[int]:
    """The rank of each real query, by the words of the protocol."""
    ranks = []
    q = {name: column.ravel() for name, column in queries().items()}
    for user, length, target in zip(q["user"][:6], q["length"], q["target"], strict=False):
        scores = found["items"] @ found["users"][user]
        history = context()["items"][5 * user : 5 * user + length]
        candidates = list(range(len(scores))) if protocol.seen == "zero" else list(range(1, NUM_ITEMS + 1))
        if protocol.seen == "zero":
            scores[history] = 0
        if protocol.seen == "exclude":
            candidates = [i for i in candidates if i not in history]
        if target not in candidates:
            ranks.append(metrics.MISS)
            continue
        rank = 1
        for i in candidates:
            if i != target:
                rank += scores[i] > scores[target] or (
                    protocol.ties == "pessimistic" and scores[i] == scores[target]
                )
        ranks.append(rank)
    return ranks


def ranks_of(
    protocol: Protocol, found: Any, block: int = 16384, model: Retriever | Scorer = RETRIEVER
) -> list[int]:
    rank = make_rank(model, protocol, num_items=NUM_ITEMS, history=3, block=block)
    ranks, bad = jax.jit(rank)(found, queries(), context())
    assert int(bad.sum()) == 0
    return np.asarray(ranks)[queries()["mask"]].tolist()


@pytest.mark.parametrize("block", [16384, 5, 1])
@pytest.mark.parametrize("ties", ["pessimistic", "optimistic"])
@pytest.mark.parametrize("seen", ["exclude", "zero", "keep"])
def test_ranks_follow_the_protocol_whatever_the_block(seen: str, ties: str, block: int) -> None:
    protocol = Protocol(seen=seen, ties=ties)
    found = variables(extra=1)
    ranks = ranks_of(protocol, found, block)
    assert ranks == twin(protocol, found)
    assert [rank == metrics.MISS for rank in ranks] == [
        seen == "exclude" and seen_before(user) for user in range(6)
    ]
    if block == 16384:
        assert ranks_of(protocol, found, model=SCORER) == ranks


@either
@pytest.mark.parametrize("block", [16384, 5])
def test_queries_of_a_large_batch_rank_as_in_a_small_one(model: Retriever | Scorer, block: int) -> None:
    """Of 48 queries a CPU ranks 16 at a time; no two parts hold the same queries."""
    found, few = variables(), queries()
    many = {name: np.repeat(column.reshape(1, -1), 6, axis=1) for name, column in few.items()}
    rank = jax.jit(make_rank(model, Protocol(), num_items=NUM_ITEMS, history=3, block=block))
    (ranks, bad), (expected, _) = rank(found, many, context()), rank(found, few, context())
    assert int(bad.sum()) == 0
    np.testing.assert_array_equal(ranks, np.repeat(np.reshape(expected, (1, -1)), 6, axis=1))


@either
def test_padding_and_rows_past_the_items_are_no_candidates(model: Retriever | Scorer) -> None:
    found = variables(extra=2)
    found["items"][[0, -1, -2]] = 100 * np.sign(found["users"].sum(axis=0))
    for seen in ("exclude", "keep"):
        plain = {
            **found,
            "items": np.where(np.arange(NUM_ITEMS + 3)[:, None] % (NUM_ITEMS + 1) > 0, found["items"], 0),
        }
        ranks = ranks_of(Protocol(seen=seen), found, model=model)
        assert ranks == ranks_of(Protocol(seen=seen), plain, model=model)


@either
def test_constant_scores_rank_the_target_last(model: Retriever | Scorer) -> None:
    flat = {
        "users": np.ones((NUM_USERS, DIM), np.float32),
        "items": np.ones((NUM_ITEMS + 1, DIM), np.float32),
    }
    assert ranks_of(Protocol(seen="keep"), flat, 4, model) == [NUM_ITEMS] * 6
    assert ranks_of(Protocol(seen="keep", ties="optimistic"), flat, 4, model) == [1] * 6


def test_blocks_of_items_tie_to_the_bit() -> None:
    rng = np.random.default_rng(2)
    found = {"users": rng.normal(size=(NUM_USERS, 33)), "items": rng.normal(size=(NUM_ITEMS + 1, 33))}
    found = {name: column.astype(np.float32) for name, column in found.items()}
    found["items"][1:] = found["items"][1]  # equal rows, in different blocks
    for block in (3, 5, 16384):
        assert ranks_of(Protocol(seen="keep"), found, block) == [NUM_ITEMS] * 6
        assert ranks_of(Protocol(seen="keep", ties="optimistic"), found, block) == [1] * 6


@pytest.mark.parametrize(("model", "block"), [(RETRIEVER, 16384), (RETRIEVER, 4), (SCORER, 16384)])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_reported_for_real_queries(
    value: float, model: Retriever | Scorer, block: int
) -> None:
    found = variables()
    found["users"][3] = value
    rank = jax.jit(make_rank(model, Protocol(), num_items=NUM_ITEMS, history=3, block=block))
    assert np.asarray(rank(found, queries(), context())[1]).tolist() == [1, 0]
    found = variables()
    found["items"][9] = value
    assert int(rank(found, queries(), context())[1].sum()) >= 1
    padded = variables() | {"users": variables()["users"]}
    only = queries() | {"mask": queries()["user"] == 3}
    padded["users"][0] = value  # user 0 is not asked for
    assert np.asarray(rank(padded, only, context())[1]).tolist() == [0, 0]


@either
def test_sampled_candidates_are_ranked_among_themselves(model: Retriever | Scorer) -> None:
    found, rng = variables(), np.random.default_rng(3)
    asked = queries()
    candidates = rng.integers(1, NUM_ITEMS, (2, 4, 5))
    candidates += candidates >= asked["target"][..., None]
    for ties in ("pessimistic", "optimistic"):
        protocol = Protocol(candidates="sampled-5", ties=ties)
        rank = make_rank(model, protocol, num_items=NUM_ITEMS, history=3)
        ranks, bad = jax.jit(rank)(found, {**asked, "candidates": candidates}, context())
        scores = np.einsum("ud,bncd->ubnc", found["users"], found["items"][candidates])
        for at in zip(*np.nonzero(asked["mask"]), strict=True):
            user = asked["user"][at]
            own = found["users"][user] @ found["items"][asked["target"][at]]
            others = scores[user][at]
            place = 1 + int((others > own).sum() + (ties == "pessimistic") * (others == own).sum())
            assert ranks[at] == (metrics.MISS if seen_before(user) else place)
        assert int(bad.sum()) == 0


def test_candidates_are_scored_alone_by_a_model_that_can() -> None:
    """Scores of all items, which are not finite here, are not read."""

    def some(v: Any, queries: Any, context: Any, ids: Any) -> Any:
        return jnp.einsum("bd,bnd->bn", v["users"][queries["user"]], v["items"][ids])

    model = Scorer(lambda v, queries, context: jnp.full((4, NUM_ITEMS + 1), jnp.nan), some)
    asked, rng = queries(), np.random.default_rng(3)
    candidates = rng.integers(1, NUM_ITEMS, (2, 4, 5))
    candidates += candidates >= asked["target"][..., None]
    ranks = []
    for one in (model, SCORER):
        rank = jax.jit(make_rank(one, Protocol(candidates="sampled-5"), num_items=NUM_ITEMS, history=3))
        found, bad = rank(variables(), {**asked, "candidates": candidates}, context())
        assert int(bad.sum()) == 0
        ranks.append(np.asarray(found)[asked["mask"]].tolist())
    assert ranks[0] == ranks[1]


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("seen", ["exclude", "zero", "keep"])
def test_the_rule_for_seen_items_holds_for_a_target_among_sampled_candidates(seen: str, dense: bool) -> None:
    """Vectors of one number: item i scores i, and the user has met items 9 and 3 before 9 comes again."""
    table = np.arange(NUM_ITEMS + 1, dtype=np.float32)[:, None]
    vectors = Retriever(lambda v, queries, context: jnp.ones((1, 1)), lambda v: v["items"])
    one = Scorer(lambda v, queries, context: v["items"].T) if dense else vectors
    asked = {name: np.array([[value]]) for name, value in {"user": 0, "length": 2, "target": 9}.items()}
    asked |= {"mask": np.ones((1, 1), bool), "candidates": np.array([[[3, 8, 11]]])}
    events = {"items": np.array([9, 3, 9]), "start": np.array([0])}
    rank = jax.jit(
        make_rank(one, Protocol(seen=seen, candidates="sampled-3"), num_items=NUM_ITEMS, history=2)
    )
    expected = {"exclude": metrics.MISS, "zero": 4, "keep": 2}  # zero: 9 and 3 score 0, a tie
    assert int(rank({"items": table}, asked, events)[0][0, 0]) == expected[seen]


@pytest.mark.parametrize("block", [16384, 5])
def test_who_scores_what_was_seen_earns_nothing_by_targets_that_come_again(block: int) -> None:
    """Six users take items 1, 2, 3 and then 3 again: who remembers the history knows all targets."""

    def history(variables: Any, queries: Any, context: Any) -> Any:
        return jax.nn.one_hot(jnp.array([1, 2, 3]), NUM_ITEMS + 1).sum(axis=0) * jnp.ones((3, 1))

    remembers = Retriever(history, lambda variables: jnp.eye(NUM_ITEMS + 1))
    asked = {"user": np.arange(6), "length": np.full(6, 3), "target": np.full(6, 3), "mask": np.ones(6, bool)}
    batches = {name: column.reshape(2, 3) for name, column in asked.items()}
    events = {"items": np.tile([1, 2, 3, 3], 6), "start": 4 * np.arange(6)}
    found = {}
    for seen in ("exclude", "keep"):
        rank = jax.jit(make_rank(remembers, Protocol(seen=seen), num_items=NUM_ITEMS, history=3, block=block))
        found[seen] = ranking_means(np.asarray(rank({}, batches, events)[0]), batches["mask"], (1, 3, 10**6))
    assert found["exclude"] == {**dict.fromkeys(found["keep"], 0.0), "seen_targets": 1.0}
    assert found["keep"]["hit@3"] == 1.0 and "seen_targets" not in found["keep"]


@pytest.mark.parametrize("candidates", ["all", "sampled-2"])
@pytest.mark.parametrize("seen", ["exclude", "zero", "keep"])
@pytest.mark.parametrize(
    ("changed", "value"),
    [
        ("target", 0),
        ("target", -1),
        ("target", NUM_ITEMS + 1),
        ("target", 99),
        ("user", -1),
        ("user", NUM_USERS),
        ("length", -1),
        ("length", 31),
    ],
)
def test_a_query_with_an_id_of_none_has_no_rank(changed: str, value: int, seen: str, candidates: str) -> None:
    """Scores are all negative, so that a target without one would be the best item by its zero."""
    low = {
        "users": np.ones((NUM_USERS, DIM), np.float32),
        "items": -np.ones((NUM_ITEMS + 3, DIM), np.float32),
    }
    asked = {**queries(), "candidates": np.full((2, 4, 2), 16)}
    asked[changed][0, 2] = value
    protocol = Protocol(seen=seen, candidates=candidates)
    for model, block in ((RETRIEVER, 16384), (RETRIEVER, 5), (SCORER, 16384)):
        rank = jax.jit(make_rank(model, protocol, num_items=NUM_ITEMS, history=3, block=block))
        ranks, bad = rank(low, asked, context())
        assert (int(ranks[0, 2]), bad.tolist()) == (metrics.MISS, [1, 0])


@either
@pytest.mark.parametrize("value", [0, -1, NUM_ITEMS + 1, 99])
def test_a_sampled_candidate_that_is_no_item_is_reported(value: int, model: Retriever | Scorer) -> None:
    asked = {**queries(), "candidates": np.full((2, 4, 2), 16)}
    asked["candidates"][1, 0, 1] = value
    rank = jax.jit(make_rank(model, Protocol(candidates="sampled-2"), num_items=NUM_ITEMS, history=3))
    assert rank(variables(extra=1), asked, context())[1].tolist() == [0, 1]


def test_an_input_longer_than_the_history_that_is_read_is_reported() -> None:
    rank = jax.jit(make_rank(RETRIEVER, Protocol(), num_items=NUM_ITEMS, history=2))
    longer = (queries()["length"] > 2) & queries()["mask"]
    assert rank(variables(), queries(), context())[1].tolist() == longer.sum(axis=1).tolist() == [1, 2]
    kept = jax.jit(make_rank(RETRIEVER, Protocol(seen="keep"), num_items=NUM_ITEMS, history=2))
    assert kept(variables(), queries(), context())[1].tolist() == [0, 0]


@either
def test_a_model_with_fewer_items_than_the_data_is_refused(model: Retriever | Scorer) -> None:
    rank = jax.jit(make_rank(model, Protocol(), num_items=NUM_ITEMS + 1, history=3))
    with pytest.raises(
        ValueError, match=r"num_items=18: the model's item table has 18 rows.*build the model"
    ):
        rank(variables(), queries(), context())


@pytest.mark.parametrize("changes", [{"seen": "drop"}, {"ties": "average"}])
def test_rules_that_do_not_exist_are_errors(changes: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=f"protocol.{next(iter(changes))}="):
        make_rank(RETRIEVER, Protocol(**changes), num_items=NUM_ITEMS, history=3)
