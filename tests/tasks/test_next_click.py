"""Batches of prefixes against a loop over raw sessions; the same states, losses and ranks by other ways."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from jaxrec.data.events.sessions import Sessions, SessionSplit, split_sessions
from jaxrec.data.sources.session_logs import arrays_from_lists
from jaxrec.index.rank import make_rank
from jaxrec.nn.sequential.hstu import HSTU
from jaxrec.nn.sequential.stamp import STAMP
from jaxrec.tasks import next_click as session
from jaxrec.tasks import next_item, objectives
from jaxrec.tasks.profile import profile
from jaxrec.types import Protocol, Task, Variables
from tests.tasks import small

MAX_LEN = 4
ROWS = [[1, 2, 3, 1, 4, 5], [6, 6], [5, 4, 3], [2, 9, 2, 9], [7, 1], [8, 3, 8]]
TEST = [([9, 2, 9, 2, 3], 8), ([9], 10), ([4, 5], 1)]  # item 10 occurs here only; the first exceeds MAX_LEN
NUM_ITEMS = 10
MODEL = STAMP(NUM_ITEMS, 6, max_len=MAX_LEN, max_norm=0.9)
BATCH = 8


@functools.cache
def split() -> SessionSplit:
    lists = arrays_from_lists(ROWS, ([prefix for prefix, _ in TEST], [target for _, target in TEST]), "made")
    return split_sessions(Sessions.from_arrays("made", **lists), share=0.3)


def session_of(row: int) -> list[int]:
    return split().items[split().offsets[row] : split().offsets[row + 1]].tolist()


@functools.cache
def variables() -> Variables:
    items = np.ones((1, MAX_LEN), np.int32)
    shapes = jax.eval_shape(lambda: MODEL.init(jax.random.key(0), items))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes)


def test_an_encoder_that_reads_times_is_refused() -> None:
    fields: dict[str, Any] = {"dim": 4, "num_layers": 1, "max_len": MAX_LEN}
    with pytest.raises(ValueError, match="next_click: the encoder reads times"):
        session.next_click(HSTU(NUM_ITEMS, **fields), objectives.full_softmax(4))
    with pytest.raises(ValueError, match="profile: the encoder reads times"):
        profile(HSTU(NUM_ITEMS, **fields), token=NUM_ITEMS + 1)
    session.next_click(HSTU(NUM_ITEMS, time_bias=False, **fields), objectives.full_softmax(4))


EXAMPLES = np.array([3, 0, 5, 2, 4, 1, 3, 2], np.int32)  # numbers of training examples
MASK = np.array([True] * 6 + [False] * 2)
TASK = session.next_click(MODEL, objectives.full_softmax(4), last_only=True)


@functools.cache
def batch() -> dict[str, np.ndarray]:
    columns = {name: jnp.asarray(column) for name, column in split().columns().items()}
    found = jax.jit(TASK.prepare)(jax.random.key(0), {"example": EXAMPLES, "mask": MASK}, columns)
    return {name: np.asarray(column) for name, column in found.items()}


@functools.cache
def states() -> np.ndarray:
    """What the model says after each prefix of the batch."""
    return np.asarray(jax.jit(TASK.predict)(variables(), batch()), np.float64)


@jax.jit
@jax.value_and_grad
def learn(variables: Variables) -> jax.Array:
    """Loss and gradient on the batch."""
    return TASK.losses(variables, batch(), jax.random.key(1))[0]["next_click"]


@functools.cache
def loss_and_gradient() -> tuple[float, Any]:
    value, gradient = learn(variables())
    return float(value), gradient


@functools.cache
def ranks_of_test() -> Any:
    """Ranks of the test prefixes as a function of the variables, and the queries."""
    protocol = Protocol(seen="keep", selection="none")
    rank = make_rank(
        session.retriever(MODEL, last_only=True), protocol, num_items=NUM_ITEMS, history=1, block=4
    )
    queries = split().batched("test", 2)
    run = jax.jit(rank)
    return lambda variables: run(variables, queries, split().columns()), queries


def test_a_batch_holds_prefixes_and_what_came_next() -> None:
    asked = split().queries("train")
    assert max(asked.length) > MAX_LEN or max(split().lengths) > MAX_LEN + 1  # something is cut off
    for i, (example, real) in enumerate(zip(EXAMPLES, MASK, strict=True)):
        clicks = session_of(int(asked.user[example]))
        k = int(asked.length[example]) if real else 0
        prefix = clicks[:k][-MAX_LEN:]
        assert batch()["items"][i].tolist() == [0] * (MAX_LEN - len(prefix)) + prefix
        assert batch()["targets"][i] == (clicks[k] if real else 0)


def test_every_example_of_an_epoch_is_a_prefix_of_a_training_session() -> None:
    columns = {name: jnp.asarray(column) for name, column in split().columns().items()}
    every = np.arange(split().num_examples, dtype=np.int32)
    rows = {"example": every, "mask": np.ones(len(every), bool)}
    found = jax.jit(TASK.prepare)(jax.random.key(0), rows, columns)
    got = sorted(zip(np.asarray(found["items"]).tolist(), np.asarray(found["targets"]).tolist(), strict=True))
    want = []
    for row in range(split().num_train):
        clicks = session_of(row)
        for k in range(1, len(clicks)):
            prefix = clicks[:k][-MAX_LEN:]
            want.append(([0] * (MAX_LEN - len(prefix)) + prefix, clicks[k]))
    assert got == sorted(want)


def test_the_loss_is_the_mean_over_real_examples() -> None:
    scores = states() @ np.asarray(variables()["params"]["item_embedding"], np.float64).T
    each = -log_softmax(scores[:, 1:], axis=1)[np.arange(BATCH), np.maximum(batch()["targets"], 1) - 1]
    np.testing.assert_allclose(loss_and_gradient()[0], each[MASK].mean(), rtol=1e-5)


def test_a_batch_that_is_not_full_weighs_as_many_prefixes_as_it_has() -> None:
    """6 of 8 prefixes are real; the two halves of the batch, of two devices, have 4 and 2 of them."""
    task = session.next_click(MODEL, objectives.full_softmax(4), last_only=True, batch_size=BATCH)

    def share(batch: Any) -> jax.Array:
        return task.losses(variables(), batch, jax.random.key(1), "devices")[0]["next_click"]

    halves = jax.tree.map(lambda x: x.reshape(2, -1, *x.shape[1:]), batch())
    shares = jax.jit(jax.vmap(share, axis_name="devices"))(halves)
    np.testing.assert_allclose(shares.sum(), loss_and_gradient()[0] * 6 / 8, rtol=1e-5)


def test_the_last_slot_alone_is_the_last_of_all_slots() -> None:
    whole = session.next_click(MODEL, objectives.full_softmax(4))
    np.testing.assert_allclose(states(), jax.jit(whole.predict)(variables(), batch()), rtol=1e-4, atol=1e-5)
    items = batch()["items"]
    assert not items[-1].any() and np.isfinite(states()).all()  # a row of padding


def test_shares_of_devices_add_up() -> None:
    """Of devices that hold different numbers of real examples."""
    halves = jax.tree.map(lambda column: column.reshape(2, BATCH // 2, *column.shape[1:]), batch())

    def share(part: dict[str, jax.Array]) -> jax.Array:
        return TASK.losses(variables(), part, jax.random.key(1), "devices")[0]["next_click"]

    shares = jax.jit(jax.vmap(share, axis_name="devices"))(halves)
    np.testing.assert_allclose(shares.sum(), loss_and_gradient()[0], rtol=1e-5)


def test_dropout_derives_from_the_key_and_only_in_training() -> None:
    model = small.Averager(dropout=0.5)
    task = session.next_click(model, objectives.full_softmax(8))
    weights = small.variables_of(model)

    @jax.jit
    def losses(keys: jax.Array) -> jax.Array:
        return jax.vmap(lambda key: task.losses(weights, batch(), key)[0]["next_click"])(keys)

    first, again, other = losses(jax.random.wrap_key_data(jnp.array([[0, 1], [0, 1], [0, 2]], jnp.uint32)))
    assert first == again and first != other
    still = session.next_click(small.Averager(), objectives.full_softmax(8))
    np.testing.assert_array_equal(*(jax.jit(t.predict)(weights, batch()) for t in (task, still)))


def test_padding_learns_nothing() -> None:
    assert not np.asarray(loss_and_gradient()[1]["params"]["item_embedding"])[0].any()


def test_prefixes_and_whole_sessions_have_one_mean_loss() -> None:
    """All examples at once, each way: the model reads every click, so the two are the same sum."""
    long = MODEL.clone(max_len=8)
    objective = objectives.full_softmax(4)
    columns = {name: jnp.asarray(column) for name, column in split().columns().items()}
    found = []
    for task, count in (
        (session.next_click(long, objective), split().num_examples),
        (next_item.next_item(long, objective), split().num_train),
    ):
        rows = {"example": np.arange(count, dtype=np.int32), "mask": np.ones(count, bool)}

        @jax.jit
        def mean_loss(rows: dict[str, jax.Array], task: Task = task) -> jax.Array:
            made = task.prepare(jax.random.key(0), rows, columns)
            (value,) = task.losses(variables(), made, jax.random.key(0))[0].values()
            return value

        found.append(float(mean_loss(rows)))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)


def test_the_printed_objective_of_stamp() -> None:
    """Against its definition on the states of the batch (`tests/test_losses_sessions.py` has the loss)."""
    task = session.next_click(MODEL, session.sigmoid_softmax(4), last_only=True)
    value = jax.jit(lambda v, b: task.losses(v, b, jax.random.key(1))[0]["next_click"])(variables(), batch())
    table = np.asarray(variables()["params"]["item_embedding"], np.float64)
    y = np.exp(1 / (1 + np.exp(-states()[MASK] @ table[1:].T)))
    y /= y.sum(axis=1, keepdims=True)
    hot = np.eye(NUM_ITEMS)[batch()["targets"][MASK] - 1]
    want = -(hot * np.log(y) + (1 - hot) * np.log(1 - y)).sum(axis=1).mean()
    np.testing.assert_allclose(value, want, rtol=1e-5)


def test_ranks_of_test_prefixes_against_a_loop() -> None:
    """All items are candidates, those of the prefix and those of test sessions only; ties count against."""
    rank, queries = ranks_of_test()
    ranks, bad = rank(variables())
    assert not np.asarray(bad).any()
    table = np.asarray(variables()["params"]["item_embedding"])
    apply = jax.jit(MODEL.apply)
    for found, (prefix, target) in zip(np.asarray(ranks)[queries["mask"]], TEST, strict=True):
        items = np.array([[0] * (MAX_LEN - len(prefix[-MAX_LEN:])) + prefix[-MAX_LEN:]], np.int32)
        scores = np.asarray(apply(variables(), items))[0, -1] @ table[1:].T
        others = np.delete(scores, target - 1)
        assert found == 1 + (others >= scores[target - 1]).sum()


def test_a_model_that_says_nothing_ranks_the_target_last() -> None:
    rank, queries = ranks_of_test()
    ranks, _ = rank(jax.tree.map(jnp.zeros_like, variables()))
    assert set(np.asarray(ranks)[queries["mask"]].tolist()) == {NUM_ITEMS}


def test_training_lowers_the_loss() -> None:
    """Plain descent on one batch."""
    now, values = variables(), []
    for _ in range(20):
        value, gradient = learn(now)
        now = jax.tree.map(lambda p, g: p - 0.1 * g, now, gradient)
        values.append(float(value))
    assert values[-1] < 0.7 * values[0]


def test_a_window_of_nothing_is_refused() -> None:
    task = session.next_click(MODEL.clone(max_len=0), objectives.full_softmax(4))
    with pytest.raises(ValueError, match="max_len=0"):
        task.init(jax.random.key(0), {"items": np.ones((1, 1), np.int32)})
