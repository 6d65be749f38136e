"""Items and actions in turn: batches against a loop over raw events, losses against NumPy, and learning."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import log_softmax

from jaxrec import packing
from jaxrec.data.events.batching import batched_queries, next_item_columns
from jaxrec.data.events.split import leave_one_out
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.index.rank import make_rank
from jaxrec.nn.sequential.hstu_generative import GenerativeHSTU
from jaxrec.packing import Packing
from jaxrec.tasks.generative import (
    action_score,
    after_history,
    generative,
    next_positive,
    retriever,
    windows,
)
from jaxrec.tasks.objectives import uniform_softmax
from jaxrec.train.evaluate import ranking_means
from jaxrec.types import Batch, Protocol, Variables
from tests.nn.drawn import drawn
from tests.tasks.small import MAX_LEN, NUM_ITEMS, columns, split, training_events

MODEL: Any = GenerativeHSTU(
    NUM_ITEMS, 3, dim=6, num_layers=1, num_heads=1, key_dim=4, value_dim=4, max_len=MAX_LEN, head_dim=8,
    dropout=0.0, linear_dropout=0.0,
)  # fmt: skip
PACKED = Packing(5, 8)
USERS = np.array([4, 0, 7, 1, 2, 3, 5, 8], np.int32)
MASK = np.array([True] * 7 + [False])
POSITIVE = (2, 3)
OBJECTIVE = uniform_softmax(NUM_ITEMS, 4, temperature=0.5)


def context() -> dict[str, np.ndarray]:
    """The columns with an action for each event, 1 + item mod 3; that of the very first is not known."""
    found = columns()
    actions = (1 + found["items"] % 3).astype(np.int32)
    actions[found["start"][0]] = 0
    return found | {"actions": actions}


def events_of(index: int) -> tuple[list[int], list[int]]:
    """Items and actions that one example of the batch reads."""
    user = int(USERS[index])
    events = training_events(user) if MASK[index] else []
    first = split().sequences.offsets[user]
    return events[-MAX_LEN:], context()["actions"][first : first + len(events)].tolist()[-MAX_LEN:]


@functools.cache
def prepared(packed: Packing | None) -> dict[str, np.ndarray]:
    rows: dict[str, Any] = {"example": USERS, "mask": MASK}
    if packed is not None:
        lengths = np.array([len(events_of(i)[0]) for i in range(len(USERS))])
        placement = packing.place(jnp.asarray(lengths), rows=packed.rows, width=packed.width)
        rows |= {"row": np.asarray(placement.row), "slot": np.asarray(placement.slot)}
    task = generative(MODEL, OBJECTIVE, positive=POSITIVE, packed=packed)
    batch = jax.jit(task.prepare)(jax.random.key(0), rows, context())
    return {name: np.asarray(column) for name, column in batch.items()}


@pytest.mark.parametrize("packed", [PACKED, None], ids=["packed", "padded"])
def test_every_training_event_is_read_with_its_action_and_target(packed: Packing | None) -> None:
    batch = prepared(packed)
    assert len(np.unique(batch["segments"])) > 4
    for index in range(len(USERS)):
        mine = batch["segments"] == index + 1
        items, actions = events_of(index)
        assert batch["items"][mine].tolist() == items
        assert batch["actions"][mine].tolist() == actions
        following = list(zip(actions, items[1:], actions[1:], strict=False))
        targets = [item if now and then in POSITIVE else 0 for now, item, then in following]
        assert batch["targets"][mine].tolist() == [*targets, 0][: len(items)]
    assert not batch["targets"][batch["segments"] == 0].any()


def test_times_are_read_by_a_model_that_says_so() -> None:
    silent = MODEL.clone(time_bias=False)
    task = generative(silent, OBJECTIVE, positive=POSITIVE)
    rows = {"example": USERS, "mask": MASK}
    batch = jax.eval_shape(task.prepare, jax.random.key(0), rows, context())
    assert "times" in prepared(None) and "times" not in batch


TASK = generative(MODEL, OBJECTIVE, positive=POSITIVE)
VARIABLES = drawn(MODEL, np.ones((1, MAX_LEN), np.int32), np.ones((1, MAX_LEN), np.int32))


@jax.jit
def losses_of(variables: Variables, batch: Batch) -> Any:
    def total(variables: Variables) -> Any:
        found, _ = TASK.losses(variables, batch, jax.random.key(0))
        return found["retrieval"] + found["ranking"], found

    (_, found), gradient = jax.value_and_grad(total, has_aux=True)(variables)
    return found, gradient, TASK.predict(variables, batch)


def test_losses_are_cross_entropies_of_actions_and_of_positive_items() -> None:
    batch = prepared(PACKED)
    found, _, outputs = losses_of(VARIABLES, batch)
    known = batch["actions"] > 0
    log_prob = log_softmax(np.asarray(outputs["action"])[known], axis=-1)
    expected = -np.mean(log_prob[np.arange(known.sum()), batch["actions"][known] - 1])
    assert float(found["ranking"]) == pytest.approx(expected, rel=1e-5)
    table = np.asarray(MODEL.apply(VARIABLES, method="item_table"))
    terms = []
    for at in zip(*np.nonzero(batch["targets"]), strict=True):
        target, samples = batch["targets"][at], batch["samples"][at]
        ids = np.array([target, *samples[samples != target]])
        terms.append(-log_softmax(table[ids] @ np.asarray(outputs["hidden"])[at] / 0.5)[0])
    assert float(found["retrieval"]) == pytest.approx(np.mean(terms), rel=1e-5)


def test_packed_rows_give_the_losses_of_padded_ones() -> None:
    packed, padded = prepared(PACKED), dict(prepared(None))
    padded["samples"] = np.ones_like(padded["samples"])
    for segment in np.unique(packed["segments"])[1:]:
        mine = packed["segments"] == segment
        padded["samples"][padded["segments"] == segment] = packed["samples"][mine]
    found, expected = losses_of(VARIABLES, packed)[0], losses_of(VARIABLES, padded)[0]
    for name, value in found.items():
        assert float(value) == pytest.approx(float(expected[name]), rel=1e-5)


def test_both_losses_fall() -> None:
    """Each item's action follows from the item, which its position sees."""
    tx = optax.adam(0.03)
    batch, variables = prepared(PACKED), VARIABLES
    state, update = tx.init(variables), jax.jit(tx.update)
    before = losses_of(variables, batch)[0]
    for _ in range(40):
        _, gradient, _ = losses_of(variables, batch)
        change, state = update(gradient, state)
        variables = jax.jit(optax.apply_updates)(variables, change)
    after = losses_of(variables, batch)[0]
    assert {name: float(after[name]) < 0.5 * float(before[name]) for name in after} == {
        "retrieval": True,
        "ranking": True,
    }


