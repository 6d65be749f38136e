"""The best items by a protocol against a slow twin that sorts all items of each query."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from jaxrec import metrics
from jaxrec.index.rank import make_rank
from jaxrec.index.top_k import Lists, make_top_k
from jaxrec.types import Protocol, Retriever, Scorer

NUM_ITEMS, NUM_USERS, EVENTS, DIM = 17, 6, 6, 2
RETRIEVER = Retriever(
    query=lambda variables, queries, context: variables["users"][queries["user"]],
    items=lambda variables: variables["items"],
)
SCORER = Scorer(
    lambda variables, queries, context: variables["users"][queries["user"]] @ variables["items"].T
)


def variables(extra: int = 0) -> dict[str, np.ndarray]:
    """Small whole numbers, so that products are exact and many scores tie."""
    rng = np.random.default_rng(0)
    shapes = {"users": (NUM_USERS, DIM), "items": (NUM_ITEMS + 1 + extra, DIM)}
    return {name: rng.integers(-2, 3, shape).astype(np.float32) for name, shape in shapes.items()}


CONTEXT = {
    "items": np.random.default_rng(1).integers(1, 8, NUM_USERS * EVENTS).astype(np.int32),
    "start": EVENTS * np.arange(NUM_USERS, dtype=np.int32),
}


def queries(*, several: bool = False) -> dict[str, np.ndarray]:
    """Two batches of four, of which six are real; with `several`, all events from the target on count."""
    length = np.array([3, 0, 1, 2, 3, 5])
    target = CONTEXT["items"].reshape(NUM_USERS, EVENTS)[np.arange(6), length]
    columns = {"user": np.arange(6), "length": length, "target": target}
    if several:
        columns["num_relevant"] = EVENTS - length
    padded = {name: np.pad(column.astype(np.int32), (0, 2)).reshape(2, 4) for name, column in columns.items()}
    return padded | {"mask": (np.arange(8) < 6).reshape(2, 4)}


def measured(
    protocol: Protocol, k: int, found: Any, *, model: Any = RETRIEVER, several: bool = False, block: int = 5
) -> Lists:
    """Of the six real queries."""
    measure = make_top_k(
        model, protocol, num_items=NUM_ITEMS, history=5, k=k, num_relevant=EVENTS, block=block
    )
    values, bad = jax.jit(measure)(found, queries(several=several), CONTEXT)
    assert int(bad.sum()) == 0
    return Lists.from_values(np.asarray(values)[queries()["mask"]])


def twin(protocol: Protocol, k: int, found: Any, *, several: bool) -> list[tuple[list[int], list[int], int]]:
    """ids, hits and the number of relevant items of each real query, by sorting all items."""
    result = []
    for user in range(NUM_USERS):
        events = CONTEXT["items"].reshape(NUM_USERS, EVENTS)[user].tolist()
        length = int(queries()["length"].ravel()[user])
        relevant = set(events[length:] if several else events[length : length + 1])
        scores = found["items"] @ found["users"][user]
        kept = [i for i in range(1, NUM_ITEMS + 1) if protocol.seen == "keep" or i not in events[:length]]
        sign = 1 if protocol.ties == "pessimistic" else -1
        best = sorted(kept, key=lambda i: (-scores[i], sign * (i in relevant), i))[:k]
        pad = [0] * (k - len(best))
        result.append((best + pad, [int(i in relevant) for i in best] + pad, len(relevant)))
    return result


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("ties", ["pessimistic", "optimistic"])
@pytest.mark.parametrize("seen", ["exclude", "keep"])
def test_lists_are_those_of_a_sort(seen: str, ties: str, several: bool) -> None:
    protocol, found = Protocol(seen=seen, ties=ties), variables(extra=2)
    for k in (4, NUM_ITEMS + 3):  # more than there are items: the list ends in 0
        ours = measured(protocol, k, found, several=several)
        expected = twin(protocol, k, found, several=several)
        assert ours.ids.tolist() == [ids for ids, _, _ in expected]
        assert ours.hits.tolist() == [hits for _, hits, _ in expected]
        assert ours.num_relevant.tolist() == [number for _, _, number in expected]


@pytest.mark.parametrize(("model", "block"), [(RETRIEVER, 1), (RETRIEVER, 16384), (SCORER, 5)])
def test_neither_blocks_nor_the_form_of_a_model_change_anything(model: Any, block: int) -> None:
    found, protocol = variables(), Protocol()
    usual = measured(protocol, 4, found, several=True).as_values()
    ours = measured(protocol, 4, found, model=model, block=block, several=True).as_values()
    np.testing.assert_array_equal(ours, usual)


@pytest.mark.parametrize("ties", ["pessimistic", "optimistic"])
@pytest.mark.parametrize("seen", ["exclude", "keep"])
def test_the_target_is_among_the_first_k_where_its_rank_is(seen: str, ties: str) -> None:
    protocol, found = Protocol(seen=seen, ties=ties), variables()
    rank = make_rank(RETRIEVER, protocol, num_items=NUM_ITEMS, history=5)
    ranks = np.asarray(jax.jit(rank)(found, queries(), CONTEXT)[0])[queries()["mask"]]
    lists = measured(protocol, NUM_ITEMS, found)
    np.testing.assert_array_equal(lists.rank, ranks)
    for k in range(1, NUM_ITEMS + 1):
        np.testing.assert_array_equal(lists.hits[:, :k].any(axis=1), ranks <= k)


def test_constant_scores_find_nothing() -> None:
    flat = {name: np.ones_like(array) for name, array in variables().items()}
    lists = measured(Protocol(seen="keep"), 10, flat, several=True)
    assert not lists.hits.any()
    assert (lists.ids > 0).all()


def test_who_has_seen_all_items_gets_an_empty_list() -> None:
    """One item, which is also the target."""
    context = {"items": np.ones(4, np.int32), "start": np.zeros(1, np.int32)}
    asked = {"user": [[0]], "length": [[3]], "target": [[1]], "mask": [[True]]}
    asked = {name: np.array(column) for name, column in asked.items()}
    model = Retriever(lambda v, q, c: v["users"][q["user"]], lambda v: v["items"])
    tables = {"users": np.ones((1, 2), np.float32), "items": np.ones((2, 2), np.float32)}
    for seen, ids in (("exclude", [0, 0]), ("keep", [1, 0])):
        measure = jax.jit(make_top_k(model, Protocol(seen=seen), num_items=1, history=3, k=2))
        values, bad = measure(tables, asked, context)
        lists = Lists.from_values(np.asarray(values)[0, 0])
        assert lists.ids.tolist() == ids and int(bad.sum()) == 0
        assert (int(lists.rank), lists.hits.tolist()) == (
            (metrics.MISS, [0, 0]) if seen == "exclude" else (1, [1, 0])
        )


@pytest.mark.parametrize("wrong", [0, EVENTS + 1])
def test_a_number_of_relevant_events_that_is_none_is_reported(wrong: int) -> None:
    asked = queries(several=True)
    asked["num_relevant"][0, 2] = wrong
    measure = jax.jit(
        make_top_k(RETRIEVER, Protocol(), num_items=NUM_ITEMS, history=5, k=3, num_relevant=EVENTS)
    )
    assert np.asarray(measure(variables(), asked, CONTEXT)[1]).tolist() == [1, 0]


def test_a_score_that_is_no_number_is_reported() -> None:
    found = variables()
    found["users"][3] = np.nan
    measure = jax.jit(make_top_k(RETRIEVER, Protocol(), num_items=NUM_ITEMS, history=5, k=3))
    assert np.asarray(measure(found, queries(), CONTEXT)[1]).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("protocol", "sizes", "message"),
    [
        (Protocol(), {"k": 0}, "k=0: must be at least 1"),
        (Protocol(), {"k": 1, "num_relevant": 0}, "num_relevant=0: must be at least 1"),
        (Protocol(candidates="sampled-5"), {"k": 1}, "lists are of all items"),
        (Protocol(seen="zero"), {"k": 1}, "rank with 'exclude' or 'keep'"),
        (Protocol(seen="drop"), {"k": 1}, "protocol.seen='drop'"),
    ],
)
def test_what_has_no_lists_is_refused(protocol: Protocol, sizes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_top_k(RETRIEVER, protocol, num_items=NUM_ITEMS, history=5, **sizes)
