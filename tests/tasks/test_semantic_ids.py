"""The loss of codes by its formula, histories, and search: likelihoods are those of teacher forcing."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.data.events.split import leave_one_out
from jaxrec.data.synthetic.sequences import markov_chain
from jaxrec.index import semantic_ids as index
from jaxrec.nn.retrieval.tiger import TIGER
from jaxrec.packing import Packing
from jaxrec.protocols import next_item
from jaxrec.tasks import semantic_ids as task
from jaxrec.train.evaluate import evaluate
from jaxrec.types import Array, Protocol
from tests.lowering import repeated_float_adds
from tests.tasks import small

K, LEVELS, L = 6, 2, 4
IDS = index.build(np.random.default_rng(0).integers(0, K, (small.NUM_ITEMS, LEVELS)), num_codes=K)
MODEL = TIGER(K, LEVELS + 1, 8, 2, 3, 12, num_layers=1, max_len=L, num_users=3, dropout=0.1)
CUTS = [(0, 1), (4, 9), (4, 1), (10, 3), (1, 5), (7, 2), (8, 4), (6, 1)]  # (user, events before the target)


@functools.cache
def columns() -> dict[str, Any]:
    return {name: jnp.asarray(column) for name, column in small.columns().items()} | {task.COLUMN: IDS}


@functools.cache
def batch() -> Any:
    events = [int(columns()["start"][user]) + cut for user, cut in CUTS]
    examples = {"example": jnp.array(events, jnp.int32), "mask": jnp.arange(8) < 7}
    return jax.jit(task.semantic_ids(MODEL).prepare)(jax.random.key(0), examples, columns())


@functools.cache
def variables() -> Any:
    return jax.jit(task.semantic_ids(MODEL).init)(jax.random.key(0), batch())


@functools.cache
def likelihoods() -> np.ndarray:
    """Of all items after each history, [8, items]."""
    every = jnp.broadcast_to(jnp.asarray(IDS.codes)[1:], (8, small.NUM_ITEMS, LEVELS + 1))
    return np.asarray(jax.jit(lambda v, b: task.log_likelihood(MODEL, v, b, every))(variables(), batch()))


@functools.cache
def searched(width: int) -> Any:
    found = jax.jit(lambda v, b, ids: task.search(MODEL, v, b, ids, k=width, width=width))
    return found(variables(), batch(), IDS)


def test_histories_are_the_last_events_before_the_target_oldest_first() -> None:
    for row, (user, cut) in enumerate(CUTS[:7]):
        events = small.split().sequences.user_items(user)
        read = events[:cut][-L:]
        codes = np.asarray(IDS.codes)[read]
        np.testing.assert_array_equal(batch()["codes"][row, : len(read)], codes)
        assert batch()["mask"][row].tolist() == [slot < len(read) for slot in range(L)]
        assert batch()["users"][row] == user + 1
        np.testing.assert_array_equal(batch()["targets"][row], IDS.codes[events[cut]])
    assert not batch()["real"][7] and not batch()["mask"][7].any()


@pytest.mark.parametrize("axis", [None, "devices"])
def test_the_loss_is_the_mean_cross_entropy_of_codes_on_any_devices(axis: str | None) -> None:
    quiet, held = task.semantic_ids(MODEL.clone(dropout=0.0)), variables()

    def share(part: Any) -> Array:
        found: Array = quiet.losses(held, part, jax.random.key(1), axis)[0]["codes"]
        return found

    if axis is None:
        found = jax.jit(share)(batch())
    else:
        halves = jax.tree.map(lambda column: column.reshape(2, 4, *column.shape[1:]), batch())
        found = jax.jit(jax.vmap(share, axis_name=axis))(halves).sum()
    own = task.log_likelihood(MODEL, variables(), batch(), batch()["targets"][:, None])[:7, 0]
    assert float(found) == pytest.approx(-float(own.mean()) / (LEVELS + 1), rel=1e-5)


def test_twenty_steps_lower_the_loss() -> None:
    made, part = task.semantic_ids(MODEL), batch()

    def total(params: Any) -> Any:
        return made.losses({"params": params}, part, jax.random.key(0))[0]["codes"]

    @jax.jit
    def learned(params: Any) -> Any:
        def step(params: Any, _: None) -> Any:
            value, gradient = jax.value_and_grad(total)(params)
            return jax.tree.map(lambda p, g: p - 0.05 * g, params, gradient), value

        return jax.lax.scan(step, params, None, length=20)[1]

    values = learned(variables()["params"])
    assert np.isfinite(values).all() and values[-1] < values[0]


def test_a_beam_of_all_items_finds_them_in_the_order_of_their_likelihoods() -> None:
    found = searched(small.NUM_ITEMS)
    by_id = np.take_along_axis(likelihoods(), np.asarray(found.ids) - 1, axis=1)
    np.testing.assert_allclose(found.scores, by_id, atol=1e-5)
    for row in found.ids.tolist():
        assert sorted(row) == list(range(1, small.NUM_ITEMS + 1))
    assert (np.diff(found.scores, axis=1) <= 0).all() and found.finite.all()


def test_scores_of_a_beam_are_likelihoods_and_all_others_are_last() -> None:
    queries = {
        "user": jnp.array([4, 10]), "length": jnp.array([9, 3]), "mask": jnp.ones(2, bool),
    }  # fmt: skip
    scores = np.asarray(jax.jit(task.scorer(MODEL, width=5).scores)(variables(), queries, columns()))
    assert scores.shape == (2, small.NUM_ITEMS + 1)
    for row, same in enumerate((1, 3)):  # rows of the batch with these histories
        listed = np.flatnonzero(scores[row] > -1e29)
        assert sorted(listed) == sorted(np.asarray(searched(5).ids)[same].tolist())
        np.testing.assert_allclose(scores[row, listed], likelihoods()[same, listed - 1], atol=1e-5)


def test_a_step_adds_no_floats_at_repeated_ids_on_gpus() -> None:
    made = task.semantic_ids(MODEL)

    def step(params: Any, part: Any) -> Any:
        return jax.grad(lambda p: made.losses({"params": p}, part, jax.random.key(0))[0]["codes"])(params)

    assert repeated_float_adds(jax.jit(step).trace(variables()["params"], batch()), "cuda") == []


def test_no_search_closes_over_the_trie() -> None:
    def run(held: Any, context: Any) -> Any:
        queries = {"user": jnp.array([4]), "length": jnp.array([9]), "mask": jnp.ones(1, bool)}
        return task.scorer(MODEL, width=5).scores(held, queries, context)

    constants = [np.shape(constant) for constant in jax.make_jaxpr(run)(variables(), columns()).consts]
    assert not {np.shape(leaf) for leaf in jax.tree.leaves(IDS)} & set(constants)


class Oracle:
    """Names the code of the item after the last one of the history, as a cycle of items has it."""

    max_len, num_users = 3, 0

    def __init__(self, ids: index.SemanticIds, following: np.ndarray) -> None:
        self.ids, self.following = ids, jnp.asarray(following)

    def init(self, *args: Any, **options: Any) -> Any:
        return {"params": {}}

    def apply(self, variables: Any, *args: Any, method: str = "", **options: Any) -> Any:
        if method == "no_past":
            return (jnp.zeros((args[0], 1)),)
        if method == "encode":
            codes, mask, _ = args
            last = jnp.take_along_axis(codes, (mask.sum(axis=1) - 1)[:, None, None], axis=1)[:, 0]
            return self.following[index.items_of(self.ids, last)]
        target, past, codes, level = args
        code = jnp.asarray(self.ids.codes)[target, level]
        beams = 1 if codes is None else codes.shape[1]
        one = 20.0 * jax.nn.one_hot(code, self.ids.num_codes)
        return jnp.broadcast_to(one[:, None], (len(code), beams, self.ids.num_codes)), past


def ranked(seen: str, wrong: int = 0) -> Any:
    """What an oracle scores that names the right item, or the one `wrong` further on."""
    data = next_item.resident(leave_one_out(markov_chain(30, 12, noise=0.0, min_length=5).sequences))
    split = data.split
    following = np.zeros(13, np.int64)
    events = split.sequences.items
    for start, end in zip(split.sequences.offsets[:-1], split.sequences.offsets[1:], strict=True):
        following[events[start : end - 1]] = events[start + 1 : end]
    ids = index.build(np.zeros((12, 2), int), num_codes=12)  # all collide: the last digit alone tells
    data = data._replace(columns={**data.columns, task.COLUMN: ids})
    oracle: Any = Oracle(ids, (following - 1 + wrong) % 12 + 1)
    protocol = Protocol(seen=seen, ks=(1, 3), selection="none")
    asked = next_item.evaluation(task.scorer(oracle, width=3), data, protocol, "test")
    return evaluate(asked, {"params": {"none": jnp.zeros(1)}}, data.columns)[0]


def test_an_oracle_hits_and_another_item_of_the_same_codes_does_not() -> None:
    """Metrics count items: all items here have the same learned codes."""
    assert ranked("keep")["hit@1"] == 1.0
    assert ranked("keep", wrong=1)["hit@1"] == 0.0


def test_an_item_outside_the_beam_is_a_miss() -> None:
    """The oracle's beam of 3 has its own choice, and the two first of the rest, which are ties."""
    assert ranked("keep", wrong=5)["hit@3"] < 0.5