def test_an_empty_batch_has_losses_of_zero() -> None:
    empty = {name: np.zeros_like(column) for name, column in prepared(PACKED).items()}
    found, gradient, _ = losses_of(VARIABLES, {**empty, "samples": prepared(PACKED)["samples"]})
    assert {name: float(value) for name, value in found.items()} == {"retrieval": 0.0, "ranking": 0.0}
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient))


def test_targets_stay_within_a_user() -> None:
    items, actions = np.array([[5, 6, 7, 8]]), np.array([[1, 2, 2, 2]])
    segments = np.array([[1, 1, 2, 2]])
    assert next_positive(items, actions, (2,), segments).tolist() == [[6, 0, 8, 0]]


@pytest.mark.parametrize("positive", [(), (0,), (3, 4), (4, 5)])
def test_positive_actions_are_those_of_the_model(positive: tuple[int, ...]) -> None:
    """Of actions 1..3; a class that never comes would make the loss of retrieval 0."""
    with pytest.raises(ValueError, match=r"name at least one action, each in 1\.\.3 \(num_actions\)"):
        generative(MODEL, OBJECTIVE, positive=positive)


def test_one_event_a_row_has_no_next_item() -> None:
    with pytest.raises(ValueError, match="max_len=1: must be at least 2"):
        generative(MODEL.clone(max_len=1), OBJECTIVE, positive=POSITIVE)


# --- retrieval as full ranking sees it ---


def placed(lengths: np.ndarray, packed: Packing | None) -> dict[str, np.ndarray]:
    if packed is None:
        return {}
    placement = packing.place(jnp.asarray(lengths), rows=packed.rows, width=packed.width)
    return {"row": np.asarray(placement.row), "slot": np.asarray(placement.slot)}


@pytest.mark.parametrize("packed", [PACKED, None], ids=["packed", "padded"])
def test_a_query_is_the_state_of_training_at_its_last_event(packed: Packing | None) -> None:
    """A row of training holds the query of each of its prefixes: same items, actions, times, and the time of
    the next event. The last event's own query is asked for at its target's time."""
    user = next(u for u in USERS.tolist() if len(training_events(u)) == MAX_LEN)
    lengths = np.arange(1, MAX_LEN, dtype=np.int32)
    queries = {"user": np.full(MAX_LEN - 1, user, np.int32), "length": lengths, "mask": lengths > 0}
    query = jax.jit(retriever(MODEL, packed).query)
    found = np.asarray(query(VARIABLES, {**queries, **placed(lengths, packed)}, context()))
    hidden = np.asarray(jax.jit(TASK.predict)(VARIABLES, prepared(None))["hidden"])
    np.testing.assert_allclose(found, hidden[USERS.tolist().index(user), :-1], rtol=1e-5, atol=1e-6)
    later = {**context(), "seconds": context()["seconds"].copy()}
    later["seconds"][later["start"][user] + 3] += 10**7  # the target of the third query
    moved = np.asarray(query(VARIABLES, {**queries, **placed(lengths, packed)}, later))
    assert (np.abs(moved - found).max(axis=-1) > 1e-4).tolist() == [False, False, True, True, True]


@pytest.mark.parametrize("packed", [PACKED, None], ids=["packed", "padded"])
def test_a_long_query_leaves_a_place_for_its_target(packed: Packing | None) -> None:
    """Of max_len + 1 events it reads the last max_len - 1: the state behind max_len events never trains."""
    user = next(u for u in USERS.tolist() if split().sequences.lengths[u] > MAX_LEN + 1)
    lengths = np.full(1, MAX_LEN + 1, np.int32)
    queries = {"user": np.full(1, user, np.int32), "length": lengths, "mask": np.ones(1, bool)}
    queries |= placed(np.minimum(lengths, MAX_LEN), packed)
    query, plain = jax.jit(retriever(MODEL, packed).query), context()
    before, changed = np.asarray(query(VARIABLES, queries, plain)), []
    for event in range(MAX_LEN + 1):
        items = plain["items"].copy()
        items[plain["start"][user] + event] = 1 + items[plain["start"][user] + event] % NUM_ITEMS
        after = np.asarray(query(VARIABLES, queries, {**plain, "items": items}))
        changed.append(bool((after != before).any()))
    assert changed == [False, False] + [True] * (MAX_LEN - 1)


def test_a_query_whose_action_is_not_known_is_zero() -> None:
    first = {"user": np.zeros(1, np.int32), "length": np.ones(1, np.int32), "mask": np.ones(1, bool)}
    assert not np.asarray(jax.jit(retriever(MODEL).query)(VARIABLES, first, context())).any()


# --- actions of many events in one pass ---


def scores_at(user: int, end: int, context: Any) -> np.ndarray:
    """Log-odds in the slots of one window of a user's first `end` events, [MAX_LEN]."""
    columns = {"user": np.array([user], np.int32), "end": np.array([end], np.int32), "mask": np.ones(1, bool)}
    return np.asarray(scored(columns, context))[0]


@jax.jit
def scored(columns: Batch, context: Any) -> Any:
    return action_score(MODEL, POSITIVE)(VARIABLES, windows(MODEL, columns, context))


def test_each_event_of_a_window_is_scored_as_if_it_were_the_candidate() -> None:
    """As an event at the end whose own action is not known: log-odds of the two positive actions."""
    user, plain = next(u for u in range(11) if split().sequences.lengths[u] == MAX_LEN - 1), context()
    whole = scores_at(user, MAX_LEN - 1, plain)
    assert whole[0] == pytest.approx(np.log(2), abs=1e-6)  # nothing in the slot: two of three equal actions
    apply = jax.jit(functools.partial(MODEL.apply, train=False))
    start = plain["start"][user]
    for end in range(1, MAX_LEN):
        cut = {name: plain[name][start : start + end].copy() for name in ("items", "actions", "seconds")}
        cut["actions"][-1] = 0
        items, actions, times = (
            np.pad(cut[name], (MAX_LEN - end, 0))[None] for name in ("items", "actions", "seconds")
        )
        odds = np.exp(np.asarray(apply(VARIABLES, items, actions, times=times)["action"])[0, -1])
        assert whole[end] == pytest.approx(np.log((odds[1] + odds[2]) / odds[0]), abs=1e-5)