# --- packed rows -------------------------------------------------------------------------------------

PACKED = Packing(4, 20)  # two histories a row


def packed_batch(number: int = 8, packing: Packing = PACKED, model: TIGER = MODEL) -> Any:
    events = [int(columns()["start"][user]) + cut for user, cut in CUTS]
    examples = {"example": jnp.array(events, jnp.int32), "mask": jnp.arange(8) < number}
    prepare = jax.jit(task.semantic_ids(model, packing).prepare)
    return prepare(jax.random.key(0), examples, columns())


@pytest.mark.parametrize("num_users", [0, 3])
def test_packed_rows_hold_the_codes_of_each_history_behind_its_user(num_users: int) -> None:
    """By a loop over the histories of the unpacked batch."""
    made = packed_batch(7, model=MODEL.clone(num_users=num_users))
    front = int(num_users > 0)
    assert (
        made["fits"].all() and made["codes"].shape == PACKED and made["targets"].shape == (4, 2, LEVELS + 1)
    )
    found = set()
    for row, each in itertools.product(range(4), range(2)):
        if not made["real"][row, each]:
            continue
        at = np.flatnonzero(made["segments"][row] == each + 1)
        assert (np.diff(at) == 1).all()
        codes = (made["codes"][row, at[front:]] % K).reshape(-1, LEVELS + 1)
        levels = (made["codes"][row, at[front:]] // K).reshape(-1, LEVELS + 1)
        users = made["users"][row, at]
        assert (users[front:] == 0).all() and (levels == np.arange(LEVELS + 1)).all()
        same = [
            number
            for number in range(7)
            if np.array_equal(batch()["codes"][number][batch()["mask"][number]], codes)
            and np.array_equal(batch()["targets"][number], made["targets"][row, each])
            and (not front or batch()["users"][number] == users[0])
        ]
        assert len(same) >= 1
        found.add(tuple(codes.reshape(-1).tolist()) + tuple(made["targets"][row, each].tolist()))
    assert int(made["real"].sum()) == 7 and len(found) == 7


@pytest.mark.parametrize("num_users", [0, 3])
def test_packed_rows_have_the_loss_and_the_gradient_of_padded_ones(num_users: int) -> None:
    quiet = MODEL.clone(dropout=0.0, num_users=num_users)
    events = jnp.array([int(columns()["start"][user]) + cut for user, cut in CUTS], jnp.int32)

    def made(packing: Packing | None) -> Any:
        own = task.semantic_ids(quiet, packing)

        def loss(params: Any, mask: Array) -> Any:
            part = own.prepare(jax.random.key(0), {"example": events, "mask": mask}, columns())
            return own.losses({"params": params}, part, jax.random.key(1))[0]["codes"]

        return jax.jit(jax.value_and_grad(loss))

    params = drawn_for(num_users)["params"]
    padded, *others = (made(packing) for packing in (None, PACKED, Packing(3, 30)))
    for number in (8, 7, 1):
        expected = padded(params, jnp.arange(8) < number)
        assert float(expected[0]) > 0
        for packed in others:  # of two histories, and of three, of which one row has two
            found = packed(params, jnp.arange(8) < number)
            jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), found, expected)