def test_a_window_reads_the_last_events_before_its_end_alone() -> None:
    user, plain = next(u for u in range(11) if split().sequences.lengths[u] == 12), context()
    start = plain["start"][user]
    before = scores_at(user, 9, plain)
    for event, slot in ((2, None), (3, 0), (8, 5), (9, None)):  # events 3..8 stand in slots 0..5
        items = plain["items"].copy()
        items[start + event] = 1 + items[start + event] % NUM_ITEMS
        changed = scores_at(user, 9, {**plain, "items": items}) != before
        assert changed.any() == (slot is not None)
        assert slot is None or (changed[slot] and not changed[:slot].any())
        actions = plain["actions"].copy()
        actions[start + event] = 1 + actions[start + event] % 3
        changed = scores_at(user, 9, {**plain, "actions": actions}) != before
        assert not changed[: MAX_LEN if slot is None else slot + 1].any()


@pytest.mark.parametrize("positive", [(), (4,), (3, 4), (0, 1), (1, 2, 3)])
def test_some_actions_are_positive_and_others_not(positive: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"at least one of the actions 1\.\.3 \(num_actions\), and not all"):
        action_score(MODEL, positive)


@pytest.mark.long
def test_full_ranking_of_a_chain_of_items() -> None:
    """Items follow each other along a cycle of 12: trained, the model ranks most next ones first."""
    split = leave_one_out(markov_chain(96, 12, min_length=6, max_length=8, noise=0.0).sequences)
    found = next_item_columns(split)
    columns = {**found, "actions": (1 + found["items"] % 2).astype(np.int32)}
    model: Any = MODEL.clone(num_items=12, num_actions=2, dim=12, max_len=4)
    task = generative(model, uniform_softmax(12, 11, temperature=0.2), positive=(1, 2))
    rows = {"example": np.arange(96, dtype=np.int32), "mask": np.ones(96, bool)}
    batch = jax.jit(task.prepare)(jax.random.key(0), rows, columns)
    variables = jax.jit(task.init)(jax.random.key(0), batch)
    tx = optax.flatten(optax.adam(0.03))

    def step(carry: Any, key: Any) -> tuple[Any, None]:
        variables, state = carry
        gradient = jax.grad(lambda v: sum(task.losses(v, batch, key)[0].values()))(variables)
        change, state = tx.update(gradient, state)
        return (optax.apply_updates(variables, change), state), None

    train = jax.jit(lambda carry, keys: jax.lax.scan(step, carry, keys)[0][0])
    trained = train((variables, tx.init(variables)), jax.random.split(jax.random.key(0), 200))
    queries = batched_queries(split.test, 24)
    protocol = Protocol(seen="keep", ks=(1,))
    rank = jax.jit(make_rank(retriever(model), protocol, num_items=12, history=8))
    metrics = []
    for of in (variables, trained):
        ranks, bad = rank(of, queries, columns)
        assert not bad.any()
        metrics.append(ranking_means(np.asarray(ranks), queries["mask"], protocol.ks)["hit@1"])
    assert metrics[0] < 0.4 < 0.8 < metrics[1]


def test_a_candidate_stands_after_the_last_events_before_it() -> None:
    model = GenerativeHSTU(num_items=9, num_actions=2, dim=4, max_len=4)
    examples = {
        "item": jnp.array([9, 8, 7]),
        "start": jnp.array([0, 0, 5]),
        "end": jnp.array([5, 2, 5]),  # longer than the window, shorter, empty
        "time": jnp.array([90, 80, 70]),
    }
    shared = {
        "events": jnp.array([1, 2, 3, 4, 5, 6]),
        "actions": jnp.array([1, 2, 1, 2, 1, 2]),
        "times": jnp.array([10, 20, 30, 40, 50, 60]),
    }
    found = jax.jit(lambda e, s: after_history(model, e, s))(examples, shared)
    assert found["items"].tolist() == [[3, 4, 5, 9], [0, 1, 2, 8], [0, 0, 0, 7]]
    assert found["actions"].tolist() == [[1, 2, 1, 0], [0, 1, 2, 0], [0, 0, 0, 0]]
    assert found["times"].tolist() == [[30, 40, 50, 90], [0, 10, 20, 80], [0, 0, 0, 70]]
    assert "times" not in after_history(model.clone(time_bias=False), examples, shared)