@functools.cache
def drawn_for(num_users: int) -> Any:
    model = MODEL.clone(num_users=num_users)
    return jax.jit(task.semantic_ids(model).init)(jax.random.key(0), batch())


def test_both_forms_draw_the_same_parameters() -> None:
    made = jax.jit(task.semantic_ids(MODEL, PACKED).init)(jax.random.key(0), packed_batch())
    jax.tree.map(np.testing.assert_array_equal, made, variables())


def test_a_batch_that_does_not_fit_has_no_loss() -> None:
    narrow = Packing(4, 16)  # a history of 4 items and a user's token has 13 tokens, the shortest one 4
    made = task.semantic_ids(MODEL, narrow)
    part = packed_batch(packing=narrow)
    assert not part["fits"].any()
    assert np.isnan(made.losses(variables(), part, jax.random.key(0))[0]["codes"])


def test_packed_losses_of_devices_add_up() -> None:
    made, part = task.semantic_ids(MODEL, PACKED), packed_batch(7)
    whole = made.losses(variables(), part, jax.random.key(1))[0]["codes"]
    halves = jax.tree.map(lambda column: column.reshape(2, 2, *column.shape[1:]), part)

    def share(part: Any) -> Array:
        found: Array = made.losses(variables(), part, jax.random.key(1), "devices")[0]["codes"]
        return found

    found = jax.jit(jax.vmap(share, axis_name="devices"))(halves).sum()
    assert float(found) == pytest.approx(float(whole), rel=1e-5)


def test_a_packed_step_adds_no_floats_at_repeated_ids_on_gpus() -> None:
    made = task.semantic_ids(MODEL, PACKED)

    def step(params: Any, part: Any) -> Any:
        return jax.grad(lambda p: made.losses({"params": p}, part, jax.random.key(0))[0]["codes"])(params)

    assert repeated_float_adds(jax.jit(step).trace(variables()["params"], packed_batch()), "cuda") == []
